//! The database away, silent, or with nobody free: bounded, retryable errors, a process that stays ready, and a recovery
//! nobody has to ask for.

use std::time::{Duration, Instant};

use bg_runtime::database::private::PrivateServer;
use serde_json::{Value, json};
use tests::{
    chaos::{Network, Proxy},
    http::{get, message, search},
    postgres::DataDir,
    server::Server,
};

const QUICK: &[(&str, &str)] =
    &[("DATABASE_WAIT_SECS", "1"), ("DATABASE_CONNECT_SECS", "1"), ("DATABASE_STATEMENT_SECS", "1"), ("CALL_TIMEOUT_SECS", "10")];

struct World {
    proxy: Proxy,
    postgres: PrivateServer,
    _data: DataDir,
}

async fn world(network: Network) -> World {
    let data = DataDir::new();
    let postgres = data.start().await;
    let proxy = Proxy::start(postgres.socket_dir().join(".s.PGSQL.5432"), network).await;
    World { proxy, postgres, _data: data }
}

fn is_retryable(answer: &Value) -> bool {
    let text = answer.to_string();
    assert!(!text.contains("postgres") && !text.contains("127.0.0.1"), "nothing of ours is told to a client: {text}");
    answer["error"]["code"] == -32603 && answer["error"]["data"]["retryable"] == true
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < Duration::from_secs(20), "it took too long until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_without_its_database_and_becomes_ready_when_it_comes() {
    let world = world(Network::Cut).await;
    let server = Server::appointments(&world.proxy.url(), QUICK).await;
    let health = get(server.address(), "/health").await;
    assert_eq!(health.status, 200, "killing it would not bring the database back");
    assert_eq!((&health.json()["status"], &health.json()["database"]), (&json!("degraded"), &json!("disconnected")));
    let ready = get(server.address(), "/ready").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["waitingFor"][0]["name"], "database", "{}", ready.body);
    assert!(is_retryable(&search(server.address()).await));
    assert_eq!(message(server.address(), r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await.status, 200);

    world.proxy.set(Network::Open);
    let server = server.ready().await;
    assert_eq!(search(server.address()).await["result"]["isError"], false);
    // What the checks said last may be a second old.
    until("/health says so", async || get(server.address(), "/health").await.json()["status"] == "healthy").await;
    assert_eq!(get(server.address(), "/health").await.json()["database"], "connected");
    world.postgres.close().await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_leaves_the_process_ready_and_comes_back_by_itself() {
    let world = world(Network::Open).await;
    let server = Server::appointments(&world.proxy.url(), QUICK).await.ready().await;
    assert_eq!(search(server.address()).await["result"]["isError"], false);
    let pool = get(server.address(), "/health/database").await;
    assert_eq!(pool.status, 200);
    assert!(pool.json()["poolSize"].as_u64() > Some(0) && pool.json()["waitingClients"] == 0, "{}", pool.body);

    world.proxy.set(Network::Cut);
    assert!(is_retryable(&search(server.address()).await));
    assert_eq!(get(server.address(), "/ready").await.status, 200, "a balancer with no target left serves nobody");
    // Its last result may be a second old.
    until("/health/database says so", async || get(server.address(), "/health/database").await.status == 503).await;
    until("/health says so", async || get(server.address(), "/health").await.json()["status"] == "degraded").await;

    world.proxy.set(Network::Open);
    until("a search works again", async || search(server.address()).await["result"]["isError"] == false).await;
    world.postgres.close().await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_database_and_a_pool_with_nobody_free_end_in_time() {
    let world = world(Network::Open).await;
    let environment = [QUICK, &[("DATABASE_POOL_SIZE", "1")]].concat();
    let server = Server::appointments(&world.proxy.url(), &environment).await.ready().await;
    assert_eq!(search(server.address()).await["result"]["isError"], false);
    world.proxy.set(Network::Stalled);
    let started = Instant::now();
    let (first, second, third) = tokio::join!(search(server.address()), search(server.address()), search(server.address()));
    assert!(is_retryable(&first) && is_retryable(&second) && is_retryable(&third), "{first} {second} {third}");
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert_eq!(get(server.address(), "/health").await.status, 200);
    world.proxy.set(Network::Open);
    until("a search works again", async || search(server.address()).await["result"]["isError"] == false).await;
    world.postgres.close().await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_in_every_string_is_just_text() {
    let world = world(Network::Open).await;
    let server = Server::appointments(&world.proxy.url(), QUICK).await.ready().await;
    let evil = "'; DROP TABLE appointments; --";
    for arguments in [
        json!({ "userId": evil }),
        json!({ "userId": "ada", "startDate": evil }),
        json!({ "userId": "ada", "timeZone": evil }),
        json!({ "userId": "ada", "cursor": evil }),
    ] {
        let params = json!({ "name": "search_appointments", "arguments": arguments });
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
        let answer = message(server.address(), &body.to_string()).await.json();
        assert!(answer["result"].is_object(), "{answer}");
    }
    let params = json!({ "name": "book_appointment", "arguments": { "userId": evil, "title": evil, "location": evil, "description": evil, "startsAt": "2026-12-25T09:00:00Z", "durationMinutes": 30 } });
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
    let booked = message(server.address(), &body.to_string()).await.json();
    assert_eq!(booked["result"]["isError"], false, "{booked}");
    assert_eq!(booked["result"]["structuredContent"]["data"]["appointment"]["title"], evil);
    world.postgres.close().await.expect("it stops");
}
