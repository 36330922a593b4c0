//! Configuration: every variable, its default and the reason for it, in one place.
//!
//! The environment is an argument. [`Config::read`] finds everything that is wrong with it and says it in one message;
//! [`Config::show`] prints what is in force, secrets hidden.

use std::{
    fmt::{self, Display, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use bg_runtime::{
    Color, Release, Secret, SecretUrl,
    database::{DatabaseConfig, Pooler},
    lifecycle::Timing,
};
use http::Uri;
use jiff::tz::TimeZone;

use crate::{
    appointments::{self, ForeignUsers},
    authentication::{ALGORITHMS, Authentication, OAuth},
    limits::{AddressLimits, LimitsConfig, PrincipalLimits, TrustedProxies, memory},
    mcp::{networks::ForwardNetworks, replica::ForwardKey},
    pins::PinLimits,
    request_state::RequestStateKeys,
    sessions::SessionLimits,
    telemetry::{LogFormat, TelemetryConfig},
};

/// The exit code for a configuration that cannot be used: `EX_USAGE` of sysexits.
pub const EXIT_CODE: u8 = 64;

/// Everything that is configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// What this process is.
    pub release: Release,
    /// How it is reached and how it leaves.
    pub http: HttpConfig,
    /// Where its data is.
    pub database: DatabaseConfig,
    /// The database as its owner reaches it, who migrates; unless the user that serves does.
    pub migrate_url: Option<Secret>,
    /// Whether `serve` applies migrations itself.
    pub migrate: bool,
    /// The zone of times that say none.
    pub time_zone: TimeZone,
    /// What is done about a `userId` that is not the caller's own.
    pub foreign_users: ForeignUsers,
    /// What it says about itself.
    pub telemetry: TelemetryConfig,
    lines: Vec<Line>,
}

/// How a process is reached and how it leaves.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Where clients come in.
    pub listen: SocketAddr,
    /// Where operators come in.
    pub operations_listen: SocketAddr,
    /// The address clients know, when it is not the one above: behind a balancer.
    pub public_url: Option<Uri>,
    /// How callers say who they are.
    pub authentication: Authentication,
    /// Further host names that are ours.
    pub allowed_hosts: Vec<String>,
    /// Pages, as `scheme://host[:port]`, that may call from a browser.
    pub allowed_origins: Vec<String>,
    /// What `/.well-known/openai-apps-challenge` answers: how OpenAI verifies that a domain is one's own.
    pub openai_challenge: Option<String>,
    /// Whether there is `/widget-test`, a page for developers.
    pub widget_test: bool,
    /// Largest request body, in bytes.
    pub body_limit: usize,
    /// How long a request's body may take once its headers have come.
    pub body_timeout: Duration,
    /// How much there may be at once, and of whom.
    pub limits: LimitsConfig,
    /// How long a tool may take.
    pub call_timeout: Duration,
    /// How long a request's headers may take.
    pub header_timeout: Duration,
    /// How long a client may take to read, when not a byte more can be written to it.
    pub write_timeout: Duration,
    /// How long a connection may be idle between requests.
    pub idle_timeout: Duration,
    /// The clocks of a departure.
    pub timing: Timing,
    /// How long rows of the audit log are kept; nothing is for ever.
    pub audit_retention: Option<Duration>,
    /// How long sessions live and how many there may be.
    pub sessions: SessionLimits,
    /// How long conversations stay on a build that asked for it.
    pub pins: PinLimits,
    /// Where the other processes reach this one, when not where it listens.
    pub advertise: Option<String>,
    /// What replicas prove themselves to each other with, before one hands another a call. With a private PostgreSQL there
    /// is one beside it.
    pub forward_key: Option<ForwardKey>,
    /// Where calls may be handed, when not around where this replica advertises itself.
    pub forward_networks: Option<ForwardNetworks>,
    /// Where ECS tells a container about its task.
    pub task_metadata: Option<SecretUrl>,
    /// What seals what clients carry between the rounds of a call.
    pub request_state_keys: RequestStateKeys,
}

/// Everything that is wrong with the environment.
#[derive(Debug, thiserror::Error)]
#[error("{} in the environment:\n  - {}", count(.0.len()), .0.join("\n  - "))]
pub struct ConfigError(Vec<String>);

fn count(problems: usize) -> String {
    if problems == 1 { "1 problem".to_owned() } else { format!("{problems} problems") }
}

/// One variable, as `config` prints it.
#[derive(Clone, Debug)]
struct Line {
    name: &'static str,
    value: String,
    given: bool,
    reason: &'static str,
}

