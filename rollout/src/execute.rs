//! Doing what is planned: observe, plan, guard, one step, observe again.
//!
//! What must stay true: nothing is done without the lease, where there is a journal; a step that fails leaves the color that
//! was live before serving everything, and nothing of the new one behind; going back waits for nobody who is told of it.

mod steps;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bg_runtime::Color;
use serde_json::{Value, json};

use crate::{
    alert::{Alert, Webhook},
    bake::{Ear, Watch},
    console::{Console, Mark, span},
    driver::{Driver, DriverError, Observation, insist},
    gate::{self, Finding},
    http::Http,
    journal::{Entry, Journal, JournalError, Lease, StepEntry},
    plan::{Goal, Manner, Plan, Step, plan},
    record::{Done, Recorder, now_ms},
    report::{self, Outcome, Report, Side, StepLine, StepOutcome, SwitchProof},
    share,
};

/// What a rollout is told, beside its goal.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How a deploy is done.
    pub manner: Manner,
    /// What gates are told.
    pub limits: gate::Limits,
    /// What is asked in a bake.
    pub watch: Watch,
    /// How long the last bake lasts.
    pub bake: Duration,
    /// How long a bake of a smaller share lasts.
    pub share_bake: Duration,
    /// How many answers in a row prove a switch.
    pub answers: u32,
    /// How long to wait for what holds on to a color; then it is stopped all the same, loudly.
    pub drained_within: Duration,
    /// Where reports go.
    pub reports: PathBuf,
    /// Whether obstacles are passed by.
    pub force: bool,
}

/// What a rollout works with.
#[derive(Debug)]
pub struct Rollout {
    /// The platform.
    pub driver: Arc<dyn Driver>,
    /// The way to replicas.
    pub http: Http,
    /// The journal; without one only a rollback goes on.
    pub journal: Option<Journal>,
    /// The lease in it.
    pub lease: Option<Lease>,
    /// The epoch without one: greater than any that the platform has heard.
    pub unleased: i64,
    /// What it is told.
    pub settings: Settings,
    /// Where it is said.
    pub console: Arc<Console>,
    /// Who is told.
    pub webhook: Option<Webhook>,
    /// What is written down of it.
    pub entry: Entry,
    /// When the command was given.
    pub commanded: Instant,
}

/// How a rollout ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As it should.
    Done,
    /// The color before it serves again, for this reason.
    RolledBack(String),
    /// It went no further, for this reason; the color before it never stopped serving.
    Failed(String),
    /// Nothing was begun, for these reasons.
    Refused(Vec<String>),
    /// It could not be brought to an end, for this reason; the same command goes on with it.
    Stuck(String),
    /// Somebody else took over.
    Lost(String),
    /// A signal; it can be gone on with. Who gets the traffic meanwhile.
    Interrupted(String),
}

/// A rollout under way.
struct Work<'a> {
    rollout: &'a Rollout,
    goal: &'a Goal,
    recorder: Recorder,
    passed: Vec<String>,
    lines: Vec<StepLine>,
    switches: Vec<SwitchProof>,
    /// What the color before was like.
    baseline: Option<Done>,
    /// What the new one had done before it got traffic.
    mark: Done,
    ear: Option<Ear>,
    /// When the last move was decided.
    decided: Instant,
    /// Whether this rollout has let something run.
    has_started: bool,
}

const ASKED_WITHIN: Duration = Duration::from_secs(5);
/// How long a switch may take to show.
const PROVED_WITHIN: Duration = Duration::from_secs(30);
/// How often a bake looks.
const LOOK: Duration = Duration::from_millis(500);
/// How many looks between two questions to Prometheus.
const PROMETHEUS_EVERY: u32 = 10;
/// How often a platform hears that a color is still needed.
const HOLD: Duration = Duration::from_secs(300);
/// How long the end waits until people have been told.
const TOLD_WITHIN: Duration = Duration::from_secs(15);

// === impl Settings ===

impl Settings {
    /// Whether what is needed in the end is there in the beginning.
    ///
    /// # Errors
    /// What is not, in words.
    pub async fn usable(&self, http: &Http) -> Result<(), String> {
        let trial = self.reports.join(".trial");
        let write = || {
            std::fs::create_dir_all(&self.reports)?;
            std::fs::write(&trial, "")?;
            std::fs::remove_file(&trial)
        };
        write().map_err(|failure| format!("reports cannot be written to {}: {failure}", self.reports.display()))?;
        self.watch.reach_prometheus(http).await
    }
}

