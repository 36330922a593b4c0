//! What ECS does with the services that moto remembers: it keeps tasks running, replaces them, and takes them from their
//! target group before it stops them.
//!
//! What must stay true: a new deployment stops nobody before somebody new is healthy; a task that leaves is deregistered first
//! and told to stop when the delay is over, except by StopTask, which does both at once; a protected task is left alone.

use std::{
    collections::{BTreeMap, HashMap},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};
use tokio::{
    process::Child,
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};

use super::{
    moto::Api,
    targets::{State, Targets},
    task::{Container, NotStarted, PORTS, Status, Task, exit_code, family, seconds},
};
use crate::command::signal;

/// The agent of a cluster. Clones are the same; [`Agent::end`] ends it and everything it started.
#[derive(Clone, Debug)]
pub struct Agent {
    shared: Arc<Shared>,
}

/// How quick an agent is.
#[derive(Clone, Debug)]
pub struct Pace {
    /// How long a target that is deregistered gets to finish.
    pub deregistration: Duration,
    /// After a task that failed, before the next. It doubles each time, five times.
    pub restart: Duration,
    /// How long a task may be unhealthy before it is replaced.
    pub grace: Duration,
    /// How late a log can be read.
    pub log: Duration,
    /// How late its last line can.
    pub last_words: Duration,
}

#[derive(Debug)]
struct Shared {
    api: Api,
    cluster: String,
    targets: Targets,
    pace: Pace,
    /// What `valueFrom` of a secret stands for.
    secrets: BTreeMap<String, String>,
    kept: Mutex<Kept>,
    lives: Mutex<JoinSet<()>>,
    /// Counts what happened to tasks.
    changed: watch::Sender<u64>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    tasks: Vec<Task>,
    /// What tasks said, by their id.
    logs: HashMap<String, Vec<(SystemTime, String)>>,
    services: HashMap<String, Service>,
    /// Task definitions never change.
    definitions: HashMap<String, Value>,
}

/// What ECS remembers of a service, and moto does not.
#[derive(Debug, Default)]
struct Service {
    /// Counts `forceNewDeployment`.
    forced: u64,
    deployments: Vec<Deployment>,
    events: Vec<(SystemTime, String)>,
    failures: u32,
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Deployment {
    id: String,
    definition: String,
    forced: u64,
    began: SystemTime,
    failed: u64,
    is_complete: bool,
}

/// What a service is to be.
#[derive(Debug)]
struct Wish {
    service: String,
    definition: Value,
    count: usize,
    /// Those that its tasks are registered in.
    groups: Vec<String>,
}

/// How a task is brought to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// After everybody had the time to send it nothing more.
    Drain,
    /// At once.
    Now,
}

/// How often moto is looked at when nobody says that something changed.
const LOOK: Duration = Duration::from_millis(500);
/// How often tasks are looked at when nothing happens to them.
const STEP: Duration = Duration::from_millis(50);
/// How much of a task's log is kept, in lines.
const LOG_LINES: usize = 10_000;
/// How many events of a service are kept.
const EVENTS: usize = 100;

// === impl Agent ===

impl Agent {
    /// Begins to keep a cluster. `changes` counts what was changed at moto.
    pub fn start(
        api: Api,
        cluster: &str,
        targets: Targets,
        changes: watch::Receiver<u64>,
        pace: Pace,
        secrets: BTreeMap<String, String>,
    ) -> Self {
        let shared = Arc::new(Shared {
            api,
            cluster: cluster.to_owned(),
            targets,
            pace,
            secrets,
            kept: Mutex::default(),
            lives: Mutex::default(),
            changed: watch::Sender::new(0),
            wake: Notify::new(),
        });
        let keeping = keep(Arc::clone(&shared), changes);
        shared.lives().spawn(keeping);
        Self { shared }
    }

