//! The secret of a listener for operators, in a file that only its owner reads: `rollout` commands read it by themselves, and whoever
//! may read the file is an operator.
//!
//! What must stay true: the file never has permissions for a group or for others, and the secret goes into no message.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use axum::http::{HeaderMap, header};
use bg_runtime::Secret;
use uuid::Uuid;

/// Where the secret of a front door is, from where its routing is: `front.json` has `front.secret` beside it.
pub(crate) fn beside(routing: &Path) -> PathBuf {
    routing.with_extension("secret")
}

/// Reads the secret in a file, or writes a new one if there is no file.
///
/// # Errors
/// When the file cannot be read or written, or when others than its owner may read it.
pub fn keep(path: &Path) -> io::Result<Secret> {
    let mut options = OpenOptions::new();
    // Two version 4 UUIDs are 244 random bits from the system's generator.
    let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    match options.write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            file.write_all(secret.as_bytes())?;
            file.sync_all()?;
            Ok(Secret::new(secret))
        }
        Err(there) if there.kind() == io::ErrorKind::AlreadyExists => read(path),
        Err(failure) => Err(failure),
    }
}

/// Reads the secret in a file.
///
/// # Errors
/// When there is no file, when it is empty, or when others than its owner may read it.
pub fn read(path: &Path) -> io::Result<Secret> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        let path = path.display();
        return Err(io::Error::other(format!("{path} holds a secret and others than its owner may read it: chmod 600 {path}")));
    }
    let text = fs::read_to_string(path)?;
    let secret = text.trim();
    // A process that ended between creating the file and writing it leaves an empty one.
    if secret.is_empty() {
        return Err(io::Error::other(format!("{} is empty: delete it, and start again what listens", path.display())));
    }
    Ok(Secret::new(secret.to_owned()))
}

/// Whether a request brings the secret, as `Authorization: Bearer SECRET`. Compared in constant time.
pub(crate) fn allows(headers: &HeaderMap, secret: &Secret) -> bool {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let Some((scheme, given)) = value.to_str().ok().and_then(|value| value.split_once(' ')) else { return false };
    scheme.eq_ignore_ascii_case("bearer") && Secret::from(given) == *secret
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("operator-secret-{}", Uuid::new_v4()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_secret_is_made_once_and_read_by_its_owner_alone() {
        let folder = folder();
        let path = folder.join("front.secret");
        let first = keep(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(first.expose().len() >= 64 && keep(&path).unwrap() == first && read(&path).unwrap() == first);
        assert!(keep(&folder.join("another.secret")).unwrap() != first);
        for mode in [0o644, 0o640, 0o604, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = keep(&path).unwrap_err().to_string();
            assert!(refused.contains("chmod 600") && !refused.contains(first.expose()), "{mode:o}: {refused}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "").unwrap();
        assert!(keep(&path).unwrap_err().to_string().contains("is empty"), "an empty secret lets everybody in");
        assert_eq!(read(&folder.join("nowhere")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_secret_comes_once_and_whole() {
        let secret = Secret::from("3f1c");
        let headers = |values: &[&str]| -> HeaderMap {
            values.iter().map(|value| (header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
        };
        for allowed in ["Bearer 3f1c", "bearer 3f1c"] {
            assert!(allows(&headers(&[allowed]), &secret), "{allowed}");
        }
        for refused in [
            &[][..],
            &[""],
            &["Bearer"],
            &["Bearer "],
            &["Bearer 3f1"],
            &["Bearer 3f1cc"],
            &["Basic 3f1c"],
            &["3f1c"],
            &["Bearer 3f1c", "Bearer 3f1c"],
        ] {
            assert!(!allows(&headers(refused), &secret), "{refused:?}");
        }
    }
}
