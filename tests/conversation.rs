//! What belongs to a conversation is the same in either color: what its tools remember, the question it was asked, the line
//! that each call leaves. And one that is pinned is answered by the build it began on, wherever its calls come in.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use tests::{
    http::{Connection, get},
    postgres::DataDir,
    server::{Server, binary},
};

const LONG: Duration = Duration::from_secs(60);

async fn start(data: &DataDir, color: &str, more: &[(&str, &str)]) -> Server {
    let (directory, version) = (data.database(), if color == "blue" { "1.0.0" } else { "2.0.0" });
    let mut environment = vec![("DATA_DIR", &*directory), ("RELEASE_COLOR", color), ("RELEASE_VERSION", version)];
    environment.extend_from_slice(more);
    Server::example("lasting", &environment).await.ready().await
}

async fn call(server: &Server, tool: &str, arguments: &Value) -> Value {
    Connection::open(server.address()).await.call(tool, arguments, "").await
}

/// Adds to a conversation, and gives what it remembers and who answered.
async fn add(server: &Server, tool: &str, thing: &str, conversation: &str) -> (Value, String) {
    let result = call(server, tool, &json!({ "thing": thing, "conversation": conversation })).await;
    let added = &result["structuredContent"];
    (added["things"].clone(), added["color"].as_str().unwrap_or_else(|| panic!("{result}")).to_owned())
}

/// Begins a conversation, and gives its handle.
async fn begin(server: &Server, tool: &str, thing: &str) -> String {
    let result = call(server, tool, &json!({ "thing": thing })).await;
    result["structuredContent"]["conversation"].as_str().unwrap_or_else(|| panic!("{result}")).to_owned()
}

