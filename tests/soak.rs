//! Switches back and forth by the operator's own command, under calls, sessions, streams, bookings and widgets: nothing is
//! lost, doubled, or answered by a color that was switched away from before the call was made.
//!
//! `./dev test` makes a few, `./dev soak` a thousand, and prints how quick they were.

use tests::{
    load::{Load, Mix},
    local::Local,
    server::binary,
    switches::Switches,
};

/// How many, when nobody says.
const SWITCHES: usize = 40;

#[expect(clippy::print_stdout, reason = "figures are there to be read; `--nocapture` shows them")]
#[tokio::test(flavor = "multi_thread")]
async fn switches_under_mixed_load_lose_double_and_misroute_nothing() {
    #[expect(clippy::disallowed_methods, reason = "`./dev soak` says how many")]
    let switches = std::env::var("SOAK_SWITCHES").map_or(SWITCHES, |word| word.parse().expect("SOAK_SWITCHES is a number"));
    let image = binary("mcp-server").display().to_string();
    let local = Local::up(&binary("mcp-server"), &[], 1).await;
    let deploy = [
        "deploy",
        &image,
        "--env",
        "RELEASE_VERSION=2.0.0",
        "--bake",
        "0",
        "--load-for",
        "0.5",
        "--latency",
        "5000",
        "--load-p99",
        "5000",
    ];
    local.rollout(&deploy).await.assert(0);
    local.rollout(&["rollback"]).await.assert(0);

    let load = Load::start(local.address(), Mix::default()).await;
    let give = async |verb: &str| {
        local.rollout(&[verb]).await.assert(0);
    };
    let done = Switches::under(load, switches, give).await;
    done.assert_unnoticed(4);
    let booked: usize = local.query("SELECT count(*) FROM appointments").await.parse().expect("it is a number");
    assert_eq!(booked, done.outcome().booked.len(), "a booking was lost or made twice");
    println!("{}", done.figures());
}
