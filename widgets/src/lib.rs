//! What a host draws: documents whole in themselves, and what a host must be told of them.
//!
//! It knows no protocol and no server. A [`Widget`] is a document of ours with its address and its confinement; who serves it,
//! and which tool it belongs to, is decided elsewhere. In `assets/`, `bridge.js` is all that a document knows of its host, and
//! the same for every widget; the rest is one widget's own.

mod appointments;

mod document;
mod widget;

pub use appointments::APPOINTMENTS;
pub use widget::{Csp, MCP_APP, SKYBRIDGE, Widget};
