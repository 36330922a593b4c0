//! What the targets share: how a file is read as requests, and an application that answers them in this process.
//!
//! What must stay true: an input means the same each time, so that a finding can be seen again; time is paused, so that a
//! deadline costs none.

pub mod frame;
pub mod house;
pub mod request;
