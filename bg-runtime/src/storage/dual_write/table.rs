//! A table in two shapes, as one release uses it: its statements, as the phase of the moment has them.
//!
//! What must stay true: a statement that met a phase it had not heard of runs once more as the new phase has it, and a write
//! is never retried otherwise.

use std::fmt::Write as _;
use std::sync::Arc;

use super::{DualWrite, StorageError};
use crate::database::{Database, Parameter, Row, SqlState, Type};
use crate::storage::control::Control;
use crate::storage::phase::Phase;

/// Which release a [`Table`] speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one before: it knows the old columns only.
    Before,
    /// The one that brings the migration: it follows the phase.
    During,
    /// One that comes after the contract: it knows the new columns only.
    After,
}

/// How a statement touches the table at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Old columns, untranslated.
    Old = 0,
    /// New columns, while the old ones are there too.
    Both = 1,
    /// New columns, alone.
    New = 2,
}

/// SQL of the caller's, with gaps for what depends on the phase. `{set:3}` is the assignments of an `UPDATE`, with the
/// shape's values in `$3` and on; `{columns}` and `{values:3}` are those of an `INSERT`; `{read}` is the shape's columns for
/// a `SELECT`, one expression each. The table is not given an alias.
///
/// A write that answers `mcp_control.epoch` beside its `row_version` lets [`Table::written`] notice a phase change that no
/// notification told.
#[derive(Debug)]
pub struct Statement {
    forms: [&'static str; 3],
}

/// A table of [`DualWrite`], as one release uses it.
#[derive(Clone, Debug)]
pub struct Table {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dual: &'static DualWrite,
    side: Side,
    database: Database,
    control: Control,
    insert: Statement,
    update: Statement,
    get: Statement,
}

/// A row as it was read.
#[derive(Debug)]
pub struct Versioned {
    /// What a write has to be based on.
    pub row_version: i64,
    /// The row; the shape's columns come first.
    pub row: Row,
}

// === impl Statement ===

impl Statement {
    /// Fills the gaps for every phase. The texts live as long as the program: make statements once, not per call.
    #[must_use]
    pub fn new(dual: &'static DualWrite, template: &str) -> Self {
        let forms = [Form::Old, Form::Both, Form::New];
        Self { forms: forms.map(|form| &*Box::leak(fill(dual, form, template).into_boxed_str())) }
    }
}

fn fill(dual: &DualWrite, form: Form, template: &str) -> String {
    let mut sql = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        sql.push_str(before);
        let Some((gap, after)) = after.split_once('}') else {
            sql.push('{');
            rest = after;
            continue;
        };
        rest = after;
        let (word, first) = gap.split_once(':').unwrap_or((gap, "1"));
        let first: usize = first.parse().unwrap_or(1);
        let shape = dual.shape(form);
        match word {
            "set" => {
                for (column, value) in shape.columns.iter().zip(dual.values(form, first)) {
                    let _ = write!(sql, "{} = {value}, ", column.name);
                }
                let _ = write!(sql, "row_version = {}.row_version + 1, writer_schema = {}", dual.table, shape.schema);
            }
            "columns" => {
                let names: Vec<_> = shape.columns.iter().map(|column| column.name).collect();
                let _ = write!(sql, "{}, row_version, writer_schema", names.join(", "));
            }
            "values" => {
                let _ = write!(sql, "{}, 1, {}", dual.values(form, first).join(", "), shape.schema);
            }
            "read" => sql.push_str(&dual.read(form)),
            // Not one of ours, such as an empty array.
            _ => {
                let _ = write!(sql, "{{{gap}}}");
            }
        }
    }
    sql.push_str(rest);
    sql
}

// === impl Table ===

