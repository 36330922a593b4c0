//! Whether the addresses behind a Service have followed its selector. Kubernetes changes them a moment after the patch.

use std::time::{Duration, Instant};

use k8s_openapi::api::{
    core::v1::{Endpoints, ObjectReference, Pod},
    discovery::v1::EndpointSlice,
};
use kube::{Api, Client, ResourceExt, api::ListParams};

use super::super::DriverError;

/// The endpoints controller needs some milliseconds; a control plane that is busy, seconds.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);

/// Waits until only pods with these labels are behind a Service. How long it took; `None` when it did not come to that.
pub(super) async fn follow(client: &Client, namespace: &str, service: &str, labels: &str) -> Option<Duration> {
    let begun = Instant::now();
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let of = ListParams::default().labels(labels);
    while begun.elapsed() < PATIENCE {
        match tokio::join!(behind(client, namespace, service), pods.list_metadata(&of)) {
            (Ok(behind), Ok(pods)) => {
                let pods: Vec<_> = pods.items.iter().map(ResourceExt::name_any).collect();
                if have_followed(&behind, &pods) {
                    return Some(begun.elapsed());
                }
            }
            (Err(failure), _) => tracing::debug!("what is behind {service} cannot be read: {failure}"),
            (_, Err(failure)) => tracing::debug!("the pods with {labels} cannot be read: {failure}"),
        }
        tokio::time::sleep(LOOK).await;
    }
    None
}

/// The pods that get new connections.
async fn behind(client: &Client, namespace: &str, service: &str) -> Result<Vec<String>, DriverError> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let of = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    match slices.list(&of).await {
        Ok(slices) => Ok(slices.items.into_iter().flat_map(ready).collect()),
        // Before 1.21 there were none of this version.
        Err(kube::Error::Api(refused)) if refused.code == 404 => {
            let endpoints: Api<Endpoints> = Api::namespaced(client.clone(), namespace);
            let subsets = endpoints.get(service).await?.subsets.unwrap_or_default();
            let addresses = subsets.into_iter().flat_map(|subset| subset.addresses.unwrap_or_default());
            Ok(addresses.filter_map(|address| pod(address.target_ref)).collect())
        }
        Err(failure) => Err(failure.into()),
    }
}

fn ready(slice: EndpointSlice) -> impl Iterator<Item = String> {
    // Not said is ready.
    let ready = slice.endpoints.into_iter();
    let ready = ready.filter(|endpoint| endpoint.conditions.as_ref().is_none_or(|is| is.ready != Some(false)));
    ready.filter_map(|endpoint| pod(endpoint.target_ref))
}

fn pod(target: Option<ObjectReference>) -> Option<String> {
    target.filter(|target| target.kind.as_deref() == Some("Pod"))?.name
}

fn have_followed(behind: &[String], pods: &[String]) -> bool {
    !behind.is_empty() && behind.iter().all(|pod| pods.contains(pod))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_ready_pods_of_the_new_color_are_behind_a_service_that_has_followed() {
        let slice: EndpointSlice = serde_json::from_value(json!({ "addressType": "IPv4", "endpoints": [
            { "addresses": ["10.0.0.1"], "conditions": { "ready": true }, "targetRef": { "kind": "Pod", "name": "green-1" } },
            { "addresses": ["10.0.0.2"], "conditions": {}, "targetRef": { "kind": "Pod", "name": "green-2" } },
            { "addresses": ["10.0.0.3"], "conditions": { "ready": false }, "targetRef": { "kind": "Pod", "name": "blue-1" } },
        ]}))
        .unwrap();
        let behind: Vec<_> = ready(slice).collect();
        assert_eq!(behind, ["green-1", "green-2"]);
        let pods = ["green-1", "green-2", "green-3"].map(str::to_owned);
        assert!(have_followed(&behind, &pods));
        assert!(!have_followed(&[], &pods), "nobody is there to answer");
        assert!(!have_followed(&["green-1".to_owned(), "blue-1".to_owned()], &pods));
    }
}
