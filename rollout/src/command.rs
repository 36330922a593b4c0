//! What each command does. The only place that prints to a person or decides how the process ends.

mod local;

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use bg_runtime::{Color, Database, database::DatabaseConfig};
use clap::{Args, ValueEnum};
use rollout::{
    alert::Webhook,
    bake::Watch,
    chain,
    console::{Console, span},
    driver::{
        Driver, DriverError, Image, Observation, Slot,
        kubernetes::{KubernetesDriver, Reach},
        local::LocalDriver,
    },
    execute::{End, Rollout, Settings},
    gate::{self, Gate},
    http::Http,
    journal::{Entry, Journal, JournalError, Lease},
    plan::{Goal, Manner},
    record::now_ms,
    report::Report,
};
use serde_json::{Value, json};
use tracing_subscriber::filter::LevelFilter;

pub(crate) use self::local::{Front, Local, front, local};

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
    /// Of Kubernetes: the name of the Service, and of the Deployments before `-blue` and `-green`.
    #[arg(long, global = true, default_value = "mcp-server")]
    app: String,
    /// Of Kubernetes: where clients come in, as `https://mcp.example.com`. A switch is proved there.
    #[arg(long, global = true, value_name = "URL", value_parser = url)]
    entrance: Option<String>,
    /// Of Kubernetes: how pods are reached from here.
    #[arg(long, global = true, value_enum, default_value = "forward")]
    reach: ReachArgument,
    /// The database that both colors share, where the journal is. Without it, the local platform's own.
    #[arg(long, global = true, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReachArgument {
    /// Through the API server, as `kubectl port-forward`.
    Forward,
    /// By their addresses: from inside the cluster.
    Pods,
}

/// `deploy` and `plan`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
A deploy that is stopped (a signal, kill -9, a reboot) goes on with the same command. Before the switch a failure costs
nothing: the live color has all the traffic. After it, what is worse is taken back by itself.")]
pub(crate) struct Deploy {
    /// What to run: a program on the local platform, an image elsewhere.
    image: String,
    /// A variable for it; again for another one.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = pair)]
    environment: Vec<(String, String)>,
    /// How many replicas. Without it, as many as are live.
    #[arg(long)]
    replicas: Option<u32>,
    /// Go there in steps, by these shares of the traffic in percent: `--steps 10,50`. Without it, at once.
    #[arg(long, value_delimiter = ',', value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=99))]
    steps: Vec<u8>,
    /// How long a step on the way is watched.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    step_bake: u64,
    /// How long the new color is watched with all the traffic.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    bake: u64,
    /// Leave a gate out; again for another one.
    #[arg(long, value_name = "GATE")]
    skip: Vec<Gate>,
    /// Wait for `rollout approve` before the switch.
    #[arg(long)]
    approval: bool,
    /// Stop the old color in the end, once nothing holds on to it.
    #[arg(long)]
    retire: bool,
    /// Replace a build on the idle color that clients still hold on to.
    #[arg(long)]
    replace: bool,
    /// Go on in spite of what stands in the way.
    #[arg(long)]
    force: bool,
    /// Print the plan and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Wait so long for whoever is at it.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    wait: u64,
    #[command(flatten)]
    gates: Gates,
    #[command(flatten)]
    watch: WatchArguments,
    #[command(flatten)]
    tell: Tell,
}

/// What gates are told.
#[derive(Clone, Debug, Args)]
struct Gates {
    /// How long the new color may take to get ready.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    ready_within: u64,
    /// A tool call that does no harm, for the smoke test and the load: `search={"q":"x"}`. Without it, the first tool that
    /// only reads.
    #[arg(long, value_name = "TOOL=JSON", value_parser = probe)]
    probe: Vec<(String, Value)>,
    /// The longest that such a call may take.
    #[arg(long, default_value_t = 500, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    latency: u64,
    /// A build whose contract clients still hold, beside the live one's; again for another one.
    #[arg(long, value_name = "BUILD")]
    published: Vec<String>,
    /// The load, as a multiple of the live color's calls per second.
    #[arg(long, value_parser = amount, default_value_t = 1.5, value_name = "FACTOR")]
    load_factor: f64,
    /// But at least so many calls per second.
    #[arg(long, value_parser = amount, default_value_t = 50.0, value_name = "RATE")]
    load_least: f64,
    /// And at most so many.
    #[arg(long, value_parser = amount, default_value_t = 500.0, value_name = "RATE")]
    load_most: f64,
    /// For how long.
    #[arg(long, value_parser = amount, default_value_t = 5.0, value_name = "SECONDS")]
    load_for: f64,
    /// The 99th percentile under that load.
    #[arg(long, default_value_t = 500, value_name = "MS")]
    load_p99: u64,
    /// How long a person may take to approve.
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    approve_within: u64,
    /// A Chromium, which opens the widgets in the smoke test. Without it, an installed one.
    #[arg(long, env = "CHROMIUM", value_name = "PROGRAM", hide_env_values = true)]
    chromium: Option<PathBuf>,
}

