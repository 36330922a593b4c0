//! End to end: one binary, one file per promise.

mod clients;
mod conformance;
mod database;
mod doors;
mod drain;
mod hostile;
mod house;
mod migrate;
mod once;
mod outlive;
mod subscriptions;
mod widget;