impl Table {
    /// The table as a release uses it.
    #[must_use]
    pub fn new(database: Database, control: Control, dual: &'static DualWrite, side: Side) -> Self {
        let (table, key, kind) = (dual.table, dual.key.name, dual.key.kind);
        let statement = |template: String| Statement::new(dual, &template);
        let inner = Inner {
            dual,
            side,
            database,
            control,
            insert: statement(format!(
                "WITH written AS (INSERT INTO {table} ({key}, {{columns}}) VALUES ($1::{kind}, {{values:2}}) \
                 ON CONFLICT DO NOTHING RETURNING row_version) \
                 SELECT written.row_version, mcp_control.epoch FROM written, mcp_control"
            )),
            update: statement(format!(
                "WITH written AS (UPDATE {table} SET {{set:3}} WHERE {key} = $1::{kind} AND row_version = $2 \
                 RETURNING row_version) \
                 SELECT written.row_version, mcp_control.epoch FROM written, mcp_control"
            )),
            get: statement(format!("SELECT {{read}}, row_version FROM {table} WHERE {key} = $1::{kind}")),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Adds a row of this key and these values (the shape's, in the order of its columns), and gives its `row_version`.
    ///
    /// # Errors
    ///
    /// [`StorageError::Exists`]; otherwise see [`StorageError`].
    pub async fn insert(&self, key: Parameter<'_>, values: &[Parameter<'_>]) -> Result<i64, StorageError> {
        let parameters: Vec<_> = [key].into_iter().chain(values.iter().cloned()).collect();
        let rows = self.run(&self.inner.insert, &parameters).await?;
        self.written(&rows).ok_or(StorageError::Exists)
    }

    /// Writes the row if it is still at the version it was read at, and gives the version it has now.
    ///
    /// # Errors
    ///
    /// [`StorageError::Conflict`] when somebody else was faster; nothing is written then. Otherwise see [`StorageError`].
    pub async fn update(&self, key: Parameter<'_>, base: i64, values: &[Parameter<'_>]) -> Result<i64, StorageError> {
        let base: Parameter<'_> = (&base, Type::INT8);
        let parameters: Vec<_> = [key, base].into_iter().chain(values.iter().cloned()).collect();
        let rows = self.run(&self.inner.update, &parameters).await?;
        self.written(&rows).ok_or(StorageError::Conflict)
    }

    /// The row of a key, if there is one. Right in every phase.
    ///
    /// # Errors
    ///
    /// See [`StorageError`].
    pub async fn get(&self, key: Parameter<'_>) -> Result<Option<Versioned>, StorageError> {
        let mut rows = self.run(&self.inner.get, &[key]).await?;
        Ok(rows.pop().map(|row| Versioned { row_version: row.get("row_version"), row }))
    }

    /// Runs a statement as the phase has it. When the phase turns out to have changed meanwhile, it is learned and the
    /// statement runs again, once.
    ///
    /// # Errors
    ///
    /// See [`StorageError`].
    pub async fn run(&self, statement: &Statement, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, StorageError> {
        self.run_as(None, statement, parameters).await
    }

    /// As [`run`](Self::run), in the name of a principal; see [`Database::get_as`].
    ///
    /// # Errors
    ///
    /// See [`StorageError`].
    pub async fn run_as(
        &self,
        principal: Option<&str>,
        statement: &Statement,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, StorageError> {
        let form = self.form()?;
        match self.run_in(form, principal, statement, parameters).await {
            // What this release knows was contracted away: as good as fenced, and another replica can do it.
            Err(error) if self.inner.side == Side::Before && outdated(&error) => Err(StorageError::Fenced),
            Err(error) if self.inner.side == Side::During && outdated(&error) => {
                self.inner.control.refresh().await?;
                let now = self.form()?;
                if now == form { Err(error) } else { self.run_in(now, principal, statement, parameters).await }
            }
            ran => ran,
        }
    }

    /// What a write answered with `row_version` and `epoch`: the version, if it wrote; the epoch is taken note of.
    #[must_use]
    pub fn written(&self, rows: &[Row]) -> Option<i64> {
        let row = rows.first()?;
        self.inner.control.saw(row.get("epoch"));
        Some(row.get("row_version"))
    }

    async fn run_in(
        &self,
        form: Form,
        principal: Option<&str>,
        statement: &Statement,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, StorageError> {
        let connection = self.inner.database.get_as(principal).await?;
        Ok(connection.query(statement.forms[form as usize], parameters).await?)
    }

    fn form(&self) -> Result<Form, StorageError> {
        match self.inner.side {
            Side::Before => Ok(Form::Old),
            Side::After => Ok(Form::New),
            Side::During => {
                let phase = self.inner.control.phase(self.inner.dual.migration);
                match phase {
                    Phase::Idle => Err(StorageError::Phase { migration: self.inner.dual.migration, phase }),
                    Phase::Contract => Ok(Form::New),
                    _ => Ok(Form::Both),
                }
            }
        }
    }
}

/// A column, function or table that a contract or an undo took away.
const GONE: [SqlState; 3] = [SqlState::UNDEFINED_COLUMN, SqlState::UNDEFINED_FUNCTION, SqlState::UNDEFINED_TABLE];

/// Whether an error may come from a phase that we have not heard of yet.
fn outdated(error: &StorageError) -> bool {
    match error {
        StorageError::Fenced | StorageError::Schema => true,
        StorageError::Database(error) => error.sql_state().is_some_and(|state| GONE.contains(state)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::NAMES;
    use super::*;

    #[test]
    fn gaps_are_filled_as_the_phase_has_it() {
        let update = "UPDATE people SET {set:3} WHERE id = $1 AND '{}' = $2";
        let filled = |form| fill(&NAMES, form, update);
        assert_eq!(
            filled(Form::Old),
            "UPDATE people SET name = $3::text, row_version = people.row_version + 1, writer_schema = 1 WHERE id = $1 AND '{}' = $2"
        );
        assert_eq!(
            filled(Form::Both),
            "UPDATE people SET first_name = $3::text, last_name = $4::text, row_version = people.row_version + 1, \
             writer_schema = 2 WHERE id = $1 AND '{}' = $2"
        );
        assert_eq!(
            fill(&NAMES, Form::Old, "INSERT INTO people (id, {columns}) VALUES ($1, {values:2})"),
            "INSERT INTO people (id, name, row_version, writer_schema) VALUES ($1, $2::text, 1, 1)"
        );
        assert_eq!(fill(&NAMES, Form::New, "SELECT {read}"), "SELECT first_name, last_name");
    }
}
