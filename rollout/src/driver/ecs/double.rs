//! A small AWS for tests, on a port of this machine: it keeps a rule, its tags, target groups, services and task definitions,
//! and answers as the real one does. It also answers as every replica.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ecs::config::Credentials;
use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use bg_runtime::Color;
use serde_json::{Value, json};

use super::{EcsDriver, EcsSettings};
use crate::http::Http;

/// A running one.
pub(crate) struct Double {
    state: Arc<Mutex<State>>,
    config: SdkConfig,
    operations: u16,
    server: tokio::task::JoinHandle<()>,
}

/// What it keeps.
pub(crate) struct State {
    /// Target groups in the rule, with their weights.
    pub(crate) forwards: Vec<(String, i32)>,
    pub(crate) sticky: bool,
    pub(crate) tags: BTreeMap<String, String>,
    /// By target group: ports, as there is one address only, and their health.
    pub(crate) targets: HashMap<String, Vec<(u16, &'static str)>>,
    /// By name.
    pub(crate) services: BTreeMap<String, Value>,
    /// By ARN.
    pub(crate) definitions: BTreeMap<String, Value>,
    pub(crate) tasks: Vec<Value>,
    pub(crate) scalable: BTreeMap<String, Value>,
    /// Deployments that ECS does by itself, of the service `app`, as it describes them.
    pub(crate) deployments: Vec<Value>,
    pub(crate) log: Vec<&'static str>,
    /// What was called, in order.
    pub(crate) calls: Vec<(String, Value)>,
    /// How many calls are answered that there were too many of them.
    pub(crate) throttles: usize,
    /// Who answers clients, whatever the weights say.
    pub(crate) answered_by: Option<&'static str>,
    /// How the next call is refused.
    pub(crate) refuses: Option<&'static str>,
    /// Called before each call is answered.
    pub(crate) meddler: Option<Meddler>,
    /// What replicas say of `/ready`.
    pub(crate) ready: (u16, Value),
}

type Meddler = Box<dyn FnMut(&str, &mut State) + Send>;

pub(crate) const RULE: &str = "arn:aws:elasticloadbalancing:eu-central-1:1:listener-rule/app/a/b/c/d";

/// The target group of a color.
pub(crate) fn group(color: Color) -> String {
    format!("arn:aws:elasticloadbalancing:eu-central-1:1:targetgroup/{color}/1")
}

// === impl Double ===

impl Double {
    /// Blue is live with two healthy targets, green has two as well and no traffic.
    pub(crate) async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::new()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (aws, ready, health) = (state.clone(), state.clone(), state.clone());
        let router = Router::new()
            .route("/", axum::routing::post(async move |headers: HeaderMap, body: Bytes| lock(&aws).answer(&headers, &body)))
            .route("/health", get(async move || lock(&health).healthy()))
            .route(
                "/ready",
                get(async move || {
                    let (status, said) = lock(&ready).ready.clone();
                    (StatusCode::from_u16(status).unwrap(), axum::Json(said))
                }),
            );
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .endpoint_url(format!("http://{address}"))
            .region(Region::from_static("eu-central-1"))
            .credentials_provider(Credentials::new("a", "b", None, None, "test"));
        let config = super::configured(loader).await;
        Self { state, config, operations: address.port(), server }
    }

    pub(crate) fn driver(&self) -> EcsDriver {
        let settings = EcsSettings {
            cluster: "mcp".to_owned(),
            app: "app".to_owned(),
            rule: RULE.to_owned(),
            entrance: "http://127.0.0.1:1".to_owned(),
        };
        EcsDriver { operations: self.operations, ..EcsDriver::with(&self.config, settings, Http::new()) }
    }

    pub(crate) fn config(&self) -> SdkConfig {
        self.config.clone()
    }

