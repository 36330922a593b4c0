//! The house as it was laid out: arrows between rooms point down only, and what must not be in a room is not in it.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the house")
}

#[test]
fn crates_depend_downwards_only() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let ours: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let allowed: &[&str] = match name {
            "bg-runtime" | "widgets" => &[],
            "mcp-server" => &["bg-runtime", "widgets"],
            "rollout" => &["bg-runtime"],
            _ => &ours,
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = dependency["name"].as_str().unwrap_or_default();
            assert!(!ours.contains(&on) || allowed.contains(&on), "{name} must not depend on {on}");
        }
    }
}

#[test]
fn rooms_keep_apart() {
    for (room, foreign) in [
        ("bg-runtime/src/lifecycle", &["tokio_postgres", "deadpool", "crate::database", "crate::storage", "axum", "hyper"][..]),
        // A plan does nothing: it can be printed before it is done.
        ("rollout/src/plan", &["tokio", "std::fs", "std::net", "crate::http", "crate::journal", "crate::execute"]),
        ("rollout/src/gate", &["crate::execute", "crate::command", "crate::local"]),
        ("bg-runtime/src/storage", &["axum", "hyper", "http::", "crate::lifecycle"]),
        ("bg-runtime/src/database", &["axum", "hyper", "http::", "crate::lifecycle"]),
        ("mcp-server/src/appointments", &["hyper", "http::", "axum::http", "axum::routing", "crate::http", "crate::mcp"]),
        ("mcp-server/src/http", &["crate::tool", "crate::appointments", "crate::reply", "crate::extract"]),
        ("mcp-server/src/mcp", &["crate::appointments", "tokio_postgres", "bg_runtime::database"]),
    ] {
        let mut seen = 0;
        for (path, text) in sources(room) {
            seen += 1;
            for line in uses(&text) {
                for word in foreign {
                    assert!(!line.contains(word), "{path} uses {word}: {line}");
                }
            }
        }
        assert!(seen > 0, "{room} holds nothing");
    }
}

#[test]
fn only_the_configuration_reads_the_environment() {
    for room in ["bg-runtime/src", "mcp-server/src", "rollout/src"] {
        for (path, text) in sources(room) {
            let reads = text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains("env::var"));
            assert!(!reads || path.ends_with("mcp-server/src/config.rs"), "{path} reads the environment");
        }
    }
}

#[test]
fn every_file_says_what_lives_in_it() {
    for room in ["bg-runtime", "mcp-server", "rollout", "tests"] {
        for (path, text) in sources(room) {
            assert!(text.starts_with("//!"), "{path} does not open with //!");
            assert!(!path.ends_with("/mod.rs"), "{path}: a room is a file beside its folder");
        }
    }
}

/// `room` as a file, as a folder, or as both.
fn sources(room: &str) -> Vec<(String, String)> {
    let path = root().join(room);
    let mut found = Vec::new();
    let file = path.with_extension("rs");
    if file.exists() {
        found.push(file);
    }
    let mut folders = vec![path];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "node_modules" && name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.iter().map(|path| (path.display().to_string(), fs::read_to_string(path).expect("sources are readable"))).collect()
}

/// The `use` declarations before the tests, each as one line with its paths spelled out far enough to be searched.
fn uses(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut declarations = Vec::new();
    let mut open: Option<String> = None;
    for line in code.lines() {
        let line = line.trim();
        if open.is_none() && (line.starts_with("use ") || line.starts_with("pub use ") || line.starts_with("pub(crate) use ")) {
            open = Some(String::new());
        }
        if let Some(declaration) = &mut open {
            declaration.push_str(line);
            if line.ends_with(';') {
                let declaration = open.take().unwrap_or_default();
                let path = declaration.trim_start_matches("pub(crate) ").trim_start_matches("pub ").trim_start_matches("use ");
                declarations.push(path.replace("::{", "::"));
            }
        }
    }
    declarations
}
