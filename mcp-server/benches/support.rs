//! What both benchmarks measure: an application with one plain tool that gives ten appointments from memory, and the requests
//! clients send all day. No socket and no database, so that a change here is a change of ours.

use std::sync::Arc;

use bg_runtime::{Color, Release};
use bytes::Bytes;
use mcp_server::{
    App, Reply, Tool,
    extract::{Parameters, State},
    testing::{self, Server},
};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Search {
    user_id: String,
}

#[derive(Clone, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Appointment {
    id: String,
    title: String,
    starts_at: String,
    ends_at: String,
    location: Option<String>,
    status: &'static str,
}

#[derive(Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Found {
    user_id: String,
    appointments: Vec<Appointment>,
}

async fn search(State(rows): State<Arc<[Appointment]>>, Parameters(search): Parameters<Search>) -> Reply<Found> {
    let text = format!("Found {} appointments for {}.", rows.len(), search.user_id);
    Reply::new(Found { user_id: search.user_id, appointments: rows.to_vec() }, text)
}

/// A server, and the runtime it lives in.
pub(crate) struct Bench {
    runtime: Runtime,
    server: Server,
}

/// What is asked.
#[derive(Clone, Copy)]
pub(crate) enum Ask {
    Call,
    List,
    Ping,
    Initialize,
    Discover,
}

impl Bench {
    /// Starts it, and asks each thing once: what is made on first use is not what is measured.
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        let rows: Vec<_> = (0..10)
            .map(|n| Appointment {
                id: format!("00000000-0000-4000-8000-00000000000{n}"),
                title: format!("Dental check-up #{n}"),
                starts_at: format!("2026-01-0{}T08:00:00Z", n + 1),
                ends_at: format!("2026-01-0{}T08:30:00Z", n + 1),
                location: (n % 3 != 0).then(|| format!("Room {n}, Building A")),
                status: "confirmed",
            })
            .collect();
        let release = Release::new(Color::Blue, "1.0.0", "bench").expect("a release");
        let tool = Tool::new("search_appointments", search).describe("Finds appointments.").read_only();
        let app = App::new(release, Arc::<[Appointment]>::from(rows)).tool(tool);
        let server = runtime.block_on(testing::start(app)).expect("the application starts");
        let bench = Self { runtime, server };
        for ask in [Ask::Call, Ask::List, Ask::Ping, Ask::Initialize, Ask::Discover] {
            let answer = bench.ask(ask);
            assert!(answer.windows(8).any(|bytes| bytes == b"\"result\""), "{}", String::from_utf8_lossy(&answer));
        }
        bench
    }

    /// Asks and gives the answer's body.
    pub(crate) fn ask(&self, ask: Ask) -> Bytes {
        let (body, headers) = ask.request();
        self.runtime.block_on(self.server.within(Bytes::from_static(body.as_bytes()), headers))
    }
}

type Headers = &'static [(&'static str, &'static str)];

impl Ask {
    fn request(self) -> (&'static str, Headers) {
        const OLDER: Headers = &[("accept", "application/json, text/event-stream"), ("mcp-protocol-version", "2025-06-18")];
        const DISCOVER: Headers = &[
            ("accept", "application/json, text/event-stream"),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "server/discover"),
        ];
        match self {
            Self::Call => (
                r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"search_appointments","arguments":{"userId":"u00042"}}}"#,
                OLDER,
            ),
            Self::List => (r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#, OLDER),
            Self::Ping => (r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#, OLDER),
            Self::Initialize => (
                r#"{"jsonrpc":"2.0","id":7,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#,
                &[("accept", "application/json, text/event-stream")],
            ),
            Self::Discover => (
                r#"{"jsonrpc":"2.0","id":7,"method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}}}}"#,
                DISCOVER,
            ),
        }
    }
}
