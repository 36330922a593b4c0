//! End to end: one binary, one file per promise.

mod authorization;
mod clients;
mod conformance;
mod conversation;
mod database;
mod doors;
mod drain;
mod front_door;
mod hostile;
mod house;
mod kubernetes;
mod manifests;
mod migrate;
mod once;
mod outlive;
mod published;
mod rollout;
mod sessions;
mod soak;
mod subscriptions;
mod widget;
