//! The doors other than `/mcp`: what probes, operators and smoke tests ask.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state, map_response},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bg_runtime::{
    Database, Lifecycle, Release,
    lifecycle::{Checks, Role, Stage},
    operators,
    storage::Control,
};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{
    authentication::{IssuerMetadata, METADATA, Resource},
    drainage::Drainage,
    http::{origin::Allowed, widget_test},
    mcp::replica::{self, PROOF, Replica},
    sessions::Sessions,
    telemetry::{PROMETHEUS_TEXT, Telemetry},
};

/// Where clients look for the metadata of an authorization server (RFC 8414), and of an OpenID provider.
const OAUTH_SERVER: &str = "/.well-known/oauth-authorization-server";
const OPENID_PROVIDER: &str = "/.well-known/openid-configuration";
const FOR_EVERY_PAGE: [(HeaderName, &str); 1] = [(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")];

/// How long `/health/database` waits for a connection and an answer.
const DATABASE_DEADLINE: Duration = Duration::from_secs(2);

/// How long its last result is given to others: anybody may ask, and a query takes one of the few connections that calls need.
const DATABASE_FRESH: Duration = Checks::FRESH;

/// The result of the last query of `/health/database`. Requests that come together wait for one query.
#[derive(Default)]
pub(crate) struct DatabaseHealth(Mutex<Option<(Instant, Latency)>>);

/// What a query took, or why it failed.
type Latency = Result<Duration, Arc<str>>;

/// What the doors speak of.
#[derive(Clone)]
pub(crate) struct Doors {
    pub(crate) release: Release,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) checks: Checks,
    pub(crate) database: Option<Database>,
    pub(crate) database_health: Arc<DatabaseHealth>,
    pub(crate) openai_challenge: Option<Arc<str>>,
    /// What this server is to an authorization server (RFC 9728).
    pub(crate) resource: Option<Arc<Resource>>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) telemetry: Telemetry,
    pub(crate) control: Option<Control>,
    /// Whether `/widget-test` is there.
    pub(crate) shows_widgets: bool,
    pub(crate) drainage: Option<Drainage>,
    /// What proves this replica to the others.
    pub(crate) replica: Option<Replica>,
}

/// The public doors.
pub(crate) fn public(doors: Doors) -> Router {
    let mut router = Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/health/database", get(database))
        .route("/.well-known/openai-apps-challenge", get(challenge))
        // Clients look in both places (RFC 9728, 3.1; MCP, protected resource metadata discovery).
        .route(METADATA, get(resource))
        .route(&format!("{METADATA}/mcp"), get(resource))
        .route(replica::PATH, get(prove));
    // Clients of 2025-03-26, and those that skip the metadata above, take this server for its authorization server.
    for (path, which) in [(OAUTH_SERVER, IssuerMetadata::OAuth), (OPENID_PROVIDER, IssuerMetadata::OpenId)] {
        let lead = get(async move |State(doors): State<Doors>| lead_to_issuer(&doors, which));
        router = router.route(path, lead.clone()).route(&format!("{path}/mcp"), lead);
    }
    if doors.shows_widgets {
        router = router.route("/widget-test", get(widget_test::page)).route("/widget-test/frame", get(widget_test::frame));
    }
    router.with_state(doors).layer(map_response(guarded))
}

