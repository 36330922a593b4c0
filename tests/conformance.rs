//! The protocol as its authors test it: the official conformance suite, against `examples/everything`, which holds all of the
//! suite's fixtures, and against the appointments server as far as that needs none. Nothing is excused: there is no baseline.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tests::{
    node,
    postgres::DataDir,
    server::{Server, binary},
};

const SUITE: &str = "node_modules/@modelcontextprotocol/conformance/dist/index.js";

/// How a client of one revision is tested.
struct Revision {
    version: &'static str,
    /// How many scenarios the suite requires.
    required: usize,
    /// Scenarios that are run and never scored, and that we promise all the same.
    unscored: &'static [&'static str],
    /// Scenarios that a server with nothing but tools can pass.
    tools_only: &'static [&'static str],
}

const REVISIONS: [Revision; 2] = [
    Revision {
        version: "2025-11-25",
        required: 30,
        unscored: &["server-session-lifecycle", "json-schema-2020-12", "server-sse-polling"],
        tools_only: &[
            "server-initialize",
            "ping",
            "tools-list",
            "server-sse-multiple-streams",
            "dns-rebinding-protection",
            "server-session-lifecycle",
        ],
    },
    Revision {
        version: "2026-07-28",
        required: 37,
        unscored: &["json-schema-2020-12", "http-header-validation", "http-custom-header-server-validation"],
        tools_only: &[
            "server-stateless",
            "tools-list",
            "server-sse-multiple-streams",
            "dns-rebinding-protection",
            "input-required-result-unsupported-methods",
            "http-header-validation",
        ],
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_does_everything_conforms() {
    let server = Server::example("everything", &[]).await.ready().await;
    for revision in &REVISIONS {
        let run = Run::of_suite("everything", &server, revision).await;
        assert!(run.succeeded, "{}", run.said);
        assert!(run.scenarios.len() >= revision.required, "{} scenarios ran:\n{}", run.scenarios.len(), run.said);
        let promised = run.scenarios.keys().filter(|name| !name.starts_with("tasks-"));
        run.must_pass(promised.map(String::as_str), false);
        run.must_pass(revision.unscored.iter().copied(), false);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_appointments_server_conforms_as_far_as_tools_go() {
    let data = DataDir::new();
    let server = Server::start(binary("mcp-server"), &[("DATA_DIR", &data.database())]).await.ready().await;
    for revision in &REVISIONS {
        let run = Run::of_suite("appointments", &server, revision).await;
        run.must_pass(revision.tools_only.iter().copied(), true);
    }
    server.signal("TERM");
    assert_eq!(server.exit(std::time::Duration::from_secs(20)).await.code, Some(0));
}

/// One run of the suite.
struct Run {
    said: String,
    /// Whether every required scenario passed.
    succeeded: bool,
    /// The checks of each scenario.
    scenarios: BTreeMap<String, Vec<Value>>,
}

// === impl Run ===

impl Run {
    /// Runs everything the suite has for a revision. What it found stays below `target/tmp` until the next run.
    async fn of_suite(name: &str, server: &Server, revision: &Revision) -> Self {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("conformance-{name}-{}", revision.version));
        let _ = fs::remove_dir_all(&directory);
        let (url, output) = (server.url(), directory.display().to_string());
        let arguments = ["server", "--url", &url, "--requirements", revision.version, "--timeout", "30000", "-o", &output];
        let done = node::node(SUITE, &arguments).await;
        let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        Self { said, succeeded: done.status.success(), scenarios: read(&directory) }
    }

    /// A check of one of these scenarios that did not succeed fails the test, a mere warning too. `untestable` excuses checks
    /// of which the suite itself says that the server lacks what they call for.
    fn must_pass<'a>(&self, scenarios: impl Iterator<Item = &'a str>, untestable: bool) {
        let mut problems = Vec::new();
        for name in scenarios {
            let Some(checks) = self.scenarios.get(name) else {
                problems.push(format!("{name} did not run"));
                continue;
            };
            let excused = |check: &Value| untestable && check["details"]["untestable"] == true;
            let failed = checks.iter().filter(|check| matches!(check["status"].as_str(), Some("FAILURE" | "WARNING")));
            problems.extend(failed.filter(|check| !excused(check)).map(|check| format!("{name}: {check:#}")));
            if !checks.iter().any(|check| check["status"] == "SUCCESS") {
                problems.push(format!("{name} checked nothing"));
            }
        }
        assert!(problems.is_empty(), "{}\n{}", problems.join("\n"), self.said);
    }
}

/// The suite writes `server-<scenario>-<time>/checks.json`.
fn read(directory: &Path) -> BTreeMap<String, Vec<Value>> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (scenario, _) = name.strip_prefix("server-")?.rsplit_once("T")?;
            let scenario = scenario.get(..scenario.len() - "-2026-01-01".len())?;
            let checks = fs::read_to_string(entry.path().join("checks.json")).ok()?;
            Some((scenario.to_owned(), serde_json::from_str(&checks).ok()?))
        })
        .collect()
}
