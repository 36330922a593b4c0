//! A deployment that ECS does by itself and that waits at a hook of the type `PAUSE`: it goes on when the gates let it, or back.
//!
//! What must stay true: nothing goes on that the gates did not let; what cannot be judged yet goes on waiting, and when its time
//! is over ECS does what the hook says of that; a word that comes twice is heard once.

use std::time::Instant;

use serde_json::{Value, json};

use super::{
    LOOK, Shifter, ShifterError,
    hook::{self, Verdict},
};
use crate::driver::ecs::{EcsDriver, InProgress};

/// What is to become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pause {
    /// Of a service, or of one deployment of it.
    pub(super) arn: String,
    pub(super) word: Word,
}

/// Who says what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The gates alone: on, or back.
    Gates,
    /// Somebody: on, if the gates let it.
    Continue,
    /// Somebody: back.
    Rollback,
}

// === impl Pause ===

impl Pause {
    /// Says the word, and to whom it was said.
    pub(super) async fn answer(&self, shifter: &Shifter) -> Result<Value, ShifterError> {
        let mut told = Vec::new();
        for deployment in shifter.driver.in_progress(&self.arn).await? {
            if deployment.waiting.is_empty() {
                if self.word == Word::Rollback {
                    shifter.driver.undo(&deployment.arn).await?;
                    told.push(json!({ "deployment": deployment.arn, "action": "ROLLBACK" }));
                }
                continue;
            }
            let (goes_on, words) = self.decide(&deployment, shifter).await?;
            tracing::info!("{} goes {}: {words}", deployment.arn, if goes_on { "on" } else { "back" });
            // Who goes back is asked by no other hook.
            let hooks = if goes_on { &deployment.waiting[..] } else { &deployment.waiting[..1] };
            for hook in hooks {
                if say(&deployment.arn, hook, goes_on, &shifter.driver).await? {
                    let action = if goes_on { "CONTINUE" } else { "ROLLBACK" };
                    told.push(json!({ "deployment": deployment.arn, "hook": hook, "action": action, "because": words }));
                }
            }
        }
        let message = match (told.is_empty(), self.word) {
            (false, _) => "The deployment was told",
            (true, Word::Rollback) => "No deployment is in progress: nothing was done",
            (true, _) => "No hook waits: nothing was done",
        };
        Ok(super::response(200, &json!({ "message": message, "told": told })))
    }

    /// Whether it goes on, and why.
    async fn decide(&self, deployment: &InProgress, shifter: &Shifter) -> Result<(bool, String), ShifterError> {
        if self.word == Word::Rollback {
            return Ok((false, "somebody said so".to_owned()));
        }
        let (started, bake) = (Instant::now(), shifter.limits.bake);
        loop {
            let words = match hook::verdict(&deployment.stage, &deployment.revision, shifter).await {
                Verdict::Passed(words) => return Ok((true, words)),
                Verdict::Failed(words) if self.word == Word::Gates => return Ok((false, words)),
                Verdict::NotYet(_) if started.elapsed() < bake => {
                    tokio::time::sleep(LOOK.min(bake)).await;
                    continue;
                }
                Verdict::Failed(words) | Verdict::NotYet(words) => words,
            };
            return Err(ShifterError::Answer(format!("The deployment did not go on and still waits: {words}")));
        }
    }
}

/// Answers a hook, and says whether it was still waiting for that.
async fn say(deployment: &str, hook: &str, goes_on: bool, driver: &EcsDriver) -> Result<bool, ShifterError> {
    let Err(failure) = driver.answer_hook(deployment, hook, goes_on).await else { return Ok(true) };
    let now = driver.in_progress(deployment).await?;
    if now.iter().any(|now| now.waiting.iter().any(|waiting| waiting == hook)) {
        return Err(failure.into());
    }
    tracing::info!("{hook} was answered by somebody else");
    Ok(false)
}

#[cfg(test)]
mod tests {
    use bg_runtime::Color;