impl Default for HttpConfig {
    /// What an empty environment gives, except that both ports are free ones: for examples and tests.
    fn default() -> Self {
        let free = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let config = Config::read(&|_| None).expect("an empty environment is a valid one");
        Self { listen: free, operations_listen: free, ..config.http }
    }
}

impl HttpConfig {
    /// Deadlines that do not fit into each other. The chain: a call ends before the drain gives up on it.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if self.call_timeout > self.timing.drain_deadline {
            mistakes.push(format!(
                "a call may take {:?} and the drain waits only {:?} for it: lower CALL_TIMEOUT_SECS or raise DRAIN_DEADLINE_SECS",
                self.call_timeout, self.timing.drain_deadline
            ));
        }
        if self.advertise.as_deref() == Some("ecs") && self.task_metadata.is_none() {
            mistakes
                .push("ADVERTISE_ADDRESS=ecs, and this is no task of ECS: ECS_CONTAINER_METADATA_URI_V4 is not set".to_owned());
        }
        if self.header_timeout > self.idle_timeout {
            mistakes.push("HEADER_TIMEOUT_SECS is longer than IDLE_TIMEOUT_SECS".to_owned());
        }
        mistakes
    }
}

/// Reads variables, and keeps what it read for `config` to print.
struct Reader<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    /// The bytes of memory that the process may use.
    memory: u64,
    lines: Vec<Line>,
    problems: Vec<String>,
}

impl Reader<'_> {
    /// A variable with a default.
    fn value<T: FromStr<Err: Display> + Clone>(&mut self, name: &'static str, default: &str, reason: &'static str) -> Option<T> {
        let given = self.get(name);
        let text = given.as_deref().unwrap_or(default);
        self.lines.push(Line { name, value: text.to_owned(), given: given.is_some(), reason });
        if text.is_empty() {
            return None;
        }
        match text.parse() {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.problems.push(format!("{name}=`{text}`: {wrong}"));
                None
            }
        }
    }

    fn seconds(&mut self, name: &'static str, default: u32, reason: &'static str) -> Duration {
        Duration::from_secs(self.value::<u32>(name, &default.to_string(), reason).unwrap_or(default).into())
    }

    fn count<T: FromStr<Err: Display> + Display + Clone>(&mut self, name: &'static str, default: T, reason: &'static str) -> T {
        self.value(name, &default.to_string(), reason).unwrap_or(default)
    }

    fn list(&mut self, name: &'static str, reason: &'static str) -> Vec<String> {
        let text: Option<String> = self.value(name, "", reason);
        text.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    /// A variable that has a form, and whose value is shown to nobody.
    fn secret_value<T: FromStr<Err: Display>>(&mut self, name: &'static str, reason: &'static str) -> Option<T> {
        let text = self.secret(name, reason)?;
        text.expose().parse().map_err(|wrong| self.problems.push(format!("{name}: {wrong}"))).ok()
    }

    /// A URL, which is shown without its user and its query.
    fn url(&mut self, name: &'static str, reason: &'static str) -> Option<SecretUrl> {
        let url = self.get(name).map(SecretUrl::new);
        let value = url.as_ref().map(ToString::to_string).unwrap_or_default();
        self.lines.push(Line { name, value, given: url.is_some(), reason });
        url
    }

    /// A variable whose value is shown to nobody.
    fn secret(&mut self, name: &'static str, reason: &'static str) -> Option<Secret> {
        let value = self.get(name);
        let shown = if value.is_some() { "(hidden)" } else { "" };
        self.lines.push(Line { name, value: shown.to_owned(), given: value.is_some(), reason });
        value.map(Secret::new)
    }

    /// A variable that is set to nothing is not set.
    fn get(&self, name: &str) -> Option<String> {
        (self.get)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }
}

