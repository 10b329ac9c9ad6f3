//! The seal on what nodes tell each other, in a Redis that others may write to.
//!
//! Behind each payload stand its sender, a number, and an HMAC-SHA256 over these, the payload and the channel, with a key that
//! only the nodes have. So a message counts on its channel, as its sender's, and once on each node: what is made up, altered,
//! moved or played again is dropped.
//!
//! | bytes | what |
//! |---|---|
//! | any | the payload |
//! | 1 to 255 | the sender's instance |
//! | 8 | the message's number, big-endian; a sender gives none twice |
//! | 1 | `FORM` |
//! | 1 | length of the instance |
//! | 32 | the HMAC |
//!
//! What is left: a captured message counts once on a node that never got it. There is none for what is sent to one node, as
//! sends and receipts are: its channel has an instance in its name, which is new at each start. For a message to all nodes it is a
//! node that has started since, until it hears of the sender what is 65,000 messages later, or the key goes. Nothing of this rests
//! on a clock, as those of nodes differ.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aws_lc_rs::{constant_time, hmac};
use parking_lot::{Mutex, RwLock};
use secrecy::{ExposeSecret, SecretString};

use super::{Received, heard::Heard};
use crate::connection::Instance;

/// What the key is derived for: the secret that it comes from may sign tokens too.
const PURPOSE: &[u8] = b"switchboard bus seal v1";

/// How the trailer is written. Another form is none that this node can check.
const FORM: u8 = 0;

const TAG: usize = 32;
/// What is behind the instance.
const TAIL: usize = 8 + 1 + 1 + TAG;

/// Why a message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No node of this fleet has sealed it, not for this channel or not with these bytes.
    Forged,
    /// It was heard before, or is too old to tell.
    Replayed,
}

impl Refused {
    /// The value of the metric label `reason`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Forged => "forged",
            Self::Replayed => "replayed",
        }
    }
}

/// The keys of a fleet.
struct FleetKeys {
    /// Seals.
    first: hmac::Key,
    /// By these a seal holds too.
    others: Vec<hmac::Key>,
}

impl FleetKeys {
    /// Without a secret the key is one that everybody can derive: a seal then tells an accident, and no intent.
    fn new(secrets: &[SecretString]) -> Self {
        let mut keys = secrets.iter().map(derived);
        Self {
            first: keys.next().unwrap_or_else(|| derived(&"".into())),
            others: keys.collect(),
        }
    }
}

fn derived(secret: &SecretString) -> hmac::Key {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
    let derived = hmac::sign(&secret, PURPOSE);
    hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
}

/// The seal as one node has it: seals what it sends, and opens what it hears.
pub struct Seal {
    me: Instance,
    keys: RwLock<Arc<FleetKeys>>,
    /// The number of the last message that was sealed.
    last: AtomicU64,
    heard: Mutex<Heard>,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(…)")
    }
}

impl Seal {
    /// The seal of a node. The first of `secrets` seals, by each of them a seal holds; without any of them the key is known to
    /// everybody.
    pub fn new(me: &Instance, secrets: &[SecretString]) -> Self {
        Self {
            me: me.clone(),
            keys: RwLock::new(Arc::new(FleetKeys::new(secrets))),
            last: AtomicU64::new(0),
            heard: Mutex::default(),
        }
    }

    /// Replaces the secrets. The first one seals from now on, by each of them a seal holds.
    pub fn rekey(&self, secrets: &[SecretString]) {
        *self.keys.write() = Arc::new(FleetKeys::new(secrets));
    }

