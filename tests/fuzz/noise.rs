//! Random bytes, text, JSON and packets: some of them nothing at all, most of them almost right.

use rand::{Rng, RngCore, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Map, Value, json};

/// Names that some part of the server knows.
const NAMES: [&str; 16] = [
    "x",
    "",
    "__proto__",
    "constructor",
    "toString",
    "connect",
    "connect_error",
    "disconnect",
    "error",
    "newListener",
    "refreshToken",
    "devices",
    "logoutDevice",
    "authenticate",
    "banUser",
    "_placeholder",
];

/// Pieces that parsers trip over.
const PIECES: [&str; 30] = [
    "é",
    "😀",
    "\u{0}",
    "\u{1e}",
    "\u{feff}",
    "\u{202e}",
    "b",
    "bAAA=",
    "4",
    "5",
    "0",
    "-",
    "-1",
    "1e9",
    "99999999999999999999",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    ",",
    ":",
    "/",
    "/admin,",
    "null",
    "{\"_placeholder\":true,\"num\":",
    "%",
];

pub(crate) fn bytes(random: &mut StdRng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(0..=most)];
    random.fill_bytes(&mut bytes);
    bytes
}

pub(crate) fn name(random: &mut StdRng) -> &'static str {
    NAMES.choose(random).unwrap()
}

/// Text of a few pieces.
pub(crate) fn text(random: &mut StdRng) -> String {
    let count = random.random_range(0..6);
    (0..count)
        .map(|_| *PIECES.choose(random).unwrap())
        .collect()
}

/// JSON of any kind, and of a depth that parsers still take.
pub(crate) fn json(random: &mut StdRng, depth: u32) -> Value {
    match random.random_range(0..if depth == 0 { 9 } else { 12 }) {
        0 => Value::Null,
        1 => random.random::<bool>().into(),
        2 => random.random::<i64>().into(),
        3 => random.random::<u64>().into(),
        4 => json!(f64::from_bits(random.random::<u64>())),
        5 => json!(1e300),
        6 => name(random).into(),
        7 => text(random).into(),
        8 => {
            json!({ "_placeholder": true, "num": *[-1_i64, 0, 1, i64::MAX].choose(random).unwrap() })
        }
        9 => (0..random.random_range(0..4))
            .map(|_| json(random, depth - 1))
            .collect(),
        _ => {
            let members = (0..random.random_range(0..4))
                .map(|_| (name(random).to_owned(), json(random, depth - 1)));
            Value::Object(members.collect::<Map<_, _>>())
        }
    }
}

/// JSON deeper than anybody reads it.
pub(crate) fn deep(random: &mut StdRng) -> String {
    let depth = random.random_range(100..6000);
    match random.random_range(0..3) {
        0 => "[".repeat(depth),
        1 => "[".repeat(depth) + &"]".repeat(depth),
        _ => "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth),
    }
}

/// A change or a few: something put in, taken out, doubled or turned around.
pub(crate) fn mutated(random: &mut StdRng, text: &str) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..random.random_range(0..4) {
        let at = random.random_range(0..=chars.len());
        match random.random_range(0..4) {
            0 => drop(chars.splice(at..at, PIECES.choose(random).unwrap().chars())),
            1 => chars.truncate(at),
            2 if at < chars.len() => drop(chars.remove(at)),
            _ => {
                let part: Vec<_> = chars[at..].iter().take(8).copied().collect();
                drop(chars.splice(at..at, part));
            }
        }
    }
    chars.into_iter().collect()
}

/// Bytes that some part of the server may know.
pub(crate) fn mutated_bytes(random: &mut StdRng, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.random_range(1..4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..5) {
            0 => bytes.truncate(at),
            1 => bytes[at] = random.random(),
            2 => bytes[at] ^= 1 << random.random_range(0..8),
            3 => bytes.insert(
                at,
                *[0xff, 0xc0, 0xdf, 0xdd, 0xcf, 0x00, 0x7f]
                    .choose(random)
                    .unwrap(),
            ),
            _ => drop(bytes.splice(at..at, [0xdd, 0xff, 0xff, 0xff, 0xff])),
        }
    }
    bytes
}

/// One Engine.IO packet: what a client sends, and what it would not.
pub(crate) fn packet(random: &mut StdRng, token: &str) -> String {
    let namespace = *["", "", "", "/public,", "/admin,", "/nowhere,", "/é,", ","]
        .choose(random)
        .unwrap();
    let id = match random.random_range(0..4) {
        0 => random.random_range(0..100_u64).to_string(),
        1 => random.random::<u64>().to_string(),
        _ => String::new(),
    };
    let whole = match random.random_range(0..16) {
        0 => (*["2", "3", "1", "6", "5", "2probe", "0{}", "", "b", "4"]
            .choose(random)
            .unwrap())
        .to_owned(),
        1 => format!("40{namespace}{{\"token\":{}}}", json!(token)),
        2 => format!("40{namespace}{}", json(random, 3)),
        3 => format!("41{namespace}"),
        4 => format!("43{namespace}{id}{}", json(random, 3)),
        5 | 6 => {
            let count = *[
                "0",
                "1",
                "2",
                "10",
                "11",
                "10000",
                "-1",
                "99999999999999999999",
                "",
            ]
            .choose(random)
            .unwrap();
            let kind = ["5", "6"].choose(random).unwrap();
            format!(
                "4{kind}{count}-{namespace}{id}[{},{}]",
                json!(name(random)),
                json(random, 2)
            )
        }
        7 => format!("42{namespace}{id}{}", json(random, 3)),
        8 => format!("42{namespace}[\"x\",{}]", deep(random)),
        9 => format!("4{}{namespace}{}", random.random_range(0..12), text(random)),
        10 => text(random),
        _ => format!(
            "42{namespace}{id}[{},{}]",
            json!(name(random)),
            json(random, 3)
        ),
    };
    if random.random_bool(0.4) {
        mutated(random, &whole)
    } else {
        whole
    }
}
