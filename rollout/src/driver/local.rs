//! The driver of the local platform: it speaks with `rollout local up`.

use std::{path::Path, process::Stdio, time::Duration};

use bg_runtime::Color;
use futures_util::future::join_all;
use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::{Driver, DriverError, Ended, Image, Observation, Replica, Slot};
use crate::{front, http::Http, local::Place};

/// The platform of a state directory.
#[derive(Debug)]
pub struct LocalDriver {
    place: Place,
    database: std::path::PathBuf,
    http: Http,
}

const WITHIN: Duration = Duration::from_secs(5);
/// How long an expand may take.
const TASK_WITHIN: Duration = Duration::from_secs(3600);

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
        let database = state.canonicalize().unwrap_or_else(|_| state.to_owned()).join("database");
        Ok(Self { place, database, http })
    }

    async fn tell(&self, method: Method, path: &str, body: Option<serde_json::Value>) -> Result<(), DriverError> {
        let address = format!("http://{}{path}", self.place.operations);
        self.http.send(method, &address, body.as_ref(), WITHIN).await?.success(&address)?;
        Ok(())
    }
}

#[async_trait::async_trait]
impl Driver for LocalDriver {
    fn platform(&self) -> &'static str {
        "local"
    }

    fn entrance(&self) -> String {
        format!("http://{}", self.place.address)
    }

    async fn observe(&self) -> Result<Observation, DriverError> {
        let address = format!("http://{}/platform", self.place.operations);
        let answer = self
            .http
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
        Ok(Observation { green_percent: seen.routing.routing.green_percent, epoch: seen.routing.routing.epoch, blue, green })
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

    async fn task(&self, image: &Image, arguments: &[&str]) -> Result<Ended, DriverError> {
        let name = format!("{} {}", image.name, arguments.join(" "));
        let mut command = tokio::process::Command::new(&image.name);
        command.args(arguments).env("DATA_DIR", &self.database).envs(&image.environment);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = match tokio::time::timeout(TASK_WITHIN, command.output()).await {
            Ok(output) => output.map_err(|failure| DriverError::Task(name, failure))?,
            Err(_) => return Err(DriverError::Refused(format!("{name} took longer than {TASK_WITHIN:?}"))),
        };
        Ok(Ended {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}
