//! A control group that may use so much memory, and a server in it. The kernel ends a process that uses more, as it does in a
//! container.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

/// A group of processes with a limit of memory. It is removed with the value, once its processes have ended.
#[derive(Debug)]
pub struct MemoryGroup {
    directory: PathBuf,
    files: &'static Files,
}

/// What the files of a group are called.
#[derive(Debug)]
struct Files {
    limit: &'static str,
    peak: &'static str,
    /// Has a line `oom_kill COUNT`.
    events: &'static str,
}

const V2: Files = Files { limit: "memory.max", peak: "memory.peak", events: "memory.events" };
const V1: Files = Files { limit: "memory.limit_in_bytes", peak: "memory.max_usage_in_bytes", events: "memory.oom_control" };

const HIERARCHIES: [(&str, &Files); 2] = [("/sys/fs/cgroup", &V2), ("/sys/fs/cgroup/memory", &V1)];

static NEXT: AtomicUsize = AtomicUsize::new(0);

// === impl MemoryGroup ===

impl MemoryGroup {
    /// A new one with this limit, in bytes.
    pub fn new(limit: u64) -> Self {
        let name = format!("mcp-e2e-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut failures = Vec::new();
        for (hierarchy, files) in HIERARCHIES {
            match make(&Path::new(hierarchy).join(&name), files, limit) {
                Ok(group) => return group,
                Err(failure) => failures.push(format!("{hierarchy}: {failure}")),
            }
        }
        panic!(
            "this test limits the memory of a server with a control group, and none can be made ({}). Run it as root, or in a \
             container whose /sys/fs/cgroup can be written (`--privileged --cgroupns=private`)",
            failures.join("; ")
        );
    }

    /// The file that takes the number of a process which is to belong to the group.
    pub fn processes(&self) -> PathBuf {
        self.directory.join("cgroup.procs")
    }

    /// The most bytes that it has used.
    pub fn peak(&self) -> u64 {
        fs::read_to_string(self.directory.join(self.files.peak)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// How many of its processes the kernel has ended for want of memory.
    pub fn kills(&self) -> u64 {
        let events = fs::read_to_string(self.directory.join(self.files.events)).expect("a group has a file of events");
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.expect("it counts kills").trim().parse().expect("a count is a number")
    }
}

fn make(directory: &Path, files: &'static Files, limit: u64) -> std::io::Result<MemoryGroup> {
    let parent = directory.parent().unwrap_or(directory);
    // Where the other version is mounted, this is a directory like any other.
    if !parent.join("cgroup.procs").exists() {
        return Err(std::io::Error::other("it is not mounted"));
    }
    // Version 2 gives its children only what is switched on for them.
    let control = parent.join("cgroup.subtree_control");
    if control.exists() {
        fs::write(control, "+memory")?;
    }
    fs::create_dir(directory)?;
    let group = MemoryGroup { directory: directory.to_owned(), files };
    fs::write(directory.join(files.limit), limit.to_string())?;
    // Without swap, as in a container of Kubernetes; where it is not counted, there is none.
    for (file, value) in [("memory.swap.max", "0"), ("memory.memsw.limit_in_bytes", &*limit.to_string())] {
        let _ = fs::write(directory.join(file), value);
    }
    Ok(group)
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let begun = Instant::now();
        // Its processes may still be ending.
        while fs::remove_dir(&self.directory).is_err() && self.directory.exists() && begun.elapsed() < Duration::from_secs(2) {
            std::thread::yield_now();
        }
    }
}
