//! The lock as Kubernetes knows one: a Lease, which `kubectl get lease` shows, and which two rollouts have in common whose
//! journals are in different databases.
//!
//! What must stay true: what moves traffic is guarded by the epoch and not by this, because a holder that was stopped for a
//! while does not know that its time is over.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use tokio::task::JoinHandle;

use super::super::DriverError;
use crate::journal::{born, host};

/// A Lease that is held and renewed. Dropping it lets it run out; [`release`](Held::release) gives it up at once.
#[derive(Debug)]
pub(super) struct Held {
    leases: Api<Lease>,
    name: String,
    holder: String,
    renewing: JoinHandle<()>,
}

/// The machine of the holder, and when its process was started there: whoever finds both gone need not wait.
const HOST: &str = "rollout.mcp/host";
const BORN: &str = "rollout.mcp/born";
/// As long as the journal's own.
const SECONDS: i32 = 15;
const RENEW: Duration = Duration::from_secs(4);
/// Whoever lost the journal's lease has lost this one soon after.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(500);

// === impl Held ===

impl Held {
    /// Takes it, from a holder whose time is over or whose process is gone; with `force` from anybody. Waits a while for others.
    pub(super) async fn take(leases: Api<Lease>, name: String, by: &str, force: bool) -> Result<Self, DriverError> {
        let process = std::process::id();
        let holder = format!("{by}@{}/{process}", host().split(' ').next().unwrap_or("nowhere"));
        let begun = Instant::now();
        loop {
            let found = leases.get_opt(&name).await?;
            let held = found.as_ref().and_then(|lease| in_the_way(lease, &holder));
            let written = match (found, held) {
                (Some(_), Some(other)) if !force => {
                    if begun.elapsed() > PATIENCE {
                        let words = format!(
                            "{other} is at it, as the Lease {name} says: wait, or take it away with `kubectl delete lease {name}`"
                        );
                        return Err(DriverError::Refused(words));
                    }
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
                (None, _) => leases.create(&PostParams::default(), &taken(None, &name, &holder)).await,
                (Some(lease), _) => leases.replace(&name, &PostParams::default(), &taken(Some(lease), &name, &holder)).await,
            };
            match written {
                // Somebody was faster.
                Err(kube::Error::Api(refused)) if refused.code == 409 && begun.elapsed() < PATIENCE => {}
                Err(failure) => return Err(failure.into()),
                Ok(_) => {
                    let renewing = tokio::spawn(renew(leases.clone(), name.clone(), holder.clone()));
                    return Ok(Self { leases, name, holder, renewing });
                }
            }
        }
    }

    /// Gives it up, unless it is somebody else's by now.
    pub(super) async fn release(self) {
        self.renewing.abort();
        let Ok(mut lease) = self.leases.get(&self.name).await else { return };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&*self.holder) {
            spec.holder_identity = None;
            let _ = self.leases.replace(&self.name, &PostParams::default(), &lease).await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

async fn renew(leases: Api<Lease>, name: String, holder: String) {
    loop {
        tokio::time::sleep(RENEW).await;
        let Ok(mut lease) = leases.get(&name).await else { continue };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&*holder) {
            return;
        }
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        // A conflict is somebody who takes it; the next turn sees that.
        if let Err(failure) = leases.replace(&name, &PostParams::default(), &lease).await {
            tracing::debug!(error = %failure, "the Lease {name} is not renewed: {failure}");
        }
    }
}

/// Who holds it, when that is somebody else who lives and whose time is not over.
fn in_the_way(lease: &Lease, me: &str) -> Option<String> {
    let spec = lease.spec.as_ref()?;
    let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty() && *holder != me)?;
    let age = Timestamp::now().duration_since(spec.renew_time.as_ref()?.0);
    let is_over = age.as_secs() > i64::from(spec.lease_duration_seconds.unwrap_or(SECONDS));
    let annotation = |name: &str| lease.metadata.annotations.as_ref()?.get(name);
    let is_here = annotation(HOST).is_some_and(|at| *at == host());
    let process = holder.rsplit('/').next().and_then(|process| process.parse().ok());
    let since = annotation(BORN).and_then(|since| since.parse().ok());
    let is_gone = is_here && since.is_some() && process.is_some_and(|process| born(process) != since);
    (!is_over && !is_gone).then(|| holder.to_owned())
}

/// The Lease, ours. With the version of the one that was found, so that it is taken from that holder only.
fn taken(found: Option<Lease>, name: &str, holder: &str) -> Lease {
    let now = MicroTime(Timestamp::now());
    let before = found.as_ref().and_then(|lease| lease.spec.as_ref()?.lease_transitions);
    let mut metadata =
        found.map_or_else(|| ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }, |lease| lease.metadata);
    metadata.managed_fields = None;
    let process = born(i64::from(std::process::id())).map(|born| (BORN.to_owned(), born.to_string()));
    metadata.annotations.get_or_insert_default().extend([(HOST.to_owned(), host())].into_iter().chain(process));
    let spec = LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: Some(SECONDS),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: Some(before.map_or(0, |before| before.saturating_add(1))),
        ..LeaseSpec::default()
    };
    Lease { metadata, spec: Some(spec) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(by: &str, seconds_ago: i64) -> Lease {
        let mut lease = taken(None, "mcp-server-rollout", by);
        let ago = Timestamp::now() - k8s_openapi::jiff::SignedDuration::from_secs(seconds_ago);
        lease.spec.as_mut().unwrap().renew_time = Some(MicroTime(ago));
        lease
    }

    #[test]
    fn a_lease_is_in_the_way_while_its_holder_lives_and_renews_it() {
        let (me, other) = ("ada@here/1", format!("bob@here/{}", std::process::id()));
        assert_eq!(in_the_way(&held(&other, 1), me), Some(other.clone()));
        assert_eq!(in_the_way(&held(&other, 16), me), None, "its time is over");
        assert_eq!(in_the_way(&held(me, 1), me), None, "it is ours");
        assert_eq!(in_the_way(&held("", 1), me), None, "it was given up");
        // The same process number on this machine, but another process than the one that took it.
        let mut reborn = held(&other, 1);
        reborn.metadata.annotations.as_mut().unwrap().insert(BORN.to_owned(), "1".to_owned());
        assert_eq!(in_the_way(&reborn, me), None, "its process is gone");
        let mut elsewhere = reborn;
        elsewhere.metadata.annotations.as_mut().unwrap().insert(HOST.to_owned(), "another machine".to_owned());
        assert_eq!(in_the_way(&elsewhere, me), Some(other), "what runs elsewhere cannot be seen");
    }

    #[test]
    fn each_holder_is_counted_and_the_version_found_is_kept() {
        let mut first = taken(None, "mcp-server-rollout", "ada@here/1");
        first.metadata.resource_version = Some("7".to_owned());
        let second = taken(Some(first), "mcp-server-rollout", "bob@here/2");
        assert_eq!(second.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(second.spec.unwrap().lease_transitions, Some(1));
    }
}
