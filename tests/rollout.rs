//! A rollout ends with a good color serving, whatever happens on the way: a good build goes live, a bad one never does or not
//! for long, and whoever is killed is gone on with.

use std::{net::SocketAddr, path::PathBuf};

use serde_json::{Value, json};
use tests::{
    http::{Connection, get},
    issuer::Issuer,
    load::{Load, Mix},
    local::Local,
    node,
    receiver::Receiver,
    server::binary,
};

/// The gates that ask what the example has no command for.
const PLAIN: [&str; 4] = ["--skip", "migrate", "--skip", "validate"];

fn server() -> PathBuf {
    binary("mcp-server")
}

fn faulty() -> PathBuf {
    binary("examples/faulty")
}

/// `deploy` of the same program as another version.
fn deploy<'a>(image: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["deploy", image, "--env", "RELEASE_VERSION=2.0.0"];
    // The machine may be busy, and it is not the machine that is judged.
    for (limit, generous) in [("--latency", "5000"), ("--load-p99", "5000"), ("--slower-least", "2000")] {
        if !more.contains(&limit) {
            arguments.extend([limit, generous]);
        }
    }
    if !more.contains(&"--load-for") {
        arguments.extend(["--load-for", "0.5"]);
    }
    arguments.extend_from_slice(more);
    arguments
}

/// Calls for ever. Some of the answers are errors: that is what is to be found out.
async fn echo(address: SocketAddr) {
    loop {
        let mut connection = Connection::open(address).await;
        for _ in 0..20 {
            connection.ask("tools/call", &json!({ "name": "echo", "arguments": {} }), "").await;
        }
    }
}

async fn answers_as(local: &Local) -> String {
    let answer = get(local.address(), "/health").await;
    let color = answer.head.lines().find_map(|line| line.strip_prefix("release-color: "));
    color.unwrap_or_else(|| panic!("every answer has a color: {} {}", answer.head, answer.body)).to_owned()
}

fn pids(seen: &Value, color: &str) -> Vec<Value> {
    seen[color]["processes"].as_array().expect("they are a list").iter().map(|process| process["pid"].clone()).collect()
}

