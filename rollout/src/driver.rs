//! What a platform can be told, and what can be seen of it: the same few words for this machine, Kubernetes and ECS.
//!
//! What must stay true: a driver acts and looks, and decides nothing. Whatever moves traffic carries the epoch of the lease
//! under which it was decided, so that a rollout that lost its lease moves nothing.

pub mod ecs;
pub mod kubernetes;
pub mod local;

use std::{collections::BTreeMap, fmt, time::Duration};

use bg_runtime::Color;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    http::{Http, HttpError},
    share,
};

/// What is run: an image and what it is told.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its name: a reference with a tag or a digest, or a program on the local platform.
    pub name: String,
    /// Variables that it gets beside those of the platform.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

// === impl Image ===

impl Image {
    /// The same, with a digest in place of what each variable says: enough to tell whether two are alike.
    #[must_use]
    pub fn hidden(&self) -> Self {
        let hide = |(name, value): (&String, &String)| {
            let digest = Sha256::digest(value.as_bytes());
            let hidden: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            let is_hidden = value.starts_with(DIGEST);
            (name.clone(), if is_hidden { value.clone() } else { format!("{DIGEST}{hidden}") })
        };
        Self { name: self.name.clone(), environment: self.environment.iter().map(hide).collect() }
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.environment.keys().collect();
        f.debug_struct("Image").field("name", &self.name).field("environment", &names).finish()
    }
}

/// How long a platform may be away before that is an answer.
const AWAY_FOR: Duration = Duration::from_secs(30);
/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(250);
/// How long a color may take to stop, where nothing else is known.
const STOPPED_WITHIN: Duration = Duration::from_secs(90);
/// Stands before a digest.
const DIGEST: &str = "sha256:";

/// A platform at one moment.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Observation {
    /// How many of a hundred requests go to green.
    pub green_percent: u8,
    /// The epoch of the rollout that moved traffic last.
    pub epoch: i64,
    /// The color that had all traffic before: where going back leads.
    pub before: Option<Color>,
    /// What runs as blue.
    pub blue: Slot,
    /// What runs as green.
    pub green: Slot,
}

/// What runs as one color.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Slot {
    /// What is meant to run, [hidden](Image::hidden).
    pub image: Option<Image>,
    /// How many replicas are meant to run.
    pub wanted: u32,
    /// Those that run.
    pub replicas: Vec<Replica>,
    /// Why it does not come up, when the platform can tell: the last words of a process that crashed.
    pub trouble: Option<String>,
}

/// One replica.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// How the platform calls it.
    pub name: String,
    /// Where clients would come in, as `host:port`.
    pub address: String,
    /// Where operators come in, as `host:port`.
    pub operations: String,
    /// Whether it says that it is ready.
    pub ready: bool,
    /// The build that it says it is.
    pub build: Option<String>,
    /// Whether it is on its way out.
    pub leaving: bool,
}

/// Why a platform did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// It cannot be asked.
    #[error("the platform cannot be asked{0}")]
    Away(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// It refused.
    #[error("{0}")]
    Refused(String),
    /// A task could not be run.
    #[error("{0} could not be run")]
    Task(String, #[source] std::io::Error),
}

/// Hears a line of a task's log.
pub type Said<'a> = &'a (dyn Fn(&str) + Sync);

/// How much of a task's log was heard.
pub(crate) struct Heard<'a> {
    lines: usize,
    said: Said<'a>,
}

/// How a task ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Whether it did what it should.
    pub success: bool,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

/// A platform.
#[async_trait::async_trait]
pub trait Driver: fmt::Debug + Send + Sync {
    /// Its name: `local`, `kubernetes`, `ecs`.
    fn platform(&self) -> &'static str;

    /// Where clients come in, as `http://host:port`.
    fn entrance(&self) -> String;

    /// Why this cannot be run at all, as far as that can be told from here.
    fn missing(&self, image: &Image) -> Option<String>;

    /// Takes the platform's own lock, where it has one, until [`unlock`](Self::unlock) or the end of this process. With `force`
    /// it is taken from whoever has it.
    async fn lock(&self, holder: &str, force: bool) -> Result<(), DriverError> {
        let _ = (holder, force);
        Ok(())
    }

    /// Gives it up.
    async fn unlock(&self) {}

    /// How long a color may take to stop.
    fn stopped_within(&self) -> Duration {
        STOPPED_WITHIN
    }

    /// Looks.
    async fn observe(&self) -> Result<Observation, DriverError>;

    /// Lets no rollout with a smaller epoch change anything from now on.
    async fn fence(&self, epoch: i64) -> Result<(), DriverError>;

    /// Lets this run as a color. What ran there before is stopped.
    async fn run(&self, color: Color, image: &Image, replicas: u32, epoch: i64) -> Result<(), DriverError>;

