//! A widget's address is kept by hosts for days, whichever color answers by then: what one of them published, both serve.

use std::process::Output;

use serde_json::{Value, json};
use tests::{
    http::Connection,
    postgres::DataDir,
    server::{Server, binary},
};
use tokio::process::Command;

async fn start(data: &DataDir, color: &str) -> Server {
    let directory = data.database();
    let version = if color == "blue" { "1.0.0" } else { "2.0.0" };
    let environment = [("DATA_DIR", &*directory), ("RELEASE_COLOR", color), ("RELEASE_VERSION", version)];
    Server::example("lasting", &environment).await.ready().await
}

async fn ask(server: &Server, method: &str, params: Value) -> Value {
    let answer = Connection::open(server.address()).await.ask(method, &params, "").await.json();
    assert!(answer["result"].is_object() || answer["error"].is_object(), "{answer}");
    answer
}

/// The addresses that `resources/list` shows, widgets only.
async fn listed(server: &Server) -> Vec<String> {
    let answer = ask(server, "resources/list", json!({})).await;
    let all = answer["result"]["resources"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let addresses = all.iter().filter_map(|resource| resource["uri"].as_str()).filter(|uri| uri.starts_with("ui://"));
    addresses.map(str::to_owned).collect()
}

async fn read(server: &Server, address: &str) -> Value {
    ask(server, "resources/read", json!({ "uri": address })).await
}

async fn command(data: &DataDir, arguments: &[&str]) -> Output {
    Command::new(binary("mcp-server"))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("DATA_DIR", data.database())
        .args(arguments)
        .output()
        .await
        .expect("the command starts")
}

/// What breaks between blue and another contract, as `contract diff` says it: its exit code, and the names of what breaks for
/// clients of blue there, and for theirs at blue.
async fn diff(data: &DataDir, other: &str) -> (Option<i32>, Vec<String>, Vec<String>) {
    let output = command(data, &["contract", "diff", "1.0.0+dev", other, "--json"]).await;
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let breaking = |way: &str| {
        let changes = said[way].as_array().unwrap_or_else(|| panic!("{said}")).iter();
        let subjects = changes.filter(|change| change["effect"] == "breaking").filter_map(|change| change["subject"].as_str());
        subjects.filter_map(|subject| subject.split('`').nth(1)).map(str::to_owned).collect()
    };
    (output.status.code(), breaking("forward"), breaking("back"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_color_published_is_read_from_the_other_as_long_as_it_is_published() {
    let data = DataDir::new();
    let (blue, green) = (start(&data, "blue").await, start(&data, "green").await);
    let opened = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
    let extensions = ask(&blue, "initialize", opened).await["result"]["capabilities"]["extensions"].clone();
    assert_eq!(extensions, json!({ "io.modelcontextprotocol/ui": { "mimeTypes": ["text/html;profile=mcp-app"] } }));
    let (of_blue, of_green) = (listed(&blue).await, listed(&green).await);
    // One address in each of the two languages of hosts; each color shows its own.
    assert_eq!((of_blue.len(), of_green.len()), (2, 2), "{of_blue:?} {of_green:?}");
    for (server, words, addresses) in [(&blue, "Green", &of_green), (&green, "Blue", &of_blue)] {
        for address in addresses {
            let answer = read(server, address).await;
            let contents = &answer["result"]["contents"][0];
            assert_eq!(contents["uri"], **address, "{answer}");
            assert!(contents["text"].as_str().is_some_and(|text| text.contains(words)), "{answer}");
            // What the host may do with it came along.
            let own = if words == "Green" { &green } else { &blue };
            assert_eq!(read(own, address).await["result"], answer["result"]);
        }
    }
    assert_eq!(read(&blue, "ui://widgets/nobody.html").await["error"]["code"], -32002);

    // Not with its process, nor with its color, is a document gone, but when an operator takes it back.
    blue.signal("KILL");
    blue.exit(std::time::Duration::from_secs(20)).await;
    assert!(read(&green, &of_blue[0]).await["result"].is_object());
    let shown = command(&data, &["widget", "list", "--json"]).await;
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("it is JSON");
    let by = |build: &str| shown.as_array().map(|all| all.iter().filter(|one| one["publishedBy"] == build).count());
    assert_eq!((by("1.0.0+dev"), by("2.0.0+dev")), (Some(2), Some(2)), "{shown}");
    assert_eq!(diff(&data, "2.0.0+dev").await, (Some(0), vec![], vec![]));
    assert!(command(&data, &["widget", "withdraw", &of_blue[0]]).await.status.success());
    assert_eq!(read(&green, &of_blue[0]).await["error"]["code"], -32002);
    assert!(read(&green, &of_blue[1]).await["result"].is_object());

    // What a client of blue meets at green was fine, and is not any more; what a client of green meets at blue is.
    let after = diff(&data, "2.0.0+dev").await;
    assert_eq!(after, (Some(1), vec![of_blue[0].clone()], vec![]));
    assert_eq!(diff(&data, "1.0.0+dev").await, (Some(0), vec![], vec![]));
    // The appointments server has none of these tools.
    let (code, forward, _) = diff(&data, "this").await;
    assert_eq!(code, Some(1));
    assert!(forward.contains(&"draw".to_owned()), "{forward:?}");
}