    /// Where clients come in.
    pub(crate) fn entrance(&self) -> String {
        format!("http://127.0.0.1:{}", self.operations)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn meddle(&self, meddler: impl FnMut(&str, &mut State) + Send + 'static) {
        self.state().meddler = Some(Box::new(meddler));
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.server.abort();
    }
}

// === impl State ===

impl State {
    fn new() -> Self {
        let mut state = Self {
            forwards: vec![(group(Color::Blue), 100), (group(Color::Green), 0)],
            sticky: false,
            tags: BTreeMap::new(),
            targets: HashMap::new(),
            services: BTreeMap::new(),
            definitions: BTreeMap::new(),
            tasks: Vec::new(),
            scalable: BTreeMap::new(),
            deployments: Vec::new(),
            log: Vec::new(),
            calls: Vec::new(),
            throttles: 0,
            answered_by: None,
            refuses: None,
            meddler: None,
            ready: (200, json!({ "stage": "serving", "release": { "version": "1", "commit": "abc" } })),
        };
        for color in [Color::Blue, Color::Green] {
            state.targets.insert(group(color), vec![(3001, "healthy"), (3002, "healthy")]);
            let definition = state.register(json!({
                "family": format!("app-{color}"), "cpu": "256", "networkMode": "awsvpc",
                "containerDefinitions": [{ "name": "app", "image": "app:1", "portMappings": [{ "containerPort": 3000 }],
                    "environment": [{ "name": "RELEASE_COLOR", "value": color }, { "name": "LOG", "value": "info" }],
                    "logConfiguration": { "logDriver": "awslogs", "options": { "awslogs-group": "app", "awslogs-region": "x",
                        "awslogs-stream-prefix": "app" } } }],
            }));
            let service = json!({
                "serviceName": format!("app-{color}"), "status": "ACTIVE", "desiredCount": 2, "runningCount": 2,
                "taskDefinition": definition, "loadBalancers": [{ "targetGroupArn": group(color) }],
                "deployments": [{ "status": "PRIMARY", "taskDefinition": definition, "createdAt": 100 }],
                "networkConfiguration": { "awsvpcConfiguration": { "subnets": ["subnet-1"] } }, "launchType": "FARGATE",
            });
            state.services.insert(format!("app-{color}"), service);
        }
        state
    }

    /// What was called, by name.
    pub(crate) fn called(&self, name: &str) -> Vec<Value> {
        self.calls.iter().filter(|(called, _)| called == name).map(|(_, told)| told.clone()).collect()
    }

    pub(crate) fn weigh(&mut self, blue: i32, green: i32) {
        self.forwards = vec![(group(Color::Blue), blue), (group(Color::Green), green)];
    }

    pub(crate) fn weights(&self) -> Vec<i32> {
        self.forwards.iter().map(|(_, weight)| *weight).collect()
    }

