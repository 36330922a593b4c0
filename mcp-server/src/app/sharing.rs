//! What an application shares with the other processes on its database, as far as its migrations have the tables for it.
//! Without a table the thing lives as long as the process, or is not there.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bg_runtime::{
    Database, Lifecycle,
    storage::{Control, migration::Migration},
};
use tokio::task::JoinHandle;

use crate::{
    answers, audit,
    config::HttpConfig,
    conversations::{self, calls::Calls},
    drainage::Drainage,
    mcp::{
        Parts, Shared,
        forward::Forward,
        networks::ForwardNetworks,
        replica::{ForwardKey, Replica},
        served::Served,
    },
    pins::{self, Pins},
    published::{self, Published},
    sessions::{self, ENDED, Kept, Sessions, streams::Streams},
    tool::Pinning,
};

/// Everything that is shared.
pub(super) struct Sharing {
    control: Option<Control>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) streams: Option<Arc<Streams>>,
    pub(super) published: Published,
    pub(super) calls: Option<(Arc<Calls>, Database)>,
    pub(super) audit: Option<(Arc<audit::Log>, Database)>,
    audit_retention: Option<Duration>,
    pub(super) pins: Option<Pins>,
    pub(super) drainage: Option<Drainage>,
    /// The way to the other replicas.
    pub(super) forward: Forward,
    /// Where the keys of request states are kept.
    pub(super) keys_in: Option<Database>,
    answers: Option<Database>,
}

// === impl Sharing ===

impl Sharing {
    /// `address` is where the public listener listens.
    pub(super) fn new<S>(
        parts: &Parts<S>,
        database: Option<&Database>,
        migrations: &[Migration],
        config: &HttpConfig,
        address: SocketAddr,
    ) -> Self {
        let with = |table: &Migration| {
            let has = migrations.iter().any(|migration| migration.name == table.name);
            database.filter(|_| has).cloned()
        };
        let release = &parts.release;
        let control = parts.control.clone();
        let sessions = with(&sessions::MIGRATION);
        let streams = sessions.clone().zip(control.clone());
        let controlled = with(&pins::MIGRATION).zip(control.clone());
        let wants_pins = parts.tools.iter().any(|tool| tool.description.pinning != Pinning::Auto);
        let advertised = config.advertise.clone();
        let advertised = advertised.or_else(|| (!address.ip().is_unspecified()).then(|| address.to_string()));
        if advertised.is_none() && controlled.is_some() {
            tracing::warn!(
                "the other replicas cannot hand this one its calls: it listens everywhere, so set ADVERTISE_ADDRESS to where they \
                 reach it"
            );
        }
        let networks = config.forward_networks.clone();
        let networks = networks.unwrap_or_else(|| ForwardNetworks::around(advertised.as_deref()));
        let replica = controlled.as_ref().and_then(|(database, control)| {
            let key = forward_key(config, database)?;
            Some(Replica::new(&key, release.build(), control.instance(), advertised.as_deref()))
        });
        Self {
            forward: Forward::new(replica, networks),
            streams: streams.map(|(database, control)| Arc::new(Streams::new(database, control))),
            sessions: Arc::new(match sessions {
                Some(database) => Sessions::kept(config.sessions, Kept::new(database, release.clone())),
                None => Sessions::new(config.sessions),
            }),
            published: Published::new(&parts.widgets, with(&published::MIGRATION)),
            calls: with(&conversations::MIGRATIONS[1]).map(|database| (Arc::new(Calls::new(release)), database)),
            audit: with(&audit::MIGRATION).map(|database| (Arc::new(audit::Log::new(release)), database)),
            audit_retention: config.audit_retention,
            // Also without a tool that pins: the build before may have had one.
            pins: controlled.clone().map(|(database, _)| Pins::new(database, release, config.pins, wants_pins)),
            drainage: controlled
                .map(|(database, control)| Drainage::new(database, control, release.clone(), config.pins, advertised)),
            keys_in: with(&pins::MIGRATION),
            answers: with(&answers::MIGRATION),
            control,
        }
    }

    /// What calls are answered with.
    pub(super) fn shared(&self) -> Shared {
        Shared {
            published: self.published.clone(),
            calls: self.calls.as_ref().map(|(calls, _)| calls.clone()),
            pins: self.pins.clone(),
            audit: self.audit.as_ref().map(|(log, _)| log.clone()),
        }
    }

    /// Keeps it all until the process ends.
    pub(super) fn look_after(self, served: Arc<Served>, lifecycle: &Lifecycle) -> Vec<JoinHandle<()>> {
        // Asked for here and not in the task, which may run only after the control follows.
        let told = self.control.as_ref().map(|control| control.hear(ENDED));
        let pinned = self.control.as_ref().map(|control| control.hear(pins::PINNED));
        let (sessions, lifecycle, retention) = (self.sessions, lifecycle.clone(), self.audit_retention);
        let keeping = tokio::spawn(async move { tokio::join!(sessions.keep(told), served.end_with_their_sessions()).0 });
        let following = self.control.map(|control| tokio::spawn(control.follow()));
        let answers = self.answers.map(|database| tokio::spawn(answers::look_after(database)));
        let calls = self.calls.map(|(calls, database)| tokio::spawn(async move { calls.keep(database).await }));
        let audit = self.audit.map(|(log, database)| tokio::spawn(async move { log.keep(database, retention).await }));
        let pins = self.pins.zip(pinned).map(|(pins, told)| tokio::spawn(async move { pins.look_after(told).await }));
        let drainage = self.drainage.map(|drainage| tokio::spawn(async move { drainage.report(lifecycle).await }));
        [Some(keeping), following, answers, calls, audit, pins, drainage].into_iter().flatten().collect()
    }
}

/// What replicas prove themselves with: the key that is configured, or the one beside a private PostgreSQL.
fn forward_key(config: &HttpConfig, database: &Database) -> Option<ForwardKey> {
    if config.forward_key.is_some() {
        return config.forward_key.clone();
    }
    let Some(directory) = database.data_dir() else {
        tracing::warn!(
            "no call is handed to another replica, because FORWARD_KEY is not set: conversations that are pinned to another \
             build move to this one, and a client's answer reaches only the replica that asked; set it to one secret of 32 \
             bytes or more in both colors"
        );
        return None;
    };
    let kept = ForwardKey::kept(&directory.join("forward.key"));
    kept.inspect_err(|failure| {
        tracing::warn!(error = %failure, "no call is handed to another replica: {} cannot be used: {failure}", directory.join("forward.key").display());
    })
    .ok()
}
