//! From a real calendar to what a client shows: imported by the command, searched by the official clients of two protocol
//! eras, by rmcp's and by plain HTTP, and booked over.

use std::{path::PathBuf, process::Output, time::Duration};

use rmcp::{
    ServiceExt,
    model::{CallToolRequestParams, ClientConfig},
    transport::{StreamableHttpClientTransport, streamable_http_client::StreamableHttpClientTransportConfig},
};
use serde_json::{Value, json};
use tests::{
    http::message,
    node,
    postgres::DataDir,
    server::{Server, binary},
};
use tokio::process::Command;

fn calendar(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../mcp-server/tests/calendars").join(name)
}

async fn import(data: &DataDir, file: &std::path::Path, more: &[&str]) -> Output {
    let file = file.to_str().expect("a path of ours is text");
    Command::new(binary("mcp-server"))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("DATA_DIR", data.database())
        .args(["import", file, "--user", "ada", "--time-zone", "Europe/Berlin", "--json"])
        .args(more)
        .output()
        .await
        .expect("the import starts")
}

fn counts(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Every client asks the same and sees the same: title and start of each appointment, in order.
async fn seen_by_every_client(server: &Server, arguments: &Value) -> Vec<(String, String)> {
    let url = server.url();
    let text = arguments.to_string();
    let options = ["--url", &url, "--tool", "search_appointments", "--args", &text];
    let newest = node::client("client-2026.mjs", &options).await;
    assert_eq!(newest["protocolVersion"], "2026-07-28", "{newest}");
    let older = node::client("client-2025.mjs", &options).await;
    assert_eq!(older["protocolVersion"], "2025-11-25", "{older}");
    assert!(older["sessionId"].is_string(), "{older}");

    let transport = StreamableHttpClientTransport::from_config(StreamableHttpClientTransportConfig::with_uri(url.clone()));
    let client = ClientConfig::default().serve(transport).await.expect("rmcp's client connects");
    let call =
        CallToolRequestParams::new("search_appointments").with_arguments(arguments.as_object().cloned().unwrap_or_default());
    let rmcp = client.call_tool(call).await.expect("rmcp's client calls");
    client.cancel().await.expect("rmcp's client leaves");

    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "search_appointments", "arguments": arguments } });
    let plain = message(server.address(), &body.to_string()).await.json();
    assert_eq!(plain["result"]["_meta"], json!({ "appointments/timeZone": "Europe/Berlin" }), "{plain}");

    let seen = [
        newest["result"]["structuredContent"].clone(),
        older["result"]["structuredContent"].clone(),
        rmcp.structured_content.unwrap_or_default(),
        plain["result"]["structuredContent"].clone(),
    ]
    .map(|content| {
        assert_eq!(content["mimeType"], "text/html+skybridge", "{content}");
        let appointments = content["data"]["appointments"].as_array().cloned().unwrap_or_else(|| panic!("{content}"));
        let field = |appointment: &Value, name: &str| appointment[name].as_str().unwrap_or_default().to_owned();
        appointments.iter().map(|appointment| (field(appointment, "title"), field(appointment, "startsAt"))).collect::<Vec<_>>()
    });
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:#?}");
    seen.into_iter().next().expect("four clients")
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(title, start)| ((*title).to_owned(), (*start).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_calendar_is_imported_searched_by_every_client_and_booked_over() {
    let data = DataDir::new();
    let server = Server::start(binary("mcp-server"), &[("DATA_DIR", &data.database()), ("TIME_ZONE", "Europe/Berlin")])
        .await
        .ready()
        .await;

    let first = counts(&import(&data, &calendar("overrides.ics"), &[]).await);
    assert_eq!(first["added"], 11, "{first}");
    let again = counts(&import(&data, &calendar("overrides.ics"), &[]).await);
    assert_eq!(
        (&again["added"], &again["updated"], &again["removed"], &again["unchanged"]),
        (&json!(0), &json!(0), &json!(0), &json!(11)),
        "{again}"
    );

    // What a person sees in that calendar in April 2024: a weekly stand-up, once moved, once called off.
    let april = json!({ "userId": "ada", "startDate": "2024-04-01", "endDate": "2024-04-30" });
    assert_eq!(
        seen_by_every_client(&server, &april).await,
        pairs(&[
            ("Standup", "2024-04-01T09:00:00+02:00"),
            ("Standup, moved", "2024-04-09T14:00:00+02:00"),
            ("Standup", "2024-04-15T09:00:00+02:00"),
            ("Standup", "2024-04-22T09:00:00+02:00"),
        ])
    );

    let book = |starts_at: &str| {
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "book_appointment",
            "arguments": { "userId": "ada", "title": "Dentist", "startsAt": starts_at, "durationMinutes": 30 } } })
        .to_string()
    };
    let taken = message(server.address(), &book("2024-04-22T09:15")).await.json();
    assert_eq!(taken["result"]["isError"], true, "{taken}");
    assert!(taken["result"]["content"][0]["text"].as_str().unwrap_or_default().contains("Standup"), "{taken}");
    let booked = message(server.address(), &book("2024-04-15T09:15")).await.json();
    assert_eq!(booked["result"]["isError"], false, "a called-off appointment takes no time: {booked}");
    server.signal("TERM");
    assert_eq!(server.exit(Duration::from_secs(20)).await.code, Some(0));
}

