//! Switches back and forth by the operator's own command, under calls, sessions, streams, bookings and widgets: nothing is
//! lost, doubled, or answered by a color that was switched away from before the call was made.
//!
//! `./dev test` makes a few, `./dev soak` a thousand, and prints how quick they were.

use std::time::{Duration, Instant};

use bg_runtime::Color;
use tests::{
    load::{Load, Mix, Outcome},
    local::Local,
    server::binary,
};

/// One command: when it was given, when it had ended, and who was live then.
struct Switch {
    given: Instant,
    done: Instant,
    to: Color,
}

/// How many, when nobody says.
const SWITCHES: usize = 40;
/// What comes before the first, to compare with.
const BEFORE: Duration = Duration::from_secs(2);
/// So long after a command, calls count as made during the switch.
const DURING: Duration = Duration::from_millis(100);
/// Answered between two switches.
const BETWEEN: u64 = 20;

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
    let begun = Instant::now();
    tokio::time::sleep(BEFORE).await;
    let mut done: Vec<Switch> = Vec::with_capacity(switches);
    for turn in 0..switches {
        let given = Instant::now();
        // Going back is the same move.
        let (verb, to) = if turn % 2 == 0 { ("switch", Color::Green) } else { ("rollback", Color::Blue) };
        local.rollout(&[verb]).await.assert(0);
        done.push(Switch { given, done: Instant::now(), to });
        load.more(BETWEEN).await;
    }
    let outcome = load.stop().await;
    outcome.assert_whole();
    let booked: usize = local.query("SELECT count(*) FROM appointments").await.parse().expect("it is a number");
    assert_eq!(booked, outcome.booked.len(), "a booking was lost or made twice");
    assert_eq!(outcome.sessions_begun, 4, "a client had to begin anew");
    assert!(outcome.streams_opened > 2, "no stream came to the other color");

    let mut late = 0;
    for (turn, switch) in done.iter().enumerate() {
        let until = done.get(turn + 1).map_or(Instant::now(), |next| next.given);
        let wrong = outcome.calls.iter().filter(|call| call.at > switch.done && call.at < until && call.color != switch.to);
        late += wrong.count();
    }
    assert_eq!(late, 0, "calls that were made after a switch were answered by the color before it");
    print(&outcome, &done, begun);
}

#[expect(clippy::print_stdout, reason = "figures are there to be read; `--nocapture` shows them")]
fn print(outcome: &Outcome, done: &[Switch], begun: Instant) {
    let mut first = Vec::new();
    let mut whole = Vec::new();
    for (turn, switch) in done.iter().enumerate() {
        let until = done.get(turn + 1).map_or(Instant::now(), |next| next.given);
        let since: Vec<_> = outcome.calls.iter().filter(|call| call.at + call.took > switch.given && call.at < until).collect();
        // As a client sees it: the end of the first call that the new color answered, and the beginning of the last that the
        // old one did.
        let new = since.iter().filter(|call| call.color == switch.to && call.at >= switch.given).map(|call| call.at + call.took);
        first.extend(new.min().map(|moment| moment - switch.given));
        let old = since.iter().filter(|call| call.color != switch.to).map(|call| call.at.saturating_duration_since(switch.given));
        whole.push(old.max().unwrap_or_default());
    }
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let spread = |mut times: Vec<Duration>| {
        times.sort_unstable();
        let at = |share: usize| ms(times[(times.len() * share / 100).min(times.len() - 1)]);
        format!("p50 {:.1} ms, p99 {:.1} ms, worst {:.1} ms", at(50), at(99), ms(times[times.len() - 1]))
    };
    let mut during: Vec<_> = outcome
        .calls
        .iter()
        .filter(|call| done.iter().any(|switch| call.at >= switch.given && call.at < switch.given + DURING))
        .map(|call| call.took)
        .collect();
    during.sort_unstable();
    let p99 = during.get((during.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default();
    let before = outcome.p99(begun, begun + BEFORE).unwrap_or_default();
    println!(
        "{} switches, {} calls, {} bookings, {} streams opened: nothing lost, doubled or misrouted",
        done.len(),
        outcome.calls.len(),
        outcome.booked.len(),
        outcome.streams_opened
    );
    println!("from the command to the first answer of the new color: {}", spread(first));
    println!("from the command to the last call that the old one took: {}", spread(whole));
    println!("p99 of calls: {:.1} ms before, {:.1} ms during ({:.2} times)", ms(before), ms(p99), ms(p99) / ms(before));
}
