//! Amazon ECS behind an ALB, on this machine: control planes that remember (moto), and what acts on what they remember.
//!
//! ```text
//! rollout ── AWS_ENDPOINT_URL ── edge ── moto        clients ── balancer (2 nodes) ── tasks
//! function ───────┘                └──── agent ── tasks          └── rules of moto, targets of the agent
//! ```
//!
//! What must stay true: whatever moves traffic or starts a process does so because an API of AWS was told to, and as late as
//! there.

#[path = "aws/agent.rs"]
pub mod agent;
#[path = "aws/balancer.rs"]
pub mod balancer;
#[path = "aws/edge.rs"]
pub mod edge;
#[path = "aws/function.rs"]
pub mod function;
#[path = "aws/moto.rs"]
pub mod moto;
#[path = "aws/targets.rs"]
pub mod targets;
#[path = "aws/task.rs"]
pub mod task;
#[path = "aws/wire.rs"]
pub mod wire;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bg_runtime::database::private::PrivateServer;
use serde_json::{Value, json};
use tokio::{process::Command, sync::watch};

use self::{
    agent::Agent,
    balancer::Balancer,
    edge::Edge,
    function::Function,
    moto::{Api, Moto},
    targets::{Stub, Targets},
    task::{PORTS, Task},
    wire::REGION,
};
use crate::{
    command::{self, Ended, Running},
    postgres::DataDir,
    server::binary,
};

/// A cluster, its balancer, and whatever runs in it. All of it is gone with the test.
#[derive(Debug)]
pub struct Ecs {
    agent: Agent,
    balancer: Balancer,
    edge: Edge,
    targets: Targets,
    groups: [String; 2],
    rule: String,
    database_url: String,
    moto: Moto,
    _database: PrivateServer,
    data: DataDir,
}

/// How quick the platform is.
#[derive(Clone, Debug)]
pub struct Pace {
    /// The agent.
    pub agent: agent::Pace,
    /// The balancer.
    pub balancer: balancer::Pace,
}

/// The cluster.
pub const CLUSTER: &str = "mcp";
/// The application: its services are `mcp-server-blue` and `mcp-server-green`, its container is called so.
pub const APP: &str = "mcp-server";
/// The log group of its tasks.
pub const LOGS: &str = "/ecs/mcp-server";

const COLORS: [&str; 2] = ["blue", "green"];
/// The secret in which the tasks find their database.
const DATABASE: &str = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:mcp/database";
/// How long a test waits for what ought to happen at once. Generous, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

// === impl Pace ===

impl Default for Pace {
    /// An ALB and ECS, some ten times as quick.
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            agent: agent::Pace {
                deregistration: ms(500),
                restart: ms(200),
                grace: ms(20_000),
                log: ms(200),
                last_words: ms(500),
            },
            balancer: balancer::Pace { propagation: ms(0)..=ms(300), health_check: ms(200) },
        }
    }
}

// === impl Ecs ===

impl Ecs {
    /// Starts it with this program as blue, and so many of it.
    pub async fn up(image: &Path, environment: &[(&str, &str)], replicas: u32) -> Self {
        Self::up_with(image, environment, replicas, &Pace::default()).await
    }

    /// Starts it at another pace.
    pub async fn up_with(image: &Path, environment: &[(&str, &str)], replicas: u32, pace: &Pace) -> Self {
        let data = DataDir::new();
        let (moto, database) = tokio::join!(Moto::start(), data.start());
        let socket = database.socket_dir().display().to_string().replace('/', "%2F");
        let database_url = format!("postgres://mcp@{socket}/postgres");
        let layout = Layout::make(&moto.api()).await;
        let changes = Arc::new(watch::Sender::new(0));
        let targets = Targets::new();
        let balancer = Balancer::open(moto.api(), &layout.listener, targets.clone(), changes.subscribe(), &pace.balancer).await;
        let secrets = BTreeMap::from([(DATABASE.to_owned(), database_url.clone())]);
        let agent = Agent::start(moto.api(), CLUSTER, targets.clone(), changes.subscribe(), pace.agent.clone(), secrets);
        let edge = Edge::open(moto.api(), agent.clone(), targets.clone(), changes).await;
        let Layout { groups, rule, network, .. } = layout;
        let ecs = Self { agent, balancer, edge, targets, groups, rule, database_url, moto, _database: database, data };
        for (color, count) in [("blue", replicas), ("green", 0)] {
            ecs.create_service(color, image, environment, count, &network).await;
        }
        ecs.serves("blue", replicas as usize).await;
        ecs
    }

