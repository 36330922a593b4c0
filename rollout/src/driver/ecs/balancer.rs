//! One rule of a balancer's listener: whom it forwards to, and what a rollout remembers in the tags on it.
//!
//! What must stay true: a greater epoch in the tags stops whoever has a smaller one. A balancer knows no compare-and-set, so
//! a move writes the epoch, reads it back, moves, and reads both again. Nothing is written from what was read more than a
//! moment ago: whoever was slowed down, or asleep, looks once more, which is why the calls that write are not made again by
//! the SDK. What is left is the moment between reading back and moving: a call that is under way then is done, although a later
//! rollout has been heard of. Whoever made it is refused afterwards, and the later one moves again when it reads what it did not set. The
//! lease is the lock; this is the fence.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use aws_config::{SdkConfig, retry::RetryConfig};
use aws_sdk_elasticloadbalancingv2::{
    Client, Config,
    types::{
        Action, ActionTypeEnum, ForwardActionConfig, Tag, TargetGroupStickinessConfig, TargetGroupTuple, TargetHealthStateEnum,
    },
};
use bg_runtime::Color;
use jiff::Timestamp;

use crate::{driver::DriverError, share};

/// The rule that decides about the traffic.
#[derive(Debug)]
pub(super) struct Balancer {
    client: Client,
    /// Makes each call once, for what moves the traffic.
    once: Client,
    rule: String,
}

/// The rule at one moment.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// When it began to be read.
    read: Instant,
    actions: Vec<Action>,
    /// Target groups, each with its weight.
    forwards: Vec<(String, i32)>,
    /// Whether a client is kept on the target group that it met first, whatever the weights say.
    sticky: bool,
    tags: BTreeMap<String, String>,
    pub(super) notes: Notes,
}

/// What a rollout remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Notes {
    /// Of the rollout that acted last.
    pub(crate) epoch: i64,
    /// The color that had all traffic before.
    pub(crate) before: Option<Color>,
    /// The epoch, and how many of a hundred requests went to green when the rollout of that epoch looked or moved last.
    pub(crate) left: Option<(i64, u8)>,
    /// When the traffic was moved last.
    pub(crate) moved: Option<Timestamp>,
    /// Which request was answered last, and how.
    pub(crate) answered: Option<String>,
}

/// One thing to remember.
pub(super) type Note = (&'static str, String);

/// Who moves the traffic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn<'a> {
    pub(super) epoch: i64,
    /// The epoch that was seen when this was decided, if it is to be made only while nobody has acted since.
    pub(super) after: Option<i64>,
    /// What is remembered beside the rest.
    pub(super) more: &'a [Note],
}

/// What is written to the rule.
#[derive(Clone, Copy, Debug)]
enum Write<'a> {
    Notes(&'a [Note]),
    Weights(&'a Groups, Weights),
}

/// Whose target group is whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Groups {
    pub(super) blue: String,
    pub(super) green: String,
}

/// The weights of both colors; `None` for a target group that the rule does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weights {
    blue: Option<i32>,
    green: Option<i32>,
}

/// One of those that a target group sends to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) ip: String,
    pub(super) port: u16,
    pub(super) state: TargetHealthStateEnum,
}

const EPOCH: &str = "rollout.mcp/epoch";
const BEFORE: &str = "rollout.mcp/before";
const LEFT: &str = "rollout.mcp/shift";
const MOVED: &str = "rollout.mcp/moved";
pub(super) const ANSWERED: &str = "rollout.mcp/answered";

/// Somebody who changes the rule at the same time is done after so many attempts; what a balancer was told, it says after a
/// while.
const ATTEMPTS: u32 = 10;
/// Before the second attempt; twice as long before each one after it, up to the other.
const AGAIN: Duration = Duration::from_millis(50);
const AGAIN_AT_MOST: Duration = Duration::from_secs(2);
/// What was read longer ago is read again before anything is written from it.
const FRESH: Duration = Duration::from_secs(1);

// === impl Balancer ===

impl Balancer {
    pub(super) fn new(config: &SdkConfig, rule: &str) -> Self {
        let once = Config::from(config).to_builder().retry_config(RetryConfig::disabled()).build();
        Self { client: Client::new(config), once: Client::from_conf(once), rule: rule.to_owned() }
    }