/// What is asked while the new color is watched.
#[derive(Clone, Debug, Args)]
struct WatchArguments {
    /// Take alerts here (`POST /alerts`, as Alertmanager sends them): one is a reason to go back.
    #[arg(long, value_name = "ADDRESS")]
    alert_listen: Option<SocketAddr>,
    /// A Prometheus to ask.
    #[arg(long, value_name = "URL", value_parser = url)]
    prometheus: Option<String>,
    /// What to ask it: any value other than 0 is a reason to go back. Again for another question.
    #[arg(long, value_name = "PROMQL", requires = "prometheus")]
    query: Vec<String>,
}

/// Who is told.
#[derive(Clone, Debug, Args)]
struct Tell {
    /// Tell this webhook how it ended, in the form that Slack reads.
    #[arg(long, value_name = "URL", env = "ALERT_WEBHOOK", hide_env_values = true, value_parser = url)]
    alert_webhook: Option<String>,
    /// Where reports are written. Without it, `reports` in --state.
    #[arg(long, value_name = "DIR")]
    reports: Option<PathBuf>,
}

/// `smoke`
#[derive(Clone, Debug, Args)]
pub(crate) struct AskGate {
    /// Which color. Without it, the idle one.
    #[arg(long)]
    color: Option<Color>,
    #[command(flatten)]
    gates: Gates,
}

/// `gate`
#[derive(Clone, Debug, Args)]
pub(crate) struct AskNamedGate {
    /// migrate, ready, smoke, contract, validate, load or approve.
    pub(crate) gate: Gate,
    #[command(flatten)]
    pub(crate) ask: AskGate,
}

/// `switch`
#[derive(Clone, Debug, Args)]
pub(crate) struct Switch {
    /// Which color. Without it, the one that is not live.
    to: Option<Color>,
    /// Go on in spite of what stands in the way.
    #[arg(long)]
    force: bool,
    /// Print the plan and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    tell: Tell,
}

/// `rollback` and `abort`
#[derive(Clone, Debug, Args)]
pub(crate) struct Rollback {
    /// To which color. Without it, the one that had the traffic before.
    to: Option<Color>,
    /// Why, for the journal and for alerts.
    #[arg(long)]
    reason: Option<String>,
    /// Print the plan and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    tell: Tell,
}

/// `retire`
#[derive(Clone, Debug, Args)]
pub(crate) struct Retire {
    /// Which color. Without it, the one that is not live.
    color: Option<Color>,
    /// For so long after the switch the old color is kept, because going back to it is instant.
    #[arg(long, default_value_t = 900, value_name = "SECONDS")]
    warm: u64,
    /// Wait until that is over, and not refuse.
    #[arg(long)]
    wait: bool,
    /// How long to wait for what holds on to it; then it is stopped all the same.
    #[arg(long, default_value_t = 86_400, value_name = "SECONDS")]
    max_age: u64,
    /// Print the plan and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    tell: Tell,
}