    /// Ends it, and kills what it started.
    pub fn end(&self) {
        let running: Vec<_> = self.tasks().iter().filter_map(|task| task.pid).map(|pid| pid.to_string()).collect();
        // Before those who wait for them are gone: afterwards a number may be somebody else's.
        let _ = std::process::Command::new("kill").arg("-KILL").args(running).stderr(Stdio::null()).status();
        self.shared.lives().abort_all();
    }

    /// Every task that is known, ended ones too.
    pub fn tasks(&self) -> Vec<Task> {
        self.shared.kept().tasks.clone()
    }

    /// The tasks of a service that are wanted.
    pub fn of(&self, service: &str) -> Vec<Task> {
        self.tasks().into_iter().filter(|task| task.is_wanted && task.service.as_deref() == Some(service)).collect()
    }

    /// Counts what happens to tasks.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Whether a task gets requests.
    pub fn is_healthy(&self, task: &Task) -> bool {
        self.shared.targets.is_healthy(task.ip)
    }

    /// Kills a task's process, as a host that dies does.
    pub fn kill(&self, task: &Task) {
        signal("KILL", task.pid.expect("it runs"));
    }

    /// Replaces the tasks of a service though nothing changed.
    pub(super) fn force(&self, service: &str) {
        self.shared.kept().services.entry(short(service).to_owned()).or_default().forced += 1;
    }

    /// A service as moto describes it, with what runs of it.
    pub(super) async fn described(&self, mut service: Value) -> Value {
        let (name, named) = (text(&service["serviceName"]), text(&service["taskDefinition"]));
        let definition = self.shared.definition(&named).await;
        let arn = text(&definition["taskDefinitionArn"]);
        let mut kept = self.shared.kept();
        let tasks: Vec<Task> = kept.tasks.iter().filter(|task| task.service.as_deref() == Some(&*name)).cloned().collect();
        let count = |deployment: Option<&str>, status: Status| {
            let of = tasks.iter().filter(|task| deployment.is_none_or(|id| task.deployment == id));
            of.filter(|task| task.status == status).count()
        };
        let known = kept.services.entry(name).or_default();
        known.deploy(&arn);
        let primary = known.deployments.last().map(|deployment| deployment.id.clone()).unwrap_or_default();
        let deployments = known.deployments.iter().rev().filter(|deployment| {
            deployment.id == primary
                || tasks.iter().any(|task| task.deployment == deployment.id && task.status != Status::Stopped)
        });
        let (desired, network) = (service["desiredCount"].clone(), service["networkConfiguration"].clone());
        let deployments = deployments.map(|deployment| {
            let is_primary = deployment.id == primary;
            json!({
                "id": deployment.id, "status": if is_primary { "PRIMARY" } else { "ACTIVE" },
                "taskDefinition": deployment.definition, "desiredCount": if is_primary { desired.clone() } else { json!(0) },
                "pendingCount": count(Some(&deployment.id), Status::Pending),
                "runningCount": count(Some(&deployment.id), Status::Running), "failedTasks": deployment.failed,
                "createdAt": seconds(deployment.began), "updatedAt": seconds(deployment.began), "launchType": "FARGATE",
                "rolloutState": if deployment.is_complete { "COMPLETED" } else { "IN_PROGRESS" },
                "rolloutStateReason": "", "networkConfiguration": network.clone(),
            })
        });
        service["deployments"] = deployments.collect();
        let events = known.events.iter().rev().enumerate();
        let events =
            events.map(|(at, (when, words))| json!({ "id": at.to_string(), "createdAt": seconds(*when), "message": words }));
        service["events"] = events.collect();
        service["runningCount"] = count(None, Status::Running).into();
        service["pendingCount"] = count(None, Status::Pending).into();
        service["taskDefinition"] = arn.into();
        service
    }

