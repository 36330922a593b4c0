//! Whether both shapes of a table say the same, in a form that a rollout's gate can read.
//!
//! Five checks, from cheap to thorough. What must stay true: memory does not grow with the table, nothing blocks a reader or
//! a writer, and a verdict is good only for the epoch at which it was given.

use serde::{Deserialize, Serialize};

use super::backfill::Progress;
use super::dual_write::{CONSTRAINT, DualWrite, GUARD, TRIGGER};
use crate::database::{DatabaseError, Session, SqlState, Type};

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The migration.
    pub migration: String,
    /// Whether every check passed.
    pub valid: bool,
    /// The epoch at which it was begun.
    pub epoch: i64,
    /// Rows compared.
    pub rows: u64,
    /// The checks, in the order they ran.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// `structure`, `data`, `lens`, `tags` or `proof`.
    pub name: String,
    /// Whether it passed.
    pub passed: bool,
    /// How much is wrong.
    pub wrong: u64,
    /// What is wrong or, where rows are, the keys of the first of them.
    pub samples: Vec<String>,
    /// What to do about it. Empty when it passed.
    pub advice: String,
}

/// What to leave out.
#[derive(Clone, Copy, Debug, Default)]
pub struct ValidateOptions {
    /// Leaves out the constraint: it proves that no later write breaks what was found, and costs each write some tens of
    /// microseconds until the contract.
    pub without_proof: bool,
}

/// Rows of a page. A page is one statement, so it sees one moment.
const PAGE: i32 = 10_000;
/// How many keys of wrong rows are told.
const SAMPLES: usize = 20;
/// The lens is tried on one row in so many, wherever it lies.
const EVERY: i64 = 50;

pub(super) async fn validate(
    session: &Session,
    dual: &DualWrite,
    schema: &str,
    epoch: i64,
    progress: &dyn Progress,
) -> Result<Verdict, DatabaseError> {
    let missing = missing_columns(session, dual).await?;
    // Without the columns there is nothing to compare.
    let comparable = missing.is_empty();
    let mut verdict = Verdict { migration: dual.migration.to_owned(), valid: true, epoch, rows: 0, checks: Vec::new() };
    verdict.add(structure(session, dual, schema, missing).await?);
    if comparable {
        let (rows, data, lens) = data(session, dual, progress).await?;
        verdict.rows = rows;
        for check in [data, lens, tags(session, dual).await?] {
            verdict.add(check);
        }
    }
    Ok(verdict)
}

// === impl Verdict ===

impl Verdict {
    pub(super) fn add(&mut self, check: Check) {
        self.valid &= check.passed;
        self.checks.push(check);
    }
}

fn check(name: &str, wrong: u64, samples: Vec<String>, advice: &str) -> Check {
    let passed = wrong == 0;
    let advice = if passed { String::new() } else { advice.to_owned() };
    Check { name: name.to_owned(), passed, wrong, samples, advice }
}

async fn missing_columns(session: &Session, dual: &DualWrite) -> Result<Vec<String>, DatabaseError> {
    let mut wanted: Vec<(&str, &str)> = vec![("row_version", "bigint"), ("writer_schema", "smallint"), (dual.mark, "bigint")];
    wanted.extend(dual.columns().map(|column| (column.name, column.kind)));
    let mut wrong = Vec::new();
    for (name, kind) in wanted {
        let there = "SELECT atttypid = $3::text::regtype FROM pg_attribute \
             WHERE attrelid = to_regclass($1) AND attname = $2 AND attnum > 0 AND NOT attisdropped";
        let parameters = [(&dual.table as _, Type::TEXT), (&name as _, Type::TEXT), (&kind as _, Type::TEXT)];
        match session.query_opt(there, &parameters).await? {
            None => wrong.push(format!("the column {name} is missing")),
            Some(row) if !row.get::<_, bool>(0) => wrong.push(format!("the column {name} is not of the type {kind}")),
            Some(_) => {}
        }
    }
    Ok(wrong)
}

