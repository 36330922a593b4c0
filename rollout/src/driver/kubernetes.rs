//! The driver of Kubernetes: two Deployments, and a Service whose selector names the live color, or an HTTPRoute whose weights
//! divide the traffic.
//!
//! What it relies on is what `k8s/` has: Deployments `APP-blue` and `APP-green` whose pods carry `release-color`, a Service
//! `APP` that selects one of them, and a container `APP` with the ports `http` and `operations`. What must stay true: the
//! Service, or the route, is the truth about traffic; what a rollout remembers is in annotations on it and on the Deployments,
//! so that a journal that is away changes nothing; what somebody else changed in between is looked at again, not overwritten.

mod endpoints;
mod lease;
mod traffic;
mod tunnel;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Mutex,
    time::{Duration, Instant},
};

use bg_runtime::Color;
use futures_util::future::join_all;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        batch::v1::Job,
        core::v1::{Event, Pod, PodSpec, Service},
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, LogParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use self::{
    lease::Held,
    traffic::{Traffic, before, epoch},
    tunnel::Tunnel,
};
use super::{Driver, DriverError, Ended, Heard, Image, Observation, Replica, Said, Slot};
use crate::{http::Http, share};

/// An application in a namespace.
pub struct KubernetesDriver {
    client: Client,
    namespace: String,
    app: String,
    traffic: Traffic,
    entrance: String,
    reach: Reach,
    http: Http,
    /// By pod.
    tunnels: Mutex<HashMap<String, Tunnel>>,
    lease: Mutex<Option<Held>>,
}

/// How pods are reached from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// By their addresses: from inside the cluster, or from a node.
    Pods,
    /// Through the API server, as `kubectl port-forward` does.
    Forward,
}

/// Whose fields these are (server-side apply).
const MANAGER: &str = "rollout";
const APP: &str = "app.kubernetes.io/name";
const COLOR: &str = "release-color";
const EPOCH: &str = "rollout.mcp/epoch";
const BEFORE: &str = "rollout.mcp/before";
const IMAGE: &str = "rollout.mcp/image";
/// On pods: which `run` they are of.
const RUN: &str = "rollout.mcp/run";
const HTTP: u16 = 3000;
const OPERATIONS: u16 = 9464;

const LOOK: Duration = Duration::from_millis(500);
/// Reasons for which a container waits that do not pass by themselves.
const HOPELESS: [&str; 7] = [
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
];

// === impl KubernetesDriver ===

