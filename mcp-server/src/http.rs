//! HTTP: how connections come in ([`listener`]), what is done around every answer ([`edge`]), whose requests are taken
//! ([`origin`]), and the doors other than `/mcp` ([`doors`]). Nothing here knows a tool.

pub(crate) mod accept;
pub(crate) mod body;
pub(crate) mod connection;
pub(crate) mod connections;
pub(crate) mod doors;
pub(crate) mod edge;
pub(crate) mod listener;
pub(crate) mod origin;
pub(crate) mod percent;
pub(crate) mod widget_test;
