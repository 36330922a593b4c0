//! How much memory this process may use: what its control group allows, or else what the machine has. Limits that nobody set
//! follow from it, so that a small container does not promise more than it can hold.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What is assumed where the system does not say: less than any machine has that runs this.
const UNKNOWN: u64 = 1 << 30;

/// Returns the bytes that this process may use.
pub(crate) fn available() -> u64 {
    within(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
}

/// The same of these directories.
fn within(proc: &Path, groups: &Path) -> u64 {
    let of_machine = fs::read_to_string(proc.join("meminfo")).ok().and_then(|text| total(&text)).unwrap_or(UNKNOWN);
    let memberships = fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    memberships.lines().filter_map(|line| limit(line, groups)).fold(of_machine, u64::min)
}

/// The limit of the group that a line of /proc/self/cgroup names, `HIERARCHY:CONTROLLERS:PATH`, or of one above it.
fn limit(line: &str, groups: &Path) -> Option<u64> {
    let mut fields = line.splitn(3, ':');
    let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let (root, file) = if controllers.split(',').any(|controller| controller == "memory") {
        (groups.join("memory"), "memory.limit_in_bytes")
    } else if hierarchy == "0" && controllers.is_empty() {
        (groups.to_owned(), "memory.max")
    } else {
        return None;
    };
    // Inside a container the path may be the host's, while what is mounted begins at the container's own group.
    let group: PathBuf = root.join(path.trim_start_matches('/'));
    let above = group.ancestors().take_while(|directory| directory.starts_with(&root));
    // `max` is no number, and no limit.
    above.filter_map(|directory| fs::read_to_string(directory.join(file)).ok()?.trim().parse().ok()).min()
}

/// `MemTotal` of /proc/meminfo, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A machine of 8 GiB with these files.
    fn machine(name: &str, memberships: &str, files: &[(&str, &str)]) -> u64 {
        let root = std::env::temp_dir().join(format!("memory-{}-{name}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/meminfo", "MemTotal:        8388608 kB\nMemFree:         1000 kB\n");
        write("proc/self/cgroup", memberships);
        files.iter().for_each(|(path, text)| write(path, text));
        let available = within(&root.join("proc"), &root.join("groups"));
        fs::remove_dir_all(root).unwrap();
        available
    }

    #[test]
    fn the_smallest_limit_above_a_process_counts_in_both_versions_of_control_groups() {
        let (v2, v1) = ("0::/pods/one\n", "12:cpu:/\n4:memory:/pods/one\n0::/\n");
        let of = [
            machine("none", v2, &[]),
            machine("max", v2, &[("groups/pods/one/memory.max", "max\n")]),
            machine("v2", v2, &[("groups/pods/one/memory.max", "268435456\n"), ("groups/pods/memory.max", "max\n")]),
            machine("above", v2, &[("groups/pods/one/memory.max", "max\n"), ("groups/pods/memory.max", "536870912\n")]),
            machine("v1", v1, &[("groups/memory/pods/one/memory.limit_in_bytes", "268435456\n")]),
            machine("no limit", v1, &[("groups/memory/pods/one/memory.limit_in_bytes", "9223372036854771712\n")]),
            machine("container", v1, &[("groups/memory/memory.limit_in_bytes", "134217728\n")]),
            machine("namespace", "0::/\n", &[("groups/memory.max", "134217728\n")]),
            machine("nonsense", "0::\nnonsense\n4:memory", &[]),
        ];
        assert_eq!(of.map(|bytes| bytes / MIB), [8192, 8192, 256, 512, 256, 8192, 128, 128, 8192]);
    }
}
