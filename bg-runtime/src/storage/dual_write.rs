//! One table in two shapes: the release before writes old columns, this one writes new columns, and a trigger keeps each
//! true to the other.
//!
//! A developer declares the columns and a lens, the way from each shape to the other, and gets the columns, the trigger,
//! the backfill and the validator from that. What must stay true: a write is compared and set (`row_version`), so that no
//! writer overwrites what it has not seen; a row says who wrote it last (`writer_schema`) and which write its new columns
//! come from (the mark), so that a reader can tell the fresh from the stale without asking anybody.

mod table;

use std::fmt::Write as _;

pub use self::table::{Side, Statement, Table, Versioned};

use self::table::Form;
use super::phase::Phase;
use crate::database::DatabaseError;

/// A table that changes its shape while two releases write it.
///
/// The table has one key column, and `row_version bigint NOT NULL DEFAULT 0` and `writer_schema smallint NOT NULL DEFAULT
/// 1` from its first day; the migration adds them where they are missing.
#[derive(Debug, PartialEq, Eq)]
pub struct DualWrite {
    /// The migration it belongs to, `NNNN_name`.
    pub migration: &'static str,
    /// The table, without a schema.
    pub table: &'static str,
    /// Its primary key: one column, of a type with an order (`text`, `uuid`, `bigint`, `integer`).
    pub key: Key,
    /// What the release before knows.
    pub old: Shape,
    /// What this release knows. The columns have no default, and may be NULL until the contract.
    pub new: Shape,
    /// The column that holds the `row_version` whose write the new columns come from. The migration adds it.
    pub mark: &'static str,
    /// What no row may show, such as a call that carries the new release's tag and the old version.
    pub tags: &'static [Tag],
}

/// A key column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Its PostgreSQL type.
    pub kind: &'static str,
}

/// The columns of one release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What its writers say in `writer_schema`. The new one is the old one plus one.
    pub schema: i16,
    /// The columns.
    pub columns: &'static [Column],
}

/// A column of one shape, and how it comes from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its PostgreSQL type.
    pub kind: &'static str,
    /// An immutable SQL expression that gives the column. An old column is made of the new ones by their names. A new column
    /// is made of the old ones, and of what the new ones were before the write (NULL for a new row): whatever the old shape
    /// cannot say is taken from there.
    ///
    /// Both laws must hold, and the validator checks them on real rows: old made of (new made of old) is the same old; new
    /// made of (old made of new) is the same new.
    pub lens: &'static str,
}

/// A rule about the tags that writes carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// What it is about, in words.
    pub name: &'static str,
    /// The table.
    pub table: &'static str,
    /// A column that names a row.
    pub key: &'static str,
    /// A condition that no row meets.
    pub never: &'static str,
}

/// Why a read or write of a shared table did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Somebody else wrote the row since it was read, or it is gone. Read it again and decide anew.
    #[error("the row was written by somebody else since it was read")]
    Conflict,
    /// The key is taken.
    #[error("a row of this key exists already")]
    Exists,
    /// Writes of this release's shape are no longer let in: it is too old for the database. Another replica can do it.
    #[error("the table no longer takes writes of this release's shape (MC001)")]
    Fenced,
    /// The migration that this release stands on is not in the database (any more), or a later one removed what it needs.
    #[error("the migration {migration} is in phase {phase}, in which this release cannot use its table")]
    Phase {
        /// The migration.
        migration: &'static str,
        /// Where it stands.
        phase: Phase,
    },
    /// `row_version` may only grow by one (MC002).
    #[error("a write must raise row_version by exactly one (MC002)")]
    Version,
    /// Columns of one shape were written under the tag of the other, or under none (MC003).
    #[error("columns were written without the version and tag of their shape (MC003)")]
    Untagged,
    /// An isolation level under which the fence would not hold (MC004).
    #[error("writes to this table need the isolation level read committed (MC004)")]
    Isolation,
    /// A `writer_schema` that the table does not know (MC005).
    #[error("a writer of a schema that the table does not know (MC005)")]
    Schema,
    /// PostgreSQL stores no NUL character, neither in text nor in JSON.
    #[error("a value holds the character NUL (\\u0000), which PostgreSQL cannot store")]
    Nul,
    /// What is stored is not of the type it was read as.
    #[error("the stored state is not of the type it was read as")]
    State,
    /// The database failed or refused.
    #[error(transparent)]
    Database(DatabaseError),
}

// === impl StorageError ===