    /// The rule as it is.
    pub(super) async fn look(&self) -> Result<Rule, DriverError> {
        let read = Instant::now();
        let rules = self.client.describe_rules().rule_arns(&self.rule).send();
        let (rules, tags) = tokio::join!(rules, self.tags());
        let (rules, tags) = (rules?, tags?);
        let Some(rule) = rules.rules().first() else {
            return Err(DriverError::Refused(format!("there is no rule {}: see --rule", self.rule)));
        };
        Rule::read(read, rule.actions(), tags)
    }

    /// The tags of the rule as they are.
    async fn tags(&self) -> Result<BTreeMap<String, String>, DriverError> {
        let described = self.client.describe_tags().resource_arns(&self.rule).send().await?;
        let tags = described.tag_descriptions().iter().flat_map(|described| described.tags());
        Ok(tags.filter_map(|tag| Some((tag.key()?.to_owned(), tag.value()?.to_owned()))).collect())
    }

    /// Writes down who acts from now on and what `notes` says, unless a later rollout has been heard of. The rule after that.
    pub(super) async fn claim(
        &self,
        epoch: i64,
        mut notes: impl FnMut(&Rule) -> Result<Vec<Note>, DriverError>,
    ) -> Result<Rule, DriverError> {
        let mut away = None;
        for attempt in 0..ATTEMPTS {
            pause(attempt).await;
            let rule = self.look().await?;
            rule.current(epoch)?;
            let mut notes = notes(&rule)?;
            notes.push((EPOCH, epoch.to_string()));
            if let Some(failure) = self.follow(&rule, epoch, Write::Notes(&notes)).await? {
                away = Some(failure);
                continue;
            }
            let written = self.look().await?;
            written.current(epoch)?;
            // An earlier rollout that looked before it could read this wrote over it.
            if written.notes.epoch < epoch {
                continue;
            }
            let said = |key: &str| written.tags.get(key).map_or("", String::as_str);
            if notes.iter().any(|(key, value)| said(key) != value) {
                return Err(DriverError::Refused(
                    "somebody else acts at the same moment: look who is live, and try again".to_owned(),
                ));
            }
            return Ok(written);
        }
        Err(away
            .unwrap_or_else(|| DriverError::Refused(format!("somebody else keeps changing the tags of the rule {}", self.rule))))
    }

    /// Lets this many of a hundred requests go to green, unless a later rollout has been heard of.
    pub(super) async fn shift(&self, groups: &Groups, green_percent: u8, turn: Turn<'_>) -> Result<(), DriverError> {
        let (wanted, epoch) = (Weights::of(green_percent), turn.epoch);
        let (mut after, mut away) = (turn.after, None);
        for attempt in 0..ATTEMPTS {
            pause(attempt).await;
            let mut judged = None;
            let notes = |rule: &Rule| {
                rule.follows(after, &turn)?;
                judged = (!rule.goes_back(green_percent, epoch)).then_some(rule.weights(groups)?);
                Ok([rule.departs(groups, green_percent, epoch)?, turn.more.to_vec()].concat())
            };
            let rule = self.claim(epoch, notes).await?;
            after = None;
            let found = rule.weights(groups)?;
            if let Some(judged) = judged.filter(|judged| *judged != found) {
                return Err(in_between(found, judged.green_percent()));
            }
            if rule.sticky {
                tracing::warn!("the rule keeps clients on the target group that they met first: that is turned off");
            }
            if (found != wanted || rule.sticky)
                && let Some(failure) = self.follow(&rule, epoch, Write::Weights(groups, wanted)).await?
            {
                away = Some(failure);
                continue;
            }
            let now = self.look().await?;
            now.current(epoch)?;
            if now.weights(groups)? == wanted {
                return Ok(());
            }
        }
        Err(away.unwrap_or_else(|| {
            DriverError::Refused(format!("somebody else keeps changing the weights of the rule {}", self.rule))
        }))
    }