impl Config {
    /// Reads the environment through `get`.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        Self::read_with(get, memory::available())
    }

    /// The same in a process that may use so many bytes of memory.
    fn read_with(get: &dyn Fn(&str) -> Option<String>, memory: u64) -> Result<Self, ConfigError> {
        let mut reader = Reader { get, memory, lines: Vec::new(), problems: Vec::new() };
        let release = release(&mut reader);
        let http = http(&mut reader);
        let database = database(&mut reader);
        let migrate_url = reader.secret("DATABASE_MIGRATE_URL", "the same database as the user that owns the tables, past any pooler: `migrate` and `flag` use it, and let the user of DATABASE_URL read and write rows and no more; unless said, that user owns them");
        let migrate = reader.value("MIGRATE", "on", "`serve` applies migrations; `off` where a job does").unwrap_or(Switch::On)
            == Switch::On;
        if migrate && database.pooler == Pooler::Transaction && database.url.is_some() && database.direct_url.is_none() {
            reader.problems.push(
                "DATABASE_POOLER=`transaction`: a migration cannot pass the pooler: name the way past it in DATABASE_DIRECT_URL, or \
                 say MIGRATE=off where a job migrates"
                    .to_owned(),
            );
        }
        let zone: Option<String> = reader.value("TIME_ZONE", "UTC", "the zone of times that say none, an IANA name");
        let time_zone = appointments::time_zone(zone.as_deref().unwrap_or("UTC")).unwrap_or_else(|| {
            reader.problems.push(format!("TIME_ZONE=`{}`: no IANA zone has this name", zone.unwrap_or_default()));
            TimeZone::UTC
        });
        let foreign_users = reader
            .value(
                "FOREIGN_USER_ID",
                "refuse",
                "a `userId` that is not whoever proved to call: `refuse` the call, or `ignore` what it says, for models that make names up",
            )
            .unwrap_or_default();
        let telemetry = telemetry(&mut reader);
        match (release, reader.problems.is_empty()) {
            (Some(release), true) => Ok(Self {
                release,
                http,
                database,
                migrate_url,
                migrate,
                time_zone,
                foreign_users,
                telemetry,
                lines: reader.lines,
            }),
            _ => Err(ConfigError(reader.problems)),
        }
    }

    /// Reads the environment of the process. For `main`.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    pub fn from_environment() -> Result<Self, ConfigError> {
        Self::read(&|name| std::env::var(name).ok())
    }

    /// What is in force: one variable a line, with its reason; secrets hidden.
    pub fn show(&self) -> String {
        let mut text = String::from("# What is in force. `=` was given, `?` is the default.\n");
        for Line { name, value, given, reason } in &self.lines {
            let mark = if *given { '=' } else { '?' };
            let _ = writeln!(text, "{name}{mark}{value}\n    # {reason}");
        }
        text.push_str("# OpenTelemetry reads its own OTEL_* variables; see the OpenTelemetry specification.\n");
        text
    }
}

fn release(reader: &mut Reader<'_>) -> Option<Release> {
    let color = reader.value::<Color>("RELEASE_COLOR", "blue", "the slot this process runs in: blue or green");
    let version: String = reader.value("RELEASE_VERSION", env!("CARGO_PKG_VERSION"), "what people call this build")?;
    let commit: String = reader.value("RELEASE_COMMIT", "dev", "what this build is: a commit or a digest")?;
    match Release::new(color?, &version, &commit) {
        Ok(release) => Some(release),
        Err(wrong) => {
            reader.problems.push(wrong.to_string());
            None
        }
    }
}

