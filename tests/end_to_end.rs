//! End to end: one binary, one file per promise.

mod clients;
mod database;
mod doors;
mod drain;
mod hostile;
mod house;
