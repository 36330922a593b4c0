//! What is stored for a person can be exported whole and erased whole, also where it is in the memory of running replicas, and
//! nobody else's is touched.

#![expect(clippy::unwrap_used, reason = "what a test needs fails the test when it is missing")]

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use bg_runtime::{
    Color, Release,
    database::{Database, DatabaseConfig, Type},
    storage::{Control, Replica},
};
use jiff::tz::TimeZone;
use mcp_server::{
    HttpConfig,
    appointments::{AppState, MIGRATIONS, PERSONAL_DATA, app},
    authentication::Authentication,
    person::FRAMEWORK,
    testing::{self, Server},
};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(60);
/// Names and words that stand in a row only because of Ada.
const ADA: &str = "ada|5c1f";
const MARK: &str = "marked-5c1f";

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_exported_and_erased_and_nobody_else_is() {
    let desk = Desk::open().await;
    let (blue, green) = (desk.start(Color::Blue).await, desk.start(Color::Green).await);
    let mut sessions = Vec::new();
    for who in [ADA, "bob"] {
        let session = open(&blue, who).await;
        // In the memory of both replicas.
        assert_eq!(status(&green, who, &session).await, 200);
        let mark = if who == ADA { MARK } else { "marked-bob" };
        let booking = json!({ "title": mark, "startsAt": "2031-05-05T10:00", "durationMinutes": 30, "timeZone": "Asia/Tokyo" });
        let meta = json!({ "mcp-server/idempotencyKey": format!("key of {mark}") });
        call(&blue, who, &session, "book_appointment", booking.clone(), meta.clone()).await;
        // Made again, it is answered from memory, in a form that the output schema allows.
        call(&blue, who, &session, "book_appointment", booking, meta).await;
        desk.fill(who, mark, &session).await;
        sessions.push(session);
    }
    let before = desk.rows_with("bob").await;

    let exported = desk.run(&["person", "export", ADA, "--json"]);
    let exported: Value = serde_json::from_slice(&exported.stdout).unwrap_or_else(|_| panic!("{exported:?}"));
    for data in PERSONAL_DATA.iter().chain(FRAMEWORK) {
        let rows = exported["tables"][data.table()].as_array().unwrap_or_else(|| panic!("no {}: {exported:#}", data.table()));
        assert!(!rows.is_empty(), "nothing of {} is exported: {exported:#}", data.table());
    }
    let text = exported.to_string();
    assert!(text.contains(MARK) && !text.contains("bob"), "{exported:#}");
    let lines = String::from_utf8(desk.run(&["person", "export", ADA]).stdout).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["table"] == "appointments" && line["row"]["title"] == MARK), "{lines:?}");

    // Not without a word.
    let asked = desk.run(&["person", "erase", ADA]);
    let words = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(asked.status.code() == Some(1) && words.contains("1 row  of appointments") && words.contains("--yes"), "{words}");
    assert_eq!(status(&blue, ADA, &sessions[0]).await, 200);

    let erased = desk.run(&["person", "erase", ADA, "--yes", "--json"]);
    assert_eq!(erased.status.code(), Some(0), "{erased:?}");
    let erased: Value = serde_json::from_slice(&erased.stdout).unwrap();
    for data in PERSONAL_DATA.iter().chain(FRAMEWORK) {
        assert!(erased["erased"][data.table()].as_i64().unwrap() > 0, "{}: {erased:#}", data.table());
    }
    // Every replica hears of it.
    for server in [&blue, &green] {
        let begun = Instant::now();
        while status(server, ADA, &sessions[0]).await != 404 {
            assert!(begun.elapsed() < LONG, "the session lives on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(status(server, "bob", &sessions[1]).await, 200, "somebody else's session was ended");
    }
    let digest = desk.text("SELECT left(encode(sha256('ada|5c1f'), 'hex'), 32)").await;
    for word in [ADA, MARK, &digest] {
        assert_eq!(desk.rows_with(word).await, Vec::<String>::new(), "{word}");
    }
    let after = desk.rows_with("bob").await;
    // The time of the session's last use may have been written meanwhile.
    let mut before = before.iter().filter(|row| !row.starts_with("mcp_sessions "));
    assert!(before.all(|row| after.contains(row)), "{after:#?}");
    let erasure = "SELECT principal || ' ' || tool || ' ' || outcome FROM mcp_audit WHERE tool = 'person erase'";
    assert_eq!(desk.text(erasure).await, " person erase ok");

    let again = desk.run(&["person", "erase", ADA]);
    let words = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(again.status.success() && words.starts_with("nothing is stored for"), "{words}");
    for verb in ["export", "erase"] {
        assert!(!desk.run(&["person", verb, ""]).status.success(), "{verb}: an empty name is nobody's");
    }
    blue.stop().await;
    green.stop().await;
    desk.close().await;
}

/// Whoever adds a table that says whose its rows are, or that refers to one that does, must declare it.
#[tokio::test(flavor = "multi_thread")]
async fn every_table_of_persons_is_declared() {
    let desk = Desk::open().await;
    let server = desk.start(Color::Blue).await;
    let tables = "SELECT coalesce(string_agg(DISTINCT table_name, ' ' ORDER BY table_name), '') FROM information_schema.columns \
         WHERE table_schema = 'public' AND column_name IN ('principal', 'user_id', 'owner', 'session_id', 'conversation', 'stream')";
    let tables = desk.text(tables).await;
    let is_declared = |table: &str| PERSONAL_DATA.iter().chain(FRAMEWORK).any(|data| data.table() == table);
    let missing: Vec<_> = tables.split(' ').filter(|table| !is_declared(table)).collect();
    assert_eq!(missing, Vec::<&str>::new(), "these tables have rows of persons and no PersonalData");
    server.stop().await;
    desk.close().await;
}

/// A request of somebody's; the headers are whole lines.
async fn send(server: &Server, who: &str, headers: &str, message: &Value) -> testing::Answer {
    let body = message.to_string();
    let head = format!(
        "POST /mcp HTTP/1.1\r\ncontent-type: application/json\r\nx-principal: {who}\r\n{headers}content-length: {}",
        body.len()
    );
    testing::exchange(server.running().address(), &head, &body).await
}

async fn open(server: &Server, who: &str) -> String {
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": who, "version": "1" } });
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params });
    let answer = send(server, who, "", &message).await;
    answer.head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap().to_owned()
}