    /// Writes what follows from the rule, and again while that was read a moment ago and nobody has acted since: even the
    /// shortest refusal is time for somebody else. Why it was not done in time, if it was not.
    async fn follow(&self, rule: &Rule, epoch: i64, write: Write<'_>) -> Result<Option<DriverError>, DriverError> {
        let mut away = DriverError::Away(": AWS", "it took too long to answer".into());
        for attempt in 0.. {
            pause(attempt).await;
            if attempt > 0 {
                Notes::read(&self.tags().await?).current(epoch)?;
            }
            if rule.read.elapsed() >= FRESH {
                break;
            }
            let written = match write {
                Write::Notes(notes) => self.write(&self.once, notes).await,
                Write::Weights(groups, weights) => self.forward(rule, groups, weights).await,
            };
            match written {
                Err(failure @ DriverError::Away(..)) => away = failure,
                written => return written.map(|()| None),
            }
        }
        Ok(Some(away))
    }

    /// Names both target groups in the rule, because one that no rule names is not asked for its health. Nothing is moved.
    pub(super) async fn name_both(&self, rule: &Rule, groups: &Groups) -> Result<(), DriverError> {
        let weights = rule.weights(groups)?;
        if weights.blue.is_some() && weights.green.is_some() {
            return Ok(());
        }
        self.forward(rule, groups, Weights::of(weights.green_percent())).await
    }

    /// Remembers what nobody decides by.
    pub(super) async fn remember(&self, notes: &[Note]) -> Result<(), DriverError> {
        self.write(&self.client, notes).await
    }

    async fn write(&self, client: &Client, notes: &[Note]) -> Result<(), DriverError> {
        let tags = notes.iter().map(|(key, value)| Tag::builder().key(*key).value(value).build());
        client.add_tags().resource_arns(&self.rule).set_tags(Some(tags.collect())).send().await?;
        Ok(())
    }

    /// Those that a target group sends to, and those that it is just taking leave of.
    pub(super) async fn targets(&self, group: &str) -> Result<Vec<Target>, DriverError> {
        let described = self.client.describe_target_health().target_group_arn(group).send().await?;
        let target = |described: &aws_sdk_elasticloadbalancingv2::types::TargetHealthDescription| {
            let target = described.target()?;
            let state = described.target_health().and_then(|health| health.state()).cloned();
            Some(Target {
                ip: target.id()?.to_owned(),
                port: u16::try_from(target.port()?).ok()?,
                state: state.unwrap_or_else(|| "unknown".into()),
            })
        };
        Ok(described.target_health_descriptions().iter().filter_map(target).collect())
    }

    async fn forward(&self, rule: &Rule, groups: &Groups, weights: Weights) -> Result<(), DriverError> {
        let group = |arn: &str, weight: Option<i32>| TargetGroupTuple::builder().target_group_arn(arn).set_weight(weight).build();
        let forward = ForwardActionConfig::builder()
            .target_groups(group(&groups.blue, weights.blue))
            .target_groups(group(&groups.green, weights.green))
            .target_group_stickiness_config(TargetGroupStickinessConfig::builder().enabled(false).build())
            .build();
        // Whatever comes before it, such as asking who the client is, stays.
        let actions = rule.actions.iter().cloned().map(|mut action| {
            if action.r#type == Some(ActionTypeEnum::Forward) {
                action.target_group_arn = None;
                action.forward_config = Some(forward.clone());
            }
            action
        });
        self.once.modify_rule().rule_arn(&self.rule).set_actions(Some(actions.collect())).send().await?;
        Ok(())
    }
}

// === impl Rule ===

impl Rule {
    fn read(read: Instant, actions: &[Action], tags: BTreeMap<String, String>) -> Result<Self, DriverError> {
        let Some(action) = actions.iter().find(|action| action.r#type() == Some(&ActionTypeEnum::Forward)) else {
            let words = "the rule forwards to nobody: see --rule, it is the one that both target groups are in";
            return Err(DriverError::Refused(words.to_owned()));
        };
        let config = action.forward_config();
        let mut forwards: Vec<(String, i32)> = config
            .map(ForwardActionConfig::target_groups)
            .unwrap_or_default()
            .iter()
            .filter_map(|group| Some((group.target_group_arn()?.to_owned(), group.weight().unwrap_or(1))))
            .collect();
        if let ([], Some(group)) = (&forwards[..], action.target_group_arn()) {
            forwards.push((group.to_owned(), 1));
        }
        let sticky = config.and_then(|config| config.target_group_stickiness_config());
        let sticky = sticky.and_then(|sticky| sticky.enabled()).unwrap_or_default();
        let notes = Notes::read(&tags);
        Ok(Self { read, actions: actions.to_vec(), forwards, sticky, tags, notes })
    }

