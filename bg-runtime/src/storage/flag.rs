//! Feature flags: what is switched off, or on for a share of principals, without a deploy. They stand beside the phases and
//! reach the replicas the same way.
//!
//! What must stay true: a flag that nobody set lets everybody in, and raising a share keeps in whoever was in.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

/// All flags that were set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    percents: HashMap<String, u8>,
}

// === impl Flags ===

impl Flags {
    pub(super) fn new(percents: HashMap<String, u8>) -> Self {
        Self { percents }
    }

    /// The share of principals a flag lets in, in percent. `None` when nobody set it.
    #[must_use]
    pub fn percent(&self, flag: &str) -> Option<u8> {
        self.percents.get(flag).copied()
    }

    /// Whether a flag lets this principal in. Which ones a share lets in differs from flag to flag, and stays.
    #[must_use]
    pub fn allows(&self, flag: &str, principal: &str) -> bool {
        // Nearly always there is none at all.
        if self.percents.is_empty() {
            return true;
        }
        match self.percent(flag) {
            None | Some(100..) => true,
            Some(0) => false,
            Some(percent) => place(flag, principal) < percent,
        }
    }
}

/// A principal's place from 0 to 99, the same on every replica and in every release.
fn place(flag: &str, principal: &str) -> u8 {
    let digest = Sha256::new().chain_update(flag).chain_update([0]).chain_update(principal).finalize();
    let number = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    u8::try_from(number % 100).expect("a remainder of 100 is small")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(percent: u8) -> Flags {
        Flags::new(HashMap::from([("tool.book".to_owned(), percent)]))
    }

    #[test]
    fn a_share_grows_and_never_swaps() {
        let principals: Vec<_> = (0..10_000).map(|number| format!("principal {number}")).collect();
        let inside = |percent| {
            let flags = flags(percent);
            principals.iter().filter(move |principal| flags.allows("tool.book", principal)).collect::<Vec<_>>()
        };
        let (tenth, half) = (inside(10), inside(50));
        assert!((900..1100).contains(&tenth.len()) && (4800..5200).contains(&half.len()), "{} {}", tenth.len(), half.len());
        assert!(tenth.iter().all(|principal| half.contains(principal)));
        assert_eq!((inside(0).len(), inside(100).len()), (0, 10_000));
    }

    #[test]
    fn what_nobody_set_is_on() {
        assert!(Flags::default().allows("tool.book", "ada"));
        assert!(flags(0).allows("tool.search", "ada"));
        assert!(!flags(0).allows("tool.book", "ada"));
    }
}
