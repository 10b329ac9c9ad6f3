//! The cookie's value: its form, its signature, and its place among other cookies.

use super::*;

/// A good cookie with its signature changed.
fn with_signature(change: impl FnOnce(Vec<u8>) -> String) -> String {
    let changed = change(signature("good", COOKIE_SECRET));
    format!("connect.sid={}", escaped(&format!("s:good.{changed}")))
}

fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let good = signed("good");
    let cookie = |value: &str| format!("connect.sid={}", escaped(value)).into_bytes();
    let plain = |value: &str| format!("connect.sid={value}").into_bytes();
    let (unsigned, _) = good.rsplit_once('.').unwrap();
    let bare = &good[2..];
    let flipped = |at: usize| {
        with_signature(|mut signature| {
            signature[at] ^= 1;
            STANDARD_NO_PAD.encode(signature)
        })
    };
    vec![
        ("a word", plain("good")),
        ("unsigned", plain("s%3Agood")),
        ("unsigned, with a dot", cookie("s:good.")),
        ("a dot alone", cookie("s:.")),
        ("the prefix alone", cookie("s:")),
        ("no prefix", cookie(bare)),
        ("another prefix", cookie(&format!("j:{bare}"))),
        ("prefix in upper case", cookie(&format!("S:{bare}"))),
        ("prefix twice", cookie(&format!("s:{good}"))),
        ("a blank before", cookie(&format!(" {good}"))),
        ("a blank after", cookie(&format!("{good} "))),
        ("a line feed after", cookie(&format!("{good}\n"))),
        ("NUL after", cookie(&format!("{good}\0"))),
        ("NUL in the id", cookie(&good.replace("good", "good\0"))),
        ("another id", cookie(&good.replace("good", "admin"))),
        ("an id in upper case", cookie(&good.replace("good", "GOOD"))),
        ("first bit flipped", flipped(0).into()),
        ("last bit flipped", flipped(31).into()),
        (
            "a short signature",
            with_signature(|it| STANDARD_NO_PAD.encode(&it[..31])).into(),
        ),
        (
            "half a signature",
            with_signature(|it| STANDARD_NO_PAD.encode(&it[..16])).into(),
        ),
        (
            "a long signature",
            with_signature(|it| STANDARD_NO_PAD.encode([&it[..], &[0]].concat())).into(),
        ),
        (
            "signature of zeros",
            with_signature(|it| STANDARD_NO_PAD.encode(vec![0; it.len()])).into(),
        ),
        (
            "padded signature",
            with_signature(|it| STANDARD.encode(it)).into(),
        ),
        (
            "base64url",
            // One that has a `+` or a `/`, for there to be a difference.
            {
                let id = (0..).map(|n| format!("id{n}"));
                let mut both = id.map(|id| (signature(&id, COOKIE_SECRET), id));
                let (signature, id) = both
                    .find(|(it, _)| STANDARD_NO_PAD.encode(it) != URL_SAFE_NO_PAD.encode(it))
                    .unwrap();
                cookie(&format!("s:{id}.{}", URL_SAFE_NO_PAD.encode(signature)))
            },
        ),
        (
            "bits left over",
            with_signature(|it| {
                let text = STANDARD_NO_PAD.encode(it);
                let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
                let at = alphabet.find(&text[42..]).unwrap();
                format!("{}{}", &text[..42], &alphabet[at + 1..=at + 1])
            })
            .into(),
        ),
        (
            "hexadecimal",
            with_signature(|it| it.iter().map(|byte| format!("{byte:02x}")).collect()).into(),
        ),
        (
            "another secret",
            with_signature(|_| STANDARD_NO_PAD.encode(signature("good", "another"))).into(),
        ),
        (
            "an empty secret",
            with_signature(|_| STANDARD_NO_PAD.encode(signature("good", ""))).into(),
        ),
        (
            "the secret that signs tokens",
            with_signature(|_| STANDARD_NO_PAD.encode(signature("good", SECRET))).into(),
        ),
        (
            "signed with its prefix",
            with_signature(|_| STANDARD_NO_PAD.encode(signature("s:good", COOKIE_SECRET))).into(),
        ),
        ("a dot more", cookie(&format!("{good}."))),
        (
            "a signature more",
            cookie(&format!("{good}.{}", &bare[5..])),
        ),
        (
            "split at the first dot",
            cookie(&format!("{unsigned}.x.{}", &bare[5..])),
        ),
        ("encoded twice", plain(&escaped(&escaped(&good)))),
        ("a broken escape", plain(&format!("{}%", escaped(&good)))),
        (
            "an escape of no UTF-8",
            plain(&format!("{}%ff", escaped(&good))),
        ),
        ("no UTF-8", [plain(&good), vec![0xff]].concat()),
        ("half a quote", plain(&format!("\"{}", escaped(&good)))),
        (
            "a bad one before a good one",
            plain(&format!("x; connect.sid={}", escaped(&good))),
        ),
        ("very long", cookie(&"s:".repeat(4000))),
        // Signed, as only the application can, and still no key of a store's.
        ("an empty id", cookie(&signed(""))),
        ("a very long id", cookie(&signed(&"x".repeat(257)))),
        (
            "an id with a line break",
            cookie(&signed("good\r\nFLUSHALL")),
        ),
        ("an id with a blank", cookie(&signed("go od"))),
        ("an id with NUL", cookie(&signed("good\0"))),
        ("an id beyond ASCII", cookie(&signed("gööd"))),
        ("no such session", cookie(&signed("gone"))),
    ]
}

