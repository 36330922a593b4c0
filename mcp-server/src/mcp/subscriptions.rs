//! Who hears of changed resources. Up to 2025-11-25 a session subscribes address by address and hears on its own stream;
//! from 2026-07-28 on a client keeps `subscriptions/listen` open and hears there.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use rmcp::{
    ErrorData, RoleServer,
    model::ResourceUpdatedNotificationParam,
    service::{Peer, SubscriptionContext, SubscriptionSendError},
};
use tokio_util::task::AbortOnDropHandle;

use crate::resource::{Changes, Heard, Listening};

/// More addresses than this in one session is not a client.
const MOST: usize = 256;

type Addresses = Mutex<HashSet<String>>;

/// What one session subscribed to, and who tells it. It lives as long as rmcp's service for the session, which ends after
/// five idle minutes or with the process; the next one begins with what the session asked for.
#[derive(Default)]
pub(crate) struct Subscriptions {
    addresses: Arc<Addresses>,
    teller: OnceLock<AbortOnDropHandle<()>>,
}

// === impl Subscriptions ===

impl Subscriptions {
    /// Tells `peer` of changes to this address from now on.
    pub(crate) fn add(&self, address: String, changes: &Changes, peer: Peer<RoleServer>) -> Result<(), ErrorData> {
        let mut addresses = lock(&self.addresses);
        if addresses.len() >= MOST && !addresses.contains(&address) {
            return Err(ErrorData::invalid_request(format!("a session may subscribe to {MOST} resources"), None));
        }
        addresses.insert(address);
        // Listening begins here and not in the task, so that no change after this answer is missed.
        self.teller.get_or_init(|| AbortOnDropHandle::new(tokio::spawn(tell(changes.listen(), self.addresses.clone(), peer))));
        Ok(())
    }

    /// Tells nobody of changes to this address any more.
    pub(crate) fn remove(&self, address: &str) {
        lock(&self.addresses).remove(address);
    }
}

async fn tell(mut changes: Listening, addresses: Arc<Addresses>, peer: Peer<RoleServer>) {
    loop {
        let heard = changes.next().await;
        let concerned: Vec<_> = lock(&addresses).iter().filter(|address| heard.concerns(address)).cloned().collect();
        for address in concerned {
            if peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(address)).await.is_err() {
                return;
            }
        }
    }
}

/// Tells a listening client of changes, until it goes.
pub(crate) async fn tell_listener(context: &SubscriptionContext, changes: Option<&Changes>) {
    let Some(changes) = changes else { return context.cancelled().await };
    let mut changes = changes.listen();
    loop {
        let heard = tokio::select! {
            () = context.cancelled() => return,
            heard = changes.next() => heard,
        };
        if tell_once(context, &heard).await.is_err() {
            return;
        }
    }
}

async fn tell_once(context: &SubscriptionContext, heard: &Heard) -> Result<(), SubscriptionSendError> {
    let accepted = context.accepted().resource_subscriptions.iter().flatten();
    for address in accepted.filter(|address| heard.concerns(address)) {
        context.sink().notify_resource_updated(address.as_str()).await?;
    }
    Ok(())
}

fn lock(addresses: &Addresses) -> MutexGuard<'_, HashSet<String>> {
    // A set of addresses is whole at every moment somebody could panic.
    addresses.lock().unwrap_or_else(PoisonError::into_inner)
}
