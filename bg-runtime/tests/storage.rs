//! What storage that two releases share promises, against a PostgreSQL of the test's own.
//!
//! One file per promise. Where writers run, a ledger notes what was acknowledged to whom, and is held against the database at
//! the end.

#![expect(clippy::unwrap_used, reason = "what a test needs fails the test when it is missing")]

#[path = "support/home.rs"]
mod home;
#[path = "storage/sessions.rs"]
mod sessions;

#[path = "storage/crash.rs"]
mod crash;
#[path = "storage/fence.rs"]
mod fence;
#[path = "storage/flags.rs"]
mod flags;
#[path = "storage/mixed.rs"]
mod mixed;
#[path = "storage/network.rs"]
mod network;
#[path = "storage/plain.rs"]
mod plain;
#[path = "storage/refused.rs"]
mod refused;
#[path = "storage/replicas.rs"]
mod replicas;
#[path = "storage/rollback.rs"]
mod rollback;
#[path = "storage/start.rs"]
mod start;
#[path = "storage/validator.rs"]
mod validator;
