//! What people entrusted to an installation before an upgrade, and whether it is all there after each step: a calendar,
//! bookings, conversations, and the sessions of clients that stay connected.
//!
//! What must stay true: a check never stops at the first loss. Each one is counted and described.

use std::{net::SocketAddr, path::Path, process::Stdio};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    http::{Connection, message},
    node::Held,
    python::{Library, Session},
};

/// The time zones that the conversations speak of, none of which is the server's own.
const TIME_ZONES: [&str; 4] = ["Asia/Tokyo", "America/New_York", "Europe/Berlin", "Australia/Sydney"];
/// Whose calendar is imported.
const OWNER: &str = "ada";

/// Clients and data from before the upgrade.
#[derive(Debug)]
pub struct Witness {
    address: SocketAddr,
    /// The appointments that the calendar's owner sees.
    calendar: Vec<Value>,
    visitors: Vec<Visitor>,
    typescript: Held,
    python: Vec<Session>,
    /// How many calls it has made.
    calls: u64,
    losses: Vec<String>,
}

/// What a witness found in the end.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The appointments that it imported and saw.
    pub imported: usize,
    /// The real clients that stayed connected.
    pub clients: usize,
    /// The sessions that were opened before the upgrade and used to the end, those of real clients included.
    pub sessions: usize,
    /// The conversations whose state was read in the end.
    pub conversations: usize,
    /// The bookings that it made.
    pub bookings: usize,
    /// The calls that it made.
    pub calls: u64,
    /// What was lost or changed, described.
    pub losses: Vec<String>,
    /// What the Python clients logged as warnings.
    pub warnings: Vec<String>,
}

/// A client by hand: a session of 2025-11-25, with a conversation and a booking of its own.
#[derive(Debug)]
struct Visitor {
    user: String,
    /// The headers of its requests, as whole lines.
    headers: String,
    time_zone: &'static str,
    /// The name of its conversation in `openai/session`. Without it the session is the conversation.
    conversation: Option<String>,
    /// The id of its appointment.
    booked: String,
}

// === impl Witness ===