async fn status(server: &Server, who: &str, session: &str) -> u16 {
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
    send(server, who, &format!("mcp-session-id: {session}\r\n"), &message).await.status
}

async fn call(server: &Server, who: &str, session: &str, tool: &str, arguments: Value, meta: Value) {
    let params = json!({ "name": tool, "arguments": arguments, "_meta": meta });
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
    let answer = send(server, who, &format!("mcp-session-id: {session}\r\n"), &message).await;
    assert!(answer.body.contains(r#""isError":false"#), "{}", answer.body);
}

/// A database, and replicas on it.
struct Desk {
    database: Database,
    directory: PathBuf,
}

impl Desk {
    async fn open() -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("person-{number}-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        Self { database: Self::database(&directory).await, directory }
    }

    async fn database(directory: &std::path::Path) -> Database {
        let config = DatabaseConfig {
            data_dir: directory.to_owned(),
            path: std::env::var_os("PATH"),
            create: Duration::from_secs(10),
            ..DatabaseConfig::default()
        };
        Database::open(config).await.unwrap()
    }

    async fn start(&self, color: Color) -> Server {
        let database = Self::database(&self.directory).await;
        let release = Release::new(color, "1.0.0", color.to_string().as_str()).unwrap();
        let control = Control::new(database.clone(), Replica::new(color, "1.0.0", MIGRATIONS));
        let app = app(release, AppState::new(&database, &control, TimeZone::UTC)).database(database).control(control);
        let authentication = Authentication::Header("x-principal".parse().unwrap());
        testing::start_with(app, HttpConfig { authentication, ..HttpConfig::default() }).await.unwrap()
    }

    /// What only a call with a stream, a pin or a widget leaves behind.
    async fn fill(&self, who: &str, mark: &str, session: &str) {
        let session: uuid::Uuid = session.parse().unwrap();
        let connection = self.database.get().await.unwrap();
        for sql in [
            "INSERT INTO mcp_streams (stream_id, session_id, request, instance) VALUES (gen_random_uuid(), $3, $2, $1 || $1)",
            "INSERT INTO mcp_stream_events (stream, message, is_answer) \
             SELECT stream_id::text, $2 || $1, true FROM mcp_streams WHERE session_id = $3",
            "INSERT INTO mcp_stream_events (stream, message, is_answer) SELECT $3 || ':common', $2 || $1, false",
            "INSERT INTO mcp_pins (conversation, build) SELECT session_id, $2 FROM chat_sessions WHERE principal = $1 AND $3 IS NOT NULL",
            "INSERT INTO widget_metadata (session_id, widget_type, widget_state, row_version) \
             SELECT session_id, $2, '{}', 1 FROM chat_sessions WHERE principal = $1 AND $3 IS NOT NULL",
            "INSERT INTO mcp_tool_calls (session_id, tool_name) SELECT session_id, $2 FROM chat_sessions WHERE principal = $1 AND $3 IS NOT NULL",
        ] {
            let written = connection.execute(sql, &[(&who, Type::TEXT), (&mark, Type::TEXT), (&session, Type::UUID)]).await;
            assert_eq!(written.unwrap(), 1, "{sql}");
        }
    }

    async fn text(&self, sql: &'static str) -> String {
        self.database.get().await.unwrap().query_opt(sql, &[]).await.unwrap().unwrap().get(0)
    }

    /// Every row of every table that has this word anywhere.
    async fn rows_with(&self, word: &str) -> Vec<String> {
        const ALL: &str = "SELECT DISTINCT t.line::text FROM pg_tables, LATERAL (SELECT unnest(xpath('//line/text()', \
             query_to_xml(format('SELECT %L || '' '' || x::text AS line FROM %I AS x', tablename, tablename), true, false, '')))) t (line) \
             WHERE schemaname = 'public' AND strpos(t.line::text, $1) > 0 ORDER BY 1";
        let rows = self.database.get().await.unwrap().query(ALL, &[(&word, Type::TEXT)]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// The program on this database.
    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_mcp-server"))
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DATA_DIR", &self.directory)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    async fn close(self) {
        self.database.close().await.unwrap();
        std::fs::remove_dir_all(self.directory).unwrap();
    }
}
