//! What AWS_ENDPOINT_URL names: moto's answers, the harness's own where moto has no notion of the matter, and faults.
//!
//! What must stay true: a fault is of the kind that AWS has, and one that says that nothing was done did nothing.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use super::{
    agent::Agent,
    moto::Api,
    targets::{Groups, Target, Targets},
    task::{PORTS, Task, seconds},
    wire::{Call, escape, serve},
};

/// An edge that is open. Dropping it closes it.
#[derive(Debug)]
pub struct Edge {
    address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is one too many; nothing was done.
    Throttled,
    /// It fails with a 500; nothing was done.
    Failed,
    /// It is answered, after this long.
    Slow(Duration),
    /// The connection ends; nothing was done.
    Cut,
    /// It is done, and the connection ends before that is said.
    Lost,
}

/// When it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The first so many times.
    First(u64),
    /// Each so many times.
    Each(u64),
}

#[derive(Debug)]
struct Shared {
    api: Api,
    agent: Agent,
    targets: Targets,
    changes: Arc<watch::Sender<u64>>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    faults: Vec<Trap>,
    then: Vec<(String, Then)>,
    answers: HashMap<String, Value>,
    /// Jobs of a pipeline that have ended, by their id.
    jobs: HashSet<String>,
    heard: Vec<Call>,
}

struct Trap {
    /// `*` is any.
    operation: String,
    when: When,
    fault: Fault,
    seen: u64,
}

/// Something that happens once.
type Then = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An answer, or that there is none.
type Answer = Result<Response<Full<Bytes>>, &'static str>;

// === impl Edge ===

impl Edge {
    /// Opens one. `changes` is told what was changed at moto.
    pub async fn open(api: Api, agent: Agent, targets: Targets, changes: Arc<watch::Sender<u64>>) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared { api, agent, targets, changes, kept: Mutex::default() });
        let mut accepting = JoinSet::new();
        accepting.spawn(serve(socket, shared.clone(), |shared, request| async move { shared.answer(request).await }));
        Self { address, shared, _accepting: accepting }
    }

    /// For `AWS_ENDPOINT_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How it is asked by a test.
    pub fn api(&self) -> Api {
        Api::new(self.address)
    }

    /// Lets calls of an operation go wrong from now on; `*` is any.
    pub fn fault(&self, operation: &str, when: When, fault: Fault) {
        self.shared.kept().faults.push(Trap { operation: operation.to_owned(), when, fault, seen: 0 });
    }

    /// Lets everything go well again.
    pub fn heal(&self) {
        self.shared.kept().faults.clear();
    }

    /// Lets something happen when the next call of an operation has been done, or has gone wrong, before that is answered.
    pub fn then(&self, operation: &str, what: impl Future<Output = ()> + Send + 'static) {
        self.shared.kept().then.push((operation.to_owned(), Box::pin(what)));
    }

    /// Answers an operation so, whatever is asked.
    pub fn answers(&self, operation: &str, answer: Value) {
        self.shared.kept().answers.insert(operation.to_owned(), answer);
    }

    /// How often an operation was called, whatever came of it.
    pub fn calls(&self, operation: &str) -> usize {
        self.heard(operation).len()
    }

    /// What an operation was asked for; `*` is any.
    pub fn heard(&self, operation: &str) -> Vec<Call> {
        let kept = self.shared.kept();
        kept.heard.iter().filter(|call| operation == "*" || call.operation == operation).cloned().collect()
    }
}