/// What is somebody's or of this moment is kept by nobody in between, and is no script and no page to anybody.
async fn guarded(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// The operations doors. Never public.
pub(crate) fn operations(doors: Doors, allowed: Arc<Allowed>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/release", get(release))
        .route("/drainage", get(drainage))
        .route("/leave", post(leave))
        .route("/role/{role}", post(role))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .with_state(doors)
        .layer(from_fn_with_state(allowed, for_operators))
        .layer(map_response(guarded))
}

/// Refuses pages in browsers, which could make a process leave.
async fn for_operators(State(allowed): State<Arc<Allowed>>, request: Request, next: Next) -> Response {
    match operators::check(request.method(), request.uri(), request.headers(), allowed.hosts()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => (StatusCode::FORBIDDEN, Json(json!({ "error": refusal.to_string() }))).into_response(),
    }
}

/// Liveness: 200 for as long as the process can answer at all. What it lacks it says in the body, because killing it would
/// not bring the database back.
async fn health(State(doors): State<Doors>) -> Json<Value> {
    let findings = doors.checks.findings().await;
    let well = |name: &str| findings.iter().all(|finding| &*finding.name != name || finding.problem.is_none());
    let healthy = findings.iter().all(|finding| finding.problem.is_none());
    let status = doors.lifecycle.status();
    let mut body = json!({
        "status": if healthy { "healthy" } else { "degraded" },
        "release": doors.release,
        "stage": status.stage,
        "role": status.role,
        "uptimeSeconds": doors.lifecycle.born().elapsed().as_secs(),
        "checks": *findings,
    });
    if doors.database.is_some() {
        body["database"] = if well("database") { "connected" } else { "disconnected" }.into();
    }
    Json(body)
}

/// Readiness: 200 from the moment everything was reached once until the process leaves.
async fn ready(State(doors): State<Doors>) -> Response {
    let status = doors.lifecycle.status();
    let ready = status.stage == Stage::Serving;
    let mut body = json!({ "ready": ready, "stage": status.stage, "role": status.role, "release": doors.release });
    if status.stage == Stage::Starting {
        let findings = doors.checks.findings().await;
        body["waitingFor"] = json!(findings.iter().filter(|finding| finding.problem.is_some()).collect::<Vec<_>>());
    }
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body)).into_response()
}