    /// As clients are answered: by whoever gets more of the traffic.
    fn healthy(&self) -> Response {
        let color = if self.forwards[0].1 < self.forwards[1].1 { "green" } else { "blue" };
        ([("release-color", self.answered_by.unwrap_or(color))], r#"{"status":"healthy"}"#).into_response()
    }

    fn register(&mut self, mut definition: Value) -> String {
        let family = definition["family"].as_str().unwrap().to_owned();
        let arn = format!("arn:aws:ecs:eu-central-1:1:task-definition/{family}:{}", self.definitions.len() + 1);
        definition["taskDefinitionArn"] = json!(arn);
        self.definitions.insert(arn.clone(), definition);
        arn
    }

    fn answer(&mut self, headers: &HeaderMap, body: &[u8]) -> Response {
        let target = headers.get("x-amz-target").map(|target| target.to_str().unwrap().to_owned());
        let (name, told) = match &target {
            Some(target) => (target.split_once('.').unwrap().1.to_owned(), serde_json::from_slice(body).unwrap_or_default()),
            None => {
                let form = form(body);
                (form["Action"].as_str().unwrap().to_owned(), form)
            }
        };
        if let Some(mut meddler) = self.meddler.take() {
            meddler(&name, self);
            self.meddler.get_or_insert(meddler);
        }
        self.calls.push((name.clone(), told.clone()));
        if self.throttles > 0 {
            self.throttles -= 1;
            return refused(target.is_some(), "ThrottlingException", "Rate exceeded");
        }
        if let Some(code) = self.refuses.take() {
            return refused(target.is_some(), code, "it is refused");
        }
        let answered = if target.is_some() { self.json(&name, &told) } else { self.xml(&name, &told) };
        answered.unwrap_or_else(|(code, message)| refused(target.is_some(), code, message))
    }

    fn xml(&mut self, name: &str, told: &Value) -> Result<Response, (&'static str, &'static str)> {
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        let inner = match name {
            "DescribeRules" if text("RuleArns.member.1") != RULE => return Err(("RuleNotFound", "One or more rules not found")),
            "DescribeRules" => {
                let groups = self.forwards.iter().map(|(group, weight)| {
                    format!("<member><TargetGroupArn>{group}</TargetGroupArn><Weight>{weight}</Weight></member>")
                });
                format!(
                    "<Rules><member><RuleArn>{RULE}</RuleArn><Actions><member><Type>forward</Type><ForwardConfig><TargetGroups>\
                     {}</TargetGroups><TargetGroupStickinessConfig><Enabled>{}</Enabled></TargetGroupStickinessConfig>\
                     </ForwardConfig></member></Actions></member></Rules>",
                    groups.collect::<String>(),
                    self.sticky
                )
            }
            "DescribeTags" => {
                let tags = self.tags.iter();
                let tags = tags.map(|(key, value)| format!("<member><Key>{key}</Key><Value>{value}</Value></member>"));
                let tags: String = tags.collect();
                format!(
                    "<TagDescriptions><member><ResourceArn>{RULE}</ResourceArn><Tags>{tags}</Tags></member></TagDescriptions>"
                )
            }
            "AddTags" => {
                for number in 1.. {
                    let Some(key) = told[format!("Tags.member.{number}.Key")].as_str() else { break };
                    self.tags.insert(key.to_owned(), text(&format!("Tags.member.{number}.Value")));
                }
                String::new()
            }
            "ModifyRule" => {
                let group = |number: usize| format!("Actions.member.1.ForwardConfig.TargetGroups.member.{number}");
                let numbers = (1..).take_while(|number| told.get(format!("{}.TargetGroupArn", group(*number))).is_some());
                let weight = |number| text(&format!("{}.Weight", group(number))).parse().unwrap();
                self.forwards =
                    numbers.map(|number| (text(&format!("{}.TargetGroupArn", group(number))), weight(number))).collect();
                self.sticky = false;
                String::new()
            }
            "DescribeTargetHealth" => {
                let targets = self.targets.get(&text("TargetGroupArn")).cloned().unwrap_or_default();
                let targets = targets.into_iter().map(|(port, state)| {
                    format!(
                        "<member><Target><Id>127.0.0.1</Id><Port>{port}</Port></Target><TargetHealth><State>{state}</State>\
                         </TargetHealth></member>"
                    )
                });
                format!("<TargetHealthDescriptions>{}</TargetHealthDescriptions>", targets.collect::<String>())
            }
            _ => return Err(("InvalidAction", "there is no such action here")),
        };
        let body = format!("<{name}Response><{name}Result>{inner}</{name}Result></{name}Response>");
        Ok(([("content-type", "text/xml")], body).into_response())
    }

    fn json(&mut self, name: &str, told: &Value) -> Result<Response, (&'static str, &'static str)> {
        let said = match name {
            "DescribeServices" => json!({ "services": self.services.values().collect::<Vec<_>>() }),
            "DescribeTaskDefinition" => {
                let named = told["taskDefinition"].as_str().unwrap();
                let mut definitions = self.definitions.iter().rev();
                let found = definitions.find(|(arn, definition)| *arn == named || definition["family"] == named);
                json!({ "taskDefinition": found.ok_or(("ClientException", "Unable to describe task definition."))?.1 })
            }
            "RegisterTaskDefinition" => {
                let arn = self.register(told.clone());
                json!({ "taskDefinition": self.definitions[&arn] })
            }
            "UpdateService" => {
                let service = self.services.get_mut(told["service"].as_str().unwrap()).unwrap();
                for field in ["desiredCount", "taskDefinition"] {
                    if let Some(value) = told.get(field) {
                        service[field] = value.clone();
                    }
                }
                json!({ "service": service })
            }
            "ListTasks" => {
                let status = told["desiredStatus"].as_str().unwrap();
                let group = format!("service:{}", told["serviceName"].as_str().unwrap());
                let tasks = self.tasks.iter().filter(|task| task["desiredStatus"] == status && task["group"] == group);
                json!({ "taskArns": tasks.map(|task| &task["taskArn"]).collect::<Vec<_>>() })
            }
            "DescribeTasks" => {
                let named = told["tasks"].as_array().unwrap();
                let tasks = self.tasks.iter().filter(|task| named.contains(&task["taskArn"]));
                json!({ "tasks": tasks.collect::<Vec<_>>() })
            }
            "DescribeServiceRevisions" => {
                json!({ "serviceRevisions": [{ "loadBalancers": [{ "targetGroupArn": group(Color::Green) }] }] })
            }
            "ListServiceDeployments" => {
                let status = &told["status"][0];
                let deployments = self.deployments.iter().filter(|one| told["service"] == "app" && one["status"] == *status);
                let brief = |one: &Value| json!({ "serviceDeploymentArn": one["serviceDeploymentArn"], "status": one["status"] });
                json!({ "serviceDeployments": deployments.map(brief).collect::<Vec<_>>() })
            }
            "DescribeServiceDeployments" => {
                let named = told["serviceDeploymentArns"].as_array().unwrap();
                let deployments = self.deployments.iter().filter(|one| named.contains(&one["serviceDeploymentArn"]));
                json!({ "serviceDeployments": deployments.collect::<Vec<_>>(), "failures": [] })
            }
            "ContinueServiceDeployment" => {
                let hooks = self.deployments.iter_mut().filter(|one| one["serviceDeploymentArn"] == told["serviceDeploymentArn"]);
                let mut hooks = hooks.flat_map(|one| one["lifecycleHookDetails"].as_array_mut().unwrap());
                let waits = |hook: &&mut Value| hook["hookId"] == told["hookId"] && hook["status"] == "AWAITING_ACTION";
                let hook = hooks.find(waits).ok_or(("InvalidParameterException", "The hook does not wait"))?;
                hook["status"] = json!(if told["action"] == "CONTINUE" { "SUCCEEDED" } else { "FAILED" });
                json!({ "serviceDeploymentArn": told["serviceDeploymentArn"] })
            }
            "StopServiceDeployment" => json!({ "serviceDeploymentArn": told["serviceDeploymentArn"] }),
            "PutJobSuccessResult" | "PutJobFailureResult" => json!({}),
            "RunTask" => json!({ "tasks": self.tasks.last().into_iter().collect::<Vec<_>>() }),
            "StopTask" | "UpdateTaskProtection" => json!({}),
            "DescribeScalableTargets" => {
                let target = self.scalable.get(told["ResourceIds"][0].as_str().unwrap());
                json!({ "ScalableTargets": target.into_iter().collect::<Vec<_>>() })
            }
            "RegisterScalableTarget" => {
                let target = self.scalable.get_mut(told["ResourceId"].as_str().unwrap()).unwrap();
                target["SuspendedState"] = told["SuspendedState"].clone();
                json!({})
            }
            "GetLogEvents" => {
                // At the end there is nothing more, and the same token.
                let is_first = told.get("nextToken").is_none();
                let events = self.log.iter().filter(|_| is_first).map(|line| json!({ "message": line, "timestamp": 1 }));
                json!({ "events": events.collect::<Vec<_>>(), "nextForwardToken": "end" })
            }
            _ => return Err(("UnknownOperationException", "there is no such action here")),
        };
        Ok(([("content-type", "application/x-amz-json-1.1")], said.to_string()).into_response())
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("nobody panics with the double")
}

fn refused(is_json: bool, code: &str, message: &str) -> Response {
    let body = if is_json {
        json!({ "__type": code, "message": message }).to_string()
    } else {
        format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
        )
    };
    (StatusCode::BAD_REQUEST, body).into_response()
}

fn form(body: &[u8]) -> Value {
    let text = String::from_utf8_lossy(body);
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (decoded(key), Value::String(decoded(value)))).collect::<serde_json::Map<_, _>>().into()
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let code: Vec<u8> = rest.by_ref().take(2).collect();
                bytes.push(u8::from_str_radix(std::str::from_utf8(&code).unwrap(), 16).unwrap());
            }
            b'+' => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).unwrap()
}
