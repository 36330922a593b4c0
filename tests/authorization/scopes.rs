//! What a token does not allow is not done, however the call is written, and the refusal says what to ask for.

use serde_json::{Value, json};
use tests::{issuer::Issuer, postgres::DataDir, server::Server};

use super::{allowed, appointments, bearer, challenge, send};

const CHALLENGE: &str = "Bearer resource_metadata=\"https://mcp.example.com/.well-known/oauth-protected-resource/mcp\", \
     scope=\"appointments:read appointments:write\", error=\"insufficient_scope\", \
     error_description=\"this needs the scope appointments:write, which the access token does not have\"";
const READ: &str = "appointments:read";
/// The members of the parameters that would book.
const BOOKING: &str = r#""arguments":{"title":"Stolen","startsAt":"2031-05-05T10:00","durationMinutes":30}"#;

fn call(params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#)
}

fn call_of(tool: &str, arguments: &Value) -> String {
    call(&json!({ "name": tool, "arguments": arguments }).to_string())
}

/// How many appointments the caller has.
async fn count(server: &Server, headers: &str) -> Value {
    let found =
        send(server, &call_of("search_appointments", &json!({ "startDate": "2031-01-01", "endDate": "2031-12-31" })), headers)
            .await;
    found.json()["result"]["structuredContent"]["data"]["count"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_read_changes_nothing_however_the_call_is_written() {
    let issuer = Issuer::start(&[]).await;
    let data = DataDir::new();
    let server = appointments(&data, &issuer, &[("PUBLIC_URL", super::PUBLIC_URL)]).await;
    let reader = allowed(&issuer, "mallory", READ).await;
    let id = "8a0d2f7e-0000-4000-8000-000000000000";
    for (tool, arguments) in [
        ("book_appointment", json!({ "title": "Stolen", "startsAt": "2031-05-05T10:00", "durationMinutes": 30 })),
        ("reschedule_appointment", json!({ "appointmentId": id, "startsAt": "2031-05-05T10:00" })),
        ("cancel_appointment", json!({ "appointmentId": id })),
        ("cancel_appointment", json!("not even arguments")),
    ] {
        let body = call_of(tool, &arguments);
        let refused = send(&server, &body, &reader).await;
        assert_eq!((refused.status, challenge(&refused)), (403, CHALLENGE), "{tool}");
        // ChatGPT reads results.
        let told = send(&server, &body, &format!("{reader}user-agent: openai-mcp/1.0.0\r\n")).await;
        assert_eq!(told.status, 200, "{tool}");
        for answer in [refused.json(), told.json()] {
            assert_eq!(answer["result"]["isError"], true, "{tool}: {answer}");
            assert_eq!(answer["result"]["_meta"]["mcp/www_authenticate"], json!([CHALLENGE]), "{tool}");
            assert!(answer["result"].get("structuredContent").is_none(), "{tool}");
        }
    }

    let session = tests::http::Connection::open(server.address()).await.open_session_with(&reader).await;
    let session = format!(
        "mcp-session-id: {session}\r\nmcp-protocol-version: 2025-11-25\r\naccept: application/json, text/event-stream\r\n"
    );
    let newest = "mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: book_appointment\r\n";
    let meta =
        r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
    let plain = format!(r#"{{"name":"book_appointment",{BOOKING}}}"#);
    let twice = format!(r#"{{"name":"book_appointment","cursor":1,"cursor":2,{BOOKING}}}"#);
    for (what, body, headers) in [
        ("in a session", call(&plain), &*session),
        ("as 2026-07-28 has it", call(&format!(r#"{{"name":"book_appointment",{meta},{BOOKING}}}"#)), newest),
        ("with a name that is escaped", call(&format!(r#"{{"n\u0061me":"book\u005fappointment",{BOOKING}}}"#)), ""),
        ("with a method that is escaped", call(&plain).replace("tools/call", "tools\\u002fcall"), ""),
        (
            "as a list of parameters",
            call(r#"["book_appointment",{"title":"Stolen","startsAt":"2031-05-05T10:00","durationMinutes":30}]"#),
            "",
        ),
        ("as a task", call(&format!(r#"{{"name":"book_appointment","task":{{}},{BOOKING}}}"#)), ""),
        ("in a batch", format!("[{}]", call(&plain)), ""),
        ("as a notice", call(&plain).replace(r#""id":1,"#, ""), ""),
        (
            "with two names, the harmless one first",
            call(&format!(r#"{{"name":"search_appointments","name":"book_appointment",{BOOKING}}}"#)),
            "",
        ),
        (
            "with two names, the harmless one last",
            call(&format!(r#"{{"name":"book_appointment","name":"search_appointments",{BOOKING}}}"#)),
            "",
        ),
        ("with a member twice that means nothing", call(&twice), ""),
        ("with a member twice that means nothing, in a session", call(&twice), &*session),
        ("with a member twice that means nothing, in a batch", format!("[{}]", call(&twice)), ""),
        ("with arguments twice", call(&format!(r#"{{"name":"book_appointment","arguments":{{}},{BOOKING}}}"#)), ""),
        (
            "with a name for the other reader",
            call(&format!(r#"{{"name":"search_appointments","Name":"book_appointment",{BOOKING}}}"#)),
            "",
        ),
    ] {
        let mut connection = tests::http::Connection::open(server.address()).await;
        connection.send_message(&body, &format!("{reader}{headers}connection: close\r\n")).await;
        let answer = connection.read_to_end().await;
        assert!(!answer.contains("Booked"), "{what}: {answer}");
        assert_eq!(count(&server, &reader).await, 0, "{what}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_is_a_whole_word_of_the_token() {
    let issuer = Issuer::start(&[]).await;
    let data = DataDir::new();
    let server = appointments(&data, &issuer, &[("PUBLIC_URL", super::PUBLIC_URL)]).await;
    let booking = call(&format!(r#"{{"name":"book_appointment",{BOOKING}}}"#));
    for (what, claims) in [
        ("none", json!({ "scope": null })),
        ("an empty one", json!({ "scope": "" })),
        ("a longer word", json!({ "scope": "appointments:read appointments:writer" })),
        ("a shorter word", json!({ "scope": "appointments:read appointments" })),
        ("a star", json!({ "scope": "* appointments:*" })),
        ("capitals", json!({ "scope": "APPOINTMENTS:WRITE" })),
        ("with commas", json!({ "scope": "appointments:read,appointments:write" })),
        ("with a line break of another kind", json!({ "scope": "appointments:read\u{a0}appointments:write" })),
        ("beside an empty one", json!({ "scope": "", "scp": ["appointments:write"] })),
        ("as roles", json!({ "scope": "", "roles": ["appointments:write"], "permissions": ["appointments:write"] })),
    ] {
        let mut all = json!({ "aud": super::RESOURCE, "sub": "mallory" });
        all.as_object_mut().expect("an object").extend(claims.as_object().cloned().unwrap_or_default());
        let token = bearer(&issuer.token("current", &json!({}), &all).await);
        let refused = send(&server, &booking, &token).await;
        assert_eq!(refused.status, 403, "{what}: {}", refused.body);
    }
    let reader = allowed(&issuer, "mallory", READ).await;
    assert_eq!(count(&server, &reader).await, 0);
    // Who may only write is told to keep that when they come to read.
    let writer = allowed(&issuer, "ada", "appointments:write").await;
    let refused = send(&server, &call_of("search_appointments", &json!({})), &writer).await;
    assert_eq!(refused.status, 403);
    assert!(challenge(&refused).contains("scope=\"appointments:read appointments:write\""), "{}", challenge(&refused));
    // As Microsoft and Okta have it.
    let claims =
        json!({ "aud": super::RESOURCE, "sub": "ada", "scope": null, "scp": ["appointments:read", "appointments:write"] });
    let listed = bearer(&issuer.token("current", &json!({}), &claims).await);
    assert_eq!(send(&server, &booking, &listed).await.status, 200);
    assert_eq!(count(&server, &listed).await, 1);
}
