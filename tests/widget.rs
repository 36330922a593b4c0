//! The appointments widget in a browser: on the page that hosts it as ChatGPT does, by a person's clicks, in each of the
//! languages in which hosts and widgets speak. `target/widget-screenshots` has what was seen.

use std::path::{Path, PathBuf};

use tests::{
    node,
    postgres::DataDir,
    server::{Server, binary},
};
use tokio::{process::Command, sync::Mutex};

/// One browser at a time: two take the machine from each other and from whatever else is tested.
static BROWSER: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn the_widget_works_in_a_host_of_mcp_apps() {
    the_widget_works("mcp-apps").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_widget_works_in_a_host_with_window_openai() {
    the_widget_works("openai").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_widget_works_in_a_host_that_speaks_both() {
    the_widget_works("both").await;
}

async fn the_widget_works(bridge: &str) {
    let _browser = BROWSER.lock().await;
    let data = DataDir::new();
    let environment = [("DATA_DIR", &*data.database()), ("TIME_ZONE", "Europe/Berlin")];
    let server = Server::start(binary("mcp-server"), &environment).await.ready().await;
    import(&data).await;

    let url = format!("http://{}", server.address());
    let shots = screenshots();
    let shots = shots.to_str().expect("a path of ours is text");
    let output = node::node("widget.mjs", &["--url", &url, "--bridge", bridge, "--user", "ada", "--shots", shots]).await;
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(output.status.success(), "{said}\n{}", server.stderr());
}

/// A calendar of Ada's: a weekly stand-up and a choir, some of them moved and some called off.
async fn import(data: &DataDir) {
    let calendar = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mcp-server/tests/calendars/overrides.ics");
    let output = Command::new(binary("mcp-server"))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("DATA_DIR", data.database())
        .arg("import")
        .arg(calendar)
        .args(["--user", "ada", "--time-zone", "Europe/Berlin", "--json"])
        .output()
        .await
        .expect("the import starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn screenshots() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("cargo keeps it in its target folder");
    target.join("widget-screenshots")
}
