//! What a deploy looks like to those who must not notice it: the appointments server as blue, clients of every kind calling
//! all the while, a new build as green, the data moved to its new shape, and the traffic there and back and there again. What
//! both colors did is one page in the end.
//!
//! ```sh
//! ./dev demo
//! ```
#![expect(clippy::print_stdout, reason = "it is there to be watched")]

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bg_runtime::Color;
use rmcp::{
    ServiceExt,
    model::{CallToolRequestParams, ClientConfig},
    transport::StreamableHttpClientTransport,
};
use rollout::{
    driver::{Driver, local::LocalDriver},
    http::Http,
    record::{Recorder, now_ms},
    report::{self, Outcome, Report, Side},
};
use serde_json::json;
use tests::{
    load::{Load, Mix},
    local::Local,
    server::binary,
};

/// Between two scenes, so that there is something to see in the page.
const SCENE: Duration = Duration::from_secs(6);

#[tokio::main]
async fn main() {
    let server = binary("mcp-server");
    let image = server.display().to_string();
    let begun = now_ms();
    scene("Blue 1.0.0 starts behind the front door, with a PostgreSQL of its own");
    let local = Local::up(&server, &[("RELEASE_VERSION", "1.0.0")], 2).await;
    let http = Http::new();
    let driver: Arc<dyn Driver> = Arc::new(LocalDriver::new(&local.state(), http.clone()).expect("the platform is up"));
    let recorder = Recorder::start(driver.clone(), http.clone(), Vec::new(), Vec::new(), Duration::ZERO);
    println!("clients call {}/mcp", driver.entrance());

    scene("Clients come: sessions, calls without one, bookings, streams, widgets, and rmcp's own client");
    let load = Load::start(local.address(), Mix::default()).await;
    let (stop, by_rmcp) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let rmcp = tokio::spawn(one_session(format!("{}/mcp", driver.entrance()), stop.clone(), by_rmcp.clone()));
    tokio::time::sleep(SCENE).await;

    scene("$ rollout deploy mcp-server --env RELEASE_VERSION=2.0.0 --bake 8");
    let deploy = ["deploy", &image, "--env", "RELEASE_VERSION=2.0.0", "--load-for", "2", "--bake", "8"];
    moved(&local, &deploy).await;

    scene("The data moves to its new shape, row by row, while both colors write");
    for arguments in [["migrate", "backfill"], ["migrate", "validate"], ["migrate", "advance"]] {
        println!("$ mcp-server {}", arguments.join(" "));
        let ran = tokio::process::Command::new(&server).args(arguments).env("DATA_DIR", local.state().join("database")).status();
        assert!(ran.await.expect("the server's program starts").success(), "{arguments:?}");
        recorder.event(arguments.join(" "), None);
    }
    tokio::time::sleep(SCENE).await;

    scene("$ rollout rollback");
    moved(&local, &["rollback"]).await;
    scene("$ rollout switch");
    moved(&local, &["switch"]).await;

    scene("The clients leave, and say what they met");
    stop.store(true, Ordering::Relaxed);
    rmcp.await.expect("rmcp's client was answered to the end");
    let outcome = load.stop().await;
    let calls = outcome.calls.len() as u64 + by_rmcp.load(Ordering::Relaxed);
    println!("{calls} calls, {} bookings, {} streams opened", outcome.booked.len(), outcome.streams_opened);
    outcome.assert_whole();
    let kept = local.query("SELECT count(*) FROM appointments").await;
    println!("{} answers that were no answer; {kept} of {} bookings are there", outcome.errors.len(), outcome.booked.len());

    let (samples, mut events) = recorder.so_far();
    let (mut steps, mut switches) = (Vec::new(), Vec::new());
    // The commands know best when what they did took effect.
    for report in reports(&local.state().join("reports")) {
        events.extend(report.events);
        switches.extend(report.switches);
        if report.goal == "deploy" {
            steps = report.steps;
        }
    }
    events.sort_by_key(|event| event.at_ms);
    let side = |color, version: &str| Side { color, build: Some(format!("{version}+dev")) };
    let report = Report {
        id: "demo".to_owned(),
        goal: "deploy".to_owned(),
        platform: "local".to_owned(),
        by: "./dev demo".to_owned(),
        from: side(Color::Blue, "1.0.0"),
        to: side(Color::Green, "2.0.0"),
        outcome: Outcome::Done,
        reason: None,
        began_ms: begun,
        ended_ms: Some(now_ms()),
        steps,
        events,
        samples,
        switches,
    };
    let file = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "target/demo.html".to_owned()));
    std::fs::write(&file, report::html(&report)).expect("the report can be written");
    println!("\n{}", file.canonicalize().unwrap_or(file).display());
}

/// Runs a `rollout` command as a person would see it, and lets the clients go on for a while.
async fn moved(local: &Local, arguments: &[&str]) {
    assert!(local.shown(arguments).await, "rollout {arguments:?}");
    tokio::time::sleep(SCENE).await;
}

/// What the commands wrote, in their order.
fn reports(directory: &Path) -> Vec<Report> {
    let files = std::fs::read_dir(directory).expect("every command writes a report").flatten().map(|entry| entry.path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|ending| ending == "json")).collect();
    files.sort();
    let read = |file: &PathBuf| serde_json::from_slice(&std::fs::read(file).expect("it is readable")).expect("it is a report");
    files.iter().map(read).collect()
}

/// One conversation after the other in one session of rmcp's client, from before the first deploy until after the last switch.
async fn one_session(url: String, stop: Arc<AtomicBool>, calls: Arc<AtomicU64>) {
    let client = ClientConfig::default().serve(StreamableHttpClientTransport::from_uri(url)).await.expect("it connects");
    while !stop.load(Ordering::Relaxed) {
        // What a conversation remembers is the table that is moved to its new shape meanwhile.
        let arguments = json!({ "userId": "ada", "timeZone": "Europe/Berlin" }).as_object().cloned();
        let mut call = CallToolRequestParams::new("search_appointments");
        call.arguments = arguments;
        let conversation = json!({ "openai/session": format!("demo-{}", calls.load(Ordering::Relaxed)) });
        call.meta = serde_json::from_value(conversation).expect("it is an object");
        let result = client.call_tool(call).await.expect("every call is answered");
        assert_ne!(result.is_error, Some(true), "{result:?}");
        calls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.cancel().await.expect("it leaves");
}

fn scene(words: &str) {
    println!("\n== {words}");
}
