//! Row-level security: PostgreSQL itself holds whose rows a caller's statements reach, so that a statement that forgets to ask
//! does no harm.
//!
//! A statement runs in a caller's name when its connection comes from [`Database::get_as`] with
//! [`Principal::subject`](crate::extract::Principal::subject), or in what [`Once`](crate::answers::Once) begins. What must stay
//! true: where nobody is named the policies let everything through, because the release before names nobody.

use bg_runtime::{Database, storage::migration::Migration};

/// The policies of the framework's tables. A table of an application's own takes one as they do:
///
/// ```sql
/// ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
/// ALTER TABLE notes FORCE ROW LEVEL SECURITY;
/// CREATE POLICY own ON notes USING (
///     coalesce((SELECT current_setting('mcp.principal', true)), '') IN ('', owner)
/// );
/// ```
pub const MIGRATION: Migration = Migration::new("0008_row_security", include_str!("../migrations/0008_row_security/expand.sql"));

/// The policies of what belongs to an owner by its session or its conversation.
pub const BY_OWNER: Migration = Migration::new("0020_row_security", include_str!("../migrations/0020_row_security/expand.sql"));

/// Says so if the user of the database passes by the policies. A PostgreSQL that we run ourselves is for development, and its
/// only user is a superuser.
pub(crate) async fn check(database: &Database) {
    match database.obeys_policies().await {
        Ok(true) => match database.owns_tables().await {
            Ok(true) => tracing::info!(
                "the user of DATABASE_URL owns the tables, and so can change their policies: a user of its own that serves, beside one that migrates (DATABASE_MIGRATE_URL), cannot"
            ),
            Ok(false) => {}
            Err(failure) => tracing::debug!(error = %failure, "whether the user owns the tables is not known: {failure}"),
        },
        Ok(false) if database.is_private() => {
            tracing::info!("row-level security does not hold in a private PostgreSQL: its user is a superuser");
        }
        Ok(false) => tracing::warn!(
            "row-level security does not hold: the user of DATABASE_URL is a superuser or has BYPASSRLS; give it a user that is neither"
        ),
        Err(failure) => tracing::warn!(error = %failure, "whether row-level security holds is not known: {failure}"),
    }
}
