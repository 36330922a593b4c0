//! No client has a reason to warn: the Python clients, the Inspector, an agent framework and the TypeScript SDK list, call,
//! outlive the process they connected to, and close without a line on stderr.

use std::process::Output;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tests::{
    front::Front,
    node::{self, clients},
    postgres::DataDir,
    python::{Library, Session},
    server::{Server, binary},
};
use tokio::process::Command;

async fn start(data: &DataDir, color: &str) -> Server {
    let environment = [("DATA_DIR", &*data.database()), ("TIME_ZONE", "Europe/Berlin"), ("RELEASE_COLOR", color)];
    Server::start(binary("mcp-server"), &environment).await.ready().await
}

/// An appointment that no other call books.
fn appointment(user: &str, hour: usize) -> Value {
    json!({ "userId": user, "title": "Dentist", "startsAt": format!("2040-03-01T{hour:02}:00"), "durationMinutes": 30 })
}

async fn close_all(sessions: Vec<Session>) -> Vec<String> {
    join_all(sessions.into_iter().map(Session::close)).await.concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn python_clients_keep_their_sessions_when_a_color_is_killed_and_log_no_warning() {
    let data = DataDir::new();
    let blue = start(&data, "blue").await;
    let front = Front::start(blue.address()).await;
    let url = front.url();
    let mut sessions = join_all(Library::ALL.map(|library| library.connect(&url))).await;
    for (library, session) in Library::ALL.iter().zip(&sessions) {
        let connected = &session.connected;
        assert_eq!(connected["protocolVersion"], library.protocol_version(), "{library}: {connected}");
        assert_eq!(connected["tools"].as_array().map(Vec::len), Some(4), "{library}: {connected}");
        assert!(connected["read"].as_u64() > Some(1000), "{library} reads a widget: {connected}");
    }
    let opened = data.query("SELECT count(*) FROM mcp_sessions").await;

    let mut live = blue;
    for (turn, color) in ["green", "blue"].into_iter().enumerate() {
        let calls = sessions.iter_mut().enumerate().map(async |(n, session)| {
            let user = format!("person-{n}");
            session.call("book_appointment", &appointment(&user, turn)).await;
            let found = session.call("search_appointments", &json!({ "userId": user, "startDate": "2040-03-01" })).await;
            assert_eq!(found["structuredContent"]["data"]["count"], turn + 1, "{found}");
        });
        join_all(calls).await;
        let next = start(&data, color).await;
        front.switch(next.address());
        live.signal("KILL");
        front.closed(live.address()).await;
        live = next;
    }
    let calls = sessions.iter_mut().enumerate().map(async |(n, session)| {
        let found =
            session.call("search_appointments", &json!({ "userId": format!("person-{n}"), "startDate": "2040-03-01" })).await;
        assert_eq!(found["structuredContent"]["data"]["count"], 2, "{found}");
    });
    join_all(calls).await;
    assert_eq!(data.query("SELECT count(*) FROM mcp_sessions").await, opened, "a client had to open a new session");

    let complaints = close_all(sessions).await;
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_clients_list_prompts_and_resources_without_a_warning() {
    let server = Server::example("everything", &[]).await.ready().await;
    let url = server.url();
    let sessions = join_all(Library::ALL.map(|library| library.connect(&url))).await;
    for (library, session) in Library::ALL.iter().zip(&sessions) {
        let connected = &session.connected;
        for list in ["tools", "resources", "prompts"] {
            assert!(connected[list].as_array().is_some_and(|list| !list.is_empty()), "{library}, {list}: {connected}");
        }
    }
    let complaints = close_all(sessions).await;
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// Runs the Inspector's command line. What it would keep in the home directory goes into the test's own.
async fn inspector(data: &DataDir, server: &Server, arguments: &[&str]) -> Output {
    let script = clients("inspector/node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js");
    assert!(script.exists(), "{} is missing: run `./dev test`, which installs the Inspector", script.display());
    let mut command = Command::new(clients("node_modules/.bin/node"));
    command.arg(script).args(["--cli", &server.url(), "--transport", "http"]).args(arguments);
    command.env("HOME", data.path()).kill_on_drop(true).output().await.expect("Node.js starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inspector_calls_lists_and_finds_no_schema_that_is_not_portable() {
    let data = DataDir::new();
    let server = start(&data, "blue").await;
    let text = appointment("ada", 9);
    let field = |name: &str| format!("{name}={}", text[name].as_str().map_or_else(|| text[name].to_string(), str::to_owned));
    let [user, title, starts_at, duration] = ["userId", "title", "startsAt", "durationMinutes"].map(field);
    let call = ["--method", "tools/call", "--tool-name"];
    for arguments in [
        vec!["--method", "tools/list", "--strict"],
        vec!["--method", "resources/list"],
        [&call[..], &["search_appointments", "--tool-arg", &*user]].concat(),
        [&call[..], &["book_appointment", "--tool-arg", &*user, &*title, &*starts_at, &*duration]].concat(),
    ] {
        let output = inspector(&data, &server, &arguments).await;
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {}: {stdout}{stderr}", output.status);
        let printed: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {stdout}"));
        assert!(printed.is_object() && printed["isError"] != true, "{arguments:?}: {printed:#}");
        assert_eq!(stderr, "", "{arguments:?}");
    }
    assert_eq!(data.query("SELECT count(*) FROM appointments").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_typescript_sdk_lists_and_calls_and_prints_nothing() {
    let data = DataDir::new();
    let server = start(&data, "blue").await;
    for script in ["client-2025.mjs", "client-2026.mjs"] {
        let output = node::node(script, &["--url", &server.url(), "--args", r#"{"userId":"ada"}"#]).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {}: {stderr}", output.status);
        assert_eq!(stderr, "", "{script}");
    }
}