impl From<DatabaseError> for StorageError {
    fn from(error: DatabaseError) -> Self {
        match error.sql_state().map(crate::database::SqlState::code) {
            Some("MC001") => Self::Fenced,
            Some("MC002") => Self::Version,
            Some("MC003") => Self::Untagged,
            Some("MC004") => Self::Isolation,
            Some("MC005") => Self::Schema,
            // Untranslatable character in JSON, invalid byte in text: with UTF-8 from Rust both can only be NUL.
            Some("22P05" | "22021") => Self::Nul,
            _ => Self::Database(error),
        }
    }
}

impl StorageError {
    /// Whether the same call may succeed a moment later, here or on another replica.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Fenced | Self::Phase { .. } => true,
            Self::Database(error) => error.is_retryable(),
            _ => false,
        }
    }
}

// === impl DualWrite ===

impl DualWrite {
    /// What is wrong with the declaration, in words.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut name = |what: &str, name: &str| {
            let letters = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'_';
            if name.is_empty() || !name.bytes().all(letters) || name.len() > 63 {
                mistakes
                    .push(format!("{}: {what} `{name}` must be lower-case letters, digits and _, 63 at most", self.migration));
            }
        };
        name("the table", self.table);
        name("the key", self.key.name);
        name("the mark", self.mark);
        for column in self.columns() {
            name("the column", column.name);
            name("the lens function", &self.lens(column));
        }
        if self.new.schema != self.old.schema + 1 {
            mistakes.push(format!("{}: the new schema must be the old one plus one", self.migration));
        }
        if self.old.columns.is_empty() || self.new.columns.is_empty() {
            mistakes.push(format!("{}: each shape needs a column", self.migration));
        }
        let mut names: Vec<_> = self.columns().map(|column| column.name).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            mistakes.push(format!("{}: two columns have one name; a column that stays is in neither shape", self.migration));
        }
        if self.columns().any(|column| column.lens.contains("$lens$")) {
            mistakes.push(format!("{}: a lens may not contain $lens$", self.migration));
        }
        mistakes
    }

    /// The columns of both shapes.
    pub(super) fn columns(&self) -> impl Iterator<Item = &'static Column> + use<> {
        self.old.columns.iter().chain(self.new.columns)
    }

    /// The function that makes a column.
    pub(super) fn lens(&self, column: &Column) -> String {
        format!("mcp_lens_{}_{}", self.table, column.name)
    }

    pub(super) fn function(&self) -> String {
        format!("mcp_dual_write_{}", self.table)
    }

    pub(super) fn guard_function(&self) -> String {
        format!("mcp_dual_guard_{}", self.table)
    }

    /// What a new column is, made of the old ones and of what `new` were; each given as an expression.
    fn put(&self, column: &Column, new: impl Fn(&Column) -> String, old: impl Fn(&Column) -> String) -> String {
        let arguments: Vec<_> = self.new.columns.iter().map(new).chain(self.old.columns.iter().map(old)).collect();
        format!("{}({})", self.lens(column), arguments.join(", "))
    }

    /// What an old column is, made of the new ones.
    fn take(&self, column: &Column, new: impl Fn(&Column) -> String) -> String {
        let arguments: Vec<_> = self.new.columns.iter().map(new).collect();
        format!("{}({})", self.lens(column), arguments.join(", "))
    }

    /// The SQL that expand runs for this declaration, after the migration's own. It can run again. `schema` is where the
    /// control tables are, quoted as SQL needs it.
    #[must_use]
    pub fn expand_sql(&self, schema: &str) -> String {
        let table = self.table;
        let mut sql = format!("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS row_version bigint NOT NULL DEFAULT 0");
        let _ = write!(sql, ", ADD COLUMN IF NOT EXISTS writer_schema smallint NOT NULL DEFAULT {}", self.old.schema);
        for column in self.new.columns {
            let _ = write!(sql, ", ADD COLUMN IF NOT EXISTS {} {}", column.name, column.kind);
        }
        let _ = writeln!(sql, ", ADD COLUMN IF NOT EXISTS {} bigint;", self.mark);
        sql.push_str(&self.functions_sql(schema));
        let old: Vec<_> = self.old.columns.iter().map(|column| column.name).collect();
        // The guard fires only for a statement that names the old columns, which one of the new release does not: comparing
        // documents in the trigger would cost each of its writes a fifth of what the trigger costs.
        let _ = writeln!(
            sql,
            "DROP TRIGGER IF EXISTS {TRIGGER} ON {table}; DROP TRIGGER IF EXISTS {GUARD} ON {table};\n\
             CREATE TRIGGER {TRIGGER} BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {}();\n\
             CREATE TRIGGER {GUARD} BEFORE UPDATE OF {} ON {table} FOR EACH ROW WHEN ({}) EXECUTE FUNCTION {}();",
            self.function(),
            old.join(", "),
            self.mistagged(),
            self.guard_function(),
        );
        sql
    }

    /// When old columns were written under the tag of the new ones, and say something else than these.
    fn mistagged(&self) -> String {
        let new = |column: &Column| format!("NEW.{}", column.name);
        let said = |column: &Column| {
            let taken = self.take(column, new);
            format!("(NEW.{0} IS DISTINCT FROM OLD.{0} AND NEW.{0} IS DISTINCT FROM {taken})", column.name)
        };
        let said: Vec<_> = self.old.columns.iter().map(said).collect();
        let schema = self.new.schema;
        format!("NEW.row_version <> OLD.row_version AND NEW.writer_schema = {schema} AND ({})", said.join(" OR "))
    }

    /// The lens and the trigger's function.
    pub(super) fn functions_sql(&self, schema: &str) -> String {
        let mut sql = String::new();
        let arguments = |columns: &[Column]| {
            let list: Vec<_> = columns.iter().map(|column| format!("{} {}", column.name, column.kind)).collect();
            list.join(", ")
        };
        let new = arguments(self.new.columns);
        for (column, arguments) in self
            .old
            .columns
            .iter()
            .map(|column| (column, new.clone()))
            .chain(self.new.columns.iter().map(|column| (column, format!("{new}, {}", arguments(self.old.columns)))))
        {
            // Without a search path of its own the planner can inline it: a call costs nothing.
            let _ = writeln!(
                sql,
                "CREATE OR REPLACE FUNCTION {}({arguments}) RETURNS {} LANGUAGE sql IMMUTABLE PARALLEL SAFE AS \
                 $lens$SELECT ({})::{}$lens$;",
                self.lens(column),
                column.kind,
                column.lens,
                column.kind
            );
        }
        let _ = writeln!(
            sql,
            "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SET search_path = {schema}, pg_temp AS \
             $mcp${}$mcp$;",
            self.function(),
            self.body()
        );
        let _ = writeln!(
            sql,
            "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql AS $mcp$\nBEGIN\n    \
             RAISE EXCEPTION 'old columns of {} were written under the tag of the new ones' USING ERRCODE = 'MC003';\n\
             END\n$mcp$;",
            self.guard_function(),
            self.table
        );
        sql
    }

    fn body(&self) -> String {
        let row = |row: &'static str| move |column: &Column| format!("{row}.{}", column.name);
        let differ = |columns: &[Column]| {
            let list: Vec<_> = columns.iter().map(|column| format!("NEW.{0} IS DISTINCT FROM OLD.{0}", column.name)).collect();
            list.join(" OR ")
        };
        // Assigned at once and not one by one: each new column may be made of what the others were.
        let put = |before: &'static str, indent: &str| {
            let before = move |column: &Column| {
                if before.is_empty() { format!("NULL::{}", column.kind) } else { format!("{before}.{}", column.name) }
            };
            let made: Vec<_> = self.new.columns.iter().map(|column| self.put(column, before, row("NEW"))).collect();
            let names: Vec<_> = self.new.columns.iter().map(|column| format!("NEW.{}", column.name)).collect();
            assign(&names, &made, indent)
        };
        let take = |indent: &str| {
            let made: Vec<_> = self.old.columns.iter().map(|column| self.take(column, row("NEW"))).collect();
            let names: Vec<_> = self.old.columns.iter().map(|column| format!("NEW.{}", column.name)).collect();
            assign(&names, &made, indent)
        };
        let (table, migration, mark, old, new) = (self.table, self.migration, self.mark, self.old.schema, self.new.schema);
        format!(
            r"
-- Generated from the declaration of {migration}; the validator compares it with what the declaration says.
DECLARE
    least smallint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'writes to {table} need the isolation level read committed' USING ERRCODE = 'MC004';
    END IF;
    IF TG_OP = 'INSERT' THEN
        IF NEW.row_version = 0 THEN
            IF {given} THEN
                RAISE EXCEPTION 'new columns of {table} were written without row_version' USING ERRCODE = 'MC003';
            END IF;
            NEW.row_version := 1;
            NEW.writer_schema := {old};
        ELSIF NEW.row_version <> 1 THEN
            RAISE EXCEPTION 'a new row of {table} has row_version 1' USING ERRCODE = 'MC002';
        END IF;
    ELSIF NEW.row_version = OLD.row_version THEN
        IF {new_differ} THEN
            RAISE EXCEPTION 'new columns of {table} were written without raising row_version' USING ERRCODE = 'MC003';
        END IF;
        IF NOT ({old_differ}) THEN
            -- Nothing was said: a touch, or the backfill. What is stale is made from the side that was written last.
            IF NEW.{mark} IS DISTINCT FROM NEW.row_version THEN
                IF {spoken} THEN
{heal_old}
                ELSE
{heal_new}
                END IF;
                NEW.{mark} := NEW.row_version;
            END IF;
            RETURN NEW;
        END IF;
        -- A writer that has never heard of versions.
        NEW.row_version := OLD.row_version + 1;
        NEW.writer_schema := {old};
    ELSIF NEW.row_version <> OLD.row_version + 1 THEN
        RAISE EXCEPTION 'row_version of {table} may only grow by one' USING ERRCODE = 'MC002';
    END IF;
    SELECT min_writer INTO least FROM mcp_migrations WHERE name = '{migration}';
    IF NEW.writer_schema < least THEN
        RAISE EXCEPTION '{table} takes no writes of schema % any more', NEW.writer_schema USING ERRCODE = 'MC001';
    END IF;
    IF NEW.writer_schema = {old} THEN
        IF TG_OP = 'INSERT' THEN
{put_first}
        ELSE
{put_again}
        END IF;
    ELSIF NEW.writer_schema = {new} THEN
{take}
    ELSE
        RAISE EXCEPTION '{table} knows no schema %', NEW.writer_schema USING ERRCODE = 'MC005';
    END IF;
    NEW.{mark} := NEW.row_version;
    RETURN NEW;
END
",
            spoken = self.spoken("NEW."),
            given = self.given("NEW."),
            new_differ = differ(self.new.columns),
            old_differ = differ(self.old.columns),
            heal_old = take("                    "),
            heal_new = put("OLD", "                    "),
            put_first = put("", "            "),
            put_again = put("OLD", "            "),
            take = take("        "),
        )
    }

    /// When the new columns were written last, whatever the mark says: the trigger was switched off then, and the old ones
    /// are stale. The tag alone does not say so: it outlives an undo, which takes the columns away.
    fn spoken(&self, row: &str) -> String {
        format!("{row}writer_schema = {} AND ({})", self.new.schema, self.given(row))
    }

    /// When a row says anything in the new columns.
    fn given(&self, row: &str) -> String {
        let given: Vec<_> = self.new.columns.iter().map(|column| format!("{row}{} IS NOT NULL", column.name)).collect();
        given.join(" OR ")
    }

    /// A condition that only a row meets whose two shapes say the same.
    pub(super) fn same(&self) -> String {
        let bare = |column: &Column| column.name.to_owned();
        let mut same = format!("{} IS NOT DISTINCT FROM row_version", self.mark);
        for column in self.old.columns {
            let _ = write!(same, " AND {} IS NOT DISTINCT FROM {}", column.name, self.take(column, bare));
        }
        same
    }

    /// A condition that only a row meets on which a law of the lens does not hold.
    pub(super) fn lawless(&self) -> String {
        let bare = |column: &Column| column.name.to_owned();
        let put = |column: &Column| self.put(column, bare, bare);
        let again = |column: &Column| self.put(column, bare, |old: &Column| self.take(old, bare));
        let mut laws = Vec::new();
        for column in self.old.columns {
            laws.push(format!("{} IS DISTINCT FROM {}", column.name, self.take(column, put)));
        }
        for column in self.new.columns {
            laws.push(format!("{} IS DISTINCT FROM {}", column.name, again(column)));
        }
        laws.join(" OR ")
    }

    /// Keeps VACUUM off the table until the transaction ends, which stalls no reader and no writer. A stronger lock would wait
    /// for an autovacuum, which a backfill brings about, and all writers behind it; and it would never get it: an autovacuum
    /// gives way to whoever has waited for `deadlock_timeout`, one second by default.
    pub(super) fn keep_vacuum_out(&self) -> String {
        let table = self.table;
        format!(
            "SET LOCAL lock_timeout = '3s'; DO $mcp$ BEGIN IF to_regclass('{table}') IS NOT NULL THEN \
             LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE; END IF; END $mcp$"
        )
    }

    /// The constraint that proves it, and makes it stay true.
    pub(super) fn constraint_sql(&self) -> String {
        format!("ALTER TABLE {} ADD CONSTRAINT {CONSTRAINT} CHECK ({}) NOT VALID", self.table, self.same())
    }

    /// Takes the trigger, its functions and the proof away.
    fn drop_functions_sql(&self) -> String {
        let table = self.table;
        let mut sql = format!("ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {CONSTRAINT};\n");
        for (trigger, function) in [(TRIGGER, self.function()), (GUARD, self.guard_function())] {
            let _ = writeln!(sql, "DROP TRIGGER IF EXISTS {trigger} ON {table};\nDROP FUNCTION IF EXISTS {function}();");
        }
        for column in self.columns() {
            let _ = writeln!(sql, "DROP FUNCTION IF EXISTS {};", self.lens(column));
        }
        sql
    }

    pub(super) fn contract_sql(&self) -> String {
        self.drop_columns(self.old.columns)
    }

    pub(super) fn undo_sql(&self) -> String {
        self.drop_columns(self.new.columns)
    }

    fn drop_columns(&self, columns: &[Column]) -> String {
        let mut sql = self.drop_functions_sql();
        let _ = write!(sql, "ALTER TABLE {} DROP COLUMN IF EXISTS {}", self.table, self.mark);
        for column in columns {
            let _ = write!(sql, ", DROP COLUMN IF EXISTS {}", column.name);
        }
        sql.push_str(";\n");
        sql
    }

    fn shape(&self, form: Form) -> &Shape {
        match form {
            Form::Old => &self.old,
            Form::Both | Form::New => &self.new,
        }
    }

    /// The values of a shape, from the caller's parameters `$first` and on.
    fn values(&self, form: Form, first: usize) -> Vec<String> {
        let columns = self.shape(form).columns.iter().enumerate();
        columns.map(|(at, column)| format!("${}::{}", first + at, column.kind)).collect()
    }

    /// The shape's columns for a `SELECT`.
    fn read(&self, form: Form) -> String {
        let bare = |column: &Column| column.name.to_owned();
        let list: Vec<_> = match form {
            Form::Old => self.old.columns.iter().map(bare).collect(),
            Form::New => self.new.columns.iter().map(bare).collect(),
            // A row whose last writer wrote the new columns is fresh whatever the mark says: only a switched-off trigger
            // leaves it behind, and then the old columns are the stale ones.
            Form::Both => {
                let fresh = format!("{} = row_version OR {}", self.mark, self.spoken(""));
                let made = self.new.columns.iter().map(|column| (column.name, self.put(column, bare, bare)));
                made.map(|(name, made)| format!("CASE WHEN {fresh} THEN {name} ELSE {made} END AS {name}")).collect()
            }
        };
        list.join(", ")
    }
}