/// `history`
#[derive(Clone, Debug, Args)]
pub(crate) struct History {
    /// How many.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..))]
    most: i64,
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
/// How often a waiting command looks whether the lease is free.
const LOOK: Duration = Duration::from_millis(250);

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
                let Some(entrance) = self.entrance.clone() else {
                    return Err(Stop("say where clients come in: --entrance https://…".to_owned(), USAGE));
                };
                let reach = match self.reach {
                    ReachArgument::Forward => Reach::Forward,
                    ReachArgument::Pods => Reach::Pods,
                };
                Ok(Arc::new(KubernetesDriver::new(&self.namespace, &self.app, entrance, reach, http.clone()).await?))
            }
        }
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

    fn reports(&self, tell: &Tell) -> PathBuf {
        tell.reports.clone().unwrap_or_else(|| self.state.join("reports"))
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
            reports: self.reports(tell),
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

// === impl Gates ===

impl Gates {
    fn limits(&self, path: Option<&std::ffi::OsString>) -> gate::Limits {
        gate::Limits {
            ready_within: Duration::from_secs(self.ready_within),
            probes: self.probe.clone(),
            latency: Duration::from_millis(self.latency),
            chromium: self.chromium.clone().or_else(|| installed_chromium(path)),
            published: self.published.clone(),
            load_factor: self.load_factor,
            load_rate: (self.load_least, self.load_most.max(self.load_least)),
            load_for: Duration::from_secs_f64(self.load_for.clamp(0.1, 600.0)),
            load_p99: Duration::from_millis(self.load_p99),
            approve_within: Duration::from_secs(self.approve_within),
            ..gate::Limits::default()
        }
    }
}

// === impl Deploy ===

impl Deploy {
    fn image(&self, common: &Common) -> Image {
        let name = if common.platform == Platform::Local { whole(&self.image) } else { self.image.clone() };
        Image { name, environment: self.environment.iter().cloned().collect::<BTreeMap<_, _>>() }
    }

    fn settings(&self, common: &Common) -> Settings {
        Settings {
            manner: Manner {
                shares: self.steps.clone(),
                skip: self.skip.clone(),
                approval: self.approval,
                retire: self.retire,
                replace: self.replace || self.force,
            },
            limits: self.gates.limits(common.path.as_ref()),
            watch: Watch {
                alert_listen: self.watch.alert_listen,
                prometheus: self.watch.prometheus.clone(),
                queries: self.watch.query.clone(),
                ..Watch::default()
            },
            bake: Duration::from_secs(self.bake),
            share_bake: Duration::from_secs(self.step_bake),
            force: self.force,
            ..common.settings(&self.tell)
        }
    }

    /// What is to come about, from what is seen.
    fn goal(&self, common: &Common, seen: &Observation) -> Goal {
        let from = seen.live().unwrap_or(if seen.green_percent > 50 { Color::Green } else { Color::Blue });
        let live = u32::try_from(seen.slot(from).ready()).unwrap_or(u32::MAX).max(seen.slot(from).wanted).max(1);
        Goal::Deploy { image: self.image(common), replicas: self.replicas.unwrap_or(live), from }
    }
}

pub(crate) async fn deploy(common: Common, deploy: Deploy, commanded: Instant) -> ExitCode {
    if deploy.dry_run {
        return plan(common, deploy).await;
    }
    finish(&common, begin_deploy(&common, &deploy, commanded).await)
}

async fn begin_deploy(common: &Common, deploy: &Deploy, commanded: Instant) -> Result<(End, Report), Stop> {
    let http = Http::new();
    let driver = common.driver(&http).await?;
    let settings = deploy.settings(common);
    settings.usable(&http).await.map_err(|words| Stop(words, REFUSED))?;
    let journal = common.journal().await?;
    let seen = driver.observe().await?;
    let lease = take(common, &*driver, &journal, &seen, Duration::from_secs(deploy.wait)).await?;
    // Looked at again under the lease: whoever had it may have moved everything.
    let seen = driver.observe().await?;
    let image = deploy.image(common);
    let (goal, entry) = match journal.open_entry().await? {
        None => {
            let goal = deploy.goal(common, &seen);
            let mut obstacles = rollout::plan::plan(&goal, &settings.manner, &seen, &[]).obstacles;
            // Nothing helps against a program that is not there.
            let missing = driver.missing(&image);
            if missing.is_some() || !obstacles.is_empty() && !settings.force {
                obstacles.extend(missing);
                lease.release().await;
                return Err(Stop(obstacles.join("\n       "), REFUSED));
            }
            let entry = common.entry(&goal, &seen);
            journal.begin(&entry).await?;
            (goal, entry)
        }
        Some(open) if open.goal == "deploy" && open.image.as_ref() == Some(&image.hidden()) => {
            common.console().resumes(&open.id);
            let goal = Goal::Deploy { image, replicas: open.replicas, from: open.from };
            (goal, open)
        }
        Some(open) => {
            lease.release().await;
            return Err(JournalError::Open(open.id).into());
        }
    };
    let held = Some((journal, lease));
    Ok(common.run(&goal, entry, driver, http, held, settings, &deploy.tell, &seen, commanded).await)
}

/// Takes the lease, waits for whoever has it, and lets nobody before move anything any more.
async fn take(
    common: &Common,
    driver: &dyn Driver,
    journal: &Journal,
    seen: &Observation,
    wait: Duration,
) -> Result<Lease, Stop> {
    let begun = Instant::now();
    loop {
        match journal.take(&common.by, seen.epoch, false).await {
            Err(JournalError::Held(held)) if begun.elapsed() < wait => {
                tracing::debug!("{} is at it", held.holder);
                tokio::time::sleep(LOOK).await;
            }
            taken => {
                let lease = taken?;
                driver.fence(lease.epoch()).await?;
                return Ok(lease);
            }
        }
    }
}

/// Begins a rollout in the journal, or goes on with the one that is open when it is the same.
async fn begin(journal: &Journal, entry: Entry) -> Result<Entry, JournalError> {
    match journal.begin(&entry).await {
        Err(JournalError::Open(id)) => match journal.open_entry().await? {
            Some(open) if (&open.goal, open.from, open.to) == (&entry.goal, entry.from, entry.to) => Ok(open),
            _ => Err(JournalError::Open(id)),
        },
        begun => begun.map(|()| entry),
    }
}

/// Whether a plan may be begun; a dry run prints it.
fn may_begin(common: &Common, goal: &Goal, seen: &Observation, dry_run: bool, force: bool) -> Result<bool, Stop> {
    if dry_run {
        return if print_plan(common, goal, &Manner::default(), seen, None) {
            Ok(false)
        } else {
            Err(Stop(String::new(), REFUSED))
        };
    }
    let obstacles = rollout::plan::plan(goal, &Manner::default(), seen, &[]).obstacles;
    if obstacles.is_empty() || force { Ok(true) } else { Err(Stop(obstacles.join("\n       "), REFUSED)) }
}

pub(crate) async fn switch(common: Common, switch: Switch, commanded: Instant) -> ExitCode {
    let run = async {
        let http = Http::new();
        let driver = common.driver(&http).await?;
        let (journal, seen) = tokio::join!(common.journal(), driver.observe());
        let (journal, seen) = (journal?, seen?);
        let to = switch.to.or_else(|| seen.live().map(Color::other));
        let Some(to) = to else {
            let words = "both colors get traffic: say which one is to get all of it, `rollout switch blue` or `green`";
            return Err(Stop(words.to_owned(), REFUSED));
        };
        let goal = Goal::Switch { to, back: false, stop: false };
        if !may_begin(&common, &goal, &seen, switch.dry_run, switch.force)? {
            return Ok(None);
        }
        let lease = take(&common, &*driver, &journal, &seen, Duration::ZERO).await?;
        let entry = begin(&journal, common.entry(&goal, &seen)).await?;
        let settings = Settings { force: switch.force, ..common.settings(&switch.tell) };
        let held = Some((journal, lease));
        Ok(Some(common.run(&goal, entry, driver, http, held, settings, &switch.tell, &seen, commanded).await))
    };
    ended(&common, run.await)
}

fn ended(common: &Common, ended: Result<Option<(End, Report)>, Stop>) -> ExitCode {
    match ended {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(ended)) => finish(common, Ok(ended)),
        Err(stop) => common.report(&stop),
    }
}

