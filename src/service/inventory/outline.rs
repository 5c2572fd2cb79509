//! What the daemon itself asks of every VM, kept beside its JSON: enough to find, filter, order and
//! judge VMs without reading a text. Everything else of a VM stands in its JSON alone, because a
//! thousand VMs with all their strings are several MiB, and what is read seldom is read quickly
//! enough ([`VmRecord::whole`](super::VmRecord::whole), some microseconds).

use jiff::Timestamp;
use serde::ser::{Serialize, SerializeMap, Serializer};
use uuid::Uuid;

use crate::model::{Vm, VmState};

/// One VM in outline; the fields are those of [`Vm`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outline {
    pub uuid: Uuid,
    pub name: String,
    pub state: VmState,
    /// Memory the guest has, MiB.
    pub memory: u64,
    pub vcpus: u32,
    pub persistent: bool,
    pub has_saved_state: bool,
    /// Whether something differs between the running VM and its next boot.
    pub has_pending: bool,
    /// Whether libvirt was away when this was made.
    pub is_stale: bool,
    pub snapshot_count: u32,
    pub labels: Labels,
    pub created_at: Option<Timestamp>,
    pub updated_at: Option<Timestamp>,
    pub generation: u64,
}

impl Outline {
    pub fn of(vm: &Vm) -> Self {
        Outline {
            uuid: vm.uuid,
            name: vm.name.clone(),
            state: vm.state,
            memory: vm.memory,
            vcpus: vm.vcpus,
            persistent: vm.persistent,
            has_saved_state: vm.has_saved_state,
            has_pending: vm.pending.is_some(),
            is_stale: vm.stale.is_some(),
            snapshot_count: vm.snapshot_count,
            labels: vm.labels.iter().collect(),
            created_at: vm.created_at,
            updated_at: vm.updated_at,
            generation: vm.generation,
        }
    }
}

/// Labels in one piece of text, keys and values ended by NUL, which XML cannot hold: a map takes
/// half a KiB for the first label already.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Labels(Box<str>);

impl Labels {
    /// Keys and values, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut words = self.0.split_terminator('\0');
        std::iter::from_fn(move || Some((words.next()?, words.next()?)))
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find_map(|(known, value)| (known == key).then_some(value))
    }

    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }
}

impl<'a> FromIterator<(&'a String, &'a String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (&'a String, &'a String)>>(labels: I) -> Self {
        let mut text = String::new();
        for (key, value) in labels {
            for word in [key, value] {
                text.push_str(word);
                text.push('\0');
            }
        }
        Labels(text.into_boxed_str())
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in self.iter() {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl std::fmt::Debug for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn labels_are_found_and_written_as_in_a_map(
            map in proptest::collection::btree_map("[a-c ]{0,3}", "[^\\x00]{0,9}", 0..6),
        ) {
            let map: BTreeMap<String, String> = map;
            let labels: Labels = map.iter().collect();
            for key in ["", "a", "b", "abc", "none"] {
                prop_assert_eq!(labels.get(key), map.get(key).map(String::as_str));
                prop_assert_eq!(labels.contains_key(key), map.contains_key(key));
            }
            prop_assert_eq!(serde_json::to_value(&labels).unwrap(), serde_json::to_value(&map).unwrap());
        }
    }
}
