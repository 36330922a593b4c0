//! What a process must know to be one of two colors.
//!
//! What it is ([`color`], [`release`]), what it promises its clients ([`contract`]), how it lives and leaves ([`lifecycle`]),
//! what it shares with the other color ([`database`], [`storage`]), how it asks others over HTTP ([`http`]), and what none of
//! them shows ([`secret`]). The rooms keep apart: no SQL in the lifecycle, no HTTP in the storage. Nothing here reads the
//! environment, opens a listener or installs a global, so blue and green fit in one process.

pub mod color;
pub mod contract;
pub mod database;
pub mod http;
pub mod lifecycle;
pub mod operators;
pub mod release;
pub mod secret;
pub mod storage;

pub use color::Color;
pub use database::Database;
pub use lifecycle::Lifecycle;
pub use release::Release;
pub use secret::{Secret, SecretUrl};