// === impl Rollout ===

impl Rollout {
    /// Does it, to whatever end.
    pub async fn run(self, goal: &Goal) -> (End, Report) {
        let before = self.earlier();
        let (samples, events, switches) =
            before.map_or_else(Default::default, |report| (report.samples, report.events, report.switches));
        let is_deploy = matches!(goal, Goal::Deploy { .. });
        // A switch by itself is over in a moment, and nothing is to be in its way.
        let after = if is_deploy { Duration::ZERO } else { Duration::from_millis(500) };
        let recorder = Recorder::start(self.driver.clone(), self.http.clone(), samples, events, after);
        let steps = match &self.journal {
            // Only a deploy is gone on with; a switch is made again.
            Some(journal) if is_deploy => journal.steps(&self.entry.id).await,
            _ => Ok(Vec::new()),
        };
        let (steps, unreadable) = match steps {
            Ok(steps) => (steps, None),
            Err(failure) => (Vec::new(), Some(crate::chain(&failure))),
        };
        let baseline = self.entry.baseline.clone().map(|calls| Done { calls, ..Done::default() });
        let mut work = Work {
            rollout: &self,
            goal,
            recorder,
            passed: steps.iter().filter(|step| step.state == "passed").map(|step| step.step.clone()).collect(),
            lines: steps.iter().filter(|step| step.state != "begun").map(line).collect(),
            switches,
            baseline,
            mark: Done::default(),
            ear: None,
            decided: self.commanded,
            has_started: steps.iter().any(|step| step.step == "start"),
        };
        let end = match unreadable {
            Some(words) => End::Stuck(format!("what was done before cannot be read: {words}")),
            None => work.run(&steps).await,
        };
        let report = work.report(&end);
        let file = if matches!(end, End::Refused(_)) { None } else { self.keep(&report) };
        drop(work);
        self.close(&end, file.as_deref(), &report).await;
        (end, report)
    }

    /// What an earlier life of this rollout recorded.
    fn earlier(&self) -> Option<Report> {
        serde_json::from_slice(&std::fs::read(self.settings.reports.join(format!("{}.json", self.entry.id))).ok()?).ok()
    }

    /// Writes the report. Its file.
    fn keep(&self, report: &Report) -> Option<PathBuf> {
        let html = self.settings.reports.join(format!("{}.html", self.entry.id));
        let write = || {
            std::fs::create_dir_all(&self.settings.reports)?;
            std::fs::write(html.with_extension("json"), serde_json::to_vec(report)?)?;
            std::fs::write(&html, report::html(report))
        };
        match write() {
            Ok(()) => Some(html.canonicalize().unwrap_or(html)),
            Err(failure) => {
                self.console.warn(&format!("the report cannot be written to {}: {failure}", html.display()));
                None
            }
        }
    }

    /// Writes the end down, tells people, and gives the lease up.
    async fn close(self, end: &End, file: Option<&std::path::Path>, report: &Report) {
        let file = file.map(|file| file.display().to_string());
        let (state, reason) = match end {
            End::Done => ("done", None),
            End::RolledBack(reason) => ("rolled_back", Some(reason.as_str())),
            End::Failed(reason) => ("failed", Some(reason.as_str())),
            End::Refused(_) => ("failed", Some("refused")),
            // It is somebody else's now, or is gone on with.
            End::Lost(_) | End::Interrupted(_) | End::Stuck(_) => ("", None),
        };
        if let Some(journal) = &self.journal
            && !state.is_empty()
            && let Err(failure) = journal.end(&self.entry.id, state, reason, file.as_deref()).await
        {
            self.console.warn(&format!("the journal does not know of the end: {}", crate::chain(&failure)));
        }
        if let Some(lease) = self.lease {
            lease.release().await;
        }
        self.driver.unlock().await;
        if let Some(webhook) = &self.webhook
            && let Some(alert) = alert(&self.entry, end, report, file)
        {
            // By now everything is as it should be: nobody waits but whoever reads this.
            let _ = tokio::time::timeout(TOLD_WITHIN, webhook.tell(&alert)).await;
        }
    }
}

// === impl Work ===

