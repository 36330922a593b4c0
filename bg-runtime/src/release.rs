//! What this process is: a color, a version, a commit. It never changes while the process lives, and it is on everything
//! the process says: headers, logs, metrics, traces, rows.

use std::{fmt, sync::Arc};

use serde::Serialize;

use crate::Color;

/// One build in one slot. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Release {
    /// The slot.
    pub color: Color,
    /// What people call the build, such as `2.2.0`.
    pub version: Arc<str>,
    /// What the build is: a commit or a digest. Two builds of one version differ here.
    pub commit: Arc<str>,
}

/// A release that cannot be written into a header.
#[derive(Debug, thiserror::Error)]
#[error("release {field} `{value}` may hold only visible ASCII without spaces, 1 to 128 characters")]
pub struct InvalidRelease {
    field: &'static str,
    value: String,
}

impl Release {
    /// Names a release.
    ///
    /// # Errors
    /// When the version or the commit is empty, longer than 128 characters, or would not survive as a header value.
    pub fn new(color: Color, version: &str, commit: &str) -> Result<Self, InvalidRelease> {
        for (field, value) in [("version", version), ("commit", commit)] {
            if value.is_empty() || value.len() > 128 || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(InvalidRelease { field, value: value.to_owned() });
            }
        }
        Ok(Self { color, version: version.into(), commit: commit.into() })
    }

    /// The build alone, `2.2.0+8f3a1c`: what runs here, whichever slot it runs in.
    pub fn build(&self) -> String {
        format!("{}+{}", self.version, self.commit)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}+{}", self.color, self.version, self.commit)
    }
}

impl fmt::Debug for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_reads_in_one_line() {
        let release = Release::new(Color::Green, "2.2.0", "8f3a1c").unwrap();
        assert_eq!(release.to_string(), "green/2.2.0+8f3a1c");
        assert_eq!(release.build(), "2.2.0+8f3a1c");
    }

    #[test]
    fn a_release_that_would_break_a_header_is_refused() {
        for bad in ["", "a b", "a\r\nx-evil: 1", "é", &"9".repeat(129)] {
            assert!(Release::new(Color::Blue, bad, "c").is_err(), "{bad:?}");
            assert!(Release::new(Color::Blue, "1", bad).is_err(), "{bad:?}");
        }
    }
}
