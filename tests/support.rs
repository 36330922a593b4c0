//! What the end-to-end tests share: real processes, and real clients to speak to them.

#[path = "support/aws.rs"]
pub mod aws;
#[path = "support/chaos.rs"]
pub mod chaos;
#[path = "support/command.rs"]
pub mod command;
#[path = "support/front.rs"]
pub mod front;
#[path = "support/http.rs"]
pub mod http;
#[path = "support/issuer.rs"]
pub mod issuer;
#[path = "support/load.rs"]
pub mod load;
#[path = "support/local.rs"]
pub mod local;
#[path = "support/node.rs"]
pub mod node;
#[path = "support/postgres.rs"]
pub mod postgres;
#[path = "support/receiver.rs"]
pub mod receiver;
#[path = "support/server.rs"]
pub mod server;
#[path = "support/switches.rs"]
pub mod switches;
