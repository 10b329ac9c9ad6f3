//! Which server has which slots, as far as is known.

use std::{cmp::Reverse, collections::BTreeSet, fmt, ops::RangeInclusive};

use super::Slot;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Name or number.
    pub host: String,
    /// Of TCP.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The servers that take writes, each with its slots. A Redis that is no cluster is one server with all slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    /// In the order of the slots; none twice.
    ranges: Vec<(RangeInclusive<u16>, Address)>,
}

impl Map {
    /// All slots on one server.
    pub(crate) fn of_one(server: Address) -> Self {
        Self {
            ranges: vec![(0..=Slot::COUNT - 1, server)],
        }
    }

    /// Of claims that don't overlap, in the order of the slots.
    pub(super) fn of(agreed: &[Claim]) -> Self {
        let ranges = agreed.iter().flat_map(|Claim { server, slots, .. }| {
            slots.iter().map(|range| (range.clone(), server.clone()))
        });
        Self {
            ranges: ranges.collect(),
        }
    }

    /// The server that has a slot; none if that is not known.
    pub fn at(&self, slot: Slot) -> Option<&Address> {
        let after = self
            .ranges
            .partition_point(|(range, _)| *range.end() < slot.number());
        let (range, server) = self.ranges.get(after)?;
        range.contains(&slot.number()).then_some(server)
    }

    /// All servers.
    pub fn servers(&self) -> BTreeSet<&Address> {
        self.ranges.iter().map(|(_, server)| server).collect()
    }

    /// Whether every slot has a server.
    pub fn is_whole(&self) -> bool {
        let covered: usize = self.ranges.iter().map(|(range, _)| range.len()).sum();
        covered == usize::from(Slot::COUNT)
    }
}

/// What a sentinel, or a server of a cluster, says of one master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) server: Address,
    /// Which of two claims to a slot is the newer one.
    epoch: u64,
    slots: Vec<RangeInclusive<u16>>,
}

impl Claim {
    /// A sentinel's: to all slots.
    pub(super) fn to_all(server: Address, epoch: u64) -> Self {
        Self {
            server,
            epoch,
            slots: vec![0..=Slot::COUNT - 1],
        }
    }

    /// Returns true if server and epoch are the same.
    fn is_like(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.server == other.server
    }
}

/// Reads `CLUSTER NODES` as answered by `asked`; what is no master with slots, and has no address, is left out. With
/// `by_name`, servers that announce a name are known by it, for their certificates to be checked against.
pub(super) fn claims(text: &str, asked: &Address, by_name: bool) -> Vec<Claim> {
    text.lines()
        .filter_map(|line| claim(line, asked, by_name))
        .collect()
}

fn claim(line: &str, asked: &Address, by_name: bool) -> Option<Claim> {
    // <id> <ip:port@cport[,hostname[,…]]> <flags> <master> <ping> <pong> <epoch> <link> <slot>…
    let mut fields = line.split(' ');
    let endpoint = fields.nth(1)?;
    let flags = fields.next()?;
    if !flags.split(',').any(|flag| flag == "master") || flags.contains("noaddr") {
        return None;
    }
    let epoch = fields.nth(3)?.parse().ok()?;
    let slots: Vec<_> = fields.skip(1).filter_map(range).collect();
    if slots.is_empty() {
        return None;
    }
    let mut names = endpoint.split(',');
    let (ip, port) = names.next()?.split('@').next()?.rsplit_once(':')?;
    let name = names
        .next()
        .filter(|name| by_name && !name.is_empty() && !name.contains('='));
    let host = match name.unwrap_or(ip) {
        // A server that has met no other does not know its own address.
        "" => &asked.host,
        host => host,
    };
    Some(Claim {
        server: Address {
            host: host.to_owned(),
            port: port.parse().ok()?,
        },
        epoch,
        slots,
    })
}

/// Reads `5`, or `0-5460`. Slots in brackets are on their way, and listed once more as long as this server has them.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < Slot::COUNT).then_some(first..=last)
}