fn http(reader: &mut Reader<'_>) -> HttpConfig {
    let port: u16 = reader.value("PORT", "3000", "the public port on 127.0.0.1; LISTEN goes before it").unwrap_or(3000);
    let default = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let listen: SocketAddr = reader
        .value("LISTEN", &default.to_string(), "the public listener, `address:port`; port 0 takes a free one")
        .unwrap_or(default);
    let public_url = reader.url("PUBLIC_URL", "the https address clients know, behind a balancer: its host and origin are ours");
    let public_url = public_url.and_then(|url| match public_address(&url) {
        Ok(address) => Some(address),
        Err(wrong) => {
            reader.problems.push(format!("PUBLIC_URL=`{url}`: {wrong}"));
            None
        }
    });
    let authentication = reader.value::<Authentication>(
        "AUTHENTICATION",
        "",
        "who may call; `oauth` those with an access token of OAUTH_ISSUER; `none` lets everybody in, and must be said for any listener but loopback; `header:NAME` believes a header, for development",
    );
    let authentication = oauth(reader, authentication);
    if !listen.ip().is_loopback() {
        match &authentication {
            Some(Authentication::None) => {}
            Some(Authentication::OAuth(_)) if public_url.is_none() => reader.problems.push(
                "AUTHENTICATION=oauth: PUBLIC_URL says for which address tokens are, and is not set".to_owned(),
            ),
            Some(Authentication::OAuth(_)) => {}
            None => reader.problems.push(format!(
                "LISTEN=`{listen}` accepts connections from other machines, so AUTHENTICATION must be set. The choices are:\n      \
                 AUTHENTICATION=oauth, with OAUTH_ISSUER and PUBLIC_URL: only callers with an access token of that issuer\n      \
                 AUTHENTICATION=none: everybody who can connect; only behind a proxy that authenticates callers\n      \
                 LISTEN=127.0.0.1:{port}: only this machine, which needs no AUTHENTICATION",
                port = listen.port()
            )),
            Some(Authentication::Header(_)) => reader.problems.push(format!(
                "LISTEN=`{listen}` accepts connections from other machines, and anybody can send a header: AUTHENTICATION=header:NAME is for 127.0.0.1; choose `oauth` or `none`"
            )),
        }
    }
    // Nothing in front of a loopback listener has to learn that we go, and a person waits at the terminal.
    let leave_delay = if listen.ip().is_loopback() { 0 } else { 10 };
    let free = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);
    HttpConfig {
        listen,
        authentication: authentication.clone().unwrap_or_default(),
        operations_listen: reader
            .value(
                "OPERATIONS_LISTEN",
                "127.0.0.1:9464",
                "metrics and /leave; never public; 9464 is OpenTelemetry's port for Prometheus",
            )
            .unwrap_or(free),
        public_url,
        allowed_hosts: reader
            .list("ALLOWED_HOSTS", "further host names that are ours, with commas; guards against DNS rebinding"),
        allowed_origins: reader
            .list("ALLOWED_ORIGINS", "pages that may call from a browser, `scheme://host[:port]`, with commas"),
        openai_challenge: reader.value(
            "OPENAI_APPS_CHALLENGE",
            "",
            "the token that OpenAI asks for to verify the domain, served as it is",
        ),
        widget_test: match reader.value(
            "WIDGET_TEST",
            "auto",
            "`/widget-test`, a page that hosts the widgets: `on`, `off`, or `auto`, which is where only this machine comes in",
        ) {
            Some(Shown::On) => true,
            Some(Shown::Off) => false,
            Some(Shown::Auto) | None => listen.ip().is_loopback(),
        },
        body_limit: reader
            .value("BODY_LIMIT_BYTES", "1048576", "largest request; tool arguments are a few KB")
            .unwrap_or(1 << 20),
        body_timeout: reader.seconds("BODY_TIMEOUT_SECS", 30, "longest wait for a request's body, however it drips; ends slow clients"),
        limits: limits(reader, authentication.as_ref(), listen),
        call_timeout: reader.seconds(
            "CALL_TIMEOUT_SECS",
            30,
            "longest call; ChatGPT waits about 60 s; at most DRAIN_DEADLINE_SECS",
        ),
        header_timeout: reader.seconds("HEADER_TIMEOUT_SECS", 10, "longest wait for a request's headers; ends slow clients"),
        write_timeout: reader.seconds(
            "WRITE_TIMEOUT_SECS",
            30,
            "longest wait for a client that reads less than 1 KiB/s of its answer; a stream with nothing to say waits for nobody",
        ),
        idle_timeout: reader.seconds(
            "IDLE_TIMEOUT_SECS",
            75,
            "longest wait for the next request; more than the balancer's idle timeout (ALB 60 s)",
        ),
        timing: Timing {
            leave_delay: reader.seconds(
                "LEAVE_DELAY_SECS",
                leave_delay,
                "how long everything is still accepted while balancers learn; 0 on loopback, else 10",
            ),
            drain_deadline: reader.seconds("DRAIN_DEADLINE_SECS", 30, "how long calls in flight are waited for after that"),
            close: reader.seconds("CLOSE_SECS", 2, "how long cut calls have to tell their clients"),
        },
        sessions: SessionLimits {
            idle: reader.seconds(
                "SESSION_IDLE_SECS",
                86_400,
                "a used session lives this long after its last use; clients come back after hours",
            ),
            unused: reader.seconds("SESSION_UNUSED_SECS", 60, "a session that was opened and never used lives this long"),
            most: reader.value("SESSIONS_MAX", "100000", "sessions open at once, about 100 bytes each").unwrap_or(100_000),
        },
        pins: PinLimits {
            idle: reader.seconds("PIN_IDLE_SECS", 1800, "a conversation pinned to a build is let go this long after its last call"),
            most: reader.seconds("PIN_MAX_SECS", 86_400, "and this long after it was pinned: a rollout cannot wait for ever"),
        },
        advertise: reader.value(
            "ADVERTISE_ADDRESS",
            "",
            "`address:port` at which the other processes reach this one's public listener, in a pod its IP; `ecs` asks ECS for the task's; where LISTEN says, unless that is everywhere",
        ),
        forward_key: reader.secret_value("FORWARD_KEY", "32 bytes or more, the same in both colors and not in the database: replicas prove themselves with it before one hands another a call with its caller's token; without it conversations move instead of staying on their build; kept beside a private PostgreSQL"),
        forward_networks: reader.value("FORWARD_NETWORKS", "", "networks, with commas, in which calls are handed to other replicas; loopback where ADVERTISE_ADDRESS is on it, else the private networks; never a metadata service"),
        task_metadata: reader.url("ECS_CONTAINER_METADATA_URI_V4", "set by ECS; asked when ADVERTISE_ADDRESS is `ecs`"),
        audit_retention: {
            let days = reader.count::<u32>("AUDIT_RETENTION_DAYS", 365, "how long a row of the audit log is kept; incidents are found months later, and PCI DSS 10.5.1 asks for a year; 0 keeps it for ever");
            (days > 0).then(|| Duration::from_secs(u64::from(days) * 86_400))
        },
        request_state_keys: reader
            .secret_value("REQUEST_STATE_KEYS", "`NAME=SECRET,…`: seals what clients carry between two rounds of a call; the first seals, all open; `database` stands for a key that the database keeps, and is the default")
            .unwrap_or_default(),
    }
}