/// Facts a person reads in the calendars of the folder that `CALENDARS` names: real files of several producers. They are not
/// part of the project, so this says loudly when they are not there.
#[tokio::test(flavor = "multi_thread")]
async fn real_calendars_show_what_a_person_sees_in_them() {
    let Some(folder) = std::env::var_os("CALENDARS").map(PathBuf::from) else {
        #[expect(clippy::print_stderr, reason = "a test that did nothing says so")]
        {
            eprintln!("CALENDARS names no folder of real calendars; nothing was tested here");
        }
        return;
    };
    let data = DataDir::new();
    let server = Server::start(binary("mcp-server"), &[("DATA_DIR", &data.database()), ("TIME_ZONE", "Europe/Berlin")])
        .await
        .ready()
        .await;
    for (file, from, until, expected) in [
        (
            "machbar.ics",
            "2019-03-04",
            "2019-03-06",
            &[
                ("Open Health HACKademy - freie Termine", "2019-03-04T14:00:00+01:00"),
                ("Open Health HACKademy - freie Termine", "2019-03-05T14:00:00+01:00"),
                ("Open Health HACKademy - freie Termine", "2019-03-06T14:00:00+01:00"),
            ][..],
        ),
        ("google.ics", "2024-10-04", "2024-10-04", &[("event with alarms", "2024-10-04T19:15:00+01:00")]),
        (
            "thunderbird.ics",
            "2025-04-01",
            "2025-04-30",
            &[
                ("event", "2025-04-23T09:00:00+01:00"),
                ("event", "2025-04-24T11:00:00+01:00"),
                ("event", "2025-04-25T09:00:00+01:00"),
                ("event", "2025-04-26T09:00:00+01:00"),
                ("event", "2025-04-27T09:00:00+01:00"),
            ],
        ),
    ] {
        let imported = counts(&import(&data, &folder.join(file), &[]).await);
        assert!(imported["added"].as_u64() > Some(0), "{file}: {imported}");
        let again = counts(&import(&data, &folder.join(file), &[]).await);
        assert_eq!((&again["added"], &again["updated"], &again["removed"]), (&json!(0), &json!(0), &json!(0)), "{file}: {again}");
        let seen = seen_by_every_client(&server, &json!({ "userId": "ada", "startDate": from, "endDate": until })).await;
        for wanted in pairs(expected) {
            assert!(seen.contains(&wanted), "{file}: {wanted:?} is not among {seen:#?}");
        }
    }
    let allday = json!({ "userId": "ada", "startDate": "2018-06-09", "endDate": "2018-06-09" });
    let imported = counts(&import(&data, &folder.join("fablab-cottbus.ics"), &[]).await);
    assert!(imported["added"].as_u64() > Some(0), "{imported}");
    let seen = seen_by_every_client(&server, &allday).await;
    assert!(
        seen.contains(&("Lab geschlossen: Wir sind auf dem Karlstraßenfest".to_owned(), "2018-06-09T00:00:00+02:00".to_owned())),
        "{seen:#?}"
    );
    for (file, words) in [("bom.ics", ""), ("broken.ics", "")] {
        let output = import(&data, &folder.join(file), &[]).await;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(said.contains(words) && !said.contains("panicked"), "{file}: {said}");
    }
}
