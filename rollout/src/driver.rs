//! What a platform can be told, and what can be seen of it: the same few words for this machine, Kubernetes and ECS.
//!
//! What must stay true: a driver acts and looks, and decides nothing. Whatever moves traffic carries the epoch of the lease
//! under which it was decided, so that a rollout that lost its lease moves nothing.

pub mod ecs;
pub mod kubernetes;
pub mod local;

use std::{collections::BTreeMap, fmt, time::Duration};

use bg_runtime::{Color, Secret};
use ring::hmac;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    http::{Http, HttpError},
    share,
};

/// What is run: an image and what it is told.
#[derive(Clone, Serialize, Deserialize)]
pub struct Image {
    /// Its name: a reference with a tag or a digest, or a program on the local platform.
    pub name: String,
    /// Variables that it gets beside those of the platform.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The key of [`hidden`](Self::hidden). It is no part of what is run, and is neither compared nor written.
    #[serde(skip)]
    key: Option<DigestKey>,
}

// === impl Image ===

impl Image {
    /// An image with these variables, whose values are told apart by digests under a key.
    #[must_use]
    pub fn new(name: String, environment: BTreeMap<String, String>) -> Self {
        Self { name, environment, key: None }
    }

    /// The same, with the key of its digests.
    #[must_use]
    pub fn keyed(self, key: &DigestKey) -> Self {
        Self { key: Some(key.clone()), ..self }
    }

    /// The same, with a digest in place of the value of each variable: enough to tell whether two are alike, for those who have the
    /// key. Without a key no digest equals another, so that nothing is taken for alike. A value that is such a digest already stays.
    #[must_use]
    pub fn hidden(&self) -> Self {
        let hide = |(name, value): (&String, &String)| {
            let hidden = match &self.key {
                _ if is_digest(value) => value.clone(),
                // The name, so that equal values of two variables do not look alike.
                Some(key) => format!("{DIGEST}{}", key.digest(name, value)),
                None => format!("{DIGEST}{}", Uuid::new_v4().simple()),
            };
            (name.clone(), hidden)
        };
        Self { name: self.name.clone(), environment: self.environment.iter().map(hide).collect(), key: self.key.clone() }
    }
}

impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.environment) == (&other.name, &other.environment)
    }
}

impl Eq for Image {}

/// The key of the digests that stand for the values of variables in the journal, in labels and in annotations. A weak value can be
/// guessed by whoever has the key and the digest, so the key is where the digests are not shown: on Kubernetes and ECS in a table of
/// its own in the journal's database, or in ROLLOUT_DIGEST_KEY; on this machine in the file of the operators' secret.
#[derive(Clone, Debug)]
pub struct DigestKey(Secret);

impl DigestKey {
    /// A key from a secret that is used for other things, too.
    #[must_use]
    pub fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// A new one, of 244 random bits.
    #[must_use]
    pub fn generate() -> Secret {
        Secret::new(format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()))
    }

    /// 128 bits of HMAC-SHA-256.
    fn digest(&self, name: &str, value: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.expose().as_bytes());
        let mut context = hmac::Context::with_key(&key);
        for part in ["rollout variable", name, value] {
            // The length before each part: no two lists of parts are the same bytes.
            context.update(&part.len().to_be_bytes());
            context.update(part.as_bytes());
        }
        context.sign().as_ref().iter().take(DIGEST_BYTES).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Whether a value is a digest of ours, whole: a secret that merely begins like one is hidden.
fn is_digest(value: &str) -> bool {
    let is_hex =
        |digits: &str| digits.len() == 2 * DIGEST_BYTES && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    value.strip_prefix(DIGEST).is_some_and(is_hex)
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
const DIGEST: &str = "hmac-sha256:";
const DIGEST_BYTES: usize = 16;

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

    fn image(variables: &[(&str, &str)], key: &str) -> Image {
        let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let image = Image::new("server@sha256:1".to_owned(), environment);
        if key.is_empty() { image } else { image.keyed(&DigestKey::new(key.into())) }
    }

    /// A person who reads a label tries the usual values: without the key no try says whether it is right.
    #[test]
    fn a_weak_value_cannot_be_guessed_from_what_is_shown_without_the_key() {
        use sha2::{Digest, Sha256};

        let shown = image(&[("PIN", "1234"), ("SAME", "1234")], "a key").hidden();
        let guessed: String = Sha256::digest("1234").iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        for (name, value) in &shown.environment {
            let digits = value.strip_prefix("hmac-sha256:").expect("a digest under a key");
            assert!(digits.len() == 32 && !digits.contains(&guessed), "{name}: {value}");
        }
        assert_ne!(shown.environment["PIN"], shown.environment["SAME"], "equal values of two variables look alike");
        assert_ne!(shown, image(&[("PIN", "1234"), ("SAME", "1234")], "another key").hidden());
        assert!(!format!("{shown:?}").contains("a key"));
        assert!(!serde_json::to_string(&shown).unwrap().contains("a key"), "the key is written down");
    }

    #[test]
    fn what_is_alike_is_found_again_by_whoever_has_the_key() {
        let shown = image(&[("PIN", "1234")], "a key").hidden();
        // As another machine reads it from an annotation, with what it means to run beside it.
        let read: Image = serde_json::from_str(&serde_json::to_string(&shown).unwrap()).unwrap();
        assert_eq!(read, image(&[("PIN", "1234")], "a key").hidden());
        assert_eq!(read.hidden(), read, "a digest was hidden once more");
        assert_ne!(read, image(&[("PIN", "1235")], "a key").hidden());
        assert_ne!(read, image(&[("PIN", "1234")], "another key").hidden());
        // Without a key nothing is alike, not even itself.
        assert_ne!(image(&[("PIN", "1234")], "").hidden(), image(&[("PIN", "1234")], "").hidden());
        assert_eq!(image(&[], "").hidden(), image(&[], "a key").hidden(), "an image without variables needs no key");
    }

    #[test]
    fn a_value_that_looks_like_a_digest_is_hidden_all_the_same() {
        for value in
            ["sha256:0123456789abcdef", "hmac-sha256:hunter2", "hmac-sha256:", "HMAC-SHA256:0123456789abcdef0123456789abcdef"]
        {
            let shown = image(&[("PASSWORD", value)], "a key").hidden();
            assert_ne!(shown.environment["PASSWORD"], value);
        }
    }

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