#[tokio::test]
async fn each_is_refused_with_the_same_words_and_is_a_guest_where_everyone_is_let_in() {
    let (door, _) = door();
    let good = format!("connect.sid={}", escaped(&signed("good")));
    assert_eq!(user(&door, &good).await.as_deref(), Ok("42"));

    let table = hostile();
    assert!(table.len() >= 40);
    for (what, cookies) in table {
        assert_ne!(cookies, good.as_bytes(), "{what}");
        assert_eq!(user(&door, &cookies).await, Err(NotAuthenticated), "{what}");
        let headers = headers(&[&cookies]);
        assert_eq!(enter(&door, "/public", &headers).await, Ok(None), "{what}");
    }
    let refusal = user(&door, "connect.sid=x").await.unwrap_err();
    assert_eq!(refusal.to_string(), "Not authenticated");
}

#[tokio::test]
async fn every_bit_of_a_signature_counts() {
    let (door, _) = door();
    for bit in 0..256 {
        let cookie = with_signature(|mut signature| {
            signature[bit / 8] ^= 1 << (bit % 8);
            STANDARD_NO_PAD.encode(signature)
        });
        assert_eq!(user(&door, cookie).await, Err(NotAuthenticated), "{bit}");
    }
}

#[tokio::test]
async fn what_is_no_session_cookie_is_none() {
    let (door, _) = door();
    let good = escaped(&signed("good"));
    for cookies in [
        String::new(),
        "connect.sid".into(),
        "connect.sid=".into(),
        "connect.sid=\"\"".into(),
        "connect.sid= ; a=b".into(),
        format!("Connect.sid={good}"),
        format!("connect%2Esid={good}"),
        format!("xconnect.sid={good}"),
        format!("connect.sid.x={good}"),
        format!("a=connect.sid={good}"),
        format!("connect.sid:{good}"),
        format!("a=b, connect.sid={good}"),
        good.clone(),
    ] {
        assert_eq!(user(&door, &cookies).await, Err(Missing), "{cookies}");
    }
    assert_eq!(enter(&door, "/", &HeaderMap::new()).await, Err(Missing));
}

#[tokio::test]
async fn what_looks_odd_and_is_right_is_let_in() {
    let (door, store) = door();
    let good = signed("good");
    let encoded = escaped(&good);
    let old = STANDARD_NO_PAD.encode(signature("good", OLD_SECRET));
    for cookies in [
        format!("connect.sid={good}"),
        format!("connect.sid=\"{encoded}\""),
        format!("connect.sid = {encoded} "),
        format!("\tconnect.sid\t=\t{encoded}\t"),
        format!("a; ;;=; b=c=d; connect.sid={encoded}; e=f"),
        format!("connect.sid={encoded};connect.sid=x"),
        format!("connect.sid=s%3agood.{}", escaped(&good[7..])),
        format!("connect.sid=s:good.{old}"),
    ] {
        assert_eq!(
            user(&door, &cookies).await.as_deref(),
            Ok("42"),
            "{cookies}"
        );
    }
    // Several headers are one.
    let several = headers(&[b"a=b", format!("connect.sid={encoded}").as_bytes()]);
    assert!(enter(&door, "/", &several).await.is_ok());
    let several = headers(&[
        b"connect.sid=x",
        format!("connect.sid={encoded}").as_bytes(),
    ]);
    assert_eq!(enter(&door, "/", &several).await, Err(NotAuthenticated));

    let longest = "~".repeat(256);
    for id in ["a", "a.b.", "sess:{x}/*?[a]", "%41", &longest] {
        store.set(id, json!({"userId": 42}).to_string());
        let cookies = format!("connect.sid={}", escaped(&signed(id)));
        assert_eq!(user(&door, cookies).await.as_deref(), Ok("42"), "{id}");
    }
}
