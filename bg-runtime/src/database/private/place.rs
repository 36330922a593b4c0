//! The directories of a private server, and the account it runs as.
//!
//! What must stay true: nobody but that account and we can enter them, for the server trusts whoever reaches its socket.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::PrivateError;

/// Where everything of a private server is.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) root: PathBuf,
    pub(super) socket: PathBuf,
    // Set when we are root, as which PostgreSQL refuses to run.
    account: Option<Account>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

/// The name that PostgreSQL gives its socket on port 5432.
const SOCKET: &str = ".s.PGSQL.5432";
/// `sun_path` holds 108 bytes on Linux and 104 on macOS, the closing zero included.
const SOCKET_PATH: usize = 103;

// === impl Place ===

impl Place {
    /// Makes the directories, or proves that those that are there are ours.
    pub(super) fn prepare(data_dir: &Path) -> Result<Self, PrivateError> {
        let euid = rustix::process::geteuid().as_raw();
        let account = if euid == 0 { Some(account()?) } else { None };
        // Directories above are made as any program would; only the last one is private.
        if let Some(parent) = data_dir.parent() {
            fs::create_dir_all(parent).map_err(|source| PrivateError::File { path: parent.to_owned(), source })?;
        }
        make_private(data_dir, euid, account.as_ref())?;
        // One name for one directory, however the two colors spell it.
        let root = data_dir.canonicalize().map_err(|source| PrivateError::File { path: data_dir.to_owned(), source })?;
        if let Some(account) = &account {
            reachable(&root, account)?;
        }
        let owner = account.as_ref().map_or(euid, |account| account.uid);
        let socket = socket_dir(&root, owner);
        make_private(&socket, euid, account.as_ref())?;
        Ok(Self { root, socket, account })
    }

    pub(super) fn cluster(&self) -> PathBuf {
        self.root.join("cluster")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.root.join("postgresql.log")
    }

    pub(super) fn start_lock(&self) -> PathBuf {
        self.root.join("start.lock")
    }

    pub(super) fn users_lock(&self) -> PathBuf {
        self.root.join("users.lock")
    }

    pub(super) fn socket_file(&self) -> PathBuf {
        self.socket.join(SOCKET)
    }

    /// The first line of the file a postmaster writes and removes.
    pub(super) fn postmaster_pid(&self) -> Option<i32> {
        let file = fs::read_to_string(self.cluster().join("postmaster.pid")).ok()?;
        file.lines().next()?.trim().parse().ok().filter(|pid| *pid > 1)
    }

    /// The major version that made the cluster, or `None` when there is no cluster yet.
    pub(super) fn cluster_version(&self) -> Result<Option<u32>, PrivateError> {
        let path = self.cluster().join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(text) => text
                .trim()
                .parse()
                .map(Some)
                .map_err(|error| PrivateError::File { path, source: io::Error::new(io::ErrorKind::InvalidData, error) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PrivateError::File { path, source }),
        }
    }

    /// A command that runs as PostgreSQL should: as the account, in our directory, and without the caller's own settings.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).env("LC_ALL", "C");
        for variable in ["PGDATA", "PGPORT", "PGHOST", "PGUSER", "PGOPTIONS", "PGTZ", "PGDATESTYLE", "PG_COLOR"] {
            command.env_remove(variable);
        }
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }
}

fn socket_dir(root: &Path, owner: u32) -> PathBuf {
    let near = root.join("socket");
    if near.join(SOCKET).as_os_str().len() <= SOCKET_PATH {
        return near;
    }
    let digest = Sha256::digest(root.as_os_str().as_bytes());
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    PathBuf::from(format!("/tmp/mcp-{owner}-{name}"))
}

