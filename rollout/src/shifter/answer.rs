//! What came of a request: as it is remembered in a tag, and as it is said. One is made of the other, so that what is asked
//! twice is answered the same.

use std::{fmt, str::FromStr};

use bg_runtime::Color;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::ShifterError;
use crate::driver::ecs::Notes;

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// What the request is known by.
    pub(super) key: String,
    /// What came of it.
    pub(super) outcome: Outcome,
    /// Where the traffic went.
    pub(super) from: Color,
    /// Where it was to go.
    pub(super) to: Color,
    /// Targets that get requests there.
    pub(super) healthy: usize,
    /// All that are to.
    pub(super) total: usize,
    /// Of the move.
    pub(super) epoch: i64,
    /// It is remembered before the weights are set, and they may not be what it says.
    pub(super) is_moving: bool,
}

/// How it ended, so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The traffic was moved, and is watched.
    Begun,
    /// It stays there.
    Done,
    /// It was there already.
    Already,
    /// It is where it was before.
    WentBack,
    /// Too few targets are healthy: nothing was moved.
    Unhealthy,
    /// Both colors get traffic: nothing was moved.
    Split,
    /// Nothing is known to go back to: nothing was moved.
    Nowhere,
    /// Too few were healthy afterwards: it is where it was.
    BackUnhealthy,
    /// Clients were not answered afterwards: it is where it was.
    BackUnanswered,
    /// It was none for the better, and nobody is there to go back to.
    Stuck,
    /// Somebody else moved the traffic meanwhile.
    Overtaken,
}

/// How each is remembered.
const WORDS: [(Outcome, &str); 11] = [
    (Outcome::Begun, "begun"),
    (Outcome::Done, "done"),
    (Outcome::Already, "already"),
    (Outcome::WentBack, "went-back"),
    (Outcome::Unhealthy, "unhealthy"),
    (Outcome::Split, "split"),
    (Outcome::Nowhere, "nowhere"),
    (Outcome::BackUnhealthy, "back-unhealthy"),
    (Outcome::BackUnanswered, "back-unanswered"),
    (Outcome::Stuck, "stuck"),
    (Outcome::Overtaken, "overtaken"),
];

/// Behind one that may not be true yet.
const MOVING: &str = ":moving";

/// The longest that a tag may be.
const MOST: usize = 256;

// === impl Answer ===

