//! The object whose patch moves the traffic: the selector of a Service, or the weights of an HTTPRoute.
//!
//! What must stay true: one patch moves all of it, and only the object as it was looked at is patched; what a rollout has to
//! remember of it is in annotations on the same object, so that both are true together.

use std::time::Duration;

use bg_runtime::Color;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{super::DriverError, APP, BEFORE, COLOR, EPOCH, MANAGER};
use crate::share;

/// It, by its name.
#[derive(Debug)]
pub(super) struct Traffic {
    objects: Api<DynamicObject>,
    resource: ApiResource,
    app: String,
    name: String,
    by: By,
}

/// What divides the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Selector,
    Weights,
}

/// Somebody who changes it at the same time is done after so many attempts.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(20);

// === impl Traffic ===

impl Traffic {
    /// By the weights of the HTTPRoute with this name; without one, by the selector of the Service that is called as the app.
    pub(super) fn new(client: Client, namespace: &str, app: &str, route: Option<&str>) -> Self {
        let (group, version, kind, by) = match route {
            Some(_) => ("gateway.networking.k8s.io", "v1", "HTTPRoute", By::Weights),
            None => ("", "v1", "Service", By::Selector),
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let objects = Api::namespaced_with(client, namespace, &resource);
        Self { objects, resource, app: app.to_owned(), name: route.unwrap_or(app).to_owned(), by }
    }

    /// Whether shares between none and all can be had.
    pub(super) fn has_weights(&self) -> bool {
        self.by == By::Weights
    }

    /// As it is now.
    pub(super) async fn get(&self) -> Result<DynamicObject, DriverError> {
        Ok(self.objects.get(&self.name).await?)
    }

    /// How many of a hundred requests go to green.
    pub(super) fn percent(&self, object: &DynamicObject) -> Result<u8, DriverError> {
        match self.by {
            By::Selector => selected(object).map(|color| share::of(color, 100)),
            By::Weights => self.weights(object),
        }
    }

    /// Changes the object as it is now, unless a later rollout has been heard of; again when somebody else changed it.
    pub(super) async fn change(
        &self,
        epoch: i64,
        change: impl Fn(&DynamicObject) -> Result<Value, DriverError>,
    ) -> Result<DynamicObject, DriverError> {
        for _ in 0..ATTEMPTS {
            let object = self.get().await?;
            current(&object, epoch)?;
            let mut patch = change(&object)?;
            patch["metadata"]["annotations"][EPOCH] = json!(epoch.to_string());
            patch["metadata"]["resourceVersion"] = json!(object.metadata.resource_version);
            let manager = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
            match self.objects.patch(&self.name, &manager, &Patch::Merge(&patch)).await {
                Err(kube::Error::Api(refused)) if refused.code == 409 => tokio::time::sleep(PAUSE).await,
                patched => return Ok(patched?),
            }
        }
        Err(DriverError::Refused(format!("somebody else keeps changing the {} {}", self.resource.kind, self.name)))
    }

    /// What is changed of it to let this many of a hundred requests go to green.
    pub(super) fn shifted(&self, object: &DynamicObject, green_percent: u8) -> Result<Value, DriverError> {
        let was = share::live(self.percent(object)?);
        let to = share::live(green_percent);
        let before = before(object);
        // Going back leads to where all of it was before; once gone back, nowhere.
        let before = match to {
            Some(_) if before == to => None,
            Some(_) if was == to => before,
            _ => was.or(before),
        };
        let spec = match (self.by, to) {
            (By::Selector, Some(to)) => json!({ "selector": { APP: self.app, COLOR: to } }),
            (By::Selector, None) => {
                let words = "a Service sends all of its traffic to one color: leave --steps out, or move the weights of an \
                             HTTPRoute with --route";
                return Err(DriverError::Refused(words.to_owned()));
            }
            (By::Weights, _) => {
                let mut rules = object.data["spec"]["rules"].clone();
                for backend in self.backends(&mut rules).into_iter().flatten() {
                    let weight = self.color(backend).map_or(0, |color| share::of(color, green_percent));
                    backend["weight"] = json!(weight);
                }
                json!({ "rules": rules })
            }
        };
        Ok(json!({ "metadata": { "annotations": { BEFORE: before } }, "spec": spec }))
    }

    /// What an Event refers to.
    pub(super) fn reference(&self, object: &DynamicObject) -> Value {
        let ApiResource { api_version, kind, .. } = &self.resource;
        json!({ "apiVersion": api_version, "kind": kind, "name": self.name, "namespace": object.namespace(),
            "uid": object.metadata.uid })
    }

    fn weights(&self, object: &DynamicObject) -> Result<u8, DriverError> {
        let mut rules = object.data["spec"]["rules"].clone();
        let Some(backends) = self.backends(&mut rules) else {
            let words = format!(
                "no rule of the HTTPRoute {} has the two backends {app}-blue and {app}-green and no other: see k8s/gateway",
                self.name,
                app = self.app
            );
            return Err(DriverError::Refused(words));
        };
        // One that says nothing weighs 1 (Gateway API, BackendRef).
        let weighed = |color| {
            let backend = backends.iter().find(|backend| self.color(backend) == Some(color));
            backend.map_or(0, |backend| backend["weight"].as_u64().unwrap_or(1))
        };
        let (blue, green) = (weighed(Color::Blue), weighed(Color::Green));
        if blue + green == 0 {
            return Err(DriverError::Refused(format!("both weights of the HTTPRoute {} are 0: nobody is served", self.name)));
        }
        // A little is not nothing, and nearly all is not all.
        let percent = (green * 100).div_euclid(blue + green).clamp(u64::from(green > 0), if blue > 0 { 99 } else { 100 });
        Ok(u8::try_from(percent).unwrap_or(100))
    }

    /// The backends of the rule that divides the traffic. Rules that lead to one color by a header have one.
    fn backends<'a>(&self, rules: &'a mut Value) -> Option<&'a mut Vec<Value>> {
        let backends = rules.as_array_mut()?.iter_mut().filter_map(|rule| rule["backendRefs"].as_array_mut());
        let mut both = backends.filter(|backends| {
            let has = |color| backends.iter().any(|backend| self.color(backend) == Some(color));
            backends.len() == 2 && has(Color::Blue) && has(Color::Green)
        });
        both.next()
    }

    fn color(&self, backend: &Value) -> Option<Color> {
        backend["name"].as_str()?.strip_prefix(&self.app)?.strip_prefix('-')?.parse().ok()
    }
}