    /// Lets nothing run as a color. Replicas get the time they need to finish what is in flight.
    async fn stop(&self, color: Color, epoch: i64) -> Result<(), DriverError>;

    /// Lets this many of a hundred requests go to green. When it returns, no new request goes elsewhere.
    async fn shift(&self, green_percent: u8, epoch: i64) -> Result<(), DriverError>;

    /// Keeps the platform itself from taking a color's replicas away, for a while: it is said again and again as long as
    /// something holds on to them. Where a platform never does that, nothing is to be done.
    async fn hold(&self, _color: Color, _epoch: i64) -> Result<(), DriverError> {
        Ok(())
    }

    /// Runs the image once with these arguments, to its end, or to the end of its time. `said` hears each line of its log as it
    /// comes, or some moments later.
    async fn task(&self, image: &Image, arguments: &[&str], within: Duration, said: Said<'_>) -> Result<Ended, DriverError>;
}

// === impl Heard ===

impl<'a> Heard<'a> {
    pub(crate) fn new(said: Said<'a>) -> Self {
        Self { lines: 0, said }
    }

    /// Passes on what is new in the log as far as it has been written. A line that has no end yet is not one.
    pub(crate) fn hear(&mut self, log: &str) {
        let whole = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        for line in whole.skip(self.lines) {
            self.lines += 1;
            (self.said)(line.trim_end());
        }
    }
}

// === impl Ended ===

impl Ended {
    /// The JSON document that it printed; `None` when there is none. A platform may mix it with what was logged.
    #[must_use]
    pub fn document(&self) -> Option<serde_json::Value> {
        document(&self.stdout)
    }
}

// === impl Observation ===

impl Observation {
    /// The color that gets all traffic; `None` while both get some.
    #[must_use]
    pub fn live(&self) -> Option<Color> {
        share::live(self.green_percent)
    }

    /// What runs as a color.
    #[must_use]
    pub fn slot(&self, color: Color) -> &Slot {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    /// How many of a hundred requests go to a color.
    #[must_use]
    pub fn share(&self, color: Color) -> u8 {
        share::of(color, self.green_percent)
    }
}

// === impl Slot ===

impl Slot {
    /// Replicas that say they are ready.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.in_service().count()
    }

    /// The build that its ready replicas are, when they agree.
    #[must_use]
    pub fn build(&self) -> Option<&str> {
        let mut builds = self.in_service().map(|replica| replica.build.as_deref());
        let first = builds.next()??;
        builds.all(|build| build == Some(first)).then_some(first)
    }

    /// Replicas that are ready and not on their way out.
    pub fn in_service(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(|replica| replica.ready && !replica.leaving)
    }

    /// Whether nothing runs and nothing is meant to.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wanted == 0 && self.replicas.is_empty()
    }
}

impl From<HttpError> for DriverError {
    fn from(failure: HttpError) -> Self {
        match failure {
            HttpError::Refused { said, .. } => Self::Refused(said),
            failure => Self::Away("", Box::new(failure)),
        }
    }
}

/// Does something that may be done twice, and again for a while when the platform does not answer: one that is just being
/// started again does soon.
pub(crate) async fn insist<T>(what: impl AsyncFn() -> Result<T, DriverError>) -> Result<T, DriverError> {
    let begun = std::time::Instant::now();
    loop {
        match what().await {
            Err(DriverError::Away(..)) if begun.elapsed() < AWAY_FOR => tokio::time::sleep(AGAIN).await,
            done => return done,
        }
    }
}

/// The JSON document in what a program said.
pub(crate) fn document(said: &str) -> Option<serde_json::Value> {
    let line = || said.lines().rev().find(|line| line.starts_with('{'));
    serde_json::from_str(said).ok().or_else(|| serde_json::from_str(line()?).ok())
}

/// Asks a replica whether it is ready and what it is.
pub(crate) async fn ask(http: &Http, replica: &mut Replica) {
    let within = Duration::from_secs(2);
    let Ok(answer) = http.get(&format!("http://{}/ready", replica.operations), within).await else { return };
    let said = answer.json();
    replica.ready = answer.status.is_success();
    replica.leaving = replica.leaving || matches!(said["stage"].as_str(), Some("leaving" | "draining" | "stopped"));
    let release = &said["release"];
    if let (Some(version), Some(commit)) = (release["version"].as_str(), release["commit"].as_str()) {
        replica.build = Some(format!("{version}+{commit}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_a_log_is_heard_once_and_whole() {
        let lines = std::sync::Mutex::new(Vec::new());
        let said = |line: &str| lines.lock().unwrap().push(line.to_owned());
        let mut heard = Heard::new(&said);
        for log in ["", "one\ntw", "one\ntwo\n", "one\ntwo\n", "one\ntwo\r\nthree\n"] {
            heard.hear(log);
        }
        assert_eq!(*lines.lock().unwrap(), ["one", "two", "three"]);
    }
}
