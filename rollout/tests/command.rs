//! What an operator types, and what it says when it cannot be done.

use std::process::{Command, Output};

fn front(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollout"));
    command.arg("front").args(["--operations-listen", "127.0.0.1:0"]).args(arguments);
    command.output().expect("the command starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_door_that_cannot_open_says_why_and_ends() {
    let directory = std::env::temp_dir();
    let state = directory.join(format!("front-command-{}.json", std::process::id()));
    let state = state.to_str().expect("a path of ours is text");

    std::fs::write(state, "{").expect("the temporary directory is writable");
    let output = front(&["--listen", "127.0.0.1:0", "--routing", state]);
    assert_eq!(output.status.code(), Some(70));
    assert!(said(&output).contains("is not a routing; remove it to begin anew"), "{}", said(&output));
    std::fs::remove_file(state).expect("it was written above");

    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = socket.local_addr().expect("a bound socket has an address").to_string();
    let output = front(&["--listen", &taken, "--routing", state]);
    drop(socket);
    assert_eq!(output.status.code(), Some(70));
    assert!(said(&output).contains(&format!("cannot listen on {taken}; is another process there?")), "{}", said(&output));
    std::fs::remove_file(state).expect("the door wrote it");

    let output = front(&["--live", "purple"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("say blue or green"), "{}", said(&output));
}
