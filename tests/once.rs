//! A call that acts, made again, acts no more: whatever died in between, wherever it is made again.

use std::time::{Duration, Instant};

use bg_runtime::{Database, database::DatabaseConfig};
use serde_json::{Value, json};
use tests::{http::Connection, postgres::DataDir, server::Server};

const LONG: Duration = Duration::from_secs(60);

async fn start(data: &DataDir, color: &str) -> Server {
    let directory = data.database();
    let environment = [("DATA_DIR", &*directory), ("RELEASE_COLOR", color), ("AUTHENTICATION", "header:x-principal")];
    Server::example("notes", &environment).await.ready().await
}

struct Caller {
    principal: &'static str,
    key: Option<&'static str>,
}

impl Caller {
    async fn begin(&self, server: &Server, text: &str) -> Connection {
        let mut params = json!({ "name": "add_note", "arguments": { "text": text } });
        if let Some(key) = self.key {
            params["_meta"] = json!({ "mcp-server/idempotencyKey": key });
        }
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
        let mut connection = Connection::open(server.address()).await;
        connection.send_message(&message.to_string(), &format!("x-principal: {}\r\n", self.principal)).await;
        connection
    }

    async fn add(&self, server: &Server, text: &str) -> Value {
        let mut connection = self.begin(server, text).await;
        let answer = tokio::time::timeout(LONG, connection.answer()).await.expect("it is answered");
        answer.json()["result"].clone()
    }
}

async fn notes(database: &Database) -> i64 {
    let connection = database.get().await.expect("PostgreSQL answers");
    let row = connection.query_opt("SELECT count(*) FROM notes", &[]).await.expect("the table is there");
    row.expect("a count is a row").get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_process_died_between_commit_and_reply_acts_once() {
    let data = DataDir::new();
    let blue = start(&data, "blue").await;
    let config = DatabaseConfig { data_dir: data.database().into(), path: std::env::var_os("PATH"), ..DatabaseConfig::default() };
    let database = Database::open(config).await.unwrap();
    let ada = Caller { principal: "ada", key: Some("first") };

    let cut = ada.begin(&blue, "milk").await;
    let begun = Instant::now();
    while notes(&database).await == 0 {
        assert!(begun.elapsed() < LONG, "it never wrote");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    blue.signal("KILL");
    assert_eq!(cut.read_to_end().await, "", "the answer left before the process died");
    blue.exit(LONG).await;

    let green = start(&data, "green").await;
    let answer = ada.add(&green, "milk").await;
    assert_eq!(answer["structuredContent"], json!({ "id": 1, "text": "milk" }), "{answer}");
    assert_eq!(answer["content"][0]["text"], "Noted as 1.");
    // The key is the call, whatever it says now.
    assert_eq!(ada.add(&green, "butter").await["structuredContent"]["id"], 1);
    assert_eq!(notes(&database).await, 1, "it acted twice");

    // Somebody else's key is another key, and another key is another call.
    green.release_calls();
    let eve = Caller { principal: "eve", key: Some("first") };
    assert_eq!(eve.add(&green, "milk").await["structuredContent"]["id"], 2);
    assert_eq!(Caller { key: Some("second"), ..ada }.add(&green, "milk").await["structuredContent"]["id"], 3);

    // Without a key the same arguments are the same call, in any order, at the same time too.
    let keyless = Caller { principal: "ada", key: None };
    let again = (0..16).map(|_| keyless.add(&green, "eggs"));
    let answers = futures_util::future::join_all(again).await;
    assert!(answers.iter().all(|answer| answer["structuredContent"]["id"] == 4), "{answers:?}");
    assert_eq!(notes(&database).await, 4);
    let refused = Caller { principal: "ada", key: Some("") }.add(&green, "eggs").await;
    assert_eq!(refused["isError"], true, "{refused}");
    database.close().await.unwrap();
}