// === impl Shared ===

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("nobody panics with it")
    }

    /// An error ends the connection.
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| "half a request")?.to_bytes();
        let Some(call) = Call::read(&parts.headers, &body) else {
            return Ok(refuse(&Call::default(), 400, "UnknownOperationException", "this is no call of a service"));
        };
        let fault = self.kept().hear(&call);
        let answer = self.done(fault, Request::from_parts(parts, body), &call).await;
        let then = self.kept().take(&call.operation);
        let reads = ["Describe", "List", "Get"].iter().any(|verb| call.operation.starts_with(verb));
        // Whoever does something in between may do it behind our back.
        if !reads || !then.is_empty() {
            for what in then {
                what.await;
            }
            self.changes.send_modify(|count| *count += 1);
        }
        answer
    }

    async fn done(&self, fault: Option<Fault>, request: Request<Bytes>, call: &Call) -> Answer {
        match fault {
            Some(Fault::Throttled) => {
                let code = if call.is_query() { "Throttling" } else { "ThrottlingException" };
                return Ok(refuse(call, 400, code, "Rate exceeded"));
            }
            Some(Fault::Failed) => {
                return Ok(refuse(call, 500, "ServerException", "Service Unavailable. Please try again later."));
            }
            Some(Fault::Cut) => return Err("the connection ends before the call"),
            Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
            Some(Fault::Lost) | None => {}
        }
        let answer = match self.own(call).await {
            Some(answer) => answer,
            None => self.pass(request, call).await?,
        };
        if fault == Some(Fault::Lost) { Err("the connection ends after the call") } else { Ok(answer) }
    }

    /// Asks moto. What it says of services is completed.
    async fn pass(&self, request: Request<Bytes>, call: &Call) -> Answer {
        let (mut parts, mut body) = request.into_parts();
        if call.operation == "UpdateService" {
            body = self.resolved(&call.parameters).await.to_string().into();
            parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
            if call.parameters["forceNewDeployment"] == true {
                self.agent.force(call.text("service"));
            }
        }
        let answer = self.api.pass(Request::from_parts(parts, Full::from(body))).await.map_err(|_| "moto does not answer")?;
        let (mut head, mut body) = answer.into_parts();
        if head.status.is_success() && matches!(&*call.operation, "DescribeServices" | "UpdateService" | "CreateService") {
            let mut said: Value = serde_json::from_slice(&body).unwrap_or_default();
            let one = said.get_mut("service").into_iter().collect::<Vec<_>>();
            let many = one.is_empty();
            for service in one {
                *service = self.agent.described(service.take()).await;
            }
            if many {
                for service in said["services"].as_array_mut().into_iter().flatten() {
                    *service = self.agent.described(service.take()).await;
                }
            }
            body = said.to_string().into();
        }
        for name in [header::CONTENT_LENGTH, header::CONNECTION, header::TRANSFER_ENCODING] {
            head.headers.remove(name);
        }
        Ok(Response::from_parts(head, Full::from(body)))
    }

    /// A service keeps the revision that was the newest when it was updated.
    async fn resolved(&self, update: &Value) -> Value {
        let mut update = update.clone();
        if let Some(named) = update["taskDefinition"].as_str() {
            let found = self.api.try_call("ecs", "DescribeTaskDefinition", json!({ "taskDefinition": named })).await;
            if let Ok(found) = found {
                update["taskDefinition"] = found["taskDefinition"]["taskDefinitionArn"].clone();
            }
        }
        update
    }

    /// What moto has no notion of.
    async fn own(&self, call: &Call) -> Option<Response<Full<Bytes>>> {
        let given = self.kept().answers.get(&call.operation).cloned();
        if let Some(answer) = given {
            return Some(json_answer(200, &answer));
        }
        let asked = &call.parameters;
        let answer = match (&*call.service, &*call.operation) {
            ("elasticloadbalancing", "DescribeTargetHealth") => return Some(self.target_health(call)),
            ("ecs", "ListTasks") => {
                let arns: Vec<_> = self.agent.listed(asked).into_iter().map(|task| task.arn).collect();
                json!({ "taskArns": arns })
            }
            ("ecs", "DescribeTasks") => self.describe_tasks(asked),
            ("ecs", "RunTask") => json!({ "tasks": [self.agent.run(asked).await.json()], "failures": [] }),
            ("ecs", "StopTask") => {
                let reason = asked["reason"].as_str().unwrap_or("Task stopped by user");
                match self.agent.stop(call.text("task"), reason) {
                    Some(task) => json!({ "task": task.json() }),
                    None => return Some(refuse(call, 400, "InvalidParameterException", "The referenced task was not found.")),
                }
            }
            ("ecs", "UpdateTaskProtection" | "GetTaskProtection") => self.protection(call),
            ("logs", "GetLogEvents") => return Some(self.log(call)),
            // moto has pipelines, and no jobs of theirs. Which are there is not known here; that one ends once is.
            ("codepipeline", "PutJobSuccessResult" | "PutJobFailureResult") => {
                if !self.kept().jobs.insert(call.text("jobId").to_owned()) {
                    return Some(refuse(call, 400, "InvalidJobStateException", "The job has ended already."));
                }
                json!({})
            }
            _ => return None,
        };
        Some(json_answer(200, &answer))
    }

    fn describe_tasks(&self, asked: &Value) -> Value {
        let (mut tasks, mut failures) = (Vec::new(), Vec::new());
        for named in asked["tasks"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            match self.agent.task(named) {
                Some(task) => tasks.push(task.json()),
                None => failures.push(json!({ "arn": named, "reason": "MISSING" })),
            }
        }
        json!({ "tasks": tasks, "failures": failures })
    }

    fn protection(&self, call: &Call) -> Value {
        let asked = &call.parameters;
        let (mut protected, mut failures) = (Vec::new(), Vec::new());
        for named in asked["tasks"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if call.operation == "UpdateTaskProtection" {
                let minutes = asked["expiresInMinutes"].as_u64().unwrap_or(120);
                let until = Instant::now() + Duration::from_secs(60 * minutes);
                let until = (asked["protectionEnabled"] == true).then_some(until);
                if self.agent.protect(named, until).is_none() {
                    failures.push(json!({ "arn": named, "reason": "TASK_NOT_VALID" }));
                    continue;
                }
            }
            match self.agent.task(named) {
                Some(task) => protected.push(protection(&task)),
                None => failures.push(json!({ "arn": named, "reason": "MISSING" })),
            }
        }
        json!({ "protectedTasks": protected, "failures": failures })
    }

    fn target_health(&self, call: &Call) -> Response<Full<Bytes>> {
        let groups: Groups = self.targets.watch().borrow().clone();
        let known = groups.get(call.text("TargetGroupArn")).cloned().unwrap_or_default();
        let named: Vec<&str> =
            call.parameters["Targets"].as_array().into_iter().flatten().filter_map(|target| target["Id"].as_str()).collect();
        let mut members: Vec<String> = known
            .iter()
            .filter(|target| named.is_empty() || named.contains(&&*target.address.ip().to_string()))
            .map(|target| health(&target.address.ip().to_string(), Some(target)))
            .collect();
        let strangers = named.iter().filter(|name| !known.iter().any(|target| target.address.ip().to_string() == **name));
        members.extend(strangers.map(|name| health(name, None)));
        let body = format!("<TargetHealthDescriptions>{}</TargetHealthDescriptions>", members.concat());
        xml_answer(200, &call.operation, &body)
    }

    /// A log of the driver awslogs: `prefix/container/task`.
    fn log(&self, call: &Call) -> Response<Full<Bytes>> {
        let Some(log) = self.agent.log(call.text("logStreamName").rsplit('/').next().unwrap_or_default()) else {
            return refuse(call, 400, "ResourceNotFoundException", "The specified log stream does not exist.");
        };
        let most = call.parameters["limit"].as_u64().and_then(|limit| limit.try_into().ok()).unwrap_or(10_000);
        let token = call.parameters["nextToken"].as_str();
        let from = match token.and_then(|token| token.strip_prefix("f/")).and_then(|at| at.parse::<usize>().ok()) {
            Some(from) => from.min(log.len()),
            None if call.parameters["startFromHead"] == true => 0,
            None => log.len().saturating_sub(most),
        };
        let until = (from + most).min(log.len());
        let ms = |when: &SystemTime| (seconds(*when) * 1e3) as u64;
        let events: Vec<_> = log[from..until]
            .iter()
            .map(|(when, line)| json!({ "timestamp": ms(when), "ingestionTime": ms(when), "message": line }))
            .collect();
        let tokens = [format!("f/{until}"), format!("b/{from}")];
        json_answer(200, &json!({ "events": events, "nextForwardToken": tokens[0], "nextBackwardToken": tokens[1] }))
    }
}

