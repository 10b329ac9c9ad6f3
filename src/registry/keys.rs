//! Every Redis key and channel, named in one place. Nothing else formats one.
//!
//! | name | what |
//! |---|---|
//! | `P:2:{sX}:conns` | ZSET, all scores 0: the entries of a shard in the order of their users |
//! | `P:2:{sX}:n:<lease>` | HASH id → user: the entries of a shard that belong to a lease |
//! | `P:2:{sX}:moved` | HASH id → user: those of the entries whose ids do not say which node has them |
//! | `P:2:{sX}:users` | STRING: how many users have an entry in the shard |
//! | `P:2:{sX}:generation` | STRING: a random name, another one whenever the shard has lost its data |
//! | `P:2:{sX}:in:<generation>` | SET: the leases all of whose entries are in the shard |
//! | `P:2:{sX}:seen:<user>` | STRING: when a user's last connection ended, in ms; expires |
//! | `P:2:{sX}:kick:<user>` | LIST: orders to end all of a user's connections up to a time; expires |
//! | `P:2:{sX}:end:<id>` | STRING: the order to end one connection; expires |
//! | `P:2:{sX}:ban:<user>` | STRING: a ban; expires with it |
//! | `P:2:{sX}:revoked:<user>` | STRING: grants issued before this, in ms, are refused; expires |
//! | `P:2:{sX}:jti:<digest>` | STRING: a token that is revoked, in all shards; expires |
//! | `P:2:{sX}:ahead:<digest>` | STRING: when a token was first seen that says it is of the future, in ms; expires |
//! | `P:2:{sX}:over:<user>\0<digest>` | STRING: a session that has ended; expires |
//! | `P:2:{sX}:rate:<user>` | STRING: how many newcomers a user has had in the last seconds; expires |
//! | `P:2:{sX}:family:<id>` | HASH: a refresh family; expires |
//! | `P:2:{sX}:call:<digest>` | HASH: a call of the API with an `Idempotency-Key`; expires |
//! | `P:2:{sX}:members` | ZSET, all scores 0: who is in the rooms of a shard, in the order of rooms, then of users |
//! | `P:2:{sX}:rooms` | ZSET, all scores 0: the rooms of a shard that somebody is in |
//! | `P:2:{sX}:holders:<room>` | HASH lease → how many members of a room it has; and of the empty text → how many users |
//! | `P:2:{sX}:m:<lease>` | HASH room and id → user: the members in a shard that belong to a lease |
//! | `P:2:{sX}:lasting:<user>` | HASH room → until when, in ms: the rooms that a user is to be in |
//! | `P:2:{sX}:keeping:<user>` | HASH room → a random name: the rooms that a user is being put into; expires |
//! | `P:2:{sX}:kept:<room>` | HASH user → such a name: the users that may have a lasting membership in a room |
//! | `P:2:{sX}:outbox:<backend>` | STREAM: the notifications of a shard for a backend that are not delivered; expires |
//! | `P:2:{sX}:leaving` | ZSET user → when the user counts as offline, in ms |
//! | `P:2:{sX}:deliverer` | STRING: the run of the node that delivers the notifications of a shard; expires |
//! | `P:2:{sX}:carried` | STRING: what the first layout held against the users of a shard has been carried over |
//! | `P:2:{nodesY}:leases` | HASH lease → when it runs out, last heartbeat, report; and the schema; one copy, or three in a cluster |
//! | `P:2:{sX}:bus:<instance>` | shard channel of one node, for what concerns that shard |
//! | `P:2:{nodes}:bus:all` | shard channel of all nodes |
//!
//! `P` is `registry.prefix`, and 2 the layout; `X` is the shard in hexadecimal, `0` to `f` of the 16 that there are by default. What
//! the braces hold is all that Redis Cluster hashes, so the keys and channels of a shard are in one slot, and no user can choose a
//! slot by a brace in its id. The prefix must hold no brace itself.
//!
//! The first layout had `P:{sX}:…` and `P:{nodes}:…`. Nothing reads those, but for what [`Keys::copy_of`] names, once.
//!
//! Users, and the namespaces and names of rooms, are escaped ([`escape`]), so that a zero byte can end them. Of tokens and sessions there are digests.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{Lease, LoginId, Room};
pub use crate::shard::{Shard, Shards};
use crate::{connection::Instance, link::Slot};

/// The braces of the copies of the table of leases: in a cluster whose slots are dealt out evenly, on three masters.
const COPIES: [&str; 3] = ["nodes", "n1", "n2"];