/// A directory that only we and the account can enter.
fn make_private(path: &Path, euid: u32, account: Option<&Account>) -> Result<(), PrivateError> {
    let unusable = |source| PrivateError::File { path: path.to_owned(), source };
    let owner = account.map_or(euid, |account| account.uid);
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            if let Some(account) = account {
                chown(path, Some(account.uid), Some(account.gid)).map_err(unusable)?;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(unusable(source)),
    }
    // Not following a link: in /tmp anybody could have laid one.
    let found = fs::symlink_metadata(path).map_err(unusable)?;
    let ours = found.uid() == owner || found.uid() == euid;
    if !found.is_dir() || !ours {
        return Err(PrivateError::Foreign { path: path.to_owned() });
    }
    // The caller may have made the data directory itself, as a temporary one or a volume. One that is full of other things is
    // not for us to take from its owner, were it /var/lib by a slip of the pen.
    let to_change = found.uid() != owner || found.mode() & 0o077 != 0;
    if to_change && !is_empty_or_ours(path).map_err(unusable)? {
        let reason = "it holds other files and is open to others; name a directory of its own";
        return Err(unusable(io::Error::new(io::ErrorKind::DirectoryNotEmpty, reason)));
    }
    if found.uid() != owner {
        let account = account.expect("an owner other than us is the account");
        chown(path, Some(account.uid), Some(account.gid)).map_err(unusable)?;
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(unusable)?;
    }
    Ok(())
}

fn is_empty_or_ours(path: &Path) -> io::Result<bool> {
    let ours = ["cluster", "start.lock"].iter().any(|name| path.join(name).exists());
    Ok(ours || fs::read_dir(path)?.next().is_none())
}

/// Whether the account may pass through every directory above `root`.
fn reachable(root: &Path, account: &Account) -> Result<(), PrivateError> {
    for directory in root.ancestors().skip(1) {
        let found = fs::metadata(directory).map_err(|source| PrivateError::File { path: directory.to_owned(), source })?;
        let bit = if found.uid() == account.uid {
            0o100
        } else if found.gid() == account.gid {
            0o010
        } else {
            0o001
        };
        if found.mode() & bit == 0 {
            return Err(PrivateError::Unreachable { path: directory.to_owned(), account: account.name.clone() });
        }
    }
    Ok(())
}

fn account() -> Result<Account, PrivateError> {
    let path = PathBuf::from("/etc/passwd");
    let table = fs::read_to_string(&path).map_err(|source| PrivateError::File { path, source })?;
    account_in(&table).ok_or(PrivateError::NoAccount)
}

fn account_in(table: &str) -> Option<Account> {
    ["postgres", "nobody"].into_iter().find_map(|wanted| {
        table.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| *name == wanted)?;
            let uid = fields.nth(1)?.parse().ok().filter(|uid| *uid != 0)?;
            Some(Account { name: name.to_owned(), uid, gid: fields.next()?.parse().ok()? })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_is_postgres_before_nobody() {
        let nobody = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533:nobody:/:/bin/false\n";
        let postgres = "postgres:x:101:104:PostgreSQL:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(account_in(nobody), Some(Account { name: "nobody".to_owned(), uid: 65534, gid: 65533 }));
        assert_eq!(account_in(&format!("{nobody}{postgres}")).unwrap().uid, 101);
        assert_eq!(account_in("postgres:x:0:0::/:/bin/sh\n"), None);
    }

    #[test]
    fn a_socket_that_would_be_too_long_moves_to_a_short_directory() {
        assert_eq!(socket_dir(Path::new("/srv/data"), 7), PathBuf::from("/srv/data/socket"));
        let long = PathBuf::from(format!("/{}", "x".repeat(100)));
        let short = socket_dir(&long, 7);
        assert!(short.starts_with("/tmp") && short.join(SOCKET).as_os_str().len() <= SOCKET_PATH);
        assert_eq!(short, socket_dir(&long, 7));
        assert_ne!(short, socket_dir(&long.join("y"), 7));
    }

    #[test]
    fn a_directory_full_of_other_things_is_left_alone() {
        let path = std::env::temp_dir().join(format!("full-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        fs::write(path.join("letter.txt"), "").unwrap();
        let refused = make_private(&path, rustix::process::geteuid().as_raw(), None);
        let mode = fs::metadata(&path).unwrap().mode() & 0o777;
        fs::remove_dir_all(&path).unwrap();
        assert!(matches!(refused, Err(PrivateError::File { .. })), "{refused:?}");
        assert_eq!(mode, 0o755);
    }

    #[test]
    fn somebody_elses_socket_directory_is_refused() {
        let path = std::env::temp_dir().join(format!("foreign-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let stranger = rustix::process::geteuid().as_raw() + 12_345;
        let refused = make_private(&path, stranger, None);
        fs::remove_dir(&path).unwrap();
        assert!(matches!(refused, Err(PrivateError::Foreign { .. })), "{refused:?}");
    }
}
