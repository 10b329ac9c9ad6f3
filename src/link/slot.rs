//! Which of Redis Cluster's slots a key or a shard channel is in.

/// A slot. Keys in one slot are on one server, and one command may touch several of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u16);

impl Slot {
    /// How many there are.
    pub const COUNT: u16 = 16_384;

    /// The slot of a key: of what its first pair of braces holds, unless that is nothing; else of all of it.
    pub fn of(key: &[u8]) -> Self {
        Self(crc16(hashed(key)) % Self::COUNT)
    }

    /// Its number, below [`Slot::COUNT`].
    pub fn number(self) -> u16 {
        self.0
    }
}

fn hashed(key: &[u8]) -> &[u8] {
    let brace = |wanted: u8| move |byte: &u8| *byte == wanted;
    let Some(open) = key.iter().position(brace(b'{')) else {
        return key;
    };
    let rest = &key[open + 1..];
    match rest.iter().position(brace(b'}')) {
        None | Some(0) => key,
        Some(close) => &rest[..close],
    }
}

/// CRC-16/XMODEM, as the specification of Redis Cluster has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            let shifted = crc << 1;
            if crc & 0x8000 == 0 {
                shifted
            } else {
                shifted ^ 0x1021
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // The specification's own check value, and what CLUSTER KEYSLOT answers.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, slot) in [
            (&b"foo"[..], 12_182),
            (b"{foo}:bar", 12_182),
            (b"a{foo}{bar}", 12_182),
            (b"{}foo", 9_500),
            (b"foo{", 7_673),
            (b"", 0),
        ] {
            assert_eq!(Slot::of(key).number(), slot, "{key:?}");
        }
    }
}
