//! What the user that serves may do, when another one owns the tables and migrates.
//!
//! What must stay true: it reads and writes rows and no more. It changes no schema, switches no policy off, and moves no phase.

use super::{Coordinator, CoordinatorError, LOCK_TIMEOUT};
use crate::database::{DatabaseError, Type};

/// What says which migrations are applied and which phases and flags hold: read by those that serve, changed by the owner.
const READ_ONLY: [&str; 5] = ["mcp_control", "mcp_flags", "mcp_migrations", "mcp_migration_log", "mcp_migration_steps"];

/// The statements that make it so, for everything in the schema that the current user owns. The journal of rollouts is in the
/// same schema and none of a server's business.
const STATEMENTS: &str = "WITH schema AS (SELECT oid, nspname FROM pg_catalog.pg_namespace WHERE nspname = current_schema()), \
     owned AS (SELECT c.oid::regclass AS name, c.relkind = 'S' AS is_sequence, c.relname = ANY ($2) AS is_read_only \
         FROM pg_catalog.pg_class c JOIN schema ON relnamespace = schema.oid \
         WHERE c.relkind IN ('r', 'p', 'S') AND pg_catalog.pg_get_userbyid(c.relowner) = current_user \
         AND c.relname NOT LIKE 'mcp_rollout%') \
     SELECT format('GRANT USAGE ON SCHEMA %I TO %I', nspname, $1) FROM schema \
     UNION ALL SELECT format('GRANT USAGE, SELECT ON SEQUENCE %s TO %I', name, $1) FROM owned WHERE is_sequence \
     UNION ALL SELECT format('REVOKE ALL ON TABLE %s FROM %I', name, $1) FROM owned WHERE NOT is_sequence AND is_read_only \
     UNION ALL SELECT format('GRANT SELECT ON TABLE %s TO %I', name, $1) FROM owned WHERE NOT is_sequence AND is_read_only \
     UNION ALL SELECT format('GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE %s TO %I', name, $1) \
         FROM owned WHERE NOT is_sequence AND NOT is_read_only \
     UNION ALL SELECT format('GRANT EXECUTE ON FUNCTION %s TO %I', p.oid::regprocedure, $1) \
         FROM pg_catalog.pg_proc p JOIN schema ON p.pronamespace = schema.oid \
         WHERE p.prokind = 'f' AND pg_catalog.pg_get_userbyid(p.proowner) = current_user";

impl Coordinator {
    /// Grants a role what a process needs that serves. It can be said twice, and is said after each expand, for the tables that
    /// are new.
    ///
    /// # Errors
    ///
    /// See [`CoordinatorError`].
    pub async fn grant(&mut self, role: &str) -> Result<(), CoordinatorError> {
        let read_only = READ_ONLY.map(str::to_owned).to_vec();
        let rows = self.session.query(STATEMENTS, &[(&role, Type::TEXT), (&read_only, Type::TEXT_ARRAY)]).await?;
        let statements: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        let granted = self.session.batch_execute(&format!("BEGIN; {LOCK_TIMEOUT}; {}; COMMIT", statements.join("; "))).await;
        if granted.is_err() {
            let _ = self.session.batch_execute("ROLLBACK").await;
        }
        granted.map_err(DatabaseError::into)
    }
}
