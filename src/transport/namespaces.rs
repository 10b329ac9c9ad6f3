//! The namespaces that a client may ask for.

use super::packets::{BEFORE_NAME, reach};

/// The namespaces there are, by path.
#[derive(Clone, Debug)]
pub struct Namespaces {
    paths: Vec<String>,
    reach: usize,
}

impl Namespaces {
    /// Those of `paths`, each with its leading slash.
    pub fn new(paths: impl IntoIterator<Item = String>) -> Self {
        let paths = Vec::from_iter(paths);
        let reach = paths.iter().map(|path| reach(path)).max();
        Self {
            reach: reach.unwrap_or_default() + BEFORE_NAME,
            paths,
        }
    }

    /// How many bytes of a packet tell which of them it is for, and whether the name of an event is a number.
    pub(super) fn reach(&self) -> usize {
        self.reach
    }

    /// The place of the namespace with this path; none if it does not exist.
    pub(super) fn index_of(&self, path: &[u8]) -> Option<usize> {
        self.paths.iter().position(|one| one.as_bytes() == path)
    }

    /// The path of the namespace in a place that [`Namespaces::index_of`] has named.
    pub(super) fn path(&self, at: usize) -> &str {
        self.paths.get(at).map_or("/", String::as_str)
    }
}