    use super::*;
    use crate::{
        driver::ecs::double::{Double, State, group},
        shifter::tests::{ask, body, job, on, unwell},
    };

    const SERVICE: &str = "arn:aws:ecs:eu-central-1:1:service/mcp/app";
    const DEPLOYMENT: &str = "arn:aws:ecs:eu-central-1:1:service-deployment/mcp/app/d1";

    /// A deployment at this stage, that waits at as many hooks, beside one that is over.
    async fn waiting(stage: &str, hooks: usize) -> Double {
        let double = Double::start().await;
        let hook = |id: usize| {
            json!({ "hookId": format!("ecs-pause-{id}"), "targetType": "PAUSE", "status": "AWAITING_ACTION",
            "expiresAt": 1_795_000_000, "timeoutAction": "ROLLBACK" })
        };
        let lambda = json!({ "hookId": "ecs-lambda-1", "targetType": "AWS_LAMBDA", "status": "AWAITING_ACTION" });
        let hooks: Vec<_> = (1..=hooks).map(hook).chain([lambda]).collect();
        let over =
            json!({ "serviceDeploymentArn": format!("{DEPLOYMENT}0"), "status": "SUCCESSFUL", "lifecycleHookDetails": hooks });
        let now = json!({ "serviceDeploymentArn": DEPLOYMENT, "serviceArn": SERVICE, "status": "IN_PROGRESS", "lifecycleStage": stage,
            "targetServiceRevision": { "arn": "arn:aws:ecs:eu-central-1:1:service-revision/mcp/app/2" }, "lifecycleHookDetails": hooks });
        double.state().deployments = vec![over, now];
        // Nobody reaches the tasks from here: what clients are answered decides.
        double.state().ready = (503, Value::Null);
        double
    }

    fn event(resource: &str) -> Value {
        json!({ "id": "e", "source": "aws.ecs", "detail-type": "ECS Hook State Change", "resources": [resource],
            "detail": { "eventName": "HOOK_AWAITING_ACTION" } })
    }

    fn word(word: &str) -> Value {
        json!({ "action": word, "deployment": SERVICE })
    }

    fn told(state: &State) -> Vec<String> {
        let said = |call: Value| format!("{} {}", call["hookId"].as_str().unwrap(), call["action"].as_str().unwrap());
        state.called("ContinueServiceDeployment").into_iter().map(said).collect()
    }

    #[tokio::test]
    async fn a_deployment_that_waits_goes_on_when_the_gates_let_it_whoever_says_so() {
        for asked in [event(SERVICE), event(DEPLOYMENT), word("continue"), job("j-1", &word("continue").to_string())] {
            let double = waiting("POST_TEST_TRAFFIC_SHIFT", 2).await;
            let said = body(ask(&double, asked.clone(), "1").await);
            assert_eq!(
                (&said["message"], said["told"][1]["action"].as_str()),
                (&json!("The deployment was told"), Some("CONTINUE"))
            );
            assert_eq!(told(&double.state()), ["ecs-pause-1 CONTINUE", "ecs-pause-2 CONTINUE"]);
            // Said again, it is heard by nobody.
            let said = body(ask(&double, asked, "2").await);
            assert_eq!((&said["message"], told(&double.state()).len()), (&json!("No hook waits: nothing was done"), 2));
        }
    }

    #[tokio::test]
    async fn what_the_gates_do_not_let_goes_back_unless_somebody_wanted_it_to_go_on() {
        let double = waiting("POST_TEST_TRAFFIC_SHIFT", 2).await;
        // The tasks say that they are ready, and then do not answer as a server of MCP does.
        double.state().ready = (200, json!({ "stage": "serving" }));
        double.state().targets.insert(group(Color::Green), vec![(1, "healthy")]);
        let refused = ask(&double, word("continue"), "1").await.unwrap_err();
        assert!(refused.starts_with("The deployment did not go on and still waits: "), "{refused}");
        assert!(told(&double.state()).is_empty());
        body(ask(&double, event(SERVICE), "2").await);
        assert_eq!(told(&double.state()), ["ecs-pause-1 ROLLBACK"]);
    }