    /// The tasks that a ListTasks means.
    pub fn listed(&self, filter: &Value) -> Vec<Task> {
        let wanted = filter["desiredStatus"].as_str() != Some("STOPPED");
        let is_meant = |task: &Task| {
            task.is_wanted == wanted
                && filter["serviceName"].as_str().is_none_or(|name| task.service.as_deref() == Some(short(name)))
                && filter["family"].as_str().is_none_or(|name| family(&task.definition) == name)
                && filter["startedBy"].as_str().is_none_or(|who| task.json()["startedBy"] == who)
        };
        self.tasks().into_iter().filter(is_meant).collect()
    }

    /// The task of an ARN or an id.
    pub fn task(&self, named: &str) -> Option<Task> {
        self.tasks().into_iter().find(|task| task.id() == short(named))
    }

    /// Runs a task that belongs to no service.
    pub(super) async fn run(&self, request: &Value) -> Task {
        let definition = self.shared.definition(&text(&request["taskDefinition"])).await;
        let mut task = Task::new(&self.shared.cluster, &definition, None);
        task.started_by = request["startedBy"].as_str().map(str::to_owned);
        task.overrides = request["overrides"].clone();
        self.shared.begin(task, definition, Vec::new())
    }

    /// Stops a task without taking it from its group first.
    pub(super) fn stop(&self, named: &str, reason: &str) -> Option<Task> {
        let task = self.task(named)?;
        self.shared.stop(&task.arn, Manner::Now, "UserInitiated", reason);
        self.task(named)
    }

    /// Protects a task, or lets it go. `None` when there is no such task of a service.
    pub(super) fn protect(&self, named: &str, until: Option<Instant>) -> Option<()> {
        let mut kept = self.shared.kept();
        let task = kept.tasks.iter_mut().find(|task| task.id() == short(named) && task.service.is_some() && task.is_wanted)?;
        task.protected = until;
        Some(())
    }

    /// What a task said that can be read by now; `None` when there is nothing. It comes in two parts.
    pub(super) fn log(&self, id: &str) -> Option<Vec<(SystemTime, String)>> {
        let mut log = self.shared.kept().logs.get(id).cloned()?;
        let last = log.len().checked_sub(1)?;
        let mut number = 0..;
        log.retain(|(when, _)| {
            let lag = if number.next() == Some(last) { self.shared.pace.last_words } else { self.shared.pace.log };
            *when + lag <= SystemTime::now()
        });
        (!log.is_empty()).then_some(log)
    }
}

/// Makes services what they are to be, for ever.
async fn keep(shared: Arc<Shared>, mut changes: watch::Receiver<u64>) {
    let mut wishes = Vec::new();
    let mut next_look = Instant::now();
    loop {
        if Instant::now() >= next_look {
            // What moto does not answer is asked again.
            wishes = shared.wishes().await.unwrap_or(wishes);
            next_look = Instant::now() + LOOK;
        }
        for wish in &wishes {
            shared.reconcile(wish);
        }
        tokio::select! {
            changed = changes.changed() => match changed {
                Ok(()) => next_look = Instant::now(),
                Err(_) => return,
            },
            () = shared.wake.notified() => {}
            () = tokio::time::sleep(STEP) => {}
        }
    }
}

