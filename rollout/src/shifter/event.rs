//! What comes in: which of the known events it is, and by what it is known when it is delivered again.
//!
//! What must stay true: what is not understood moves nothing. An empty event does, so another that says something else is
//! none of them.

use bg_runtime::Color;
use serde_json::Value;

use super::{
    ShifterError,
    hook::Hook,
    pause::{Pause, Word},
};

/// An event.
#[derive(Debug)]
pub(super) enum Event {
    /// Somebody asks, or an alarm does.
    Asked(Ask, String),
    /// A pipeline asks, and is told how it ended.
    Job(String, Result<Ask, ShifterError>),
    /// Something that is over: this is to be said of it.
    Over(&'static str),
    /// A deployment of ECS asks whether it may go on.
    Hook(Hook),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// The traffic is to be moved.
    Move(Move),
    /// A deployment that ECS does by itself is to go on, or back.
    Pause(Pause),
}

/// Where the traffic is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Move {
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
                    return Ok(Self::Over("No alarm: nothing was moved"));
                }
                let at = format!("alarm {} {}", detail["alarmName"], detail["state"]["timestamp"]);
                Ok(Self::Asked(Ask::Move(Move::BackFromAlarm), at))
            }
            // What is documented of it is its two names. Whose it is stands where other events of ECS have it; which hook
            // waits is asked of ECS.
            Some("ECS Hook State Change") => {
                if event["detail"]["eventName"] != "HOOK_AWAITING_ACTION" {
                    return Ok(Self::Over("No hook waits: nothing was done"));
                }
                let resources = event["resources"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let whose = resources.chain(event["detail"]["serviceDeploymentArn"].as_str());
                let whose = whose.into_iter().find(|arn| arn.contains(":service/") || arn.contains(":service-deployment/"));
                let arn = whose.ok_or_else(|| ShifterError::Event("a hook of neither a service nor a deployment".to_owned()))?;
                Ok(Self::Asked(Ask::Pause(Pause { arn: arn.to_owned(), word: Word::Gates }), format!("event {}", event["id"])))
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
        if fields.keys().any(|name| !["to", "action", "steps", "deployment"].contains(&name.as_str())) {
            return Err(unknown());
        }
        if let Some(deployment) = fields.get("deployment") {
            let word = match (fields.len(), fields.get("action").and_then(Value::as_str)) {
                (2, Some("continue")) => Word::Continue,
                (2, Some("rollback")) => Word::Rollback,
                _ => return Err(unknown()),
            };
            let arn = deployment.as_str().ok_or_else(unknown)?.to_owned();
            return Ok(Self::Pause(Pause { arn, word }));
        }
        Move::read(fields).map(Self::Move).ok_or_else(unknown)
    }
}

// === impl Move ===

impl Move {
    fn read(fields: &serde_json::Map<String, Value>) -> Option<Self> {
        let steps = fields.get("steps").map_or(Some(Vec::new()), steps)?;
        match (fields.get("action").map(Value::as_str), fields.get("to").map(Value::as_str)) {
            // Who goes back does so at once.
            (Some(Some("rollback")), None) if steps.is_empty() => Some(Self::Back),
            (None | Some(Some("switch")), None | Some(Some("idle"))) => Some(Self::Switch(None, steps)),
            (None | Some(Some("switch")), Some(Some(color))) => Some(Self::Switch(Some(color.parse().ok()?), steps)),
            _ => None,
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
            json!({ "detail-type": "ECS Hook State Change", "detail": { "eventName": "HOOK_AWAITING_ACTION" } }),
            json!({ "action": "continue" }),
            json!({ "deployment": "arn" }),
            json!({ "action": "switch", "deployment": "arn" }),
            json!({ "action": "continue", "deployment": 1 }),
            json!({ "action": "continue", "deployment": "arn", "to": "green" }),
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
        let moves = |event: Value, moves: Move| assert_eq!(ask(event), (Ask::Move(moves), "request r".to_owned()));
        moves(json!({}), Move::Switch(None, Vec::new()));
        moves(json!({ "to": "idle" }), Move::Switch(None, Vec::new()));
        moves(json!({ "to": "green" }), Move::Switch(Some(Color::Green), Vec::new()));
        moves(json!({ "steps": [5, 50] }), Move::Switch(None, vec![5, 50]));
        moves(json!({ "action": "rollback" }), Move::Back);
    }
}
