//! Ten times what a process can carry: health stays green and quick, what is accepted is answered in time, the rest is refused
//! at once and told when to come again, sessions and streams stay, and when it is over it is over.
//!
//! The flood, PostgreSQL and the server share the cores of one machine, so times hold what they cost each other; how late the
//! flood itself was is told apart (`flood late`).

use std::time::{Duration, Instant};

use serde_json::json;
use tests::{
    flood::{Flood, Flow, Prober, quantile},
    http::Connection,
    postgres::DataDir,
    server::{Server, binary},
};

/// How long a flood lasts. There are two: what the first one leaves behind, the second one finds and uses.
const LASTS: Duration = Duration::from_secs(6);
/// More than there may be calls, so that some are too much.
const CONNECTIONS: usize = 800;
const FRESH: usize = 40;
const SESSIONS: usize = 50;
const STREAMS: usize = 20;
/// As it is configured unless somebody says otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

const HEALTH_WITHIN: Duration = Duration::from_millis(100);
const RECOVERED_WITHIN: Duration = Duration::from_secs(2);
/// What a process keeps of 800 connections, and of buffers that grew while they were all used.
const KEPT_KIB: u64 = 128 * 1024;
/// What a second flood adds to that.
const GROWN_KIB: u64 = 16 * 1024;

/// A page of appointments, as clients ask for it all day.
async fn request(server: &Server) -> Vec<u8> {
    let mut connection = Connection::open(server.address()).await;
    for number in 0..100 {
        let (day, hour) = (number / 10 + 1, number % 10 + 8);
        let booking = json!({ "userId": "ada", "title": format!("Meeting {number}"), "startsAt": format!("2031-05-{day:02}T{hour:02}:00"), "durationMinutes": 30 });
        assert_eq!(connection.call("book_appointment", &booking, "").await["isError"], false);
    }
    let params =
        json!({ "name": "search_appointments", "arguments": { "userId": "ada", "startDate": "2031-01-01", "limit": 100 } });
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }).to_string();
    let head =
        format!("POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}", body.len());
    format!("{head}\r\n\r\n{body}").into_bytes()
}

/// How long one call takes, one after the other.
async fn alone(flood: &Flood, lasts: Duration) -> Duration {
    let mut flow = Flood { connections: 1, fresh: 0, rate: None, lasts, ..flood.clone() }.run().await;
    assert!(flow.odd.is_empty() && flow.refused.is_empty(), "{:?}", flow.odd);
    quantile(&mut flow.accepted, 0.5)
}

/// How long it takes until a call takes what it took before.
async fn recovery(flood: &Flood, before: Duration) -> Duration {
    let over = Instant::now();
    loop {
        let now = alone(flood, Duration::from_millis(50)).await;
        if now <= before * 2 {
            return over.elapsed();
        }
        assert!(over.elapsed() < Duration::from_secs(30), "a call took {before:?} before and takes {now:?} now");
    }
}

#[expect(clippy::print_stdout, reason = "figures are there to be read; `--nocapture` shows them")]
fn figures(carried: &Flow, flow: &mut Flow, health: &mut [Duration]) -> [Duration; 2] {
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let accepted = quantile(&mut flow.accepted, 0.99);
    println!(
        "carried {:.0}/s, {:.0} times as much offered: {:.0}/s in {CONNECTIONS} connections, {} not sent for want of one that is free, or of a processor",
        carried.carried(),
        flow.offered() / carried.carried(),
        flow.offered(),
        flow.skipped
    );
    println!(
        "accepted {} ({:.0}/s, p99 {}), refused {} (p50 {}, p99 {}), flood late p50 {} p99 {}",
        flow.accepted.len(),
        flow.carried(),
        ms(accepted),
        flow.refused.len(),
        ms(quantile(&mut flow.refused, 0.5)),
        ms(quantile(&mut flow.refused, 0.99)),
        ms(quantile(&mut flow.late, 0.5)),
        ms(quantile(&mut flow.late, 0.99))
    );
    let p99 = quantile(health, 0.99);
    println!("health of {}: p50 {}, p99 {}, max {}", health.len(), ms(quantile(health, 0.5)), ms(p99), ms(quantile(health, 1.0)));
    [accepted, p99]
}

#[expect(clippy::print_stdout, reason = "figures are there to be read; `--nocapture` shows them")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures, so nothing may run beside it; `./dev test` runs it after the others"]
async fn ten_times_what_it_can_carry_is_refused_quickly_and_forgotten() {
    let data = DataDir::new();
    let server = Server::start(binary("mcp-server"), &[("DATA_DIR", &*data.database())]).await.ready().await;
    let request = request(&server).await.into();
    let flood =
        Flood { address: server.address(), request, connections: 32, fresh: 0, rate: None, lasts: Duration::from_secs(2) };
    let before = alone(&flood, Duration::from_millis(500)).await;
    let carried = flood.clone().run().await;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(Connection::open(server.address()).await.open_session().await);
    }
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(Connection::open_stream(server.address()).await);
    }
    let resident = server.resident_kib();

    let prober = Prober::start(server.address());
    let rate = Some(10.0 * carried.carried());
    let too_much = Flood { connections: CONNECTIONS, fresh: FRESH, rate, lasts: LASTS, ..flood.clone() };
    let mut flow = too_much.clone().run().await;
    let recovered = recovery(&flood, before).await;
    let after = server.resident_kib();
    flow.add(too_much.run().await);
    let recovered = recovered.max(recovery(&flood, before).await);
    let heard = prober.stop();
    let again = server.resident_kib();
    let (mut health, mut red) = (Vec::new(), Vec::new());
    heard.into_iter().for_each(|heard| heard.map_or_else(|words| red.push(words), |took| health.push(took)));
    let [accepted, p99] = figures(&carried, &mut flow, &mut health);
    println!(
        "recovered after {recovered:.0?} (alone a call takes {before:.1?}); resident {resident} KiB before, {after} KiB after, {again} KiB after the second time"
    );

    assert!(red.is_empty(), "health was red: {red:?}");
    assert!(flow.odd.is_empty(), "neither answered nor refused, {} of them: {:?}", flow.odd.len(), flow.odd.iter().take(3));
    assert!(!flow.refused.is_empty() && !flow.accepted.is_empty());
    assert!(accepted < CALL_TIMEOUT, "{accepted:?}");
    for session in sessions {
        let headers = format!("mcp-session-id: {session}\r\nmcp-protocol-version: 2025-11-25\r\n");
        let answer = Connection::open(server.address()).await.ask("tools/list", &json!({}), &headers).await;
        assert_eq!(answer.status, 200, "a session was lost: {}", answer.body);
    }
    server.holds(0, STREAMS as u64).await;
    assert!(after.saturating_sub(resident) < KEPT_KIB, "it keeps {resident} and then {after} KiB");
    assert!(again.saturating_sub(after) < GROWN_KIB, "it grows from {after} to {again} KiB");
    assert!(p99 < HEALTH_WITHIN, "health is slow: p99 {p99:?}");
    assert!(recovered < RECOVERED_WITHIN, "it recovers slowly: {recovered:?}");
    drop(streams);
}
