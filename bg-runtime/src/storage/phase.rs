//! The phases of a migration that two releases write through at the same time: who writes, who reads what, and the ways on
//! and back. One table; nothing else decides.
//!
//! What must stay true: at most two adjacent shapes are alive at once, every phase before [`Phase::Contract`] can be left
//! backwards without losing a write, and a phase moves only by compare-and-set with the epoch it was seen at.

use serde::Serialize;

/// Where a migration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(i16)]
pub enum Phase {
    /// Not begun: only the old shape exists.
    Idle = 0,
    /// The new shape exists, and the trigger fills it: it comes with the columns, so a release that is early loses nothing.
    /// From here the new columns can still be taken away.
    Expand = 1,
    /// Each release writes its own shape; the trigger keeps the other one true.
    Dual = 2,
    /// Rows from before the trigger are being filled.
    Backfill = 3,
    /// Every row is filled; both shapes are being compared.
    Validate = 4,
    /// The new shape is proven. Traffic may move to the release that needs it.
    ReadNew = 5,
    /// Writes of the old shape are refused; it is still kept true, for the way back.
    Fenced = 6,
    /// The old shape is gone. There is no way back.
    Contract = 7,
}

/// What a reader of the new release trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reads {
    /// The old shape: there is no other.
    Old,
    /// The new shape where its mark says that it is fresh, else the old one translated. Right in every phase that has both.
    Safe,
    /// The new shape. Until the contract a reader still looks at the mark, and says so when it is not fresh.
    New,
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// The phase.
    pub phase: Phase,
    /// What a reader of the new release trusts.
    pub reads: Reads,
    /// Whether writes of the old shape are let in.
    pub old_writes: bool,
    /// Whether writes of the new shape are let in.
    pub new_writes: bool,
    /// What has to be true before the phase is entered from the one before it, in words.
    pub enter: &'static str,
    /// Where `back` leads.
    pub back: Option<Phase>,
}

/// The table.
pub const RULES: [Rule; 8] = [
    rule(Phase::Idle, Reads::Old, true, false, "nothing", None),
    rule(Phase::Expand, Reads::Safe, true, true, "the new columns and the trigger are there", Some(Phase::Idle)),
    rule(Phase::Dual, Reads::Safe, true, true, "the trigger is enabled", Some(Phase::Expand)),
    rule(Phase::Backfill, Reads::Safe, true, true, "every live replica has seen the phase before", Some(Phase::Dual)),
    rule(Phase::Validate, Reads::Safe, true, true, "the backfill is done", Some(Phase::Backfill)),
    rule(Phase::ReadNew, Reads::New, true, true, "the validator's verdict of this phase is good", Some(Phase::Dual)),
    rule(Phase::Fenced, Reads::New, false, true, "no live replica knows the old shape only", Some(Phase::ReadNew)),
    rule(Phase::Contract, Reads::New, false, true, "the operator says so, with a dump of what is dropped", None),
];

const fn rule(phase: Phase, reads: Reads, old_writes: bool, new_writes: bool, enter: &'static str, back: Option<Phase>) -> Rule {
    Rule { phase, reads, old_writes, new_writes, enter, back }
}

// === impl Phase ===

impl Phase {
    /// The line of the table.
    #[must_use]
    pub fn rule(self) -> &'static Rule {
        &RULES[usize::from(self.number().unsigned_abs())]
    }

    /// The phase after this one.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        Self::from_number(self.number() + 1)
    }

    /// The number it has in the database.
    #[must_use]
    pub fn number(self) -> i16 {
        self as i16
    }

    /// The phase of a number.
    #[must_use]
    pub fn from_number(number: i16) -> Option<Self> {
        RULES.get(usize::try_from(number).ok()?).map(|rule| rule.phase)
    }

    /// The word for people, logs and dashboards.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Expand => "expand",
            Self::Dual => "dual",
            Self::Backfill => "backfill",
            Self::Validate => "validate",
            Self::ReadNew => "read_new",
            Self::Fenced => "fenced",
            Self::Contract => "contract",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_its_numbers() {
        for (number, rule) in (0i16..).zip(RULES) {
            assert_eq!(rule.phase.number(), number);
            assert_eq!(Phase::from_number(number), Some(rule.phase));
            assert_eq!(serde_json::to_string(&rule.phase).unwrap(), format!("\"{}\"", rule.phase));
        }
        assert_eq!(Phase::from_number(8), None);
    }

    #[test]
    fn the_way_back_never_lets_in_a_writer_that_the_way_on_shut_out_for_good() {
        for rule in RULES {
            assert!(rule.back.is_none_or(|back| back < rule.phase));
            // Somebody can always write.
            assert!(rule.old_writes || rule.new_writes);
        }
        // Forward, the fence is the only step that shuts a writer out.
        for pair in RULES.windows(2) {
            assert_eq!(pair[0].old_writes && !pair[1].old_writes, pair[1].phase == Phase::Fenced);
            assert!(!pair[0].new_writes || pair[1].new_writes);
        }
    }
}
