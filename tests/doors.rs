//! Every door answers as it says, for probes, smoke tests and clients of every age.

use serde_json::{Value, json};
use tests::{
    http::{Connection, get, message, post},
    server::Server,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_doors_of_probes_answer_and_name_the_release() {
    let server =
        Server::example("slow", &[("RELEASE_COLOR", "green"), ("RELEASE_VERSION", "2.2.0"), ("RELEASE_COMMIT", "8f3a1c")]).await;
    let release = json!({ "color": "green", "version": "2.2.0", "commit": "8f3a1c" });
    let health = get(server.address(), "/health").await;
    assert_eq!(health.status, 200);
    assert_eq!(health.json()["status"], "healthy");
    assert_eq!(health.json()["release"], release);
    let ready = get(server.address(), "/ready").await;
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &Value::Bool(true)));
    assert_eq!(get(server.operations(), "/release").await.json(), release);
    let metrics = get(server.operations(), "/metrics").await;
    assert!(metrics.body.contains("release_color=\"green\""), "{}", metrics.body);
    for answer in [&health, &ready, &metrics] {
        let head = answer.head.to_ascii_lowercase();
        assert!(head.contains("cache-control: no-store\r\n") && head.contains("x-content-type-options: nosniff\r\n"), "{head}");
    }
    for answer in [health, ready, get(server.address(), "/nowhere").await] {
        let head = answer.head.to_ascii_lowercase();
        assert!(head.contains("release-color: green\r\n") && head.contains("release-build: 2.2.0+8f3a1c\r\n"), "{head}");
    }
    assert_eq!(get(server.address(), "/.well-known/openai-apps-challenge").await.status, 404);
    assert_eq!(get(server.address(), "/metrics").await.status, 404, "operations doors are not public");
    assert_eq!(get(server.address(), "/leave").await.status, 404);
    assert_eq!(post(server.operations(), "/role/purple").await.status, 400);
}