/// Reads the address that clients know.
fn public_address(url: &SecretUrl) -> Result<Uri, &'static str> {
    let address = url.expose().parse::<Uri>().ok();
    let address = address.filter(|url| url.authority().is_some() && matches!(url.scheme_str(), Some("http" | "https")));
    let address = address.ok_or("it must be http:// or https:// with a host")?;
    if url.has_user() || url.has_query() {
        return Err("it is shown to every client, so it has no user, query or fragment");
    }
    Ok(address)
}

/// What a connection takes whose client sends the largest head, in bytes: the head, and what we keep of it besides.
const CONNECTION_BYTES: u64 = 80 * 1024;

/// A part of the memory there is, within bounds.
fn share(memory: u64, part: u64, bounds: RangeInclusive<usize>) -> usize {
    usize::try_from(memory / part).unwrap_or(usize::MAX).clamp(*bounds.start(), *bounds.end())
}

/// How much is too much. 0 is no limit. Where callers prove nothing, every address may be everybody's: an entrance that asks.
fn limits(reader: &mut Reader<'_>, authentication: Option<&Authentication>, listen: SocketAddr) -> LimitsConfig {
    let is_far = !listen.ip().is_loopback();
    let proves = is_far && matches!(authentication, Some(Authentication::OAuth(_)));
    let connections = reader.count(
        "CONNECTIONS_MAX",
        share(reader.memory, 4 * CONNECTION_BYTES, 64..=10_000),
        "connections at once; idle ones make room, and fewer are taken where `ulimit -n` allows fewer. A quarter of the memory there is (of the control group, else of the machine) by 80 KiB, which one takes whose client sends the largest head; 10000 at most",
    );
    let unread = reader.count(
        "UNREAD_BYTES_MAX",
        share(reader.memory, 8, 16 << 20..=256 << 20),
        "bytes of responses larger than 64 KiB that wait for clients to read them; beyond it slow readers are cut and calls get 429. An eighth of the memory there is, between 16 and 256 MiB",
    );
    let of_address = if is_far { connections / 2 } else { 0 };
    LimitsConfig {
        calls: reader.count(
            "CALLS_MAX",
            512,
            "requests to /mcp of this process at once, the rest gets 429 with Retry-After at once; 50 for each connection of the database: at 2 ms each the last one waits 0.1 s",
        ),
        connections,
        connections_of_address: reader.count(
            "CONNECTIONS_PER_ADDRESS",
            of_address,
            "of these, from one address that is none of TRUSTED_PROXIES; half of them, because an address may be a balancer's; 0 is no limit, as everywhere here, and the default on loopback",
        ),
        response: reader.count("RESPONSE_LIMIT_BYTES", 4 << 20, "largest result of a tool, and largest answer to a batch; no model reads as much"),
        unread,
        bodies: reader.count("BODY_BYTES_MAX", share(reader.memory, 8, 16 << 20..=256 << 20), "bytes of requests larger than 64 KiB that are read or answered at once, the rest gets 429. An eighth of the memory there is, between 16 and 256 MiB"),
        principal: PrincipalLimits {
            rate: reader.count("CALLS_PER_SECOND", 1000, "messages of one principal a second, in each process; twice what a rollout's load gate sends with its one token"),
            burst: reader.count("CALLS_BURST", 2000, "messages of one principal at once, after two seconds' rest"),
            calls: reader.count("CALLS_PER_PRINCIPAL", 256, "calls of one principal in flight; half of CALLS_MAX, and as many as a load gate has; ChatGPT makes a few"),
            streams: reader.count("STREAMS_PER_PRINCIPAL", 100, "open streams of one principal; a client has one for each session it shows"),
            sessions: reader.count("SESSIONS_PER_PRINCIPAL", 1000, "sessions of one principal in each process; clients open one for each chat and forget it for SESSION_IDLE_SECS"),
            unread: reader.count("UNREAD_BYTES_PER_PRINCIPAL", unread / 2, "of UNREAD_BYTES_MAX, for one principal; half of it, as of the calls"),
        },
        address: AddressLimits {
            rate: reader.count("UNPROVEN_PER_SECOND", if proves { 50 } else { 0 }, "requests with an invalid token from one address a second, or with none where none is asked for; an invalid one costs 0.1 ms, so 50 are half a percent of a core; 0 on loopback, and where nobody proves anything"),
            burst: reader.count("UNPROVEN_BURST", 200, "these at once; many people whose tokens have expired may come by one address"),
            sessions: reader.count("NEW_SESSIONS_PER_ADDRESS", 0, "new sessions a minute from one address, of callers who prove nothing; an address is everybody's behind a balancer, so it is off unless said"),
        },
        proxies: reader
            .value::<TrustedProxies>("TRUSTED_PROXIES", "", "networks of the proxies whose X-Forwarded-For is believed, separated by commas; `none`, and the default: the address of the connection counts")
            .unwrap_or_default(),
    }
}

