//! What comes in: which of the known events it is, and by what it is known when it is delivered again.
//!
//! What must stay true: what is not understood moves nothing. An empty event does, so another that says something else is
//! none of them.

use bg_runtime::Color;
use serde_json::Value;

use super::{ShifterError, hook::Hook};

/// An event.
#[derive(Debug)]
pub(super) enum Event {
    /// Somebody asks, or an alarm does.
    Asked(Ask, String),
    /// A pipeline asks, and is told how it ended.
    Job(String, Result<Ask, ShifterError>),
    /// An alarm that is none any more.
    Calm,
    /// A deployment of ECS asks whether it may go on.
    Hook(Hook),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// All traffic goes there, after these percents of it; without a color, to the one that is not live.
    Switch(Option<Color>, Vec<u8>),
    /// All traffic goes to the color before.
    Back,
    /// The same, if the last move can be the reason.
    BackFromAlarm,
}

// === impl Event ===

impl Event {
    /// Reads one, and by what it is known.
    pub(super) fn read(event: &Value, request: &str) -> Result<Self, ShifterError> {
        if let Some(hook) = Hook::read(event) {
            return Ok(Self::Hook(hook));
        }
        if let Some(job) = event.get("CodePipeline.job") {
            let id = job["id"].as_str().ok_or_else(|| ShifterError::Event("a job without an id".to_owned()))?;
            let parameters = job["data"]["actionConfiguration"]["configuration"]["UserParameters"].as_str().unwrap_or_default();
            let ask = match serde_json::from_str(if parameters.is_empty() { "{}" } else { parameters }) {
                Ok(parameters) => Ask::read(&parameters),
                Err(wrong) => Err(ShifterError::Event(format!("UserParameters {parameters}: {wrong}"))),
            };
            return Ok(Self::Job(id.to_owned(), ask));
        }
        match event["detail-type"].as_str() {
            Some("CloudWatch Alarm State Change") => {
                let detail = &event["detail"];
                if detail["state"]["value"] != "ALARM" {
                    return Ok(Self::Calm);
                }
                let at = format!("alarm {} {}", detail["alarmName"], detail["state"]["timestamp"]);
                Ok(Self::Asked(Ask::BackFromAlarm, at))
            }
            Some(other) => Err(ShifterError::Event(other.to_owned())),
            None => Ok(Self::Asked(Ask::read(event)?, format!("request {request}"))),
        }
    }
}

// === impl Ask ===

impl Ask {
    fn read(asked: &Value) -> Result<Self, ShifterError> {
        let unknown = || ShifterError::Event(asked.to_string());
        let fields = asked.as_object().ok_or_else(unknown)?;
        if fields.keys().any(|name| !["to", "action", "steps"].contains(&name.as_str())) {
            return Err(unknown());
        }
        let steps = fields.get("steps").map_or(Some(Vec::new()), steps).ok_or_else(unknown)?;
        match (fields.get("action").map(Value::as_str), fields.get("to").map(Value::as_str)) {
            // Who goes back does so at once.
            (Some(Some("rollback")), None) if steps.is_empty() => Ok(Self::Back),
            (None | Some(Some("switch")), None | Some(Some("idle"))) => Ok(Self::Switch(None, steps)),
            (None | Some(Some("switch")), Some(Some(color))) => {
                color.parse().map(|color| Self::Switch(Some(color), steps)).map_err(|_| unknown())
            }
            _ => Err(unknown()),
        }
    }

    /// The percents that the traffic is moved by, all of it at the end.
    pub(super) fn stages(&self) -> Vec<u8> {
        match self {
            Self::Switch(_, steps) => steps.iter().copied().chain([100]).collect(),
            Self::Back | Self::BackFromAlarm => vec![100],
        }
    }
}

/// Percents before all of it, each more than the one before.
fn steps(asked: &Value) -> Option<Vec<u8>> {
    let percent = |step: &Value| step.as_u64().and_then(|step| u8::try_from(step).ok()).filter(|step| (1..100).contains(step));
    let steps: Vec<u8> = asked.as_array()?.iter().map(percent).collect::<Option<_>>()?;
    steps.is_sorted_by(|step, next| step < next).then_some(steps)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_understood_is_none_of_the_events() {
        for wrong in [
            json!(null),
            json!([]),
            json!({ "too": "green" }),
            json!({ "to": "purple" }),
            json!({ "to": 1 }),
            json!({ "action": "rolback" }),
            json!({ "action": "rollback", "to": "green" }),
            json!({ "action": "rollback", "steps": [50] }),
            json!({ "steps": 50 }),
            json!({ "steps": [50, 50] }),
            json!({ "steps": [0] }),
            json!({ "steps": [100] }),
            json!({ "steps": ["10"] }),
            json!({ "detail-type": "ECS Task State Change", "detail": {} }),
            json!({ "CodePipeline.job": {} }),
        ] {
            let read = Event::read(&wrong, "r");
            assert!(matches!(read, Err(ShifterError::Event(_))), "{wrong}: {read:?}");
        }
    }

    #[test]
    fn a_person_may_name_the_color_or_not() {
        let ask = |event: Value| match Event::read(&event, "r").unwrap() {
            Event::Asked(ask, key) => (ask, key),
            other => panic!("{other:?}"),
        };
        let key = "request r".to_owned();
        assert_eq!(ask(json!({})), (Ask::Switch(None, Vec::new()), key.clone()));
        assert_eq!(ask(json!({ "to": "idle" })), (Ask::Switch(None, Vec::new()), key.clone()));
        assert_eq!(ask(json!({ "to": "green" })), (Ask::Switch(Some(Color::Green), Vec::new()), key.clone()));
        assert_eq!(ask(json!({ "steps": [5, 50] })), (Ask::Switch(None, vec![5, 50]), key.clone()));
        assert_eq!(ask(json!({ "action": "rollback" })), (Ask::Back, key));
    }
}