impl KubernetesDriver {
    /// With the kubeconfig or the service account that is found. `entrance` is where clients come in, `route` the HTTPRoute
    /// whose weights divide the traffic; without one it is the selector of a Service.
    ///
    /// # Errors
    /// When there is neither.
    pub async fn new(
        namespace: &str,
        app: &str,
        route: Option<&str>,
        entrance: String,
        reach: Reach,
        http: Http,
    ) -> Result<Self, DriverError> {
        let client = Client::try_default()
            .await
            .map_err(|source| DriverError::Away(": no kubeconfig and no service account is usable", Box::new(source)))?;
        let entrance = entrance.trim_end_matches('/').to_owned();
        let traffic = Traffic::new(client.clone(), namespace, app, route);
        let (namespace, app) = (namespace.to_owned(), app.to_owned());
        Ok(Self { client, namespace, app, traffic, entrance, reach, http, tunnels: Mutex::default(), lease: Mutex::default() })
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn deployment(&self, color: Color) -> String {
        format!("{}-{color}", self.app)
    }

    fn selector(&self, color: Color) -> String {
        format!("{APP}={},{COLOR}={color}", self.app)
    }

    /// What runs as a color.
    async fn slot(&self, color: Color) -> Result<Slot, DriverError> {
        let name = self.deployment(color);
        let deployment = self.deployments().get(&name).await?;
        let pods = self.pods().list(&ListParams::default().labels(&self.selector(color))).await?.items;
        let template = deployment.spec.as_ref().map(|spec| &spec.template);
        let run = template.and_then(|template| template.metadata.as_ref()?.annotations.as_ref()?.get(RUN)).cloned();
        let container = template.and_then(|template| template.spec.as_ref()).and_then(|spec| container(spec, &self.app));
        let written = written(&deployment);
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let image = || {
            let name = container.and_then(|container| container.image.clone())?;
            Some(Image::new(name, BTreeMap::new()))
        };
        let mut slot = Slot {
            image: if wanted > 0 { written.or_else(image) } else { None },
            wanted: u32::try_from(wanted).unwrap_or_default(),
            replicas: Vec::new(),
            trouble: None,
        };
        for pod in &pods {
            let is_old = pod.annotations().get(RUN) != run.as_ref();
            if !is_old && slot.trouble.is_none() {
                slot.trouble = self.trouble(pod).await;
            }
            let Some((address, operations)) = self.reached(pod).await else { continue };
            slot.replicas.push(Replica {
                name: pod.name_any(),
                address,
                operations,
                ready: false,
                build: None,
                leaving: is_old || pod.metadata.deletion_timestamp.is_some(),
            });
        }
        join_all(slot.replicas.iter_mut().map(|replica| super::ask(&self.http, replica))).await;
        Ok(slot)
    }

    /// Where a pod's two doors are from here. `None` while it has no address.
    async fn reached(&self, pod: &Pod) -> Option<(String, String)> {
        let status = pod.status.as_ref()?;
        let (name, ip) = (pod.name_any(), status.pod_ip.as_ref().filter(|ip| !ip.is_empty())?);
        if status.phase.as_deref() != Some("Running") {
            return None;
        }
        if self.reach == Reach::Pods {
            return Some((format!("{ip}:{HTTP}"), format!("{ip}:{OPERATIONS}")));
        }
        let known = self.tunnels.lock().expect("nobody panics with the tunnels").get(&name).map(Tunnel::addresses);
        if let Some(known) = known {
            return Some(known);
        }
        let tunnel = Tunnel::open(self.pods(), name.clone(), [HTTP, OPERATIONS]).await.ok()?;
        let addresses = tunnel.addresses();
        self.tunnels.lock().expect("nobody panics with the tunnels").insert(name, tunnel);
        Some(addresses)
    }

    /// Why a pod does not come up, with its own last words.
    async fn trouble(&self, pod: &Pod) -> Option<String> {
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        let status = statuses.iter().find(|status| status.name == self.app)?;
        let waiting = status.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().filter(|reason| HOPELESS.contains(reason))?;
        let name = pod.name_any();
        let mut words = format!("{name}: {reason}");
        if let Some(message) = &waiting.message {
            words = format!("{words}: {message}");
        }
        let ended = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        if let Some(ended) = ended {
            let log =
                LogParams { previous: true, tail_lines: Some(3), container: Some(self.app.clone()), ..LogParams::default() };
            let said = self.pods().logs(&name, &log).await.unwrap_or_default();
            let said: Vec<_> = said.lines().map(crate::plain).collect();
            words = format!("{words}; it ended with {}: {}", ended.exit_code, said.join(" / "));
        }
        Some(words)
    }

    /// Lets a color be changed: no traffic goes there, and going back does not lead to what is replaced.
    async fn claim(&self, color: Color, epoch: i64) -> Result<DynamicObject, DriverError> {
        let change = |object: &DynamicObject| {
            if share::of(color, self.traffic.percent(object)?) > 0 {
                return Err(DriverError::Refused(format!("traffic goes to {color}: switch first")));
            }
            Ok(json!({ "metadata": { "annotations": { BEFORE: before(object).filter(|before| *before != color) } } }))
        };
        self.traffic.change(epoch, change).await
    }

    /// Points the Service `APP-preview` at the idle color, so that testers find it at one address. Not every cluster has that Service.
    async fn show(&self, idle: Color) {
        let preview = format!("{}-preview", self.app);
        let selector = Patch::Merge(json!({ "spec": { "selector": { COLOR: idle } } }));
        if let Err(failure) = self.services().patch(&preview, &PatchParams::default(), &selector).await {
            tracing::debug!(error = %failure, "the Service {preview} could not be pointed at {idle}: {failure}");
        }
    }

    /// Tells the story on what moves the traffic, for `kubectl describe`. Nobody waits for it.
    async fn tell(&self, object: &DynamicObject, reason: &str, words: &str) {
        let now = Timestamp::now();
        let event: Result<Event, _> = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": { "generateName": format!("{}-rollout-", self.app), "namespace": self.namespace },
            "involvedObject": self.traffic.reference(object),
            "reason": reason, "message": words, "type": "Normal", "source": { "component": MANAGER },
            "firstTimestamp": now.to_string(), "lastTimestamp": now.to_string(), "count": 1,
        }));
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        match event {
            Ok(event) => {
                if let Err(failure) = api.create(&PostParams::default(), &event).await {
                    tracing::debug!(error = %failure, "no event was written: {failure}");
                }
            }
            Err(wrong) => tracing::debug!(error = %wrong, "an event is not one: {wrong}"),
        }
    }

    /// Applies what a rollout decides of a Deployment.
    async fn apply(&self, color: Color, annotations: Value, spec: Value) -> Result<(), DriverError> {
        let name = self.deployment(color);
        let patch = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": name, "annotations": annotations },
            "spec": spec,
        });
        // The fields are the rollout's, whoever wrote them first: replicas, image and variables of a color.
        let parameters = PatchParams::apply(MANAGER).force();
        self.deployments().patch(&name, &parameters, &Patch::Apply(&patch)).await?;
        Ok(())
    }

    /// A Job of the color's own pod, with another image and other arguments.
    async fn job(&self, image: &Image, arguments: &[&str]) -> Result<Job, DriverError> {
        let idle = share::most(self.traffic.percent(&self.traffic.get().await?)?).other();
        let deployment = self.deployments().get(&self.deployment(idle)).await?;
        // What the build before it was told is not for this one.
        let earlier = written(&deployment).map(|image| image.environment).unwrap_or_default();
        let spec = deployment.spec.and_then(|spec| spec.template.spec).unwrap_or_default();
        let mut pod = serde_json::to_value(&spec).unwrap_or_default();
        pod["restartPolicy"] = json!("Never");
        for container in pod["containers"].as_array_mut().into_iter().flatten() {
            for probe in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "ports"] {
                if let Some(container) = container.as_object_mut() {
                    container.remove(probe);
                }
            }
            if container["name"] == self.app {
                container["image"] = json!(image.name);
                container["args"] = json!(arguments);
                if let Some(variables) = container["env"].as_array_mut() {
                    variables.retain(|variable| !variable["name"].as_str().is_some_and(|name| earlier.contains_key(name)));
                }
                set_variables(container, image);
                // The owner of the tables migrates, where that is not the user that serves. The servers do not have its password.
                if let Some(variables) = container["env"].as_array_mut() {
                    let secret = json!({ "name": format!("{}-database-owner", self.app), "key": "url", "optional": true });
                    variables.push(json!({ "name": "DATABASE_MIGRATE_URL", "valueFrom": { "secretKeyRef": secret } }));
                }
            }
        }
        // Nobody counts it as a server; the network policies of `k8s/` know it by this name.
        let labels = json!({ "app.kubernetes.io/name": format!("{}-migrate", self.app) });
        let job = json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": { "generateName": format!("{}-rollout-", self.app), "labels": labels },
            "spec": { "backoffLimit": 0, "ttlSecondsAfterFinished": 3600,
                "template": { "metadata": { "labels": labels }, "spec": pod } },
        });
        serde_json::from_value(job).map_err(|source| DriverError::Away(": a job is not one", Box::new(source)))
    }
}

