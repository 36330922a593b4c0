//! The operator's commands, against two servers that share a database: the whole way on and back, and what is told on the way.

use std::{path::Path, process::Stdio, time::Duration};

use bg_runtime::database::private::PrivateServer;
use serde_json::{Value, json};
use tests::{
    http::{get, message, search},
    postgres::DataDir,
    server::{Server, binary},
};

const MIGRATION: &str = "0003_conversation_state";

/// A PostgreSQL, and one server of each color on it.
struct World {
    url: String,
    blue: Server,
    green: Server,
    _postgres: PrivateServer,
    data: DataDir,
}

/// What a command said.
struct Said {
    code: i32,
    out: String,
    complaint: String,
}

// === impl World ===

impl World {
    async fn new() -> Self {
        let data = DataDir::new();
        let postgres = data.start().await;
        let url = format!("postgres://mcp@{}/postgres", postgres.socket_dir().display().to_string().replace('/', "%2F"));
        let blue = Server::appointments(&url, &[("RELEASE_COLOR", "blue")]).await.ready().await;
        let green = Server::appointments(&url, &[("RELEASE_COLOR", "green")]).await.ready().await;
        Self { url, blue, green, _postgres: postgres, data }
    }

    async fn command(&self, words: &[&str]) -> Said {
        let mut command = tokio::process::Command::new(binary("mcp-server"));
        command.args(words).env_clear().env("DATABASE_URL", &self.url).stdin(Stdio::null()).kill_on_drop(true);
        let ran = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
        let output = ran.expect("a command ends").expect("a command runs");
        let text = |bytes| String::from_utf8(bytes).expect("a command says UTF-8");
        Said { code: output.status.code().unwrap_or(-1), out: text(output.stdout), complaint: text(output.stderr) }
    }

    /// A command that does what it is told.
    async fn done(&self, words: &[&str]) -> String {
        let said = self.command(words).await;
        assert_eq!(said.code, 0, "{words:?}: {} {}", said.out, said.complaint);
        said.out
    }

    /// A command that refuses.
    async fn refused(&self, words: &[&str]) -> String {
        let said = self.command(words).await;
        assert_eq!(said.code, 1, "{words:?}: {} {}", said.out, said.complaint);
        said.complaint
    }

    async fn phase(&self) -> String {
        let status: Value = serde_json::from_str(&self.done(&["migrate", "status", "--json"]).await).expect("JSON");
        let migrations = status["status"]["migrations"].as_array().expect("a list").clone();
        let found = migrations.iter().find(|migration| migration["name"] == MIGRATION).expect("it is known");
        found["phase"].as_str().expect("it has a phase").to_owned()
    }

    /// Each server says the phase that it acts on.
    async fn all_act_on(&self, phase: &str) {
        for server in [&self.blue, &self.green] {
            let said = get(server.address(), "/health/database").await.json();
            assert_eq!(said["phases"][MIGRATION], phase, "the command returns when all have seen it");
        }
    }
}

