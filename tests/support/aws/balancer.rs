//! The data plane of an ALB: it obeys the rules that moto holds and the targets of the harness, at a loopback port.
//!
//! What must stay true: it is as honest as an ALB. A request goes to one target, once; a target that is not there, or breaks
//! off, is a 502; a group without targets is a 503, whatever other groups have. Each node learns of a change at a time of its
//! own, and a client's connection stays with one node.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{Either, Empty, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{
    moto::Api,
    targets::{Groups, State, Targets},
};

/// A balancer that is open. Dropping it closes it.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    troubles: Arc<Mutex<Vec<String>>>,
    /// What is true, and what each node knows of it.
    truth: watch::Receiver<Picture>,
    views: Vec<watch::Receiver<Picture>>,
    _tasks: JoinSet<()>,
}

/// How quick a balancer is.
#[derive(Clone, Debug)]
pub struct Pace {
    /// How long a node takes to learn of a change: at least, and at most.
    pub propagation: RangeInclusive<Duration>,
    /// Between two health checks.
    pub health_check: Duration,
}

/// What a node knows at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
struct Picture {
    rules: Arc<Vec<Rule>>,
    groups: Groups,
}

/// A rule of a listener.
#[derive(Clone, Debug, PartialEq)]
struct Rule {
    conditions: Vec<Condition>,
    action: Action,
}

#[derive(Clone, Debug, PartialEq)]
enum Condition {
    /// One of these patterns.
    Path(Vec<String>),
    /// A header, and one of these patterns.
    Header(String, Vec<String>),
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    /// To one of these groups, by weight.
    Forward(Vec<(String, u64)>),
    Fixed(StatusCode),
}

/// Where a group's health is asked.
#[derive(Clone, Debug)]
struct Check {
    path: String,
    /// `None`: where requests go.
    port: Option<u16>,
}

struct Node {
    view: watch::Receiver<Picture>,
    client: Client<HttpConnector, Incoming>,
    random: Random,
    /// Whose turn it is, in any group.
    turn: AtomicUsize,
    troubles: Arc<Mutex<Vec<String>>>,
}

/// Enough of it to spread requests and delays.
struct Random(AtomicU64);

type Answer = Response<Either<Incoming, Full<Bytes>>>;

/// How many nodes an ALB has at least.
const NODES: usize = 2;
/// The idle timeout of an ALB: of connections on both sides, and for the first byte of an answer.
const IDLE: Duration = Duration::from_secs(60);
/// How long a target may take to accept a connection.
const CONNECTED_WITHIN: Duration = Duration::from_secs(10);
/// How long a health check may take.
const CHECKED_WITHIN: Duration = Duration::from_secs(2);
/// How often moto is looked at when nobody says that something changed.
const LOOK: Duration = Duration::from_millis(250);

/// About a connection and not about a message (RFC 9110, 7.6.1).
const OF_A_CONNECTION: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

// === impl Balancer ===

