//! The traffic shifter as AWS Lambda runs it: the program itself, told events by a Runtime API, before real servers under load.
//!
//! What must stay true: whatever is asked, twice or by two at once, no client notices; and what a test says of the traffic it
//! says of the weights that the balancer obeys. CodePipeline's jobs, and the revisions and deployments of a service, are answered
//! by the harness as AWS documents them, because moto knows none; alarms are moto's, and EventBridge's words the harness's.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{
    aws::{
        CLUSTER, Ecs, Pace,
        edge::{Fault, When},
        function::{Function, Invocation},
    },
    command::signal,
    load::{Load, Mix},
    server::binary,
};

/// Watched for a moment only.
const BRIEF: (&str, &str) = ("BAKE_SECONDS", "1");
/// Watched until somebody else is done with it.
const LONG: (&str, &str) = ("BAKE_SECONDS", "60");

/// Blue live, and green beside it, one server each.
async fn both() -> Ecs {
    let ecs = Ecs::up(&binary("mcp-server"), &[], 1).await;
    ecs.update_service("green", json!({ "desiredCount": 1 })).await;
    ecs.serves("green", 1).await;
    ecs
}

/// A move that is under way: what was moved first is being watched. The function asked for the health of whom it moves to
/// before it did so, and asks again while it watches.
async fn under_way(ecs: &Ecs, function: &Function, request: &str, event: Value) -> Invocation {
    let asked = ecs.edge().calls("DescribeTargetHealth");
    let running = function.begin(request, event);
    ecs.until("it is watched", || ecs.edge().calls("DescribeTargetHealth") >= asked + 2).await;
    running
}

/// What a function answers that did what it was asked for.
fn said(answer: Result<Value, String>) -> Value {
    let answer = answer.unwrap_or_else(|words| panic!("it was not done: {words}"));
    assert_eq!(answer["statusCode"], 200, "{answer}");
    serde_json::from_str(answer["body"].as_str().expect("a body is text")).expect("a body is JSON")
}

