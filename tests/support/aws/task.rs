//! One task: a container definition as a process of this machine, at a loopback address of its own.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::mpsc,
};

use super::wire::REGION;

/// A task, from its first moment until it is forgotten.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its ARN.
    pub arn: String,
    /// The service that it belongs to.
    pub service: Option<String>,
    /// The ARN of its task definition.
    pub definition: String,
    /// Counts the deployments of its service.
    pub deployment: String,
    /// Where it listens.
    pub ip: Ipv4Addr,
    /// How far it is.
    pub status: Status,
    /// Whether it is to run. Once it is not, it never is again.
    pub is_wanted: bool,
    /// Its process, while it runs.
    pub pid: Option<u32>,
    /// How its process ended.
    pub exit_code: Option<i32>,
    /// Why the task stopped, as AWS says it: a code and words.
    pub stopped: Option<(&'static str, String)>,
    /// Until when no deployment and no scaling stops it.
    pub protected: Option<Instant>,
    /// When it was made, when it ran, when it had stopped.
    pub moments: [Option<SystemTime>; 3],
    /// Who started it, when that was no service.
    pub started_by: Option<String>,
    /// What the caller wants different.
    pub overrides: Value,
    /// Name and image of its one container.
    container: (String, String),
    cluster: String,
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its process is not there yet.
    Pending,
    /// Its process is there.
    Running,
    /// It is taken from its target group.
    Deactivating,
    /// Its process was told to end.
    Stopping,
    /// It is over.
    Stopped,
}

/// What is run.
#[derive(Clone, Debug)]
pub(super) struct Container {
    program: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// Between SIGTERM and SIGKILL.
    pub(super) stop_timeout: Duration,
}

/// Why a process did not start, as ECS says it.
#[derive(Debug)]
pub(super) struct NotStarted(pub(super) String);

/// Where clients come in, and operators.
pub const PORTS: [u16; 2] = [3000, 9464];

static NEXT: AtomicU32 = AtomicU32::new(0);

// === impl Task ===

impl Task {
    /// A task that has not begun.
    pub(super) fn new(cluster: &str, definition: &Value, service: Option<(&str, &str)>) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let container = &definition["containerDefinitions"][0];
        let id = format!("{:016x}{:016x}", std::process::id(), number);
        Self {
            arn: format!("arn:aws:ecs:{REGION}:123456789012:task/{cluster}/{id}"),
            service: service.map(|(name, _)| name.to_owned()),
            definition: text(&definition["taskDefinitionArn"]),
            deployment: service.map(|(_, deployment)| deployment.to_owned()).unwrap_or_default(),
            ip: free_address(),
            status: Status::Pending,
            is_wanted: true,
            pid: None,
            exit_code: None,
            stopped: None,
            protected: None,
            moments: [Some(SystemTime::now()), None, None],
            started_by: None,
            overrides: json!({}),
            container: (text(&container["name"]), text(&container["image"])),
            cluster: cluster.to_owned(),
        }
    }

    /// The last part of its ARN.
    pub fn id(&self) -> &str {
        self.arn.rsplit('/').next().unwrap_or_default()
    }

    /// Whether nothing but its owner may stop it now.
    pub fn is_protected(&self) -> bool {
        self.protected.is_some_and(|until| Instant::now() < until)
    }

    /// As DescribeTasks shows it.
    pub(super) fn json(&self) -> Value {
        let id = self.id();
        let [created, started, stopped] = self.moments.map(|moment| moment.map(seconds));
        let group = self
            .service
            .as_ref()
            .map_or_else(|| format!("family:{}", family(&self.definition)), |name| format!("service:{name}"));
        let started_by = self.started_by.clone().or_else(|| self.service.as_ref().map(|_| self.deployment.clone()));
        let reason = self.stopped.as_ref().filter(|(code, _)| *code == "TaskFailedToStart").map(|(_, words)| words);
        let interface = json!({ "attachmentId": id, "privateIpv4Address": self.ip.to_string() });
        let mut task = json!({
            "taskArn": self.arn, "clusterArn": format!("arn:aws:ecs:{REGION}:123456789012:cluster/{}", self.cluster),
            "taskDefinitionArn": self.definition, "group": group, "startedBy": started_by,
            "desiredStatus": if self.is_wanted { "RUNNING" } else { "STOPPED" }, "lastStatus": self.status.word(),
            "launchType": "FARGATE", "healthStatus": "UNKNOWN", "connectivity": "CONNECTED", "version": 1,
            "availabilityZone": format!("{REGION}a"), "overrides": self.overrides, "createdAt": created,
            "containers": [{
                "containerArn": format!("arn:aws:ecs:{REGION}:123456789012:container/{}/{id}/0", self.cluster),
                "taskArn": self.arn, "name": self.container.0, "image": self.container.1, "runtimeId": format!("{id}-0"),
                "lastStatus": self.status.word(), "healthStatus": "UNKNOWN", "networkInterfaces": [interface],
            }],
            "attachments": [{
                "id": id, "type": "ElasticNetworkInterface", "status": "ATTACHED",
                "details": [{ "name": "privateIPv4Address", "value": self.ip.to_string() }],
            }],
        });
        let mut set = |path: &str, value: Option<Value>| {
            let (parent, name) = path.rsplit_once('/').expect("a path has a parent");
            if let (Some(Value::Object(fields)), Some(value)) = (task.pointer_mut(parent), value) {
                fields.insert(name.to_owned(), value);
            }
        };
        set("/startedAt", started.map(Value::from));
        set("/stoppedAt", stopped.map(Value::from));
        set("/stopCode", self.stopped.as_ref().map(|(code, _)| (*code).into()));
        set("/stoppedReason", self.stopped.as_ref().map(|(_, words)| words.clone().into()));
        set("/containers/0/exitCode", self.exit_code.map(Value::from));
        set("/containers/0/reason", reason.map(|reason| reason.clone().into()));
        task
    }
}

