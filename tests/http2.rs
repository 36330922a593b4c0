//! HTTP/2 clients that do not read, do not finish, or change their mind keep nobody out, and hold up no shutdown.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::{
    http::{Connection, get, message},
    http2::{self, CONTINUATION, END_HEADERS, GOAWAY, HEADERS, Http2, PING, RST_STREAM, SETTINGS},
    server::Server,
};

const PING_MESSAGE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
const LONG: Duration = Duration::from_secs(20);
/// The window of a client that reads everything.
const OPEN: u32 = 1 << 30;

fn call(tool: &str, n: u32) -> String {
    let params = json!({ "name": tool, "arguments": { "n": n } });
    json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }).to_string()
}

/// Neither at `/mcp` nor at another endpoint, and although they come again and again.
#[tokio::test(flavor = "multi_thread")]
async fn responses_that_nobody_reads_keep_no_call_out() {
    let server = Server::example("slow", &[("CALLS_MAX", "40")]).await.ready().await;
    for window in [0, 1] {
        for path in ["/mcp", "/health"] {
            let mut held = Vec::new();
            for _ in 0..4 {
                let mut connection = Http2::open(server.address(), window).await;
                for _ in 0..32 {
                    match path {
                        "/mcp" => connection.message(&call("fill", 100_000), &[]).await,
                        _ => connection.get(path).await,
                    };
                }
                // The last answer has begun.
                while connection.until(HEADERS).await.stream < 63 {}
                held.push(connection);
                let begun = Instant::now();
                let mut statuses = Vec::new();
                while statuses.last() != Some(&200) {
                    statuses.push(message(server.address(), PING_MESSAGE).await.status);
                    assert!(begun.elapsed() < Duration::from_secs(2), "window {window} at {path}: {statuses:?}");
                }
            }
        }
    }
    assert_eq!(get(server.address(), "/health").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_without_progress_ends_its_connection_and_frees_its_slot() {
    let server = Server::example("slow", &[("WRITE_TIMEOUT_SECS", "1")]).await.ready().await;
    let mut closed = Http2::open(server.address(), 0).await;
    closed.message(&call("fill", 1000), &[]).await;
    let mut narrow = Http2::open(server.address(), 1).await;
    let stream = narrow.message(&call("fill", 100_000), &[]).await;
    // Beside them: a tool that is not done, and a stream with nothing to say. Neither has anything that could be read.
    let mut patient = Http2::open(server.address(), OPEN).await;
    let waiting = patient.message(&call("wait", 7), &[]).await;
    let quiet = Connection::open_stream(server.address()).await;
    server.holds(3, 1).await;
    let begun = Instant::now();
    let drip = async {
        // A byte now and then, and a sign of life: that is not reading.
        while narrow.grant(stream, 1).await && narrow.frame(PING, 0, 0, &[0; 8]).await {
            let _ = tokio::time::timeout(Duration::from_millis(20), narrow.next()).await;
        }
    };
    tokio::time::timeout(LONG, async { tokio::join!(drip, closed.to_end(LONG)) }).await.expect("both are closed");
    assert!(begun.elapsed() > Duration::from_secs(1), "they had time to read: {:?}", begun.elapsed());
    server.holds(1, 1).await;
    server.release_calls();
    let answer = String::from_utf8(patient.body(waiting).await).expect("an answer is text");
    assert!(answer.contains("waited 7"), "{answer}");
    drop(quiet);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_all_of_its_response() {
    let server = Server::example("slow", &[("WRITE_TIMEOUT_SECS", "1")]).await.ready().await;
    let mut slow = Http2::open(server.address(), 0).await;
    let stream = slow.message(&call("fill", 60_000), &[]).await;
    slow.until(HEADERS).await;
    let (begun, mut read) = (Instant::now(), 0);
    // Three times the deadline, a little at a time.
    while begun.elapsed() < Duration::from_secs(4) {
        assert!(slow.grant(stream, 1200).await, "it was cut after {read} bytes in {:?}", begun.elapsed());
        let data = tokio::time::timeout(LONG, slow.until(http2::DATA)).await.expect("what was granted comes");
        read += data.payload.len();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    slow.grant(stream, OPEN).await;
    assert!(read + slow.body(stream).await.len() > 60_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_nobody_reads_holds_up_no_shutdown() {
    let environment = [("DRAIN_DEADLINE_SECS", "30"), ("LEAVE_DELAY_SECS", "0")];
    for window in [0, 1] {
        let server = Server::example("slow", &environment).await.ready().await;
        let mut unread = Http2::open(server.address(), window).await;
        unread.message(&call("fill", 100_000), &[]).await;
        unread.until(HEADERS).await;
        // One that is read is answered, and told that the connection goes.
        let mut reads = Http2::open(server.address(), OPEN).await;
        let stream = reads.message(&call("wait", 1), &[]).await;
        server.holds(2, 0).await;
        let begun = Instant::now();
        server.signal("TERM");
        server.is_at("draining").await;
        server.release_calls();
        assert!(!reads.body(stream).await.is_empty());
        let exit = server.exit(LONG).await;
        assert_eq!(exit.code, Some(0), "no call was cut: {}", exit.stderr);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_kept_as_long_as_configured_whatever_pings_come_and_is_told_before_it_is_closed() {
    let environment = [("HEADER_TIMEOUT_SECS", "1"), ("IDLE_TIMEOUT_SECS", "5")];
    let server = Server::example("slow", &environment).await.ready().await;
    let mut connection = Http2::open(server.address(), OPEN).await;
    let stream = connection.message(PING_MESSAGE, &[]).await;
    connection.body(stream).await;
    let begun = Instant::now();
    let mut told = false;
    let all = async {
        while connection.frame(PING, 0, 0, &[1; 8]).await {
            let Some(frame) = connection.next().await else { break };
            told |= frame.kind == GOAWAY;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LONG, all).await.expect("pings do not keep it");
    assert!(told && begun.elapsed() >= Duration::from_secs(5), "{:?}", begun.elapsed());
    // One that never asks anything is not waited for as long.
    let begun = Instant::now();
    Http2::open(server.address(), OPEN).await.to_end(LONG).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_few_streams_at_once_and_they_are_reused() {
    let server = Server::example("slow", &[]).await.ready().await;
    let mut connection = Http2::open(server.address(), OPEN).await;
    let settings = connection.until(SETTINGS).await.payload;
    let most = settings.chunks(6).find(|setting| setting[..2] == http2::MAX_CONCURRENT_STREAMS.to_be_bytes());
    assert_eq!(most.map(|setting| setting[2..].to_vec()), Some(32_u32.to_be_bytes().to_vec()));
    for _ in 0..100 {
        let stream = connection.message(PING_MESSAGE, &[]).await;
        assert!(!connection.body(stream).await.is_empty());
    }
    let mut refused = Http2::open(server.address(), OPEN).await;
    for _ in 0..40 {
        refused.message(&call("wait", 1), &[]).await;
    }
    assert!(refused.until(RST_STREAM).await.stream > 64, "those beyond are refused, and the others wait");
    server.holds(32, 0).await;
    drop(refused);
    server.holds(0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_reset_at_once_cost_the_connection_and_leave_no_call_behind() {
    let server = Server::example("slow", &[]).await.ready().await;
    let mut connection = Http2::open(server.address(), OPEN).await;
    let mut sent = 0;
    while sent < 100_000 {
        let stream = connection.message(&call("wait", 1), &[]).await;
        if !connection.frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()).await {
            break;
        }
        sent += 1;
    }
    assert!(sent < 100_000, "the server takes any number of them");
    server.holds(0, 0).await;
    assert_eq!(message(server.address(), PING_MESSAGE).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_an_end_costs_the_connection_and_little_memory() {
    let server = Server::example("slow", &[]).await.ready().await;
    let before = server.resident_kib();
    for padding in ["", "x"] {
        let mut connection = Http2::open(server.address(), OPEN).await;
        let (stream, head) = (connection.stream(), connection.head("GET", "/health", &[]));
        connection.frame(HEADERS, 0, stream, &head).await;
        let fields = http2::field("x-more", &padding.repeat(16_000));
        let mut sent = 0;
        while sent < 10_000 && connection.frame(CONTINUATION, 0, stream, if padding.is_empty() { &[] } else { &fields }).await {
            sent += 1;
        }
        assert!(sent < 10_000, "the server takes any number of them");
    }
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB");
    // A head that is too large is refused, and one that is not is read.
    let mut connection = Http2::open(server.address(), OPEN).await;
    let (stream, head) = (connection.stream(), connection.head("GET", "/health", &[("x-token", &"y".repeat(8000))]));
    connection.frame(HEADERS, END_HEADERS | 1, stream, &head).await;
    assert!(!connection.body(stream).await.is_empty());
}
