//! The traffic shifter: one move by itself, asked for by a person, a pipeline, an alarm or a deployment of ECS. It is what a
//! function runs that has neither a lease nor a journal.
//!
//! What must stay true: nothing is moved to a color that is not healthy enough; what is asked twice is done once and answered
//! the same, also when whoever did it was cut off at any moment; who moved the traffic goes on or back only while it is as it
//! was left, so that the later one wins. The last requests and their answers are in a tag on the rule.

mod answer;
mod event;
mod hook;
mod pause;

use std::time::{Duration, Instant};

use bg_runtime::Color;
use jiff::Timestamp;
use serde_json::{Value, json};

use self::{
    answer::{Answer, Outcome},
    event::{Ask, Event, Move},
};
use crate::{
    driver::{
        DriverError,
        ecs::{EcsDriver, Notes},
    },
    http::Http,
    share,
};

/// What it is told, beside what is asked.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How many of a hundred targets have to be healthy.
    pub healthy_percent: u8,
    /// How long a move is watched.
    pub bake: Duration,
    /// Where clients come in, to be asked after a move.
    pub entrance: Option<String>,
}

/// Moves the traffic of one application.
#[derive(Debug)]
pub struct Shifter {
    driver: EcsDriver,
    http: Http,
    limits: Limits,
}

/// Why something that was asked for was not done. Whoever called sees it as an error.
#[derive(Debug, thiserror::Error)]
pub enum ShifterError {
    /// It is none of the events that are known.
    #[error("this is no event that is known here: {0}")]
    Event(String),
    /// It was refused, or undone.
    #[error("{0}")]
    Answer(String),
    /// The platform did not do it.
    #[error(transparent)]
    Driver(#[from] DriverError),
}

/// What was seen while a move was watched.
#[derive(Debug)]
enum Baked {
    /// Enough targets are healthy, so many of so many.
    Good(Notes, (usize, usize)),
    /// It is to be undone, and why.
    Bad(Answer),
    /// Somebody else acted.
    Overtaken,
}

/// How often a move is looked at while it is watched.
const LOOK: Duration = Duration::from_secs(5);
const ASKED_WITHIN: Duration = Duration::from_secs(5);
/// How long after a move an alarm is believed to be because of it, in seconds.
const BECAUSE_OF_IT: i64 = 3600;

// === impl Limits ===

impl Limits {
    /// Whether so many healthy targets of so many are.
    fn are_enough(&self, (healthy, total): (usize, usize)) -> bool {
        healthy > 0 && healthy * 100 >= total * usize::from(self.healthy_percent)
    }
}

// === impl Shifter ===

impl Shifter {
    /// Of the application that the driver leads.
    #[must_use]
    pub fn new(driver: EcsDriver, http: Http, limits: Limits) -> Self {
        Self { driver, http, limits }
    }

    /// Answers one event. `request` names it, and is the same when the same event is delivered again.
    ///
    /// # Errors
    /// See [`ShifterError`].
    pub async fn handle(&self, event: &Value, request: &str) -> Result<Value, ShifterError> {
        match Event::read(event, request)? {
            Event::Asked(ask, name) => self.reply(ask, &name).await,
            Event::Job(id, ask) => self.job(&id, ask).await,
            Event::Over(words) => Ok(response(200, &json!({ "message": words }))),
            Event::Hook(hook) => Ok(hook.answer(self).await),
        }
    }

    /// Does what a pipeline asks, and tells it how that ended. To the pipeline's function itself all is well then: called
    /// again, it could not tell it anything else.
    async fn job(&self, id: &str, ask: Result<Ask, ShifterError>) -> Result<Value, ShifterError> {
        let answered = match ask {
            Ok(ask) => self.reply(ask, &format!("job {id}")).await,
            Err(wrong) => Err(wrong),
        };
        match answered {
            Ok(reply) => {
                self.driver.end_job(id, Ok(())).await?;
                Ok(reply)
            }
            Err(failure) => {
                let words = crate::chain(&failure);
                self.driver.end_job(id, Err(&words)).await?;
                Ok(response(500, &json!({ "message": words })))
            }
        }
    }

    async fn reply(&self, ask: Ask, name: &str) -> Result<Value, ShifterError> {
        match ask {
            Ask::Move(asked) => self.answer(asked, name).await?.reply(),
            Ask::Pause(pause) => pause.answer(self).await,
        }
    }

