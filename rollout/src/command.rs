//! What each command does. The only place that prints to a person or decides how the process ends.

mod deploy;
mod hidden;
mod local;
mod look;
mod moves;

use std::{
    io::IsTerminal,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use bg_runtime::{Color, Database, Secret, database::DatabaseConfig};
use clap::{Args, ValueEnum};
use rollout::{
    alert::Webhook,
    bake::Watch,
    chain,
    console::Console,
    driver::{
        DigestKey, Driver, DriverError, Observation,
        ecs::{EcsDriver, EcsSettings},
        kubernetes::{KubernetesDriver, Reach},
        local::LocalDriver,
    },
    execute::{End, Rollout, Settings},
    gate,
    http::Http,
    journal::{Entry, Journal, JournalError, Lease},
    plan::{Goal, Manner},
    record::now_ms,
    report::Report,
};
use serde_json::json;
use tracing_subscriber::filter::LevelFilter;

use self::deploy::{Tell, url};
pub(crate) use self::{
    deploy::{Deploy, deploy, plan},
    local::{Front, Local, front, local},
    look::{AskGate, AskNamedGate, History, approve, ask, history, status, unlock},
    moves::{Retire, Rollback, Switch, retire, rollback, switch},
};

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// Where the colors run.
    #[arg(long, global = true, value_enum, default_value = "local")]
    platform: Platform,
    /// Of the local platform: the directory in which it keeps everything.
    #[arg(long, global = true, value_name = "DIR", default_value = ".rollout")]
    state: PathBuf,
    /// Of Kubernetes: the namespace.
    #[arg(long, global = true, default_value = "mcp")]
    namespace: String,
    /// Of ECS: the cluster.
    #[arg(long, global = true, default_value = "mcp")]
    cluster: String,
    /// Of ECS: the rule of the balancer's listener that forwards to both target groups.
    #[arg(long, global = true, value_name = "ARN")]
    rule: Option<String>,
    /// Of Kubernetes and ECS: the name of the container, and of the Deployments or services before `-blue` and `-green`.
    #[arg(long, global = true, default_value = "mcp-server")]
    app: String,
    /// Of Kubernetes: the HTTPRoute whose weights move the traffic, as `k8s/gateway` has it. Without it, the Service's selector
    /// does, which knows no --steps.
    #[arg(long, global = true, value_name = "NAME")]
    route: Option<String>,
    /// Of Kubernetes and ECS: where clients come in, as `https://mcp.example.com`. A switch is proved there.
    #[arg(long, global = true, value_name = "URL", value_parser = url)]
    entrance: Option<String>,
    /// Of Kubernetes: how pods are reached from here.
    #[arg(long, global = true, value_enum, default_value = "forward")]
    reach: ReachArgument,
    /// The database that both colors share, where the journal is. Without it, the local platform's own.
    #[arg(long, global = true, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<Secret>,
    /// The key of the digests that stand for values of variables in labels, annotations and the journal; the same for all who roll
    /// out. Without it, one that is kept in the journal's database, or on the local platform in front.secret.
    #[arg(long, global = true, value_name = "KEY", env = "ROLLOUT_DIGEST_KEY", hide_env_values = true)]
    digest_key: Option<Secret>,
    /// Where PostgreSQL's programs are looked for.
    #[arg(long, global = true, env = "PATH", hide = true)]
    path: Option<std::ffi::OsString>,
    /// Who does it, for the journal and for alerts.
    #[arg(long, global = true, value_name = "NAME", env = "USER", default_value = "somebody", hide_env_values = true)]
    by: String,
    /// One JSON document per line, for machines.
    #[arg(long, global = true)]
    json: bool,
    /// No colors on a terminal either.
    #[arg(long, global = true, env = "NO_COLOR", value_parser = clap::builder::BoolishValueParser::new(), hide = true)]
    no_color: bool,
    /// Log what happens underneath, too.
    #[arg(long, short, global = true)]
    verbose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Platform {
    /// This machine: see `rollout local up`.
    Local,
    /// A cluster, as `k8s/` lays it out.
    Kubernetes,
    /// Two services behind one rule, as `terraform/` lays them out.
    Ecs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReachArgument {
    /// Through the API server, as `kubectl port-forward`.
    Forward,
    /// By their addresses: from inside the cluster.
    Pods,
}

const FAILED: u8 = 1;
const ROLLED_BACK: u8 = 3;
const REFUSED: u8 = 4;
const USAGE: u8 = 2;
const UNAVAILABLE: u8 = 69;
const BUSY: u8 = 75;
const INTERRUPTED: u8 = 130;

/// A rollback does not wait for a journal that is away.
const JOURNAL_WITHIN: Duration = Duration::from_secs(3);

/// Why a command goes no further: the words, and how the process ends.
#[derive(Debug)]
struct Stop(String, u8);

// === impl Stop ===

impl From<DriverError> for Stop {
    fn from(failure: DriverError) -> Self {
        Self(chain(&failure), UNAVAILABLE)
    }
}

impl From<JournalError> for Stop {
    fn from(failure: JournalError) -> Self {
        let code = match failure {
            JournalError::Held(_) | JournalError::Lost => BUSY,
            JournalError::Open(_) => REFUSED,
            JournalError::Database(_) => UNAVAILABLE,
        };
        Self(chain(&failure), code)
    }
}

// === impl Common ===

impl Common {
    /// What is logged: of a platform that stays, how it goes; of a command, what goes wrong.
    pub(crate) fn level(&self, command: &crate::Command) -> LevelFilter {
        match command {
            _ if self.verbose => LevelFilter::DEBUG,
            crate::Command::Local(_) | crate::Command::Front(_) => LevelFilter::INFO,
            _ => LevelFilter::WARN,
        }
    }

    /// What is logged of libraries.
    pub(crate) fn level_of_others(&self) -> LevelFilter {
        if self.verbose { LevelFilter::DEBUG } else { LevelFilter::OFF }
    }

    /// Whether the log has colors.
    pub(crate) fn paints_errors(&self) -> bool {
        std::io::stderr().is_terminal() && !self.no_color
    }

    fn console(&self) -> Arc<Console> {
        Arc::new(Console::new(self.json, self.no_color))
    }

    async fn driver(&self, http: &Http) -> Result<Arc<dyn Driver>, Stop> {
        match self.platform {
            Platform::Local => Ok(Arc::new(LocalDriver::new(&self.state, http.clone())?)),
            Platform::Kubernetes => {
                let entrance = self.entrance()?;
                let reach = match self.reach {
                    ReachArgument::Forward => Reach::Forward,
                    ReachArgument::Pods => Reach::Pods,
                };
                let (route, http) = (self.route.as_deref(), http.clone());
                Ok(Arc::new(KubernetesDriver::new(&self.namespace, &self.app, route, entrance, reach, http).await?))
            }
            Platform::Ecs => {
                let Some(rule) = self.rule.clone() else {
                    let words = "say which rule leads the traffic: --rule ARN (`terraform output rule_arn`)";
                    return Err(Stop(words.to_owned(), USAGE));
                };
                let (cluster, app) = (self.cluster.clone(), self.app.clone());
                let settings = EcsSettings { cluster, app, rule, entrance: self.entrance()? };
                Ok(Arc::new(EcsDriver::new(settings, http.clone()).await?))
            }
        }
    }

    fn entrance(&self) -> Result<String, Stop> {
        let words = || Stop("say where clients come in: --entrance https://…".to_owned(), USAGE);
        self.entrance.clone().ok_or_else(words)
    }

    /// The journal, in the database that both colors share.
    async fn journal(&self) -> Result<Journal, Stop> {
        if self.platform != Platform::Local && self.database_url.is_none() {
            let words = "the journal is in the database that both colors share: say where, with --database-url or DATABASE_URL";
            return Err(Stop(words.to_owned(), USAGE));
        }
        if self.database_url.is_none() && !rollout::local::Place::file(&self.state).exists() {
            let words = format!(
                "no platform has ever run in {}: start it with `rollout local up`, or name its --state",
                self.state.display()
            );
            return Err(Stop(words, UNAVAILABLE));
        }
        let away = |failure: &dyn std::error::Error| Stop(format!("the journal: {}", chain(failure)), UNAVAILABLE);
        let config = DatabaseConfig {
            url: self.database_url.clone(),
            data_dir: self.state.canonicalize().unwrap_or_else(|_| self.state.clone()).join("database"),
            path: self.path.clone(),
            pool_size: 3,
            application_name: "rollout".to_owned(),
            ..DatabaseConfig::default()
        };
        let database = Database::open(config).await.map_err(|failure| away(&failure))?;
        Ok(Journal::open(database).await?)
    }

    /// Returns the key of digests. On this machine it is the platform's own, which compares with the same one.
    async fn key(&self, journal: &Journal) -> Result<DigestKey, Stop> {
        match (&self.digest_key, self.platform) {
            (_, Platform::Local) => {
                let path = self.state.join("front.secret");
                let secret = rollout::operator_secret::read(&path);
                let secret =
                    secret.map_err(|failure| Stop(format!("{} cannot be read: {failure}", path.display()), UNAVAILABLE))?;
                Ok(DigestKey::new(secret))
            }
            (Some(key), _) => Ok(DigestKey::new(key.clone())),
            (None, _) => Ok(journal.digest_key().await?),
        }
    }

    fn report(&self, stop: &Stop) -> ExitCode {
        let Stop(words, code) = stop;
        let outcome = match *code {
            BUSY => "busy",
            UNAVAILABLE => "unavailable",
            _ => "refused",
        };
        // A plan that was printed has said it all.
        if !words.is_empty() {
            self.console().ends(&json!({ "outcome": outcome, "reason": words }), &format!("error: {words}"), false);
        }
        ExitCode::from(*code)
    }

    #[expect(clippy::too_many_arguments, reason = "every command has all of it at hand, and nothing of it belongs together")]
    async fn run(
        &self,
        goal: &Goal,
        entry: Entry,
        driver: Arc<dyn Driver>,
        http: Http,
        held: Option<(Journal, Lease)>,
        settings: Settings,
        tell: &Tell,
        seen: &Observation,
        commanded: Instant,
    ) -> (End, Report) {
        let (journal, lease) = held.unzip();
        let webhook = tell.alert_webhook.clone().map(|address| Webhook::new(address, http.clone()));
        let (console, unleased) = (self.console(), seen.epoch);
        Rollout { driver, http, journal, lease, unleased, settings, console, webhook, entry, commanded }.run(goal).await
    }

    fn settings(&self, tell: &Tell) -> Settings {
        Settings {
            manner: Manner::default(),
            limits: gate::Limits::default(),
            watch: Watch::default(),
            bake: Duration::ZERO,
            share_bake: Duration::ZERO,
            answers: 20,
            drained_within: Duration::from_secs(86_400),
            reports: tell.reports.clone().unwrap_or_else(|| self.state.join("reports")),
            force: false,
        }
    }

    fn entry(&self, goal: &Goal, seen: &Observation) -> Entry {
        let to = goal.color();
        let (from, to) = match goal {
            // What is live stays live.
            Goal::Retire { color } => (*color, color.other()),
            _ => (to.other(), to),
        };
        let build = |color: Color| seen.slot(color).build().map(str::to_owned);
        let (image, replicas) = match goal {
            Goal::Deploy { image, replicas, .. } => (Some(image.clone()), *replicas),
            _ => (None, u32::try_from(seen.slot(to).ready()).unwrap_or_default()),
        };
        let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%3fZ");
        Entry {
            id: format!("{stamp}-{}-{}", goal.word(), goal.color()),
            goal: goal.word().to_owned(),
            platform: self.platform.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned()),
            by: self.by.clone(),
            from,
            to,
            from_build: build(from),
            to_build: if image.is_some() { None } else { build(to) },
            image,
            replicas,
            state: "open".to_owned(),
            reason: None,
            approved_by: None,
            baseline: None,
            report: None,
            began_ms: now_ms(),
            switched_ms: None,
            ended_ms: None,
        }
    }
}

/// What came of a command: nothing was to be done, it was done, or it goes no further.
fn ended(common: &Common, ended: Result<Option<(End, Report)>, Stop>) -> ExitCode {
    match ended {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some((end, report))) => finish(common, &end, &report),
        Err(stop) => common.report(&stop),
    }
}

