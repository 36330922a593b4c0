//! Blue and green as services of ECS behind an ALB: whatever the platform does late, twice or not at all, no client notices.
//!
//! The platform is a double, and the first tests hold it to what AWS does: it would be easy to lose nothing on a better one.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    aws::{
        CLUSTER, Ecs, LOGS, Pace,
        edge::{Fault, When},
    },
    command::signal,
    http::{Connection, get},
    load::{Load, Mix},
    server::binary,
    switches::Switches,
};

const ELB: &str = "elasticloadbalancing";
/// How many switches, when nobody says.
const SWITCHES: usize = 100;
/// How long a test waits for what ought to happen at once. Generous, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who answers on a connection of its own.
async fn answers_as(address: SocketAddr) -> String {
    let answer = get(address, "/health").await;
    let color = answer.head.lines().find_map(|line| line.strip_prefix("release-color: "));
    color.map_or_else(|| answer.status.to_string(), str::to_owned)
}

/// Waits until something is so.
async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < PATIENCE, "it took too long until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_balancer_divides_as_it_is_told_and_learns_of_it_late() {
    let ms = Duration::from_millis;
    let mut pace = Pace::default();
    pace.balancer.propagation = ms(200)..=ms(400);
    let ecs = Ecs::up_with(&binary("mcp-server"), &[], 1, &pace).await;
    // A group that nobody is in serves nobody, and nobody else does in its place.
    let mut named = Connection::open(ecs.address()).await;
    named.send(b"GET /health HTTP/1.1\r\nhost: x\r\nrelease-color: green\r\n\r\n").await;
    assert_eq!(named.answer().await.status, 503);

    ecs.update_service("green", json!({ "desiredCount": 1 })).await;
    ecs.serves("green", 1).await;
    named.send(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nrelease-color: green\r\n\r\n").await;
    let answer = named.answer().await;
    assert!(answer.head.contains("release-color: green"), "{}", answer.head);
    assert_eq!(answers_as(ecs.address()).await, "blue");

    let begun = Instant::now();
    ecs.weigh([0, 100]).await;
    assert_eq!(answers_as(ecs.address()).await, "blue", "it learns at once");
    let mut in_a_row = 0;
    while in_a_row < 20 {
        in_a_row = if answers_as(ecs.address()).await == "green" { in_a_row + 1 } else { 0 };
        assert!(begun.elapsed() < PATIENCE, "it never learns");
    }
    assert!(begun.elapsed() >= ms(200), "{:?}", begun.elapsed());

    ecs.weigh([75, 25]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut green = 0;
    for _ in 0..400 {
        green += usize::from(answers_as(ecs.address()).await == "green");
    }
    assert!((60..=140).contains(&green), "{green} of 400 instead of a quarter");
    assert_eq!(ecs.balancer().troubles().len(), 1, "{:?}", ecs.balancer().troubles());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_drains_finishes_what_it_began_and_gets_nothing_new() {
    let ecs = Ecs::up(&binary("examples/slow"), &[], 1).await;
    let mut call = Connection::open(ecs.address()).await;
    call.send_call(7, "wait", json!({ "n": 7 })).await;
    let task = ecs.tasks("blue").remove(0);
    let operations = SocketAddr::from((task.ip, 9464));
    until("the call is in flight", async || get(operations, "/drainage").await.json()["calls"] == 1).await;
    ecs.update_service("blue", json!({ "desiredCount": 0 })).await;
    let (aws, asked) = (ecs.edge().api(), json!({ "TargetGroupArn": ecs.group("blue") }));
    until("it drains", async || {
        let said = aws.call(ELB, "DescribeTargetHealth", asked.clone()).await;
        said["TargetHealthDescriptions"][0]["TargetHealth"]["State"] == "draining"
    })
    .await;
    // Nodes learn late.
    until("nothing new is sent there", async || answers_as(ecs.address()).await == "503").await;
    signal("USR1", task.pid.expect("it runs"));
    let answer = call.answer().await;
    assert_eq!((answer.status, &answer.json()["result"]["content"][0]["text"]), (200, &json!("waited 7")));
    let ended = || ecs.agent().tasks().iter().any(|known| known.arn == task.arn && known.exit_code == Some(0));
    ecs.until("it has ended well", ended).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_dies_is_replaced_and_one_that_cannot_start_says_why() {
    let mut pace = Pace::default();
    pace.balancer.propagation = Duration::from_millis(100)..=Duration::from_millis(300);
    let ecs = Ecs::up_with(&binary("mcp-server"), &[], 2, &pace).await;
    let (aws, before) = (ecs.edge().api(), ecs.tasks("blue"));
    // Who dies loses what it had, and the balancer says so and makes no request again.
    let load = Load::start(ecs.address(), Mix { streams: 0, widgets: 0, ..Mix::default() }).await;
    ecs.agent().kill(&before[0]);
    let is_replaced = || ecs.ready("blue") == 2 && ecs.tasks("blue").iter().all(|task| task.arn != before[0].arn);
    ecs.until("it is replaced", is_replaced).await;
    let (errors, troubles) = (load.stop().await.errors, ecs.balancer().troubles());
    assert!(!errors.is_empty() && !troubles.is_empty(), "{errors:?} {troubles:?}");
    assert!(troubles.iter().all(|words| words.starts_with("502: ")), "{troubles:?}");
    let asked = json!({ "cluster": CLUSTER, "serviceName": "mcp-server-blue", "desiredStatus": "STOPPED" });
    let listed = aws.ecs("ListTasks", asked).await;
    let described = aws.ecs("DescribeTasks", json!({ "cluster": CLUSTER, "tasks": listed["taskArns"] })).await;
    let task = &described["tasks"][0];
    assert_eq!((&task["stopCode"], &task["containers"][0]["exitCode"]), (&json!("EssentialContainerExited"), &json!(137)));

    // A protected task stays when the service is made smaller.
    let protected = ecs.tasks("blue").remove(1);
    let asked = json!({ "cluster": CLUSTER, "tasks": [protected.arn], "protectionEnabled": true, "expiresInMinutes": 5 });
    let said = aws.ecs("UpdateTaskProtection", asked).await;
    assert_eq!(said["protectedTasks"][0]["protectionEnabled"], true, "{said}");
    ecs.update_service("blue", json!({ "desiredCount": 0 })).await;
    ecs.until("the other one is gone", || ecs.tasks("blue").len() == 1).await;
    assert_eq!(ecs.tasks("blue")[0].arn, protected.arn);

    let missing = ecs.define("green", |container| container["image"] = json!("/nowhere/mcp-server")).await;
    ecs.update_service("green", json!({ "taskDefinition": missing, "desiredCount": 1 })).await;
    let tried = || {
        ecs.agent().tasks().iter().filter(|task| task.stopped.as_ref().is_some_and(|why| why.1.contains("CannotPull"))).count()
    };
    ecs.until("it was tried twice", || tried() >= 2).await;
    let service = ecs.service("green").await;
    assert!(service["events"][0]["message"].as_str().is_some_and(|words| words.contains("/nowhere")), "{service}");
    assert_eq!((&service["runningCount"], &service["deployments"][0]["rolloutState"]), (&json!(0), &json!("IN_PROGRESS")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_run_to_its_end_and_its_log_is_read_later() {
    let ecs = Ecs::up(&binary("mcp-server"), &[], 1).await;
    let aws = ecs.edge().api();
    let overrides = json!({ "containerOverrides": [{ "name": "mcp-server", "command": ["migrate", "status", "--json"] }] });
    let asked = json!({ "cluster": CLUSTER, "taskDefinition": "mcp-server-green", "overrides": overrides });
    let task = aws.ecs("RunTask", asked).await["tasks"][0].take();
    let arn = task["taskArn"].as_str().expect("it has one").to_owned();
    ecs.until("it has ended", || ecs.agent().task(&arn).is_some_and(|task| task.exit_code.is_some())).await;
    let described = aws.ecs("DescribeTasks", json!({ "cluster": CLUSTER, "tasks": [arn] })).await;
    assert_eq!(described["tasks"][0]["containers"][0]["exitCode"], 0, "{described}");
    let stream = format!("mcp-server/mcp-server/{}", arn.rsplit('/').next().unwrap_or_default());
    let asked = json!({ "logGroupName": LOGS, "logStreamName": stream, "startFromHead": true });
    let log = async || aws.try_call("logs", "GetLogEvents", asked.clone()).await;
    until("there is a log", async || log().await.is_ok()).await;
    let events = log().await.expect("it is there");
    assert!(events.to_string().contains("migrations"), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_replaces_its_tasks_under_load_loses_nothing() {
    let ecs = Ecs::up(&binary("mcp-server"), &[], 2).await;
    let load = Load::start(ecs.address(), Mix::default()).await;
    let before = ecs.tasks("blue");
    let next = ecs.define("blue", |container| {
        let variables = container["environment"].as_array_mut().expect("it has some");
        variables.push(json!({ "name": "RELEASE_VERSION", "value": "2.0.0" }));
    });
    ecs.update_service("blue", json!({ "taskDefinition": next.await })).await;
    let is_new = || ecs.ready("blue") == 2 && ecs.tasks("blue").iter().all(|task| before.iter().all(|old| old.arn != task.arn));
    ecs.until("two others serve", is_new).await;
    let is_gone = || ecs.agent().tasks().iter().filter(|task| task.exit_code == Some(0)).count() == 2;
    ecs.until("those before have left", is_gone).await;
    load.more(100).await;
    let outcome = load.stop().await;
    assert_eq!(ecs.balancer().troubles(), Vec::<String>::new());
    outcome.assert_whole();
    assert_eq!(ecs.service("blue").await["deployments"][0]["rolloutState"], "COMPLETED");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_with_a_call_is_what_goes_wrong_at_aws() {
    let ecs = Ecs::up(&binary("mcp-server"), &[], 1).await;
    let aws = ecs.edge().api();
    let rule = json!({ "RuleArns": [ecs.rule()] });
    let asks = async |fault| {
        ecs.edge().fault("DescribeRules", When::First(1), fault);
        let said = aws.try_call(ELB, "DescribeRules", rule.clone()).await;
        ecs.edge().heal();
        said
    };
    assert!(asks(Fault::Throttled).await.is_err_and(|words| words.contains("400") && words.contains("<Code>Throttling</Code>")));
    assert!(asks(Fault::Failed).await.is_err_and(|words| words.contains("500")));
    assert!(asks(Fault::Cut).await.is_err_and(|words| words.contains("nobody answers")));
    assert!(asks(Fault::Slow(Duration::from_millis(1))).await.is_ok());
    ecs.edge().fault("*", When::Each(3), Fault::Throttled);
    let mut refused = Vec::new();
    for _ in 0..6 {
        let said = aws.try_call("ecs", "ListTasks", json!({ "cluster": CLUSTER })).await;
        refused.push(said.is_err_and(|words| words.contains("ThrottlingException")));
    }
    assert_eq!(refused, [false, false, true, false, false, true]);
    ecs.edge().heal();
    assert_eq!(ecs.edge().calls("ListTasks"), 6);

    // Somebody else is quicker; and what is lost was done all the same.
    ecs.edge().then("DescribeRules", ecs.weigh([60, 40]));
    let weight = |said: &Value| said["Rules"][0]["Actions"][0]["ForwardConfig"]["TargetGroups"][0]["Weight"].clone();
    assert_eq!(weight(&aws.call(ELB, "DescribeRules", rule.clone()).await), "100");
    assert_eq!(ecs.weights().await, [60, 40]);
    ecs.edge().fault("ModifyRule", When::First(1), Fault::Lost);
    let mut changed = aws.call(ELB, "DescribeRules", rule.clone()).await["Rules"][0]["Actions"].take();
    changed[0]["ForwardConfig"]["TargetGroups"][0]["Weight"] = json!("10");
    let change = json!({ "RuleArn": ecs.rule(), "Actions": changed });
    assert!(aws.try_call(ELB, "ModifyRule", change).await.is_err());
    assert_eq!(ecs.weights().await, [10, 40]);
}

/// The gates that ask what the example has no command for.
const PLAIN: [&str; 4] = ["--skip", "migrate", "--skip", "validate"];

/// `deploy` with no gate but that it is ready: what is to be seen comes after that.
fn quick<'a>(image: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    deploy(image, &[&PLAIN[..], &["--skip", "smoke", "--skip", "contract", "--skip", "load"], more].concat())
}

/// `deploy` of the same program as another version.
fn deploy<'a>(image: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    // The machine may be busy, and it is not the machine that is judged.
    let generous = ["--latency", "5000", "--load-p99", "5000", "--slower-least", "2000", "--load-for", "0.5"];
    [&["deploy", image, "--env", "RELEASE_VERSION=2.0.0"], &generous[..], more].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_goes_live_in_steps_on_ecs_and_back_and_is_retired_and_no_client_notices() {
    let image = binary("mcp-server").display().to_string();
    let ecs = Ecs::up(&binary("mcp-server"), &[], 2).await;
    let load = Load::start(ecs.address(), Mix::default()).await;
    let ended = ecs.rollout(&deploy(&image, &["--steps", "10,50", "--step-bake", "1", "--bake", "2"])).await;
    ended.assert(0);
    for step in ["migrate", "ready", "smoke", "contract", "validate", "load", "shift-10", "bake-50", "switch", "prove", "bake"] {
        assert_eq!(ended.step(step)["state"], "passed", "{step}");
    }
    assert_eq!((ecs.weights().await, ecs.ready("green")), ([0, 100], 2));
    ecs.rollout(&["rollback"]).await.assert(0);
    ecs.rollout(&["switch"]).await.assert(0);
    ecs.rollout(&["retire", "--warm", "0", "--max-age", "30"]).await.assert(0);
    assert_eq!((ecs.weights().await, ecs.tasks("blue").len()), ([0, 100], 0));
    load.more(100).await;
    let outcome = load.stop().await;
    assert_eq!(ecs.balancer().troubles(), Vec::<String>::new());
    outcome.assert_whole();
    assert_eq!(outcome.sessions_begun, 4, "a client had to begin anew");
    let booked: usize = ecs.query("SELECT count(*) FROM appointments").await.parse().expect("it is a number");
    assert_eq!(booked, outcome.booked.len(), "a booking was lost or made twice");
}

#[expect(clippy::print_stdout, reason = "figures are there to be read; `--nocapture` shows them")]
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_switches_by_weight_lose_double_and_misroute_nothing() {
    #[expect(clippy::disallowed_methods, reason = "more than a hundred are for those who have the time")]
    let switches = std::env::var("ECS_SWITCHES").map_or(SWITCHES, |word| word.parse().expect("ECS_SWITCHES is a number"));
    let ecs = Ecs::up(&binary("mcp-server"), &[], 1).await;
    ecs.update_service("green", json!({ "desiredCount": 1 })).await;
    ecs.serves("green", 1).await;
    let load = Load::start(ecs.address(), Mix::default()).await;
    let give = async |verb: &str| {
        ecs.rollout(&[verb]).await.assert(0);
    };
    let done = Switches::under(load, switches, give).await;
    assert_eq!(ecs.balancer().troubles(), Vec::<String>::new());
    done.assert_unnoticed(4);
    let booked: usize = ecs.query("SELECT count(*) FROM appointments").await.parse().expect("it is a number");
    assert_eq!(booked, done.outcome().booked.len(), "a booking was lost or made twice");
    println!("{}", done.figures());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_cannot_run_never_goes_live_on_ecs_and_the_reason_is_said() {
    let image = binary("examples/faulty").display().to_string();
    let ecs = Ecs::up(&binary("examples/faulty"), &[], 1).await;
    let cases = [
        ("/nowhere/mcp-server", "none", "CannotPullContainerError"),
        (&*image, "crash", "the config file is missing"),
        (&*image, "unready", "upstream"),
    ];
    for (image, fault, words) in cases {
        let variable = format!("FAULT={fault}");
        let more = [&PLAIN[..], &["--env", &variable, "--ready-within", "4"]].concat();
        let ended = ecs.rollout(&deploy(image, &more)).await;
        ended.refused(1, words);
        assert_eq!(ended.step("ready")["state"], "failed", "{fault}");
        assert_eq!(answers_as(ecs.address()).await, "blue", "{fault}");
        ecs.until("green is gone", || ecs.tasks("green").is_empty()).await;
        assert_eq!((ecs.weights().await, &ecs.service("green").await["desiredCount"]), ([100, 0], &json!(0)), "{fault}");
    }
    ecs.rollout(&["switch"]).await.refused(4, "no replica of green is ready");
    assert_eq!(ecs.weights().await, [100, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_somebody_else_sets_in_between_are_not_moved_on_from() {
    let image = binary("mcp-server").display().to_string();
    let ecs = Ecs::up(&binary("mcp-server"), &[], 1).await;
    let mut running = ecs.begin(&quick(&image, &["--steps", "10", "--step-bake", "20", "--bake", "0"]));
    running.begins("bake-10").await;
    ecs.weigh([40, 60]).await;
    let ended = running.end().await;
    ended.refused(3, "somebody else moved the traffic");
    assert_eq!(ecs.weights().await, [100, 0]);

    // Somebody who comes between the look at the weights and the move.
    let mut running = ecs.begin(&quick(&image, &["--steps", "10", "--step-bake", "1", "--bake", "0"]));
    running.begins("bake-10").await;
    ecs.edge().then("AddTags", ecs.weigh([70, 30]));
    running.end().await.refused(3, "somebody set the weights to 70/30 (blue/green) in between, it was 90/10");
    assert_eq!(ecs.weights().await, [100, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_asks_too_often_is_slowed_down_and_not_refused() {
    let image = binary("mcp-server").display().to_string();
    let ecs = Ecs::up(&binary("mcp-server"), &[], 1).await;
    let load = Load::start(ecs.address(), Mix::default()).await;
    ecs.edge().fault("*", When::Each(3), Fault::Throttled);
    ecs.edge().fault("ModifyRule", When::First(2), Fault::Lost);
    ecs.edge().fault("UpdateService", When::First(1), Fault::Failed);
    ecs.rollout(&deploy(&image, &["--steps", "50", "--step-bake", "1", "--bake", "1"])).await.assert(0);
    ecs.rollout(&["rollback"]).await.assert(0);
    assert_eq!(ecs.weights().await, [100, 0]);
    load.stop().await.assert_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_is_killed_on_ecs_is_gone_on_with() {
    let image = binary("mcp-server").display().to_string();
    let ecs = Ecs::up(&binary("mcp-server"), &[], 1).await;
    let load = Load::start(ecs.address(), Mix { widgets: 0, ..Mix::default() }).await;
    let arguments = deploy(&image, &["--steps", "20", "--step-bake", "1", "--bake", "1", "--retire"]);
    for step in ["migrate", "start", "ready", "shift-20", "bake-20", "switch", "prove", "drained", "stop"] {
        let mut running = ecs.begin(&arguments);
        running.begins(step).await;
        running.kill().await;
    }
    ecs.rollout(&arguments).await.assert(0);
    assert_eq!((ecs.weights().await, ecs.tasks("blue").len()), ([0, 100], 0));
    load.stop().await.assert_whole();
    assert_eq!(ecs.query("SELECT string_agg(state, ' ') FROM mcp_rollouts").await, "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn going_back_works_in_the_middle_of_a_deploy_on_ecs_and_the_deploy_lets_go() {
    let image = binary("mcp-server").display().to_string();
    let ecs = Ecs::up(&binary("mcp-server"), &[], 1).await;
    let load = Load::start(ecs.address(), Mix::default()).await;
    for step in ["ready", "bake-50", "bake"] {
        let mut running = ecs.begin(&quick(&image, &["--steps", "50", "--step-bake", "2", "--bake", "60"]));
        running.begins(step).await;
        // It may even be asleep meanwhile, and wake up in the midst of what it does.
        running.signal("STOP");
        ecs.rollout(&["rollback"]).await.assert(0);
        assert_eq!(ecs.weights().await, [100, 0], "{step}");
        running.signal("CONT");
        running.end().await.assert(75);
        assert_eq!(ecs.weights().await, [100, 0], "{step}: who lost the lease moved the traffic");
        ecs.until("green is gone", || ecs.tasks("green").is_empty()).await;
    }
    load.stop().await.assert_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_for_a_moment_is_not_done_after_somebody_went_back() {
    let image = binary("mcp-server").display().to_string();
    let ecs = Ecs::up(&binary("mcp-server"), &[], 1).await;
    let load = Load::start(ecs.address(), Mix::default()).await;
    // The move to green, and the end of blue.
    for (operation, step) in [("ModifyRule", "ready"), ("UpdateService", "drained")] {
        let mut running = ecs.begin(&quick(&image, &["--bake", "0", "--retire"]));
        running.begins(step).await;
        ecs.edge().fault(operation, When::First(1), Fault::Throttled);
        let (pid, before) = (running.pid(), ecs.edge().calls(operation));
        ecs.edge().then(operation, async move { signal("STOP", pid) });
        until("it is asleep", async || ecs.edge().calls(operation) > before).await;
        ecs.rollout(&["rollback"]).await.assert(0);
        running.signal("CONT");
        running.end().await.assert(75);
        assert_eq!((ecs.weights().await, ecs.ready("blue")), ([100, 0], 1), "{operation} of who lost the lease");
        assert_eq!(ecs.service("blue").await["desiredCount"], 1);
        ecs.edge().heal();
    }
    load.stop().await.assert_whole();
}