// === impl Kept ===

impl Kept {
    /// Writes a call down, and says what goes wrong with it.
    fn hear(&mut self, call: &Call) -> Option<Fault> {
        self.heard.push(call.clone());
        let mut found = None;
        for trap in self.faults.iter_mut().filter(|trap| trap.operation == "*" || trap.operation == call.operation) {
            trap.seen += 1;
            let strikes = match trap.when {
                When::First(count) => trap.seen <= count,
                When::Each(count) => trap.seen.is_multiple_of(count),
            };
            found = found.or(strikes.then_some(trap.fault));
        }
        found
    }

    /// What is to happen after this operation.
    fn take(&mut self, operation: &str) -> Vec<Then> {
        let (now, later) = std::mem::take(&mut self.then).into_iter().partition(|(name, _)| name == operation);
        self.then = later;
        now.into_iter().map(|(_, what): (String, Then)| what).collect()
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("heard", &self.heard.len()).finish_non_exhaustive()
    }
}

fn protection(task: &Task) -> Value {
    let mut said = json!({ "taskArn": task.arn, "protectionEnabled": task.is_protected() });
    if let Some(until) = task.protected.filter(|_| task.is_protected()) {
        let left = until.saturating_duration_since(Instant::now());
        said["expirationDate"] = seconds(SystemTime::now() + left).into();
    }
    said
}