/// Ends a load that met nothing wrong, and says how much it was.
#[expect(clippy::print_stdout, reason = "figures are there to be read; `--nocapture` shows them")]
async fn whole(ecs: &Ecs, load: Load, what: &str) {
    load.more(100).await;
    let outcome = load.stop().await;
    assert_eq!(ecs.balancer().troubles(), Vec::<String>::new());
    outcome.assert_whole();
    let booked: usize = ecs.query("SELECT count(*) FROM appointments").await.parse().expect("it is a number");
    assert_eq!(booked, outcome.booked.len(), "a booking was lost or made twice");
    println!("{what}: {} calls, {booked} bookings, {} lost", outcome.calls.len(), outcome.errors.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_moves_the_traffic_at_once_or_in_steps_and_no_call_is_lost() {
    let ecs = both().await;
    let function = ecs.shifter(&[("BAKE_SECONDS", "3")]).await;
    let load = Load::start(ecs.address(), Mix::default()).await;
    let moved = said(function.invoke("r-1", json!({})).await);
    let expected = json!({ "message": "Traffic switch successful", "currentEnvironment": "blue", "newEnvironment": "green",
        "health": { "healthy": 1, "total": 1 } });
    assert_eq!((moved, ecs.weights().await), (expected, [0, 100]));
    said(function.invoke("r-2", json!({ "action": "rollback" })).await);
    assert_eq!(ecs.weights().await, [100, 0]);
    let begun = Instant::now();
    let moved = said(function.invoke("r-3", json!({ "to": "green", "steps": [10, 50] })).await);
    assert_eq!((&moved["newEnvironment"], ecs.weights().await), (&json!("green"), [0, 100]));
    assert_eq!(ecs.moves(), [100, 0, 10, 50, 100]);
    assert!(begun.elapsed() >= Duration::from_secs(3), "its steps were not watched: {:?}", begun.elapsed());
    let refused = function.invoke("r-4", json!({ "to": "purple" })).await.expect_err("there is no such color");
    assert!(refused.contains("purple"), "{refused}");
    assert_eq!(ecs.weights().await, [0, 100]);
    whole(&ecs, load, "by hand, at once and in steps").await;
}

fn job(id: &str, parameters: &str) -> Value {
    let configuration = json!({ "FunctionName": "mcp-server-traffic-shifter", "UserParameters": parameters });
    let data = json!({ "actionConfiguration": { "configuration": configuration }, "inputArtifacts": [], "outputArtifacts": [] });
    json!({ "CodePipeline.job": { "id": id, "accountId": "123456789012", "data": data } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_hears_how_its_job_ended_and_hears_it_once() {
    let ecs = Ecs::up(&binary("mcp-server"), &[], 1).await;
    let function = ecs.shifter(&[BRIEF]).await;
    let load = Load::start(ecs.address(), Mix::default()).await;
    let ids = ["11111111", "22222222", "33333333"].map(|first| format!("{first}-0000-4000-8000-000000000000"));
    // What cannot be done, and what is not understood.
    for (id, parameters) in [(&ids[0], "{}"), (&ids[1], "green")] {
        let failed = function.invoke("r-1", job(id, parameters)).await.expect("to Lambda all is well");
        assert_eq!(failed["statusCode"], 500, "{failed}");
    }
    let heard = ecs.edge().heard("PutJobFailureResult");
    let told: Vec<_> = heard.iter().map(|call| (call.text("jobId"), &call.parameters["failureDetails"]["message"])).collect();
    assert_eq!(told[0], (&*ids[0], &json!("No target of green is healthy: nothing was moved")));
    assert!(told[1].0 == ids[1] && told[1].1.as_str().is_some_and(|words| words.contains("UserParameters green")), "{told:?}");
    assert_eq!((ecs.weights().await, ecs.moves(), told.len()), ([100, 0], Vec::new(), 2));
    ecs.update_service("green", json!({ "desiredCount": 1 })).await;
    ecs.serves("green", 1).await;
    let asked = job(&ids[2], r#"{"to": "green", "steps": [50]}"#);
    let done = function.invoke("r-2", asked.clone()).await;
    assert_eq!(said(done.clone())["newEnvironment"], "green");
    // Lambda hands it over once more, and CodePipeline refuses to hear of a job that has ended.
    assert_eq!(function.invoke("r-2", asked).await, done);
    assert_eq!((ecs.moves(), ecs.edge().calls("PutJobFailureResult")), (vec![50, 100], 2));
    let heard = ecs.edge().heard("PutJobSuccessResult");
    assert!(heard.len() == 2 && heard.iter().all(|call| call.parameters == json!({ "jobId": ids[2] })), "{heard:?}");
    whole(&ecs, load, "by a pipeline").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_after_a_move_takes_it_back_under_load_and_one_without_a_move_does_nothing() {
    let ecs = both().await;
    let function = ecs.shifter(&[BRIEF]).await;
    let load = Load::start(ecs.address(), Mix::default()).await;
    let before = said(function.invoke("r-1", ecs.alarm("mcp-server-blue-errors", "ALARM").await).await);
    assert_eq!(before["message"], "There is nothing to go back to: nothing was moved");
    said(function.invoke("r-2", json!({ "to": "green" })).await);
    let calm = said(function.invoke("r-3", ecs.alarm("mcp-server-green-errors", "OK").await).await);
    assert_eq!((&calm["message"], ecs.weights().await), (&json!("No alarm: nothing was moved"), [0, 100]));
    let alarm = ecs.alarm("mcp-server-green-errors", "ALARM").await;
    let back = function.invoke("r-4", alarm.clone()).await;
    assert_eq!(said(back.clone())["message"], "All traffic goes to blue again");
    assert_eq!((ecs.weights().await, ecs.moves()), ([100, 0], vec![100, 0]));
    // EventBridge may say it twice, as another event of Lambda's.
    assert_eq!(function.invoke("r-5", alarm).await, back);
    // Another alarm of the same trouble does not lead forth again.
    said(function.invoke("r-6", ecs.alarm("mcp-server-green-slow", "ALARM").await).await);
    assert_eq!((ecs.weights().await, ecs.moves().len()), ([100, 0], 2));
    whole(&ecs, load, "by an alarm").await;
}

/// The name of something of the service that ECS deploys to by itself.
fn native(kind: &str, rest: &str) -> String {
    format!("arn:aws:ecs:eu-central-1:123456789012:{kind}/{CLUSTER}/mcp-server-green{rest}")
}

fn hook(stage: &str, details: &Value) -> Value {
    json!({ "executionId": "e", "lifecycleStage": stage, "hookDetails": details,
        "resourceArn": native("service-deployment", "/d"),
        "executionDetails": { "serviceArn": native("service", ""), "productionTrafficWeights": {}, "testTrafficWeights": {},
            "targetServiceRevisionArn": native("service-revision", "/2") } })
}

/// A deployment waits at a hook of the type `PAUSE`, as `DescribeServiceDeployments` has it, and EventBridge says so.
fn paused(ecs: &Ecs, stage: &str) -> Value {
    let deployment = native("service-deployment", "/d");
    let hook = json!({ "hookId": "ecs-pause-e7tK9G", "targetType": "PAUSE", "status": "AWAITING_ACTION",
        "expiresAt": 1_795_000_000.5, "timeoutAction": "ROLLBACK" });
    let described = json!({ "serviceDeploymentArn": deployment, "serviceArn": native("service", ""), "status": "IN_PROGRESS",
        "lifecycleStage": stage, "lifecycleHookDetails": [hook],
        "targetServiceRevision": { "arn": native("service-revision", "/2"), "requestedTaskCount": 1, "runningTaskCount": 1 } });
    let brief = json!({ "serviceDeploymentArn": deployment, "status": "IN_PROGRESS", "createdAt": 1_794_990_000.25 });
    ecs.edge().answers("ListServiceDeployments", json!({ "serviceDeployments": [brief] }));
    ecs.edge().answers("DescribeServiceDeployments", json!({ "serviceDeployments": [described], "failures": [] }));
    ecs.edge().answers("ContinueServiceDeployment", json!({ "serviceDeploymentArn": deployment }));
    json!({ "version": "0", "id": "e", "source": "aws.ecs", "detail-type": "ECS Hook State Change",
        "resources": [native("service", "")], "detail": { "eventName": "HOOK_AWAITING_ACTION" } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_of_ecs_goes_on_only_when_a_real_server_passes_the_gates() {
    let faulty = binary("examples/faulty");
    let ecs = Ecs::up(&faulty, &[], 1).await;
    let revision = json!({ "loadBalancers": [{ "targetGroupArn": ecs.group("green"), "containerPort": 3000 }] });
    ecs.edge().answers("DescribeServiceRevisions", json!({ "serviceRevisions": [revision], "failures": [] }));
    let function = ecs.shifter(&[BRIEF]).await;
    let asks = async |stage: &str, details: &Value| function.invoke("r", hook(stage, details)).await.expect("a hook is answered");
    assert_eq!(asks("PRE_SCALE_UP", &Value::Null).await, json!({ "hookStatus": "SUCCEEDED" }));
    let stage = "POST_TEST_TRAFFIC_SHIFT";
    let later = asks(stage, &Value::Null).await;
    assert_eq!(later, json!({ "hookStatus": "IN_PROGRESS", "callBackDelay": 30, "hookDetails": { "asked": 1 } }));
    let later = asks(stage, &later["hookDetails"]).await;
    assert_eq!(later["hookDetails"]["asked"], 2);
    // The other kind of hook waits by itself, and whoever says that it may go on hears why it does not.
    let event = paused(&ecs, stage);
    let service = native("service", "");
    let waits = function.invoke("r", json!({ "action": "continue", "deployment": service })).await.expect_err("nobody is there");
    assert_eq!(waits, "The deployment did not go on and still waits: 0/0 targets are healthy");
    ecs.update_service("green", json!({ "desiredCount": 1 })).await;
    ecs.serves("green", 1).await;
    assert_eq!(asks(stage, &later["hookDetails"]).await, json!({ "hookStatus": "SUCCEEDED" }));
    assert_eq!(said(function.invoke("r", event.clone()).await)["told"][0]["action"], "CONTINUE");
    // The same program, and one of its tools fails.
    let worse = ecs.define("green", |container| {
        container["environment"].as_array_mut().expect("it has some").push(json!({ "name": "FAULT", "value": "smoke" }));
    });
    let (before, worse) = (ecs.tasks("green").remove(0), worse.await);
    ecs.update_service("green", json!({ "taskDefinition": worse })).await;
    let is_other = || ecs.ready("green") == 1 && ecs.tasks("green").iter().all(|task| task.arn != before.arn);
    ecs.until("another one serves", is_other).await;
    assert_eq!(asks(stage, &Value::Null).await, json!({ "hookStatus": "FAILED" }));
    assert_eq!(said(function.invoke("r", event).await)["told"][0]["action"], "ROLLBACK");
    let heard = ecs.edge().heard("ContinueServiceDeployment");
    let told: Vec<_> = heard.iter().map(|call| (call.text("hookId"), call.text("action"))).collect();
    assert_eq!(told, [("ecs-pause-e7tK9G", "CONTINUE"), ("ecs-pause-e7tK9G", "ROLLBACK")]);
    assert_eq!(ecs.moves(), Vec::<u64>::new(), "ECS moves by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_moved_to_a_color_of_which_no_target_is_healthy() {
    let ecs = Ecs::up(&binary("mcp-server"), &[], 1).await;
    let function = ecs.shifter(&[BRIEF]).await;
    let load = Load::start(ecs.address(), Mix::default()).await;
    let refused = function.invoke("r-1", json!({ "to": "green" })).await;
    assert_eq!(refused, Err("No target of green is healthy: nothing was moved".to_owned()));
    // Somebody is there, and does not answer.
    let stubs = ecs.join("green", 2);
    let refused = function.invoke("r-2", json!({ "steps": [10] })).await;
    assert_eq!(refused, Err("No target of green is healthy: nothing was moved".to_owned()));
    assert_eq!((ecs.weights().await, ecs.moves(), stubs.len()), ([100, 0], Vec::new(), 2));
    whole(&ecs, load, "nobody to move to").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seventy_nine_healthy_targets_of_a_hundred_are_too_few_and_eighty_are_enough() {
    let mut pace = Pace::default();
    pace.balancer.health_check = Duration::from_millis(500);
    let ecs = Ecs::up_with(&binary("mcp-server"), &[], 1, &pace).await;
    let mut stubs = ecs.join("green", 100);
    for stub in &mut stubs[..79] {
        stub.open().await;
    }
    ecs.until("79 are healthy", || ecs.healthy("green") == 79).await;
    let function = ecs.shifter(&[("HEALTHY_PERCENT", "80"), ("BAKE_SECONDS", "6")]).await;
    let refused = function.invoke("r-1", json!({ "to": "green" })).await;
    assert_eq!(refused, Err("Only 79/100 targets of green are healthy: nothing was moved".to_owned()));
    assert_eq!(ecs.moves(), Vec::<u64>::new());
    stubs[79].open().await;
    ecs.until("80 are healthy", || ecs.healthy("green") == 80).await;
    let moved = said(function.invoke("r-2", json!({ "to": "green" })).await);
    assert_eq!((&moved["health"], ecs.weights().await), (&json!({ "healthy": 80, "total": 100 }), [0, 100]));
    // One that is lost afterwards makes them too few again.
    said(function.invoke("r-3", json!({ "action": "rollback" })).await);
    let running = under_way(&ecs, &function, "r-4", json!({ "to": "green" })).await;
    stubs[0].close();
    let failed = running.end().await.expect_err("it is undone");
    assert_eq!(failed, "Traffic switch failed, rolled back to blue: 79/100 targets of green are healthy");
    assert_eq!(ecs.weights().await, [100, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_somebody_sets_while_the_function_moves_are_let_be() {
    let ecs = both().await;
    let function = ecs.shifter(&[("BAKE_SECONDS", "8")]).await;
    let load = Load::start(ecs.address(), Mix::default()).await;
    let running = under_way(&ecs, &function, "r-1", json!({ "to": "green", "steps": [10] })).await;
    ecs.weigh([60, 40]).await;
    let stopped = running.end().await.expect_err("it stops");
    assert!(stopped.starts_with("Somebody else moved the traffic"), "{stopped}");
    assert_eq!((ecs.weights().await, ecs.moves()), ([60, 40], vec![10]));
    // Also when it comes between the look at the weights and the move.
    ecs.weigh([100, 0]).await;
    ecs.edge().then("AddTags", ecs.weigh([70, 30]));
    let stopped = function.invoke("r-2", json!({ "to": "green" })).await.expect_err("it stops");
    assert!(stopped.contains("somebody set the weights to 70/30 (blue/green) in between, it was 100/0"), "{stopped}");
    // Handed over again, it is not moved from there either.
    let again = function.invoke("r-2", json!({ "to": "green" })).await.expect_err("it stops");
    assert!(again.starts_with("Somebody else moved the traffic"), "{again}");
    assert_eq!((ecs.weights().await, ecs.moves()), ([70, 30], vec![10]));
    whole(&ecs, load, "weights set by somebody else").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_asks_too_often_moves_all_the_same_or_says_that_it_did_not() {
    let ecs = both().await;
    let function = ecs.shifter(&[BRIEF]).await;
    let load = Load::start(ecs.address(), Mix::default()).await;
    ecs.edge().fault("*", When::Each(3), Fault::Throttled);
    ecs.edge().fault("ModifyRule", When::First(2), Fault::Lost);
    said(function.invoke("r-1", json!({ "to": "green", "steps": [50] })).await);
    said(function.invoke("r-2", json!({ "action": "rollback" })).await);
    assert_eq!(ecs.weights().await, [100, 0]);
    ecs.edge().heal();
    // It does not become better in time; and then it does, and Lambda hands the event over again.
    ecs.edge().fault("ModifyRule", When::First(u64::MAX), Fault::Throttled);
    let refused = function.invoke("r-3", json!({ "to": "green" })).await.expect_err("it is not done");
    assert!(refused.contains("Rate exceeded"), "{refused}");
    assert_eq!(ecs.weights().await, [100, 0]);
    ecs.edge().heal();
    said(function.invoke("r-3", json!({ "to": "green" })).await);
    assert_eq!(ecs.weights().await, [0, 100]);
    whole(&ecs, load, "throttled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_handed_over_twice_acts_once_and_is_answered_the_same() {
    let ecs = both().await;
    let load = Load::start(ecs.address(), Mix::default()).await;
    let function = ecs.shifter(&[BRIEF]).await;
    let first = function.invoke("r-1", json!({})).await;
    assert_eq!(function.invoke("r-1", json!({})).await, first);
    assert_eq!(said(first.clone())["newEnvironment"], "green");
    assert_eq!((ecs.moves(), ecs.weights().await), (vec![100], [0, 100]));
    // Killed while it watches, as when its time is over, and while it had remembered what it was about to do.
    let watching = ecs.shifter(&[LONG]).await;
    let cut_off = under_way(&ecs, &watching, "r-2", json!({ "to": "blue", "steps": [30] })).await;
    watching.kill().await;
    drop(cut_off);
    said(function.invoke("r-2", json!({ "to": "blue", "steps": [30] })).await);
    assert_eq!((ecs.moves(), ecs.weights().await), (vec![100, 70, 0], [100, 0]));
    for (request, event, before, after) in
        [("r-3", json!({ "to": "green" }), [100, 0], [0, 100]), ("r-4", json!({ "action": "rollback" }), [0, 100], [100, 0])]
    {
        let doomed = ecs.shifter(&[LONG]).await;
        let pid = doomed.pid();
        ecs.edge().then("AddTags", async move { signal("KILL", pid) });
        let cut_off = doomed.begin(request, event.clone());
        doomed.ends().await;
        drop(cut_off);
        assert_eq!(ecs.weights().await, before);
        let done = function.invoke(request, event.clone()).await;
        said(done.clone());
        assert_eq!(ecs.weights().await, after, "what is said is not what is");
        assert_eq!(function.invoke(request, event).await, done);
    }
    // Also when others came after it.
    assert_eq!(function.invoke("r-1", json!({})).await, first);
    assert_eq!(ecs.moves(), [100, 70, 0, 100, 0]);
    whole(&ecs, load, "handed over twice").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn going_back_wins_over_a_move_that_is_under_way_and_no_call_is_lost() {
    let ecs = both().await;
    let load = Load::start(ecs.address(), Mix::default()).await;
    let (moving, other) = (ecs.shifter(&[("BAKE_SECONDS", "18")]).await, ecs.shifter(&[BRIEF]).await);
    let asked = json!({ "to": "green", "steps": [10, 50] });
    // An alarm, and a person.
    for (request, event) in
        [("alarm", ecs.alarm("mcp-server-green-errors", "ALARM").await), ("person", json!({ "action": "rollback" }))]
    {
        let running = under_way(&ecs, &moving, &format!("shift-before-{request}"), asked.clone()).await;
        assert_eq!(said(other.invoke(request, event).await)["message"], "All traffic goes to blue again");
        assert_eq!(ecs.weights().await, [100, 0]);
        let stopped = running.end().await.expect_err("it stops");
        assert!(stopped.starts_with("Somebody else moved the traffic"), "{stopped}");
    }
    assert_eq!((ecs.weights().await, ecs.moves()), ([100, 0], vec![10, 0, 10, 0]));
    // The command, while the function is asleep in the midst of its second step.
    let running = under_way(&ecs, &moving, "shift-before-the-command", asked).await;
    let (pid, told) = (moving.pid(), ecs.edge().calls("ModifyRule"));
    ecs.edge().fault("ModifyRule", When::First(1), Fault::Throttled);
    ecs.edge().then("ModifyRule", async move { signal("STOP", pid) });
    ecs.until("it is asleep", || ecs.edge().calls("ModifyRule") > told).await;
    ecs.rollout(&["rollback"]).await.assert(0);
    assert_eq!(ecs.weights().await, [100, 0]);
    signal("CONT", pid);
    let stopped = running.end().await.expect_err("it stops");
    assert!(stopped.starts_with("Somebody else moved the traffic"), "{stopped}");
    assert_eq!(ecs.weights().await, [100, 0], "who was overtaken moved the traffic");
    whole(&ecs, load, "gone back while it moves").await;
}
