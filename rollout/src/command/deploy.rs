//! `deploy` and `plan`: what they are told, and how a deploy begins.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use bg_runtime::Secret;
use clap::Args;
use rollout::{
    bake::Watch,
    compare,
    driver::{DigestKey, Image, Observation},
    execute::{End, Settings},
    gate::{self, Gate},
    http::{Bearer, Http},
    journal::JournalError,
    operator_secret,
    plan::{Goal, Manner},
    report::Report,
    share,
};
use serde_json::{Value, json};

use super::{
    Common, Platform, REFUSED, Stop, ended,
    hidden::Hidden,
    moves::{let_go, take},
};

/// `deploy` and `plan`
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
A deploy that is stopped (a signal, kill -9, a reboot) goes on with the same command. Before the switch a failure costs
nothing: the live color has all the traffic. After it, what is worse is taken back by itself.")]
pub(crate) struct Deploy {
    /// What to run: a program on the local platform, an image elsewhere.
    image: String,
    /// A variable for it; again for another one.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = Hidden(pair))]
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
pub(super) struct Gates {
    /// How long the new color may take to get ready.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    ready_within: u64,
    /// A tool call that does no harm, for the smoke test and the load: `search={"q":"x"}`. Without it, the first tool that
    /// only reads.
    #[arg(long, value_name = "TOOL=JSON", value_parser = probe)]
    probe: Vec<(String, Value)>,
    /// An access token for the smoke test, the contract and the load, where the server wants one. Better in the variable: a
    /// command line is seen by others.
    #[arg(long, env = "ROLLOUT_TOKEN", hide_env_values = true, value_parser = Hidden(token))]
    token: Option<Bearer>,
    /// The longest that such a call may take.
    #[arg(long, default_value_t = 500, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    latency: u64,
    /// A build whose contract clients still hold, beside the live one's; again for another one.
    #[arg(long, value_name = "BUILD")]
    pub(super) published: Vec<String>,
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
pub(super) struct WatchArguments {
    /// Take alerts here (`POST /alerts`, as Alertmanager sends them): one is a reason to go back.
    #[arg(long, value_name = "ADDRESS")]
    alert_listen: Option<SocketAddr>,
    /// What an alert has to bring, as `Authorization: Bearer TOKEN`. Without it, the secret in alert.secret in --state, which is made.
    #[arg(long, value_name = "TOKEN", env = "ROLLOUT_ALERT_TOKEN", hide_env_values = true, value_parser = Hidden(alert_token))]
    alert_token: Option<Secret>,
    /// A Prometheus to ask.
    #[arg(long, value_name = "URL", value_parser = url)]
    prometheus: Option<String>,
    /// Slower by less than this is not slower: the median by so much, the 99th percentile by five times that.
    #[arg(long, default_value_t = 10, value_name = "MS")]
    slower_least: u64,
    /// More errors than before by less than this are not more, in percent of the calls.
    #[arg(long, default_value_t = 0.5, value_name = "PERCENT", value_parser = amount)]
    error_margin: f64,
    /// What to ask it: any value other than 0 is a reason to go back. Again for another question.
    #[arg(long, value_name = "PROMQL", requires = "prometheus")]
    query: Vec<String>,
}

/// Who is told.
#[derive(Clone, Debug, Args)]
pub(super) struct Tell {
    /// Tell this webhook how it ended, in the form that Slack reads.
    #[arg(long, value_name = "URL", env = "ALERT_WEBHOOK", hide_env_values = true, value_parser = Hidden(webhook))]
    pub(super) alert_webhook: Option<Secret>,
    /// Where reports are written. Without it, `reports` in --state.
    #[arg(long, value_name = "DIR")]
    pub(super) reports: Option<PathBuf>,
}

// === impl Gates ===

impl Gates {
    pub(super) fn limits(&self, path: Option<&std::ffi::OsString>) -> gate::Limits {
        gate::Limits {
            ready_within: Duration::from_secs(self.ready_within),
            probes: self.probe.clone(),
            token: self.token.clone(),
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
    /// Without the key, none of its variables equals one that runs.
    fn image(&self, common: &Common, key: Option<&DigestKey>) -> Image {
        let name = if common.platform == Platform::Local { whole(&self.image) } else { self.image.clone() };
        let image = Image::new(name, self.environment.iter().cloned().collect::<BTreeMap<_, _>>());
        match key {
            Some(key) => image.keyed(key),
            None => image,
        }
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
                alert_token: self.watch.alert_token.clone(),
                prometheus: self.watch.prometheus.clone(),
                queries: self.watch.query.clone(),
                limits: compare::Limits {
                    slower_least: Duration::from_millis(self.watch.slower_least).as_secs_f64(),
                    error_margin: self.watch.error_margin / 100.0,
                    ..compare::Limits::default()
                },
            },
            bake: Duration::from_secs(self.bake),
            share_bake: Duration::from_secs(self.step_bake),
            force: self.force,
            ..common.settings(&self.tell)
        }
    }