/// Says how it ended, and how the process ends.
fn finish(common: &Common, end: &End, report: &Report) -> ExitCode {
    let name =
        report.to.build.as_ref().map_or_else(|| report.to.color.to_string(), |build| format!("{} {build}", report.to.color));
    let (words, code) = match end {
        End::Done if report.goal == "retire" => (format!("{} is gone", report.from.color), 0),
        End::Done => (format!("{name} is live"), 0),
        End::RolledBack(reason) => (format!("rolled back to {}: {reason}", report.from.color), ROLLED_BACK),
        End::Failed(reason) if report.goal == "deploy" => {
            (format!("failed, and {} never stopped serving: {reason}", report.from.color), FAILED)
        }
        End::Failed(reason) => (format!("failed: {reason}"), FAILED),
        End::Stuck(reason) => {
            (format!("stuck: {reason}\n`rollout status` says what is live; the same command goes on with it"), UNAVAILABLE)
        }
        End::Refused(reasons) => (format!("refused: {}", reasons.join("\n         ")), REFUSED),
        End::Lost(reason) => (reason.clone(), BUSY),
        End::Interrupted(live) => {
            (format!("interrupted: {live}. The same command goes on with it, `rollout rollback` takes it back"), INTERRUPTED)
        }
    };
    let mut value = end.to_json();
    value["rollout"] = json!(report.id);
    value["switches"] = json!(report.switches);
    let file = common.state.join("reports").join(format!("{}.html", report.id));
    if file.is_file() {
        common.console().say(&format!("report: {}", file.canonicalize().unwrap_or(file).display()));
    }
    common.console().ends(&value, &words, code == 0);
    ExitCode::from(code)
}