/// Two replicas are ready, and neither is one of those before.
fn is_new(seen: &Value, before: &Value, color: &str) -> bool {
    let (pids, old) = (pids(seen, color), pids(before, color));
    pids.len() == 2 && seen[color]["ready"] == 2 && pids.iter().all(|pid| !old.contains(pid))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_goes_live_in_steps_and_back_and_is_retired_and_no_client_notices() {
    let image = server().display().to_string();
    let local = Local::up(&server(), &[], 2).await;
    let load = Load::start(local.address(), Mix::default()).await;
    let receiver = Receiver::open().await;
    let told = receiver.url();

    let more = ["--steps", "10,50", "--step-bake", "1", "--bake", "2", "--alert-webhook", &told];
    let ended = local.rollout(&deploy(&image, &more)).await;
    ended.assert(0);
    for step in
        ["migrate", "ready", "smoke", "contract", "validate", "load", "shift-10", "bake-10", "shift-50", "switch", "prove"]
    {
        assert_eq!(ended.step(step)["state"], "passed", "{step}");
    }
    assert!(ended.step("ready")["words"].as_str().is_some_and(|words| words.contains("2 of 2")), "{}", ended.step("ready"));
    assert!(ended.step("bake")["words"].as_str().is_some_and(|words| words.contains("no worse")), "{}", ended.step("bake"));
    assert_eq!(answers_as(&local).await, "green");
    let alert = &receiver.heard(1).await[0].body;
    assert!(alert["text"].as_str().is_some_and(|text| text.contains("green 2.0.0+dev is live")), "{alert}");
    assert_eq!(alert["details"]["Who"], "ada", "{alert}");

    local.rollout(&["rollback"]).await.assert(0);
    load.more(50).await;
    assert_eq!(answers_as(&local).await, "blue");
    local.rollout(&["switch"]).await.assert(0);
    load.more(50).await;
    // Blue is kept for as long as going back is to be instant, and then until nothing holds on to it.
    local.rollout(&["retire"]).await.refused(4, "kept warm");
    local.rollout(&["retire", "green"]).await.refused(4, "switch to blue first");
    local.rollout(&["retire", "--warm", "0", "--max-age", "30"]).await.assert(0);
    assert_eq!(local.seen().await["blue"]["processes"], json!([]));
    load.more(50).await;
    let outcome = load.stop().await;
    outcome.assert_whole();
    let booked: usize = local.query("SELECT count(*) FROM appointments").await.parse().expect("it is a number");
    assert_eq!(booked, outcome.booked.len(), "a booking was lost or made twice");

    // Going back to who is gone is refused, with what to do.
    local.rollout(&["rollback"]).await.refused(4, "say which color");
    local.rollout(&["rollback", "blue"]).await.refused(4, "deploy a build there");
    local.rollout(&["retire", "--warm", "0"]).await.refused(4, "nothing to retire");
    let history = local.rollout(&["history"]).await;
    let goals: Vec<_> = history
        .last()
        .as_array()
        .expect("it is a list")
        .iter()
        .map(|entry| format!("{} {}", entry["goal"], entry["state"]))
        .collect();
    assert_eq!(goals, [r#""retire" "done""#, r#""switch" "done""#, r#""rollback" "done""#, r#""deploy" "done""#]);
    let report = std::fs::read_to_string(history.last()[3]["report"].as_str().expect("it has a report")).expect("it was written");
    assert!(report.contains("2.0.0+dev") && report.contains("<svg"), "{report}");
    let file = history.last()[3]["report"].as_str().expect("it has a report");
    let shots = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/rollout-screenshots");
    let shots = shots.to_str().expect("a path of ours is text");
    let looked = node::node("report.mjs", &["--file", file, "--shots", shots]).await;
    assert!(looked.status.success(), "{}", String::from_utf8_lossy(&looked.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_build_never_goes_live_and_the_reason_is_said_and_nothing_is_left() {
    let image = faulty().display().to_string();
    let local = Local::up(&faulty(), &[], 1).await;
    let receiver = Receiver::open().await;
    let told = receiver.url();
    let cases = [
        ("unready", "ready", "upstream"),
        ("crash", "ready", "the config file is missing"),
        ("smoke", "smoke", "echo"),
        ("contract", "contract", "tool `echo`: the argument `word` is required"),
        ("load", "load", "slow under load"),
    ];
    for (turn, (fault, gate, words)) in cases.into_iter().enumerate() {
        let fault = format!("FAULT={fault}");
        let more = [
            &PLAIN[..],
            &["--env", &fault, "--ready-within", "3", "--load-for", "3", "--load-p99", "500", "--alert-webhook", &told],
        ]
        .concat();
        let ended = local.rollout(&deploy(&image, &more)).await;
        ended.assert(1);
        assert_eq!(ended.step(gate)["state"], "failed", "{fault}");
        let reason = ended.last()["reason"].as_str().unwrap_or_default().to_owned();
        assert!(reason.starts_with(gate) && reason.contains(words), "{fault}: {reason}");
        assert_eq!(answers_as(&local).await, "blue", "{fault}");
        let seen = local.seen().await;
        assert_eq!((&seen["green"]["processes"], &seen["green"]["image"]), (&json!([]), &json!(null)), "{fault}");
        let heard = receiver.heard(turn + 1).await;
        let alert = &heard[turn].body["details"];
        assert_eq!((&alert["Why"], &alert["Platform"]), (&json!(reason), &json!("local")), "{alert}");
    }
    assert_eq!(local.query("SELECT count(*) FROM mcp_rollouts WHERE state = 'failed'").await, cases.len().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_turns_bad_with_traffic_on_it_is_taken_back() {
    let image = faulty().display().to_string();
    let local = Local::up(&faulty(), &[], 1).await;
    let receiver = Receiver::open().await;
    // Away at first: it is told again, and nothing waits for it.
    receiver.answers(&[(503, ""), (200, "ok")]);
    let told = receiver.url();
    let when = local.state().join("turn-bad");
    let fault = format!("FAULT_WHEN={}", when.display());
    let more = [&PLAIN[..], &["--env", "FAULT=bake", "--env", &fault, "--bake", "60", "--alert-webhook", &told]].concat();
    let calls = tokio::spawn(echo(local.address()));
    let mut running = local.begin(&deploy(&image, &more));
    running.begins("bake").await;
    assert_eq!(answers_as(&local).await, "green");
    std::fs::write(&when, "").expect("the state directory is writable");
    let ended = running.end().await;
    ended.assert(3);
    let reason = ended.last()["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("errors") && reason.contains("Fisher"), "{reason}");
    assert_eq!(answers_as(&local).await, "blue");
    assert_eq!(local.seen().await["green"]["processes"], json!([]));
    let heard = receiver.heard(2).await;
    assert!(heard[1].body["text"].as_str().is_some_and(|text| text.contains("Rolled back to blue")), "{:?}", heard[1]);
    calls.abort();

    // The proof of going back is as quick as that of going.
    let proofs = ended.last()["switches"].as_array().expect("they are a list");
    assert_eq!((&proofs[0]["to"], &proofs[1]["to"]), (&json!("green"), &json!("blue")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_or_prometheus_takes_a_build_back() {
    let image = faulty().display().to_string();
    let local = Local::up(&faulty(), &[], 1).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("it has an address");
    let listen = port.to_string();
    let mut running = local.begin(&deploy(&image, &[&PLAIN[..], &["--bake", "60", "--alert-listen", &listen]].concat()));
    running.begins("bake").await;
    let token = std::fs::read_to_string(local.state().join("alert.secret")).expect("a token was made");
    let body = json!({ "status": "firing", "alerts": [{ "labels": { "alertname": "ErrorBudgetBurns" } }] }).to_string();
    let alert = |authorization: &str| {
        format!(
            "POST /alerts HTTP/1.1\r\nhost: x\r\n{authorization}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    // Whoever reaches the port and has no token takes nothing back.
    for authorization in ["", "authorization: Bearer guessed\r\n", "authorization: Bearer \r\n"] {
        let mut connection = Connection::open(port).await;
        connection.send(alert(authorization).as_bytes()).await;
        assert_eq!(connection.answer().await.status, 401, "{authorization}");
    }
    let mut connection = Connection::open(port).await;
    connection.send(alert(&format!("authorization: Bearer {token}\r\n")).as_bytes()).await;
    assert_eq!(connection.answer().await.status, 202);
    let ended = running.end().await;
    assert!(ended.assert(3).last()["reason"].as_str().is_some_and(|reason| reason.contains("ErrorBudgetBurns")));

    let prometheus = Receiver::open().await;
    let result = |value: &str| json!({ "status": "success", "data": { "result": [{ "value": [0, value] }] } }).to_string();
    prometheus.answers(&[(200, &result("0")), (200, &result("0.3"))]);
    let (url, query) = (prometheus.url(), "rate(errors[1m]) > 0.1");
    let more = [&PLAIN[..], &["--bake", "60", "--prometheus", &url, "--query", query]].concat();
    let ended = local.rollout(&deploy(&image, &more)).await;
    assert!(ended.assert(3).last()["reason"].as_str().is_some_and(|reason| reason.contains("Prometheus answers 0.3")));
    assert_eq!(prometheus.heard(2).await[0].line, "GET /api/v1/query?query=rate%28errors%5B1m%5D%29%20%3E%200.1");
    assert_eq!(answers_as(&local).await, "blue");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_is_killed_at_any_step_is_gone_on_with() {
    let image = server().display().to_string();
    let local = Local::up(&server(), &[], 1).await;
    let load = Load::start(local.address(), Mix { widgets: 0, ..Mix::default() }).await;
    let more = ["--bake", "2", "--steps", "20", "--step-bake", "1", "--retire"];
    let arguments = deploy(&image, &more);
    let steps = "migrate start ready smoke contract validate load shift-20 bake-20 switch prove shed bake drained";
    for step in steps.split(' ') {
        let mut running = local.begin(&arguments);
        running.begins(step).await;
        running.kill().await;
    }
    // Nobody else begins anew in between, and the lease of the dead holds nobody up.
    let other = ["deploy", &image, "--env", "RELEASE_VERSION=3.0.0"];
    assert!(
        local.rollout(&other).await.assert(4).last()["reason"].as_str().is_some_and(|words| words.contains("is not finished"))
    );
    let streams = load.watch().borrow().streams_opened;
    assert!(streams > 0);
    local.rollout(&arguments).await.assert(0);
    assert_eq!(answers_as(&local).await, "green");
    assert_eq!(local.seen().await["blue"]["processes"], json!([]));
    load.stop().await.assert_whole();
    assert_eq!(local.query("SELECT string_agg(state, ' ') FROM mcp_rollouts").await, "done");
    let passed = local.query("SELECT count(*) FROM mcp_rollout_steps WHERE state = 'passed'").await;
    assert_eq!(passed, (steps.split(' ').count() + 1).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn going_back_works_in_the_middle_of_a_deploy_and_the_deploy_lets_go() {
    let image = server().display().to_string();
    let local = Local::up(&server(), &[], 1).await;
    let load = Load::start(local.address(), Mix::default()).await;
    for step in ["smoke", "load", "approve", "bake"] {
        let more = match step {
            "load" => &["--bake", "60", "--load-for", "20"][..],
            "approve" => &["--bake", "60", "--approval"],
            _ => &["--bake", "60"],
        };
        let mut running = local.begin(&deploy(&image, more));
        running.begins(step).await;
        // It may even be asleep meanwhile, and wake up in the midst of what it does.
        running.signal("STOP");
        let ended = local.rollout(&["rollback", "--reason", "it smells"]).await;
        ended.assert(0);
        assert_eq!(answers_as(&local).await, "blue", "{step}");
        running.signal("CONT");
        running.end().await.assert(75);
        assert_eq!(answers_as(&local).await, "blue", "{step}: who lost the lease moved the traffic");
        local.until("green is gone", |seen| seen["green"]["processes"] == json!([])).await;
    }
    load.stop().await.assert_whole();
    let states = "SELECT string_agg(goal || ' ' || state, ', ' ORDER BY goal) FROM mcp_rollouts";
    assert_eq!(
        local.query(states).await,
        ["deploy aborted"; 4].into_iter().chain(["rollback done"; 4]).collect::<Vec<_>>().join(", ")
    );
    assert_eq!(local.query("SELECT count(*) FROM mcp_rollouts WHERE reason = 'it smells'").await, "4");
    // Two people who go back at the same moment go back once.
    local.rollout(&["rollback"]).await.refused(4, "say which color");
    assert_eq!(answers_as(&local).await, "blue");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time() {
    let image = faulty().display().to_string();
    let local = Local::up(&faulty(), &[], 1).await;
    let mut first = local.begin(&deploy(&image, &[&PLAIN[..], &["--approval", "--bake", "0"]].concat()));
    first.begins("approve").await;
    // Another one is refused, and hears who it is; one that waits is let in when the first is done.
    let refused = local.rollout(&deploy(&image, &PLAIN)).await;
    assert!(refused.assert(75).last()["reason"].as_str().is_some_and(|reason| reason.contains("ada is at it")));
    local.rollout(&["switch"]).await.assert(75);
    let arguments = ["deploy", &image, "--env", "RELEASE_VERSION=3.0.0", "--load-for", "0.5", "--bake", "0", "--wait", "60"];
    let second = local.begin(&[&arguments[..], &PLAIN].concat());
    let status = local.rollout(&["status"]).await;
    assert_eq!((&status.last()["lease"]["holder"], &status.last()["open"]["goal"]), (&json!("ada"), &json!("deploy")));
    assert_eq!(answers_as(&local).await, "blue");
    local.rollout(&["approve"]).await.assert(0);
    assert_eq!(first.end().await.assert(0).step("approve")["words"], "approved by ada");
    second.end().await.assert(0);
    // Green was 2.0.0, so 3.0.0 is blue again.
    assert_eq!(answers_as(&local).await, "blue");
    assert!(get(local.address(), "/health").await.head.contains("release-build: 3.0.0+dev"));

    // A lease that is taken away is noticed.
    let mut third = local.begin(&deploy(&image, &[&PLAIN[..], &["--approval", "--replace"]].concat()));
    third.begins("approve").await;
    local.rollout(&["unlock"]).await.assert(0);
    third.end().await.assert(75);
    local.rollout(&["abort"]).await.assert(0);
    local.until("green is gone", |seen| seen["green"]["processes"] == json!([])).await;
    assert_eq!(answers_as(&local).await, "blue");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_and_the_colors_may_be_killed() {
    let image = server().display().to_string();
    let mut local = Local::up(&server(), &[], 2).await;
    local.rollout(&deploy(&image, &["--bake", "0"])).await.assert(0);
    let before = local.seen().await;
    local.kill_and_open_again().await;
    let after = local.seen().await;
    for color in ["blue", "green"] {
        assert_eq!(pids(&before, color), pids(&after, color), "{color} was not taken over");
    }
    assert_eq!(answers_as(&local).await, "green", "it forgot where it leads");

    // The live color dies as a whole: who asks waits until it is there again, for it is kept alive.
    local.kill("green").await;
    assert_eq!(answers_as(&local).await, "green");
    local.until("green is whole again", |seen| is_new(seen, &before, "green")).await;
    // So does the other, and going back works when it is there again.
    local.kill("blue").await;
    local.until("blue is whole again", |seen| is_new(seen, &before, "blue")).await;
    local.rollout(&["rollback"]).await.assert(0);
    assert_eq!(answers_as(&local).await, "blue");
    assert_eq!(local.down().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn going_back_needs_no_journal() {
    let image = faulty().display().to_string();
    let local = Local::up(&faulty(), &[], 1).await;
    local.rollout(&deploy(&image, &[&PLAIN[..], &["--bake", "0"]].concat())).await.assert(0);
    let nowhere = "postgresql://nobody@127.0.0.1:1/nothing";
    let ended = local.rollout(&["rollback", "--database-url", nowhere]).await;
    ended.assert(0);
    assert!(ended.stderr.contains("without a journal and without a lease"), "{}", ended.stderr);
    assert_eq!(answers_as(&local).await, "blue");
    local.rollout(&["rollback", "--database-url", nowhere]).await.refused(4, "blue is live, and nothing is known");
    // Everything else needs it, and works after it.
    local.rollout(&["switch", "--database-url", nowhere]).await.assert(69);
    assert_eq!(answers_as(&local).await, "blue");
    local.rollout(&["switch"]).await.assert(0);
    local.rollout(&["rollback", "--database-url", nowhere]).await.assert(0);
    assert_eq!(answers_as(&local).await, "blue");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_was_found_bad_is_not_shipped_by_whoever_goes_on() {
    let image = faulty().display().to_string();
    let mut local = Local::up(&faulty(), &[], 1).await;
    let when = local.state().join("turn-bad");
    let fault = format!("FAULT_WHEN={}", when.display());
    let secret = "API_KEY=hunter2";
    let more = [&PLAIN[..], &["--env", "FAULT=bake", "--env", &fault, "--env", secret, "--bake", "30"]].concat();
    let arguments = deploy(&image, &more);
    let mut running = local.begin(&arguments);
    running.begins("bake").await;
    // The platform dies and comes back, and the rollout waits for it.
    local.kill_and_open_again().await;
    std::fs::write(&when, "").expect("the state directory is writable");
    let calls = tokio::spawn(echo(local.address()));
    // It dies the moment that it has found out: green has the traffic then, and nobody undoes it.
    running.fails("bake").await;
    running.kill().await;
    let ended = local.rollout(&arguments).await;
    assert!(ended.assert(3).last()["reason"].as_str().is_some_and(|reason| reason.contains("errors")), "{:?}", ended.last());
    assert_eq!(answers_as(&local).await, "blue");
    assert_eq!(local.seen().await["green"]["processes"], json!([]));
    calls.abort();

    // What an image was told is nobody's to read.
    let seen = local.seen().await.to_string();
    let said = [local.rollout(&["status"]).await, local.rollout(&["history"]).await].map(|ended| format!("{ended:?}"));
    assert!(seen.contains("RELEASE_VERSION") || said[1].contains("API_KEY"), "{seen} {said:?}");
    assert!(!seen.contains("hunter2") && !said.concat().contains("hunter2"), "{seen} {said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_there_is_there_again_and_one_platform_keeps_it() {
    let image = faulty().display().to_string();
    let mut local = Local::up(&faulty(), &[], 1).await;
    local.rollout(&deploy(&image, &[&PLAIN[..], &["--bake", "0"]].concat())).await.assert(0);
    let second = local.rollout(&["local", "up", &image, "--listen", "127.0.0.1:0", "--operations-listen", "127.0.0.1:0"]).await;
    assert_eq!(second.code, Some(70));
    assert!(second.stderr.contains("another `rollout local up` keeps"), "{}", second.stderr);
    assert_eq!(local.down().await, Some(0));
    local.up_again().await;
    local.until("green is back", |seen| seen["green"]["ready"] == 1 && seen["blue"]["ready"] == 1).await;
    assert_eq!(answers_as(&local).await, "green");
    assert!(get(local.address(), "/health").await.head.contains("release-build: 2.0.0+dev"));

    // A retire that was stopped half-way is gone on with, or ended; it moves nothing.
    let mut stream = Connection::open_stream(local.address()).await;
    local.rollout(&["rollback"]).await.assert(0);
    let mut held = Connection::open_stream(local.address()).await;
    local.rollout(&["switch"]).await.assert(0);
    drop(tokio::time::timeout(std::time::Duration::from_secs(20), stream.read_until("retry:")).await);
    let mut retire = local.begin(&["retire", "--warm", "0"]);
    retire.begins("drained").await;
    retire.kill().await;
    local.rollout(&["switch"]).await.refused(4, "is not finished");
    local.rollout(&["abort"]).await.assert(0);
    assert_eq!(answers_as(&local).await, "green");
    drop(tokio::time::timeout(std::time::Duration::from_secs(20), held.read_until("retry:")).await);
    local.rollout(&["retire", "--warm", "0", "--max-age", "5"]).await.assert(0);

    // Another account of this machine is no operator: it would run its own program as this one.
    let program = json!({ "image": { "name": "/bin/true" }, "replicas": 1 }).to_string();
    let mut connection = Connection::open(local.operations()).await;
    let head = format!("PUT /colors/blue HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n", local.operations());
    connection.send(format!("{head}content-length: {}\r\n\r\n{program}", program.len()).as_bytes()).await;
    assert_eq!(connection.answer().await.status, 401);
    assert_eq!(get(local.operations(), "/platform").await.status, 401);
    // And neither is one to whom the file was opened by mistake; `rollout` says so.
    let open =
        |mode| std::fs::set_permissions(local.secret(), std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("it is ours");
    open(0o644);
    let status = local.rollout(&["status"]).await;
    assert!(status.code != Some(0) && format!("{:?}{}", status.lines, status.stderr).contains("chmod 600"), "{status:?}");
    open(0o600);

    // A page in the operator's browser is no operator.
    let mut connection = Connection::open(local.operations()).await;
    let host = local.operations();
    connection
        .send(format!("POST /live/blue HTTP/1.1\r\nhost: {host}\r\norigin: http://evil\r\ncontent-length: 0\r\n\r\n").as_bytes())
        .await;
    assert_eq!(connection.answer().await.status, 403);
    let mut connection = Connection::open(local.operations()).await;
    connection.send(b"GET /platform HTTP/1.1\r\nhost: evil.example\r\n\r\n").await;
    assert_eq!(connection.answer().await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn gates_bring_a_token_where_the_server_wants_one() {
    let issuer = Issuer::start(&[]).await;
    let url = issuer.url();
    let environment = [
        ("AUTHENTICATION", "oauth"),
        ("OAUTH_ISSUER", &*url),
        ("OAUTH_AUDIENCE", "rollout"),
        ("PUBLIC_URL", "https://mcp.example.com"),
    ];
    let local = Local::up(&server(), &environment, 1).await;
    let given = environment.map(|(name, value)| format!("--env={name}={value}"));
    let mut more: Vec<&str> = given.iter().map(String::as_str).collect();
    more.extend(["--bake", "0", "--load-for", "1"]);
    let image = server().display().to_string();
    let ended = local.rollout(&deploy(&image, &more)).await;
    let reason = ended.assert(1).last()["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.starts_with("smoke") && reason.contains("an access token is needed"), "{reason}");
    let wish = json!({ "aud": "rollout", "sub": "rollout-probe", "scope": "appointments:read" });
    let token = issuer.token("current", &json!({}), &wish).await;
    more.extend(["--token", &token]);
    let ended = local.rollout(&deploy(&image, &more)).await;
    ended.assert(0);
    for step in ["smoke", "contract", "load"] {
        assert_eq!(ended.step(step)["state"], "passed", "{step}");
    }
    let said: String = ended.lines.iter().map(Value::to_string).collect();
    assert!(!said.contains(&token) && !ended.stderr.contains(&token), "the token is told");
}