    /// What is to come about, from what is seen.
    fn goal(&self, common: &Common, key: Option<&DigestKey>, seen: &Observation) -> Goal {
        let from = share::most(seen.green_percent);
        let live = u32::try_from(seen.slot(from).ready()).unwrap_or(u32::MAX).max(seen.slot(from).wanted).max(1);
        Goal::Deploy { image: self.image(common, key), replicas: self.replicas.unwrap_or(live), from }
    }
}

pub(crate) async fn deploy(common: Common, deploy: Deploy, commanded: Instant) -> ExitCode {
    if deploy.dry_run {
        return plan(common, deploy).await;
    }
    ended(&common, begin_deploy(&common, &deploy, commanded).await.map(Some))
}

async fn begin_deploy(common: &Common, deploy: &Deploy, commanded: Instant) -> Result<(End, Report), Stop> {
    let http = Http::new();
    let driver = common.driver(&http).await?;
    let mut settings = deploy.settings(common);
    if settings.watch.alert_listen.is_some() && settings.watch.alert_token.is_none() {
        settings.watch.alert_token = Some(kept_token(&common.state).map_err(|message| Stop(message, REFUSED))?);
    }
    settings.usable(&http).await.map_err(|words| Stop(words, REFUSED))?;
    let journal = common.journal().await?;
    let seen = driver.observe().await?;
    let lease = take(common, &*driver, &journal, &seen, Duration::from_secs(deploy.wait)).await?;
    // Looked at again under the lease: whoever had it may have moved everything.
    let seen = driver.observe().await?;
    let key = common.key(&journal).await?;
    let image = deploy.image(common, Some(&key));
    let (goal, entry) = match journal.open_entry().await? {
        None => {
            let goal = deploy.goal(common, Some(&key), &seen);
            let mut obstacles = rollout::plan::plan(&goal, &settings.manner, &seen, &[]).obstacles;
            // Nothing helps against a program that is not there.
            let missing = driver.missing(&image);
            if missing.is_some() || !obstacles.is_empty() && !settings.force {
                obstacles.extend(missing);
                let_go(&*driver, lease).await;
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
            let_go(&*driver, lease).await;
            return Err(JournalError::Open(open.id).into());
        }
    };
    let held = Some((journal, lease));
    Ok(common.run(&goal, entry, driver, http, held, settings, &deploy.tell, &seen, commanded).await)
}

pub(crate) async fn plan(common: Common, deploy: Deploy) -> ExitCode {
    let run = async {
        let driver = common.driver(&Http::new()).await?;
        let seen = driver.observe().await?;
        // A plan changes nothing, so it goes without a journal that cannot be had; then everything that has variables looks new.
        let key = match common.journal().await {
            Ok(journal) => common.key(&journal).await.ok(),
            Err(_) => None,
        };
        let goal = deploy.goal(&common, key.as_ref(), &seen);
        let missing = driver.missing(&deploy.image(&common, key.as_ref()));
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

pub(super) fn print_plan(common: &Common, goal: &Goal, manner: &Manner, seen: &Observation, missing: Option<String>) -> bool {
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

pub(super) fn pair(word: &str) -> Result<(String, String), String> {
    match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("say NAME=VALUE".to_owned()),
    }
}

fn amount(word: &str) -> Result<f64, String> {
    match word.parse::<f64>() {
        Ok(amount) if amount.is_finite() && amount > 0.0 => Ok(amount),
        _ => Err("say a number greater than 0".to_owned()),
    }
}

pub(super) fn url(word: &str) -> Result<String, String> {
    let word = word.trim();
    let host = word.strip_prefix("https://").or_else(|| word.strip_prefix("http://")).and_then(|rest| rest.split('/').next());
    if host.is_some_and(|host| !host.is_empty()) { Ok(word.to_owned()) } else { Err("say http://… or https://…".to_owned()) }
}

fn webhook(word: &str) -> Result<Secret, String> {
    url(word).map(Secret::new)
}

/// Returns the token of alerts that is kept in the state folder, where none is given.
fn kept_token(state: &Path) -> Result<Secret, String> {
    let path = state.join("alert.secret");
    let kept = std::fs::create_dir_all(state).and_then(|()| operator_secret::keep(&path));
    let token = kept.map_err(|failure| {
        format!("alerts need a token, and none can be kept in {}: {failure}; give one in ROLLOUT_ALERT_TOKEN", path.display())
    })?;
    tracing::info!("an alert has to bring the token in {}", path.display());
    Ok(token)
}

fn alert_token(word: &str) -> Result<Secret, String> {
    token(word).map(|_| Secret::from(word))
}

fn token(word: &str) -> Result<Bearer, String> {
    word.parse().map_err(str::to_owned)
}

fn probe(word: &str) -> Result<(String, Value), String> {
    let (tool, arguments) = word.split_once('=').unwrap_or((word, "{}"));
    let arguments: Value = serde_json::from_str(arguments).map_err(|wrong| format!("`{arguments}` is no JSON: {wrong}"))?;
    if arguments.is_object() { Ok((tool.to_owned(), arguments)) } else { Err("arguments are a JSON object".to_owned()) }
}

/// A program's path, so that whoever runs it need not be where we are. A name alone is looked up by them.
pub(super) fn whole(image: &str) -> String {
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
