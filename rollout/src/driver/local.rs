//! The driver of the local platform: it speaks with `rollout local up`.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Mutex,
    time::Duration,
};

use bg_runtime::Color;
use futures_util::future::join_all;
use http::Method;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::{Driver, DriverError, Ended, Heard, Image, Observation, Replica, Said, Slot};
use crate::{
    front,
    http::{Bearer, Http},
    local::Place,
    operator_secret,
};

/// The platform of a state directory.
#[derive(Debug)]
pub struct LocalDriver {
    state: PathBuf,
    place: Mutex<Place>,
    http: Http,
}

const WITHIN: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct Seen {
    routing: front::Seen,
    blue: SlotSeen,
    green: SlotSeen,
}

#[derive(Deserialize)]
struct SlotSeen {
    image: Option<Image>,
    wanted: u32,
    replicas: Vec<ReplicaSeen>,
    trouble: Option<String>,
}

#[derive(Deserialize)]
struct ReplicaSeen {
    name: String,
    address: String,
    operations: String,
    leaving: bool,
}

// === impl LocalDriver ===

impl LocalDriver {
    /// Finds the platform that keeps its state there.
    ///
    /// # Errors
    /// When none has ever run there.
    pub fn new(state: &Path, http: Http) -> Result<Self, DriverError> {
        let place = Place::read(state)
            .map_err(|source| DriverError::Away(": start it with `rollout local up`, or name its --state", Box::new(source)))?;
        let state = state.canonicalize().unwrap_or_else(|_| state.to_owned());
        Ok(Self { state, place: Mutex::new(place), http })
    }

    /// Where it is now: one that was started again may have other ports.
    fn place(&self) -> Place {
        let mut place = self.place.lock().expect("nobody panics while reading where it is");
        if let Ok(now) = Place::read(&self.state) {
            *place = now;
        }
        place.clone()
    }

    /// Returns a client that brings the secret of the platform as it is now.
    fn operator(&self) -> Result<Http, DriverError> {
        let path = operator_secret::beside(&self.state.join("front.json"));
        let secret = operator_secret::read(&path).map_err(|source| {
            DriverError::Away(": its secret cannot be read; only the account that runs `rollout local up` may", Box::new(source))
        })?;
        let bearer = secret.expose().parse::<Bearer>().map_err(|wrong| DriverError::Refused(wrong.to_owned()))?;
        Ok(self.http.bearing(Some(&bearer)))
    }

    async fn tell(&self, method: Method, path: &str, body: Option<serde_json::Value>) -> Result<(), DriverError> {
        let address = format!("http://{}{path}", self.place().operations);
        self.operator()?.send(method, &address, body.as_ref(), WITHIN).await?.success(&address)?;
        Ok(())
    }
}

#[async_trait::async_trait]
impl Driver for LocalDriver {
    fn platform(&self) -> &'static str {
        "local"
    }

    fn entrance(&self) -> String {
        format!("http://{}", self.place().address)
    }

    fn missing(&self, image: &Image) -> Option<String> {
        let name = &image.name;
        // A name alone is looked up where the platform runs.
        if !name.contains('/') {
            return Some(format!("{name} is no path to a program: say ./{name}, or where it is"));
        }
        match std::fs::metadata(name) {
            Err(failure) => Some(format!("there is no program {name}: {failure}")),
            Ok(found) if !found.is_file() => Some(format!("{name} is not a file")),
            Ok(found) if found.permissions().mode() & 0o111 == 0 => Some(format!("{name} is not executable: chmod +x {name}")),
            Ok(_) => None,
        }
    }

    async fn observe(&self) -> Result<Observation, DriverError> {
        let address = format!("http://{}/platform", self.place().operations);
        let answer = self
            .operator()?
            .get(&address, WITHIN)
            .await
            .map_err(|failure| DriverError::Away(": start it with `rollout local up`", Box::new(failure)))?;
        let answer = answer.success(&address)?;
        let seen: Seen = serde_json::from_slice(&answer.body)
            .map_err(|source| DriverError::Away(": it is of another version", Box::new(source)))?;
        let slot = async |slot: SlotSeen| {
            let replica = |seen: ReplicaSeen| Replica {
                name: seen.name,
                address: seen.address,
                operations: seen.operations,
                ready: false,
                build: None,
                leaving: seen.leaving,
            };
            let mut replicas: Vec<_> = slot.replicas.into_iter().map(replica).collect();
            join_all(replicas.iter_mut().map(|replica| super::ask(&self.http, replica))).await;
            Slot { image: slot.image, wanted: slot.wanted, replicas, trouble: slot.trouble }
        };
        let (blue, green) = tokio::join!(slot(seen.blue), slot(seen.green));
        let front::Routing { green_percent, epoch, before, .. } = seen.routing.routing;
        Ok(Observation { green_percent, epoch, before, blue, green })
    }

    async fn fence(&self, epoch: i64) -> Result<(), DriverError> {
        self.tell(Method::POST, &format!("/fence?epoch={epoch}"), None).await
    }

    async fn run(&self, color: Color, image: &Image, replicas: u32, epoch: i64) -> Result<(), DriverError> {
        let body = json!({ "image": image, "replicas": replicas, "epoch": epoch });
        self.tell(Method::PUT, &format!("/colors/{color}"), Some(body)).await
    }

    async fn stop(&self, color: Color, epoch: i64) -> Result<(), DriverError> {
        self.tell(Method::DELETE, &format!("/colors/{color}?epoch={epoch}"), None).await
    }

    async fn shift(&self, green_percent: u8, epoch: i64) -> Result<(), DriverError> {
        self.tell(Method::PUT, "/share", Some(json!({ "greenPercent": green_percent, "epoch": epoch }))).await
    }

    async fn task(&self, image: &Image, arguments: &[&str], within: Duration, said: Said<'_>) -> Result<Ended, DriverError> {
        let name = format!("{} {}", image.name, arguments.join(" "));
        let mut command = tokio::process::Command::new(&image.name);
        command.args(arguments).env("DATA_DIR", self.state.join("database")).envs(&image.environment);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let ended = async {
            let mut child = command.spawn()?;
            let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
            let read = async {
                let mut text = String::new();
                if let Some(mut stdout) = stdout {
                    stdout.read_to_string(&mut text).await?;
                }
                Ok::<_, std::io::Error>(text)
            };
            let heard = async {
                let (mut text, mut heard) = (String::new(), Heard::new(said));
                let mut lines = stderr.map(BufReader::new);
                while let Some(lines) = &mut lines
                    && lines.read_line(&mut text).await? > 0
                {
                    heard.hear(&text);
                }
                Ok(text)
            };
            let (stdout, stderr, status) = tokio::try_join!(read, heard, child.wait())?;
            Ok(Ended { success: status.success(), stdout, stderr })
        };
        match tokio::time::timeout(within, ended).await {
            Ok(ended) => ended.map_err(|failure| DriverError::Task(name, failure)),
            Err(_) => Err(DriverError::Refused(format!("`{name}` has not ended after {within:?}"))),
        }
    }
}