fn assign(names: &[String], made: &[String], indent: &str) -> String {
    if let ([name], [made]) = (names, made) {
        return format!("{indent}{name} := {made};");
    }
    format!("{indent}SELECT {} INTO {};", made.join(", "), names.join(", "))
}

/// Triggers fire in the order of their names: this one sees what the others made of the row.
pub(super) const TRIGGER: &str = "zzz_mcp_dual_write";
/// Before the other one, which makes the old columns anew.
pub(super) const GUARD: &str = "zzy_mcp_dual_guard";
pub(super) const CONSTRAINT: &str = "mcp_both_shapes_agree";

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(super) static NAMES: DualWrite = DualWrite {
        migration: "0002_names",
        table: "people",
        key: Key { name: "id", kind: "bigint" },
        old: Shape {
            schema: 1,
            columns: &[Column { name: "name", kind: "text", lens: "concat_ws(' ', first_name, last_name)" }],
        },
        new: Shape {
            schema: 2,
            columns: &[
                Column { name: "first_name", kind: "text", lens: "split_part(name, ' ', 1)" },
                Column { name: "last_name", kind: "text", lens: "split_part(name, ' ', 2)" },
            ],
        },
        mark: "names_version",
        tags: &[],
    };

    #[test]
    fn a_declaration_that_cannot_work_is_told_so() {
        assert_eq!(NAMES.mistakes(), Vec::<String>::new());
        let wrong = DualWrite {
            table: "People",
            new: Shape { schema: 3, columns: &[Column { name: "name", kind: "text", lens: "$lens$" }] },
            old: NAMES.old,
            ..DualWrite { tags: &[], ..NAMES }
        };
        assert_eq!(wrong.mistakes().len(), 6, "{:#?}", wrong.mistakes());
    }
}