impl Work<'_> {
    async fn run(&mut self, before: &[StepEntry]) -> End {
        if let Some(end) = self.unfinished(before).await {
            return end;
        }
        let console = &self.rollout.console;
        if let Some(address) = self.rollout.settings.watch.alert_listen {
            let Some(token) = self.rollout.settings.watch.alert_token.clone() else {
                return End::Stuck(format!("alerts at {address} need a token"));
            };
            match Ear::open(address, token).await {
                Ok(ear) => self.ear = Some(ear),
                Err(failure) => return End::Stuck(format!("cannot listen for alerts on {address}: {failure}")),
            }
        }
        let mut first = true;
        loop {
            let (seen, plan) = match self.look().await {
                Ok(looked) => looked,
                Err(failure) if first => return End::Stuck(crate::chain(&failure)),
                Err(failure) => return self.undo("observe", crate::chain(&failure)).await,
            };
            if first && !plan.obstacles.is_empty() && !self.rollout.settings.force {
                return End::Refused(plan.obstacles);
            }
            first = false;
            let Some(step) = plan.next() else { return End::Done };
            if let Some(lease) = &self.rollout.lease {
                match lease.check().await {
                    Ok(()) => {}
                    Err(failure @ JournalError::Lost) => return self.without_lease(failure).await,
                    // Nobody can take it either; and whoever did has told the platform.
                    Err(failure) => console.warn(&format!("the lease: {}", crate::chain(&failure))),
                }
            }
            let words = plan.steps.iter().find(|planned| planned.step == step).map(|planned| planned.words.clone());
            console.begins(step, &words.unwrap_or_default());
            let began_ms = now_ms();
            let begun = Instant::now();
            self.write(step, "begun", &Finding::passed(""), began_ms).await;
            let rollout = self.rollout;
            let lost = async {
                match &rollout.lease {
                    Some(lease) => lease.lost().await,
                    None => std::future::pending().await,
                }
            };
            let finding = tokio::select! {
                () = lost => return self.without_lease(JournalError::Lost).await,
                () = crate::interrupted() => return End::Interrupted(self.meanwhile().await),
                finding = self.step(step, &seen) => finding.plain(),
            };
            let mark = if finding.passed { Mark::Passed } else { Mark::Failed };
            console.ended(step, mark, &finding.words, &finding.details, begun.elapsed());
            self.write(step, if finding.passed { "passed" } else { "failed" }, &finding, began_ms).await;
            self.lines.retain(|line| line.name != step.name());
            self.lines.push(StepLine {
                name: step.name(),
                began_ms,
                took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                outcome: if finding.passed { StepOutcome::Passed } else { StepOutcome::Failed },
                words: finding.words.clone(),
                details: finding.details.clone(),
            });
            if !finding.passed {
                return self.undo(&step.name(), finding.words).await;
            }
            self.passed.push(step.name());
            if self.rollout.entry.goal == "deploy" {
                self.rollout.keep(&self.report(&End::Interrupted(String::new())));
            }
        }
    }

    /// An earlier life of this rollout found it bad, and did not come to the end of undoing it; or somebody did that for it.
    async fn unfinished(&mut self, before: &[StepEntry]) -> Option<End> {
        if let Some(failed) = before.iter().find(|step| step.state == "failed") {
            return Some(self.undo(&failed.step, failed.words.clone()).await);
        }
        let has_moved =
            before.iter().any(|step| step.state == "passed" && (step.step == "switch" || step.step.starts_with("shift-")));
        if has_moved
            && let Ok(seen) = self.observe().await
            && seen.share(self.goal.color()) == 0
        {
            let words = "the traffic was moved back while nobody was at it".to_owned();
            return Some(self.undo("switch", words).await);
        }
        None
    }

    /// Looks, and again for a while when the platform does not answer.
    async fn observe(&self) -> Result<Observation, DriverError> {
        insist(async || self.rollout.driver.observe().await).await
    }

    async fn look(&self) -> Result<(Observation, Plan), DriverError> {
        let seen = self.observe().await?;
        let plan = plan(self.goal, &self.rollout.settings.manner, &seen, &self.passed);
        Ok((seen, plan))
    }

    /// Who has the traffic while nobody is at it.
    async fn meanwhile(&self) -> String {
        let color = self.goal.color();
        match self.rollout.driver.observe().await {
            Ok(seen) if seen.share(color) == 0 => format!("{} has all the traffic, as before", color.other()),
            Ok(seen) => format!("{} % of the traffic go to {color}, and nobody watches it now", seen.share(color)),
            Err(failure) => format!("who has the traffic is not known ({})", crate::chain(&failure)),
        }
    }

    /// The lease is somebody else's, or nobody knows. Nothing is touched.
    async fn without_lease(&self, failure: JournalError) -> End {
        let who = match &self.rollout.journal {
            Some(journal) => journal.held().await.ok().flatten(),
            None => None,
        };
        let words = crate::chain(&failure);
        End::Lost(who.map_or_else(|| words.clone(), |held| format!("{words} ({} holds the lease)", held.holder)))
    }

    async fn write(&self, step: Step, state: &str, finding: &Finding, began_ms: u64) {
        let Some(journal) = &self.rollout.journal else { return };
        let step = StepEntry {
            step: step.name(),
            state: state.to_owned(),
            words: finding.words.clone(),
            details: finding.details.clone(),
            began_ms,
            ended_ms: None,
        };
        self.note(journal.step(&self.rollout.entry.id, &step).await);
    }

    /// A journal that is away is said, and holds nothing up.
    fn note(&self, written: Result<(), JournalError>) {
        if let Err(failure) = written {
            self.rollout.console.warn(&format!("the journal: {}", crate::chain(&failure)));
        }
    }

    /// Lets this many of a hundred requests go to a color.
    async fn send(&self, share: u8, color: Color) -> Result<(), DriverError> {
        insist(async || self.rollout.driver.shift(share::of(color, share), self.epoch()).await).await
    }

    /// Without a lease, the next one after whatever the platform has heard.
    fn epoch(&self) -> i64 {
        self.rollout.lease.as_ref().map_or(self.rollout.unleased, Lease::epoch)
    }

    /// Brings everything back to what it was before, as far as this rollout changed it.
    async fn undo(&mut self, step: &str, reason: String) -> End {
        let why = format!("{step}: {reason}");
        // What failed may have failed because somebody else took over: then it is theirs.
        if let Some(lease) = &self.rollout.lease
            && let Err(failure @ JournalError::Lost) = lease.verify().await
        {
            return self.without_lease(failure).await;
        }
        let is_forward = match self.goal {
            // The new build is live and proved: an old one that does not go is no reason to bring it back.
            Goal::Deploy { .. } => step != Step::Drained.name() && step != Step::Stop.name(),
            Goal::Switch { back, .. } => !back,
            Goal::Retire { .. } => false,
        };
        // Going back is not undone by going forth.
        if !is_forward {
            return End::Failed(why);
        }
        let color = self.goal.color();
        let old = color.other();
        self.decided = Instant::now();
        let seen = match self.observe().await {
            Ok(seen) => seen,
            Err(failure) => return End::Stuck(format!("{why}; and nothing could be undone: {}", crate::chain(&failure))),
        };
        let moved = seen.share(color) > 0;
        if moved {
            if seen.slot(old).ready() == 0 {
                // The traffic would go from bad to nobody.
                return End::Stuck(format!(
                    "{why}; {color} keeps its traffic, because no replica of {old} is ready to take over"
                ));
            }
            self.rollout.console.say(&format!("{why}: going back to {old}"));
            if let Err(failure) = self.send(100, old).await {
                return End::Stuck(format!("{why}; AND THE TRAFFIC COULD NOT BE MOVED BACK: {}", crate::chain(&failure)));
            }
            self.recorder.event(format!("back to {old}"), Some(old));
            match self.answered_by(old).await {
                Ok(proof) => {
                    let ms = proof.whole_ms;
                    self.rollout.console.say(&format!("{old} answers everything again, {ms:.0} ms after the decision"));
                }
                Err(words) => self.rollout.console.warn(&words),
            }
            if let Err(failure) = self.shed(color).await {
                self.rollout.console.warn(&crate::chain(&failure));
            }
        }
        // What this rollout started, nobody needs any more. A color that was only switched to stays as it was.
        if self.has_started && !seen.slot(color).is_empty() {
            self.rollout.console.goes(&format!("{color} is stopped"));
            match self.stop(color).await {
                Ok(finding) if finding.passed => {}
                Ok(finding) => self.rollout.console.warn(&finding.words),
                Err(failure) => {
                    return End::Stuck(format!("{why}; and {color} could not be stopped: {}", crate::chain(&failure)));
                }
            }
        }
        if moved || step == Step::Shift(100).name() { End::RolledBack(why) } else { End::Failed(why) }
    }

    fn report(&self, end: &End) -> Report {
        let entry = &self.rollout.entry;
        let (samples, events) = self.recorder.so_far();
        let (outcome, reason) = match end {
            End::Done => (Outcome::Done, None),
            End::RolledBack(reason) => (Outcome::RolledBack, Some(reason.clone())),
            End::Failed(reason) | End::Stuck(reason) => (Outcome::Failed, Some(reason.clone())),
            End::Refused(reasons) => (Outcome::Refused, Some(reasons.join("; "))),
            End::Lost(reason) => (Outcome::Aborted, Some(reason.clone())),
            End::Interrupted(_) => (Outcome::Running, None),
        };
        let of_ready = self.lines.iter().find(|line| line.name == "ready");
        let build = of_ready.and_then(|line| line.details.iter().find(|(label, _)| label == "build"));
        Report {
            id: entry.id.clone(),
            goal: entry.goal.clone(),
            platform: entry.platform.clone(),
            by: entry.by.clone(),
            from: Side { color: entry.from, build: entry.from_build.clone() },
            to: Side { color: entry.to, build: build.map(|(_, build)| build.clone()).or_else(|| entry.to_build.clone()) },
            outcome,
            reason,
            began_ms: entry.began_ms,
            ended_ms: (!matches!(end, End::Interrupted(_) | End::Stuck(_))).then(now_ms),
            steps: self.lines.clone(),
            events,
            samples,
            switches: self.switches.clone(),
        }
    }
}