/// What is configured of the authorization server. Read in any case, so that `config` shows it and a mistake is one.
fn oauth(reader: &mut Reader<'_>, said: Option<Authentication>) -> Option<Authentication> {
    let issuer = reader
        .url("OAUTH_ISSUER", "the authorization server whose tokens are taken: its https address, as its tokens say it in `iss`");
    let audiences = reader.list("OAUTH_AUDIENCE", "what tokens must be for, with commas; PUBLIC_URL with /mcp, unless said");
    let jwks_url = reader.url("OAUTH_JWKS_URL", "where the issuer's keys are, when not where its metadata says");
    let algorithms: Option<String> =
        reader.value("OAUTH_ALGORITHMS", ALGORITHMS, "how tokens may be signed; only with a public key");
    let leeway = reader.seconds("OAUTH_LEEWAY_SECS", 30, "how far the issuer's clock and ours may differ");
    let Some(Authentication::OAuth(_)) = said else { return said };
    let words = algorithms.as_deref().unwrap_or(ALGORITHMS).split(',').map(|word| word.trim().to_owned());
    let issuer = issuer.map(|issuer| issuer.expose().to_owned()).unwrap_or_default();
    let oauth = OAuth { issuer, audiences, jwks_url, algorithms: words.collect(), leeway };
    reader.problems.extend(oauth.problems());
    Some(Authentication::OAuth(oauth))
}

fn database(reader: &mut Reader<'_>) -> DatabaseConfig {
    let defaults = DatabaseConfig::default();
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    let url = reader.secret("DATABASE_URL", "postgresql://…, with sslmode=verify-full for another machine unless it names another sslmode; without it an installed PostgreSQL is run privately in DATA_DIR");
    let direct_url = reader.secret("DATABASE_DIRECT_URL", "the same database past the pooler, for migrations and notifications");
    let pooler =
        reader.value("DATABASE_POOLER", "direct", "`transaction` behind PgBouncer in transaction mode: no named statements");
    DatabaseConfig {
        url,
        direct_url,
        data_dir: reader
            .value("DATA_DIR", ".dev/postgresql", "where the private PostgreSQL keeps its data; both colors share it")
            .unwrap_or_default(),
        binaries: reader.value::<PathBuf>("POSTGRES_BIN", "", "where initdb and postgres are, if not in PATH or a usual place"),
        path: (reader.get)("PATH").map(Into::into),
        pool_size: reader
            .value(
                "DATABASE_POOL_SIZE",
                &defaults.pool_size.to_string(),
                "connections of this process, beside one that hears of phases and flags",
            )
            .unwrap_or(defaults.pool_size),
        wait: reader.seconds("DATABASE_WAIT_SECS", seconds(defaults.wait), "longest wait for a free connection"),
        create: reader.seconds("DATABASE_CONNECT_SECS", seconds(defaults.create), "longest wait for a new connection"),
        recycle: defaults.recycle,
        statement_timeout: reader.seconds("DATABASE_STATEMENT_SECS", seconds(defaults.statement_timeout), "longest statement"),
        pooler: match pooler {
            Some(Mode::Transaction) => Pooler::Transaction,
            _ => Pooler::Direct,
        },
        ..defaults
    }
}