// === impl Shared ===

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("nobody panics with the tasks")
    }

    fn lives(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.lives.lock().expect("nobody panics with their lives")
    }

    fn change(&self, arn: &str, change: impl FnOnce(&mut Task)) {
        self.kept().tasks.iter_mut().find(|task| task.arn == arn).map(change);
        self.changed.send_modify(|count| *count += 1);
        self.wake.notify_one();
    }

    async fn definition(&self, named: &str) -> Value {
        let known = self.kept().definitions.get(named).cloned();
        if let Some(known) = known {
            return known;
        }
        let definition =
            self.api.ecs("DescribeTaskDefinition", json!({ "taskDefinition": named })).await["taskDefinition"].take();
        // A family alone names its newest revision.
        if named.rsplit('/').next().is_some_and(|name| name.contains(':')) {
            self.kept().definitions.insert(named.to_owned(), definition.clone());
        }
        definition
    }

    async fn wishes(&self) -> Result<Vec<Wish>, String> {
        let cluster = &self.cluster;
        let listed = self.api.try_call("ecs", "ListServices", json!({ "cluster": cluster })).await?;
        if listed["serviceArns"].as_array().is_none_or(Vec::is_empty) {
            return Ok(Vec::new());
        }
        let asked = json!({ "cluster": cluster, "services": listed["serviceArns"] });
        let services = self.api.try_call("ecs", "DescribeServices", asked).await?;
        let mut wishes = Vec::new();
        for service in services["services"].as_array().into_iter().flatten() {
            let groups = service["loadBalancers"].as_array().into_iter().flatten();
            wishes.push(Wish {
                service: text(&service["serviceName"]),
                definition: self.definition(&text(&service["taskDefinition"])).await,
                count: service["desiredCount"].as_u64().and_then(|count| count.try_into().ok()).unwrap_or_default(),
                groups: groups.map(|balancer| text(&balancer["targetGroupArn"])).collect(),
            });
        }
        Ok(wishes)
    }

    /// One step of a service to where it is to be.
    fn reconcile(self: &Arc<Self>, wish: &Wish) {
        let arn = text(&wish.definition["taskDefinitionArn"]);
        let (deployment, may_start) = {
            let mut kept = self.kept();
            let service = kept.services.entry(wish.service.clone()).or_default();
            (service.deploy(&arn), service.not_before.is_none_or(|moment| Instant::now() >= moment))
        };
        let mine = self.kept().tasks.clone().into_iter();
        let mine = mine.filter(|task| task.is_wanted && task.service.as_deref() == Some(&*wish.service));
        let (current, old): (Vec<Task>, Vec<Task>) = mine.partition(|task| task.deployment == deployment);
        if current.len() < wish.count && may_start {
            for _ in current.len()..wish.count {
                let task = Task::new(&self.cluster, &wish.definition, Some((&wish.service, &deployment)));
                self.begin(task, wish.definition.clone(), wish.groups.clone());
            }
        }
        let is_healthy = |task: &Task| wish.is_healthy(task, &self.targets);
        let healthy = current.iter().filter(|task| is_healthy(task)).count();
        // As many as were healthy stay so until others are.
        let keep = wish.count.saturating_sub(healthy);
        let scaled = "Scaling activity initiated by deployment";
        for (tasks, most) in [(current.clone(), wish.count), (old.clone(), keep)] {
            let mut stoppable: Vec<_> = tasks.iter().filter(|task| !task.is_protected()).collect();
            stoppable.sort_by_key(|task| is_healthy(task));
            for task in stoppable.iter().take(tasks.len().saturating_sub(most)) {
                self.stop(&task.arn, Manner::Drain, "ServiceSchedulerInitiated", &format!("{scaled} {deployment}"));
            }
        }
        self.replace_the_unhealthy(wish, &current);
        if healthy == wish.count && current.len() == wish.count && old.is_empty() {
            self.kept().services.entry(wish.service.clone()).or_default().arrive(&wish.service, &deployment);
        }
    }

    fn replace_the_unhealthy(&self, wish: &Wish, tasks: &[Task]) {
        for task in tasks.iter().filter(|task| !task.is_protected()) {
            let is_old = task.moments[1].and_then(|moment| moment.elapsed().ok()).is_some_and(|age| age > self.pace.grace);
            let unhealthy = wish.groups.iter().find(|group| self.targets.state(group, task.ip) == Some(State::Unhealthy));
            if let Some(group) = unhealthy.filter(|_| is_old) {
                let words = format!("Task failed ELB health checks in (target-group {group})");
                self.stop(&task.arn, Manner::Drain, "ServiceSchedulerInitiated", &words);
                self.fail(task, &words);
            }
        }
    }

    /// Writes down that a task did not do, and lets its service wait before the next.
    fn fail(&self, task: &Task, words: &str) {
        let Some(name) = &task.service else { return };
        let mut kept = self.kept();
        let service = kept.services.entry(name.clone()).or_default();
        if let Some(deployment) = service.deployments.iter_mut().find(|deployment| deployment.id == task.deployment) {
            deployment.failed += 1;
        }
        service.not_before = Some(Instant::now() + self.pace.restart * 2_u32.pow(service.failures.min(5)));
        service.failures += 1;
        service.tell(format!("(service {name}) (task {}) failed: {words}", task.id()));
        if service.failures == 3 {
            service.tell(format!("(service {name}) is unable to consistently start tasks successfully. For more information, see the Troubleshooting section."));
        }
    }

    /// Lets a task begin. It is known from now on.
    fn begin(self: &Arc<Self>, task: Task, definition: Value, groups: Vec<String>) -> Task {
        self.kept().tasks.push(task.clone());
        let mut lives = self.lives();
        while lives.try_join_next().is_some() {}
        lives.spawn(live(Arc::clone(self), task.clone(), definition, groups));
        task
    }

    /// Asks a task to stop. Whoever asked first has the say.
    fn stop(&self, arn: &str, manner: Manner, code: &'static str, reason: &str) {
        self.change(arn, |task| {
            if std::mem::replace(&mut task.is_wanted, false) {
                task.stopped = Some((code, reason.to_owned()));
                task.status = match manner {
                    Manner::Drain => Status::Deactivating,
                    Manner::Now => Status::Stopping,
                };
            }
        });
    }

    async fn register(&self, task: &Task, groups: &[String]) {
        for group in groups {
            let target = json!({ "TargetGroupArn": group, "Targets": [{ "Id": task.ip.to_string(), "Port": PORTS[0] }] });
            let _ = self.api.try_call("elasticloadbalancing", "RegisterTargets", target).await;
            self.targets.register(group, (task.ip, PORTS[0]).into());
        }
    }

    /// Comes back when nobody sends it anything any more.
    async fn deregister(&self, task: &Task, groups: &[String]) {
        for group in groups {
            let target = json!({ "TargetGroupArn": group, "Targets": [{ "Id": task.ip.to_string() }] });
            let _ = self.api.try_call("elasticloadbalancing", "DeregisterTargets", target).await;
            self.targets.deregister(group, task.ip, self.pace.deregistration).await;
        }
    }
}