impl Answer {
    /// What a request is known by: its name may be longer than a tag, and have letters that a tag may not.
    pub(super) fn key(name: &str) -> String {
        Sha256::digest(name.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// What was answered to that request, if it was one of the last.
    pub(super) fn remembered(notes: &Notes, key: &str) -> Option<Self> {
        all(notes).find(|answer| answer.key == key)
    }

    /// This answer, and before it as many of the others as a tag holds: one that was overtaken may be asked for again.
    pub(super) fn beside(&self, notes: &Notes) -> String {
        let mut text = self.to_string();
        for other in all(notes).filter(|other| other.key != self.key) {
            let longer = format!("{text} {other}");
            if longer.len() > MOST {
                break;
            }
            text = longer;
        }
        text
    }

    /// Whether somebody has to go on with it.
    pub(super) fn is_open(&self) -> bool {
        self.is_moving || self.outcome == Outcome::Begun
    }

    /// Whom the weights lead to when it is as it says.
    pub(super) fn leads_to(&self) -> Color {
        match self.outcome {
            Outcome::BackUnhealthy | Outcome::BackUnanswered => self.from,
            _ => self.to,
        }
    }

    pub(super) fn with(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }

    /// As whoever asked hears it.
    pub(super) fn reply(&self) -> Result<Value, ShifterError> {
        let words = self.words();
        match self.outcome {
            Outcome::Begun | Outcome::Done | Outcome::Already | Outcome::WentBack | Outcome::Nowhere => {
                let stays = matches!(self.outcome, Outcome::Already | Outcome::Nowhere);
                let (now, then) = (if stays { self.to } else { self.from }, self.to);
                let health = json!({ "healthy": self.healthy, "total": self.total });
                let body = json!({ "message": words, "currentEnvironment": now, "newEnvironment": then, "health": health });
                Ok(super::response(200, &body))
            }
            _ => Err(ShifterError::Answer(words)),
        }
    }

    fn words(&self) -> String {
        let Self { from, to, healthy, total, .. } = self;
        match self.outcome {
            Outcome::Begun => format!("Traffic goes to {to} and is watched"),
            Outcome::Done => "Traffic switch successful".to_owned(),
            Outcome::Already => format!("{to} has all the traffic already"),
            Outcome::WentBack => format!("All traffic goes to {to} again"),
            Outcome::Unhealthy if *healthy == 0 => format!("No target of {to} is healthy: nothing was moved"),
            Outcome::Unhealthy => format!("Only {healthy}/{total} targets of {to} are healthy: nothing was moved"),
            Outcome::Split => "Both colors get traffic: nothing was moved. Say which is to get all of it".to_owned(),
            Outcome::Nowhere => "There is nothing to go back to: nothing was moved".to_owned(),
            Outcome::BackUnhealthy => {
                format!("Traffic switch failed, rolled back to {from}: {healthy}/{total} targets of {to} are healthy")
            }
            Outcome::BackUnanswered => {
                format!("Traffic switch failed, rolled back to {from}: the entrance was not answered as {to}")
            }
            Outcome::Stuck => format!(
                "Traffic switch failed, and {to} keeps the traffic with {healthy}/{total} targets healthy: no target of {from} is"
            ),
            Outcome::Overtaken => format!("Somebody else moved the traffic after it had gone to {to}: it was let be"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, outcome, from, to, healthy, total, epoch, is_moving } = self;
        let word = WORDS.iter().find(|(named, _)| named == outcome).map_or("begun", |(_, word)| word);
        write!(f, "{key}:{word}:{from}:{to}:{healthy}/{total}:{epoch}{}", if *is_moving { MOVING } else { "" })
    }
}

impl FromStr for Answer {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (text, is_moving) = text.strip_suffix(MOVING).map_or((text, false), |text| (text, true));
        let parts: Vec<_> = text.split(':').collect();
        let [key, word, from, to, health, epoch] = parts[..] else { return Err(()) };
        let (outcome, _) = WORDS.iter().find(|(_, named)| *named == word).ok_or(())?;
        let (healthy, total) = health.split_once('/').ok_or(())?;
        let color = |color: &str| color.parse().map_err(drop);
        let number = |number: &str| number.parse().map_err(drop);
        Ok(Self {
            key: key.to_owned(),
            outcome: *outcome,
            from: color(from)?,
            to: color(to)?,
            healthy: number(healthy)?,
            total: number(total)?,
            epoch: epoch.parse().map_err(drop)?,
            is_moving,
        })
    }
}

/// The last answers, the newest first.
fn all(notes: &Notes) -> impl Iterator<Item = Answer> {
    notes.answered.as_deref().unwrap_or_default().split(' ').filter_map(|answer| answer.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_to(name: &str) -> Answer {
        let (outcome, from, to) = (Outcome::BackUnanswered, Color::Green, Color::Blue);
        Answer { key: Answer::key(name), outcome, from, to, healthy: 10, total: 10, epoch: 17, is_moving: false }
    }

    #[test]
    fn what_is_remembered_is_what_was_answered() {
        for (outcome, _) in WORDS {
            for is_moving in [false, true] {
                let answer = Answer { is_moving, ..answer_to("job 1").with(outcome) };
                assert_eq!(answer.to_string().parse(), Ok(answer));
            }
        }
        let answer = |number: i64| Answer { epoch: number, ..answer_to(&format!("request {number}")) };
        let mut notes = Notes::default();
        for number in 1..=9 {
            notes.answered = Some(answer(number).beside(&notes));
        }
        let text = notes.answered.clone().unwrap();
        assert!(text.len() <= 256, "{text}");
        assert_eq!(Answer::remembered(&notes, &Answer::key("request 7")), Some(answer(7)));
        assert_eq!(Answer::remembered(&notes, &Answer::key("request 1")), None);
        assert_eq!("somebody else's".parse::<Answer>(), Err(()));
    }
}