    #[tokio::test]
    async fn what_cannot_be_judged_yet_goes_on_waiting() {
        let double = waiting("POST_TEST_TRAFFIC_SHIFT", 1).await;
        unwell(&mut double.state(), Color::Green);
        for asked in [event(SERVICE), word("continue")] {
            let waits = ask(&double, asked, "1").await.unwrap_err();
            assert_eq!(waits, "The deployment did not go on and still waits: 0/2 targets are healthy");
        }
        assert!(told(&double.state()).is_empty());
        // Before anything runs there is nothing to be judged.
        double.state().deployments[1]["lifecycleStage"] = json!("PRE_SCALE_UP");
        body(ask(&double, event(SERVICE), "2").await);
        assert_eq!(told(&double.state()), ["ecs-pause-1 CONTINUE"]);
    }

    #[tokio::test]
    async fn somebody_may_let_it_go_back_at_any_stage_and_no_gate_is_asked() {
        let double = waiting("POST_TEST_TRAFFIC_SHIFT", 1).await;
        unwell(&mut double.state(), Color::Green);
        body(ask(&double, word("rollback"), "1").await);
        assert_eq!(told(&double.state()), ["ecs-pause-1 ROLLBACK"]);
        let double = waiting("BAKE_TIME", 0).await;
        body(ask(&double, word("rollback"), "1").await);
        let stopped = json!([{ "serviceDeploymentArn": DEPLOYMENT, "stopType": "ROLLBACK" }]);
        assert_eq!(json!(double.state().called("StopServiceDeployment")), stopped);
        double.state().deployments.truncate(1);
        let said = body(ask(&double, word("rollback"), "2").await);
        assert_eq!(said["message"], "No deployment is in progress: nothing was done");
    }

    #[tokio::test]
    async fn a_hook_that_somebody_else_answered_is_no_failure_and_one_that_cannot_be_answered_is() {
        let double = waiting("POST_TEST_TRAFFIC_SHIFT", 1).await;
        on(&double, "ContinueServiceDeployment", 1, |state| {
            state.deployments[1]["lifecycleHookDetails"][0]["status"] = json!("SUCCEEDED");
        });
        let said = body(ask(&double, event(SERVICE), "1").await);
        assert_eq!(said["message"], "No hook waits: nothing was done");
        let double = waiting("POST_TEST_TRAFFIC_SHIFT", 1).await;
        on(&double, "ContinueServiceDeployment", 1, |state| state.refuses = Some("AccessDeniedException"));
        let refused = ask(&double, event(SERVICE), "1").await.unwrap_err();
        assert!(refused.starts_with("it is refused"), "{refused}");
        // Lambda hands it over once more.
        body(ask(&double, event(SERVICE), "1").await);
        assert_eq!(told(&double.state()).len(), 2);
    }

    #[tokio::test]
    async fn nothing_of_others_is_told_anything() {
        let double = waiting("POST_TEST_TRAFFIC_SHIFT", 1).await;
        for theirs in ["service/mcp/other", "service/theirs/app", "service/app", "service-deployment/mcp/app", "task/mcp/app/1"] {
            let arn = format!("arn:aws:ecs:eu-central-1:1:{theirs}");
            let refused = ask(&double, json!({ "action": "rollback", "deployment": arn }), "1").await.unwrap_err();
            assert!(refused.contains("is neither a service of app in the cluster mcp"), "{refused}");
        }
        let over = json!({ "detail-type": "ECS Hook State Change", "detail": { "eventName": "HOOK_SUCCEEDED" } });
        assert_eq!(body(ask(&double, over, "2").await)["message"], "No hook waits: nothing was done");
        assert!(double.state().calls.is_empty());
    }
}
