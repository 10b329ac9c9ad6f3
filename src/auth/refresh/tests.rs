use super::*;

fn text(token: &RefreshToken) -> &str {
    token.text().expose_secret()
}

fn key(secret: &str) -> SuccessorKey {
    SuccessorKey::new(&secret.into())
}

#[test]
fn a_token_is_read_back_as_itself() {
    let longest = "f".repeat(64);
    for family in ["a", "0f_-Z", &longest] {
        let token = RefreshToken::new(family, &key("s")).unwrap();
        assert_eq!(token.family(), family);
        let read = RefreshToken::parse(text(&token)).unwrap();
        assert_eq!(read.family(), family);
        assert_eq!(read.hash(), token.hash());
        assert_eq!(text(&token).len(), family.len() + 49);
        assert_eq!((token.number(), read.number()), (1, 1));
    }
    let (one, two) = (
        RefreshToken::new("a", &key("s")).unwrap(),
        RefreshToken::new("a", &key("s")).unwrap(),
    );
    assert_ne!(one.hash(), two.hash());
}

#[test]
fn what_can_t_be_a_token_is_none() {
    let secret = "A".repeat(43);
    let numbered = "A".repeat(48);
    for secret in [&secret, &numbered] {
        assert!(RefreshToken::parse(&format!("family.{secret}")).is_some());
    }
    for bad in [
        format!("family.{numbered}A"),
        format!("family.{}", &numbered[1..]),
        format!("family.{}=", &numbered[1..]),
        format!("family.{}+", &numbered[1..]),
        format!("family.{numbered}."),
        format!("{}.{numbered}", "f".repeat(65)),
        String::new(),
        ".".into(),
        secret.clone(),
        format!(".{secret}"),
        "family.".into(),
        format!("family.{secret}A"),
        format!("family.{}", &secret[1..]),
        format!("family.{}=", &secret[1..]),
        format!("family.{}+", &secret[1..]),
        // 43 characters hold 258 bits: the last two have to be 0.
        format!("family.{}B", &secret[1..]),
        format!("family.{secret}."),
        format!("family.a.{secret}"),
        format!("fam ily.{secret}"),
        format!("fam:ily.{secret}"),
        format!("family\n.{secret}"),
        format!("fämily.{secret}"),
        format!(" family.{secret}"),
        format!("{}.{secret}", "f".repeat(65)),
        format!("family.{}é", &secret[2..]),
        "x".repeat(1_000_000),
    ] {
        assert!(RefreshToken::parse(&bad).is_none(), "{bad:.80}");
    }
    for family in ["", "a.b", "a b", &"f".repeat(65)] {
        assert!(RefreshToken::new(family, &key("s")).is_none(), "{family}");
    }
}

#[test]
fn a_successor_is_one_and_the_same_for_all_who_have_the_key() {
    let token = RefreshToken::new("family", &key("s")).unwrap();
    let (one, two) = (token.successor(&key("s")), token.successor(&key("s")));
    assert_eq!(text(&one), text(&two));
    assert_eq!(one.family(), "family");
    assert_eq!(RefreshToken::parse(text(&one)).unwrap().number(), 2);

    let third = one.successor(&key("s"));
    let other_key = token.successor(&key("t"));
    let other_token = RefreshToken::new("family", &key("s"))
        .unwrap()
        .successor(&key("s"));
    let hashes = [&token, &one, &third, &other_key, &other_token].map(RefreshToken::hash);
    for (index, hash) in hashes.iter().enumerate() {
        assert!(!hashes[index + 1..].contains(hash), "{index}");
    }
}

#[test]
fn a_token_that_was_made_up_is_by_nobody() {
    let token = RefreshToken::new("family", &key("s")).unwrap();
    let made_up = |text: &str| RefreshToken::parse(text).unwrap();
    for token in [&token, &token.successor(&key("s")), &made_up(text(&token))] {
        assert!(token.is_by(&key("s")));
        assert!(!token.is_by(&key("t")));
    }
    let (_, secret) = text(&token).split_once('.').unwrap();
    assert!(!made_up(&format!("other.{secret}")).is_by(&key("s")));
    assert!(!made_up(&format!("family.{}", "A".repeat(43))).is_by(&key("s")));
    // 0 to 3 are its number.
    for at in [0, 3, 4, 19, 20, 35] {
        let mut bytes = URL_SAFE_NO_PAD.decode(secret).unwrap();
        bytes[at] ^= 1;
        let text = format!("family.{}", URL_SAFE_NO_PAD.encode(bytes));
        assert!(!made_up(&text).is_by(&key("s")), "{at}");
    }
}

/// As it was issued before tokens had numbers, by the secret `test-only`.
const UNNUMBERED: &str = "family.ye2Cz52jPOKhfNDkCZDyOA5Oz86HsUlilRCTBqeOAJs";

#[test]
fn a_token_without_a_number_is_followed_by_one_with_a_number() {
    let token = RefreshToken::parse(UNNUMBERED).unwrap();
    assert!(token.is_by(&key("test-only")));
    assert!(!token.is_by(&key("s")));
    assert_eq!(token.number(), 0);
    let next = token.successor(&key("test-only"));
    assert!(next.is_by(&key("test-only")));
    assert_eq!(next.number(), 1);
}

#[test]
fn no_number_can_be_put_on_a_token_or_taken_off() {
    let made_up = |secret: &[u8]| {
        let text = format!("family.{}", URL_SAFE_NO_PAD.encode(secret));
        RefreshToken::parse(&text).unwrap()
    };
    let secret = |text: &str| URL_SAFE_NO_PAD.decode(&text["family.".len()..]).unwrap();
    let unnumbered = secret(UNNUMBERED);
    for number in [0_u32, 1, u32::MAX] {
        let numbered = [&number.to_be_bytes()[..], &unnumbered].concat();
        assert_eq!(made_up(&numbered).number(), number);
        assert!(!made_up(&numbered).is_by(&key("test-only")), "{number}");
    }
    let token = RefreshToken::new("family", &key("s")).unwrap();
    let mut numbered = secret(text(&token));
    assert!(!made_up(&numbered[NUMBER_BYTES..]).is_by(&key("s")));
    numbered[..NUMBER_BYTES].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(!made_up(&numbered).is_by(&key("s")));
}

#[test]
fn the_last_number_is_followed_by_itself() {
    let last = RefreshToken::of("family", u32::MAX, &[0; NONCE_BYTES], &key("s"));
    let next = last.successor(&key("s"));
    assert_eq!(next.number(), u32::MAX);
    assert_ne!(next.hash(), last.hash());
}

/// Nodes of two versions in one fleet have to agree.
#[test]
fn the_derivation_does_not_change() {
    for (from, to) in [
        (
            UNNUMBERED,
            "family.AAAAATM8jWaBmMm7u3uStjss-8uAM1Krn8ZbrX-ITKqe6R4C",
        ),
        (
            "family.AAAAATM8jWaBmMm7u3uStjss-8uAM1Krn8ZbrX-ITKqe6R4C",
            "family.AAAAAvk-1erR0c2IOsK8-ay9Y7Cix8ewet882czlg7brf7do",
        ),
    ] {
        let token = RefreshToken::parse(from).unwrap();
        assert_eq!(text(&token.successor(&key("test-only"))), to);
    }
}

#[test]
fn debug_shows_nothing() {
    let token = RefreshToken::new("family", &key("s")).unwrap();
    let shown = format!("{token:?} {:?}", key("hush"));
    assert_eq!(shown, "RefreshToken(…) SuccessorKey(…)");
}