    async fn create_service(&self, color: &str, image: &Path, environment: &[(&str, &str)], count: u32, network: &Value) {
        let (api, name) = (self.moto.api(), format!("{APP}-{color}"));
        // On loopback a process takes no time to leave, unless it is told that balancers need some to learn.
        let variables = [("RELEASE_COLOR", color), ("LEAVE_DELAY_SECS", "1")].into_iter().chain(environment.iter().copied());
        let variables: Vec<_> = variables.map(|(name, value)| json!({ "name": name, "value": value })).collect();
        let ports = PORTS.map(|port| json!({ "containerPort": port, "protocol": "tcp" }));
        let logs = json!({ "awslogs-group": LOGS, "awslogs-region": REGION, "awslogs-stream-prefix": APP });
        let container = json!({
            "name": APP, "image": image, "essential": true, "portMappings": ports, "stopTimeout": 40, "environment": variables,
            "secrets": [{ "name": "DATABASE_URL", "valueFrom": DATABASE }],
            "logConfiguration": { "logDriver": "awslogs", "options": logs },
        });
        let definition = json!({
            "family": name, "networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"], "cpu": "256", "memory": "512",
            "executionRoleArn": "arn:aws:iam::123456789012:role/execution", "taskRoleArn": "arn:aws:iam::123456789012:role/task",
            "containerDefinitions": [container], "tags": [{ "key": "app", "value": APP }],
        });
        api.ecs("RegisterTaskDefinition", definition).await;
        let service = json!({
            "cluster": CLUSTER, "serviceName": name, "taskDefinition": name, "desiredCount": count, "launchType": "FARGATE",
            "networkConfiguration": { "awsvpcConfiguration": network },
            "loadBalancers": [{ "targetGroupArn": self.group(color), "containerName": APP, "containerPort": PORTS[0] }],
            "healthCheckGracePeriodSeconds": 60,
        });
        api.ecs("CreateService", service).await;
    }

    /// Where clients come in.
    pub fn address(&self) -> SocketAddr {
        self.balancer.address()
    }

    /// What keeps the tasks.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// What AWS's clients speak to.
    pub fn edge(&self) -> &Edge {
        &self.edge
    }

    /// What clients of the application speak to.
    pub fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    /// What the control planes remember. What is changed here is changed behind everybody's back.
    pub fn api(&self) -> Api {
        self.moto.api()
    }

    /// The rule that divides the traffic.
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// The target group of a color.
    pub fn group(&self, color: &str) -> &str {
        &self.groups[usize::from(color == "green")]
    }

    /// Where it keeps everything.
    pub fn state(&self) -> PathBuf {
        self.data.path().to_owned()
    }

    /// The tasks of a color that are wanted.
    pub fn tasks(&self, color: &str) -> Vec<Task> {
        self.agent.of(&format!("{APP}-{color}"))
    }

    /// How many tasks of a color get requests.
    pub fn ready(&self, color: &str) -> usize {
        self.tasks(color).iter().filter(|task| self.agent.is_healthy(task)).count()
    }

    /// Waits until so many tasks of a color get requests, from every node of the balancer.
    pub async fn serves(&self, color: &str, count: usize) {
        self.until(&format!("{count} of {color} are ready"), || self.ready(color) == count).await;
        self.balancer.settled().await;
    }

    /// The weights of blue and green.
    pub async fn weights(&self) -> [u64; 2] {
        let answer = self.moto.api().elb("DescribeRules", json!({ "RuleArns": [self.rule] })).await;
        let groups = answer["Rules"][0]["Actions"][0]["ForwardConfig"]["TargetGroups"].as_array().cloned().unwrap_or_default();
        self.groups.each_ref().map(|arn| {
            let group = groups.iter().find(|group| group["TargetGroupArn"] == **arn);
            group.and_then(|group| group["Weight"].as_str()?.parse().ok()).unwrap_or_default()
        })
    }

    /// Gives blue and green these weights, as somebody else would: `rollout` hears nothing of it.
    pub fn weigh(&self, weights: [u64; 2]) -> impl Future<Output = ()> + Send + 'static {
        let (api, rule, action) = (self.moto.api(), self.rule.clone(), forward(&self.groups, weights));
        async move {
            api.elb("ModifyRule", json!({ "RuleArn": rule, "Actions": [action] })).await;
        }
    }

    /// What a service is, as ECS says it.
    pub async fn service(&self, color: &str) -> Value {
        let asked = json!({ "cluster": CLUSTER, "services": [format!("{APP}-{color}")] });
        let mut said = self.moto.api().ecs("DescribeServices", asked).await;
        self.agent.described(said["services"][0].take()).await
    }

    /// Changes a service as UpdateService does.
    pub async fn update_service(&self, color: &str, change: Value) {
        let mut asked = json!({ "cluster": CLUSTER, "service": format!("{APP}-{color}") });
        asked.as_object_mut().expect("it is one").extend(change.as_object().cloned().unwrap_or_default());
        self.moto.api().ecs("UpdateService", asked).await;
    }

    /// Registers a revision of a color's task definition in which the container is another one. Gives its ARN.
    pub async fn define(&self, color: &str, change: impl FnOnce(&mut Value)) -> String {
        let (api, family) = (self.moto.api(), format!("{APP}-{color}"));
        let asked = json!({ "taskDefinition": family });
        let mut definition = api.ecs("DescribeTaskDefinition", asked).await["taskDefinition"].take();
        change(&mut definition["containerDefinitions"][0]);
        let made = api.ecs("RegisterTaskDefinition", definition).await;
        made["taskDefinition"]["taskDefinitionArn"].as_str().expect("it has one").to_owned()
    }

    /// Puts so many targets into the group of a color of whom nobody knows yet how they are.
    pub fn join(&self, color: &str, count: usize) -> Vec<Stub> {
        (0..count).map(|_| Stub::new(&self.targets, self.group(color), color)).collect()
    }

    /// How many targets of a color are healthy.
    pub fn healthy(&self, color: &str) -> usize {
        let groups = self.targets.watch();
        let groups = groups.borrow();
        let targets = groups.get(self.group(color)).into_iter().flatten();
        targets.filter(|target| target.state == targets::State::Healthy).count()
    }

    /// Starts the traffic shifter as AWS Lambda does, told this beside what it has to know.
    pub async fn shifter(&self, environment: &[(&str, &str)]) -> Function {
        let mut command = Command::new(binary("traffic-shifter"));
        command.env_clear().env("CLUSTER", CLUSTER).env("SERVICE", APP).env("RULE_ARN", &self.rule);
        command.env("ENTRANCE", format!("http://{}", self.address())).envs(environment.iter().copied());
        Function::start(self.reaches_aws(command)).await
    }

    /// Puts an alarm, lets it be in this state, and gives what EventBridge says of that.
    pub async fn alarm(&self, name: &str, state: &str) -> Value {
        let api = self.moto.api();
        let asked = json!({
            "AlarmName": name, "Namespace": "AWS/ApplicationELB", "MetricName": "HTTPCode_Target_5XX_Count", "Statistic": "Sum",
            "Period": 60, "EvaluationPeriods": 2, "Threshold": 2, "ComparisonOperator": "GreaterThanThreshold",
        });
        api.call("monitoring", "PutMetricAlarm", asked).await;
        let set = json!({ "AlarmName": name, "StateValue": state, "StateReason": "Threshold Crossed" });
        api.call("monitoring", "SetAlarmState", set).await;
        let said = api.call("monitoring", "DescribeAlarms", json!({ "AlarmNames": [name] })).await;
        let alarm = &said["MetricAlarms"][0];
        json!({
            "version": "0", "id": format!("event-{name}-{state}"), "detail-type": "CloudWatch Alarm State Change",
            "source": "aws.cloudwatch", "account": "123456789012", "region": REGION, "resources": [alarm["AlarmArn"]],
            "detail": { "alarmName": alarm["AlarmName"], "state": {
                "value": alarm["StateValue"], "reason": alarm["StateReason"], "timestamp": alarm["StateUpdatedTimestamp"],
            } },
        })
    }

    /// The percents of green that the traffic was told, in order.
    pub fn moves(&self) -> Vec<u64> {
        let weight = |call: wire::Call| {
            let groups = call.parameters["Actions"][0]["ForwardConfig"]["TargetGroups"].as_array().cloned().unwrap_or_default();
            let green = groups.iter().find(|group| group["TargetGroupArn"] == *self.group("green"))?;
            green["Weight"].as_str()?.parse().ok()
        };
        self.edge.heard("ModifyRule").into_iter().filter_map(weight).collect()
    }

    fn reaches_aws(&self, mut command: Command) -> Command {
        command.env("AWS_ENDPOINT_URL", self.edge.url()).env("AWS_REGION", REGION);
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test").env("AWS_EC2_METADATA_DISABLED", "true");
        command
    }

    fn command(&self) -> Command {
        let mut command = self.reaches_aws(command::rollout());
        command.args(["--platform", "ecs", "--cluster", CLUSTER, "--app", APP, "--rule", &self.rule]);
        command.args(["--entrance", &format!("http://{}", self.address()), "--database-url", &self.database_url]);
        command.arg("--state").arg(self.data.path());
        command
    }

    /// Begins a `rollout` command.
    pub fn begin(&self, arguments: &[&str]) -> Running {
        let mut command = self.command();
        command.arg("--json").args(arguments);
        Running::start(command)
    }

    /// Gives a `rollout` command, to its end.
    pub async fn rollout(&self, arguments: &[&str]) -> Ended {
        self.begin(arguments).end().await
    }

    /// The one value that a query gives, as text.
    pub async fn query(&self, sql: &'static str) -> String {
        self.data.query(sql).await
    }

    /// Waits until something is so.
    pub async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let begun = Instant::now();
        while !condition() {
            let tasks = self.agent.tasks();
            let tasks: Vec<_> = tasks.iter().map(|task| (task.id(), task.status, &task.stopped)).collect();
            assert!(begun.elapsed() < PATIENCE, "it took too long until {what}: {tasks:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Ecs {
    fn drop(&mut self) {
        self.agent.end();
    }
}

/// What is there before any service is.
#[derive(Debug)]
struct Layout {
    groups: [String; 2],
    listener: String,
    rule: String,
    /// Where tasks are.
    network: Value,
}

// === impl Layout ===

impl Layout {
    /// A balancer whose listener divides the traffic by one rule, and obeys the header `release-color` before it.
    async fn make(api: &Api) -> Self {
        api.ecs("CreateCluster", json!({ "clusterName": CLUSTER })).await;
        let found = api.call("ec2", "DescribeSubnets", json!({})).await;
        let found = found["subnetSet"].as_array().expect("moto has a network").clone();
        let subnets: Value = found.iter().take(2).map(|subnet| subnet["subnetId"].clone()).collect();
        let security = api.call("ec2", "DescribeSecurityGroups", json!({})).await;
        let network = json!({ "subnets": subnets, "securityGroups": [security["securityGroupInfo"][0]["groupId"]] });
        let asked = json!({ "Name": APP, "Type": "application", "Subnets": subnets });
        let balancer = api.elb("CreateLoadBalancer", asked).await["LoadBalancers"][0]["LoadBalancerArn"].take();
        let mut groups = [String::new(), String::new()];
        for (color, group) in COLORS.iter().zip(&mut groups) {
            let asked = json!({
                "Name": format!("{APP}-{color}"), "Protocol": "HTTP", "Port": PORTS[0], "VpcId": found[0]["vpcId"],
                "TargetType": "ip", "HealthCheckPath": "/ready", "HealthCheckPort": PORTS[1].to_string(),
            });
            let made = api.elb("CreateTargetGroup", asked).await["TargetGroups"][0]["TargetGroupArn"].take();
            *group = made.as_str().expect("it has a name").to_owned();
        }
        let nothing =
            json!({ "Type": "fixed-response", "FixedResponseConfig": { "StatusCode": "404", "ContentType": "text/plain" } });
        let asked = json!({ "LoadBalancerArn": balancer, "Protocol": "HTTP", "Port": 80, "DefaultActions": [nothing] });
        let listener = api.elb("CreateListener", asked).await["Listeners"][0]["ListenerArn"].take();
        for (number, (color, group)) in COLORS.iter().zip(&groups).enumerate() {
            let header = json!({ "HttpHeaderName": "release-color", "Values": [color] });
            let condition = json!({ "Field": "http-header", "HttpHeaderConfig": header });
            let action =
                json!({ "Type": "forward", "ForwardConfig": { "TargetGroups": [{ "TargetGroupArn": group, "Weight": 1 }] } });
            let rule =
                json!({ "ListenerArn": listener, "Priority": 10 + number, "Conditions": [condition], "Actions": [action] });
            api.elb("CreateRule", rule).await;
        }
        let condition = json!({ "Field": "path-pattern", "PathPatternConfig": { "Values": ["/*"] } });
        let rule = json!({
            "ListenerArn": listener, "Priority": 100, "Conditions": [condition], "Actions": [forward(&groups, [100, 0])],
        });
        let rule = api.elb("CreateRule", rule).await["Rules"][0]["RuleArn"].take();
        let text = |value: Value| value.as_str().expect("an ARN is text").to_owned();
        Self { groups, listener: text(listener), rule: text(rule), network }
    }
}

fn forward(groups: &[String; 2], weights: [u64; 2]) -> Value {
    let groups = groups.iter().zip(weights).map(|(group, weight)| json!({ "TargetGroupArn": group, "Weight": weight }));
    json!({ "Type": "forward", "ForwardConfig": { "TargetGroups": groups.collect::<Vec<_>>() } })
}
