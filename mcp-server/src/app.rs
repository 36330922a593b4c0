//! An application: its tools and what they stand on, and the process they become.
//!
//! [`App::start`] finds every mistake before a port is opened and says them all at once.

mod address;
mod running;
mod sharing;
mod starting;

use std::{
    collections::{BTreeSet, HashSet},
    fmt, io,
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::Request, response::IntoResponse, routing::Route};
use bg_runtime::{
    Database, Lifecycle, Release, SecretUrl,
    contract::Contract,
    lifecycle::{Check, Checks, Hook, Stage, signal::Signals},
    storage::{
        Control,
        migration::{self, Migration},
    },
};
use tower::{Layer, Service};
use widgets::Widget;

pub use self::running::Running;
use self::{sharing::Sharing, starting::Starting};
use crate::{
    authentication::{Authentication, Authenticator},
    config::HttpConfig,
    contract,
    http::{
        connection::Patience,
        connections::Connections,
        doors::{self, Doors},
        edge::Edge,
        listener::Listener,
        origin::Allowed,
    },
    limits::Limits,
    mcp::{
        Parts, Server,
        door::{BodyLimits, Door},
    },
    pins,
    prompt::Prompt,
    resource::{Changes, Resource, ResourceTemplate},
    telemetry::{
        Telemetry,
        metrics::{Metrics, Pool},
    },
    tool::{Description, Pinning, Tool},
};

/// How long a readiness check may take.
const CHECK_DEADLINE: Duration = Duration::from_secs(2);

/// Files that are no connection of a client: the database's, telemetry's, those to other replicas, and some more.
const FURTHER_DESCRIPTORS: usize = 128;

/// Why a process leaves that was asked to at its operations door.
const ASKED: &str = "asked at /leave";

/// An application whose tools share the state `S`.
#[must_use = "an application does nothing until it is served"]
pub struct App<S> {
    parts: Parts<S>,
    database: Option<Database>,
    migrations: &'static [Migration],
    migrate: bool,
    checks: Vec<Check>,
    hooks: Vec<Hook>,
    layers: Vec<Box<dyn FnOnce(Router) -> Router + Send>>,
    routes: Router,
    telemetry: Option<Telemetry>,
}

/// Why an application does not start. All of it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The application contradicts itself.
    #[error("{}", list(.0))]
    Mistakes(Vec<String>),
    /// A port cannot be opened.
    #[error("cannot listen on {address}: {source}; is another process there?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Where the other processes reach this one was to be found out, and is not.
    #[error("ADVERTISE_ADDRESS=ecs: {0}")]
    Address(String),
}

fn list(mistakes: &[String]) -> String {
    let noun = if mistakes.len() == 1 { "mistake" } else { "mistakes" };
    format!("{} {noun} in the application:\n  - {}", mistakes.len(), mistakes.join("\n  - "))
}

// === impl App ===

