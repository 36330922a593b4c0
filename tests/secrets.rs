//! Secrets are shown nowhere: each has a mark, everything that holds one is made to fail in every way that can be made here,
//! and no mark is in what a process logs at its most talkative, answers, measures, traces, prints, reports or writes down.

use std::{path::PathBuf, process::Stdio, time::Duration};

use serde_json::{Value, json};
use tests::{
    command::rollout,
    http::{Connection, get, operate},
    local::Local,
    postgres::DataDir,
    receiver::Receiver,
    server::{Server, binary},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
};

const PASSWORD: &str = "m4rk-password";
const KEY: &str = "m4rk-key-that-is-long-enough-for-a-seal";
const TOKEN: &str = "m4rk-token";
const HEADER: &str = "m4rk-collector";
const WEBHOOK: &str = "m4rk-webhook";
const VARIABLE: &str = "m4rk-variable";
/// All of them.
const MARK: &str = "m4rk";

/// What an answer must not tell of how it was found out.
const SQL: [&str; 7] = ["SELECT ", "INSERT ", "UPDATE ", "DELETE FROM", "relation \"", "mcp_request_state_keys", "postgresql://"];

/// Fails if a mark is in this text.
#[track_caller]
fn is_clean(what: &str, text: &str) {
    let at = text.find(MARK).map(|at| text[..at].chars().rev().take(200).collect::<Vec<_>>());
    if let Some(before) = at {
        panic!("{what} shows a secret after: {}", before.iter().rev().collect::<String>());
    }
}

/// Everything that a server answers to somebody with a token, and to nobody.
async fn answers(server: &Server) -> String {
    let mut all = String::new();
    let doors = ["/health", "/ready", "/health/database", "/widget-test", "/.well-known/oauth-protected-resource", "/nowhere"];
    for path in doors {
        let answer = get(server.address(), path).await;
        all.push_str(&format!("{}{}", answer.head, answer.body));
    }
    for path in ["/metrics", "/release", "/drainage"] {
        let answer = get(server.operations(), path).await;
        all.push_str(&format!("{}{}", answer.head, answer.body));
    }
    let initialize =
        json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
    let booking = json!({ "userId": "ada", "title": "Dentist", "startsAt": "2031-05-05T10:00", "durationMinutes": 30 });
    for (method, params) in [
        ("initialize", initialize),
        ("tools/list", json!({})),
        ("resources/list", json!({})),
        ("tools/call", json!({ "name": "search_appointments", "arguments": { "userId": "ada" } })),
        ("tools/call", json!({ "name": "book_appointment", "arguments": booking })),
        ("tools/call", json!({ "name": "cancel_appointment", "arguments": { "appointmentId": "x" } })),
        ("tools/call", json!({ "name": "panics", "arguments": {} })),
        ("tools/call", json!({ "name": "echo", "arguments": {} })),
    ] {
        for headers in [format!("authorization: Bearer {TOKEN}\r\n"), String::new()] {
            let answer = Connection::open(server.address()).await.ask(method, &params, &headers).await;
            all.push_str(&format!("{}{}", answer.head, answer.body));
        }
    }
    is_clean("an answer", &all);
    for words in SQL.into_iter().chain(["a tool that panics"]) {
        assert!(!all.contains(words), "an answer tells {words:?}: {all}");
    }
    all
}

/// Somewhere a PostgreSQL might be: it speaks no TLS, wants a password, and lets nobody in.
async fn unfriendly() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(turn_away(stream));
        }
    });
    address.to_string()
}

/// One connection (PostgreSQL's frontend/backend protocol, 55.2 and 55.7).
async fn turn_away(mut stream: TcpStream) -> std::io::Result<()> {
    let mut said = [0; 1024];
    loop {
        let read = stream.read(&mut said).await?;
        let is_tls = read == 8 && said[4..8] == 80_877_103_u32.to_be_bytes();
        match said[0] {
            _ if read == 0 => return Ok(()),
            _ if is_tls => stream.write_all(b"N").await?,
            b'p' => {
                let refusal = b"SFATAL\0C28P01\0Mpassword authentication failed for user \"ada\"\0\0";
                let length = u32::try_from(refusal.len() + 4).expect("it is short");
                stream.write_all(&[b"E", &length.to_be_bytes()[..], refusal].concat()).await?;
                return Ok(());
            }
            // In the clear it would not be told the password.
            _ => stream.write_all(b"R\0\0\0\x0c\0\0\0\x05salt").await?,
        }
    }
}