pub(crate) async fn rollback(common: Common, back: Rollback, commanded: Instant, is_abort: bool) -> ExitCode {
    ended(&common, begin_rollback(&common, &back, commanded, is_abort).await)
}

async fn begin_rollback(
    common: &Common,
    back: &Rollback,
    commanded: Instant,
    is_abort: bool,
) -> Result<Option<(End, Report)>, Stop> {
    let http = Http::new();
    let driver = common.driver(&http).await?;
    let console = common.console();
    let seen = driver.observe().await?;
    // Whatever the journal does, it is not in the way: going back is for when everything else goes wrong.
    let asked = tokio::time::timeout(JOURNAL_WITHIN, async {
        let journal = common.journal().await?;
        // Whoever is at it has to let go: that is what going back from any state means.
        let lease = if back.dry_run { None } else { Some(journal.take(&common.by, seen.epoch, true).await?) };
        // Read once nobody else acts.
        let open = journal.open_entry().await?;
        Ok::<_, Stop>((journal, lease, open))
    });
    let (journal, lease, open) = match asked.await {
        Ok(Ok((journal, lease, open))) => (Some(journal), lease, open),
        Ok(Err(Stop(words, _))) => {
            console.warn(&format!("{words}: it goes on without a journal and without a lease"));
            (None, None, None)
        }
        Err(_) => {
            console.warn("the journal does not answer: it goes on without it and without a lease");
            (None, None, None)
        }
    };
    let unleased = lease.as_ref().map_or(seen.epoch.saturating_add(1), Lease::epoch);
    if !back.dry_run {
        // Who was at it moves nothing from now on, wherever it is in what it does.
        driver.fence(unleased).await?;
    }
    let seen = driver.observe().await?;
    if is_abort && open.is_none() {
        let words = "no rollout is open, so there is nothing to abort; `rollout status` says what is live";
        return Err(Stop(words.to_owned(), REFUSED));
    }
    let reason =
        back.reason.clone().unwrap_or_else(|| format!("{} {}", common.by, if is_abort { "aborted it" } else { "went back" }));
    let to = match (&back.to, &open) {
        (Some(to), _) => Some(*to),
        (None, Some(open)) if open.goal == "rollback" => Some(open.to),
        (None, Some(open)) if open.goal != "retire" => Some(open.from),
        (None, Some(_)) if is_abort => seen.live(),
        _ => seen.before,
    };
    let close = async |open: &Entry, journal: &Journal| {
        tokio::time::timeout(JOURNAL_WITHIN, journal.end(&open.id, "aborted", Some(&rollout::plain(&reason)), None)).await
    };
    // A retire moves no traffic, and a rollback of one neither: it is over, and that is all.
    if let (Some(open), Some(journal), true) = (&open, &journal, is_abort && !back.dry_run)
        && open.goal == "retire"
    {
        let _ = close(open, journal).await;
        console.ends(&json!({ "outcome": "done", "aborted": open.id }), &format!("{} is aborted", open.id), true);
        return Ok(None);
    }
    let Some(to) = to else {
        let live = seen.live().map_or_else(|| "both colors get traffic".to_owned(), |live| format!("{live} is live"));
        let words = format!(
            "{live}, and nothing is known that it was switched from: say which color is to get all traffic, `rollout rollback \
             blue` or `green`"
        );
        return Err(Stop(words, REFUSED));
    };
    let started = open.as_ref().filter(|open| open.goal == "deploy" && open.to == to.other());
    let stop = started.is_some_and(|open| seen.slot(open.to).image == open.image && open.image.is_some());
    let goal = Goal::Switch { to, back: true, stop };
    let stays = seen.share(to) == 100;
    // Where the traffic is already there, nobody has to be ready to take it.
    if !may_begin(common, &goal, &seen, back.dry_run, stays)? {
        return Ok(None);
    }
    let entry = common.entry(&goal, &seen);
    let held = match (journal, lease) {
        (Some(journal), Some(lease)) => {
            let written = tokio::time::timeout(JOURNAL_WITHIN, async {
                if let Some(open) = open.as_ref().filter(|open| open.goal != "rollback" || open.to != to) {
                    journal.end(&open.id, "aborted", Some(&rollout::plain(&reason)), None).await?;
                }
                begin(&journal, entry.clone()).await
            });
            match written.await {
                Ok(Ok(begun)) => Some((journal, lease, begun)),
                Ok(Err(failure)) => {
                    console.warn(&format!("{}: it goes on without a journal", chain(&failure)));
                    None
                }
                Err(_) => {
                    console.warn("the journal does not answer: it goes on without it");
                    None
                }
            }
        }
        _ => None,
    };
    let (held, entry) = match held {
        Some((journal, lease, begun)) => (Some((journal, lease)), begun),
        None => (None, entry),
    };
    let seen = Observation { epoch: unleased, ..seen };
    let settings = Settings { force: true, ..common.settings(&back.tell) };
    Ok(Some(common.run(&goal, entry, driver, http, held, settings, &back.tell, &seen, commanded).await))
}

