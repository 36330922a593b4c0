//! Finding the PostgreSQL that is installed on this machine.
//!
//! What must stay true: a directory that was made by one major version is served by that version, whatever else is newer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::place::Place;
use super::{PrivateConfig, PrivateError};

/// The oldest major version that we run; older ones lack what the migrations use.
pub(super) const OLDEST: u32 = 14;

/// `postgres --version` reads nothing; seconds are for a disk that was asleep.
const ANSWER: Duration = Duration::from_secs(5);

/// A directory with `initdb` and `postgres` of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binaries {
    pub(super) directory: PathBuf,
    pub(super) version: u32,
}

// === impl Binaries ===

impl Binaries {
    pub(super) async fn find(config: &PrivateConfig, place: &Place, cluster: Option<u32>) -> Result<Self, PrivateError> {
        let mut found = Vec::new();
        for directory in candidates(config).await {
            if directory.join("initdb").is_file()
                && let Some(version) = version_of(&directory.join("postgres")).await
            {
                let binaries = Self { directory, version };
                // The first that fits ends the search; the others are asked for only to say what there is.
                if binaries.fits(cluster) {
                    return Ok(binaries);
                }
                found.push(binaries);
            }
        }
        Err(refusal(&found, place, cluster))
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.directory.join("initdb")
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.directory.join("postgres")
    }

    fn fits(&self, cluster: Option<u32>) -> bool {
        self.version >= OLDEST && cluster.is_none_or(|cluster| cluster == self.version)
    }
}

fn refusal(found: &[Binaries], place: &Place, cluster: Option<u32>) -> PrivateError {
    let versions: BTreeSet<u32> = found.iter().map(|binaries| binaries.version).collect();
    let versions = versions.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    match cluster {
        Some(cluster) if !versions.is_empty() => {
            PrivateError::Version { directory: place.cluster(), cluster, installed: versions }
        }
        _ if versions.is_empty() => PrivateError::NoBinaries { found: String::new() },
        _ => PrivateError::NoBinaries { found: format!(": only {versions}") },
    }
}

/// Where binaries may be, best first. A directory the caller named is the only one.
async fn candidates(config: &PrivateConfig) -> Vec<PathBuf> {
    if let Some(directory) = &config.binaries {
        return vec![directory.clone()];
    }
    let path: Vec<PathBuf> = config.path.iter().flat_map(std::env::split_paths).filter(|entry| entry.is_absolute()).collect();
    let mut candidates = path.clone();
    if let Some(pg_config) = path.iter().map(|entry| entry.join("pg_config")).find(|file| file.is_file())
        && let Some(answer) = ask(&pg_config, "--bindir").await
    {
        candidates.push(PathBuf::from(answer.trim()));
    }
    // Debian and Ubuntu, Red Hat's packages from postgresql.org, Homebrew on both kinds of Mac.
    candidates.extend(newest_first(Path::new("/usr/lib/postgresql"), "", "bin"));
    candidates.extend(newest_first(Path::new("/usr"), "pgsql-", "bin"));
    candidates.extend(newest_first(Path::new("/opt/homebrew/opt"), "postgresql", "bin"));
    candidates.extend(newest_first(Path::new("/usr/local/opt"), "postgresql", "bin"));
    candidates
}

/// `<parent>/<prefix>…<number>/<child>` for every such directory, the greatest number first.
fn newest_first(parent: &Path, prefix: &str, child: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut numbered: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let rest = name.strip_prefix(prefix)?;
            // Homebrew's plain `postgresql` is an alias of one of the others.
            Some((rest.trim_start_matches('@').parse().unwrap_or(0), entry.path().join(child)))
        })
        .filter(|(number, _)| *number > 0 || !prefix.is_empty())
        .collect();
    numbered.sort_by(|left, right| right.cmp(left));
    numbered.into_iter().map(|(_, directory)| directory).collect()
}

async fn version_of(postgres: &Path) -> Option<u32> {
    if !postgres.is_file() {
        return None;
    }
    major(&ask(postgres, "--version").await?)
}

/// The major version in `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `… 18beta2` or `… 19devel`.
fn major(answer: &str) -> Option<u32> {
    let version = answer.split("(PostgreSQL)").nth(1)?.trim_start();
    let digits = version.len() - version.trim_start_matches(|digit: char| digit.is_ascii_digit()).len();
    version[..digits].parse().ok()
}

async fn ask(program: &Path, question: &str) -> Option<String> {
    let mut command = tokio::process::Command::from(Command::new(program));
    command.arg(question).kill_on_drop(true).stdin(std::process::Stdio::null());
    let output = tokio::time::timeout(ANSWER, command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 18beta2"), Some(18));
        assert_eq!(major("postgres (PostgreSQL) 9.6.24"), Some(9));
        assert_eq!(major("something else 15"), None);
    }

    #[test]
    fn a_cluster_keeps_its_major_version() {
        let binaries = |version| Binaries { directory: PathBuf::new(), version };
        assert!(binaries(16).fits(None));
        assert!(binaries(15).fits(Some(15)));
        assert!(!binaries(16).fits(Some(15)));
        assert!(!binaries(13).fits(None));
    }
}
