//! When a token holds.

use serde_json::{Value, json};

use super::*;

#[test]
fn leeway_holds_for_every_time() {
    let door = Door::default();
    let outcome = |claims| door.ask_with(claims).map(drop);

    assert_eq!(outcome(json!({"exp": NOW - 4})), Ok(()));
    assert_eq!(outcome(json!({"exp": NOW - 5})), Err(AuthError::Expired));
    assert_eq!(outcome(json!({"nbf": NOW + 5})), Ok(()));
    assert_eq!(outcome(json!({"nbf": NOW + 6})), Err(AuthError::Invalid));
    assert_eq!(outcome(json!({"iat": NOW + 5})), Ok(()));
    assert_eq!(outcome(json!({"iat": NOW + 6})), Err(AuthError::Invalid));

    let strict = Door {
        leeway: Duration::ZERO,
        ..Door::default()
    };
    let outcome = |claims| strict.ask_with(claims).map(drop);
    assert_eq!(
        outcome(json!({"exp": NOW + 1, "nbf": NOW, "iat": NOW})),
        Ok(())
    );
    assert_eq!(outcome(json!({"exp": NOW})), Err(AuthError::Expired));

    let endless = Door {
        leeway: Duration::MAX,
        ..Door::default()
    };
    assert_eq!(endless.ask_with(json!({"exp": 0})).map(drop), Ok(()));
}

#[test]
fn a_time_is_any_number_within_reach() {
    let door = Door::default();
    let expiry = |exp: Value| {
        door.ask_with(json!({"exp": exp}))
            .map(|it| it.expires_at.unwrap().as_second())
    };

    assert_eq!(expiry(json!(NOW as f64 + 60.9)), Ok(NOW + 60));
    assert_eq!(expiry(json!(MAX_TIME)), Ok(Timestamp::MAX.as_second()));
    assert_eq!(expiry(json!(-1)), Err(AuthError::Expired));
    assert_eq!(expiry(json!(0)), Err(AuthError::Expired));
    for odd in [
        json!("1700000060"),
        json!(null),
        json!(true),
        json!([NOW + 60]),
        json!(MAX_TIME + 1),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e300),
        json!((NOW + 60) * 1000),
    ] {
        assert_eq!(expiry(odd.clone()), Err(AuthError::Invalid), "{odd}");
    }
    for name in ["nbf", "iat"] {
        for odd in [
            json!("1"),
            json!(null),
            json!(u64::MAX),
            json!([1]),
            json!(-1e300),
        ] {
            let outcome = door.ask_with(json!({name: odd}));
            assert_eq!(outcome.map(drop), Err(AuthError::Invalid), "{name} {odd}");
        }
    }
}

#[test]
fn issued_at_keeps_its_milliseconds() {
    let issued = |iat: Value| {
        let identity = Door::default().ask_with(json!({"iat": iat})).unwrap();
        identity.issued_at.unwrap().as_millisecond()
    };
    for millis in [0, 1, 290, 570, 676, 999] {
        // As JavaScript divides it.
        let iat = (NOW * 1000 + millis) as f64 / 1000.0;
        assert_eq!(issued(json!(iat)), NOW * 1000 + millis);
    }
    assert_eq!(issued(json!(NOW)), NOW * 1000);
    assert_eq!(issued(json!(-1.5)), -1500);
    assert_eq!(issued(json!(-MAX_TIME)), -MAX_TIME * 1000);
    // In whole seconds it is not ahead, whatever the leeway.
    let strict = Door {
        leeway: Duration::ZERO,
        ..Door::default()
    };
    let outcome = strict.ask_with(json!({"iat": NOW as f64 + 0.999}));
    assert!(outcome.is_ok());
}

#[test]
fn expired_is_said_only_of_what_is_otherwise_right() {
    let door = Door {
        intended: Intended {
            issuers: vec!["https://idp".into()].into(),
            audiences: Vec::new().into(),
        },
        ..Door::default()
    };
    let past = |extra: Value| {
        let mut extra = extra;
        extra["exp"] = json!(NOW - 3600);
        door.ask_with(extra).map(drop)
    };
    assert_eq!(past(json!({"iss": "https://idp"})), Err(AuthError::Expired));
    assert_eq!(
        past(json!({"iss": "https://other"})),
        Err(AuthError::Invalid)
    );
    let nobody = json!({"iss": "https://idp", "sub": ""});
    assert_eq!(past(nobody), Err(AuthError::Invalid));
}