impl<S: Clone + Send + Sync + 'static> App<S> {
    /// An application without tools. `state` is what they share; make parts of it available with
    /// [`FromRef`](axum::extract::FromRef).
    pub fn new(release: Release, state: S) -> Self {
        let parts = Parts {
            name: "mcp-server".to_owned(),
            title: None,
            instructions: None,
            release,
            state,
            tools: Vec::new(),
            resources: Vec::new(),
            templates: Vec::new(),
            widgets: Vec::new(),
            prompts: Vec::new(),
            logging: false,
            changes: None,
            control: None,
            is_protected: false,
        };
        Self {
            parts,
            database: None,
            migrations: &[],
            migrate: true,
            checks: Vec::new(),
            hooks: Vec::new(),
            layers: Vec::new(),
            routes: Router::new(),
            telemetry: None,
        }
    }

    /// The name clients know the server by. Both colors have the same one.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.parts.name = name.into();
        self
    }

    /// The name people see.
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.parts.title = Some(title.into());
        self
    }

    /// What the model is told of the server as a whole. ChatGPT reads the first 512 characters: they must stand alone.
    pub fn instructions(mut self, instructions: impl Into<String>) -> Self {
        self.parts.instructions = Some(instructions.into());
        self
    }

    /// Adds a tool. One that asks for state the application lacks does not compile.
    pub fn tool(mut self, tool: Tool<S>) -> Self {
        self.parts.tools.push(tool);
        self
    }

    /// Adds a resource.
    pub fn resource(mut self, resource: Resource) -> Self {
        self.parts.resources.push(resource);
        self
    }

    /// Adds resources of one form.
    pub fn resource_template(mut self, template: ResourceTemplate) -> Self {
        self.parts.templates.push(template);
        self
    }

    /// Adds a widget, for the tools that name it with [`Tool::widget`]. It is listed under two addresses, one for each
    /// language that hosts speak, and stays readable for as long as its row stands in `mcp_widgets`, from every build.
    pub fn widget(mut self, widget: &'static Widget) -> Self {
        self.parts.widgets.push(widget);
        self
    }

    /// Adds a prompt.
    pub fn prompt(mut self, prompt: Prompt) -> Self {
        self.parts.prompts.push(prompt);
        self
    }

    /// Tells clients that tools send log messages, and that they may set the level.
    pub fn logging(mut self) -> Self {
        self.parts.logging = true;
        self
    }

    /// Tells clients that they may subscribe to resources, and them of these changes.
    pub fn subscriptions(mut self, changes: Changes) -> Self {
        self.parts.changes = Some(changes);
        self
    }

    /// The database the application stands on: it must be reached once before `/ready` says so, `/health` speaks of it, and
    /// it is closed last.
    pub fn database(mut self, database: Database) -> Self {
        let checked = database.clone();
        self.checks.push(Check::new("database", CHECK_DEADLINE, move || {
            let database = checked.clone();
            async move { database.check(CHECK_DEADLINE).await.map(drop) }
        }));
        self.database = Some(database);
        self
    }

    /// What the application's tables are. Applied before the process is ready.
    pub fn migrations(mut self, migrations: &'static [Migration]) -> Self {
        self.migrations = migrations;
        self
    }

    /// This process's view of phases and flags: it is followed from the start, tools can be switched off by it (a flag
    /// `tool.NAME`), and other replicas hear when the process has left. It needs [`database`](Self::database).
    pub fn control(mut self, control: Control) -> Self {
        let checked = control.clone();
        self.checks.push(Check::new("schema", CHECK_DEADLINE, move || {
            let checked = checked.clone();
            async move { checked.too_old().map_or(Ok(()), Err) }
        }));
        self.parts.control = Some(control);
        self
    }

    /// Leaves migrations to somebody else, such as a job of the rollout.
    pub fn migrated_elsewhere(mut self) -> Self {
        self.migrate = false;
        self
    }

    /// Something that must be well once before `/ready` says 200. It may take two seconds; what it says is wrong stands in
    /// `/ready` and `/health`.
    pub fn ready_when<F, A, E>(mut self, name: &str, ask: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        self.checks.push(Check::new(name, CHECK_DEADLINE, ask));
        self
    }

    /// Something to do when the last call has been answered, such as flushing an outbox. Last registered runs first; each is
    /// given up after its `deadline`, which adds to what the platform must grant.
    pub fn on_drain<F, R>(mut self, name: &str, deadline: Duration, run: F) -> Self
    where
        F: FnOnce() -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.hooks.push(Hook::new(name, deadline, run));
        self
    }

    /// Puts a layer around every public door. The last one added is the first to see a request. With a layer, `/mcp` is
    /// answered through axum's router, which costs a few thousand instructions a call.
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Route> + Clone + Send + Sync + 'static,
        L::Service:
            Service<Request, Response: IntoResponse, Error: Into<std::convert::Infallible>, Future: Send> + Clone + Send + Sync,
    {
        self.layers.push(Box::new(move |router| router.layer(layer)));
        self
    }

    /// Adds doors of the application's own to the public listener.
    pub fn routes(mut self, routes: Router) -> Self {
        self.routes = self.routes.merge(routes);
        self
    }

    /// Where measurements go. Without it they are kept for `/metrics` alone.
    pub fn telemetry(mut self, telemetry: Telemetry) -> Self {
        self.telemetry = Some(telemetry);
        self
    }

    /// What the application promises its clients.
    pub fn contract(&self) -> Contract {
        contract::of(&self.parts)
    }

    /// Opens the ports and starts to become ready.
    ///
    /// # Errors
    /// Every mistake of the application and its deadlines, in one message; a port that is taken; or an address that ECS does
    /// not tell.
    pub async fn start(mut self, mut config: HttpConfig) -> Result<Running, StartError> {
        let mistakes = self.mistakes(&config);
        if !mistakes.is_empty() {
            return Err(StartError::Mistakes(mistakes));
        }
        let listen = |address| Listener::bind(address).map_err(|source| StartError::Listen { address, source });
        let (public, operations) = (listen(config.listen)?, listen(config.operations_listen)?);
        if config.advertise.as_deref() == Some(address::ECS) {
            let metadata = config.task_metadata.as_ref().map_or("", SecretUrl::expose);
            let ours = address::of_task(metadata).await.map_err(StartError::Address)?;
            config.advertise = Some(SocketAddr::new(ours, public.address().port()).to_string());
        }

        let lifecycle = Lifecycle::new();
        let release = self.parts.release.clone();
        let contract = self.contract();
        let telemetry = self.telemetry.unwrap_or_else(|| Telemetry::off(&release));
        let metrics = Arc::new(Metrics::new(&telemetry.meter()));
        let sharing = Sharing::new(&self.parts, self.database.as_ref(), self.migrations, &config, public.address());
        let shows_widgets = config.widget_test && !self.parts.widgets.is_empty();
        metrics.watch_lifecycle({
            let lifecycle = lifecycle.clone();
            move || lifecycle.status()
        });
        if let Some(database) = self.database.clone() {
            metrics.watch_pool("database", move || pool(&database));
        }
        let control = self.parts.control.clone();
        let sessions = sharing.sessions.clone();
        let authenticator = Arc::new(authenticator(&config, &self.parts, public.address()));
        self.parts.is_protected = authenticator.resource().is_some();
        let server = Server::new(
            self.parts,
            lifecycle.clone(),
            sessions.clone(),
            (config.call_timeout, config.limits.response),
            &metrics,
            sharing.shared(),
        );
        let server = Arc::new(server);
        let request_states = server.request_states.clone();
        let allowed = Allowed::new(config.public_url.as_ref(), &config.allowed_hosts, &config.allowed_origins);
        let allowed = Arc::new(allowed.principal_header(match &config.authentication {
            Authentication::Header(name) => Some(name.clone()),
            Authentication::None | Authentication::OAuth(_) => None,
        }));
        let limits = Arc::new(Limits::new(config.limits.clone(), metrics.clone()));
        let body = BodyLimits { most: config.body_limit, within: config.body_timeout };
        let streams = sharing.streams.clone();
        let door = Arc::new(Door::new(
            server,
            allowed.clone(),
            authenticator.clone(),
            limits.clone(),
            body,
            streams,
            sharing.forward.clone(),
        ));
        let checks = Checks::new(self.checks);
        let doors = Doors {
            release: release.clone(),
            lifecycle: lifecycle.clone(),
            checks: checks.clone(),
            database: self.database.clone(),
            database_health: Arc::default(),
            openai_challenge: config.openai_challenge.as_deref().map(Into::into),
            resource: authenticator.resource().map(|resource| Arc::new(resource.clone())),
            sessions,
            telemetry: telemetry.clone(),
            control: control.clone(),
            shows_widgets,
            drainage: sharing.drainage.clone(),
            replica: sharing.forward.replica().cloned(),
        };
        let direct = self.layers.is_empty().then(|| door.clone());
        let router =
            self.layers.into_iter().fold(router(doors.clone(), door.clone()).merge(self.routes), |router, layer| layer(router));

        let patience = Patience { headers: config.header_timeout, idle: config.idle_timeout, write: config.write_timeout };
        let (address, operations_address) = (public.address(), operations.address());
        let connections = Connections::new(within_descriptors(config.limits.connections), limits.clone());
        let edge = Edge::new(lifecycle.clone(), (limits, connections.clone()), allowed.clone(), &release, direct, router);
        let edge = Arc::new(edge);
        let listening = tokio::spawn(public.serve(edge.clone(), lifecycle.clone(), patience, connections));
        let serving_operations = tokio::spawn(serve_operations(operations, doors::operations(doors, allowed)));
        let starting = Starting {
            lifecycle: lifecycle.clone(),
            checks,
            database: self.database.clone(),
            migrations: self.migrations,
            migrate: self.migrate,
            control: control.clone(),
            drainage: sharing.drainage.clone(),
            pins: sharing.pins.clone(),
            published: sharing.published.clone(),
            request_state_keys: config.request_state_keys,
            request_states,
            keys_in: sharing.keys_in.clone(),
            release: release.clone(),
            contract,
            is_protected: authenticator.resource().is_some(),
        };
        let starting = tokio::spawn(starting.run());
        let (drainage, calls) = (sharing.drainage.clone(), sharing.calls.as_ref().map(|(calls, _)| calls.clone()));
        let audit = sharing.audit.as_ref().map(|(log, _)| log.clone());
        let keeping = sharing.look_after(door.served(), &lifecycle);
        tracing::info!(release = %release, "{release} listens on http://{address}, operations on http://{operations_address}");
        Ok(Running {
            door,
            edge,
            address,
            operations: operations_address,
            lifecycle,
            timing: config.timing,
            hooks: self.hooks,
            listening,
            helpers: [serving_operations, starting].into_iter().chain(keeping).collect(),
            control,
            drainage,
            calls,
            audit,
            telemetry,
            metrics,
            database: self.database,
        })
    }

    /// Runs the application until the platform tells it to go, and leaves without losing a call. For `main`: it listens to
    /// signals. The exit code is 0 when every call was answered, 1 when some were cut off, 70 when it could not start.
    pub async fn serve(self, config: HttpConfig) -> ExitCode {
        let mut signals = match Signals::listen() {
            Ok(signals) => signals,
            Err(failure) => {
                tracing::error!(error = %failure, "cannot listen to signals: {failure}");
                return ExitCode::from(70);
            }
        };
        let running = match self.start(config).await {
            Ok(running) => running,
            Err(failure) => {
                tracing::error!("{failure}");
                return ExitCode::from(70);
            }
        };
        let why = tokio::select! {
            word = signals.next() => word,
            _ = running.lifecycle.wait_for(|status| status.stage >= Stage::Leaving) => ASKED,
        };
        // After `/leave` the first SIGTERM is the platform keeping its word, not its patience running out.
        let mut expected = why == ASKED;
        let drained = running.depart(why, async move {
            loop {
                let word = signals.next().await;
                if word == "SIGTERM" && std::mem::take(&mut expected) {
                    continue;
                }
                return word;
            }
        });
        let drained = drained.await;
        if drained.cut > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    fn mistakes(&self, config: &HttpConfig) -> Vec<String> {
        let mut mistakes: Vec<String> = self.parts.tools.iter().flat_map(|tool| tool.description.problems()).collect();
        let twice = |what: &str, names: Vec<&str>, mistakes: &mut Vec<String>| {
            let mut seen = HashSet::new();
            let mut said = HashSet::new();
            for name in names {
                if !seen.insert(name) && said.insert(name) {
                    mistakes.push(format!("two {what} are named `{name}`"));
                }
            }
        };
        let parts = &self.parts;
        twice("tools", parts.tools.iter().map(|tool| &*tool.description.name).collect(), &mut mistakes);
        twice("prompts", parts.prompts.iter().map(|prompt| &*prompt.description.name).collect(), &mut mistakes);
        twice("resources", parts.resources.iter().map(|resource| &*resource.description.uri).collect(), &mut mistakes);
        twice("widgets", parts.widgets.iter().map(|widget| widget.name).collect(), &mut mistakes);
        for widget in &parts.widgets {
            mistakes.extend(widget.mistakes().into_iter().map(|mistake| format!("widget `{}`: {mistake}", widget.name)));
        }
        let served: HashSet<_> = parts.widgets.iter().map(|widget| widget.address()).collect();
        for Description { name, drawn_by, .. } in parts.tools.iter().map(|tool| &tool.description) {
            if let Some(address) = drawn_by.as_ref().filter(|address| !served.contains(*address)) {
                mistakes.push(format!("tool `{name}` is drawn by {address}, which nobody serves: call .widget(…) on the App"));
            }
        }
        twice("readiness checks", self.checks.iter().map(Check::name).collect(), &mut mistakes);
        twice("drain hooks", self.hooks.iter().map(Hook::name).collect(), &mut mistakes);
        if let Err(wrong) = migration::check_order(self.migrations) {
            mistakes.push(wrong.to_string());
        }
        if !self.migrations.is_empty() && self.database.is_none() {
            mistakes.push("there are migrations and no database: call .database(…)".to_owned());
        }
        let has_pins = self.migrations.iter().any(|migration| migration.name == pins::MIGRATION.name);
        if let Some(Description { name, .. }) =
            parts.tools.iter().map(|tool| &tool.description).find(|tool| tool.pinning != Pinning::Auto)
            && (parts.control.is_none() || !has_pins)
        {
            mistakes
                .push(format!("tool `{name}` is pinned, which takes a database, its .control(…) and the framework's MIGRATIONS"));
        }
        if self.parts.control.is_some() && self.database.is_none() {
            mistakes.push("there is a control and no database: call .database(…)".to_owned());
        }
        mistakes.extend(config.mistakes());
        mistakes
    }
}

