//! moto as a process: what AWS's control planes remember, without anything that acts on it.
//!
//! It is `moto_server` of MOTO_SERVER, or of `.dev/moto`, where `./dev test` installs it.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::process::{Child, Command};

use super::wire::{Call, xml};

/// A moto that runs. It ends with the value.
#[derive(Debug)]
pub struct Moto {
    _process: Child,
    api: Api,
}

/// How the services are asked: at moto, or at whatever stands before it.
#[derive(Clone, Debug)]
pub struct Api {
    address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// How long it may take to start. Python is slow on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

// === impl Moto ===

impl Moto {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        let program = program();
        // Whoever is given the same port in between makes it end at once.
        for _ in 0..3 {
            if let Some(moto) = Self::try_start(&program).await {
                return moto;
            }
        }
        panic!("{} does not start", program.display())
    }

    async fn try_start(program: &Path) -> Option<Self> {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("a bound socket has an address");
        drop(free);
        let mut process = Command::new(program)
            .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}. `./dev test` installs it", program.display()));
        let api = Api::new(address);
        let begun = Instant::now();
        loop {
            if process.try_wait().expect("a child can be waited for").is_some() {
                return None;
            }
            let asked = Request::get(format!("http://{address}/moto-api/data.json")).body(Full::default());
            let answered = api.client.request(asked.expect("a request is one")).await;
            if answered.is_ok_and(|answer| answer.status().is_success()) {
                return Some(Self { _process: process, api });
            }
            assert!(begun.elapsed() < PATIENCE, "{} does not answer", program.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How it is asked.
    pub fn api(&self) -> Api {
        self.api.clone()
    }
}

// === impl Api ===

impl Api {
    /// Asks whoever listens there.
    pub fn new(address: SocketAddr) -> Self {
        // It ends each connection itself.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(HttpConnector::new());
        Self { address, client }
    }

    /// Hands a request on and gives the answer. An error when nobody answers.
    pub async fn pass(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Bytes>, String> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = format!("http://{}{path}", self.address).parse().expect("an address and a path are a URI");
        let answer = self.client.request(request).await.map_err(|failure| format!("nobody answers: {failure}"))?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|failure| format!("half an answer: {failure}"))?.to_bytes();
        Ok(Response::from_parts(head, body))
    }

    /// Makes a call. An error is what the service refused it with.
    pub async fn try_call(&self, service: &str, operation: &str, parameters: Value) -> Result<Value, String> {
        let call = Call { service: service.to_owned(), operation: operation.to_owned(), parameters };
        let (headers, body) = call.write();
        let mut request = Request::post("/");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = self.pass(request.body(Full::from(body)).expect("a call is a request")).await?;
        let said = String::from_utf8_lossy(answer.body()).into_owned();
        if !answer.status().is_success() {
            return Err(format!("{operation}: {}: {said}", answer.status()));
        }
        if said.starts_with('<') {
            let mut document = xml(&said);
            // `<DescribeRulesResponse><DescribeRulesResult>…`; that of EC2 has no such room in it.
            let result = document.get_mut(format!("{operation}Result")).map(Value::take);
            return Ok(result.unwrap_or(document));
        }
        serde_json::from_str(&said).map_err(|wrong| format!("{operation}: {wrong}: {said}"))
    }

    /// Makes a call that is not refused.
    pub async fn call(&self, service: &str, operation: &str, parameters: Value) -> Value {
        self.try_call(service, operation, parameters).await.unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// Makes a call of ECS that is not refused.
    pub async fn ecs(&self, operation: &str, parameters: Value) -> Value {
        self.call("ecs", operation, parameters).await
    }

    /// Makes a call of Elastic Load Balancing that is not refused.
    pub async fn elb(&self, operation: &str, parameters: Value) -> Value {
        self.call("elasticloadbalancing", operation, parameters).await
    }
}

fn program() -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.dev/moto/bin/moto_server");
    let program = std::env::var_os("MOTO_SERVER").map_or(ours, PathBuf::from);
    assert!(program.exists(), "{} is missing: `./dev test` installs it, and MOTO_SERVER names another", program.display());
    program
}