    /// Seals a message for one channel.
    pub fn seal(&self, channel: &str, payload: &[u8]) -> Vec<u8> {
        let me = self.me.as_str().as_bytes();
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let mut sealed = Vec::with_capacity(payload.len() + me.len() + TAIL);
        sealed.extend_from_slice(payload);
        sealed.extend_from_slice(me);
        sealed.extend_from_slice(&number.to_be_bytes());
        sealed.extend_from_slice(&[FORM, me.len() as u8]);
        let keys = Arc::clone(&self.keys.read());
        let tag = tag(&keys.first, channel, &sealed);
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// Opens a message that came on a channel: says who sent it, and what. Each opens once.
    ///
    /// # Errors
    ///
    /// [`Refused`], and nothing has changed then.
    pub fn open(&self, channel: &str, sealed: Vec<u8>) -> Result<Received, Refused> {
        let (from, number, length) = self.checked(channel, &sealed).ok_or(Refused::Forged)?;
        if !self.heard.lock().is_new(&from, number) {
            return Err(Refused::Replayed);
        }
        let mut payload = sealed;
        payload.truncate(length);
        Ok(Received { from, payload })
    }

    /// The sender, the number and the payload's length, if the seal holds.
    fn checked(&self, channel: &str, sealed: &[u8]) -> Option<(Instance, u64, usize)> {
        let (body, given) = sealed.split_last_chunk::<TAG>()?;
        let (rest, [form, length]) = body.split_last_chunk::<2>()?;
        let (rest, number) = rest.split_last_chunk::<8>()?;
        let payload = rest.len().checked_sub(usize::from(*length))?;
        let from = std::str::from_utf8(&rest[payload..]).ok()?;
        let number = u64::from_be_bytes(*number);
        if *form != FORM {
            return None;
        }
        let keys = Arc::clone(&self.keys.read());
        let mut keys = std::iter::once(&keys.first).chain(&keys.others);
        let holds = keys.any(|key| {
            let tag = tag(key, channel, body);
            constant_time::verify_slices_are_equal(tag.as_ref(), given).is_ok()
        });
        holds.then(|| (from.into(), number, payload))
    }
}

/// The channel behind its length, so that no byte can pass from it to the message; then the message.
fn tag(key: &hmac::Key, channel: &str, message: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(&(channel.len() as u64).to_be_bytes());
    context.update(channel.as_bytes());
    context.update(message);
    context.sign()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ALL: &str = "p:{nodes}:bus:all";
    const OWN: &str = "p:{s0}:bus:b";

    fn node(name: &str, secrets: &[&str]) -> Seal {
        let secrets: Vec<_> = secrets.iter().map(|secret| (*secret).into()).collect();
        Seal::new(&name.into(), &secrets)
    }

    fn opened(by: &Seal, channel: &str, sealed: &[u8]) -> Result<(String, Vec<u8>), Refused> {
        let received = by.open(channel, sealed.to_vec())?;
        Ok((received.from.as_str().to_owned(), received.payload))
    }

    #[test]
    fn a_message_opens_once_on_its_channel() {
        let (a, b) = (node("a", &["s"]), node("b", &["s"]));
        for payload in [&b""[..], b"x", &[0xff; 1000]] {
            let sealed = a.seal(OWN, payload);
            for other in [ALL, "p:{s0}:bus:c", "p:{s1}:bus:b", ""] {
                assert_eq!(opened(&b, other, &sealed), Err(Refused::Forged));
            }
            assert_eq!(opened(&b, OWN, &sealed), Ok(("a".into(), payload.to_vec())));
            assert_eq!(opened(&b, OWN, &sealed), Err(Refused::Replayed));
        }
    }

    #[test]
    fn no_byte_of_it_can_be_changed_and_no_length() {
        let (a, b) = (node("a", &["s"]), node("b", &["s"]));
        let sealed = a.seal(OWN, b"hello");
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut altered = sealed.clone();
                altered[at] ^= 1 << bit;
                assert_eq!(opened(&b, OWN, &altered), Err(Refused::Forged), "{at}");
            }
            assert_eq!(opened(&b, OWN, &sealed[at + 1..]), Err(Refused::Forged));
            assert_eq!(opened(&b, OWN, &sealed[..at]), Err(Refused::Forged));
        }
        assert!(opened(&b, OWN, &sealed).is_ok());
    }

    #[test]
    fn secrets_are_rotated_one_by_one() {
        let (old, both, new) = (
            node("old", &["1"]),
            node("both", &["1", "2"]),
            node("new", &["2", "1"]),
        );
        let every = [&old, &both, &new];
        for (from, to, holds) in [(0, 1, true), (1, 0, true), (2, 1, true), (2, 0, false)] {
            let sealed = every[from].seal(OWN, b"x");
            let opened = opened(every[to], OWN, &sealed);
            assert_eq!(opened.is_ok(), holds, "{from} to {to}: {opened:?}");
        }
        old.rekey(&["2".into()]);
        let sealed = new.seal(OWN, b"x");
        assert!(opened(&old, OWN, &sealed).is_ok());
    }

    #[test]
    fn nodes_without_a_secret_hear_each_other_and_one_with_a_secret_hears_none_of_them() {
        let (a, b, keyed) = (node("a", &[]), node("b", &[]), node("c", &["s"]));
        let sealed = a.seal(OWN, b"x");
        assert!(opened(&b, OWN, &sealed).is_ok());
        assert_eq!(opened(&keyed, OWN, &sealed), Err(Refused::Forged));
    }

    /// Nodes of two versions in one fleet have to agree.
    #[test]
    fn the_seal_does_not_change() {
        let sealed = node("a", &["test-only"]).seal(OWN, b"x");
        let tag = sealed[sealed.len() - TAG..][..4].to_vec();
        assert_eq!(sealed[..12], *b"xa\0\0\0\0\0\0\0\x01\0\x01");
        assert_eq!(tag, [131, 244, 124, 243]);
    }

    /// `cargo test --release --lib what_a_seal_costs -- --ignored --nocapture`
    #[test]
    #[ignore = "measures"]
    fn what_a_seal_costs() {
        const ROUNDS: u32 = 200_000;
        let (a, b) = (node("a", &["s"]), node("b", &["s"]));
        for bytes in [300, 64 * 1024] {
            let (mut sealing, mut opening) = (std::time::Duration::ZERO, std::time::Duration::ZERO);
            let rounds = ROUNDS / (bytes as u32 / 300);
            for _ in 0..rounds {
                let payload = vec![1; bytes];
                let start = std::time::Instant::now();
                let sealed = a.seal(OWN, &payload);
                sealing += start.elapsed();
                let start = std::time::Instant::now();
                b.open(OWN, sealed).unwrap();
                opening += start.elapsed();
            }
            println!(
                "{bytes} bytes: seal {:?}, open {:?}",
                sealing / rounds,
                opening / rounds
            );
        }
    }
}