pub(crate) async fn retire(common: Common, retire: Retire, commanded: Instant) -> ExitCode {
    let run = async {
        let http = Http::new();
        let driver = common.driver(&http).await?;
        let (journal, seen) = (common.journal().await?, driver.observe().await?);
        let color = retire.color.or_else(|| seen.live().map(Color::other));
        let Some(color) = color else { return Err(Stop("both colors get traffic: switch first".to_owned(), REFUSED)) };
        let goal = Goal::Retire { color };
        if !may_begin(&common, &goal, &seen, retire.dry_run, false)? {
            return Ok(None);
        }
        let lease = take(&common, &*driver, &journal, &seen, Duration::ZERO).await?;
        let left = journal.warm_for(color, retire.warm).await?;
        if !left.is_zero() && !retire.wait {
            lease.release().await;
            let words = format!(
                "{color} is kept warm for {} more, because going back to it is instant: --wait waits, --warm 0 does not",
                span(left)
            );
            return Err(Stop(words, REFUSED));
        }
        tokio::time::sleep(left).await;
        let entry = begin(&journal, common.entry(&goal, &seen)).await?;
        let settings = Settings { drained_within: Duration::from_secs(retire.max_age), ..common.settings(&retire.tell) };
        let held = Some((journal, lease));
        Ok(Some(common.run(&goal, entry, driver, http, held, settings, &retire.tell, &seen, commanded).await))
    };
    ended(&common, run.await)
}

