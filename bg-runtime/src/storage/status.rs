//! Where everything stands: phases, replicas, and what is in the way of the next step. Reads, and takes no lock.
//!
//! What must stay true: what a coordinator refuses is what is told here, word for word.

use serde::Serialize;

use super::backfill::Filled;
use super::control::LIVE;
use super::migration::Migration;
use super::phase::Phase;
use super::validator::Verdict;
use crate::database::{Database, DatabaseError, Session, SqlState, Type};

/// Where everything stands.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The epoch.
    pub epoch: i64,
    /// Who moved migrations last, or moves them now.
    pub coordinator: Option<String>,
    /// The migrations, in order; those of newer builds too.
    pub migrations: Vec<MigrationStatus>,
    /// The replicas that live.
    pub replicas: Vec<ReplicaStatus>,
}

/// Where a migration stands.
#[derive(Clone, Debug, Serialize)]
pub struct MigrationStatus {
    /// Its name.
    pub name: String,
    /// Whether this build knows it.
    pub known: bool,
    /// Whether its expand is done.
    pub applied: bool,
    /// The table that changes its shape.
    pub table: Option<&'static str>,
    /// Its phase, if it changes a table's shape.
    pub phase: Option<Phase>,
    /// What the backfill did so far.
    pub backfill: Option<Filled>,
    /// Whether the backfill is done.
    pub backfilled: bool,
    /// The last verdict.
    pub verdict: Option<Verdict>,
    /// The phase after this one.
    pub next: Option<Phase>,
    /// What stands between this phase and the next, in words. Empty when nothing does.
    pub obstacles: Vec<String>,
    /// The phase that `back` leads to.
    pub back: Option<Phase>,
    /// The epoch at which the phase was entered.
    #[serde(skip)]
    pub(super) moved_epoch: i64,
}

/// A replica that lives.
#[derive(Clone, Debug, Serialize)]
pub struct ReplicaStatus {
    /// Its name.
    pub instance: String,
    /// Its color.
    pub color: String,
    /// Its version.
    pub version: String,
    /// The epoch that it acts on.
    pub epoch_seen: i64,
    /// The migrations that it knows.
    pub knows: Vec<String>,
}

/// The step that touches the stale rows.
pub(super) const FILL: &str = "backfill:rows";

/// Where everything stands. Takes no lock, and may be asked of a database that was never migrated.
///
/// # Errors
///
/// See [`DatabaseError`].
pub async fn status(database: &Database, migrations: &[Migration]) -> Result<Status, DatabaseError> {
    read_status(&database.session().await?, migrations).await
}

pub(super) async fn read_status(session: &Session, migrations: &[Migration]) -> Result<Status, DatabaseError> {
    let empty = |migration: &Migration| MigrationStatus {
        name: migration.name.to_owned(),
        known: true,
        applied: false,
        table: migration.dual_write.map(|dual| dual.table),
        phase: migration.has_phases().then_some(Phase::Idle),
        backfill: None,
        backfilled: false,
        verdict: None,
        next: None,
        obstacles: vec!["it is not expanded".to_owned()],
        back: None,
        moved_epoch: 0,
    };
    let mut status =
        Status { epoch: 0, coordinator: None, migrations: migrations.iter().map(empty).collect(), replicas: Vec::new() };
    let control = match session.query_opt("SELECT epoch, lease_holder FROM mcp_control", &[]).await {
        Err(error) if error.sql_state() == Some(&SqlState::UNDEFINED_TABLE) => return Ok(status),
        control => control?,
    };
    if let Some(row) = control {
        status.epoch = row.get(0);
        status.coordinator = row.get(1);
    }
    let live = format!(
        "SELECT instance, color, version, epoch_seen, knows FROM mcp_replicas WHERE seen_at > now() - {LIVE} ORDER BY color, instance"
    );
    status.replicas = session
        .query(&live, &[])
        .await?
        .iter()
        .map(|row| ReplicaStatus {
            instance: row.get(0),
            color: row.get(1),
            version: row.get(2),
            epoch_seen: row.get(3),
            knows: row.get(4),
        })
        .collect();
    let rows = session
        .query(
            "SELECT m.name, m.phase, m.verdict::text, m.verdict_epoch = m.moved_epoch, m.moved_epoch, \
             s.done_rows, s.changed_rows, s.finished_at IS NOT NULL \
             FROM mcp_migrations m LEFT JOIN mcp_migration_steps s ON s.migration = m.name AND s.step = $1 ORDER BY m.name",
            &[(&FILL, Type::TEXT)],
        )
        .await?;
    for row in rows {
        let name: String = row.get(0);
        let at = status.migrations.iter().position(|migration| migration.name == name);
        let at = at.unwrap_or_else(|| {
            status.migrations.push(MigrationStatus { known: false, name, ..empty(&Migration::new("", "")) });
            status.migrations.len() - 1
        });
        let phase = row.get::<_, Option<i16>>(1).and_then(Phase::from_number);
        let count = |index| row.get::<_, Option<i64>>(index).map(i64::unsigned_abs);
        let migration = &mut status.migrations[at];
        migration.applied = true;
        migration.phase = phase;
        migration.verdict = row.get::<_, Option<String>>(2).and_then(|json| serde_json::from_str(&json).ok());
        migration.backfill = count(5).map(|rows| Filled { rows, changed: count(6).unwrap_or(0) });
        migration.backfilled = row.get::<_, Option<bool>>(7).unwrap_or(false);
        migration.moved_epoch = row.get(4);
        migration.next = phase.and_then(Phase::next);
        migration.back = phase.and_then(|phase| phase.rule().back);
        let fresh = row.get::<_, Option<bool>>(3).unwrap_or(false);
        migration.obstacles = obstacles(migration, fresh, &status.replicas);
    }
    status.migrations.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(status)
}

/// What the next phase of the table asks for, as far as it is not there. One arm for each line of [`super::phase::RULES`].
fn obstacles(migration: &MigrationStatus, verdict_is_fresh: bool, replicas: &[ReplicaStatus]) -> Vec<String> {
    let unaware = |why: &str| -> Vec<String> {
        let unaware = replicas.iter().filter(|replica| !replica.knows.contains(&migration.name));
        unaware.map(|replica| format!("the {} replica {} ({}) {why}", replica.color, replica.instance, replica.version)).collect()
    };
    match migration.next {
        None | Some(Phase::Idle | Phase::Expand | Phase::Dual) => Vec::new(),
        Some(Phase::Backfill) => {
            let behind = replicas.iter().filter(|replica| replica.epoch_seen < migration.moved_epoch);
            behind
                .map(|replica| format!("the {} replica {} has not seen the phase yet", replica.color, replica.instance))
                .collect()
        }
        Some(Phase::Validate) if !migration.backfilled => vec!["the backfill is not done: run it".to_owned()],
        Some(Phase::Validate) => Vec::new(),
        Some(Phase::ReadNew) => match &migration.verdict {
            Some(verdict) if verdict.valid && verdict_is_fresh => Vec::new(),
            Some(verdict) if !verdict.valid => vec!["the last verdict is bad: look at it, mend, validate again".to_owned()],
            _ => vec!["it is not validated: run validate".to_owned()],
        },
        Some(Phase::Fenced) => unaware("still writes the old shape; retire it first"),
        Some(Phase::Contract) => unaware("still reads the old columns; retire it first"),
    }
}
