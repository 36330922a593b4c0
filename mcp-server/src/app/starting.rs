//! From a process that listens to one that is ready: migrated, aware of the phases, its widgets and contract published, and
//! every check once well.
//!
//! What must stay true: nobody is served before another process could take over what is promised to them.

use std::{error::Error, time::Duration};

use bg_runtime::{
    Database, Lifecycle, Release,
    contract::Contract,
    lifecycle::{Checks, Stage},
    storage::{
        Control,
        migration::{self, Migration},
    },
};

use crate::{
    drainage::Drainage,
    error::Chain,
    pins::Pins,
    published::Published,
    request_state::{RequestStateKeys, RequestStates},
    row_security,
};

/// How long to wait after an attempt that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// How long one attempt at the migrations may take before it is made again.
const MIGRATION_DEADLINE: Duration = Duration::from_secs(300);

/// What there is to do before `/ready` says so.
pub(super) struct Starting {
    pub(super) lifecycle: Lifecycle,
    pub(super) checks: Checks,
    pub(super) database: Option<Database>,
    pub(super) migrations: &'static [Migration],
    pub(super) migrate: bool,
    pub(super) control: Option<Control>,
    pub(super) drainage: Option<Drainage>,
    pub(super) pins: Option<Pins>,
    pub(super) published: Published,
    pub(super) request_state_keys: RequestStateKeys,
    pub(super) request_states: RequestStates,
    /// Where the keys are kept.
    pub(super) keys_in: Option<Database>,
    pub(super) release: Release,
    pub(super) contract: Contract,
    /// Whether callers prove who they are.
    pub(super) is_protected: bool,
}

// === impl Starting ===

impl Starting {
    /// Does it, however long it takes.
    pub(super) async fn run(self) {
        if let Some(database) = self.database.as_ref().filter(|_| !self.migrations.is_empty()) {
            let mut obstacle = Obstacle::new("migrations");
            while let Err(words) = self.be_migrated(database).await {
                obstacle.stands(words).await;
            }
        }
        if let Some(database) = self.database.as_ref().filter(|_| self.is_protected) {
            row_security::check(database).await;
        }
        if let Some(control) = &self.control {
            let mut obstacle = Obstacle::new("phases");
            while let Err(failure) = control.refresh().await {
                obstacle.stands(words(&failure)).await;
            }
        }
        let mut obstacle = Obstacle::new("widgets and contract");
        while let Err(failure) = self.published.publish(&self.release, &self.contract).await {
            obstacle.stands(words(&failure)).await;
        }
        let mut obstacle = Obstacle::new("keys of request states");
        loop {
            match self.request_state_keys.load(self.keys_in.as_ref()).await {
                Ok(codec) => break self.request_states.install(codec),
                Err(failure) => obstacle.stands(words(&failure)).await,
            }
        }
        if let Some(drainage) = &self.drainage {
            let mut obstacle = Obstacle::new("telling the other replicas where this one is");
            while let Err(failure) = drainage.say(self.lifecycle.status()).await {
                obstacle.stands(words(&failure)).await;
            }
        }
        if let Some(pins) = &self.pins {
            let mut obstacle = Obstacle::new("pins");
            while let Err(failure) = pins.look().await {
                obstacle.stands(words(&failure)).await;
            }
        }
        self.checks.all_well(PAUSE).await;
        let took = self.lifecycle.born().elapsed();
        // Refused when it was told to leave before it got ready.
        let _ = self.lifecycle.advance(Stage::Serving, &format!("ready after {took:.0?}"));
    }

    /// Applies what is missing, or waits for whoever does.
    async fn be_migrated(&self, database: &Database) -> Result<(), String> {
        // A user that serves and does not own the tables leaves them to the owner.
        if self.migrate && database.may_migrate().await.map_err(|failure| words(&failure))? {
            let applied = migration::apply(database, self.migrations, MIGRATION_DEADLINE).await;
            return applied.map(drop).map_err(|failure| words(&failure));
        }
        match migration::is_applied(database, self.migrations).await.map_err(|failure| words(&failure))? {
            true => Ok(()),
            false if self.migrate => Err("some are missing, and the user of DATABASE_URL may not change the schema: run \
                 `mcp-server migrate expand` with the owner's DATABASE_MIGRATE_URL"
                .to_owned()),
            false => Err("some are missing; MIGRATE=off leaves them to `mcp-server migrate expand`".to_owned()),
        }
    }
}

fn words(failure: &(dyn Error + 'static)) -> String {
    Chain(failure).to_string()
}

/// What keeps a process from being ready. It is said once, and again when it is another.
struct Obstacle {
    what: &'static str,
    said: String,
}

// === impl Obstacle ===

impl Obstacle {
    fn new(what: &'static str) -> Self {
        Self { what, said: String::new() }
    }

    /// Says why it stands, and gives it time to go.
    async fn stands(&mut self, words: String) {
        if words != self.said {
            tracing::warn!(error = words, "not ready: {}: {words}", self.what);
            self.said = words;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
