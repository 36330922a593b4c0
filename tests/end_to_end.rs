//! End to end: one binary, one file per promise.

mod clients;
mod doors;
mod drain;
mod hostile;