// === impl Status ===

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Deactivating => "DEACTIVATING",
            Self::Stopping => "STOPPING",
            Self::Stopped => "STOPPED",
        }
    }
}

// === impl Container ===

impl Container {
    /// What a task runs: its container definition, and what its overrides say of it.
    pub(super) fn new(definition: &Value, task: &Task, secrets: &BTreeMap<String, String>) -> Result<Self, NotStarted> {
        let container = &definition["containerDefinitions"][0];
        let overrides = task.overrides["containerOverrides"].as_array().into_iter().flatten();
        let other = overrides.into_iter().find(|other| other["name"] == container["name"]).cloned().unwrap_or_default();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let command = if other["command"].is_array() { &other["command"] } else { &container["command"] };
        let mut environment = Vec::new();
        for variable in list(&container["secrets"]) {
            let arn = text(&variable["valueFrom"]);
            let secret = secrets.get(&arn).ok_or_else(|| {
                let words = "ResourceInitializationError: unable to pull secrets or registry auth: ResourceNotFoundException";
                NotStarted(format!("{words}: {arn}"))
            })?;
            environment.push((text(&variable["name"]), secret.clone()));
        }
        for variable in [list(&container["environment"]), list(&other["environment"])].concat() {
            environment.push((text(&variable["name"]), text(&variable["value"])));
        }
        // Everywhere, in a container. Here many of them share a machine.
        for (name, port) in ["LISTEN", "OPERATIONS_LISTEN"].into_iter().zip(PORTS) {
            environment.push((name.to_owned(), format!("{}:{port}", task.ip)));
        }
        Ok(Self {
            program: text(&container["image"]),
            arguments: list(command).iter().map(text).collect(),
            environment,
            stop_timeout: Duration::from_secs(container["stopTimeout"].as_u64().unwrap_or(30)),
        })
    }

    /// Starts it. Nothing of the test's own environment reaches it but PATH. What it says comes line by line.
    pub(super) fn start(&self) -> Result<(Child, mpsc::UnboundedReceiver<String>), NotStarted> {
        if !Path::new(&self.program).exists() {
            let image = &self.program;
            return Err(NotStarted(format!(
                "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref {image}: {image}: not found"
            )));
        }
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|failure| NotStarted(format!("CannotStartContainerError: {failure}")))?;
        let (say, said) = mpsc::unbounded_channel();
        tokio::spawn(read(child.stdout.take().expect("stdout is piped"), say.clone()));
        tokio::spawn(read(child.stderr.take().expect("stderr is piped"), say));
        Ok((child, said))
    }
}

async fn read(stream: impl AsyncRead + Unpin, say: mpsc::UnboundedSender<String>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let _ = say.send(line);
    }
}

/// As a shell would say it: 137 for SIGKILL.
pub(super) fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

pub(super) fn seconds(moment: SystemTime) -> f64 {
    moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// `…:task-definition/mcp-server-blue:3` is of the family `mcp-server-blue`.
pub(super) fn family(definition: &str) -> &str {
    let name = definition.rsplit('/').next().unwrap_or_default();
    name.split(':').next().unwrap_or_default()
}

/// An address of this machine at which nobody listens. Linux answers on all of 127/8; other test processes take other parts.
pub(super) fn free_address() -> Ipv4Addr {
    let process = std::process::id();
    let second = 16 + u8::try_from(process % 224).expect("less than 224");
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let [third, fourth] = [(n / 250) % 256, n % 250 + 1].map(|part| u8::try_from(part).expect("less than 256"));
        let ip = Ipv4Addr::new(127, second, third, fourth);
        if PORTS.iter().all(|port| TcpListener::bind((ip, *port)).is_ok()) {
            return ip;
        }
    }
}
