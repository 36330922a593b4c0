//! Moving the traffic between two colors: ship a build as the idle one, prove it, switch, watch, and go back when it is worse.
//!
//! ```text
//! observe (driver) ─▶ plan (pure) ─▶ guard (lease) ─▶ one step (execute, gates, bake) ─▶ observe again
//!                       ▲                                   │
//!                       └────────── journal ◀───────────────┘
//! ```
//!
//! The local platform ([`local`], [`front`]) is what the other drivers have in a cluster.

pub mod alert;
pub mod bake;
pub mod compare;
pub mod console;
pub mod driver;
pub mod execute;
pub mod front;
pub mod gate;
pub mod journal;
pub mod local;
pub mod metrics;
pub mod operator_secret;
pub mod plan;
pub mod record;
pub mod report;
pub mod share;
pub mod shifter;

pub use bg_runtime::http;

/// An error and what it is because of, in one line.
#[must_use]
pub fn chain(failure: &dyn std::error::Error) -> String {
    let mut words = failure.to_string();
    let mut cause = failure.source();
    while let Some(because) = cause {
        let more = because.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = because.source();
    }
    words
}

/// `1 replica`, `2 replicas`.
#[must_use]
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A text that neither a terminal nor a database takes for more than text.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// Comes with SIGINT or SIGTERM.
pub(crate) async fn interrupted() {
    let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