/// The epoch of the rollout that moved traffic last.
pub(super) fn epoch(object: &DynamicObject) -> i64 {
    object.annotations().get(EPOCH).and_then(|epoch| epoch.parse().ok()).unwrap_or_default()
}

/// The color that had all traffic before.
pub(super) fn before(object: &DynamicObject) -> Option<Color> {
    object.annotations().get(BEFORE).and_then(|color| color.parse().ok())
}

/// The color that a Service selects.
fn selected(service: &DynamicObject) -> Result<Color, DriverError> {
    let word = service.data["spec"]["selector"][COLOR].as_str().unwrap_or("nothing");
    word.parse().map_err(|_| {
        let name = service.name_any();
        DriverError::Refused(format!("the selector of the Service {name} names {word} as {COLOR}, which is no color"))
    })
}

fn current(object: &DynamicObject, yours: i64) -> Result<(), DriverError> {
    let now = epoch(object);
    if yours < now {
        return Err(DriverError::Refused(format!("a later rollout is at work (epoch {now}, yours is {yours})")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody is asked in these tests.
    fn traffic(route: Option<&str>) -> Traffic {
        let nowhere = Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        Traffic::new(nowhere, "mcp", "mcp-server", route)
    }

    fn route(blue: Value, green: Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": { "name": "mcp-server", "annotations": { EPOCH: "7" } },
            "spec": { "hostnames": ["mcp.example.com"], "rules": [
                { "matches": [{ "headers": [{ "name": COLOR, "value": "blue" }] }],
                  "backendRefs": [{ "name": "mcp-server-blue", "port": 3000 }] },
                { "backendRefs": [{ "name": "mcp-server-blue", "port": 3000, "weight": blue },
                                  { "name": "mcp-server-green", "port": 3000, "weight": green }] },
            ] },
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn weights_are_read_as_percent() {
        let traffic = traffic(Some("mcp-server"));
        for (blue, green, percent) in
            [(100, 0, 0), (0, 100, 100), (0, 1, 100), (90, 10, 10), (3, 1, 25), (1000, 1, 1), (1, 1000, 99)]
        {
            assert_eq!(traffic.percent(&route(json!(blue), json!(green))).unwrap(), percent, "{blue}:{green}");
        }
        assert_eq!(traffic.percent(&route(Value::Null, Value::Null)).unwrap(), 50, "one that says nothing weighs 1");
        let nobody = traffic.percent(&route(json!(0), json!(0))).unwrap_err();
        assert!(nobody.to_string().contains("both weights"), "{nobody}");
        let mut foreign = route(json!(100), json!(0));
        foreign.data["spec"]["rules"][1]["backendRefs"][1]["name"] = json!("another");
        assert!(traffic.percent(&foreign).unwrap_err().to_string().contains("mcp-server-blue and mcp-server-green"));
    }

    #[tokio::test]
    async fn a_shift_changes_two_weights_and_remembers_where_going_back_leads() {
        let traffic = traffic(Some("mcp-server"));
        let mut object = route(json!(100), json!(0));
        // There in steps, and back: what is remembered after each.
        for (percent, remembered) in
            [(10, json!("blue")), (50, json!("blue")), (100, json!("blue")), (100, json!("blue")), (0, Value::Null)]
        {
            let patch = traffic.shifted(&object, percent).unwrap();
            assert_eq!(patch["metadata"]["annotations"][BEFORE], remembered, "{percent}");
            let rules = &patch["spec"]["rules"];
            assert_eq!(rules[0], object.data["spec"]["rules"][0], "what leads by the header stays");
            assert_eq!([&rules[1]["backendRefs"][0]["weight"], &rules[1]["backendRefs"][1]["weight"]], [100 - percent, percent]);
            object.data["spec"]["rules"] = rules.clone();
            let annotations = object.metadata.annotations.get_or_insert_default();
            match remembered.as_str() {
                Some(color) => annotations.insert(BEFORE.to_owned(), color.to_owned()),
                None => annotations.remove(BEFORE),
            };
        }
    }

    #[tokio::test]
    async fn a_service_has_all_or_nothing() {
        let traffic = traffic(None);
        let service: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "mcp-server" },
            "spec": { "selector": { APP: "mcp-server", COLOR: "blue" } },
        }))
        .unwrap();
        assert_eq!(traffic.percent(&service).unwrap(), 0);
        let patch = traffic.shifted(&service, 100).unwrap();
        assert_eq!(patch["spec"]["selector"][COLOR], "green");
        assert_eq!(patch["metadata"]["annotations"][BEFORE], "blue");
        assert!(traffic.shifted(&service, 10).unwrap_err().to_string().contains("--route"));
    }

    #[test]
    fn a_smaller_epoch_changes_nothing() {
        let object = route(json!(100), json!(0));
        assert!(current(&object, 7).is_ok());
        assert!(current(&object, 6).unwrap_err().to_string().contains("a later rollout"));
    }
}