/// One task, from its process to its end.
async fn live(shared: Arc<Shared>, task: Task, definition: Value, groups: Vec<String>) {
    let container = Container::new(&definition, &task, &shared.secrets);
    let started = container.and_then(|container| container.start().map(|started| (container.stop_timeout, started)));
    let (stop_timeout, (child, said)) = match started {
        Ok(started) => started,
        Err(NotStarted(words)) => {
            shared.fail(&task, &words);
            shared.change(&task.arn, |task| task.end("TaskFailedToStart", words));
            return;
        }
    };
    shared.change(&task.arn, |task| {
        task.pid = child.id();
        task.moments[1] = Some(SystemTime::now());
        if task.is_wanted {
            task.status = Status::Running;
        }
    });
    let listening = tokio::spawn(listen(Arc::clone(&shared), task.id().to_owned(), said));
    shared.register(&task, &groups).await;
    let code = run(&shared, &task, &groups, child, stop_timeout).await;
    // What it said is there before its end is.
    let _ = listening.await;
    let was_wanted = shared.kept().tasks.iter().any(|known| known.arn == task.arn && known.is_wanted);
    if was_wanted && task.service.is_some() {
        shared.fail(&task, &format!("Essential container in task exited with {code}"));
    }
    shared.change(&task.arn, |task| {
        task.exit_code = Some(code);
        task.end("EssentialContainerExited", "Essential container in task exited".to_owned());
    });
    shared.deregister(&task, &groups).await;
}