/// Says how it ended, and how the process ends.
fn finish(common: &Common, ended: Result<(End, Report), Stop>) -> ExitCode {
    let (end, report) = match ended {
        Ok(ended) => ended,
        Err(stop) => return common.report(&stop),
    };
    let name =
        report.to.build.as_ref().map_or_else(|| report.to.color.to_string(), |build| format!("{} {build}", report.to.color));
    let (words, code) = match &end {
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

pub(crate) async fn plan(common: Common, deploy: Deploy) -> ExitCode {
    let run = async {
        let driver = common.driver(&Http::new()).await?;
        let seen = driver.observe().await?;
        let goal = deploy.goal(&common, &seen);
        let missing = driver.missing(&deploy.image(&common));
        Ok::<_, Stop>(print_plan(&common, &goal, &deploy.settings(&common).manner, &seen, missing))
    };
    match run.await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(REFUSED),
        Err(stop) => common.report(&stop),
    }
}

/// What a person checks beside the steps: the part of a deploy that no program does for them.
const CHECKLIST: [(&str, &str); 6] = [
    ("before", "dashboards and alerts see both colors: every metric carries `release_color`"),
    ("before", "who is on call knows: --alert-webhook tells how it ends"),
    ("before", "features can be switched off without a deploy: `mcp-server flag set tool.NAME 0`"),
    ("during", "`rollout rollback` takes everything back, from any state, in another terminal"),
    ("after", "the old color stays warm: going back is instant until `rollout retire`"),
    ("after", "the report says what both colors did; `rollout history` lists them"),
];

fn print_plan(common: &Common, goal: &Goal, manner: &Manner, seen: &Observation, missing: Option<String>) -> bool {
    let mut plan = rollout::plan::plan(goal, manner, seen, &[]);
    plan.obstacles.extend(missing);
    let console = common.console();
    let free = plan.obstacles.is_empty();
    if common.json {
        console.ends(&json!({ "goal": goal.word(), "color": goal.color(), "plan": plan }), "", free);
        return free;
    }
    console.say(&format!("{} {}\n", goal.word(), goal.color()));
    for planned in &plan.steps {
        let mark = if planned.done { "done" } else { "    " };
        console.say(&format!("  {mark} {:10} {}", planned.step.name(), planned.words));
    }
    if matches!(goal, Goal::Deploy { .. }) {
        for gate in &manner.skip {
            console.say(&format!("  SKIP {gate}"));
        }
        console.say("");
        for (when, words) in CHECKLIST {
            console.say(&format!("  {when}: {words}"));
        }
    }
    if !free {
        console.say("\nin the way:");
        for obstacle in &plan.obstacles {
            console.say(&format!("  - {obstacle}"));
        }
    }
    free
}

pub(crate) async fn status(common: Common) -> ExitCode {
    let run = async {
        let driver = common.driver(&Http::new()).await?;
        let seen = driver.observe().await?;
        let journal = tokio::time::timeout(JOURNAL_WITHIN, common.journal()).await;
        let (held, open, step, problem) = match journal {
            Ok(Ok(journal)) => {
                let open = journal.open_entry().await?;
                let steps = match &open {
                    Some(open) => journal.steps(&open.id).await?,
                    None => Vec::new(),
                };
                (journal.held().await?, open, steps.into_iter().next_back(), None)
            }
            Ok(Err(Stop(words, _))) => (None, None, None, Some(words)),
            Err(_) => (None, None, None, Some("the journal does not answer".to_owned())),
        };
        let console = common.console();
        if common.json {
            let value = json!({ "platform": driver.platform(), "entrance": driver.entrance(), "live": seen.live(),
                "seen": seen, "lease": held, "open": open, "step": step, "problem": problem });
            console.ends(&value, "", true);
            return Ok::<_, Stop>(());
        }
        let live = seen.live().map_or_else(|| format!("{} % go to green", seen.green_percent), |live| format!("{live} is live"));
        console.say(&format!("{live} at {}", driver.entrance()));
        for color in [Color::Blue, Color::Green] {
            say_slot(&console, color, seen.slot(color), seen.share(color));
        }
        for color in [Color::Blue, Color::Green] {
            if seen.share(color) > 0 && seen.slot(color).ready() == 0 {
                console.say(&format!("\n{} % OF THE TRAFFIC GO TO {color}, AND NO REPLICA OF IT IS READY", seen.share(color)));
            }
        }
        if let Some(open) = open {
            let at = step.map_or_else(String::new, |step| format!(", at `{}` ({})", step.step, step.state));
            let what = open.image.as_ref().map_or_else(String::new, |image| {
                let names: Vec<_> = image.environment.keys().map(|name| format!(" --env {name}=…")).collect();
                format!(" {}{}", image.name, names.concat())
            });
            console.say(&format!("\nnot finished{at}: `rollout {}{what}` by {} ({})", open.goal, open.by, open.id));
            match &held {
                Some(held) => console.say(&format!("  {} is at it, for {} s more unless it goes on", held.holder, held.seconds)),
                None => console.say("  NOBODY IS AT IT: that command goes on with it, `rollout abort` ends it"),
            }
            if open.approved_by.is_none() && at.contains("`approve`") {
                console.say("  it waits for a person: `rollout approve`");
            }
        } else if let Some(held) = held {
            console.say(&format!("\n{} is at it, for {} s more unless it goes on", held.holder, held.seconds));
        }
        if let Some(problem) = problem {
            console.say(&format!("\nTHE JOURNAL CANNOT BE READ: {problem}\n`rollout rollback` works all the same"));
        }
        Ok(())
    };
    match run.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => common.report(&stop),
    }
}

