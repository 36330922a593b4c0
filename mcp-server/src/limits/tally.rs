//! How many there are of each. Whoever has none is not known, so that no number of names that come and go takes room.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

/// A count for each key.
#[derive(Debug)]
pub(crate) struct Tally<K>(HashMap<K, usize>);

// === impl Tally ===

impl<K: Eq + Hash> Tally<K> {
    /// One more.
    pub(crate) fn add(&mut self, key: K) {
        *self.0.entry(key).or_default() += 1;
    }

    /// One less, where there is one.
    pub(crate) fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        let Some(count) = self.0.get_mut(key) else { return };
        *count -= 1;
        if *count == 0 {
            self.0.remove(key);
        }
    }

    /// How many there are.
    pub(crate) fn of<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.0.get(key).copied().unwrap_or_default()
    }

    /// How many have any.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> FromIterator<K> for Tally<K> {
    fn from_iter<I: IntoIterator<Item = K>>(keys: I) -> Self {
        let mut tally = Self::default();
        keys.into_iter().for_each(|key| tally.add(key));
        tally
    }
}