#[async_trait::async_trait]
impl Driver for KubernetesDriver {
    fn platform(&self) -> &'static str {
        "kubernetes"
    }

    fn entrance(&self) -> String {
        self.entrance.clone()
    }

    fn missing(&self, _image: &Image) -> Option<String> {
        // Only a node can tell.
        None
    }

    async fn lock(&self, holder: &str, force: bool) -> Result<(), DriverError> {
        let leases = Api::namespaced(self.client.clone(), &self.namespace);
        let held = Held::take(leases, format!("{}-rollout", self.app), holder, force).await?;
        *self.lease.lock().expect("nobody panics with the lease") = Some(held);
        Ok(())
    }

    async fn unlock(&self) {
        let held = self.lease.lock().expect("nobody panics with the lease").take();
        if let Some(held) = held {
            held.release().await;
        }
    }

    async fn observe(&self) -> Result<Observation, DriverError> {
        let (object, blue, green) = tokio::join!(self.traffic.get(), self.slot(Color::Blue), self.slot(Color::Green));
        let (object, blue, green) = (object?, blue?, green?);
        let living: Vec<_> = blue.replicas.iter().chain(&green.replicas).map(|replica| replica.name.clone()).collect();
        self.tunnels.lock().expect("nobody panics with the tunnels").retain(|name, _| living.contains(name));
        let green_percent = self.traffic.percent(&object)?;
        Ok(Observation { green_percent, epoch: epoch(&object), before: before(&object), blue, green })
    }

    async fn fence(&self, epoch: i64) -> Result<(), DriverError> {
        self.traffic.change(epoch, |_| Ok(json!({ "metadata": { "annotations": {} } }))).await.map(drop)
    }

    async fn run(&self, color: Color, image: &Image, replicas: u32, epoch: i64) -> Result<(), DriverError> {
        let object = self.claim(color, epoch).await?;
        let hidden = serde_json::to_string(&image.hidden()).unwrap_or_default();
        let mut container = json!({ "name": self.app, "image": image.name });
        set_variables(&mut container, image);
        let spec = json!({
            "replicas": replicas,
            "template": { "metadata": { "annotations": { RUN: epoch.to_string() } }, "spec": { "containers": [container] } },
        });
        self.apply(color, json!({ IMAGE: hidden }), spec).await?;
        self.tell(&object, "RolloutRun", &format!("{replicas} of {} run as {color}", image.name)).await;
        Ok(())
    }

    async fn stop(&self, color: Color, epoch: i64) -> Result<(), DriverError> {
        let object = self.claim(color, epoch).await?;
        // Not applied: what runs there when it is wanted again stays as it is.
        let name = self.deployment(color);
        let patch = Patch::Merge(json!({ "spec": { "replicas": 0 } }));
        self.deployments()
            .patch(&name, &PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }, &patch)
            .await?;
        self.tell(&object, "RolloutStop", &format!("{color} is stopped")).await;
        Ok(())
    }

    async fn shift(&self, green_percent: u8, epoch: i64) -> Result<(), DriverError> {
        let object = self.traffic.change(epoch, |object| self.traffic.shifted(object, green_percent)).await?;
        let Some(to) = share::live(green_percent) else {
            let words = format!("{} of 100 requests go to blue, {green_percent} to green", 100 - green_percent);
            self.tell(&object, "RolloutShifted", &words).await;
            return Ok(());
        };
        let mut words = format!("all traffic goes to {to}");
        if !self.traffic.has_weights() {
            // Nobody is asked to wait for it twice: what answers is proved at the entrance, and a way back is not barred by this.
            match endpoints::follow(&self.client, &self.namespace, &self.app, &self.selector(to)).await {
                Some(took) => words = format!("{words}; the endpoints followed within {} ms", took.as_millis()),
                None => {
                    words = format!("{words}, but the endpoints have not followed");
                    tracing::warn!(
                        "the endpoints of the Service {} do not follow its selector; is the controller at work?",
                        self.app
                    );
                }
            }
        }
        self.show(to.other()).await;
        self.tell(&object, "RolloutSwitched", &words).await;
        Ok(())
    }

    async fn task(&self, image: &Image, arguments: &[&str], within: Duration, said: Said<'_>) -> Result<Ended, DriverError> {
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &self.namespace);
        let job = jobs.create(&PostParams::default(), &self.job(image, arguments).await?).await?;
        let name = job.name_any();
        let (begun, mut heard) = (Instant::now(), Heard::new(said));
        let log = LogParams { container: Some(self.app.clone()), ..LogParams::default() };
        let ended = loop {
            tokio::time::sleep(LOOK).await;
            let named = ListParams::default().labels(&format!("job-name={name}"));
            // The Job goes on while the API server does not answer.
            let (status, pods) = match (jobs.get(&name).await, self.pods().list(&named).await) {
                (Ok(job), Ok(pods)) => (job.status.unwrap_or_default(), pods.items),
                (Err(kube::Error::Api(refused)), _) | (_, Err(kube::Error::Api(refused))) => {
                    return Err(kube::Error::Api(refused).into());
                }
                (Err(failure), _) | (_, Err(failure)) if begun.elapsed() > within => return Err(failure.into()),
                _ => continue,
            };
            if status.succeeded.unwrap_or_default() > 0 || status.failed.unwrap_or_default() > 0 {
                let success = status.succeeded.unwrap_or_default() > 0;
                let mut said = String::new();
                for pod in &pods {
                    said += &self.pods().logs(&pod.name_any(), &log).await.unwrap_or_default();
                }
                heard.hear(&said);
                break Ok(Ended { success, stdout: said.clone(), stderr: said });
            }
            for pod in &pods {
                if let Some(trouble) = self.trouble(pod).await {
                    return self.give_up(&jobs, &name, trouble).await;
                }
                let is_running = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
                if is_running && let Ok(said) = self.pods().logs(&pod.name_any(), &log).await {
                    heard.hear(&said);
                }
            }
            if begun.elapsed() > within {
                let words = format!("the Job {name} (`{}`) has not ended after {within:?}", arguments.join(" "));
                return self.give_up(&jobs, &name, words).await;
            }
        };
        let _ = jobs.delete(&name, &DeleteParams::background()).await;
        ended
    }
}