/// The layout of keys and entries; another one is another registry.
pub(super) const LAYOUT: u8 = 2;

/// What is carried over from the first layout, by how its names begin: what is held against users and tokens, and the refresh
/// families. Their slots and their values are the same in both layouts.
const CARRIED: [&[u8]; 5] = [b"ban:", b"revoked:", b"jti:", b"over:", b"family:"];

/// Text as bytes without a zero: 0x00 becomes 0x01 0x01, and 0x01 becomes 0x01 0x02. Keeps the order of texts.
pub fn escape(text: &str) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            0 => escaped.extend([1, 1]),
            1 => escaped.extend([1, 2]),
            other => escaped.push(other),
        }
    }
    escaped
}

/// What [`escape`] was given; none if these bytes are not its output.
pub fn unescape(escaped: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            0 => return None,
            1 => match rest.next() {
                Some(1) => bytes.push(0),
                Some(2) => bytes.push(1),
                _ => return None,
            },
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok()
}

/// A room as it is written down: its namespace and its name, escaped, with a zero byte in between.
pub fn room_field(room: &Room) -> Vec<u8> {
    [escape(&room.namespace), escape(&room.name)].join(&0)
}

/// What [`room_field`] was given; none if these bytes are not its output.
pub fn room_of(field: &[u8]) -> Option<Room> {
    let mut parts = field.split(|byte| *byte == 0);
    let room = Room::new(unescape(parts.next()?)?, unescape(parts.next()?)?);
    parts.next().is_none().then_some(room)
}