fn telemetry(reader: &mut Reader<'_>) -> TelemetryConfig {
    let log_format =
        reader.value::<LogFormat>("LOG_FORMAT", "human", "`human` for a terminal, `json` for machines").unwrap_or_default();
    let log_filter: Option<String> = reader.value("LOG", "info,rmcp=error,opentelemetry_sdk=warn", "which lines are logged, as tracing's EnvFilter reads it; rmcp tells each caller's mistake, which is the caller's to know");
    let mut telemetry = TelemetryConfig::read(reader.get, &mut reader.problems);
    telemetry.log_format = log_format;
    telemetry.log_filter = log_filter.unwrap_or(telemetry.log_filter);
    telemetry
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $($word:literal => $variant:ident),+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum $name { $($variant),+ }

        impl FromStr for $name {
            type Err = String;

            fn from_str(word: &str) -> Result<Self, String> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(concat!("it may be", $(" `", $word, "`"),+).to_owned()),
                }
            }
        }
    };
}

impl FromStr for ForeignUsers {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "refuse" => Ok(Self::Refuse),
            "ignore" => Ok(Self::Ignore),
            _ => Err("it may be `refuse` or `ignore`".to_owned()),
        }
    }
}

words!(Switch, "on" => On, "off" => Off);
words!(Shown, "on" => On, "off" => Off, "auto" => Auto);
words!(Mode, "direct" => Direct, "transaction" => Transaction);

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, String> {
        let environment: HashMap<_, _> = pairs.iter().copied().collect();
        Config::read(&|name| environment.get(name).map(|value| (*value).to_owned())).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn every_problem_is_said_in_one_message() {
        let wrong = read(&[
            ("PORT", "seventy"),
            ("RELEASE_COLOR", "red"),
            ("LISTEN", "0.0.0.0:3000"),
            ("PUBLIC_URL", "mcp.example.com"),
            ("MIGRATE", "perhaps"),
            ("TIME_ZONE", "Mars/Olympus"),
            ("LOG_FORMAT", "xml"),
            ("CALLS_MAX", "many"),
            ("TRUSTED_PROXIES", "10.0.0.0/8,balancer"),
        ])
        .unwrap_err();
        assert_eq!(
            wrong,
            "9 problems in the environment:\n  \
             - RELEASE_COLOR=`red`: `red` is no color: say blue or green\n  \
             - PORT=`seventy`: invalid digit found in string\n  \
             - PUBLIC_URL=`mcp.example.com`: it must be http:// or https:// with a host\n  \
             - LISTEN=`0.0.0.0:3000` accepts connections from other machines, so AUTHENTICATION must be set. The choices are:\n      \
             AUTHENTICATION=oauth, with OAUTH_ISSUER and PUBLIC_URL: only callers with an access token of that issuer\n      \
             AUTHENTICATION=none: everybody who can connect; only behind a proxy that authenticates callers\n      \
             LISTEN=127.0.0.1:3000: only this machine, which needs no AUTHENTICATION\n  \
             - CALLS_MAX=`many`: invalid digit found in string\n  \
             - TRUSTED_PROXIES=`10.0.0.0/8,balancer`: `balancer` is neither a network, such as 10.0.0.0/8 or fd00::/8, nor an address; `none` trusts no proxy\n  \
             - MIGRATE=`perhaps`: it may be `on` `off`\n  \
             - TIME_ZONE=`Mars/Olympus`: no IANA zone has this name\n  \
             - LOG_FORMAT=`xml`: `xml` is no log format: say human or json"
        );
    }

    #[test]
    fn a_pooler_needs_a_way_past_it_for_migrations() {
        let pooled = [("DATABASE_URL", "postgresql://app@pooler/app"), ("DATABASE_POOLER", "transaction")];
        let wrong = read(&pooled).unwrap_err().to_string();
        assert!(wrong.contains("DATABASE_DIRECT_URL") && wrong.contains("MIGRATE=off"), "{wrong}");
        let [url, pooler] = pooled;
        assert!(read(&[url, pooler, ("MIGRATE", "off")]).is_ok());
        assert!(read(&[url, pooler, ("DATABASE_DIRECT_URL", "postgresql://app@db/app")]).is_ok());
    }

    #[test]
    fn secrets_are_shown_to_nobody() {
        let config = read(&[("DATABASE_URL", "postgresql://app:hunter2@db.internal/app")]).unwrap();
        for text in [config.show(), format!("{config:?}")] {
            assert!(!text.contains("hunter2"), "{text}");
        }
        assert!(config.show().contains("DATABASE_URL=(hidden)"));
    }

    #[test]
    fn no_url_shows_a_user_or_a_query() {
        let urls = [
            "PUBLIC_URL",
            "OAUTH_ISSUER",
            "OAUTH_JWKS_URL",
            "DATABASE_URL",
            "DATABASE_DIRECT_URL",
            "ECS_CONTAINER_METADATA_URI_V4",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        ];
        for name in urls {
            for url in [
                "https://ada:hunter2@host.example.com/",
                "https://hunter2@host.example.com/",
                "https://host.example.com/?api_key=hunter2",
                "https://host.example.com/#hunter2",
                "ftp://ada:hunter2@host.example.com/?hunter2",
                "https://ada:hunter2 @host.example.com/",
                "https://ada:h/u?n#hunter2@host.example.com/",
                "ada:hunter2@host.example.com",
            ] {
                for more in [&[][..], &[("LOG_FORMAT", "xml")]] {
                    let oauth = [("AUTHENTICATION", "oauth"), ("OAUTH_ISSUER", "https://auth.example.com")];
                    let variables: Vec<_> = oauth.into_iter().chain([(name, url)]).chain(more.iter().copied()).collect();
                    let shown = match read(&variables) {
                        Ok(config) => format!("{}{config:?}{:?}", config.show(), config.http.mistakes()),
                        Err(wrong) => wrong,
                    };
                    assert!(!shown.contains("hunter2"), "{name}={url}: {shown}");
                }
            }
        }
        let key = read(&[("OAUTH_JWKS_URL", "https://host.example.com/keys?api_key=hunter2")]).unwrap();
        assert!(key.show().contains("OAUTH_JWKS_URL=https://host.example.com/keys?(hidden)"), "{}", key.show());
    }

    #[test]
    fn the_leave_delay_follows_the_listener() {
        assert_eq!(read(&[]).unwrap().http.timing.leave_delay, Duration::ZERO);
        let public = read(&[("LISTEN", "0.0.0.0:3000"), ("AUTHENTICATION", "none")]).unwrap();
        assert_eq!(public.http.timing.leave_delay, Duration::from_secs(10));
    }

    #[test]
    fn the_page_for_developers_is_where_only_this_machine_comes_in_unless_something_else_is_said() {
        let (here, anywhere) = (("LISTEN", "127.0.0.1:3000"), ("LISTEN", "0.0.0.0:3000"));
        for (listen, said, there) in [
            (here, "", true),
            (here, "auto", true),
            (here, "off", false),
            (anywhere, "", false),
            (anywhere, "auto", false),
            (anywhere, "on", true),
        ] {
            let config = read(&[listen, ("AUTHENTICATION", "none"), ("WIDGET_TEST", said)]).unwrap();
            assert_eq!(config.http.widget_test, there, "{listen:?} {said}");
        }
    }

    #[test]
    fn what_there_may_be_at_once_follows_from_the_memory_there_is() {
        let limits = |memory: u64, pairs: &'static [(&str, &str)]| {
            let environment: HashMap<_, _> = pairs.iter().copied().collect();
            let get = move |name: &str| environment.get(name).map(|value| (*value).to_owned());
            let limits = Config::read_with(&get, memory << 20).unwrap().http.limits;
            (limits.connections, limits.unread >> 20, limits.principal.unread >> 20, limits.bodies >> 20)
        };
        assert_eq!(limits(256, &[]), (819, 32, 16, 32));
        assert_eq!(limits(16, &[]), (64, 16, 8, 16));
        assert_eq!(limits(1 << 20, &[]), (10_000, 256, 128, 256));
        assert_eq!(limits(256, &[("CONNECTIONS_MAX", "7"), ("UNREAD_BYTES_MAX", "0")]), (7, 0, 0, 32));
    }

    #[test]
    fn deadlines_that_do_not_fit_are_found() {
        let config = read(&[("CALL_TIMEOUT_SECS", "60"), ("HEADER_TIMEOUT_SECS", "100")]).unwrap();
        assert_eq!(config.http.mistakes().len(), 2);
        assert!(read(&[]).unwrap().http.mistakes().is_empty());
    }
}