fn path(directory: &Path, name: &str) -> String {
    directory.join(name).display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_goes_all_the_way_and_back_and_on_again() {
    let world = World::new().await;
    let status = world.done(&["migrate"]).await;
    assert!(status.contains("phase dual") && status.contains("green 0.1.0"), "`migrate` alone tells the status: {status}");
    assert!(world.done(&["migrate", "expand"]).await.starts_with("nothing to do"));
    let plan = world.done(&["migrate", "plan"]).await;
    assert!(plan.contains("→ dual") && plan.contains("next: `migrate backfill`"), "{plan}");

    let early = world.refused(&["migrate", "validate"]).await;
    assert!(early.contains("fill it first"), "{early}");
    let filled = world.done(&["migrate", "backfill"]).await;
    assert!(filled.contains("filled 0 of 0 rows") && filled.contains("next: `migrate validate`"), "{filled}");
    assert_eq!(world.done(&["migrate", "backfill"]).await.lines().count(), 2, "said twice is done once");
    let verdict: Value = serde_json::from_str(&world.done(&["migrate", "validate", "--json"]).await).expect("JSON");
    assert_eq!((&verdict["verdict"]["valid"], &verdict["ok"]), (&json!(true), &json!(true)));

    world.done(&["migrate", "advance", "--by", "ada"]).await;
    world.all_act_on("read_new").await;
    world.done(&["migrate", "advance"]).await;
    world.all_act_on("fenced").await;
    world.done(&["migrate", "back"]).await;
    world.all_act_on("read_new").await;
    world.done(&["migrate", "back"]).await;
    world.all_act_on("dual").await;
    world.done(&["migrate", "back"]).await;
    assert_eq!(world.phase().await, "expand");
    let kept = world.refused(&["migrate", "back", "--undo"]).await;
    assert!(kept.contains("uses the new columns"), "two servers that know it live: {kept}");

    for verb in ["advance", "backfill", "validate", "advance", "advance"] {
        world.done(&["migrate", verb]).await;
    }
    assert_eq!(world.phase().await, "fenced");
    let dump = path(world.data.path(), "dump.sql");
    let meant = world.refused(&["migrate", "contract", "--dump", &dump]).await;
    assert!(meant.contains("--drop-old-columns"), "{meant}");
    let done = world.done(&["migrate", "contract", "--dump", &dump, "--drop-old-columns"]).await;
    assert!(done.contains("dumped 0 rows"), "{done}");
    world.all_act_on("contract").await;
    let dumped = std::fs::read_to_string(&dump).expect("the dump is there");
    assert!(dumped.contains("COPY dropped_from_chat_sessions") && dumped.ends_with("\\.\n"), "{dumped}");
    let over = world.refused(&["migrate", "contract", MIGRATION, "--dump", &dump, "--drop-old-columns"]).await;
    assert!(over.contains("nothing was dropped"), "a dump is never written over: {over}");
    assert!(world.refused(&["migrate", "back", MIGRATION]).await.contains("no way back"));
    assert_eq!(search(world.green.address()).await["result"]["isError"], json!(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_is_switched_off_and_on_in_both_colors_without_a_deploy() {
    let world = World::new().await;
    assert_eq!(world.done(&["flag", "list"]).await.trim(), "no flag is set: everything is on");
    world.done(&["flag", "set", "tool.search_appointments", "0"]).await;
    for server in [&world.blue, &world.green] {
        let answer = search(server.address()).await;
        assert_eq!(answer["result"]["isError"], json!(true));
        let words = answer["result"]["content"][0]["text"].as_str().expect("words");
        assert!(words.contains("switched off"), "{words}");
        let list = message(server.address(), r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await;
        assert!(list.json().to_string().contains("search_appointments"), "clients keep their list for days: it stays listed");
    }
    assert!(world.done(&["flag", "list"]).await.contains("tool.search_appointments  0 %"));

    // ChatGPT names the person; a half lets in the same people on both colors.
    world.done(&["flag", "set", "tool.search_appointments", "50"]).await;
    let mut inside = 0;
    for person in 0..40 {
        let params = json!({
            "name": "search_appointments", "arguments": { "userId": "ada" }, "_meta": { "openai/subject": format!("v1/{person}") },
        });
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }).to_string();
        let [blue, green] = [&world.blue, &world.green].map(|server| message(server.address(), &body));
        let (blue, green) = (blue.await.json(), green.await.json());
        assert_eq!(blue["result"]["isError"], green["result"]["isError"], "person {person} is let in by one color only");
        inside += u32::from(blue["result"]["isError"] == json!(false));
    }
    assert!((8..=32).contains(&inside), "{inside} of 40");
    world.done(&["flag", "forget", "tool.search_appointments"]).await;
    assert_eq!(search(world.blue.address()).await["result"]["isError"], json!(false));
    assert_eq!(world.command(&["flag", "set", "tool.x", "101"]).await.code, 2, "clap refuses it");
}