/// A marked secret in every place, and every line that there is.
fn marked<'a>(url: &'a str, headers: &'a str, keys: &'a str) -> Vec<(&'static str, &'a str)> {
    vec![
        ("LOG", "trace"),
        ("DATABASE_URL", url),
        ("DATABASE_DIRECT_URL", url),
        ("DATABASE_CONNECT_SECS", "1"),
        ("DATABASE_WAIT_SECS", "1"),
        ("DATABASE_MIGRATE_URL", url),
        ("REQUEST_STATE_KEYS", keys),
        ("FORWARD_KEY", KEY),
        ("OTEL_EXPORTER_OTLP_HEADERS", headers),
        // Nobody listens on either.
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("AUTHENTICATION", "oauth"),
        ("OAUTH_ISSUER", "http://127.0.0.1:1"),
    ]
}

/// What a command of the server's prints, wherever.
async fn printed(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(binary("mcp-server"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(environment.iter().copied());
    command.env("LISTEN", "127.0.0.1:0").env("OPERATIONS_LISTEN", "127.0.0.1:0");
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(Duration::from_secs(60), command.output()).await.expect("it ends").expect("it starts");
    [ended.stdout, ended.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_reaches_nobody_shows_no_secret() {
    let unfriendly = unfriendly().await;
    let (headers, keys) = (format!("authorization={HEADER}"), format!("k1={KEY}"));
    for (what, url, words) in [
        ("nobody is there", format!("postgresql://ada:{PASSWORD}@127.0.0.1:1/db?sslmode=disable"), "cannot be reached"),
        ("the password is wrong", format!("postgresql://ada:{PASSWORD}@{unfriendly}/db?sslmode=disable"), "28P01"),
        ("there is no TLS", format!("postgresql://ada:{PASSWORD}@{unfriendly}/db?sslmode=verify-full"), "cannot be reached"),
        (
            "it is named in pairs",
            format!("host=127.0.0.1 port=1 user=ada password={PASSWORD} sslmode=disable"),
            "cannot be reached",
        ),
    ] {
        let environment = marked(&url, &headers, &keys);
        let server = Server::start(binary("mcp-server"), &environment).await;
        let all = answers(&server).await;
        assert!(all.contains(words), "{what}: {all}");
        is_clean(what, &printed(&["config"], &environment).await);
        server.signal("TERM");
        let exit = server.exit(Duration::from_secs(30)).await;
        is_clean(what, &exit.stderr);
        assert!(exit.stderr.contains("TRACE") || exit.stderr.contains("DEBUG"), "{what}: it says all that it can");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_used_is_refused_without_its_secrets() {
    let good = format!("postgresql://ada:{PASSWORD}@127.0.0.1:1/db");
    let (headers, keys) = (format!("authorization={HEADER}"), format!("k1={KEY}"));
    let (at, query) =
        (format!("postgresql://ada:{PASSWORD}@{PASSWORD}@host/db"), format!("postgresql://ada@127.0.0.1:1/db?{PASSWORD}=1"));
    let (scheme, port) = (format!("mysql//{PASSWORD}"), format!("postgresql://ada@host:{PASSWORD}/db"));
    let mode = format!("{good}?sslmode={PASSWORD}");
    let (short, twice) = (format!("k1={MARK}"), format!("k1={KEY},k1={KEY}"));
    let (nameless, broken) = (HEADER.to_owned(), format!("authorization={HEADER}%0a%zz"));
    let lines = format!("authorization={HEADER}%0d%0ax: y");
    for (name, value) in [
        ("DATABASE_URL", &at),
        ("DATABASE_URL", &query),
        ("DATABASE_URL", &scheme),
        ("DATABASE_URL", &port),
        ("DATABASE_URL", &mode),
        ("DATABASE_DIRECT_URL", &at),
        ("REQUEST_STATE_KEYS", &short),
        ("REQUEST_STATE_KEYS", &twice),
        ("OTEL_EXPORTER_OTLP_HEADERS", &nameless),
        ("OTEL_EXPORTER_OTLP_HEADERS", &broken),
        ("OTEL_EXPORTER_OTLP_HEADERS", &lines),
    ] {
        let mut environment = marked(&good, &headers, &keys);
        environment.iter_mut().filter(|(other, _)| *other == name).for_each(|pair| pair.1 = value);
        for command in ["serve", "config", "migrate"] {
            let arguments: &[&str] = if command == "migrate" { &["migrate", "status"] } else { &[command] };
            let said = printed(arguments, &environment).await;
            is_clean(&format!("{command} with {name}={value}"), &said);
            assert!(!said.is_empty(), "{command} with a {name} that is wrong says nothing");
            // What is only printed is not opened.
            assert!(command == "config" || !said.contains("listens on"), "{command} with {name}={value}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_statements_and_tools_fail_tells_callers_and_collectors_no_secret_and_no_sql() {
    let collector = Receiver::open().await;
    let (data, url) = (DataDir::new(), collector.url());
    let (directory, headers, keys) = (data.database(), format!("authorization={HEADER}"), format!("k1={KEY},database"));
    let environment = [
        ("DATA_DIR", &*directory),
        ("LOG", "trace"),
        ("REQUEST_STATE_KEYS", &*keys),
        ("OTEL_EXPORTER_OTLP_HEADERS", &*headers),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
    ];
    let server = Server::start(binary("mcp-server"), &environment).await.ready().await;
    answers(&server).await;
    data.execute("ALTER TABLE appointments RENAME TO elsewhere").await;
    let all = answers(&server).await;
    assert!(all.contains("internal error; try again"), "the search fails: {all}");
    assert!(server.stderr().contains("42P01"), "and the log says why:\n{}", server.stderr());
    let tools = Server::example("slow", &environment).await.ready().await;
    assert!(answers(&tools).await.contains("internal error; try again"), "the tool panics");

    let heard = collector.heard(4).await;
    assert!(heard.iter().any(|heard| heard.line == "POST /v1/traces"), "spans are sent");
    for heard in &heard {
        assert!(heard.headers.contains(HEADER), "the collector gets its credentials: {}", heard.headers);
        is_clean(&heard.line, &String::from_utf8_lossy(&heard.bytes));
    }
    for server in [server, tools] {
        server.signal("TERM");
        is_clean("the log", &server.exit(Duration::from_secs(60)).await.stderr);
    }
}

/// What a `rollout` command prints, and how it ends.
async fn told(state: &DataDir, arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = rollout();
    command.arg("--state").arg(state.path()).arg("--verbose").args(arguments).envs(environment.iter().copied());
    let ended = command.kill_on_drop(true).output().await.expect("the command starts");
    (ended.status.code(), [ended.stdout, ended.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_cannot_begin_shows_no_secret() {
    let (state, unfriendly) = (DataDir::new(), unfriendly().await);
    let (away, wrong) =
        (format!("postgresql://ada:{PASSWORD}@127.0.0.1:1/db"), format!("postgresql://ada:{PASSWORD}@{unfriendly}/db"));
    let bad = format!("postgresql://ada:{PASSWORD}@{PASSWORD}@host/db");
    let webhook = format!("http://127.0.0.1:1/{WEBHOOK}");
    let variable = format!("TOKEN={VARIABLE}");
    let deploy = ["deploy", "/bin/true", "--env", &variable];
    for (url, code) in [(&away, 69), (&wrong, 69), (&bad, 69)] {
        for command in [&deploy[..], &["history"], &["unlock"], &["rollback"], &["status"]] {
            let environment = [("DATABASE_URL", &**url), ("ROLLOUT_TOKEN", TOKEN), ("ALERT_WEBHOOK", &*webhook)];
            let (ended, said) = told(&state, command, &environment).await;
            is_clean(&format!("{command:?}"), &said);
            assert_eq!(ended, Some(code), "{command:?}: {said}");
        }
    }
    let (words, path) = (format!("two words {TOKEN}"), format!("hooks.example.com/{WEBHOOK}"));
    for (what, more, environment) in [
        ("a token of two words", vec!["--token", &*words], vec![]),
        ("a token of two words in its variable", vec![], vec![("ROLLOUT_TOKEN", &*words)]),
        ("a webhook without https", vec!["--alert-webhook", &*path], vec![]),
        ("a webhook without https in its variable", vec![], vec![("ALERT_WEBHOOK", &*path)]),
        ("a variable without a name", vec!["--env", VARIABLE], vec![]),
        ("a flag that there is not", vec!["--tokem", "x"], vec![("ROLLOUT_TOKEN", TOKEN), ("ALERT_WEBHOOK", &*webhook)]),
        ("help", vec!["--help"], vec![("ROLLOUT_TOKEN", TOKEN), ("ALERT_WEBHOOK", &*webhook), ("DATABASE_URL", &*away)]),
    ] {
        let (ended, said) = told(&state, &[&deploy[..], &more].concat(), &environment).await;
        is_clean(what, &said);
        assert_eq!(ended, Some(if what == "help" { 0 } else { 2 }), "{what}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_fails_writes_no_secret_down() {
    let image = binary("examples/faulty");
    let variable = format!("TOKEN={VARIABLE}");
    let local = Local::up(&image, &[("TOKEN", VARIABLE)], 1).await;
    let webhook = format!("http://127.0.0.1:1/{WEBHOOK}");
    let image = image.display().to_string();
    let mut said = String::new();
    for fault in ["FAULT=smoke", "FAULT=crash"] {
        let deploy = ["--verbose", "deploy", &image, "--env", "RELEASE_VERSION=2.0.0", "--env", fault, "--env", &variable];
        let more =
            ["--token", TOKEN, "--alert-webhook", &webhook, "--skip", "migrate", "--skip", "validate", "--ready-within", "5"];
        let ended = local.rollout(&[&deploy[..], &more].concat()).await;
        ended.assert(1);
        assert!(ended.stderr.contains("webhook"), "nobody was told: {}", ended.stderr);
        said.push_str(&format!("{:?}{}", ended.lines, ended.stderr));
    }
    for command in [&["status"][..], &["history"], &["plan", &image, "--env", &variable]] {
        let ended = local.rollout(command).await;
        said.push_str(&format!("{:?}{}", ended.lines, ended.stderr));
    }
    is_clean("a rollout", &said);
    is_clean("the platform", &operate(local.operations(), "GET", "/platform", &local.secret()).await.body);
    for journal in [
        "SELECT string_agg(t::text, ' ') FROM mcp_rollouts t",
        "SELECT string_agg(t::text, ' ') FROM mcp_rollout_steps t",
        "SELECT string_agg(t::text, ' ') FROM mcp_rollout_lease t",
    ] {
        is_clean("the journal", &local.query(journal).await);
    }
    let mut read = 0;
    for file in files(local.state()) {
        // What starts a color again after a reboot has to know what it is told. Nobody else can read it.
        if file.file_name().is_some_and(|name| name == "colors.json") {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&file).expect("it is there").permissions().mode() & 0o077, 0);
            continue;
        }
        read += 1;
        is_clean(&file.display().to_string(), &String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default()));
    }
    assert!(read > 1, "there are reports and logs");
}

/// All files of a folder but the database's own.
fn files(folder: PathBuf) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true if path.file_name().is_some_and(|name| name == "database") => {}
                true => folders.push(path),
                false => found.push(path),
            }
        }
    }
    found
}

#[test]
fn a_mark_is_found() {
    let found = std::panic::catch_unwind(|| is_clean("this", &json!({ "a": [Value::Null, PASSWORD] }).to_string()));
    assert!(found.is_err());
}