fn say_slot(console: &Console, color: Color, slot: &Slot, share: u8) {
    if slot.is_empty() {
        return console.say(&format!("\n{color}  {share} %  nothing runs"));
    }
    let image = slot.image.as_ref().map_or("nothing", |image| &image.name);
    let build = slot.build().unwrap_or("no build");
    console.say(&format!("\n{color}  {share} %  {} of {} ready  {build}\n  {image}", slot.ready(), slot.wanted));
    for replica in &slot.replicas {
        let state = match replica {
            replica if replica.leaving => "leaving",
            replica if replica.ready => "ready",
            _ => "not ready",
        };
        console.say(&format!(
            "  {:10} {state:9}  http://{}  operations http://{}",
            replica.name, replica.address, replica.operations
        ));
    }
    if let Some(trouble) = &slot.trouble {
        console.say(&format!("  trouble: {trouble}"));
    }
}

pub(crate) async fn ask(common: Common, gate: Gate, ask: AskGate) -> ExitCode {
    let run = async {
        let http = Http::new();
        let driver = common.driver(&http).await?;
        let seen = driver.observe().await?;
        let color = ask.color.or_else(|| seen.live().map(Color::other)).unwrap_or(Color::Green);
        let needs_journal = gate == Gate::Approve || !ask.gates.published.is_empty();
        let journal = if needs_journal { Some(common.journal().await?) } else { None };
        let open = match &journal {
            Some(journal) => journal.open_entry().await?.map(|open| open.id),
            None => None,
        };
        let console = common.console();
        let progress = |words: &str| console.goes(words);
        let slot = seen.slot(color);
        let limits = ask.gates.limits(common.path.as_ref());
        let context = gate::Context {
            driver: &*driver,
            http: &http,
            journal: journal.as_ref(),
            rollout: open.as_deref(),
            color,
            image: slot.image.as_ref(),
            replicas: slot.wanted.max(1),
            live_rate: 0.0,
            limits: &limits,
            progress: &progress,
        };
        let finding = gate.ask(&context).await;
        for (label, value) in &finding.details {
            console.say(&format!("  {label}: {value}"));
        }
        let value = json!({ "gate": gate.name(), "color": color, "passed": finding.passed, "words": finding.words,
            "details": finding.details });
        let word = if finding.passed { "ok" } else { "FAIL" };
        console.ends(&value, &format!("{word} {gate}: {}", finding.words), finding.passed);
        Ok::<_, Stop>(finding.passed)
    };
    match run.await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(stop) => common.report(&stop),
    }
}