/// What a page in a browser on this machine can send, under whatever name it found the listener.
#[tokio::test(flavor = "multi_thread")]
async fn no_page_reads_or_changes_anything_at_the_doors_of_operators() {
    let server = Server::example("slow", &[]).await;
    let ask = async |method: &str, path: &str, headers: &str| {
        let mut connection = Connection::open(server.operations()).await;
        let head = format!("{method} {path} HTTP/1.1\r\ncontent-length: 0\r\n{headers}\r\n");
        connection.send(head.as_bytes()).await;
        connection.answer().await.status
    };
    let here = format!("host: {}\r\n", server.operations());
    let rebound = "host: evil.example.net:9464\r\n";
    for path in ["/metrics", "/release", "/drainage", "/health", "/ready"] {
        assert_eq!(ask("GET", path, &here).await, 200, "{path}");
        assert_eq!(ask("GET", path, "host: localhost\r\n").await, 200, "{path}");
        assert_eq!(ask("GET", path, rebound).await, 403, "{path}");
        assert_eq!(ask("GET", path, &format!("{here}origin: http://evil.example.net\r\n")).await, 403, "{path}");
        for site in ["same-origin", "same-site", "cross-site"] {
            assert_eq!(ask("GET", path, &format!("{here}sec-fetch-site: {site}\r\n")).await, 403, "{path} {site}");
        }
    }
    for path in ["/leave", "/role/retiring"] {
        for headers in [
            rebound.to_owned(),
            format!("{here}origin: https://evil.example.net\r\n"),
            format!("{here}origin: null\r\n"),
            format!("{here}sec-fetch-site: cross-site\r\n"),
            format!("{here}sec-fetch-site: none\r\n"),
        ] {
            assert_eq!(ask("POST", path, &headers).await, 403, "{path} {headers}");
        }
        for method in ["GET", "HEAD", "PUT", "OPTIONS"] {
            assert_eq!(ask(method, path, &here).await, 405, "{method} {path}");
        }
    }
    let drainage = get(server.operations(), "/drainage").await.json();
    assert_eq!((&drainage["stage"], &drainage["role"]), (&json!("serving"), &json!("active")), "nothing has changed");
    assert_eq!(ask("POST", "/role/retiring", &here).await, 200);
    assert_eq!(ask("POST", "/leave", &here).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_for_developers_can_be_taken_away() {
    for (said, status) in [("auto", 200), ("on", 200), ("off", 404)] {
        let server = Server::appointments("postgresql://nobody@127.0.0.1:1/none", &[("WIDGET_TEST", said)]).await;
        for path in ["/widget-test", "/widget-test/frame"] {
            assert_eq!(get(server.address(), path).await.status, status, "{said} {path}");
        }
    }
    let anywhere = [("LISTEN", "0.0.0.0:0"), ("AUTHENTICATION", "none")];
    let server = Server::appointments("postgresql://nobody@127.0.0.1:1/none", &anywhere).await;
    let here = std::net::SocketAddr::from(([127, 0, 0, 1], server.address().port()));
    for path in ["/widget-test", "/widget-test/frame"] {
        assert_eq!(get(here, path).await.status, 404, "anybody might come in: {path}");
    }
}

/// The image listens everywhere, so this is what a container does whose environment makes no choice.
#[test]
fn a_server_that_other_machines_reach_does_not_start_without_a_choice_of_who_may_call() {
    let start = |environment: &[(&str, &str)]| {
        let mut server = std::process::Command::new(tests::server::binary("mcp-server"));
        server.arg("serve").env_clear().env("LISTEN", "0.0.0.0:0").envs(environment.iter().copied());
        let ended = server.output().expect("the server starts");
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    for environment in [&[][..], &[("AUTHENTICATION", "")], &[("AUTHENTICATION", " ")], &[("LISTEN", "[::]:0")]] {
        let (code, message) = start(environment);
        assert_eq!(code, Some(64), "{environment:?}: {message}");
        for choice in ["AUTHENTICATION=oauth", "AUTHENTICATION=none", "LISTEN=127.0.0.1:0"] {
            assert!(message.contains(choice), "{environment:?}: {choice} is not listed: {message}");
        }
    }
    for (environment, wanted) in [
        ([("AUTHENTICATION", "header:x-principal"), ("", "")], "choose `oauth` or `none`"),
        ([("AUTHENTICATION", "oauth"), ("OAUTH_ISSUER", "https://auth.example.com")], "PUBLIC_URL"),
        ([("AUTHENTICATION", "none"), ("TRUSTED_PROXIES", "choose")], "TRUSTED_PROXIES=`choose`"),
        ([("AUTHENTICATION", "none"), ("TRUSTED_PROXIES", "0.0.0.0/0")], "trusts every client"),
    ] {
        let environment: Vec<_> = environment.into_iter().filter(|(name, _)| !name.is_empty()).collect();
        let (code, message) = start(&environment);
        assert!(code == Some(64) && message.contains(wanted), "{environment:?}: {code:?} {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_finds_its_token() {
    let server = Server::example("slow", &[("OPENAI_APPS_CHALLENGE", "token-42")]).await;
    let answer = get(server.address(), "/.well-known/openai-apps-challenge").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "token-42"));
    assert!(answer.head.contains("content-type: text/plain"), "{}", answer.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_accept_gets_plain_json() {
    let server = Server::example("slow", &[]).await;
    for accept in [
        "",
        "accept: */*\r\n",
        "accept: application/json\r\n",
        "accept: text/html\r\n",
        "accept: application/json, text/event-stream\r\n",
    ] {
        for (method, params) in
            [("tools/list", json!({})), ("tools/call", json!({ "name": "echo", "arguments": {} })), ("ping", json!({}))]
        {
            let mut connection = Connection::open(server.address()).await;
            let body = json!({ "jsonrpc": "2.0", "id": "a", "method": method, "params": params }).to_string();
            connection.send_message(&body, accept).await;
            let answer = connection.answer().await;
            assert_eq!(answer.status, 200, "{method} {accept}");
            assert_eq!(answer.json()["id"], "a");
            assert!(answer.json().get("result").is_some(), "{}", answer.body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_handshake_revision_is_negotiated_as_asked_and_others_get_the_newest() {
    let server = Server::example("slow", &[]).await;
    for (asked, given) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
    ] {
        let params = json!({ "protocolVersion": asked, "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params }).to_string();
        let answer = message(server.address(), &body).await;
        assert_eq!(answer.json()["result"]["protocolVersion"], given, "{asked}");
        assert!(answer.head.contains("mcp-session-id: "), "{}", answer.head);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_lives_until_it_is_deleted() {
    let server = Server::example("slow", &[]).await;
    let mut connection = Connection::open(server.address()).await;
    let session = connection.open_session().await;
    let header = format!("mcp-session-id: {session}\r\nmcp-protocol-version: 2025-11-25\r\n");
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    connection.send_message(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, &header).await;
    assert_eq!(connection.answer().await.status, 202);
    connection.send_message(list, &header).await;
    assert_eq!(connection.answer().await.status, 200);
    connection.send(format!("DELETE /mcp HTTP/1.1\r\nhost: localhost\r\n{header}\r\n").as_bytes()).await;
    assert_eq!(connection.answer().await.status, 204);
    connection.send_message(list, &header).await;
    let gone = connection.answer().await;
    assert_eq!(gone.status, 404);
    assert_eq!(gone.json()["error"]["message"], "session not found; initialize again");
    let made_up = "mcp-session-id: 00000000-0000-4000-8000-000000000000\r\n";
    connection.send_message(list, made_up).await;
    assert_eq!(connection.answer().await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_answered_where_the_revision_has_them() {
    let server = Server::example("slow", &[]).await;
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"notifications/initialized"},{"jsonrpc":"2.0","id":2,"method":"nope"},{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"echo"}}]"#;
    let answers = message(server.address(), batch).await.json();
    assert_eq!(answers.as_array().unwrap().iter().map(|answer| answer["id"].as_i64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(answers[1]["error"]["code"], -32601);
    assert_eq!(answers[2]["result"]["content"][0]["text"], "here");
    let mut connection = Connection::open(server.address()).await;
    connection.send_message(batch, "mcp-protocol-version: 2025-06-18\r\n").await;
    assert_eq!(connection.answer().await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_of_ours_may_read_the_answer() {
    let server = Server::example("slow", &[]).await;
    let mut connection = Connection::open(server.address()).await;
    connection.send(b"OPTIONS /mcp HTTP/1.1\r\nhost: localhost:3000\r\norigin: http://localhost:6274\r\naccess-control-request-method: POST\r\n\r\n").await;
    let answer = connection.answer().await;
    assert_eq!(answer.status, 204);
    assert!(answer.head.contains("access-control-allow-origin: http://localhost:6274"), "{}", answer.head);
}
