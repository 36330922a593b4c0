//! The gates between a build and the traffic. Each is a file of its own, can be asked alone (`rollout gate NAME`), changes
//! nothing that clients see, and says what it found in words and figures.

mod approve;
mod contract;
mod load;
mod mcp;
mod migrate;
mod ready;
mod smoke;
mod validate;

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use bg_runtime::Color;

use crate::{
    driver::{Driver, Image, Observation, Replica},
    http::{Bearer, Http},
    journal::Journal,
};

/// A gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// Its tables are there: `migrate expand` of the new build.
    Migrate,
    /// As many replicas are ready as the live color has.
    Ready,
    /// It answers what a client asks.
    Smoke,
    /// It keeps what the live build promised.
    Contract,
    /// The data of both shapes agree.
    Validate,
    /// It bears what the live color bears, and more.
    Load,
    /// A person has said yes.
    Approve,
    /// It is not worse than the color before it, with traffic on it.
    Bake,
}

/// What a gate found.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Whether the build may pass.
    pub passed: bool,
    /// One line, for a person.
    pub words: String,
    /// Figures: label and value.
    pub details: Vec<(String, String)>,
}

/// What gates are told.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long the new color may take to get ready.
    pub ready_within: Duration,
    /// Tool calls that a smoke test makes: the tool and its arguments. They must do no harm.
    pub probes: Vec<(String, serde_json::Value)>,
    /// What lets a gate in where callers need an access token.
    pub token: Option<Bearer>,
    /// The longest that one of them may take.
    pub latency: Duration,
    /// A Chromium for the widgets, if there is one.
    pub chromium: Option<PathBuf>,
    /// Builds whose contract clients still hold, beside the live one's.
    pub published: Vec<String>,
    /// How many times the live color's rate the load is.
    pub load_factor: f64,
    /// Between these rates, in calls per second.
    pub load_rate: (f64, f64),
    /// For how long.
    pub load_for: Duration,
    /// The 99th percentile that it may reach.
    pub load_p99: Duration,
    /// The share of calls that may fail.
    pub load_errors: f64,
    /// How long a person may take.
    pub approve_within: Duration,
}

/// What a gate looks at.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "it holds a function")]
pub struct Context<'a> {
    /// The platform.
    pub driver: &'a dyn Driver,
    /// The way to replicas.
    pub http: &'a Http,
    /// The journal, where there is one.
    pub journal: Option<&'a Journal>,
    /// The rollout's name in it.
    pub rollout: Option<&'a str>,
    /// The color that is to pass.
    pub color: Color,
    /// What runs there.
    pub image: Option<&'a Image>,
    /// How many replicas are to be ready.
    pub replicas: u32,
    /// The live color's calls per second.
    pub live_rate: f64,
    /// What gates are told.
    pub limits: &'a Limits,
    /// Hears how it goes.
    pub progress: &'a (dyn Fn(&str) + Sync),
}

// === impl Gate ===

impl Gate {
    /// All of them, in the order of a deploy.
    pub const ALL: [Self; 8] =
        [Self::Migrate, Self::Ready, Self::Smoke, Self::Contract, Self::Validate, Self::Load, Self::Approve, Self::Bake];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Migrate => "migrate",
            Self::Ready => "ready",
            Self::Smoke => "smoke",
            Self::Contract => "contract",
            Self::Validate => "validate",
            Self::Load => "load",
            Self::Approve => "approve",
            Self::Bake => "bake",
        }
    }

    /// What it will do, for a plan.
    #[must_use]
    pub fn words(self, color: Color) -> String {
        match self {
            Self::Migrate => format!("let {color}'s image run `migrate expand`: additive, so the live build does not notice"),
            Self::Ready => format!("wait until {color} is ready at the live color's size"),
            Self::Smoke => format!("ask {color} directly what clients ask: health, tools, widgets, pool, latency"),
            Self::Contract => format!("compare what {color} promises with what clients hold, both ways"),
            Self::Validate => "let the validator say that both shapes of the data agree".to_owned(),
            Self::Load => format!("put the live color's load, and more, on {color} directly"),
            Self::Approve => "wait for a person's yes".to_owned(),
            Self::Bake => "compare both colors".to_owned(),
        }
    }

    /// Asks.
    pub async fn ask(self, context: &Context<'_>) -> Finding {
        let http = context.http.bearing(context.limits.token.as_ref());
        let context = &Context { http: &http, ..*context };
        match self {
            Self::Migrate => migrate::ask(context).await,
            Self::Ready => ready::ask(context).await,
            Self::Smoke => smoke::ask(context).await,
            Self::Contract => contract::ask(context).await,
            Self::Validate => validate::ask(context).await,
            Self::Load => load::ask(context).await,
            Self::Approve => approve::ask(context).await,
            Self::Bake => Finding::failed("a bake needs traffic: it is part of `rollout deploy`"),
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no gate.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no gate: say migrate, ready, smoke, contract, validate, load, approve or bake")]
pub struct UnknownGate(String);

impl FromStr for Gate {
    type Err = UnknownGate;

    fn from_str(word: &str) -> Result<Self, UnknownGate> {
        Self::ALL.into_iter().find(|gate| gate.name() == word).ok_or_else(|| UnknownGate(word.to_owned()))
    }
}

// === impl Finding ===

impl Finding {
    /// It may pass.
    pub(crate) fn passed(words: impl Into<String>) -> Self {
        Self { passed: true, words: words.into(), details: Vec::new() }
    }

    /// It may not.
    pub(crate) fn failed(words: impl Into<String>) -> Self {
        Self { passed: false, words: words.into(), details: Vec::new() }
    }

    /// Without what a terminal or a database would take for more than text.
    pub(crate) fn plain(self) -> Self {
        let details = self.details.iter().map(|(label, value)| (crate::plain(label), crate::plain(value))).collect();
        Self { words: crate::plain(&self.words), details, ..self }
    }

    pub(crate) fn with(mut self, label: impl Into<String>, value: impl Into<String>) -> Self {
        self.details.push((label.into(), value.into()));
        self
    }
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            ready_within: Duration::from_secs(300),
            probes: Vec::new(),
            token: None,
            latency: Duration::from_millis(500),
            chromium: None,
            published: Vec::new(),
            load_factor: 1.5,
            load_rate: (50.0, 500.0),
            load_for: Duration::from_secs(5),
            load_p99: Duration::from_millis(500),
            load_errors: 0.001,
            approve_within: Duration::from_secs(3600),
        }
    }
}

// === impl Context ===

impl Context<'_> {
    async fn observe(&self) -> Result<Observation, Finding> {
        crate::driver::insist(async || self.driver.observe().await)
            .await
            .map_err(|failure| Finding::failed(crate::chain(&failure)))
    }

    /// The replicas that are to pass, at least one.
    async fn replicas(&self) -> Result<Vec<Replica>, Finding> {
        let seen = self.observe().await?;
        let ready: Vec<_> = seen.slot(self.color).in_service().cloned().collect();
        if ready.is_empty() { Err(Finding::failed(format!("no replica of {} is ready", self.color))) } else { Ok(ready) }
    }
}

/// The value of either end.
fn either<T>(result: Result<T, T>) -> T {
    match result {
        Ok(value) | Err(value) => value,
    }
}
