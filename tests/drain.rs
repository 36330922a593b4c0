//! A process that is told to go loses no call: everything in flight is answered, streams end cleanly, and what could not be
//! finished is counted.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{
    http::{Connection, get},
    server::Server,
};

/// An application whose one tool is told from outside when to finish.
const SLOW: &str = "slow";

#[tokio::test(flavor = "multi_thread")]
async fn every_call_in_flight_is_answered_and_streams_end_cleanly() {
    let server = Server::example(SLOW, &[("LEAVE_DELAY_SECS", "1")]).await;
    let mut calls = Vec::new();
    for n in 0..64 {
        let mut connection = Connection::open(server.address()).await;
        connection.send_call(n, "wait", json!({ "n": n })).await;
        calls.push(connection);
    }
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(Connection::open_stream(server.address()).await);
    }
    server.holds(64, 8).await;

    server.signal("TERM");
    server.is_at("leaving").await;
    assert_eq!(get(server.address(), "/ready").await.status, 503);
    assert_eq!(get(server.address(), "/health").await.status, 200);
    // A call that comes while everything is still accepted is a call like any other.
    let mut late = Connection::open(server.address()).await;
    late.send_call(99, "wait", json!({ "n": 99 })).await;
    for stream in streams {
        let text = stream.read_to_end().await;
        assert!(text.ends_with("retry: 250\n\n\r\n0\r\n\r\n"), "a stream ends with a whole chunked body: {text:?}");
    }
    server.holds(65, 0).await;

    server.release_calls();
    for (n, mut connection) in calls.into_iter().enumerate() {
        let answer = connection.answer().await;
        assert_eq!(answer.status, 200);
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["id"], n);
        assert_eq!(body["result"]["content"][0]["text"], format!("waited {n}"));
        assert!(answer.head.to_ascii_lowercase().contains("connection: close"), "{}", answer.head);
    }
    assert_eq!(late.answer().await.status, 200);
    let exit = server.exit(Duration::from_secs(10)).await;
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_never_ends_is_cut_at_the_deadline_and_counted() {
    let environment = [("DRAIN_DEADLINE_SECS", "1"), ("CALL_TIMEOUT_SECS", "1"), ("CLOSE_SECS", "1")];
    let server = Server::example(SLOW, &environment).await;
    // A tool's own deadline comes before the drain's, so what never ends is a door of the application's own.
    let mut stuck = Connection::open(server.address()).await;
    stuck.send(b"GET /never HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    server.holds(1, 0).await;
    let asked = Instant::now();
    server.signal("TERM");
    assert_eq!(stuck.read_to_end().await, "", "what was cut off gets no half answer");
    let exit = server.exit(Duration::from_secs(10)).await;
    assert_eq!(exit.code, Some(1), "{}", exit.stderr);
    assert!(exit.stderr.contains("cutting off 1 calls: the drain deadline is over"), "{}", exit.stderr);
    assert!(asked.elapsed() >= Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_ends_the_waiting_with_the_count() {
    let server = Server::example(SLOW, &[]).await;
    let mut stuck = Vec::new();
    for n in 0..3 {
        let mut connection = Connection::open(server.address()).await;
        connection.send_call(n, "never", json!({})).await;
        stuck.push(connection);
    }
    server.holds(3, 0).await;
    server.signal("TERM");
    server.is_at("draining").await;
    server.signal("TERM");
    for mut connection in stuck {
        let answer = connection.answer().await.json();
        assert_eq!(answer["error"]["message"], "the server is going away and stopped the tool; try again");
        assert_eq!(answer["error"]["data"]["retryable"], true);
    }
    let exit = server.exit(Duration::from_secs(10)).await;
    assert_eq!(exit.code, Some(1), "{}", exit.stderr);
    assert!(exit.stderr.contains("cutting off 3 calls: SIGTERM"), "{}", exit.stderr);
}

/// Its call has not begun, so its client may send it again elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_never_finished_delays_the_exit_by_seconds_only() {
    let server = Server::example(SLOW, &[]).await;
    let mut unfinished = Connection::open(server.address()).await;
    unfinished
        .send(b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{")
        .await;
    server.holds(1, 0).await;
    server.signal("TERM");
    assert_eq!(unfinished.answer().await.status, 408);
    assert_eq!(server.exit(Duration::from_secs(15)).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sits_in_the_backlog_is_answered() {
    let server = Server::example(SLOW, &[]).await;
    let mut held = Connection::open(server.address()).await;
    held.send_call(1, "wait", json!({ "n": 1 })).await;
    server.holds(1, 0).await;
    // Connected, and silent until the process has begun to go: the request is still on its way.
    let mut silent = Connection::open(server.address()).await;
    server.signal("TERM");
    server.is_at("draining").await;
    silent.send_call(2, "wait", json!({ "n": 2 })).await;
    server.holds(2, 0).await;
    server.release_calls();
    assert_eq!(held.answer().await.status, 200);
    assert_eq!(silent.answer().await.status, 200);
    assert_eq!(server.exit(Duration::from_secs(10)).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retiring_role_gives_connections_up_and_stays() {
    let server = Server::example(SLOW, &[]).await;
    let stream = Connection::open_stream(server.address()).await;
    server.holds(0, 1).await;
    assert!(!get(server.address(), "/health").await.head.to_ascii_lowercase().contains("connection: close\r\nrelease"));
    tests::http::post(server.operations(), "/role/retiring").await;
    assert!(stream.read_to_end().await.contains("retry: 250"));
    let mut connection = Connection::open(server.address()).await;
    connection.send_call(1, "echo", json!({})).await;
    assert!(connection.answer().await.head.to_ascii_lowercase().contains("connection: close"));
    assert_eq!(get(server.address(), "/ready").await.status, 200);
    server.signal("TERM");
    assert_eq!(server.exit(Duration::from_secs(10)).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_leave_the_first_sigterm_does_not_hurry_and_the_second_does() {
    let server = Server::example(SLOW, &[]).await;
    let mut held = Connection::open(server.address()).await;
    held.send_call(1, "wait", json!({ "n": 1 })).await;
    server.holds(1, 0).await;
    assert_eq!(tests::http::post(server.operations(), "/leave").await.status, 200);
    server.is_at("draining").await;
    server.signal("TERM");
    server.holds(1, 0).await;
    server.release_calls();
    assert_eq!(held.answer().await.status, 200);
    assert_eq!(server.exit(Duration::from_secs(10)).await.code, Some(0));

    let server = Server::example(SLOW, &[]).await;
    let mut stuck = Connection::open(server.address()).await;
    stuck.send_call(1, "never", json!({})).await;
    server.holds(1, 0).await;
    tests::http::post(server.operations(), "/leave").await;
    server.is_at("draining").await;
    server.signal("TERM");
    server.holds(1, 0).await;
    server.signal("TERM");
    assert_eq!(stuck.answer().await.json()["error"]["data"]["retryable"], true);
    assert_eq!(server.exit(Duration::from_secs(10)).await.code, Some(1));
}