    /// The weights of both colors.
    ///
    /// # Errors
    /// When there is somebody else in the rule.
    pub(super) fn weights(&self, groups: &Groups) -> Result<Weights, DriverError> {
        if let Some((other, _)) = self.forwards.iter().find(|(group, _)| *group != groups.blue && *group != groups.green) {
            let name = other.rsplit(':').next().unwrap_or(other);
            return Err(DriverError::Refused(format!(
                "the rule also forwards to {name}, which is neither blue's nor green's target group: see --rule and --app, or \
                 take it out of the rule"
            )));
        }
        let of = |arn: &str| self.forwards.iter().find(|(group, _)| group == arn).map(|(_, weight)| *weight);
        Ok(Weights { blue: of(&groups.blue), green: of(&groups.green) })
    }

    /// That no later rollout has been heard of.
    ///
    /// # Errors
    /// When one has.
    pub(super) fn current(&self, yours: i64) -> Result<(), DriverError> {
        self.notes.current(yours)
    }

    /// That nobody has acted since, except this turn itself, whose answer may have been lost.
    ///
    /// # Errors
    /// When somebody has.
    fn follows(&self, after: Option<i64>, turn: &Turn<'_>) -> Result<(), DriverError> {
        let now = self.notes.epoch;
        let is_ours = now == turn.epoch && turn.more.iter().all(|(key, value)| self.tags.get(*key) == Some(value));
        match after {
            Some(after) if after != now && !is_ours => {
                Err(DriverError::Refused(format!("somebody else acted meanwhile (epoch {now}, it was {after})")))
            }
            _ => Ok(()),
        }
    }

    /// Whether it is to be moved whatever somebody else does: to the color before, or by a call that was remembered already.
    fn goes_back(&self, green_percent: u8, epoch: i64) -> bool {
        let to = share::live(green_percent);
        to.is_some() && to == self.notes.before || self.notes.left == Some((epoch, green_percent))
    }