/// Waits for the end of a process: its own, or the one that it is told. How it ended.
async fn run(shared: &Arc<Shared>, task: &Task, groups: &[String], mut child: Child, stop_timeout: Duration) -> i32 {
    let mut changes = shared.changed.subscribe();
    let asked = async {
        loop {
            let status = shared.kept().tasks.iter().find(|known| known.arn == task.arn).map(|known| known.status);
            if matches!(status, Some(Status::Deactivating | Status::Stopping)) {
                return status;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let how = tokio::select! {
        status = child.wait() => return exit_code(status.expect("a child can be waited for")),
        how = asked => how,
    };
    if how == Some(Status::Deactivating) {
        tokio::select! {
            status = child.wait() => return exit_code(status.expect("a child can be waited for")),
            () = shared.deregister(task, groups) => {}
        }
        shared.change(&task.arn, |task| task.status = Status::Stopping);
    } else {
        // At the same time, and nobody waits for it.
        let (shared, task, groups) = (Arc::clone(shared), task.clone(), groups.to_vec());
        tokio::spawn(async move { shared.deregister(&task, &groups).await });
    }
    if let Some(pid) = child.id() {
        signal("TERM", pid);
    }
    if let Ok(status) = tokio::time::timeout(stop_timeout, child.wait()).await {
        return exit_code(status.expect("a child can be waited for"));
    }
    child.kill().await.expect("it is ours to kill");
    exit_code(child.wait().await.expect("a child can be waited for"))
}

async fn listen(shared: Arc<Shared>, id: String, mut said: mpsc::UnboundedReceiver<String>) {
    while let Some(line) = said.recv().await {
        let mut kept = shared.kept();
        let log = kept.logs.entry(id.clone()).or_default();
        if log.len() < LOG_LINES {
            log.push((SystemTime::now(), line));
        }
    }
}

// === impl Task ===

impl Task {
    /// It is over. What it was asked to stop for goes before this.
    fn end(&mut self, code: &'static str, words: String) {
        self.stopped.get_or_insert((code, words));
        (self.is_wanted, self.status, self.pid, self.moments[2]) = (false, Status::Stopped, None, Some(SystemTime::now()));
    }
}

// === impl Wish ===

impl Wish {
    /// Whether a task does what it is there for: behind a balancer, whether it gets requests.
    fn is_healthy(&self, task: &Task, targets: &Targets) -> bool {
        let mut groups = self.groups.iter();
        task.status == Status::Running && groups.all(|group| targets.state(group, task.ip) == Some(State::Healthy))
    }
}

// === impl Service ===

impl Service {
    /// The deployment of this definition, a new one when another was deployed last.
    fn deploy(&mut self, definition: &str) -> String {
        let last = self.deployments.last();
        if let Some(last) = last.filter(|last| last.definition == definition && last.forced == self.forced) {
            return last.id.clone();
        }
        let id = format!("ecs-svc/{:019}", self.deployments.len() + 1);
        self.deployments.push(Deployment {
            id: id.clone(),
            definition: definition.to_owned(),
            forced: self.forced,
            began: SystemTime::now(),
            failed: 0,
            is_complete: false,
        });
        (self.failures, self.not_before) = (0, None);
        id
    }

    /// A deployment is what it was to be.
    fn arrive(&mut self, name: &str, id: &str) {
        self.failures = 0;
        let deployment = self.deployments.iter_mut().find(|deployment| deployment.id == id && !deployment.is_complete);
        if let Some(deployment) = deployment {
            deployment.is_complete = true;
            self.tell(format!("(service {name}) (deployment {id}) deployment completed."));
            self.tell(format!("(service {name}) has reached a steady state."));
        }
    }

    fn tell(&mut self, words: String) {
        self.events.push((SystemTime::now(), words));
        if self.events.len() > EVENTS {
            self.events.remove(0);
        }
    }
}

/// The last part of an ARN, or the name that it is.
fn short(named: &str) -> &str {
    named.rsplit('/').next().unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