/// The names, under one prefix.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Names under `prefix` (`registry.prefix`).
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
        }
    }

    fn named(&self, braced: &str, name: &str) -> String {
        format!("{}:{LAYOUT}:{{{braced}}}:{name}", self.prefix)
    }

    fn shard(&self, shard: Shard, name: &str) -> String {
        self.named(&format!("s{:x}", shard.index()), name)
    }

    /// The slot that all keys and channels of a shard are in.
    pub fn slot_of(&self, shard: Shard) -> Slot {
        Slot::of(self.shard(shard, "").as_bytes())
    }

    /// The entries of a shard.
    pub fn conns(&self, shard: Shard) -> String {
        self.shard(shard, "conns")
    }

    /// The entries of a shard that belong to a lease.
    pub fn held(&self, shard: Shard, lease: &Lease) -> String {
        self.shard(shard, &format!("n:{lease}"))
    }

    /// The number of users in a shard.
    pub fn users(&self, shard: Shard) -> String {
        self.shard(shard, "users")
    }

    fn of_user(&self, shard: Shard, name: &str, escaped: &[u8]) -> Vec<u8> {
        let mut key = self.shard(shard, name).into_bytes();
        key.extend(escaped);
        key
    }

    /// When a user was last seen. Takes the user as [`escape`] gave it; empty for a guest, whose key nobody writes. So do
    /// the next three.
    pub fn seen(&self, shard: Shard, escaped: &[u8]) -> Vec<u8> {
        self.of_user(shard, "seen:", escaped)
    }

    /// A user's ban.
    pub fn ban(&self, shard: Shard, escaped: &[u8]) -> Vec<u8> {
        self.of_user(shard, "ban:", escaped)
    }

    /// When a user's grants were revoked.
    pub fn revoked(&self, shard: Shard, escaped: &[u8]) -> Vec<u8> {
        self.of_user(shard, "revoked:", escaped)
    }

    /// How many newcomers a user has had of late. Takes the user as [`escape`] gave it; empty for a guest, whose key nobody
    /// writes.
    pub fn rate(&self, shard: Shard, escaped: &[u8]) -> Vec<u8> {
        self.of_user(shard, "rate:", escaped)
    }

    /// The end of a user's session, by its digest; empty for none, whose key nobody writes.
    pub fn over(&self, shard: Shard, escaped: &[u8], digest: &str) -> Vec<u8> {
        let mut key = self.of_user(shard, "over:", escaped);
        key.push(0);
        key.extend(digest.bytes());
        key
    }

    /// What all of [`Keys::over`] begin with, for scripts that learn the user.
    pub fn over_prefix(&self, shard: Shard) -> String {
        self.shard(shard, "over:")
    }

    /// The revocation of a token, by the digest of its id; empty for none, whose key nobody writes.
    pub fn token(&self, shard: Shard, digest: &str) -> String {
        self.shard(shard, &format!("jti:{digest}"))
    }

    /// A refresh family.
    pub fn family(&self, shard: Shard, id: &LoginId) -> String {
        self.shard(shard, &format!("family:{}", id.as_str()))
    }

    /// A call of the API, by the digest of its caller and key.
    pub fn call(&self, shard: Shard, digest: &[u8; 32]) -> String {
        let digest = URL_SAFE_NO_PAD.encode(digest);
        self.shard(shard, &format!("call:{digest}"))
    }

    /// Those of a shard's entries whose ids do not say which node has them.
    pub fn moved(&self, shard: Shard) -> String {
        self.shard(shard, "moved")
    }

    /// The generation of a shard.
    pub fn generation(&self, shard: Shard) -> String {
        self.shard(shard, "generation")
    }

    /// The leases all of whose entries are in a shard of this generation.
    pub fn entered(&self, shard: Shard, generation: &str) -> String {
        self.shard(shard, &format!("in:{generation}"))
    }

    /// The orders to end all of a user's connections. Takes the user as [`escape`] gave it.
    pub fn kicks(&self, shard: Shard, escaped: &[u8]) -> Vec<u8> {
        self.of_user(shard, "kick:", escaped)
    }

    /// The order to end one connection.
    pub fn end(&self, shard: Shard, id: &[u8]) -> Vec<u8> {
        self.of_user(shard, "end:", id)
    }

    /// What all of [`Keys::end`] begin with, for scripts that learn the id.
    pub fn end_prefix(&self, shard: Shard) -> String {
        self.shard(shard, "end:")
    }

    /// When a token of the future was first seen, by its digest; empty for none, whose key nobody writes.
    pub fn ahead(&self, shard: Shard, digest: &str) -> String {
        self.shard(shard, &format!("ahead:{digest}"))
    }

    /// Who is in the rooms of a shard.
    pub fn members(&self, shard: Shard) -> String {
        self.shard(shard, "members")
    }

    /// The rooms of a shard that somebody is in.
    pub fn rooms(&self, shard: Shard) -> String {
        self.shard(shard, "rooms")
    }

    /// Which leases have members of a room. Takes the room as [`room_field`] gave it.
    pub fn room_holders(&self, shard: Shard, room: &[u8]) -> Vec<u8> {
        self.of_user(shard, "holders:", room)
    }

    /// The members in a shard that belong to a lease.
    pub fn joined(&self, shard: Shard, lease: &Lease) -> String {
        self.shard(shard, &format!("m:{lease}"))
    }

    /// The rooms that a user is to be in. Takes the user as [`escape`] gave it; empty for a guest, whose key nobody writes.
    pub fn lasting(&self, shard: Shard, escaped: &[u8]) -> Vec<u8> {
        self.of_user(shard, "lasting:", escaped)
    }

    /// The rooms that a user is being put into. Takes the user as [`escape`] gave it.
    pub fn keeping(&self, shard: Shard, escaped: &[u8]) -> Vec<u8> {
        self.of_user(shard, "keeping:", escaped)
    }

    /// The users that may have a lasting membership in a room. Takes the room as [`room_field`] gave it.
    pub fn kept(&self, shard: Shard, room: &[u8]) -> Vec<u8> {
        self.of_user(shard, "kept:", room)
    }

    /// The notifications of a shard for a backend, by its name.
    pub fn outbox(&self, shard: Shard, backend: &str) -> String {
        self.shard(shard, &format!("outbox:{backend}"))
    }

    /// The users of a shard whose last connection is gone, and who do not count as offline yet.
    pub fn leaving(&self, shard: Shard) -> String {
        self.shard(shard, "leaving")
    }

    /// Which node delivers the notifications of a shard.
    pub fn deliverer(&self, shard: Shard) -> String {
        self.shard(shard, "deliverer")
    }

    /// Set when what the first layout held against the users of a shard has been carried over.
    pub fn carried(&self, shard: Shard) -> String {
        self.shard(shard, "carried")
    }

    /// The pattern, as SCAN takes it, of all keys of the first layout.
    pub fn first_layout(&self) -> String {
        let mut pattern = String::with_capacity(self.prefix.len() + 3);
        for char in self.prefix.chars() {
            if matches!(char, '*' | '?' | '[' | ']' | '\\') {
                pattern.push('\\');
            }
            pattern.push(char);
        }
        pattern + ":{*"
    }

    /// The shard of a key of the first layout, and the key that its copy has in this one. None if it is not carried over.
    pub fn copy_of(&self, key: &[u8]) -> Option<(Shard, Vec<u8>)> {
        let rest = key.strip_prefix(self.prefix.as_bytes())?;
        let (digit, rest) = rest.strip_prefix(b":{s")?.split_first()?;
        let (shard, name) = (Shard::of_hex(*digit)?, rest.strip_prefix(b"}:")?);
        let is_carried = CARRIED.iter().any(|begin| name.starts_with(begin));
        is_carried.then(|| (shard, self.of_user(shard, "", name)))
    }

    /// The first copy of the table of leases, and in a cluster two more; each with its slot.
    pub fn tables(&self, cluster: bool) -> Vec<(Slot, String)> {
        let copies = if cluster { COPIES.len() } else { 1 };
        let tables = COPIES[..copies].iter().map(|braced| {
            let key = self.named(braced, "leases");
            (Slot::of(key.as_bytes()), key)
        });
        tables.collect()
    }

    /// The channel of one node in a shard.
    pub fn node_channel(&self, shard: Shard, node: &Instance) -> String {
        self.shard(shard, &format!("bus:{node}"))
    }

    /// The channel that all nodes listen on.
    pub fn all_channel(&self) -> String {
        self.named("nodes", "bus:all")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn escaping_round_trips_and_keeps_the_order() {
        let texts = [
            "", "\0", "\0\0", "\0\u{1}", "\u{1}", "\u{2}", "a", "a\0b", "a\u{1}", "ab", "é😀",
        ];
        let escaped: Vec<_> = texts.iter().map(|text| escape(text)).collect();
        assert!(escaped.is_sorted());
        for (text, escaped) in texts.iter().zip(&escaped) {
            assert!(!escaped.contains(&0));
            assert_eq!(unescape(escaped).as_deref(), Some(*text));
        }
        for wrong in [&[0][..], &[1], &[1, 3], &[b'a', 1], &[0xff]] {
            assert_eq!(unescape(wrong), None);
        }
    }

    #[test]
    fn of_the_first_layout_only_what_is_held_against_users_has_a_copy() {
        let keys = Keys::new("g*w");
        assert_eq!(keys.first_layout(), "g\\*w:{*");
        let of = |key: &[u8]| keys.copy_of(key);
        let copy = |digit, key: &[u8]| Some((Shard::of_hex(digit).unwrap(), key.to_vec()));
        assert_eq!(
            of(b"g*w:{sa}:ban:x}:\x01"),
            copy(b'a', b"g*w:2:{sa}:ban:x}:\x01")
        );
        assert_eq!(
            of(b"g*w:{s0}:over:u\0d"),
            copy(b'0', b"g*w:2:{s0}:over:u\0d")
        );
        assert_eq!(
            of(b"g*w:{sf}:family:f1"),
            copy(b'f', b"g*w:2:{sf}:family:f1")
        );
        for other in [
            &b"g*w:{s0}:conns"[..],
            b"g*w:{s0}:n:a.1",
            b"g*w:{sg}:ban:x",
            b"g*w:{nodes}:leases",
            b"g*w:2:{s0}:ban:x",
            b"gxw:{s0}:ban:x",
            b"",
        ] {
            assert_eq!(of(other), None);
        }
    }

    #[test]
    fn the_copies_of_the_table_are_on_three_masters() {
        let thirds = Keys::new("gw").tables(true);
        let mut thirds: Vec<_> = thirds
            .iter()
            .map(|(slot, _)| slot.number() / (Slot::COUNT / 3 + 1))
            .collect();
        thirds.sort_unstable();
        assert_eq!(thirds, [0, 1, 2]);
    }

    #[test]
    fn a_key_names_its_prefix_and_its_slot() {
        let keys = Keys::new("gw");
        let shard = Shard::of_hex(b'a').unwrap();
        assert_eq!(keys.conns(shard), "gw:2:{sa}:conns");
        assert_eq!(keys.seen(shard, b"u{1}"), b"gw:2:{sa}:seen:u{1}");
        assert_eq!(keys.node_channel(shard, &"abc".into()), "gw:2:{sa}:bus:abc");
        assert_eq!(keys.all_channel(), "gw:2:{nodes}:bus:all");
        assert_eq!(keys.slot_of(shard), Slot::of(b"sa"));
        let channel = keys.node_channel(shard, &"{sb}".into());
        assert_eq!(Slot::of(channel.as_bytes()), keys.slot_of(shard));
    }
}
