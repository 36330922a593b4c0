//! What is installed and built in is checked: advisories against every lock file, tools from PyPI and npm against their hashes, and
//! Terraform's provider against its own. What could not be checked is a failure.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn check(copy: Option<&PathBuf>, locks: &[&str]) -> (Option<i32>, String) {
    let mut script = Command::new("python3");
    script.current_dir(ROOT).args([".ci/advisories.py", "check"]).args(locks);
    if let Some(copy) = copy {
        script.env("ADVISORIES", copy);
    }
    let Output { status, stdout, stderr } = script.output().expect("python3 can be run");
    (status.code(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

/// Writes a file of this test alone.
fn written(name: &str, text: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("advisories-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for temporary files");
    let path = folder.join(name);
    fs::write(&path, text).expect("a temporary file can be written");
    path
}

fn lock(name: &str, version: &str) -> PathBuf {
    let registry = "registry+https://github.com/rust-lang/crates.io-index";
    let text = format!("version = 4\n\n[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nsource = \"{registry}\"\n");
    written(&format!("{name}-{version}.lock"), &text)
}

#[test]
fn no_crate_of_ours_has_an_advisory_and_the_day_of_the_copy_is_printed() {
    let (code, printed) = check(None, &["Cargo.lock", "fuzz/Cargo.lock"]);
    assert_eq!(code, Some(0), "{printed}");
    for lock in ["\nfuzz/Cargo.lock: ", "Cargo.lock: "] {
        assert!(format!("\n{printed}").contains(lock), "{printed}");
    }
    assert!(printed.contains("advisories of 20"), "{printed}");
}

#[test]
fn a_crate_with_an_advisory_is_found_and_a_patched_one_is_not() {
    for (name, version, id) in [
        // Patched: >= 0.2.23; the versions before 0.2.0 but for two of them are unaffected.
        ("time", "0.2.22", Some("RUSTSEC-2020-0071")),
        ("time", "0.2.23", None),
        // Two ranges that are patched: >= 0.3.3, and what 0.2 got later.
        ("rustls-webpki", "0.101.3", Some("RUSTSEC-2023-0053")),
        // Nobody maintains it, and no version is patched.
        ("failure", "0.1.8", Some("RUSTSEC-2020-0036")),
        ("a-crate-that-nobody-wrote", "1.0.0", None),
    ] {
        let lock = lock(name, version);
        let (code, printed) = check(None, &[lock.to_str().expect("a path of text")]);
        assert_eq!(code, Some(i32::from(id.is_some())), "{name} {version}: {printed}");
        assert!(id.is_none_or(|id| printed.contains(id)), "{name} {version}: {printed}");
    }
}

#[test]
fn ranges_mean_what_they_mean_to_cargo() {
    for (patched, safe, affected) in [
        (">= 1.2.3", &["1.2.3", "1.10.0", "2.0.0"][..], &["1.2.2", "1.2.3-rc.1", "0.9.0"][..]),
        (">= 1.2, < 1.4", &["1.2.0", "1.3.9"], &["1.4.0", "1.1.9"]),
        ("^1.2.3", &["1.2.3", "1.9.0"], &["2.0.0", "1.2.2"]),
        ("^0.2.3", &["0.2.9"], &["0.3.0", "0.2.2"]),
        ("^0.0.3", &["0.0.3"], &["0.0.4"]),
        ("~1.2.3", &["1.2.9"], &["1.3.0"]),
        ("=1.2.3;>2.0.0", &["1.2.3", "2.0.1"], &["1.2.4", "2.0.0"]),
        ("1.2.3", &["1.5.0"], &["2.0.0"]),
        (">= 1.0.0-rc.2", &["1.0.0-rc.10", "1.0.0"], &["1.0.0-rc.1", "1.0.0-beta.3"]),
        ("", &[], &["1.0.0"]),
    ] {
        let table = format!("# RustSec of 2099-01-01 (made up)\n# id\nRUSTSEC-2099-0001\tmade-up\tvulnerability\t{patched}\t\n");
        let copy = written(&format!("ranges-{}.tsv", patched.len()), &table);
        for (versions, expected) in [(safe, 0), (affected, 1)] {
            for version in versions {
                let lock = lock("made-up", version);
                let (code, printed) = check(Some(&copy), &[lock.to_str().expect("a path of text")]);
                assert_eq!(code, Some(expected), "{version} and {patched}: {printed}");
            }
        }
    }
}

#[test]
fn advisories_that_cannot_be_checked_are_a_failure_and_old_ones_a_loud_warning() {
    let nowhere = PathBuf::from("/nowhere/advisories.tsv");
    let (code, printed) = check(Some(&nowhere), &["Cargo.lock"]);
    assert!(
        code == Some(69) && printed.contains("NOT CHECKED") && printed.contains("advisories.py update"),
        "{code:?} {printed}"
    );
    for torn in ["", "nonsense\n", "# RustSec of 2026-08-21 (torn)\n# id\n"] {
        let (code, printed) = check(Some(&written("torn.tsv", torn)), &["Cargo.lock"]);
        assert!(code != Some(0), "{torn:?} passes: {printed}");
    }
    let empty = written("empty.lock", "version = 4\n");
    assert_eq!(check(None, &[empty.to_str().expect("a path of text")]).0, Some(1), "a lock without crates was not read");
    let row = "RUSTSEC-2099-0001\tmade-up\tvulnerability\t>= 1.0.0\t\n";
    for (date, is_old) in [("2020-01-01", true), ("2099-01-01", false)] {
        let copy = written(&format!("{date}.tsv"), &format!("# RustSec of {date} (made up)\n# id\n{row}"));
        let (code, printed) = check(Some(&copy), &["Cargo.lock"]);
        assert_eq!((code, printed.contains("DAYS OLD")), (Some(0), is_old), "{printed}");
    }
    // And `./dev check` has no way around it.
    let dev = fs::read_to_string(format!("{ROOT}/dev")).expect("dev is readable");
    let deny = dev.split("\ndeny() {").nth(1).and_then(|rest| rest.split("\n}").next()).expect("deny in dev");
    assert!(deny.contains("advisories.py check") && !deny.contains("warn"), "{deny}");
    assert!(dev.contains("LOCKS=\"Cargo.lock fuzz/Cargo.lock\""), "a lock file is not checked");
}

#[test]
fn what_comes_from_registries_has_a_hash_and_runs_no_script_of_its_own() {
    let dev = fs::read_to_string(format!("{ROOT}/dev")).expect("dev is readable");
    let code = || dev.lines().filter(|line| !line.trim_start().starts_with('#'));
    for line in code().filter(|line| line.contains("pip") && line.contains(" install ")) {
        assert!(line.contains("--require-hashes") && line.contains("--only-binary :all:"), "{line}");
    }
    for line in
        code().filter(|line| ["npm ci", "npm install", "npm i "].iter().any(|npm| line.contains(npm)) && line.contains('('))
    {
        assert!(line.contains("npm ci --ignore-scripts"), "{line}");
    }
    let mut tools = 0;
    for entry in fs::read_dir(format!("{ROOT}/tests/python")).expect("the lists of tools") {
        let path = entry.expect("an entry").path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".in")) else {
            continue;
        };
        let wanted = fs::read_to_string(&path).expect("the tool");
        let listed = fs::read_to_string(path.with_extension("txt")).unwrap_or_else(|_| panic!("{name} is not locked"));
        // Each one by its version, with at least one hash; what was asked for is among them.
        let pins = || listed.split("\n").filter(|line| !line.starts_with([' ', '#']) && !line.is_empty());
        for pin in pins() {
            assert!(pin.contains("==") && pin.ends_with('\\'), "{name}: {pin} has no hash");
        }
        assert_eq!(pins().count() > 0, listed.contains("--hash=sha256:"), "{name}");
        for wanted in wanted.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (tool, version) = wanted.split_once("==").unwrap_or_else(|| panic!("{name}: {wanted} names no version"));
            let tool = tool.split('[').next().unwrap_or_default();
            let is_there = pins().any(|pin| pin.starts_with(tool) && pin.contains(&format!("=={version}")));
            assert!(is_there, "{name}: {wanted} is not what is locked; run tests/python/lock");
        }
        tools += 1;
    }
    assert!(tools >= 5, "{tools}");
    let provider = fs::read_to_string(format!("{ROOT}/terraform/tests/provider.lock.hcl")).expect("the provider's lock");
    assert!(provider.contains("hashicorp/aws") && provider.contains("\"h1:"), "{provider}");
    assert!(dev.contains("provider.lock.hcl"), "the lock is not used");
}