/// Finds for each slot the claim of the highest epoch, so that a server that was cut off, or slept, and still thinks itself a master
/// does not count. In the order of the slots, none twice, each range a claim of its own.
///
/// Of two servers with one epoch, which are a fault in the setup, the first by address counts, and not the first to answer: the map
/// does not change back and forth.
pub(super) fn agree<'a>(claims: impl IntoIterator<Item = &'a Claim>) -> Vec<Claim> {
    let mut owners: Vec<Option<&Claim>> = vec![None; usize::from(Slot::COUNT)];
    let rank = |claim: &'a Claim| (claim.epoch, Reverse(&claim.server));
    for claim in claims {
        for slot in claim.slots.iter().cloned().flatten() {
            let owner = &mut owners[usize::from(slot)];
            if owner.is_none_or(|owner| rank(owner) < rank(claim)) {
                *owner = Some(claim);
            }
        }
    }
    let mut agreed: Vec<(RangeInclusive<u16>, &Claim)> = Vec::new();
    for (slot, owner) in (0..).zip(owners) {
        let Some(claim) = owner else {
            continue;
        };
        match agreed.last_mut() {
            Some((range, last)) if last.is_like(claim) && *range.end() + 1 == slot => {
                *range = *range.start()..=slot;
            }
            _ => agreed.push((slot..=slot, claim)),
        }
    }
    let claims = agreed.into_iter().map(|(range, claim)| Claim {
        server: claim.server.clone(),
        epoch: claim.epoch,
        slots: vec![range],
    });
    claims.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const NODES: &str = "\
07c3 127.0.0.1:30004@31004,hostname4 slave e7d1 0 1426238317239 4 connected
67ed 127.0.0.1:30002@31002,two.example,shard-id=69bc master - 0 1426238316232 2 connected 5461-10922
292f 127.0.0.1:30003@31003 master,fail - 0 1426238318243 3 disconnected 10923-16383 [10923->-67ed]
e7d1 :30001@31001 myself,master - 0 0 1 connected 0-5000 5001 5002-5460
a1b2 :0@0 master,noaddr - 0 0 9 disconnected 7
";

    fn asked() -> Address {
        address("10.0.0.1", 1)
    }

    fn address(host: &str, port: u16) -> Address {
        Address {
            host: host.into(),
            port,
        }
    }

    #[test]
    fn cluster_nodes_are_read() {
        let map = Map::of(&agree(&claims(NODES, &asked(), false)));
        assert!(map.is_whole());
        assert_eq!(map.ranges.len(), 3);
        assert_eq!(map.at(Slot::of(b"")).unwrap(), &address("10.0.0.1", 30001));
        assert_eq!(
            map.at(Slot::of(b"foo")).unwrap(),
            &address("127.0.0.1", 30003)
        );
        let named = Map::of(&agree(&claims(NODES, &asked(), true)));
        assert!(named.servers().contains(&address("two.example", 30002)));
        assert!(named.servers().contains(&address("127.0.0.1", 30003)));
    }

    #[test]
    fn the_newer_claim_counts_whoever_answers_first() {
        let old = "a 1.1.1.1:1@2 myself,master - 0 0 3 connected 0-16383";
        let new = "b 2.2.2.2:1@2 master - 0 0 7 connected 10-20";
        for both in [[old, new], [new, old]] {
            let map = Map::of(&agree(&claims(&both.join("\n"), &asked(), false)));
            assert!(map.is_whole());
            assert_eq!(map.ranges.len(), 3);
            assert_eq!(map.ranges[1], (10..=20, address("2.2.2.2", 1)));
        }
    }

    #[test]
    fn a_slot_without_server_is_told() {
        let map = Map::of(&agree(&claims(
            "a 1.1.1.1:1@2 master - 0 0 3 connected 1-9",
            &asked(),
            false,
        )));
        assert!(!map.is_whole());
        assert_eq!(map.at(Slot::of(b"")), None);
        assert_eq!(map.at(Slot::of(b"foo")), None);
        assert_eq!(Map::default().servers().len(), 0);
        for garbage in [
            "",
            "x",
            "a b c d e f g h",
            "a :@ master - 0 0 3 connected 9-1 99999",
        ] {
            assert_eq!(claims(garbage, &asked(), false), [], "{garbage}");
        }
    }
}
