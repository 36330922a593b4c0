//! Storage that two releases share. No HTTP in here.
//!
//! [`migration`] says what a migration is and applies its expand; [`dual_write`] lets two releases write one table in two
//! shapes; [`phase`] is the table of who may do what when; [`control`] tells every replica; [`coordinator`] moves it on and
//! back, one at a time, with [`backfill`] and [`validator`] as its proof; [`status`] tells
//! where everything stands.

pub mod backfill;
pub mod control;
pub mod coordinator;
pub mod dual_write;
pub mod flag;
pub mod migration;
pub mod phase;
pub mod status;
pub mod validator;

pub use control::{Control, Replica};
pub use coordinator::Coordinator;
pub use dual_write::{DualWrite, StorageError, Table};
pub use phase::Phase;
