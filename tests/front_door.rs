//! The front door switches between two colors under load, and no call is lost, doubled or answered by the wrong color:
//! back and forth, while it is held, when it is killed itself, and when the live color is.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    http::{Connection, get, operate, post},
    local::opened,
    postgres::DataDir,
    server::{Server, binary},
};
use tokio::process::{Child, Command};

const LONG: Duration = Duration::from_secs(20);

/// A front door that is a process of its own.
struct Door {
    process: Child,
    address: SocketAddr,
    operations: SocketAddr,
    state: PathBuf,
}

impl Door {
    /// Opens it before these two, or with the routing that it was left with.
    async fn open(data: &DataDir, at: Option<(SocketAddr, SocketAddr)>, colors: Option<(&Server, &Server)>) -> Self {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let (address, operations) = at.unwrap_or((free, free));
        let state = data.path().join("front.json");
        let mut command = Command::new(binary("rollout"));
        command.env_clear().kill_on_drop(true).stderr(Stdio::piped()).arg("front").arg("--routing").arg(&state);
        command.args(["--listen", &address.to_string(), "--operations-listen", &operations.to_string()]);
        if let Some((blue, green)) = colors {
            command.args(["--blue", &blue.address().to_string(), "--green", &green.address().to_string()]);
        }
        let mut process = command.spawn().expect("the door starts");
        let (address, operations) = opened(&mut process, LONG).await;
        Self { process, address, operations, state }
    }

    fn secret(&self) -> PathBuf {
        self.state.with_extension("secret")
    }

    async fn switch(&self, color: &str) {
        let answer = operate(self.operations, "POST", &format!("/live/{color}"), &self.secret()).await;
        assert_eq!(
            (answer.status, &answer.json()["greenPercent"]),
            (200, &json!(if color == "green" { 100 } else { 0 })),
            "{}",
            answer.body
        );
    }
}

async fn start(data: &DataDir, color: &str) -> Server {
    let directory = data.database();
    Server::example("lasting", &[("DATA_DIR", &*directory), ("RELEASE_COLOR", color)]).await.ready().await
}