impl Witness {
    /// Imports a calendar by a server's own program, and connects the clients.
    ///
    /// # Panics
    /// When something of that fails: there is nothing to upgrade then.
    pub async fn arrive(address: SocketAddr, server: &Path, data_dir: &Path) -> Self {
        import(server, data_dir).await;
        let url = format!("http://{address}/mcp");
        let typescript = ["--url", &*url, "--args", r#"{"userId":"ada"}"#, "--calls", "0", "--reconnect"];
        let mut typescript = Held::start("client-2025.mjs", &typescript).await;
        typescript.event(&["connected"]).await;
        let python = futures_util::future::join_all(Library::ALL.map(|library| library.connect(&url))).await;
        let mut witness =
            Self { address, calendar: Vec::new(), visitors: Vec::new(), typescript, python, calls: 0, losses: Vec::new() };
        witness.calendar = witness.search_calendar().await;
        assert!(!witness.calendar.is_empty(), "the imported calendar is empty");
        for n in 0..TIME_ZONES.len() * 2 {
            let visitor = witness.visit(n).await;
            witness.visitors.push(visitor);
        }
        witness.check("before the upgrade").await;
        assert!(witness.losses.is_empty(), "before the upgrade: {:#?}", witness.losses);
        witness
    }

    /// Uses everything again. `when` says after which step.
    pub async fn check(&mut self, when: &str) {
        let calendar = self.search_calendar().await;
        if calendar != self.calendar {
            self.losses.push(format!("{when}: the calendar is {calendar:?}, and was {:?}", self.calendar));
        }
        for n in 0..self.visitors.len() {
            if let Err(loss) = self.revisit(n).await {
                let user = &self.visitors[n].user;
                self.losses.push(format!("{when}: {user}: {loss}"));
            }
        }
        self.typescript.call(&json!({ "userId": OWNER })).await;
        self.typescript.result().await;
        self.calls += 1;
        for session in &mut self.python {
            session.call("search_appointments", &json!({ "userId": OWNER })).await;
            self.calls += 1;
        }
    }

    /// Closes the clients, and reports.
    pub async fn leave(self) -> Report {
        self.typescript.leave().await;
        let with_sessions = Library::ALL.iter().filter(|library| library.protocol_version() == "2025-11-25").count();
        let clients = self.python.len() + 1;
        let mut warnings = Vec::new();
        for session in self.python {
            warnings.extend(session.close().await);
        }
        Report {
            imported: self.calendar.len(),
            clients,
            sessions: self.visitors.len() + with_sessions + 1,
            conversations: self.visitors.len(),
            bookings: self.visitors.len(),
            calls: self.calls,
            losses: self.losses,
            warnings,
        }
    }

    async fn search_calendar(&mut self) -> Vec<Value> {
        self.calls += 1;
        let arguments = json!({ "userId": OWNER, "startDate": "2024-04-01", "endDate": "2024-04-30", "limit": 50 });
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": { "name": "search_appointments", "arguments": arguments } });
        let answer = message(self.address, &call.to_string()).await.json();
        let found = answer["result"]["structuredContent"]["data"]["appointments"].as_array().cloned().unwrap_or_default();
        // What else an appointment says may differ between two builds.
        let known = |appointment: &Value| json!([appointment["id"], appointment["title"], appointment["startsAt"]]);
        found.iter().map(known).collect()
    }

    /// A new client opens a session, tells its conversation a time zone, and books an appointment.
    async fn visit(&mut self, n: usize) -> Visitor {
        let session = Connection::open(self.address).await.open_session().await;
        let mut visitor = Visitor {
            user: format!("visitor-{n}"),
            headers: format!("mcp-session-id: {session}\r\nmcp-protocol-version: 2025-11-25\r\n"),
            time_zone: TIME_ZONES[n % TIME_ZONES.len()],
            conversation: (n >= TIME_ZONES.len()).then(|| format!("conversation-{n}")),
            booked: String::new(),
        };
        let zone = json!({ "timeZone": visitor.time_zone });
        visitor.call(self.address, "search_appointments", zone).await.expect("a new session is served");
        visitor.booked = visitor.book(self.address).await.expect("a new session books");
        self.calls += 3;
        visitor
    }

    /// The conversation still speaks of its time zone, and a booking made again is the one that was made.
    async fn revisit(&mut self, n: usize) -> Result<(), String> {
        self.calls += 2;
        let visitor = &self.visitors[n];
        let result = visitor.call(self.address, "search_appointments", json!({})).await?;
        let zone = &result["_meta"]["appointments/timeZone"];
        if *zone != visitor.time_zone {
            return Err(format!("its conversation speaks of {zone} instead of {}", visitor.time_zone));
        }
        let booked = visitor.book(self.address).await?;
        (booked == visitor.booked)
            .then_some(())
            .ok_or_else(|| format!("its booking, made again, is {booked} instead of {}", visitor.booked))
    }
}

// === impl Visitor ===

impl Visitor {
    /// Books its appointment under its key. Returns the id of the appointment.
    async fn book(&self, address: SocketAddr) -> Result<String, String> {
        let arguments = json!({ "title": "Dentist", "startsAt": "2041-05-02T09:00:00Z", "durationMinutes": 30 });
        let result = self.call(address, "book_appointment", arguments).await?;
        let id = result["structuredContent"]["data"]["appointment"]["id"].as_str().map(str::to_owned);
        id.ok_or_else(|| format!("book_appointment returned {result}"))
    }

    async fn call(&self, address: SocketAddr, tool: &str, mut arguments: Value) -> Result<Value, String> {
        arguments["userId"] = self.user.clone().into();
        let mut meta = json!({});
        if tool == "book_appointment" {
            meta["mcp-server/idempotencyKey"] = format!("{}-books", self.user).into();
        }
        if let Some(conversation) = &self.conversation {
            meta["openai/session"] = conversation.clone().into();
        }
        let params = json!({ "name": tool, "arguments": arguments, "_meta": meta });
        let mut connection = Connection::open(address).await;
        let answer = connection.ask("tools/call", &params, &self.headers).await;
        if answer.status != 200 {
            return Err(format!("{tool}: status {}: {}", answer.status, answer.body));
        }
        let body = answer.json();
        let result = &body["result"];
        if !result.is_object() || result["isError"] == true {
            return Err(format!("{tool}: {body}"));
        }
        Ok(result.clone())
    }
}

async fn import(server: &Path, data_dir: &Path) {
    let calendar = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mcp-server/tests/calendars/overrides.ics");
    let status = Command::new(server)
        .arg("import")
        .arg(calendar)
        .args(["--user", OWNER, "--time-zone", "Europe/Berlin", "--json"])
        .env("DATA_DIR", data_dir)
        .stdout(Stdio::null())
        .status()
        .await
        .expect("the server's program starts");
    assert!(status.success(), "the calendar is not imported: {status}");
}
