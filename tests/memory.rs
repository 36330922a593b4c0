//! What hostile clients do to a server that may use 256 MiB: it lives, and answers others while they do it.
//!
//! `./dev test memory:: -- --nocapture` prints how much each of them made it use.

use std::time::{Duration, Instant};

use bg_runtime::database::private::PrivateServer;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tests::{
    chaos::{Network, Proxy},
    http::{Connection, get, message},
    http2::{HEADERS, Http2},
    memory_group::MemoryGroup,
    postgres::DataDir,
    server::{Server, binary},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// What a small container has.
const LIMIT: u64 = 256 << 20;
const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
/// Ada's, with appointments; nobody else has any.
const ADA: &str = "x-principal: ada\r\n";

struct World {
    server: Server,
    group: MemoryGroup,
    _proxy: Proxy,
    postgres: PrivateServer,
    _data: DataDir,
}

impl World {
    /// The appointments server in a group of its own, with a database that belongs to another one.
    async fn new() -> Self {
        let data = DataDir::new();
        let postgres = data.start().await;
        let proxy = Proxy::start(postgres.socket_dir().join(".s.PGSQL.5432"), Network::Open).await;
        let group = MemoryGroup::new(LIMIT);
        let environment = [("DATABASE_URL", &*proxy.url()), ("AUTHENTICATION", "header:x-principal")];
        let server = Server::start_in(&group, binary("mcp-server"), &environment).await.ready().await;
        Self { server, group, _proxy: proxy, postgres, _data: data }
    }

    /// Whether others are answered, now.
    async fn answers(&self) {
        let begun = Instant::now();
        loop {
            let status = message(self.server.address(), PING).await.status;
            if status == 200 {
                return;
            }
            assert_eq!(status, 429, "what is too much is refused, and nothing else happens");
            assert!(begun.elapsed() < Duration::from_secs(2), "others are kept out");
        }
    }

    #[expect(clippy::print_stdout, reason = "figures are there to be read; `--nocapture` shows them")]
    async fn survives(self, attack: &str) {
        self.answers().await;
        assert_eq!(self.group.kills(), 0);
        println!("{attack}: {} of {} MiB", self.group.peak() >> 20, LIMIT >> 20);
        drop(self.server);
        self.postgres.close().await.expect("it stops");
    }

    /// Books appointments whose texts take six bytes for each of theirs in JSON, so that one search is answered with 430 KiB.
    async fn fill(&self) {
        let mut connection = Connection::open(self.server.address()).await;
        for number in 0..100 {
            let (month, day) = (number / 28 + 1, number % 28 + 1);
            let booking = json!({
                "title": format!("{number}{}x", "\u{1}".repeat(190)),
                "startsAt": format!("2033-{month:02}-{day:02}T09:00"),
                "durationMinutes": 30,
                "location": format!("a{}b", "\u{1}".repeat(298)),
                "description": format!("a{}b", "\u{1}".repeat(3900)),
            });
            assert_eq!(connection.call("book_appointment", &booking, ADA).await["isError"], false);
        }
    }
}

fn search(id: usize) -> Value {
    let arguments = json!({ "startDate": "2033-01-01", "limit": 100 });
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": "search_appointments", "arguments": arguments } })
}

/// Sends a request on a connection of its own, and reads nothing.
async fn unread(world: &World, body: &str) -> Connection {
    let mut connection = Connection::open_narrow(world.server.address()).await;
    connection.send_message(body, ADA).await;
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_without_an_end_take_bounded_memory() {
    let world = World::new().await;
    let mut held = Vec::new();
    for _ in 0..1000 {
        let Ok(mut stream) = TcpStream::connect(world.server.address()).await else { continue };
        let head = format!("POST /mcp HTTP/1.1\r\nhost: localhost\r\nx: {}", "a".repeat(390_000));
        let _ = tokio::time::timeout(Duration::from_millis(200), stream.write_all(head.as_bytes())).await;
        held.push(stream);
    }
    world.answers().await;
    world.survives("1000 heads of 390 KB").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_arrive_together_take_bounded_memory() {
    let world = World::new().await;
    let held = join_all((0..500).map(async |_| {
        let mut connection = Connection::open(world.server.address()).await;
        let head = "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000001\r\n\r\n";
        connection.send(head.as_bytes()).await;
        // A refusal may come before all of it was sent.
        connection.try_send(&vec![b' '; 1_000_000]).await;
        connection
    }))
    .await;
    world.answers().await;
    drop(held);
    world.survives("500 bodies of 1 MB").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_take_no_more_than_one_response_each() {
    let world = World::new().await;
    world.fill().await;
    let batch = json!((0..64).map(search).collect::<Vec<_>>()).to_string();
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(unread(&world, &batch).await);
    }
    // Of the batch that is read, what there is room for is answered, and each of the others is told why not.
    let mut reader = Connection::open(world.server.address()).await;
    reader.send_message(&batch, "x-principal: bob\r\n").await;
    let answer = reader.answer().await;
    assert!(answer.body.len() < 5 << 20, "{}", answer.body.len());
    world.answers().await;
    drop(held);
    world.survives("20 batches of 64 searches").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_that_nobody_reads_take_bounded_memory_and_their_caller_is_refused() {
    let world = World::new().await;
    world.fill().await;
    let mut held = Vec::new();
    let one = search(1).to_string();
    for _ in 0..250 {
        held.push(unread(&world, &one).await);
    }
    let mut refused = Connection::open(world.server.address()).await;
    let begun = Instant::now();
    // Its own requests are refused once enough waits for it; another caller's are not.
    loop {
        let answer = refused.ask("ping", &json!({}), ADA).await;
        if answer.status == 429 && answer.body.contains("UNREAD_BYTES_PER_PRINCIPAL") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "nothing counts what waits for its reader: {}", answer.body);
        // No faster than the rate of a caller.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(refused.ask("ping", &json!({}), "x-principal: bob\r\n").await.status, 200);
    drop(held);
    world.survives("250 responses of 430 KiB").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_windows_take_bounded_memory() {
    let world = World::new().await;
    world.fill().await;
    let mut held = Vec::new();
    for window in [0, 1, 0, 1] {
        for _ in 0..8 {
            let mut connection = Http2::open(world.server.address(), window).await;
            for id in 0..32 {
                connection.message(&search(id).to_string(), &[("x-principal", "ada")]).await;
            }
            held.push(connection);
        }
        world.answers().await;
    }
    drop(held);
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut connection = Http2::open(world.server.address(), 0).await;
        for _ in 0..32 {
            connection.get("/health").await;
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), connection.until(HEADERS)).await;
        held.push(connection);
    }
    world.answers().await;
    drop(held);
    world.survives("1000 searches and 3200 probes in streams without a window").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_probes_keeps_no_call_out() {
    let world = World::new().await;
    for path in ["/health/database", "/health", "/ready", "/widget-test", "/nowhere"] {
        let address = world.server.address();
        let end = Instant::now() + Duration::from_secs(2);
        let flood: Vec<_> = (0..600)
            .map(|_| {
                tokio::spawn(async move {
                    while Instant::now() < end {
                        get(address, path).await;
                    }
                })
            })
            .collect();
        let mut calls = 0;
        let mut honest = Connection::open(address).await;
        while Instant::now() < end {
            assert_eq!(honest.ask("tools/list", &json!({}), "").await.status, 200, "while {path} is requested");
            calls += 1;
        }
        assert!(calls > 0);
        for client in flood {
            client.await.expect("every probe is answered");
        }
    }
    assert_eq!(get(world.server.address(), "/health/database").await.status, 200);
    world.survives("600 connections of probes").await;
}
