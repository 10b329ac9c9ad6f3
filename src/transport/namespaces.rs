//! The namespaces that a client may ask for. A CONNECT packet for any other is answered by socketioxide, which tells nobody.

use super::parted::{namespace_of, reach};

/// The namespaces there are.
#[derive(Clone, Debug)]
pub struct Namespaces {
    paths: Vec<String>,
    reach: usize,
}

impl Namespaces {
    /// Of these paths.
    pub fn new(paths: impl IntoIterator<Item = String>) -> Self {
        let paths = Vec::from_iter(paths);
        let reach = paths.iter().map(|path| reach(path)).max();
        Self {
            reach: reach.unwrap_or_default(),
            paths,
        }
    }

    /// How many bytes of a packet tell whether it is a CONNECT packet of one of them.
    pub(super) fn reach(&self) -> usize {
        self.reach
    }

    /// Whether a packet, of which these are the first [`Namespaces::reach`] bytes, asks for a namespace that is not there.
    pub(super) fn lack(&self, packet: &[u8]) -> bool {
        namespace_of(packet)
            .is_some_and(|wanted| !self.paths.iter().any(|path| path.as_bytes() == wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_connect_packet_of_a_namespace_that_is_not_there_is_told() {
        let namespaces = Namespaces::new(["/", "/public"].map(str::to_owned));
        let lack = |packet: &str| {
            let reach = namespaces.reach().min(packet.len());
            namespaces.lack(&packet.as_bytes()[..reach])
        };
        for packet in [
            "40",
            "40{\"token\":\"x\"}",
            "40/public",
            "40/public,",
            "40/public,{}",
            "42/nowhere,[]",
            "41/nowhere,",
            "2",
            "",
        ] {
            assert!(!lack(packet), "{packet}");
        }
        for packet in ["40/nowhere,", "40/publi,", "40/public2", "40/publicity,{}"] {
            assert!(lack(packet), "{packet}");
        }
    }

    #[test]
    fn without_a_root_a_packet_that_names_nothing_is_told() {
        assert!(Namespaces::new(["/a".to_owned()]).lack(b"40"));
    }
}