    /// What is remembered of a move, unless the weights are not those that this rollout left or found. Going back to what it
    /// found, or to the color before, is done whatever they are.
    fn departs(&self, groups: &Groups, green_percent: u8, epoch: i64) -> Result<Vec<Note>, DriverError> {
        let weights = self.weights(groups)?;
        let (found, to, before) = (weights.green_percent(), share::live(green_percent), self.notes.before);
        if self.notes.left == Some((epoch, green_percent)) {
            // Remembered already, by a call that did not come to its end; or found as it is to be.
            return Ok(Vec::new());
        }
        if let Some((_, left)) = self.notes.left.filter(|(of, _)| *of == epoch)
            && found != left
            && found != green_percent
            && !self.goes_back(green_percent, epoch)
        {
            return Err(in_between(weights, left));
        }
        let was = share::live(found).filter(|_| found != green_percent);
        let before = match (to.is_some() && to == before, was) {
            // Gone back: whoever asks again to go back is not led forth.
            (true, _) => None,
            (_, Some(was)) => Some(was),
            _ => before,
        };
        let mut notes = vec![(LEFT, format!("{epoch}:{green_percent}")), before_note(before)];
        if found != green_percent {
            notes.push((MOVED, Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
        }
        Ok(notes)
    }

    /// What is remembered by who looks before it moves anything.
    pub(super) fn found(&self, groups: &Groups, epoch: i64) -> Result<Vec<Note>, DriverError> {
        Ok(vec![(LEFT, format!("{epoch}:{}", self.weights(groups)?.green_percent()))])
    }

    /// What is remembered by who changes a color: that no traffic goes there, and going back does not lead to what is replaced.
    pub(super) fn gives(&self, groups: &Groups, color: Color) -> Result<Vec<Note>, DriverError> {
        if share::of(color, self.weights(groups)?.green_percent()) > 0 {
            return Err(DriverError::Refused(format!("traffic goes to {color}: switch first")));
        }
        Ok(vec![before_note(self.notes.before.filter(|before| *before != color))])
    }
}

// === impl Notes ===

impl Notes {
    fn read(tags: &BTreeMap<String, String>) -> Self {
        let mut notes = Self::default();
        for (key, value) in tags {
            match key.as_str() {
                EPOCH => notes.epoch = value.parse().unwrap_or_default(),
                BEFORE => notes.before = value.parse().ok(),
                LEFT => notes.left = value.split_once(':').and_then(|(of, left)| Some((of.parse().ok()?, left.parse().ok()?))),
                MOVED => notes.moved = value.parse().ok(),
                ANSWERED => notes.answered = Some(value.to_owned()),
                _ => {}
            }
        }
        notes
    }

    /// Refuses whoever has a smaller epoch.
    fn current(&self, yours: i64) -> Result<(), DriverError> {
        let now = self.epoch;
        if yours < now {
            return Err(DriverError::Refused(format!("a later rollout is at work (epoch {now}, yours is {yours})")));
        }
        Ok(())
    }
}

// === impl Groups ===

impl Groups {
    pub(super) fn of(&self, color: Color) -> &str {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }
}

// === impl Weights ===

impl Weights {
    fn of(green_percent: u8) -> Self {
        let weight = |color: Color| Some(i32::from(share::of(color, green_percent)));
        Self { blue: weight(Color::Blue), green: weight(Color::Green) }
    }

    /// How many of a hundred requests go to green. A color that gets any is never said to get none. When both weights are
    /// zero nobody gets any: that is said to be half and half, so that neither is taken for live and a rollback leads out.
    pub(super) fn green_percent(self) -> u8 {
        let (blue, green) = (self.blue.unwrap_or_default(), self.green.unwrap_or_default());
        match (blue, green) {
            (0, 0) => 50,
            (_, 0) => 0,
            (0, _) => 100,
            (blue, green) => u8::try_from((green * 100 + (blue + green) / 2) / (blue + green)).unwrap_or(50).clamp(1, 99),
        }
    }
}

impl std::fmt::Display for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.blue.unwrap_or_default(), self.green.unwrap_or_default())
    }
}

// === impl Target ===

impl Target {
    /// Whether it gets requests.
    pub(super) fn is_healthy(&self) -> bool {
        self.state == TargetHealthStateEnum::Healthy
    }

    /// Whether it gets no new ones any more.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.state, TargetHealthStateEnum::Draining | TargetHealthStateEnum::UnhealthyDraining)
    }

    /// Where it listens, or another of its ports.
    pub(super) fn address(&self, port: u16) -> String {
        if self.ip.contains(':') { format!("[{}]:{port}", self.ip) } else { format!("{}:{port}", self.ip) }
    }
}

fn in_between(weights: Weights, left: u8) -> DriverError {
    DriverError::Refused(format!(
        "somebody set the weights to {weights} (blue/green) in between, it was {}/{left}: `rollout status` says what is live, \
         and the same command goes on from there",
        100 - left
    ))
}

/// Waits before an attempt that is not the first, each time for longer.
async fn pause(attempt: u32) {
    if let Some(earlier) = attempt.checked_sub(1) {
        tokio::time::sleep((AGAIN * 2_u32.saturating_pow(earlier)).min(AGAIN_AT_MOST)).await;
    }
}

/// A tag cannot be absent and written at once: empty is nobody.
fn before_note(before: Option<Color>) -> Note {
    (BEFORE, before.map_or_else(String::new, |color| color.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(blue: i32, green: i32) -> u8 {
        Weights { blue: Some(blue), green: Some(green) }.green_percent()
    }

    #[test]
    fn weights_become_a_percentage() {
        assert_eq!([percent(100, 0), percent(0, 100), percent(90, 10)], [0, 100, 10]);
        assert_eq!([percent(1, 0), percent(0, 7), percent(1, 1), percent(2, 1)], [0, 100, 50, 33]);
        assert_eq!([percent(999, 1), percent(1, 999)], [1, 99], "who gets any is not said to get none");
        assert_eq!(percent(0, 0), 50, "nobody is live");
        assert_eq!(Weights { blue: Some(1), green: None }.green_percent(), 0);
    }
}
