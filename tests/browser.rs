//! A client in a browser reads what any other client reads: every response of the endpoint, refusals included. A page reads and
//! changes nothing on the operations listener.

use serde_json::json;
use tests::{
    http::get,
    issuer::Issuer,
    node,
    postgres::DataDir,
    server::{Server, binary},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_chromium_reads_every_response() {
    let issuer = Issuer::start(&[]).await;
    let (data, protected_data) = (DataDir::new(), DataDir::new());
    let environment = [("DATA_DIR", &*data.database()), ("AUTHENTICATION", "header:X-User"), ("BODY_LIMIT_BYTES", "100000")];
    let server = Server::start(binary("mcp-server"), &environment).await.ready().await;
    let issuer_url = issuer.url();
    let environment = [("DATA_DIR", &*protected_data.database()), ("AUTHENTICATION", "oauth"), ("OAUTH_ISSUER", &*issuer_url)];
    let protected = Server::start(binary("mcp-server"), &environment).await.ready().await;
    let claims = json!({ "aud": protected.url(), "sub": "ada", "scope": "appointments:read" });
    let token = issuer.token("current", &json!({}), &claims).await;

    for host in ["localhost", "tauri.localhost"] {
        let (url, guarded, operations) = (server.url(), protected.url(), format!("http://{}", server.operations()));
        let options = [
            ["--url", &url],
            ["--protected", &guarded],
            ["--token", &token],
            ["--operations", &operations],
            ["--principal", "X-User"],
            ["--host", host],
        ];
        let told = node::client("browser.mjs", options.as_flattened()).await;
        let of = |what: &str| {
            let mut all = told.as_array().into_iter().flatten();
            all.find(|one| one["what"] == what).unwrap_or_else(|| panic!("{what} is not in {told:#}"))
        };
        for (what, status) in [
            ("initialize", 200),
            ("list in the session", 200),
            ("stream", 200),
            ("resume", 400),
            ("delete", 204),
            ("deleted session", 404),
            ("unknown version", 400),
            ("2026-07-28", 200),
            ("parameter headers", 200),
            ("trace headers", 200),
            ("principal header", 200),
            ("slash", 200),
            ("root", 404),
            ("root, read", 200),
            ("nowhere", 404),
            ("wrong method", 405),
            ("wrong type", 415),
            ("too large", 413),
            ("health", 200),
            ("no token", 401),
            ("too few scopes", 403),
            ("wrong token", 401),
            ("oauth-protected-resource", 200),
            ("oauth-protected-resource/mcp", 200),
            ("no authorization server", 404),
        ] {
            assert_eq!(of(what)["status"], status, "{host}: {what}: {:#}", of(what));
        }
        assert!(of("initialize")["session"].is_string(), "{told:#}");
        for refused in ["no token", "too few scopes", "wrong token"] {
            assert!(of(refused)["challenge"].to_string().contains("resource_metadata="), "{:#}", of(refused));
        }
        assert!(of("root")["text"].to_string().contains("/mcp"), "{:#}", of("root"));
        for unread in ["other header", "operations, read", "operations, leave"] {
            assert!(of(unread)["failed"].is_string(), "{host}: {unread}: {:#}", of(unread));
        }
        assert_eq!(get(server.operations(), "/drainage").await.json()["stage"], "serving", "{host}: no page makes it leave");
    }
}