    /// Moves what is asked, once for each name.
    async fn answer(&self, ask: Move, name: &str) -> Result<Answer, ShifterError> {
        let (key, stages) = (&Answer::key(name), ask.stages());
        let (green_percent, notes) = self.driver.traffic().await?;
        let (begun, at) = match Answer::remembered(&notes, key) {
            Some(before) if !before.is_open() => return Ok(before),
            Some(before) if before.epoch != notes.epoch => return Ok(before.with(Outcome::Overtaken)),
            Some(back) if back.outcome != Outcome::Begun => return self.arrive(back, green_percent, &notes).await,
            Some(begun) => match share::of(begun.to, green_percent) {
                // Whoever was to move it did not come to that.
                0 if begun.is_moving => self.begin(ask, key, green_percent, &notes).await?,
                at if stages.contains(&at) => (self.settle(begun).await?, at),
                _ => return self.remember(begun.with(Outcome::Overtaken), &notes).await,
            },
            None => self.begin(ask, key, green_percent, &notes).await?,
        };
        if begun.outcome != Outcome::Begun {
            return Ok(begun);
        }
        self.watch(begun, at, &stages).await
    }

    /// Decides and moves, and says what percent of the traffic goes there then. An answer that is not the last one is
    /// [`Outcome::Begun`].
    async fn begin(&self, ask: Move, key: &str, green_percent: u8, notes: &Notes) -> Result<(Answer, u8), ShifterError> {
        let live = share::live(green_percent);
        let is_recent = notes.moved.is_some_and(|moved| Timestamp::now().as_second() - moved.as_second() <= BECAUSE_OF_IT);
        let to = match ask {
            Move::Switch(to, _) => to.or(live.map(Color::other)),
            Move::Back => notes.before,
            Move::BackFromAlarm => notes.before.filter(|_| is_recent),
        };
        let most = share::most(green_percent);
        let answer = |to: Color, outcome: Outcome, (healthy, total): (usize, usize)| {
            let (key, from, epoch) = (key.to_owned(), to.other(), notes.epoch);
            Answer { key, outcome, from, to, healthy, total, epoch, is_moving: false }
        };
        let goes_back = matches!(ask, Move::Back | Move::BackFromAlarm);
        let Some(to) = to else {
            let outcome = if goes_back { Outcome::Nowhere } else { Outcome::Split };
            return Ok((self.remember(answer(most, outcome, (0, 0)), notes).await?, 0));
        };
        let (health, at) = (self.driver.health(to).await?, share::of(to, green_percent));
        if live == Some(to) {
            return Ok((self.remember(answer(to, Outcome::Already, health), notes).await?, at));
        }
        // Going back, anybody who is there is better than who is not good enough.
        if !(if goes_back { health.0 > 0 } else { self.limits.are_enough(health) }) {
            return Ok((self.remember(answer(to, Outcome::Unhealthy, health), notes).await?, at));
        }
        // Who gets some of it already gets no less.
        let first = ask.stages().into_iter().find(|stage| *stage > at).unwrap_or(100);
        let outcome = if goes_back { Outcome::WentBack } else { Outcome::Begun };
        let answer = Answer { epoch: notes.epoch + 1, is_moving: true, ..answer(to, outcome, health) };
        self.driver.answer_and_move(share::of(to, first), notes.epoch, &answer.beside(notes)).await?;
        tracing::info!("{first} % of the traffic goes to {to}");
        Ok((self.settle(answer).await?, first))
    }

    /// Ends a way back on which somebody was cut off.
    async fn arrive(&self, back: Answer, green_percent: u8, notes: &Notes) -> Result<Answer, ShifterError> {
        let to = back.leads_to();
        if share::of(to, green_percent) < 100 {
            self.driver.answer_and_move_on(share::of(to, 100), back.epoch, &back.beside(notes)).await?;
            tracing::info!("all traffic goes to {to}");
        }
        self.settle(back).await
    }

    /// Remembers that the weights are what an answer says, unless somebody has acted since.
    async fn settle(&self, answer: Answer) -> Result<Answer, ShifterError> {
        if !answer.is_moving {
            return Ok(answer);
        }
        let settled = Answer { is_moving: false, ..answer };
        let (_, notes) = self.driver.traffic().await?;
        if notes.epoch == settled.epoch { self.remember(settled, &notes).await } else { Ok(settled) }
    }

