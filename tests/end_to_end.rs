//! End to end: one binary, one file per promise.

mod advisories;
mod authorization;
mod browser;
mod client_warnings;
mod clients;
mod conformance;
mod conversation;
mod database;
mod doors;
mod drain;
// Many processes listen on the same two ports, which takes Linux: it answers on all of 127/8.
#[cfg(target_os = "linux")]
mod ecs;
mod front_door;
mod hostile;
mod house;
mod http2;
mod kubernetes;
mod limits;
mod manifests;
#[cfg(target_os = "linux")]
mod memory;
mod migrate;
mod once;
mod outlive;
mod overload;
mod published;
mod rollout;
mod row_security;
mod same_id;
mod secrets;
mod sessions;
#[cfg(target_os = "linux")]
mod shifter;
mod soak;
mod subscriptions;
mod widget;
