//! What is open without a token, and what is not there at all.

use serde_json::{Value, json};
use tests::{
    http::{Connection, get},
    issuer::Issuer,
    postgres::DataDir,
    server::Server,
};

use super::{PING, PUBLIC_URL, RESOURCE, appointments, bare, challenge, example, header, of, send};

#[tokio::test(flavor = "multi_thread")]
async fn the_way_to_a_token_is_open_and_the_doors_of_operators_are_elsewhere() {
    let issuer = Issuer::start(&[]).await;
    let data = DataDir::new();
    let server = appointments(&data, &issuer, &[("PUBLIC_URL", PUBLIC_URL)]).await;
    for path in ["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"] {
        let answer = get(server.address(), path).await;
        let expected = json!({
            "resource": RESOURCE,
            "authorization_servers": [issuer.url()],
            "scopes_supported": ["appointments:read", "appointments:write"],
            "bearer_methods_supported": ["header"],
            "resource_name": "Appointments",
        });
        assert_eq!((answer.status, answer.json()), (200, expected), "{path}");
        assert_eq!(header(&answer, "access-control-allow-origin"), "*", "{path}: a client in a browser reads it");
    }
    for path in ["/health", "/ready"] {
        assert_eq!(get(server.address(), path).await.status, 200, "{path}");
    }
    for path in ["/.well-known/oauth-authorization-server", "/.well-known/oauth-authorization-server/mcp"] {
        let answer = get(server.address(), path).await;
        let expected = format!("{}/.well-known/oauth-authorization-server", issuer.url());
        assert_eq!((answer.status, header(&answer, "location")), (307, &*expected), "{path}");
    }
    for path in ["/mcp", "/mcp/"] {
        assert_eq!(get(server.address(), path).await.status, 401, "{path}");
        assert_eq!(tests::http::post(server.address(), path).await.status, 401, "POST {path}");
    }
    for path in [
        "/metrics",
        "/drainage",
        "/release",
        "/leave",
        "/role/live",
        "/MCP",
        "//mcp",
        "/%6dcp",
        "/mcp/../metrics",
        "/mcp%2f..%2fmetrics",
        "/.well-known/oauth-protected-resource/other",
        "/widget-test/../../../etc/passwd",
        "/.env",
        "/.git/config",
    ] {
        assert_eq!(get(server.address(), path).await.status, 404, "{path}");
        assert_eq!(tests::http::post(server.address(), path).await.status, 404, "POST {path}");
    }
    assert_eq!(get(server.operations(), "/metrics").await.status, 200, "they are where operators are");
    assert_eq!(get(server.operations(), "/mcp").await.status, 404, "and clients are not");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_may_ask_without_a_token_and_is_granted_nothing_else() {
    let issuer = Issuer::start(&[]).await;
    let server = example("slow", &issuer, &[("ALLOWED_ORIGINS", "https://inspector.example.org")]).await;
    let ours = "origin: https://inspector.example.org\r\n";
    let asked = format!("{ours}access-control-request-method: POST\r\naccess-control-request-headers: authorization\r\n");
    let granted = bare(&server, "OPTIONS", &asked).await;
    assert_eq!(granted.status, 204);
    assert_eq!(header(&granted, "access-control-allow-origin"), "https://inspector.example.org");
    assert_eq!(header(&granted, "access-control-allow-methods"), "GET, POST, DELETE");
    assert!(header(&granted, "access-control-allow-headers").contains("authorization"));
    // Cookies are no proof here, and no page is to send any.
    assert_eq!(header(&granted, "access-control-allow-credentials"), "");
    assert!(granted.body.is_empty(), "{}", granted.body);

    // A page that may call still needs a token, and may read where to get one.
    let refused = send(&server, PING, ours).await;
    assert_eq!(refused.status, 401);
    assert_eq!(header(&refused, "access-control-allow-origin"), "https://inspector.example.org");
    let exposed = header(&refused, "access-control-expose-headers");
    for name in ["mcp-session-id", "www-authenticate", "retry-after"] {
        assert!(exposed.contains(name), "{name} is not in {exposed}");
    }
    assert!(challenge(&refused).starts_with("Bearer resource_metadata="));
    for origin in ["https://evil.example.net", "https://inspector.example.org.evil.net", "null", "http://localhost:6274"] {
        let refused = bare(&server, "OPTIONS", &format!("host: mcp.example.com\r\norigin: {origin}\r\n")).await;
        assert!(refused.status == 403 || refused.status == 400, "{origin}: {}", refused.status);
        assert_eq!(header(&refused, "access-control-allow-origin"), "", "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_token_opens_no_other_name_and_no_other_page() {
    let issuer = Issuer::start(&[]).await;
    let server = example("slow", &issuer, &[]).await;
    let good = of(&issuer, "ada").await;
    for (what, line, headers, status) in [
        ("our name", "/mcp", "host: mcp.example.com\r\n", 200),
        ("another name", "/mcp", "host: evil.example.net\r\n", 403),
        ("no name", "/mcp", "", 400),
        ("two names, ours first", "/mcp", "host: mcp.example.com\r\nhost: evil.example.net\r\n", 400),
        ("two names, ours last", "/mcp", "host: evil.example.net\r\nhost: mcp.example.com\r\n", 400),
        ("our name after a user's", "/mcp", "host: mcp.example.com@evil.example.net\r\n", 403),
        ("our name in a proxy's header", "/mcp", "host: evil.example.net\r\nx-forwarded-host: mcp.example.com\r\n", 403),
        ("another name in the request line", "http://evil.example.net/mcp", "host: mcp.example.com\r\n", 403),
        ("a page of ours", "/mcp", "host: mcp.example.com\r\norigin: https://mcp.example.com\r\n", 200),
        ("another page", "/mcp", "host: mcp.example.com\r\norigin: https://evil.example.net\r\n", 403),
        ("a page without a name", "/mcp", "host: mcp.example.com\r\norigin: null\r\n", 403),
        ("a page that is not https", "/mcp", "host: mcp.example.com\r\norigin: http://mcp.example.com\r\n", 403),
        (
            "a page of a browser's extension",
            "/mcp",
            "host: mcp.example.com\r\norigin: chrome-extension://mcp.example.com\r\n",
            403,
        ),
        ("a page of a longer name", "/mcp", "host: mcp.example.com\r\norigin: http://mcp.example.com.evil.net\r\n", 403),
        (
            "two pages, ours first",
            "/mcp",
            "host: mcp.example.com\r\norigin: https://mcp.example.com\r\norigin: https://evil.example.net\r\n",
            403,
        ),
    ] {
        let mut connection = Connection::open(server.address()).await;
        let request = format!(
            "POST {line} HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{good}{headers}\r\n{PING}",
            PING.len()
        );
        connection.send(request.as_bytes()).await;
        assert_eq!(connection.answer().await.status, status, "{what}");
    }
}

/// ChatGPT reads them in one of two places, and both paths of the server list the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_listed_tool_says_beside_its_name_and_in_its_meta_what_it_needs() {
    let issuer = Issuer::start(&[]).await;
    let data = DataDir::new();
    let server = appointments(&data, &issuer, &[("PUBLIC_URL", PUBLIC_URL)]).await;
    let good = of(&issuer, "ada").await;
    let meta =
        json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
    let older =
        json!({ "io.modelcontextprotocol/protocolVersion": "2025-11-25", "io.modelcontextprotocol/clientCapabilities": {} });
    let newest = "mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/list\r\n";
    for (headers, params) in [
        (String::new(), json!({})),
        (newest.to_owned(), json!({ "_meta": meta })),
        // A revision in `_meta` that has none there: rmcp answers.
        ("mcp-protocol-version: 2025-11-25\r\n".to_owned(), json!({ "_meta": older })),
    ] {
        let listed =
            Connection::open(server.address()).await.ask("tools/list", &params, &format!("{good}{headers}")).await.json();
        let tools = listed["result"]["tools"].as_array().unwrap_or_else(|| panic!("{headers}: {listed}"));
        for tool in tools {
            assert_eq!(tool["securitySchemes"][0]["type"], "oauth2", "{headers}: {tool}");
            assert_eq!(tool["securitySchemes"], tool["_meta"]["securitySchemes"], "{headers}: {tool}");
        }
    }
}

async fn read(server: &Server, address: &str, headers: &str) -> Value {
    Connection::open(server.address()).await.ask("resources/read", &json!({ "uri": address }), headers).await.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_was_not_published_is_no_file_and_no_other_server() {
    let issuer = Issuer::start(&[]).await;
    let data = DataDir::new();
    let server = appointments(&data, &issuer, &[("PUBLIC_URL", PUBLIC_URL)]).await;
    let good = of(&issuer, "ada").await;
    let listed = Connection::open(server.address()).await.ask("resources/list", &json!({}), &good).await.json();
    let widget = listed["result"]["resources"][0]["uri"].as_str().unwrap_or_else(|| panic!("{listed}")).to_owned();
    assert!(read(&server, &widget, &good).await["result"]["contents"][0]["text"].is_string());
    assert_eq!(
        send(
            &server,
            &json!({ "jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": { "uri": widget } }).to_string(),
            ""
        )
        .await
        .status,
        401
    );
    let (folder, file) = widget.rsplit_once('/').expect("an address has parts");
    for address in [
        "",
        "/etc/passwd",
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "http://127.0.0.1/metrics",
        "http://169.254.169.254/latest/meta-data/",
        "ui://widgets/../../etc/passwd",
        &format!("{folder}/../../../etc/passwd"),
        &format!("{folder}/./{file}"),
        &format!("{folder}/%2e%2e/{file}"),
        &format!("{folder}%2f{file}"),
        &format!("{folder}\\{file}"),
        &format!("{folder}//{file}"),
        &format!("{widget}/"),
        &format!("{widget}?v=1"),
        &format!("{widget}#fragment"),
        &format!(" {widget}"),
        &widget.to_uppercase(),
        &format!("{folder}/' OR '1'='1"),
        &format!("{folder}/%"),
        &format!("{folder}/{}", "x".repeat(10_000)),
    ] {
        let answer = read(&server, address, &good).await;
        assert_eq!(answer["error"]["code"], -32002, "{address}: {answer}");
        assert!(answer.get("result").is_none(), "{address}");
    }
}
