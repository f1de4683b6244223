//! A directory of the faulty disk: the names in use, those that are synced, and the changes between the two.

use std::collections::BTreeMap;

#[derive(Debug)]
pub(super) enum NameChange {
    Link(String, u64),
    Unlink(String),
    Rename(String, String, u64),
}

#[derive(Debug, Default)]
pub(super) struct Directory {
    /// Whether the directory's own name is synced in its parent.
    pub(super) linked: bool,
    pub(super) current: BTreeMap<String, u64>,
    pub(super) durable: BTreeMap<String, u64>,
    pub(super) pending: Vec<NameChange>,
}

pub(super) fn apply_name_change(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    match change {
        NameChange::Link(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        NameChange::Unlink(name) => {
            names.remove(name);
        }
        NameChange::Rename(from, to, inode) => {
            names.remove(from);
            names.insert(to.clone(), *inode);
        }
    }
}