impl Balancer {
    /// Opens one for a listener. `changes` counts what was changed at moto.
    pub async fn open(api: Api, listener: &str, targets: Targets, changes: watch::Receiver<u64>, pace: &Pace) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("a bound socket has an address");
        let troubles = Arc::new(Mutex::default());
        let mut tasks = JoinSet::new();
        let (rules, checks) = (look(&api, listener).await, checks(&api).await);
        let first = Picture { rules: Arc::new(rules), groups: targets.watch().borrow().clone() };
        let (truth, seen) = watch::channel(first.clone());
        let nodes = (0..NODES).map(|number| {
            let (view, viewed) = watch::channel(first.clone());
            let random = Random::new(number as u64);
            tasks.spawn(learn(seen.clone(), view, Random::new(number as u64 + 7), pace.propagation.clone()));
            let mut connector = HttpConnector::new();
            connector.set_connect_timeout(Some(CONNECTED_WITHIN));
            connector.set_nodelay(true);
            let mut builder = Client::builder(TokioExecutor::new());
            builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).retry_canceled_requests(false);
            let (client, troubles) = (builder.build(connector), Arc::clone(&troubles));
            Arc::new(Node { view: viewed, client, random, turn: AtomicUsize::new(0), troubles })
        });
        let nodes: Vec<_> = nodes.collect();
        let (known, views) = (seen.clone(), nodes.iter().map(|node| node.view.clone()).collect());
        tasks.spawn(check_health(seen, targets.clone(), checks, pace.health_check));
        tasks.spawn(follow(api, listener.to_owned(), targets, changes, truth));
        tasks.spawn(accept(socket, nodes));
        Self { address, troubles, truth: known, views, _tasks: tasks }
    }

    /// Where clients come in.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until every node knows what is true.
    pub async fn settled(&self) {
        let begun = Instant::now();
        while self.views.iter().any(|view| *view.borrow() != *self.truth.borrow()) {
            assert!(begun.elapsed() < IDLE, "a node of the balancer does not learn");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What it answered itself because no target did, in words.
    pub fn troubles(&self) -> Vec<String> {
        self.troubles.lock().expect("nobody panics with it").clone()
    }
}

/// Keeps the truth: moto's rules, and the targets as they are.
async fn follow(api: Api, listener: String, targets: Targets, mut changes: watch::Receiver<u64>, truth: watch::Sender<Picture>) {
    let mut groups = targets.watch();
    loop {
        let mut looks = true;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            changed = groups.changed() => if changed.is_err() { return } else { looks = false },
            () = tokio::time::sleep(LOOK) => {}
        }
        let before = truth.borrow().clone();
        let rules = if looks { Arc::new(look(&api, &listener).await) } else { before.rules.clone() };
        let picture = Picture { rules, groups: groups.borrow_and_update().clone() };
        if picture != before {
            truth.send_replace(picture);
        }
    }
}

/// Lets a node see the truth, after a while.
async fn learn(
    mut truth: watch::Receiver<Picture>,
    view: watch::Sender<Picture>,
    random: Random,
    delay: RangeInclusive<Duration>,
) {
    while truth.changed().await.is_ok() {
        let more = delay.end().saturating_sub(*delay.start());
        tokio::time::sleep(*delay.start() + more.mul_f64(random.share())).await;
        view.send_replace(truth.borrow_and_update().clone());
    }
}

