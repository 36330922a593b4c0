//! A function of AWS Lambda as a process, and the Runtime API that it asks for its next event.
//!
//! What must stay true: it is told one event at a time, and by the same name when it is told it again; one that was killed has
//! answered nothing.

use std::{
    net::SocketAddr,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::wire::serve;

/// A function that runs. It ends with the value.
#[derive(Debug)]
pub struct Function {
    process: Child,
    events: mpsc::UnboundedSender<Event>,
    _serving: JoinSet<()>,
}

/// An event that was handed over, and is being answered.
#[derive(Debug)]
pub struct Invocation {
    answer: oneshot::Receiver<Answer>,
}

/// What a function says: an answer, or the message of an error.
pub type Answer = Result<Value, String>;

#[derive(Debug)]
struct Event {
    request: String,
    payload: Value,
    answer: oneshot::Sender<Answer>,
}

/// What is behind the Runtime API.
struct Runtime {
    events: tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>,
    /// The event that the function is at.
    current: Mutex<Option<(String, oneshot::Sender<Answer>)>>,
}

/// The version of the Runtime API, and the room of invocations.
const INVOCATION: &str = "/2018-06-01/runtime/invocation/";
/// How long a function may take, as Terraform has it.
const TIMEOUT: Duration = Duration::from_secs(300);
/// How long a test waits for an answer.
const PATIENCE: Duration = Duration::from_secs(90);

// === impl Function ===

impl Function {
    /// Starts one with what has been said to it so far.
    pub async fn start(mut command: Command) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address: SocketAddr = socket.local_addr().expect("a bound socket has an address");
        let (events, received) = mpsc::unbounded_channel();
        let runtime = Arc::new(Runtime { events: tokio::sync::Mutex::new(received), current: Mutex::default() });
        let mut serving = JoinSet::new();
        serving.spawn(serve(socket, runtime, |runtime, request| async move { runtime.answer(request).await }));
        command.env("AWS_LAMBDA_RUNTIME_API", address.to_string()).env("AWS_LAMBDA_FUNCTION_NAME", "mcp-server-traffic-shifter");
        command.env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST").env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
        let process = command.spawn().expect("the function starts");
        Self { process, events, _serving: serving }
    }

    /// Hands over an event under a name, which becomes part of a path. It is answered after those before it.
    pub fn begin(&self, request: &str, payload: Value) -> Invocation {
        let (answer, answered) = oneshot::channel();
        let event = Event { request: request.to_owned(), payload, answer };
        self.events.send(event).expect("whoever listens is there as long as the function");
        Invocation { answer: answered }
    }

    /// Hands over an event, and waits for what the function says.
    ///
    /// # Errors
    /// The message of an error that the function says.
    pub async fn invoke(&self, request: &str, payload: Value) -> Answer {
        self.begin(request, payload).end().await
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id().expect("it has not been waited for")
    }

    /// Waits until somebody has killed it.
    pub async fn ends(mut self) {
        let ended = tokio::time::timeout(PATIENCE, self.process.wait()).await;
        ended.expect("nobody kills it").expect("a child can be waited for");
    }

    /// Kills it, as Lambda does when its time is over.
    pub async fn kill(mut self) {
        self.process.kill().await.expect("it is ours to kill");
    }
}

// === impl Invocation ===

impl Invocation {
    /// What the function says.
    ///
    /// # Errors
    /// The message of an error that the function says.
    pub async fn end(self) -> Answer {
        let answered = tokio::time::timeout(PATIENCE, self.answer).await;
        answered.expect("the function does not answer").expect("the function ended without an answer")
    }
}

// === impl Runtime ===

impl Runtime {
    fn current(&self) -> MutexGuard<'_, Option<(String, oneshot::Sender<Answer>)>> {
        self.current.lock().expect("nobody panics with it")
    }

    /// An error ends the connection.
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, &'static str> {
        let (parts, body) = request.into_parts();
        let said = body.collect().await.map_err(|_| "half a request")?.to_bytes();
        let path = parts.uri.path().strip_prefix(INVOCATION).ok_or("this is no path of the Runtime API")?;
        match (parts.method, path.split_once('/')) {
            (Method::GET, None) if path == "next" => self.next().await,
            (Method::POST, Some((request, what @ ("response" | "error")))) => {
                let said: Value = serde_json::from_slice(&said).map_err(|_| "what is said is no JSON")?;
                let answer = match what {
                    "response" => Ok(said),
                    _ => Err(said["errorMessage"].as_str().unwrap_or_default().to_owned()),
                };
                let (expected, waits) = self.current().take().ok_or("nothing was asked")?;
                if expected != request {
                    return Err("something else was asked");
                }
                let _ = waits.send(answer);
                let accepted = Response::builder().status(StatusCode::ACCEPTED).body(Full::default());
                Ok(accepted.expect("an answer is one"))
            }
            _ => Err("this is no call of the Runtime API"),
        }
    }

    async fn next(&self) -> Result<Response<Full<Bytes>>, &'static str> {
        let event = self.events.lock().await.recv().await.ok_or("the function is over")?;
        let deadline = SystemTime::now() + TIMEOUT;
        let deadline = deadline.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let answer = Response::builder()
            .header("lambda-runtime-aws-request-id", &event.request)
            .header("lambda-runtime-deadline-ms", deadline.to_string())
            .header("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-central-1:123456789012:function:shifter")
            .header("lambda-runtime-trace-id", "Root=1-00000000-000000000000000000000000;Sampled=0")
            .header("content-type", "application/json")
            .body(Full::from(event.payload.to_string()));
        *self.current() = Some((event.request, event.answer));
        Ok(answer.expect("an event is an answer"))
    }
}