/// Columns, key, trigger, functions: what the declaration says is what is there.
async fn structure(session: &Session, dual: &DualWrite, schema: &str, mut wrong: Vec<String>) -> Result<Check, DatabaseError> {
    let table = (&dual.table as _, Type::TEXT);
    let key = "SELECT bool_or(i.indisvalid AND i.indisready AND i.indnkeyatts = 1 AND i.indpred IS NULL) FROM pg_index i \
         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] \
         WHERE i.indrelid = to_regclass($1) AND i.indisunique AND a.attname = $2";
    let row = session.query_opt(key, &[(&dual.table, Type::TEXT), (&dual.key.name, Type::TEXT)]).await?;
    if !row.and_then(|row| row.get::<_, Option<bool>>(0)).unwrap_or(false) {
        wrong.push(format!("{} has no valid unique index", dual.key.name));
    }
    // 23 is BEFORE INSERT OR UPDATE FOR EACH ROW, 19 the same without INSERT. With a condition or a list of columns the first
    // would let writes pass.
    let trigger = "SELECT tgenabled IN ('O', 'A'), tgname::text, tgname::text IN ($2, $3), p.proname::text, \
         tgname = $3 AND tgtype = 19 OR tgname = $2 AND tgtype = 23 AND tgqual IS NULL AND tgattr::text = '' FROM pg_trigger t JOIN pg_proc p ON p.oid = tgfoid \
         WHERE tgrelid = to_regclass($1) AND NOT tgisinternal AND tgtype & 1 = 1 AND tgtype & 2 = 2 AND tgtype & 20 > 0 \
         AND (tgname >= $2 OR tgname = $3)";
    let rows = session.query(trigger, &[table.clone(), (&TRIGGER, Type::TEXT), (&GUARD, Type::TEXT)]).await?;
    let mut found = 0;
    for row in rows {
        let (enabled, name, ours, function): (bool, String, bool, String) = (row.get(0), row.get(1), row.get(2), row.get(3));
        let every: bool = row.get(4);
        if !ours {
            wrong.push(format!("the trigger {name} runs after {TRIGGER} and may undo what it did: give it an earlier name"));
        } else if !enabled {
            wrong.push(format!("the trigger {name} is switched off"));
        } else if !every {
            wrong.push(format!("the trigger {name} does not run for every write that it is for"));
        } else if function != if name == TRIGGER { dual.function() } else { dual.guard_function() } {
            wrong.push(format!("the trigger {name} runs {function}"));
        }
        found += u8::from(ours);
    }
    if found < 2 {
        wrong.push(format!("the trigger {TRIGGER} or {GUARD} is missing"));
    }
    wrong.extend(changed_functions(session, dual, schema).await?);
    let advice = "run `expand --again`, which makes the generated parts anew; then validate again";
    let count = wrong.len() as u64;
    Ok(check("structure", count, wrong, advice))
}