/// The color that answered a call.
async fn drawn(connection: &mut Connection, headers: &str) -> String {
    let result = connection.call("draw", &json!({}), headers).await;
    result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{result}")).trim_start_matches("drawn by ").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_switches_under_load_lose_nothing_and_each_takes_effect_before_it_is_answered() {
    let data = DataDir::new();
    let (blue, green) = (start(&data, "blue").await, start(&data, "green").await);
    let door = Door::open(&data, None, Some((&blue, &green))).await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load: Vec<_> = (0..4)
        .map(|client| {
            let (stop, answered, address) = (stop.clone(), answered.clone(), door.address);
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await;
                let session = connection.open_session().await;
                // Half of them in sessions, as older clients are.
                let headers = if client % 2 == 0 { String::new() } else { format!("mcp-session-id: {session}\r\n") };
                while !stop.load(Ordering::Relaxed) {
                    drawn(&mut connection, &headers).await;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    // A stream that is open stays open, and where it is.
    let mut stream = Connection::open_stream(door.address).await;
    for turn in 0..100 {
        let color = if turn % 2 == 0 { "green" } else { "blue" };
        let before = answered.load(Ordering::Relaxed);
        door.switch(color).await;
        // On a connection that was there before, and on a new one.
        assert_eq!(drawn(&mut Connection::open(door.address).await, "").await, color, "turn {turn}");
        let begun = Instant::now();
        while answered.load(Ordering::Relaxed) < before + 8 {
            assert!(begun.elapsed() < LONG, "nobody is answered any more");
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in load {
        client.await.expect("every call was answered");
    }
    let routing: Value = get(door.operations, "/routing").await.json();
    assert_eq!((&routing["greenPercent"], &routing["inFlight"]["blue"]), (&json!(0), &json!(1)), "the stream: {routing}");
    // It ends with its color, and not before.
    blue.signal("TERM");
    tokio::time::timeout(LONG, stream.read_until("retry: 250")).await.expect("the stream ends cleanly");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_idle_color_is_reached_by_its_name_and_a_held_request_goes_where_the_door_leads_then() {
    let data = DataDir::new();
    let (blue, green) = (start(&data, "blue").await, start(&data, "green").await);
    let door = Door::open(&data, None, Some((&blue, &green))).await;
    let mut connection = Connection::open(door.address).await;
    assert_eq!(drawn(&mut connection, "").await, "blue");
    assert_eq!(drawn(&mut connection, "release-color: green\r\n").await, "green");
    let odd = connection.ask("ping", &json!({}), "release-color: purple\r\n").await;
    assert_eq!(odd.status, 400, "{}", odd.body);

    assert_eq!(operate(door.operations, "POST", "/hold", &door.secret()).await.json()["held"], true);
    let held = tokio::spawn(async move { drawn(&mut connection, "").await });
    // Whoever names a color is not held.
    assert_eq!(drawn(&mut Connection::open(door.address).await, "release-color: blue\r\n").await, "blue");
    door.switch("green").await;
    assert!(!held.is_finished());
    operate(door.operations, "POST", "/release", &door.secret()).await;
    assert_eq!(held.await.expect("it is answered"), "green");
    assert_eq!(operate(door.operations, "POST", "/live/purple", &door.secret()).await.status, 400);
}

/// The port is reached by every account of the machine, and the file by one.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_bring_the_secret_of_operators_moves_nothing() {
    let data = DataDir::new();
    let (blue, green) = (start(&data, "blue").await, start(&data, "green").await);
    let door = Door::open(&data, None, Some((&blue, &green))).await;
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(door.secret()).expect("it is there").permissions());
    assert_eq!(mode & 0o777, 0o600, "others read the secret");
    let (empty, wrong) = (data.path().join("empty"), data.path().join("wrong"));
    std::fs::write(&empty, "").expect("a file");
    std::fs::write(&wrong, "0".repeat(64)).expect("a file");
    for (method, path) in [
        ("POST", "/live/green"),
        ("PUT", "/share"),
        ("POST", "/fence?epoch=9"),
        ("PUT", "/at/green"),
        ("POST", "/hold"),
        ("POST", "/release"),
        ("GET", "/nowhere"),
    ] {
        for secret in [&empty, &wrong] {
            assert_eq!(operate(door.operations, method, path, secret).await.status, 401, "{method} {path}");
        }
    }
    assert_eq!(post(door.operations, "/live/green").await.status, 401);
    let routing = get(door.operations, "/routing").await.json();
    assert_eq!((&routing["greenPercent"], &routing["held"]), (&json!(0), &json!(false)), "{routing}");
    door.switch("green").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_or_a_color_that_is_killed_costs_no_call_that_had_not_reached_it() {
    let data = DataDir::new();
    let (blue, green) = (start(&data, "blue").await, start(&data, "green").await);
    let mut door = Door::open(&data, None, Some((&blue, &green))).await;
    door.switch("green").await;
    door.process.kill().await.expect("it is ours to kill");
    let door = Door::open(&data, Some((door.address, door.operations)), None).await;
    assert!(door.state.exists());
    assert_eq!(drawn(&mut Connection::open(door.address).await, "").await, "green", "it forgot where it leads");

    // The live color dies: a call waits for whoever is live next, and is made there.
    green.signal("KILL");
    green.exit(LONG).await;
    let address = door.address;
    let waiting = tokio::spawn(async move { drawn(&mut Connection::open(address).await, "").await });
    let begun = Instant::now();
    while get(door.operations, "/routing").await.json()["inFlight"]["green"] == 0 && begun.elapsed() < Duration::from_millis(200)
    {
        tokio::task::yield_now().await;
    }
    door.switch("blue").await;
    assert_eq!(waiting.await.expect("it is answered"), "blue");
}