pub(crate) async fn approve(common: Common) -> ExitCode {
    let run = async {
        let journal = common.journal().await?;
        let open = journal.open_entry().await?;
        let Some(open) = open else { return Err(Stop("no rollout is open, so there is nothing to approve".to_owned(), REFUSED)) };
        let steps = journal.steps(&open.id).await?;
        if !steps.iter().any(|step| step.step == Gate::Approve.name() && step.state == "begun") {
            return Err(Stop(format!("{} does not wait for a person; `rollout status` says where it is", open.id), REFUSED));
        }
        journal.approve(&common.by).await?;
        Ok::<_, Stop>(open)
    };
    match run.await {
        Ok(open) => {
            let build = open.to_build.as_deref().unwrap_or("a build that has not said its name");
            let words = format!("{} may go on: {} {build} becomes live", open.id, open.to);
            common.console().ends(&json!({ "approved": open.id }), &words, true);
            ExitCode::SUCCESS
        }
        Err(stop) => common.report(&stop),
    }
}

pub(crate) async fn unlock(common: Common) -> ExitCode {
    let run = async { Ok::<_, Stop>(common.journal().await?.unlock().await?) };
    match run.await {
        Ok(held) => {
            let words = match &held {
                Some(held) => format!("taken from {}: that rollout stops when it notices, within a few seconds", held.holder),
                None => "nobody held the lease".to_owned(),
            };
            common.console().ends(&json!({ "was": held }), &words, true);
            ExitCode::SUCCESS
        }
        Err(stop) => common.report(&stop),
    }
}

pub(crate) async fn history(common: Common, history: History) -> ExitCode {
    let run = async { Ok::<_, Stop>(common.journal().await?.history(history.most).await?) };
    let entries = match run.await {
        Ok(entries) => entries,
        Err(stop) => return common.report(&stop),
    };
    let console = common.console();
    if common.json {
        console.ends(&json!(entries), "", true);
        return ExitCode::SUCCESS;
    }
    if entries.is_empty() {
        console.say("no rollout yet");
    }
    for entry in entries {
        let at = i64::try_from(entry.began_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        let at = at.map_or_else(String::new, |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string());
        let took =
            entry.ended_ms.map_or_else(String::new, |ended| span(Duration::from_millis(ended.saturating_sub(entry.began_ms))));
        let build = entry.to_build.as_deref().unwrap_or("");
        let color = if entry.goal == "retire" { entry.from } else { entry.to };
        let build = if entry.goal == "retire" { entry.from_build.as_deref().unwrap_or("") } else { build };
        console.say(&format!("{at}  {:8}  {:11}  {color:5}  {build}  {took}  by {}", entry.goal, entry.state, entry.by));
        let reason = entry.reason.map(|reason| format!("    why: {reason}"));
        for line in reason.into_iter().chain(entry.report.map(|report| format!("    report: {report}"))) {
            console.say(&line);
        }
    }
    ExitCode::SUCCESS
}

fn pair(word: &str) -> Result<(String, String), String> {
    match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{word}` is not NAME=VALUE")),
    }
}

fn amount(word: &str) -> Result<f64, String> {
    match word.parse::<f64>() {
        Ok(amount) if amount.is_finite() && amount > 0.0 => Ok(amount),
        _ => Err("say a number greater than 0".to_owned()),
    }
}

fn url(word: &str) -> Result<String, String> {
    let word = word.trim();
    let host = word.strip_prefix("https://").or_else(|| word.strip_prefix("http://")).and_then(|rest| rest.split('/').next());
    if host.is_some_and(|host| !host.is_empty()) { Ok(word.to_owned()) } else { Err("say http://… or https://…".to_owned()) }
}

fn probe(word: &str) -> Result<(String, Value), String> {
    let (tool, arguments) = word.split_once('=').unwrap_or((word, "{}"));
    let arguments: Value = serde_json::from_str(arguments).map_err(|wrong| format!("`{arguments}` is no JSON: {wrong}"))?;
    if arguments.is_object() { Ok((tool.to_owned(), arguments)) } else { Err("arguments are a JSON object".to_owned()) }
}

/// A program's path, so that whoever runs it need not be where we are. A name alone is looked up by them.
fn whole(image: &str) -> String {
    if !image.contains('/') {
        return image.to_owned();
    }
    Path::new(image).canonicalize().map_or_else(|_| image.to_owned(), |path| path.display().to_string())
}

fn installed_chromium(path: Option<&std::ffi::OsString>) -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let folders: Vec<_> = std::env::split_paths(path?).collect();
    names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|program| program.is_file())
}