    /// Watches a move that has come to this percent, and goes on with it. It is watched for as long as one without steps.
    async fn watch(&self, begun: Answer, mut at: u8, stages: &[u8]) -> Result<Answer, ShifterError> {
        let long = self.limits.bake / u32::try_from(stages.len()).unwrap_or(1);
        loop {
            let (notes, good) = match self.bake(&begun, at, long).await? {
                Baked::Good(notes, health) => (notes, Answer { healthy: health.0, total: health.1, ..begun.clone() }),
                Baked::Bad(failed) => return self.go_back(begun, at, failed).await,
                Baked::Overtaken => return self.give_up(begun).await,
            };
            let Some(next) = stages.iter().copied().find(|stage| *stage > at) else {
                return self.remember(good.with(Outcome::Done), &notes).await;
            };
            match self.driver.answer_and_move_on(share::of(begun.to, next), begun.epoch, &good.beside(&notes)).await {
                Ok(()) => {
                    tracing::info!("{next} % of the traffic goes to {}", begun.to);
                    at = next;
                }
                Err(failure) if self.as_left(&begun, at).await?.is_some() => return Err(failure.into()),
                Err(_) => return self.give_up(begun).await,
            }
        }
    }

    /// Looks for this long at what a percent of the traffic comes to.
    async fn bake(&self, begun: &Answer, at: u8, long: Duration) -> Result<Baked, ShifterError> {
        let started = Instant::now();
        loop {
            let Some(notes) = self.as_left(begun, at).await? else { return Ok(Baked::Overtaken) };
            let left = long.saturating_sub(started.elapsed());
            let health = self.driver.health(begun.to).await?;
            if health.0 == 0 || left.is_zero() && !self.limits.are_enough(health) {
                let failed = Answer { healthy: health.0, total: health.1, ..begun.clone() };
                return Ok(Baked::Bad(failed.with(Outcome::BackUnhealthy)));
            }
            if left.is_zero() {
                // While both get some, either may answer.
                let answered = if at == 100 { self.is_answered_by(begun.to).await } else { Ok(()) };
                return Ok(match answered {
                    Ok(()) => Baked::Good(notes, health),
                    Err(words) => {
                        tracing::warn!("{words}");
                        Baked::Bad(begun.clone().with(Outcome::BackUnanswered))
                    }
                });
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }

    /// Undoes a move that was none for the better.
    async fn go_back(&self, begun: Answer, at: u8, failed: Answer) -> Result<Answer, ShifterError> {
        let Some(notes) = self.as_left(&begun, at).await? else { return self.give_up(begun).await };
        if self.driver.health(begun.from).await?.0 == 0 {
            // The traffic would go from bad to nobody.
            return self.remember(failed.with(Outcome::Stuck), &notes).await;
        }
        let back = Answer { epoch: begun.epoch + 1, is_moving: true, ..failed };
        let is_ours = |notes: &Notes| Answer::remembered(notes, &back.key).is_some_and(|now| now == back);
        match self.driver.answer_and_move(share::of(begun.from, 100), begun.epoch, &back.beside(&notes)).await {
            Ok(()) => self.settle(back.clone()).await,
            // What it wrote before it moved stands there: asked for again, it is gone on with from there.
            Err(failure) if self.as_left(&begun, at).await?.is_some() || is_ours(&self.driver.traffic().await?.1) => {
                Err(failure.into())
            }
            Err(_) => self.give_up(begun).await,
        }
    }

    /// Somebody else acted: what was begun is not gone on with, also when it is asked for again.
    async fn give_up(&self, begun: Answer) -> Result<Answer, ShifterError> {
        let (_, notes) = self.driver.traffic().await?;
        self.remember(begun.with(Outcome::Overtaken), &notes).await
    }

    /// An answer to something that moves nothing any more.
    async fn remember(&self, answer: Answer, notes: &Notes) -> Result<Answer, ShifterError> {
        self.driver.answer(&answer.beside(notes)).await?;
        Ok(answer)
    }

    /// What is remembered, unless somebody has acted since, or has set the weights by hand.
    async fn as_left(&self, begun: &Answer, at: u8) -> Result<Option<Notes>, DriverError> {
        let (green_percent, notes) = self.driver.traffic().await?;
        let is_as_left = notes.epoch == begun.epoch
            && share::of(begun.to, green_percent) == at
            && Answer::remembered(&notes, &begun.key).is_some();
        Ok(is_as_left.then_some(notes))
    }

    /// Whether clients are answered, and by whom: a server that does not say its color is not asked for it.
    async fn is_answered_by(&self, color: Color) -> Result<(), String> {
        let Some(entrance) = &self.limits.entrance else { return Ok(()) };
        let address = format!("{}/health", entrance.trim_end_matches('/'));
        let answer = self.http.get(&address, ASKED_WITHIN).await.and_then(|answer| answer.success(&address));
        let answer = answer.map_err(|failure| crate::chain(&failure))?;
        match answer.header("release-color") {
            Some(by) if by != color.as_str() => Err(format!("{address} is answered by {by}")),
            _ => Ok(()),
        }
    }
}

/// What Lambda hands to whoever asked.
fn response(status: u16, body: &Value) -> Value {
    json!({ "statusCode": status, "body": body.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::ecs::double::{Double, State, group};

    fn shifter(double: &Double) -> Shifter {
        let limits = Limits { healthy_percent: 80, bake: Duration::ZERO, entrance: Some(double.entrance()) };
        Shifter::new(double.driver(), Http::new(), limits)
    }

    pub(super) async fn ask(double: &Double, event: Value, request: &str) -> Result<Value, String> {
        let answered = Box::pin(shifter(double).handle(&event, request)).await;
        answered.map_err(|failure| failure.to_string())
    }

    pub(super) fn body(answered: Result<Value, String>) -> Value {
        let answered = answered.expect("it is answered");
        assert_eq!(answered["statusCode"], 200);
        serde_json::from_str(answered["body"].as_str().unwrap()).unwrap()
    }

    fn weights(double: &Double) -> Vec<i32> {
        double.state().weights()
    }

    fn moves(double: &Double) -> usize {
        double.state().called("ModifyRule").len()
    }

    /// Does something once, when it is told of a call for the so-many-th time.
    pub(super) fn on(double: &Double, call: &'static str, mut times: usize, act: impl Fn(&mut State) + Send + 'static) {
        double.meddle(move |called, state| {
            if called == call && times > 0 {
                times -= 1;
                if times == 0 {
                    act(state);
                }
            }
        });
    }

    pub(super) fn unwell(state: &mut State, color: Color) {
        state.targets.insert(group(color), vec![(3001, "unhealthy"), (3002, "unhealthy")]);
    }

    #[tokio::test]
    async fn a_person_moves_the_traffic_to_the_color_that_is_not_live() {
        let double = Double::start().await;
        let said = body(ask(&double, json!({}), "1").await);
        let expected = json!({ "message": "Traffic switch successful", "currentEnvironment": "blue", "newEnvironment": "green",
            "health": { "healthy": 2, "total": 2 } });
        assert_eq!((said, weights(&double)), (expected, vec![0, 100]));
        let said = body(ask(&double, json!({ "to": "green" }), "2").await);
        assert_eq!((said["message"].as_str(), moves(&double)), (Some("green has all the traffic already"), 1));
        let said = body(ask(&double, json!({ "action": "rollback" }), "3").await);
        assert_eq!((said["newEnvironment"].as_str(), weights(&double)), (Some("blue"), vec![100, 0]));
        let said = body(ask(&double, json!({ "action": "rollback" }), "4").await);
        assert!(said["message"].as_str().unwrap().starts_with("There is nothing to go back to"), "{said}");
    }

    #[tokio::test]
    async fn the_same_request_is_done_once_and_answered_the_same() {
        let double = Double::start().await;
        let first = ask(&double, json!({}), "1").await;
        assert_eq!(ask(&double, json!({}), "1").await, first);
        assert_eq!((moves(&double), weights(&double)), (1, vec![0, 100]));
        ask(&double, json!({}), "2").await.unwrap();
        assert_eq!(weights(&double), [100, 0], "another request is another move");
        assert_eq!(ask(&double, json!({}), "1").await, first, "also when another came after it");
        assert_eq!(moves(&double), 2);
    }

    #[tokio::test]
    async fn nothing_is_moved_to_a_color_that_is_not_healthy_enough() {
        let double = Double::start().await;
        double.state().targets.insert(group(Color::Green), vec![(1, "healthy"), (2, "initial"), (3, "draining")]);
        let refused = ask(&double, json!({}), "1").await.unwrap_err();
        assert_eq!(refused, "Only 1/2 targets of green are healthy: nothing was moved");
        double.state().targets.insert(group(Color::Green), Vec::new());
        let refused = ask(&double, json!({}), "2").await.unwrap_err();
        assert_eq!(refused, "No target of green is healthy: nothing was moved");
        double.state().targets.insert(group(Color::Green), vec![(1, "healthy")]);
        assert!(ask(&double, json!({}), "2").await.is_err(), "what was refused is refused when it is delivered again");
        assert_eq!(moves(&double), 0);
    }

    #[tokio::test]
    async fn a_move_that_was_none_for_the_better_is_undone() {
        let double = Double::start().await;
        on(&double, "ModifyRule", 1, |state| unwell(state, Color::Green));
        let failed = ask(&double, json!({}), "1").await.unwrap_err();
        assert_eq!(failed, "Traffic switch failed, rolled back to blue: 0/2 targets of green are healthy");
        assert_eq!((weights(&double), moves(&double)), (vec![100, 0], 2));
        assert_eq!(ask(&double, json!({}), "1").await.unwrap_err(), failed);
        assert_eq!(moves(&double), 2);
    }

    #[tokio::test]
    async fn a_move_after_which_clients_are_answered_by_somebody_else_is_undone() {
        let double = Double::start().await;
        double.state().answered_by = Some("blue");
        let failed = ask(&double, json!({}), "1").await.unwrap_err();
        assert!(failed.contains("rolled back to blue: the entrance was not answered as green"), "{failed}");
        assert_eq!(weights(&double), [100, 0]);
    }

    #[tokio::test]
    async fn nobody_goes_back_to_a_color_of_which_nobody_is_there() {
        let double = Double::start().await;
        on(&double, "ModifyRule", 1, |state| {
            unwell(state, Color::Green);
            unwell(state, Color::Blue);
        });
        let failed = ask(&double, json!({}), "1").await.unwrap_err();
        assert!(failed.contains("green keeps the traffic"), "{failed}");
        assert_eq!(weights(&double), [0, 100]);
    }

    #[tokio::test]
    async fn who_is_overtaken_notices_and_undoes_nothing() {
        let double = Double::start().await;
        // A rollback of the command comes while the move is watched.
        on(&double, "ModifyRule", 1, |state| {
            state.meddler = Some(Box::new(|call, state| {
                if call == "DescribeServices" {
                    state.tags.insert("rollout.mcp/epoch".to_owned(), "9".to_owned());
                    state.weigh(100, 0);
                    unwell(state, Color::Green);
                }
            }));
        });
        let stopped = ask(&double, json!({}), "1").await.unwrap_err();
        assert!(stopped.starts_with("Somebody else moved the traffic"), "{stopped}");
        assert_eq!((weights(&double), moves(&double)), (vec![100, 0], 1));
        let again = ask(&double, json!({}), "1").await.unwrap_err();
        assert_eq!((again, moves(&double)), (stopped, 1), "delivered again, it is not a new request");
    }

    #[tokio::test]
    async fn a_later_rollout_that_has_not_moved_anything_yet_is_not_got_in_the_way_of() {
        let double = Double::start().await;
        on(&double, "DescribeTargetHealth", 2, |state| {
            state.tags.insert("rollout.mcp/epoch".to_owned(), "9".to_owned());
            unwell(state, Color::Green);
        });
        assert!(ask(&double, json!({}), "1").await.unwrap_err().starts_with("Somebody else moved the traffic"));
        assert_eq!((weights(&double), moves(&double)), (vec![0, 100], 1));
    }

    #[tokio::test]
    async fn what_was_decided_before_somebody_else_acted_is_not_done() {
        let double = Double::start().await;
        on(&double, "DescribeTargetHealth", 1, |state| {
            state.tags.insert("rollout.mcp/epoch".to_owned(), "1".to_owned());
        });
        let refused = ask(&double, json!({}), "1").await.unwrap_err();
        assert_eq!(refused, "somebody else acted meanwhile (epoch 1, it was 0)");
        assert_eq!(moves(&double), 0);
    }

    #[tokio::test]
    async fn weights_that_somebody_set_while_a_move_is_watched_are_let_be() {
        let double = Double::start().await;
        on(&double, "DescribeTargetHealth", 2, |state| {
            state.weigh(50, 50);
            unwell(state, Color::Green);
        });
        assert!(ask(&double, json!({}), "1").await.unwrap_err().starts_with("Somebody else moved the traffic"));
        assert_eq!(weights(&double), [50, 50]);
        double.state().weigh(100, 0);
        double.state().targets.insert(group(Color::Green), vec![(3001, "healthy")]);
        assert!(ask(&double, json!({}), "1").await.is_err(), "gone back to by hand, it is not moved again");
        assert_eq!(weights(&double), [100, 0]);
    }

    /// What each move gave to green.
    fn shares(double: &Double) -> Vec<String> {
        let told = double.state().called("ModifyRule");
        let weight =
            |told: &Value| told["Actions.member.1.ForwardConfig.TargetGroups.member.2.Weight"].as_str().map(str::to_owned);
        told.iter().filter_map(weight).collect()
    }

    #[tokio::test]
    async fn a_move_in_steps_makes_each_of_them_and_leads_back_to_where_it_began() {
        let double = Double::start().await;
        let said = body(ask(&double, json!({ "to": "green", "steps": [10, 50] }), "1").await);
        assert_eq!(
            (said["message"].as_str(), shares(&double)),
            (Some("Traffic switch successful"), ["10", "50", "100"].map(str::to_owned).to_vec())
        );
        assert_eq!(double.state().tags["rollout.mcp/epoch"], "1", "it is one move");
        ask(&double, json!({ "to": "green", "steps": [10, 50] }), "1").await.unwrap();
        assert_eq!(moves(&double), 3);
        body(ask(&double, json!({ "action": "rollback" }), "2").await);
        assert_eq!(weights(&double), [100, 0]);
        // Who has some of it already is not given less.
        double.state().weigh(80, 20);
        ask(&double, json!({ "to": "green", "steps": [10, 50] }), "3").await.unwrap();
        assert_eq!(shares(&double)[4..], ["50", "100"]);
    }

    #[tokio::test]
    async fn a_step_that_was_none_for_the_better_is_the_last_one() {
        let double = Double::start().await;
        on(&double, "ModifyRule", 2, |state| unwell(state, Color::Green));
        let failed = ask(&double, json!({ "steps": [10, 50] }), "1").await.unwrap_err();
        assert_eq!(failed, "Traffic switch failed, rolled back to blue: 0/2 targets of green are healthy");
        assert_eq!(shares(&double), ["10", "50", "0"]);
    }

    #[tokio::test]
    async fn a_step_is_not_made_after_somebody_else_acted_or_set_the_weights() {
        for (blue, green, epoch) in [(100, 0, "9"), (60, 40, "1")] {
            let double = Double::start().await;
            on(&double, "ModifyRule", 1, move |state| {
                state.meddler = Some(Box::new(move |call, state| {
                    if call == "DescribeTargetHealth" {
                        state.tags.insert("rollout.mcp/epoch".to_owned(), epoch.to_owned());
                        state.weigh(blue, green);
                    }
                }));
            });
            let stopped = ask(&double, json!({ "steps": [10, 50] }), "1").await.unwrap_err();
            assert!(stopped.starts_with("Somebody else moved the traffic"), "{stopped}");
            assert_eq!((weights(&double), shares(&double)), (vec![blue, green], vec!["10".to_owned()]));
        }
    }

    #[tokio::test]
    async fn a_move_in_steps_that_was_cut_off_is_gone_on_with_where_it_is() {
        let double = Double::start().await;
        let asked = json!({ "steps": [10, 50] });
        on(&double, "ModifyRule", 2, |state| state.refuses = Some("OperationNotPermitted"));
        assert!(ask(&double, asked.clone(), "1").await.is_err());
        assert_eq!(weights(&double), [90, 10]);
        let said = body(ask(&double, asked.clone(), "1").await);
        assert_eq!((said["message"].as_str(), weights(&double)), (Some("Traffic switch successful"), vec![0, 100]));
        assert_eq!(shares(&double), ["10", "50", "50", "100"]);
        // Weights that it did not set are not gone on from.
        let double = Double::start().await;
        on(&double, "ModifyRule", 2, |state| state.refuses = Some("OperationNotPermitted"));
        assert!(ask(&double, asked.clone(), "1").await.is_err());
        double.state().weigh(70, 30);
        let stopped = ask(&double, asked, "1").await.unwrap_err();
        assert!(stopped.starts_with("Somebody else moved the traffic"), "{stopped}");
        assert_eq!(weights(&double), [70, 30]);
    }

    #[tokio::test]
    async fn a_request_that_was_cut_off_before_it_moved_anything_is_done_when_it_comes_again() {
        let double = Double::start().await;
        on(&double, "ModifyRule", 1, |state| state.refuses = Some("OperationNotPermitted"));
        assert!(ask(&double, json!({}), "1").await.is_err());
        assert_eq!(weights(&double), [100, 0]);
        let said = body(ask(&double, json!({}), "1").await);
        assert_eq!((said["message"].as_str(), weights(&double)), (Some("Traffic switch successful"), vec![0, 100]));
    }

    #[tokio::test]
    async fn whoever_was_cut_off_on_the_way_back_goes_back_when_it_comes_again() {
        let (back, refuse) = (json!({ "action": "rollback" }), |state: &mut State| state.refuses = Some("OperationNotPermitted"));
        let double = Double::start().await;
        body(ask(&double, json!({}), "1").await);
        on(&double, "ModifyRule", 1, refuse);
        assert!(ask(&double, back.clone(), "2").await.is_err());
        assert_eq!(weights(&double), [0, 100]);
        let said = body(ask(&double, back.clone(), "2").await);
        assert_eq!((said["message"].as_str(), weights(&double)), (Some("All traffic goes to blue again"), vec![100, 0]));
        // It was done, and is not done again after somebody set the weights.
        double.state().weigh(30, 70);
        assert_eq!(body(ask(&double, back, "2").await), said);
        assert_eq!(weights(&double), [30, 70]);
        // A move that was none for the better.
        let double = Double::start().await;
        let mut moved = 0;
        double.meddle(move |call, state| {
            moved += usize::from(call == "ModifyRule");
            if call == "ModifyRule" && moved == 1 {
                unwell(state, Color::Green);
            } else if call == "ModifyRule" && moved == 2 {
                refuse(state);
            }
        });
        assert!(ask(&double, json!({}), "1").await.is_err());
        assert_eq!(weights(&double), [0, 100]);
        let failed = ask(&double, json!({}), "1").await.unwrap_err();
        assert_eq!((weights(&double), failed.contains("rolled back to blue")), (vec![100, 0], true), "{failed}");
    }

    #[tokio::test]
    async fn what_somebody_took_back_by_hand_after_its_watcher_was_cut_off_is_let_be() {
        let double = Double::start().await;
        on(&double, "DescribeTargetHealth", 2, |state| state.refuses = Some("ValidationError"));
        assert!(ask(&double, json!({}), "1").await.is_err());
        assert_eq!(weights(&double), [0, 100]);
        double.state().weigh(100, 0);
        let stopped = ask(&double, json!({}), "1").await.unwrap_err();
        assert!(stopped.starts_with("Somebody else moved the traffic"), "{stopped}");
        assert_eq!((weights(&double), moves(&double)), (vec![100, 0], 1));
    }

    #[tokio::test]
    async fn a_move_whose_watcher_was_cut_off_is_watched_by_the_next_one() {
        let double = Double::start().await;
        // The second question about health is the watcher's.
        on(&double, "DescribeTargetHealth", 2, |state| state.refuses = Some("ValidationError"));
        assert!(ask(&double, json!({}), "1").await.is_err());
        assert_eq!((weights(&double), moves(&double)), (vec![0, 100], 1));
        unwell(&mut double.state(), Color::Green);
        let failed = ask(&double, json!({}), "1").await.unwrap_err();
        assert!(failed.contains("rolled back to blue"), "{failed}");
        assert_eq!((weights(&double), moves(&double)), (vec![100, 0], 2));
    }

    #[tokio::test]
    async fn two_requests_at_the_same_moment_are_one_move() {
        let double = Double::start().await;
        on(&double, "AddTags", 1, |state| {
            // Another one was quicker: its epoch is the same.
            state.tags.insert("rollout.mcp/epoch".to_owned(), "1".to_owned());
            state.meddler = Some(Box::new(|call, state| {
                if call == "DescribeTags" {
                    state.tags.insert("rollout.mcp/answered".to_owned(), "another".to_owned());
                }
            }));
        });
        let refused = ask(&double, json!({}), "1").await.unwrap_err();
        assert!(refused.starts_with("somebody else acts at the same moment"), "{refused}");
        assert_eq!(moves(&double), 0);
    }

    pub(super) fn job(id: &str, parameters: &str) -> Value {
        let configuration = json!({ "UserParameters": parameters });
        json!({ "CodePipeline.job": { "id": id, "data": { "actionConfiguration": { "configuration": configuration } } } })
    }

    #[tokio::test]
    async fn a_pipeline_is_told_how_its_job_ended() {
        let double = Double::start().await;
        body(ask(&double, job("j-1", r#"{"to":"green"}"#), "1").await);
        assert_eq!(double.state().called("PutJobSuccessResult"), [json!({ "jobId": "j-1" })]);
        body(ask(&double, job("j-1", r#"{"to":"green"}"#), "2").await);
        assert_eq!(moves(&double), 1, "the same job is the same request");
        on(&double, "PutJobSuccessResult", 1, |state| state.refuses = Some("InvalidJobStateException"));
        body(ask(&double, job("j-1", r#"{"to":"green"}"#), "2").await);
        unwell(&mut double.state(), Color::Blue);
        assert_eq!(ask(&double, job("j-2", ""), "3").await.unwrap()["statusCode"], 500);
        ask(&double, job("j-3", "green"), "4").await.unwrap();
        let failed = double.state().called("PutJobFailureResult");
        assert_eq!(failed[0]["failureDetails"]["message"], "No target of blue is healthy: nothing was moved");
        assert!(failed[1]["failureDetails"]["message"].as_str().unwrap().contains("UserParameters green"));
        assert_eq!((moves(&double), weights(&double)), (1, vec![0, 100]));
    }

    fn alarm(value: &str, at: &str) -> Value {
        json!({ "detail-type": "CloudWatch Alarm State Change",
            "detail": { "alarmName": "5xx", "state": { "value": value, "timestamp": at } } })
    }

    #[tokio::test]
    async fn an_alarm_goes_back_when_the_last_move_can_be_the_reason() {
        let double = Double::start().await;
        let said = body(ask(&double, alarm("ALARM", "1"), "1").await);
        assert!(said["message"].as_str().unwrap().starts_with("There is nothing to go back to"), "{said}");
        body(ask(&double, json!({}), "2").await);
        body(ask(&double, alarm("OK", "2"), "3").await);
        assert_eq!(weights(&double), [0, 100]);
        body(ask(&double, alarm("ALARM", "3"), "4").await);
        assert_eq!(weights(&double), [100, 0]);
        body(ask(&double, json!({}), "5").await);
        body(ask(&double, alarm("ALARM", "3"), "6").await);
        assert_eq!(weights(&double), [0, 100], "the same alarm is the same request");
        double.state().tags.insert("rollout.mcp/moved".to_owned(), "2020-01-01T00:00:00Z".to_owned());
        let said = body(ask(&double, alarm("ALARM", "4"), "7").await);
        assert!(said["message"].as_str().unwrap().starts_with("There is nothing to go back to"), "{said}");
        assert_eq!(weights(&double), [0, 100]);
    }

    fn hook(stage: &str, asked: u64) -> Value {
        json!({ "executionId": "x", "lifecycleStage": stage, "resourceArn": "arn:aws:ecs:eu:1:service-deployment/mcp/app/x",
            "executionDetails": { "serviceArn": "arn", "targetServiceRevisionArn": "arn" }, "hookDetails": { "asked": asked } })
    }

    #[tokio::test]
    async fn a_deployment_of_ecs_goes_on_when_the_new_revision_is_healthy_and_answers() {
        let double = Double::start().await;
        let stage = "POST_TEST_TRAFFIC_SHIFT";
        unwell(&mut double.state(), Color::Green);
        assert_eq!(ask(&double, hook("PRE_SCALE_UP", 0), "1").await.unwrap(), json!({ "hookStatus": "SUCCEEDED" }));
        let again = json!({ "hookStatus": "IN_PROGRESS", "callBackDelay": 30, "hookDetails": { "asked": 3 } });
        assert_eq!(ask(&double, hook(stage, 2), "1").await.unwrap(), again);
        assert_eq!(ask(&double, hook(stage, 20), "1").await.unwrap(), json!({ "hookStatus": "FAILED" }));
        // The tasks say that they are ready, and then do not answer as a server of MCP does.
        double.state().targets.insert(group(Color::Green), vec![(1, "healthy")]);
        assert_eq!(ask(&double, hook(stage, 0), "1").await.unwrap(), json!({ "hookStatus": "FAILED" }));
        // Nobody reaches them from here: what clients are answered decides.
        double.state().ready = (503, Value::Null);
        assert_eq!(ask(&double, hook(stage, 0), "1").await.unwrap(), json!({ "hookStatus": "SUCCEEDED" }));
        let blind = Limits { entrance: None, ..shifter(&double).limits };
        let blind = Shifter { limits: blind, ..shifter(&double) };
        assert_eq!(Box::pin(blind.handle(&hook(stage, 0), "1")).await.unwrap(), json!({ "hookStatus": "FAILED" }));
        assert_eq!(moves(&double), 0);
    }
}