/// One target as DescribeTargetHealth shows it, or one that nobody registered.
fn health(ip: &str, target: Option<&Target>) -> String {
    let unknown = ("unused", Some(("Target.NotRegistered", "Target is not registered to the target group")));
    let (state, reason) = target.map_or(unknown, |target| target.state.words());
    let reason = reason.map(|(code, words)| format!("<Reason>{code}</Reason><Description>{words}</Description>"));
    let port = target.map_or(PORTS[0], |target| target.address.port());
    format!(
        "<member><HealthCheckPort>{}</HealthCheckPort><Target><Id>{ip}</Id><Port>{port}</Port></Target>\
         <TargetHealth><State>{state}</State>{}</TargetHealth></member>",
        PORTS[1],
        reason.unwrap_or_default()
    )
}

fn json_answer(status: u16, body: &Value) -> Response<Full<Bytes>> {
    answer(status, "application/x-amz-json-1.1", body.to_string())
}

fn xml_answer(status: u16, operation: &str, result: &str) -> Response<Full<Bytes>> {
    let body = format!(
        "<{operation}Response xmlns=\"http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/\">\
         <{operation}Result>{result}</{operation}Result>\
         <ResponseMetadata><RequestId>00000000-0000-4000-8000-000000000000</RequestId></ResponseMetadata></{operation}Response>"
    );
    answer(status, "text/xml", body)
}

/// An error, as the service of the call says it.
fn refuse(call: &Call, status: u16, code: &str, words: &str) -> Response<Full<Bytes>> {
    if !call.is_query() {
        return json_answer(status, &json!({ "__type": code, "message": words }));
    }
    let kind = if status < 500 { "Sender" } else { "Receiver" };
    let body = format!(
        "<ErrorResponse xmlns=\"http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/\"><Error><Type>{kind}</Type>\
         <Code>{code}</Code><Message>{}</Message></Error><RequestId>00000000-0000-4000-8000-000000000000</RequestId></ErrorResponse>",
        escape(words)
    );
    answer(status, "text/xml", body)
}

fn answer(status: u16, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let answer = Response::builder().status(status).header(header::CONTENT_TYPE, kind);
    answer.body(Full::from(body)).expect("an answer is one")
}