/// What `/drainage` says of a build: its conversations, and whether nothing holds on to it.
async fn holds(server: &Server, build: &str) -> (Value, Value) {
    let drainage = get(server.operations(), "/drainage").await.json();
    let builds = drainage["builds"].as_array().unwrap_or_else(|| panic!("{drainage}"));
    let found = builds.iter().find(|one| one["build"] == build).unwrap_or_else(|| panic!("no {build}: {drainage}"));
    (found["conversations"].clone(), found["drained"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_conversation_stays_on_its_build_until_its_boundary() {
    let data = DataDir::new();
    let (blue, green) = (start(&data, "blue", &[]).await, start(&data, "green", &[]).await);
    let (ours, theirs) = (begin(&blue, "order", "milk").await, begin(&green, "order", "tea").await);
    // Every color answers for the other one, also a tool that asks for nothing; and it says who it was that answered.
    for (server, handle, color) in [(&green, &ours, "blue"), (&blue, &theirs, "green")] {
        assert_eq!(add(server, "order", "eggs", handle).await.1, color);
        assert_eq!(add(server, "add", "salt", handle).await.1, color);
        let mut connection = Connection::open(server.address()).await;
        let params = json!({ "name": "add", "arguments": { "thing": "oil", "conversation": handle } });
        let answer = connection.ask("tools/call", &params, "").await;
        assert!(answer.head.to_ascii_lowercase().contains(&format!("release-color: {color}\r\n")), "{}", answer.head);
    }
    // Who is not pinned is answered where it comes in.
    let free = begin(&blue, "add", "milk").await;
    assert_eq!(add(&green, "add", "eggs", &free).await, (json!(["milk", "eggs"]), "green".to_owned()));

    // Each replica knows what holds on to each build.
    for server in [&blue, &green] {
        for build in ["1.0.0+dev", "2.0.0+dev"] {
            assert_eq!(holds(server, build).await, (json!(1), json!(false)), "{build}");
        }
    }
    // Paying is still the old build's; what comes then is answered by whoever it reaches, and nothing is lost.
    assert_eq!(add(&green, "pay", "bag", &ours).await.1, "blue");
    // What is in flight a replica tells the others twice a second.
    let paid = Instant::now();
    while holds(&green, "1.0.0+dev").await != (json!(0), json!(true)) {
        assert!(paid.elapsed() < LONG, "something still holds on to it");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let all = json!(["milk", "eggs", "salt", "oil", "bag", "jam"]);
    assert_eq!(add(&green, "add", "jam", &ours).await, (all, "green".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_conversation_moves_when_its_build_is_gone_or_its_time_is_over() {
    let data = DataDir::new();
    let (blue, green) = (start(&data, "blue", &[]).await, start(&data, "green", &[("PIN_MAX_SECS", "3")]).await);
    let (orphan, old) = (begin(&blue, "order", "milk").await, begin(&blue, "order", "tea").await);
    // A rollout does not wait for ever.
    let begun = Instant::now();
    while add(&green, "add", "salt", &old).await.1 == "blue" {
        assert!(begun.elapsed() < LONG, "it is never let go");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(1), "it was let go at once");

    let orphan_too = begin(&blue, "order", "jam").await;
    blue.signal("KILL");
    blue.exit(LONG).await;
    for (handle, thing) in [(orphan, "milk"), (orphan_too, "jam")] {
        assert_eq!(add(&green, "order", "eggs", &handle).await, (json!([thing, "eggs"]), "green".to_owned()));
    }
}

/// The build that comes next may know nothing of the tool, or of pinning: that is when a conversation has to stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_stays_on_a_build_whose_tools_the_next_one_does_not_have() {
    let data = DataDir::new();
    let blue = start(&data, "blue", &[]).await;
    let green = start(&data, "green", &[("RELEASE_VERSION", "3.0.0")]).await;
    let conversation = begin(&blue, "order", "milk").await;
    let hears = Instant::now();
    // A build without such tools hears that there are pins now; it need not look at each call until then.
    while add(&green, "add", "salt", &conversation).await.1 != "blue" {
        assert!(hears.elapsed() < Duration::from_secs(2), "green answers for blue");
    }
    assert_eq!(add(&green, "order", "eggs", &conversation).await.1, "blue");

    // From anybody but a replica that proves to be one this means nothing: neither is a call refused for it, nor does one
    // escape its build. A release that knows no proofs hands its calls over like this, and they are answered.
    for handed in ["mcp-forwarded-for-build: 2.0.0+dev\r\n", "mcp-forwarded-for-build: 3.0.0+dev\r\nmcp-replica-proof: 00.00\r\n"]
    {
        for server in [&blue, &green] {
            let arguments = json!({ "thing": "oil", "conversation": conversation });
            let result = Connection::open(server.address()).await.call("add", &arguments, handed).await;
            assert_eq!(result["structuredContent"]["color"], "blue", "{result}");
        }
    }
}

/// Whoever may write to the database, or has the address of a replica that died. To a build that knows no proofs happens the
/// same.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_in_the_database_hears_no_token_and_the_conversation_moves() {
    let data = DataDir::new();
    let green = start(&data, "green", &[]).await;
    let conversation = begin(&green, "order", "milk").await;
    let stranger = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = stranger.local_addr().unwrap();
    let hears = tokio::spawn(async move {
        let mut heard = String::new();
        // It says of itself what it likes.
        let forged = "HTTP/1.1 200 OK\r\nrelease-build: evil+1\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        let (mut wire, _) = stranger.accept().await.unwrap();
        let mut piece = [0; 4096];
        while let Ok(read) = wire.read(&mut piece).await
            && read > 0
        {
            heard.push_str(&String::from_utf8_lossy(&piece[..read]));
            wire.write_all(forged.as_bytes()).await.unwrap();
        }
        heard
    });
    let replica = format!(
        "WITH pinned AS (UPDATE mcp_pins SET build = 'evil+1'), told AS (SELECT pg_notify('mcp_pins', 'evil+1')) \
         INSERT INTO mcp_drainage (instance, build, color, address, stage, role, calls, streams) \
         SELECT 'stranger', 'evil+1', 'blue', '{address}', 'serving', 'active', 0, 0 FROM told"
    );
    data.execute(Box::leak(replica.into_boxed_str())).await;
    let arguments = json!({ "thing": "eggs", "conversation": conversation });
    let result = Connection::open(green.address()).await.call("order", &arguments, "authorization: Bearer adas-token\r\n").await;
    assert_eq!(result["structuredContent"]["things"], json!(["milk", "eggs"]), "{result}");
    assert_eq!(result["structuredContent"]["color"], "green", "{result}");
    let heard = tokio::time::timeout(LONG, hears).await.expect("it is left alone").unwrap();
    assert!(heard.contains("/.well-known/mcp-replica"), "it is asked for a proof: {heard}");
    assert!(!heard.contains("adas-token") && !heard.contains("eggs"), "{heard}");
    assert_eq!(data.query("SELECT string_agg(build, ' ') FROM mcp_pins").await, "2.0.0+dev");
}

/// A call that was handed on and cut off may have acted: it is not made again by us.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_handed_on_and_cut_off_is_not_made_again() {
    let data = DataDir::new();
    let (blue, green) = (start(&data, "blue", &[]).await, start(&data, "green", &[]).await);
    let conversation = begin(&blue, "order", "milk").await;
    let mut cut = Connection::open(green.address()).await;
    let params = json!({ "name": "tell", "arguments": { "n": 1 }, "_meta": { "mcp-server/conversation": conversation } });
    cut.send_message(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }).to_string(), "").await;
    blue.calls(1).await;
    blue.signal("KILL");
    let answer = tokio::time::timeout(LONG, cut.answer()).await.expect("it is answered").json();
    assert_eq!(answer["error"]["data"]["retryable"], false, "{answer}");
    // A dying process closes one socket after the other: a call on the port that is still open would be cut off, too.
    blue.exit(LONG).await;
    assert_eq!(add(&green, "add", "eggs", &conversation).await, (json!(["milk", "eggs"]), "green".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_asked_by_one_color_is_answered_in_the_other() {
    let data = DataDir::new();
    let authentication = [("AUTHENTICATION", "header:x-principal")];
    let (blue, green) = (start(&data, "blue", &authentication).await, start(&data, "green", &authentication).await);
    let ask = async |server: &Server, principal: &str, tool: &str, more: Value| {
        let client = json!({ "name": "test", "version": "1" });
        let mut params = json!({ "name": tool, "arguments": {}, "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": client,
            "io.modelcontextprotocol/clientCapabilities": { "elicitation": { "form": {} } },
        } });
        params.as_object_mut().expect("it is one").extend(more.as_object().cloned().unwrap_or_default());
        let headers = format!(
            "x-principal: {principal}\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: {tool}\r\n"
        );
        let answer = Connection::open(server.address()).await.ask("tools/call", &params, &headers).await.json();
        answer["result"].as_object().map_or_else(|| answer["error"].clone(), |result| json!(result))
    };
    let question = ask(&blue, "ada", "ask", json!({})).await;
    assert_eq!(question["resultType"], "input_required", "{question}");
    assert_eq!(question["inputRequests"]["name"]["method"], "elicitation/create", "{question}");
    let state = question["requestState"].as_str().unwrap_or_else(|| panic!("{question}"));
    blue.signal("KILL");

    let with = |state: &str| {
        let name = json!({ "action": "accept", "content": { "name": "Ada" } });
        json!({ "requestState": state, "inputResponses": { "name": name } })
    };
    let greeting = ask(&green, "ada", "ask", with(state)).await;
    assert_eq!(greeting["content"][0]["text"], "Hello, Ada: asked by blue, greeted by green.", "{greeting}");
    // It is Ada's, and as it was.
    let mut changed = state.to_owned();
    let last = changed.pop().expect("it is not empty");
    changed.push(if last == 'A' { 'B' } else { 'A' });
    for (principal, state) in [("eve", state), ("ada", &changed), ("ada", "")] {
        let refused = ask(&green, principal, "ask", with(state)).await;
        assert_eq!(refused["code"], -32602, "{principal}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_a_conversation_leaves_a_line_with_its_build() {
    let data = DataDir::new();
    let (blue, green) = (start(&data, "blue", &[]).await, start(&data, "green", &[]).await);
    let conversation = begin(&blue, "add", "milk").await;
    add(&green, "add", "eggs", &conversation).await;
    let mut connection = Connection::open(green.address()).await;
    // A tool that remembers nothing leaves one, too; a call that belongs to no conversation leaves none.
    let params = json!({ "name": "draw", "_meta": { "mcp-server/conversation": conversation } });
    assert_eq!(connection.ask("tools/call", &params, "").await.status, 200);
    call(&green, "draw", &json!({})).await;
    let begun = Instant::now();
    loop {
        let lines = data
            .query("SELECT string_agg(tool_name || ' by ' || tool_version, ', ' ORDER BY tool_version, tool_name) FROM mcp_tool_calls")
            .await;
        if lines == "add by 1.0.0+dev, add by 2.0.0+dev, draw by 2.0.0+dev" {
            break;
        }
        assert!(begun.elapsed() < LONG, "{lines:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The shipped tools remember what a conversation's times are meant in. ChatGPT names the conversation.
#[tokio::test(flavor = "multi_thread")]
async fn who_named_a_zone_once_need_not_do_so_in_the_other_color() {
    let data = DataDir::new();
    let directory = data.database();
    let start = async |color| {
        let environment = [("DATA_DIR", &*directory), ("RELEASE_COLOR", color), ("TIME_ZONE", "Europe/Berlin")];
        Server::start(binary("mcp-server"), &environment).await.ready().await
    };
    let (blue, green) = (start("blue").await, start("green").await);
    let zone = async |server: &Server, arguments: Value, conversation: &str| {
        let params =
            json!({ "name": "search_appointments", "arguments": arguments, "_meta": { "openai/session": conversation } });
        let answer = Connection::open(server.address()).await.ask("tools/call", &params, "").await.json();
        answer["result"]["_meta"]["appointments/timeZone"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    assert_eq!(zone(&blue, json!({ "userId": "ada" }), "one").await, "Europe/Berlin");
    assert_eq!(zone(&blue, json!({ "userId": "ada", "timeZone": "Asia/Tokyo" }), "one").await, "Asia/Tokyo");
    assert_eq!(zone(&green, json!({ "userId": "ada", "startDate": "2026-01-01" }), "one").await, "Asia/Tokyo");
    assert_eq!(zone(&green, json!({ "userId": "ada" }), "another").await, "Europe/Berlin");
    assert_eq!(zone(&green, json!({ "userId": "ada", "timeZone": "America/Lima" }), "one").await, "America/Lima");
    assert_eq!(zone(&blue, json!({ "userId": "ada" }), "one").await, "America/Lima");
}
