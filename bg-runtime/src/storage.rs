//! Storage that two releases share. No HTTP in here.

pub mod migration;