fn router(doors: Doors, door: Arc<Door>) -> Router {
    let mcp = move |request: Request| {
        let door = door.clone();
        async move { door.answer(request).await.map(crate::http::body::Payload::into_body) }
    };
    doors::public(doors).route("/mcp", axum::routing::any(mcp))
}

/// Who finds out who calls. Reading is what the tools do that change nothing.
fn authenticator<S>(config: &HttpConfig, parts: &Parts<S>, address: SocketAddr) -> Authenticator {
    let public = config.public_url.as_ref().map_or_else(|| format!("http://{address}"), ToString::to_string);
    let scopes = |wanted: &dyn Fn(&Description) -> bool| {
        let tools = parts.tools.iter().map(|tool| &tool.description).filter(|tool| wanted(tool));
        let scopes: BTreeSet<_> = tools.flat_map(|tool| tool.scopes.iter().copied()).collect();
        scopes.into_iter().map(str::to_owned).collect()
    };
    let (all, first) = (scopes(&|_| true), scopes(&|tool| tool.annotations.read_only_hint == Some(true)));
    let title = parts.title.as_deref().unwrap_or(&parts.name);
    Authenticator::new(&config.authentication, &public, title, all, first)
}

fn pool(database: &Database) -> Pool {
    let status = database.status();
    let count = |connections: usize| connections as u64;
    Pool {
        used: count(status.open.saturating_sub(status.idle)),
        idle: count(status.idle),
        waiting: count(status.waiting),
        max: count(status.pool_size),
    }
}

/// How many connections there may be, so that files and the database have descriptors left.
fn within_descriptors(wanted: usize) -> usize {
    let Some(descriptors) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current else { return wanted };
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let most = descriptors.saturating_sub((descriptors / 8).max(FURTHER_DESCRIPTORS)).max(1);
    if wanted <= most && wanted > 0 {
        return wanted;
    }
    if wanted > 0 {
        tracing::warn!(
            "CONNECTIONS_MAX={wanted}, and {descriptors} files may be open (`ulimit -n`): {most} connections are taken"
        );
    }
    most
}

/// The operations doors answer until the very end: an operator watches a drain through them.
async fn serve_operations(listener: Listener, router: Router) {
    if let Err(failure) = axum::serve(listener.into_socket(), router).await {
        tracing::error!(error = %failure, "the operations listener ended: {failure}");
    }
}