impl KubernetesDriver {
    async fn give_up(&self, jobs: &Api<Job>, name: &str, words: String) -> Result<Ended, DriverError> {
        let _ = jobs.delete(name, &DeleteParams::background()).await;
        Err(DriverError::Refused(words))
    }
}

impl std::fmt::Debug for KubernetesDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubernetesDriver").field("namespace", &self.namespace).field("app", &self.app).finish_non_exhaustive()
    }
}

fn container<'a>(spec: &'a PodSpec, name: &str) -> Option<&'a k8s_openapi::api::core::v1::Container> {
    spec.containers.iter().find(|container| container.name == name)
}

/// What a rollout wrote down of what runs there.
fn written(deployment: &Deployment) -> Option<Image> {
    deployment.annotations().get(IMAGE).and_then(|image| serde_json::from_str(image).ok())
}

fn set_variables(container: &mut Value, image: &Image) {
    let given: Vec<_> = image.environment.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    let kept = container["env"].as_array().cloned().unwrap_or_default();
    let kept = kept.into_iter().filter(|variable| !given.iter().any(|given| given["name"] == variable["name"]));
    let all: Vec<_> = kept.chain(given.iter().cloned()).collect();
    if !all.is_empty() {
        container["env"] = json!(all);
    }
}

impl From<kube::Error> for DriverError {
    fn from(failure: kube::Error) -> Self {
        match failure {
            kube::Error::Api(refused) => {
                let advice = match refused.code {
                    401 | 403 => "; the Role `rollout` in k8s/base has what is needed",
                    404 => "; `kubectl apply -k k8s/overlays/…` makes it",
                    409 => "; somebody else manages that field",
                    _ => "",
                };
                Self::Refused(format!("{}{advice}", refused.message))
            }
            failure => Self::Away(": the API server", Box::new(failure)),
        }
    }
}