async fn database(State(doors): State<Doors>) -> Response {
    let Some(database) = &doors.database else {
        return (StatusCode::NOT_FOUND, Json(json!({ "error": "this server has no database" }))).into_response();
    };
    let checked = doors.database_health.latency(|| database.check(DATABASE_DEADLINE)).await;
    let pool = database.status();
    let mut body = json!({
        "poolSize": pool.pool_size,
        "openConnections": pool.open,
        "idleConnections": pool.idle,
        "waitingClients": pool.waiting,
        "release": doors.release,
    });
    if let Some(control) = &doors.control {
        let snapshot = control.snapshot();
        body["epoch"] = snapshot.epoch.into();
        body["phases"] = json!(snapshot.phases().collect::<std::collections::BTreeMap<_, _>>());
    }
    let status = match checked {
        Ok(latency) => {
            body["status"] = "connected".into();
            body["latencyMs"] = (latency.as_secs_f64() * 1e3).into();
            StatusCode::OK
        }
        Err(failure) => {
            body["status"] = "disconnected".into();
            body["problem"] = (*failure).into();
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    (status, Json(body)).into_response()
}

impl DatabaseHealth {
    /// Returns what the last query took or why it failed, and runs `query` first if that is too old.
    async fn latency<E: std::fmt::Display>(&self, query: impl AsyncFnOnce() -> Result<Duration, E>) -> Latency {
        let mut last = self.0.lock().await;
        if let Some((when, result)) = &*last
            && when.elapsed() < DATABASE_FRESH
        {
            return result.clone();
        }
        let result = query().await.map_err(|failure| Arc::from(failure.to_string()));
        *last = Some((Instant::now(), result.clone()));
        result
    }
}

/// OpenAI's proof of a domain: the token as plain text, or nothing there.
async fn challenge(State(doors): State<Doors>) -> Response {
    match doors.openai_challenge {
        Some(token) => token.to_string().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Whose tokens are taken, for whoever comes without one. A client in a browser reads it too.
async fn resource(State(doors): State<Doors>) -> Response {
    match &doors.resource {
        Some(resource) => (FOR_EVERY_PAGE, Json(resource.document())).into_response(),
        None => without_oauth(),
    }
}

/// Leads a client that asks here for the metadata of the authorization server to the issuer.
fn lead_to_issuer(doors: &Doors, which: IssuerMetadata) -> Response {
    match &doors.resource {
        Some(resource) => {
            let location = [(header::LOCATION, resource.issuer_metadata(which))];
            (StatusCode::TEMPORARY_REDIRECT, FOR_EVERY_PAGE, location).into_response()
        }
        None => without_oauth(),
    }
}

fn without_oauth() -> Response {
    let body = json!({ "error": "this server takes no access tokens, so it has no authorization server (AUTHENTICATION is not `oauth`)" });
    (StatusCode::NOT_FOUND, FOR_EVERY_PAGE, Json(body)).into_response()
}

/// The proof for another replica that wants to hand us a call. To anybody else nothing is here.
async fn prove(State(doors): State<Doors>, headers: HeaderMap) -> Response {
    match doors.replica.as_ref().and_then(|replica| replica.answer(&headers)) {
        Some(proof) => (StatusCode::NO_CONTENT, [(PROOF, proof)]).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn metrics(State(doors): State<Doors>) -> Response {
    ([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], doors.telemetry.prometheus()).into_response()
}

async fn release(State(doors): State<Doors>) -> Json<Value> {
    Json(json!(doors.release))
}

/// What a rollout must know before it retires this process: what holds on to it, and to every build.
async fn drainage(State(doors): State<Doors>) -> Json<Value> {
    let status = doors.lifecycle.status();
    let builds = match &doors.drainage {
        Some(drainage) => drainage.of_builds().await.map_err(|failure| failure.to_string()),
        None => Ok(Vec::new()),
    };
    let mut body = json!({
        "release": doors.release,
        "stage": status.stage,
        "role": status.role,
        "calls": status.calls,
        "streams": status.streams,
        // They outlive the process, and hold nothing up.
        "sessions": doors.sessions.count(),
        "drained": status.is_idle(),
    });
    match builds {
        Ok(builds) => {
            let ours = doors.release.build();
            let pinned = builds.iter().find(|other| other.build == ours).map_or(0, |ours| ours.conversations);
            body["conversations"] = pinned.into();
            body["drained"] = (status.is_idle() && pinned == 0).into();
            body["builds"] = json!(builds);
        }
        // Nobody knows, so it is not drained.
        Err(problem) => {
            body["drained"] = false.into();
            body["problem"] = problem.into();
        }
    }
    Json(body)
}

/// Begins to leave, as SIGTERM does. Answers at once; asking twice is asking once.
async fn leave(State(doors): State<Doors>) -> Json<Value> {
    let _ = doors.lifecycle.advance(Stage::Leaving, "asked at /leave");
    Json(json!({ "stage": doors.lifecycle.status().stage }))
}

/// The rollout's hint.
async fn role(State(doors): State<Doors>, Path(word): Path<String>) -> Response {
    match word.parse::<Role>() {
        Ok(role) => {
            doors.lifecycle.set_role(role);
            Json(json!({ "role": role })).into_response()
        }
        Err(unknown) => (StatusCode::BAD_REQUEST, Json(json!({ "error": unknown.to_string() }))).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn requests_for_the_health_of_the_database_share_one_query_whatever_its_result() {
        for fails in [false, true] {
            let (health, queries) = (DatabaseHealth::default(), AtomicUsize::new(0));
            let query = async || {
                queries.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                if fails { Err("connection refused") } else { Ok(Duration::from_millis(1)) }
            };
            let all = futures_util::future::join_all((0..600).map(|_| health.latency(query))).await;
            assert_eq!(queries.load(Ordering::Relaxed), 1);
            assert!(all.iter().all(|result| result.is_err() == fails));
        }
    }

    #[tokio::test]
    async fn a_request_that_is_cancelled_leaves_the_query_to_the_next_one() {
        let health = DatabaseHealth::default();
        let hangs = health.latency(async || std::future::pending::<Result<Duration, &str>>().await);
        assert!(tokio::time::timeout(Duration::from_millis(10), hangs).await.is_err());
        let answered = health.latency(async || Ok::<_, &str>(Duration::ZERO)).await;
        assert_eq!(answered, Ok(Duration::ZERO));
    }
}