/// The rules of a listener in their order. What moto does not answer is asked again.
async fn look(api: &Api, listener: &str) -> Vec<Rule> {
    loop {
        match api.try_call("elasticloadbalancing", "DescribeRules", json!({ "ListenerArn": listener })).await {
            Ok(answer) => {
                let mut rules: Vec<&Value> = answer["Rules"].as_array().into_iter().flatten().collect();
                let priority = |rule: &Value| rule["Priority"].as_str().and_then(|priority| priority.parse().ok());
                rules.sort_by_key(|rule| priority(rule).unwrap_or(u32::MAX));
                return rules.into_iter().map(Rule::read).collect();
            }
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

async fn checks(api: &Api) -> BTreeMap<String, Check> {
    let groups = api.elb("DescribeTargetGroups", json!({})).await;
    let groups = groups["TargetGroups"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let check =
        |group: &Value| Check { path: text(&group["HealthCheckPath"]), port: text(&group["HealthCheckPort"]).parse().ok() };
    groups.map(|group| (text(&group["TargetGroupArn"]), check(group))).collect()
}

/// Asks every target whether it is ready, for ever. A group that no rule names is not asked.
async fn check_health(truth: watch::Receiver<Picture>, targets: Targets, checks: BTreeMap<String, Check>, every: Duration) {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CHECKED_WITHIN));
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build::<_, Empty<Bytes>>(connector);
    loop {
        let picture = truth.borrow().clone();
        let asked = picture.groups.iter().filter(|(group, _)| picture.uses(group)).flat_map(|(group, members)| {
            let check = checks.get(group);
            members
                .iter()
                .filter(|target| target.state != State::Draining)
                .filter_map(move |target| Some((group, target, check?)))
        });
        join_all(asked.map(async |(group, target, check)| {
            let port = check.port.unwrap_or(target.address.port());
            let uri = format!("http://{}:{port}{}", target.address.ip(), check.path);
            let answered = tokio::time::timeout(CHECKED_WITHIN, client.get(uri.parse().expect("an address and a path"))).await;
            let is_good = matches!(&answered, Ok(Ok(answer)) if answer.status() == StatusCode::OK);
            targets.checked(group, target.address, is_good);
        }))
        .await;
        tokio::time::sleep(every).await;
    }
}

async fn accept(socket: TcpListener, nodes: Vec<Arc<Node>>) {
    let mut connections = JoinSet::new();
    for node in nodes.iter().cycle() {
        match socket.accept().await {
            Ok((stream, client)) => drop(connections.spawn(serve(stream, client, node.clone()))),
            Err(_) => tokio::time::sleep(LOOK).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, client: SocketAddr, node: Arc<Node>) {
    // Without this the last chunk of a stream waits 40 ms for a delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |request| {
        let node = node.clone();
        async move { Ok::<_, Infallible>(node.answer(request, client).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE);
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

// === impl Node ===

impl Node {
    async fn answer(&self, request: Request<Incoming>, client: SocketAddr) -> Answer {
        let (mut parts, body) = request.into_parts();
        let picture = self.view.borrow().clone();
        let group = match picture.action(&parts) {
            Some(Action::Forward(groups)) => by_weight(groups, self.random.share()),
            Some(Action::Fixed(status)) => return plain(*status),
            None => return plain(StatusCode::NOT_FOUND),
        };
        let Some(address) = group.and_then(|group| self.next(&picture, group)) else {
            return self.refuse(StatusCode::SERVICE_UNAVAILABLE, &format!("no target in {group:?}"));
        };
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let line = format!("{} {path} at {address}", parts.method);
        parts.uri = format!("http://{address}{path}").parse().expect("an address and a path are a URI");
        for name in OF_A_CONNECTION {
            parts.headers.remove(name);
        }
        let forwarded = HeaderValue::from_str(&client.ip().to_string()).expect("an address is plain text");
        parts.headers.insert("x-forwarded-for", forwarded);
        match tokio::time::timeout(IDLE, self.client.request(Request::from_parts(parts, body))).await {
            Ok(Ok(answer)) => {
                let (mut head, body) = answer.into_parts();
                for name in OF_A_CONNECTION {
                    head.headers.remove(name);
                }
                Response::from_parts(head, Either::Left(body))
            }
            Ok(Err(failure)) => {
                let cause = std::error::Error::source(&failure).map(ToString::to_string).unwrap_or_default();
                self.refuse(StatusCode::BAD_GATEWAY, &format!("{line}: {failure}: {cause}"))
            }
            Err(_) => self.refuse(StatusCode::GATEWAY_TIMEOUT, &format!("{line}: no answer within {IDLE:?}")),
        }
    }

    /// Whose turn it is. When nobody is healthy, whoever is registered gets the requests, as an ALB has it.
    fn next(&self, picture: &Picture, group: &str) -> Option<SocketAddr> {
        let targets = picture.groups.get(group)?;
        let healthy: Vec<_> = targets.iter().filter(|target| target.state == State::Healthy).collect();
        let rest = || targets.iter().filter(|target| target.state != State::Draining).collect();
        let eligible = if healthy.is_empty() { rest() } else { healthy };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        Some(eligible.get(turn.checked_rem(eligible.len())?)?.address)
    }

    fn refuse(&self, status: StatusCode, words: &str) -> Answer {
        self.troubles.lock().expect("nobody panics with it").push(format!("{}: {words}", status.as_u16()));
        plain(status)
    }
}

fn plain(status: StatusCode) -> Answer {
    let page = format!("<html><head><title>{status}</title></head></html>");
    let mut answer = Response::new(Either::Right(Full::from(page)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::SERVER, HeaderValue::from_static("awselb/2.0"));
    answer
}

/// The group at this place, from 0 to 1, of all weights. `None` when nobody has any.
fn by_weight(groups: &[(String, u64)], place: f64) -> Option<&str> {
    let all: u64 = groups.iter().map(|(_, weight)| weight).sum();
    let mut left = place * all as f64;
    groups.iter().filter(|(_, weight)| *weight > 0).find_map(|(group, weight)| {
        left -= *weight as f64;
        (left < 0.0).then_some(&**group)
    })
}

// === impl Picture ===

impl Picture {
    fn action(&self, request: &Parts) -> Option<&Action> {
        let rule = self.rules.iter().find(|rule| rule.conditions.iter().all(|condition| condition.meets(request)));
        rule.map(|rule| &rule.action)
    }

    /// Whether any rule leads there, with whatever weight.
    fn uses(&self, group: &str) -> bool {
        self.rules.iter().any(|rule| rule.leads_to(group))
    }
}

// === impl Rule ===

impl Rule {
    fn read(rule: &Value) -> Self {
        let list = |value: &Value| -> Vec<Value> { value.as_array().cloned().unwrap_or_default() };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let texts = |value: &Value| list(value).iter().map(text).collect();
        let conditions = list(&rule["Conditions"]).into_iter().map(|condition| match condition["Field"].as_str() {
            Some("path-pattern") => Condition::Path(texts(&condition["PathPatternConfig"]["Values"])),
            Some("http-header") => {
                let header = &condition["HttpHeaderConfig"];
                Condition::Header(text(&header["HttpHeaderName"]), texts(&header["Values"]))
            }
            _ => panic!("the balancer knows no such condition: {condition}"),
        });
        let action = &rule["Actions"][0];
        let groups = list(&action["ForwardConfig"]["TargetGroups"]);
        let weight = |group: &Value| group["Weight"].as_str().and_then(|weight| weight.parse().ok()).unwrap_or(1);
        let action = match action["Type"].as_str() {
            Some("forward") if groups.is_empty() => Action::Forward(vec![(text(&action["TargetGroupArn"]), 1)]),
            Some("forward") => {
                Action::Forward(groups.iter().map(|group| (text(&group["TargetGroupArn"]), weight(group))).collect())
            }
            Some("fixed-response") => {
                let status = action["FixedResponseConfig"]["StatusCode"].as_str().and_then(|status| status.parse().ok());
                Action::Fixed(status.expect("a fixed response has a status"))
            }
            _ => panic!("the balancer knows no such action: {action}"),
        };
        Self { conditions: conditions.collect(), action }
    }

    fn leads_to(&self, group: &str) -> bool {
        matches!(&self.action, Action::Forward(groups) if groups.iter().any(|(arn, _)| arn == group))
    }
}

// === impl Condition ===

impl Condition {
    fn meets(&self, request: &Parts) -> bool {
        match self {
            Self::Path(patterns) => patterns.iter().any(|pattern| matches(pattern.as_bytes(), request.uri.path().as_bytes())),
            // Header values are compared without regard to case.
            Self::Header(name, patterns) => request.headers.get_all(name).iter().any(|value| {
                let value = value.as_bytes().to_ascii_lowercase();
                patterns.iter().any(|pattern| matches(pattern.to_ascii_lowercase().as_bytes(), &value))
            }),
        }
    }
}

/// `*` stands for anything, `?` for one character.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=text.len()).any(|from| matches(rest, &text[from..])),
        ([b'?', rest @ ..], [_, more @ ..]) => matches(rest, more),
        ([first, rest @ ..], [other, more @ ..]) => first == other && matches(rest, more),
        _ => false,
    }
}

// === impl Random ===

impl Random {
    fn new(number: u64) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(AtomicU64::new(now.subsec_nanos() as u64 ^ (number << 40)))
    }

    /// From 0 to 1 (SplitMix64).
    fn share(&self) -> f64 {
        let state = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_those_of_a_rule() {
        for (pattern, text, is_match) in [
            ("/*", "/mcp", true),
            ("/a?c", "/abc", true),
            ("/a?c", "/ac", false),
            ("green", "green", true),
            ("green", "greens", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), is_match, "{pattern} {text}");
        }
    }

    #[test]
    fn a_group_without_weight_gets_nothing_and_the_others_their_share() {
        let groups = [("blue".to_owned(), 0), ("green".to_owned(), 30), ("red".to_owned(), 10)];
        assert_eq!(by_weight(&groups, 0.0), Some("green"));
        assert_eq!(by_weight(&groups, 0.749), Some("green"));
        assert_eq!(by_weight(&groups, 0.751), Some("red"));
        assert_eq!(by_weight(&groups, 0.999_999), Some("red"));
        assert_eq!(by_weight(&groups[..1], 0.5), None);
    }
}
