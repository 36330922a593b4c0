//! The same rollout on a real cluster: load through a port of the node, on connections that are kept, while traffic is
//! switched there and back, pods are deleted, and builds are shipped that cannot run.
//!
//! It needs a cluster with `k8s/overlays/minimal` applied and migrated, three replicas of each color, and four variables:
//! KUBECONFIG; KUBERNETES_ENTRANCE (`127.0.0.1:30743`, the node port of the live Service); KUBERNETES_DATABASE_URL (the
//! database as it is reached from here); KUBERNETES_IMAGE (an image that the nodes have). Without them it says so and does
//! nothing. With KUBERNETES_ROLLOUT_KUBECONFIG `rollout` uses that one: of a service account that may do what the Role `rollout`
//! says and no more. KUBERNETES_KILL is a command that ends the process of the pod that it is given with a signal 9, if there is
//! a way; else pods are deleted by force, which leaves them two seconds.

use std::{
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use bg_runtime::Color;
use serde_json::Value;
use tests::{
    load::{Load, Mix},
    server::binary,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

/// One rollout at a time.
static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// How many switches.
const SWITCHES: usize = 20;

struct Cluster {
    entrance: SocketAddr,
    database: String,
    image: String,
    /// What kills a pod.
    kill: Option<String>,
    /// Of `rollout` alone.
    kubeconfig: Option<String>,
    state: std::path::PathBuf,
}

impl Cluster {
    #[expect(clippy::disallowed_methods, reason = "where the cluster is")]
    #[expect(clippy::print_stderr, reason = "a test that did nothing says so")]
    fn find() -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        let found = (|| {
            variable("KUBECONFIG")?;
            Some(Self {
                entrance: variable("KUBERNETES_ENTRANCE")?.parse().expect("KUBERNETES_ENTRANCE is address:port"),
                database: variable("KUBERNETES_DATABASE_URL")?,
                image: variable("KUBERNETES_IMAGE")?,
                kill: variable("KUBERNETES_KILL"),
                kubeconfig: variable("KUBERNETES_ROLLOUT_KUBECONFIG"),
                state: std::env::temp_dir().join(format!("rollout-kubernetes-{}", std::process::id())),
            })
        })();
        if found.is_none() {
            eprintln!("NOT TESTED: the cluster. tests/kubernetes.rs says what it needs");
        }
        found
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("rollout"));
        command.args(["--json", "--platform", "kubernetes", "--entrance", &format!("http://{}", self.entrance)]);
        command.args(["--database-url", &self.database]).arg("--state").arg(&self.state).args(arguments);
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn rollout(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let output = self.command(arguments).output().await.expect("the command starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let last = said.lines().last().and_then(|line| serde_json::from_str(line).ok());
        let complaints = String::from_utf8_lossy(&output.stderr);
        (output.status.code(), last.unwrap_or_else(|| panic!("{arguments:?} says {said} {complaints}")))
    }

    async fn kubectl(&self, arguments: &[&str]) -> String {
        let output = Command::new("kubectl").args(["-n", "mcp"]).args(arguments).output().await.expect("kubectl starts");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Ends a pod as when its node loses its power: no preStop, no SIGTERM.
    async fn kill(&self, pod: &str) {
        let Some(kill) = &self.kill else {
            self.kubectl(&["delete", "pod", pod, "--grace-period=0", "--force", "--wait=false"]).await;
            return;
        };
        let output = Command::new(kill).arg(pod).output().await.expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The name of a pod of this color.
    async fn pod(&self, color: Color) -> String {
        let selector = format!("app.kubernetes.io/name=mcp-server,release-color={color}");
        let pods = self.kubectl(&["get", "pods", "-l", &selector, "-o", "jsonpath={.items[0].metadata.name}"]).await;
        assert!(!pods.is_empty(), "there is one");
        pods
    }

    async fn live(&self) -> Color {
        let (code, status) = self.rollout(&["status"]).await;
        assert_eq!(code, Some(0), "{status}");
        status["live"].as_str().and_then(|color| color.parse().ok()).unwrap_or_else(|| panic!("{status}"))
    }
}

#[expect(clippy::print_stdout, reason = "figures are there to be read; `--nocapture` shows them")]
#[tokio::test(flavor = "multi_thread")]
async fn twenty_switches_and_pods_that_go_lose_nothing_on_a_cluster() {
    let Some(cluster) = Cluster::find() else { return };
    let _alone = ONE.lock().await;
    let warm = ["deploy", &*cluster.image, "--env", "RELEASE_VERSION=2.1.0", "--bake", "0", "--skip", "load", "--force"];
    let (code, said) = cluster.rollout(&warm).await;
    assert_eq!(code, Some(0), "{said}");
    let load = Load::start(cluster.entrance, Mix::default()).await;
    let mut moves = Vec::new();
    for _ in 0..SWITCHES {
        let to = cluster.live().await.other();
        let given = Instant::now();
        let (code, said) = cluster.rollout(&["switch"]).await;
        assert_eq!(code, Some(0), "{said}");
        moves.push((given, Instant::now(), to, said["switches"][0].clone()));
        load.more(100).await;
    }
    // A pod of the live color goes, as in a node's maintenance.
    let pod = cluster.pod(cluster.live().await).await;
    cluster.kubectl(&["delete", "pod", &pod, "--wait=false"]).await;
    load.more(500).await;
    let outcome = load.stop().await;
    for (turn, (given, done, to, proof)) in moves.iter().enumerate() {
        let until = moves.get(turn + 1).map_or(Instant::now(), |next| next.0);
        let then = || outcome.calls.iter().filter(|call| call.at > *given && call.at < until);
        let last = then().filter(|call| call.color != *to).map(|call| call.at).max().unwrap_or(*given);
        // The patch is out from the first call that the new color got.
        let first = then().filter(|call| call.color == *to).map(|call| call.at).min().expect("the new color is called");
        let (since_command, since_patch) = (last - *given, last.saturating_duration_since(first));
        println!(
            "switch {turn} to {to}: command {:.2} s, last call of the old color {since_patch:.2?} after the first of the new one, \
             {since_command:.2?} after the command, {proof}",
            (*done - *given).as_secs_f64()
        );
        assert!(since_patch < Duration::from_secs(2), "connections that were kept stay with the old color");
    }
    println!(
        "{} calls, {} bookings, {} streams opened, {} errors",
        outcome.calls.len(),
        outcome.booked.len(),
        outcome.streams_opened,
        outcome.errors.len()
    );
    outcome.assert_whole();
}

#[expect(clippy::print_stdout, reason = "figures are there to be read; `--nocapture` shows them")]
#[tokio::test(flavor = "multi_thread")]
async fn pods_that_are_killed_cost_no_session_and_book_nothing_twice_on_a_cluster() {
    let Some(cluster) = Cluster::find() else { return };
    let _alone = ONE.lock().await;
    let mix = Mix::default();
    let load = Load::persistent(cluster.entrance, mix).await;
    for _ in 0..2 {
        let live = cluster.live().await;
        cluster.kill(&cluster.pod(live).await).await;
        load.more(300).await;
        // While the other two serve and a third is started, everything moves to the other color.
        let (code, said) = cluster.rollout(&["switch"]).await;
        assert_eq!(code, Some(0), "{said}");
        load.more(300).await;
        cluster.kubectl(&["rollout", "status", &format!("deployment/mcp-server-{live}"), "--timeout=120s"]).await;
    }
    let outcome = load.stop().await;
    println!(
        "two pods killed: {} calls, {} bookings, {} cut and asked again, {} sessions begun",
        outcome.calls.len(),
        outcome.booked.len(),
        outcome.cut,
        outcome.sessions_begun
    );
    outcome.assert_whole();
    assert_eq!(outcome.sessions_begun, (mix.sessions + mix.streams) as u64, "a session was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_that_is_killed_is_gone_on_with_on_a_cluster_and_no_client_notices() {
    let Some(cluster) = Cluster::find() else { return };
    let _alone = ONE.lock().await;
    let load = Load::start(cluster.entrance, Mix::default()).await;
    let live = cluster.live().await;
    let deploy = ["deploy", &*cluster.image, "--env", "RELEASE_VERSION=3.0.0", "--bake", "3", "--load-most", "50"];
    for step in ["migrate", "ready", "switch", "bake"] {
        let mut child = cluster.command(&deploy).stdout(Stdio::piped()).spawn().expect("the command starts");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let mut said = Vec::new();
        let begun = async {
            while let Some(line) = lines.next_line().await.expect("what it says is text") {
                let line: Value = serde_json::from_str(&line).expect("it says JSON");
                if line["step"] == step && line["state"] == "begun" {
                    return;
                }
                said.push(line);
            }
            panic!("it ended before {step}: {said:?}")
        };
        tokio::time::timeout(Duration::from_secs(120), begun).await.expect("it comes to every step");
        let holder = cluster.kubectl(&["get", "lease", "mcp-server-rollout", "-o", "jsonpath={.spec.holderIdentity}"]).await;
        assert!(holder.ends_with(&format!("/{}", child.id().expect("it has not ended"))), "{holder}");
        child.kill().await.expect("it is ours to kill");
    }
    let (code, said) = cluster.rollout(&deploy).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(cluster.live().await, live.other());
    let (code, said) = cluster.rollout(&["rollback"]).await;
    assert_eq!(code, Some(0), "{said}");
    // What `kubectl` shows of it: the story on the Service, and that nobody is at it any more.
    let told = cluster.kubectl(&["describe", "service", "mcp-server"]).await;
    for reason in ["RolloutRun", "RolloutSwitched"] {
        assert!(told.contains(reason), "{reason} is missing in {told}");
    }
    let holder = ["get", "lease", "mcp-server-rollout", "-o", "jsonpath={.spec.holderIdentity}"];
    assert_eq!(cluster.kubectl(&holder).await, "");
    load.more(200).await;
    load.stop().await.assert_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_cannot_run_never_goes_live_on_a_cluster() {
    let Some(cluster) = Cluster::find() else { return };
    let _alone = ONE.lock().await;
    let live = cluster.live().await;
    let begun = Instant::now();
    let missing = ["deploy", "localhost/mcp-server:missing", "--skip", "migrate", "--skip", "validate"];
    let (code, said) = cluster.rollout(&missing).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said["reason"].as_str().is_some_and(|reason| reason.contains("localhost/mcp-server:missing")), "{said}");
    // With migrations it does not even start: the Job is the first that needs the image.
    let (code, said) = cluster.rollout(&missing[..2]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said["reason"].as_str().is_some_and(|reason| reason.starts_with("migrate")), "{said}");
    // A migration that fails ends the deploy before anything was started.
    let unmigrated = ["deploy", &cluster.image, "--env", "DATABASE_URL=postgresql://nobody@127.0.0.1:1/nothing"];
    let (code, said) = cluster.rollout(&unmigrated).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said["reason"].as_str().is_some_and(|reason| reason.starts_with("migrate")), "{said}");
    let crashing = ["deploy", &cluster.image, "--env", "LISTEN=nonsense", "--skip", "migrate", "--skip", "validate"];
    let (code, said) = cluster.rollout(&crashing).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said["reason"].as_str().is_some_and(|reason| reason.contains("LISTEN")), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(240), "it waits for what does not come");
    assert_eq!(cluster.live().await, live);
}