/// Makes the functions anew in a transaction that is rolled back, and compares. So whitespace, versions of PostgreSQL and
/// the way a type is spelled make no difference.
async fn changed_functions(session: &Session, dual: &DualWrite, schema: &str) -> Result<Vec<String>, DatabaseError> {
    let names: Vec<String> = dual
        .old
        .columns
        .iter()
        .chain(dual.new.columns)
        .map(|column| dual.lens(column))
        .chain([dual.function(), dual.guard_function()])
        .collect();
    let definitions = "SELECT proname::text, md5(pg_get_functiondef(oid)) FROM pg_proc \
         WHERE proname = ANY($1) AND pronamespace = current_schema()::regnamespace ORDER BY 1";
    let read = async || -> Result<Vec<(String, String)>, DatabaseError> {
        let rows = session.query(definitions, &[(&names, Type::TEXT_ARRAY)]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    };
    let there = read().await?;
    session.batch_execute("BEGIN; SET LOCAL lock_timeout = '500ms'").await?;
    let wanted = async {
        session.batch_execute(&dual.functions_sql(schema)).await?;
        read().await
    };
    let wanted = wanted.await;
    session.batch_execute("ROLLBACK").await?;
    // A function of the same name and other types cannot even be replaced.
    let Ok(wanted) = wanted else { return Ok(vec!["the generated functions cannot be made anew".to_owned()]) };
    let differ = wanted.iter().filter(|function| !there.contains(function));
    Ok(differ.map(|(name, _)| format!("the function {name} is missing or was changed")).collect())
}

/// Every row, page by page: one row comes back for each page.
async fn data(session: &Session, dual: &DualWrite, progress: &dyn Progress) -> Result<(u64, Check, Check), DatabaseError> {
    let (table, key, kind) = (dual.table, dual.key.name, dual.key.kind);
    let sql = format!(
        "WITH page AS MATERIALIZED (SELECT {key} AS k, NOT ({same}) AS bad, \
           CASE WHEN hashtext({key}::text) % {EVERY} = 0 THEN {lawless} ELSE false END AS lawless FROM {table} \
           WHERE $1::text IS NULL OR {key} > $1::text::{kind} ORDER BY {key} LIMIT $2) \
         SELECT (SELECT k::text FROM page ORDER BY k DESC LIMIT 1), count(*), \
           count(*) FILTER (WHERE bad), (array_agg(k::text ORDER BY k) FILTER (WHERE bad))[1:{SAMPLES}], \
           count(*) FILTER (WHERE lawless AND NOT bad), (array_agg(k::text ORDER BY k) FILTER (WHERE lawless AND NOT bad))[1:{SAMPLES}] FROM page",
        same = dual.same(),
        lawless = dual.lawless(),
    );
    progress.doing("compare", about(session, table).await?);
    let (mut rows, mut bad, mut lawless) = (0, (0, Vec::new()), (0, Vec::new()));
    let mut place: Option<String> = None;
    loop {
        let Some(page) = session.query_opt(&sql, &[(&place, Type::TEXT), (&PAGE, Type::INT4)]).await? else { break };
        place = page.get(0);
        let count = |index| u64::try_from(page.get::<_, i64>(index)).unwrap_or(0);
        rows += count(1);
        for (found, index) in [(&mut bad, 2), (&mut lawless, 4)] {
            found.0 += count(index);
            let keys: Option<Vec<String>> = page.get(index + 1);
            let room = SAMPLES - found.1.len();
            found.1.extend(keys.unwrap_or_default().into_iter().take(room));
        }
        progress.done(rows);
        if count(1) < PAGE.unsigned_abs().into() {
            break;
        }
    }
    let stale = "these rows say different things in the two shapes. Look at them; where the old columns are right, touch them \
         (UPDATE … SET the mark = NULL) and the trigger makes the new ones; then validate again";
    let law = "the lens does not give back what it was given on these rows; correct it in a migration of its own";
    Ok((rows, check("data", bad.0, bad.1, stale), check("lens", lawless.0, lawless.1, law)))
}

/// How many rows a table has, about: what its last ANALYZE counted.
pub(super) async fn about(session: &Session, table: &str) -> Result<u64, DatabaseError> {
    let rows = "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = to_regclass($1)";
    let row = session.query_opt(rows, &[(&table, Type::TEXT)]).await?;
    Ok(row.map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()))
}

async fn tags(session: &Session, dual: &DualWrite) -> Result<Check, DatabaseError> {
    let (mut wrong, mut samples) = (0, Vec::new());
    for tag in dual.tags {
        let sql = format!(
            "SELECT count(*), (array_agg(k))[1:{SAMPLES}] FROM (SELECT {}::text AS k FROM {} WHERE {}) AS found",
            tag.key, tag.table, tag.never
        );
        let Some(row) = session.query_opt(&sql, &[]).await? else { continue };
        wrong += u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
        let keys: Option<Vec<String>> = row.get(1);
        samples.extend(keys.unwrap_or_default().into_iter().map(|key| format!("{}: {} {key}", tag.name, tag.table)));
    }
    samples.truncate(SAMPLES);
    Ok(check("tags", wrong, samples, "a writer tags its rows wrongly: find it before going on"))
}

/// Whether the constraint is there, proven or not.
pub(super) async fn is_constrained(session: &Session, dual: &DualWrite) -> Result<bool, DatabaseError> {
    let there = "SELECT 1 FROM pg_constraint WHERE conrelid = to_regclass($1) AND conname = $2";
    Ok(session.query_opt(there, &[(&dual.table, Type::TEXT), (&CONSTRAINT, Type::TEXT)]).await?.is_some())
}

/// Asks PostgreSQL itself. What it has validated once, no later write can break, not even with the trigger switched off.
pub(super) async fn proof(session: &Session, dual: &DualWrite) -> Result<Check, DatabaseError> {
    let validate = format!("ALTER TABLE {} VALIDATE CONSTRAINT {CONSTRAINT}", dual.table);
    match session.batch_execute(&validate).await {
        Ok(()) => Ok(check("proof", 0, Vec::new(), "")),
        Err(error) if error.sql_state() == Some(&SqlState::CHECK_VIOLATION) => {
            let samples = vec![format!("a row breaks the constraint {CONSTRAINT}")];
            Ok(check("proof", 1, samples, "a row changed between the comparison and the proof: validate again"))
        }
        Err(error) => Err(error),
    }
}