fn line(step: &StepEntry) -> StepLine {
    StepLine {
        name: step.step.clone(),
        began_ms: step.began_ms,
        took_ms: step.ended_ms.unwrap_or(step.began_ms).saturating_sub(step.began_ms),
        outcome: match step.state.as_str() {
            "passed" => StepOutcome::Passed,
            "skipped" => StepOutcome::Skipped,
            _ => StepOutcome::Failed,
        },
        words: step.words.clone(),
        details: step.details.clone(),
    }
}

fn alert(entry: &Entry, end: &End, report: &Report, file: Option<String>) -> Option<Alert> {
    let name =
        |side: &Side| side.build.as_ref().map_or_else(|| side.color.to_string(), |build| format!("{} {build}", side.color));
    let (from, to) = (name(&report.from), name(&report.to));
    let (what, urgent, why) = match end {
        End::Done => (format!("{} done: {to} is live", entry.goal), false, None),
        End::RolledBack(reason) => (format!("Rolled back to {from}: {to} was not good enough"), true, Some(reason)),
        End::Failed(reason) => (format!("{} failed: {to} did not go live", entry.goal), true, Some(reason)),
        End::Stuck(reason) => (format!("{} of {to} is stuck: somebody has to look", entry.goal), true, Some(reason)),
        End::Lost(reason) => (format!("{} of {to} was taken over", entry.goal), true, Some(reason)),
        End::Refused(_) | End::Interrupted(_) => return None,
    };
    if entry.goal == "retire" && !urgent {
        return None;
    }
    let took = Duration::from_millis(now_ms().saturating_sub(report.began_ms));
    let mut fields = vec![("Who", entry.by.clone()), ("Platform", entry.platform.clone()), ("From", from), ("To", to)];
    fields.extend(why.map(|why| ("Why", why.clone())));
    fields.push(("Duration", span(took)));
    fields.push(("At", jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
    fields.push(("Rollout", entry.id.clone()));
    fields.extend(file.map(|file| ("Report", file)));
    Some(Alert { what, urgent, fields })
}

impl End {
    /// As machines read it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Done => json!({ "outcome": "done" }),
            Self::RolledBack(reason) => json!({ "outcome": "rolledBack", "reason": reason }),
            Self::Failed(reason) => json!({ "outcome": "failed", "reason": reason }),
            Self::Refused(reasons) => json!({ "outcome": "refused", "reasons": reasons }),
            Self::Stuck(reason) => json!({ "outcome": "stuck", "reason": reason }),
            Self::Lost(reason) => json!({ "outcome": "lost", "reason": reason }),
            Self::Interrupted(live) => json!({ "outcome": "interrupted", "reason": live }),
        }
    }
}
