//! What each step does. A step says what it found and decides nothing about what comes after it.

use std::time::{Duration, Instant};

use bg_runtime::Color;
use futures_util::future::join_all;
use http::Method;

use super::{ASKED_WITHIN, HOLD, LOOK, PROMETHEUS_EVERY, PROVED_WITHIN, Work};
use crate::{
    bake::{self, Ear, Going},
    compare::{Comparison, Verdict},
    console::span,
    driver::{DriverError, Observation, Replica, insist},
    gate::{self, Finding, Gate},
    plan::{Goal, Step},
    record::now_ms,
    report::SwitchProof,
};

// === impl Work ===

impl Work<'_> {
    pub(super) async fn step(&mut self, step: Step, seen: &Observation) -> Finding {
        let did = match step {
            Step::Gate(gate) => return self.gate(gate).await,
            Step::Start => self.start(seen).await,
            Step::Shift(share) => self.shift(share, seen).await,
            Step::Prove => self.prove(self.goal.color()).await,
            Step::Shed => self.shed(self.goal.color().other()).await,
            Step::Bake(share) => return self.bake(share).await,
            Step::Drained => self.drained(self.old_color()).await,
            Step::Stop => self.stop(self.old_color()).await,
        };
        match did {
            Ok(finding) => finding,
            Err(failure) => Finding::failed(crate::chain(&failure)),
        }
    }

    /// The color that is gone in the end.
    fn old_color(&self) -> Color {
        match self.goal {
            Goal::Retire { color } => *color,
            goal => goal.color().other(),
        }
    }

    pub(super) async fn gate(&self, gate: Gate) -> Finding {
        let rollout = self.rollout;
        let color = self.goal.color();
        let (image, replicas) = match self.goal {
            Goal::Deploy { image, replicas, .. } => (Some(image), *replicas),
            _ => (None, 1),
        };
        let progress = |words: &str| rollout.console.goes(words);
        let context = gate::Context {
            driver: &*rollout.driver,
            http: &rollout.http,
            journal: rollout.journal.as_ref(),
            rollout: Some(&rollout.entry.id),
            color,
            image,
            replicas,
            live_rate: self.recorder.rate(color.other()),
            limits: &rollout.settings.limits,
            progress: &progress,
        };
        let finding = gate.ask(&context).await;
        if gate == Gate::Ready && finding.passed {
            if let Some((_, build)) = finding.details.iter().find(|(label, _)| label == "build")
                && let Some(journal) = &rollout.journal
            {
                self.note(journal.set_build(&rollout.entry.id, build).await);
            }
            // It gets no traffic yet. Who does not hear that believes it does, and is none the worse.
            if let Ok(seen) = rollout.driver.observe().await
                && seen.share(color) == 0
            {
                self.tell(&seen.slot(color).replicas, "preview").await;
            }
        }
        finding
    }

    pub(super) async fn start(&mut self, seen: &Observation) -> Result<Finding, DriverError> {
        let Goal::Deploy { image, replicas, .. } = self.goal else { return Ok(Finding::passed("nothing is to be started")) };
        let color = self.goal.color();
        let old = seen.slot(color);
        let is_other = old.ready() > 0 && old.image.as_ref() != Some(&image.hidden());
        if is_other
            && !self.rollout.settings.manner.replace
            && let Some(words) = self.holds(seen, color).await
        {
            let advice = "`rollout retire` waits until they are gone, --replace does not";
            return Ok(Finding::failed(format!("{color} still runs a build that holds {words}: {advice}")));
        }
        self.has_started = true;
        insist(async || self.rollout.driver.run(color, image, *replicas, self.epoch()).await).await?;
        self.recorder.event(format!("{color} starts"), Some(color));
        Ok(Finding::passed(format!("{replicas} of {} start as {color}", image.name)))
    }

    pub(super) async fn shift(&mut self, share: u8, seen: &Observation) -> Result<Finding, DriverError> {
        let color = self.goal.color();
        let from = seen.share(color);
        if share > from && seen.slot(color).ready() == 0 {
            return Ok(Finding::failed(format!("no replica of {color} is ready: the traffic stays where it is")));
        }
        if from == 0 {
            self.mark = self.recorder.done(color);
            if matches!(self.goal, Goal::Deploy { .. }) {
                self.keep_baseline(color.other()).await;
            }
        }
        self.decided = if matches!(self.goal, Goal::Switch { .. }) { self.rollout.commanded } else { Instant::now() };
        self.send(share, color).await?;
        let words = if share == 100 { format!("switched to {color}") } else { format!("{share} % to {color}") };
        self.recorder.event(&words, Some(color));
        Ok(Finding::passed(format!("{share} % of the traffic go to {color}, {from} % before")))
    }

    /// What the color before was like: since the rollout began, or since its replicas began when that is too little to tell.
    pub(super) async fn keep_baseline(&mut self, from: Color) {
        let mut done = self.recorder.done(from);
        if done.calls.total < self.rollout.settings.watch.limits.least_calls {
            done.calls = self.recorder.lifetime(from);
        }
        if let Some(journal) = &self.rollout.journal {
            self.note(journal.set_baseline(&self.rollout.entry.id, &done.calls).await);
        }
        self.baseline = Some(done);
    }

    /// Asks the entrance until the new color has answered so many times in a row.
    pub(super) async fn prove(&mut self, color: Color) -> Result<Finding, DriverError> {
        let proof = match self.answered_by(color).await {
            Ok(proof) => proof,
            Err(words) => return Ok(Finding::failed(words)),
        };
        let share = self.observe().await?.share(color);
        if share != 100 {
            return Ok(Finding::failed(format!("{share} of a hundred requests go to {color}, and all should")));
        }
        // A rollout that was killed between the move and its line in the journal comes here, too.
        if let Some(journal) = &self.rollout.journal {
            self.note(journal.switched(&self.rollout.entry.id).await);
        }
        let words = format!(
            "{color} answers everything: {} in a row, the first {:.0} ms after the decision, nobody else after {:.0} ms",
            proof.answers, proof.first_answer_ms, proof.whole_ms
        );
        let finding = Finding::passed(words).with("first answer", format!("{:.1} ms", proof.first_answer_ms));
        Ok(finding.with("all traffic", format!("{:.1} ms", proof.whole_ms)))
    }

    /// Asks the entrance, each time on a new connection, until a color has answered so many times in a row; how quick that
    /// was goes into the report.
    pub(super) async fn answered_by(&mut self, color: Color) -> Result<SwitchProof, String> {
        let wanted = self.rollout.settings.answers.max(1);
        let address = format!("{}/health", self.rollout.driver.entrance());
        let (mut in_a_row, mut first, mut begun) = (0, None, None);
        let started = Instant::now();
        while in_a_row < wanted {
            let asked = Instant::now();
            let answer = self.rollout.http.get(&address, ASKED_WITHIN).await;
            let by = answer.as_ref().ok().and_then(|answer| answer.header("release-color")).unwrap_or("nobody");
            if by == color.as_str() {
                first.get_or_insert_with(|| self.decided.elapsed());
                begun.get_or_insert(asked);
                in_a_row += 1;
                continue;
            }
            if started.elapsed() > PROVED_WITHIN {
                return Err(format!("after {PROVED_WITHIN:?} the entrance is still answered by {by}, not by {color} alone"));
            }
            (in_a_row, begun) = (0, None);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let first = first.unwrap_or_default();
        let whole = begun.map_or(first, |begun| begun.saturating_duration_since(self.decided)).max(first);
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let proof =
            SwitchProof { to: color, at_ms: now_ms(), first_answer_ms: ms(first), whole_ms: ms(whole), answers: in_a_row };
        self.switches.push(proof.clone());
        Ok(proof)
    }

    /// Tells the old color that it is retiring, and the new one that it is not.
    pub(super) async fn shed(&self, old: Color) -> Result<Finding, DriverError> {
        let seen = self.observe().await?;
        let still: Vec<_> = seen.slot(old).replicas.iter().filter(|replica| !replica.leaving).cloned().collect();
        let (heard, missed) = self.tell(&still, "retiring").await;
        self.tell(&seen.slot(old.other()).replicas, "active").await;
        let missed = if missed == 0 { String::new() } else { format!(", {missed} could not be told") };
        Ok(Finding::passed(format!("{} of {old} told to give old connections up{missed}", crate::count(heard, "replica"))))
    }

    /// Tells replicas their role: how many have heard, and how many have not.
    pub(super) async fn tell(&self, replicas: &[Replica], role: &str) -> (usize, usize) {
        let told = replicas.iter().map(async |replica| {
            let address = format!("http://{}/role/{role}", replica.operations);
            let told = self.rollout.http.send(Method::POST, &address, None, ASKED_WITHIN).await;
            told.is_ok_and(|answer| answer.status.is_success())
        });
        let told = join_all(told).await;
        let heard = told.iter().filter(|heard| **heard).count();
        (heard, told.len() - heard)
    }

    pub(super) async fn bake(&self, share: u8) -> Finding {
        let settings = &self.rollout.settings;
        let color = self.goal.color();
        let lasts = if share == 100 { settings.bake } else { settings.share_bake };
        let baseline = self.baseline.clone().unwrap_or_default();
        let begun = Instant::now();
        for look in 0.. {
            if let Some(reason) = self.ear.as_ref().and_then(Ear::heard) {
                return Finding::failed(format!("an alert came: {reason}"));
            }
            if look % PROMETHEUS_EVERY == 0
                && let Some(reason) = settings.watch.ask_prometheus(&self.rollout.http).await
            {
                return Finding::failed(reason);
            }
            let seen = match self.observe().await {
                Ok(seen) => seen,
                Err(failure) => return Finding::failed(crate::chain(&failure)),
            };
            if seen.share(color) != share {
                return Finding::failed(format!("somebody else moved the traffic: {} % go to {color}", seen.share(color)));
            }
            if seen.slot(color).ready() == 0 {
                let trouble = seen.slot(color).trouble.as_deref().unwrap_or("it was stopped, or says nothing");
                return Finding::failed(format!("no replica of {color} is ready any more: {trouble}"));
            }
            let candidate = self.recorder.done(color).since(&self.mark);
            match bake::judge(settings.watch.compare(&baseline, &candidate), begun, lasts) {
                Going::Well(words) => self.rollout.console.goes(&words),
                Going::Badly(comparison) => {
                    let reasons = comparison.reasons.join("; ");
                    return figures(Finding::failed(format!("{color} is worse: {reasons}")), &comparison);
                }
                Going::Over(comparison) => {
                    let words = match comparison.verdict {
                        Verdict::TooFew => {
                            let reasons = comparison.reasons.join("; ");
                            self.rollout.console.warn(&format!("the bake judged nothing: {reasons}"));
                            format!("NOTHING WAS JUDGED: {reasons}")
                        }
                        _ => format!("{color} is no worse than {} was, {} calls", color.other(), candidate.calls.total),
                    };
                    return figures(Finding::passed(words), &comparison);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        Finding::failed("it never ends")
    }

    pub(super) async fn drained(&self, color: Color) -> Result<Finding, DriverError> {
        let begun = Instant::now();
        let mut held: Option<Instant> = None;
        loop {
            let seen = self.observe().await?;
            let Some(words) = self.holds(&seen, color).await else {
                return Ok(Finding::passed(format!("nothing holds on to {color}")));
            };
            let within = self.rollout.settings.drained_within;
            if begun.elapsed() >= within {
                let loud = format!("{color} still holds {words} after {}: it is stopped all the same", span(within));
                self.rollout.console.warn(&loud);
                return Ok(Finding::passed(loud));
            }
            self.rollout.console.goes(&format!("{color} holds {words}"));
            if held.is_none_or(|held| held.elapsed() >= HOLD) {
                held = Some(Instant::now());
                if let Err(failure) = self.rollout.driver.hold(color, self.epoch()).await {
                    self.rollout.console.warn(&format!("{color} may be taken away: {}", crate::chain(&failure)));
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What holds on to a color, in words: what its replicas have in flight, and the conversations of its build. Nothing, only
    /// when every replica says so.
    pub(super) async fn holds(&self, seen: &Observation, color: Color) -> Option<String> {
        let (mut calls, mut streams, mut conversations) = (0, 0, 0);
        for replica in &seen.slot(color).replicas {
            let address = format!("http://{}/drainage", replica.operations);
            let asked = self.rollout.http.get(&address, ASKED_WITHIN).await.and_then(|answer| answer.success(&address));
            let said = match asked {
                Ok(answer) => answer.json(),
                Err(failure) => return Some(format!("what nobody knows ({}: {})", replica.name, crate::chain(&failure))),
            };
            let count = |name: &str| said[name].as_u64();
            let (Some(of_calls), Some(of_streams)) = (count("calls"), count("streams")) else {
                return Some(format!("what nobody knows ({} does not say)", replica.name));
            };
            (calls, streams) = (calls + of_calls, streams + of_streams);
            // Conversations of a build that both colors run lose nobody when one of them goes.
            if seen.slot(color.other()).in_service().any(|other| other.build == replica.build) {
                continue;
            }
            // Of the build as a whole, whoever is asked. A server without a database has none, and says so.
            match (count("conversations"), said.get("problem")) {
                (Some(of_build), _) => conversations = of_build.max(conversations),
                (None, Some(problem)) => return Some(format!("what nobody knows ({}: {problem})", replica.name)),
                (None, None) => {}
            }
        }
        let counted = [(calls, "calls"), (streams, "streams"), (conversations, "conversations")];
        let words: Vec<_> =
            counted.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }

    pub(super) async fn stop(&self, color: Color) -> Result<Finding, DriverError> {
        insist(async || self.rollout.driver.stop(color, self.epoch()).await).await?;
        self.recorder.event(format!("{color} stops"), Some(color));
        let (begun, within) = (Instant::now(), self.rollout.driver.stopped_within());
        loop {
            let seen = self.observe().await?;
            if seen.slot(color).is_empty() {
                return Ok(Finding::passed(format!("{color} is gone")));
            }
            if begun.elapsed() > within {
                let left = seen.slot(color).replicas.len();
                return Ok(Finding::failed(format!("{left} replicas of {color} are still there after {within:?}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn figures(finding: Finding, comparison: &Comparison) -> Finding {
    comparison.figures.iter().fold(finding, |finding, (label, value)| finding.with(label, value))
}
