//! Who the user is.

use serde_json::{Value, json};

use super::*;
use crate::connection::MAX_USER_ID_BYTES;

fn user(claims: Value) -> Result<String, AuthError> {
    let mut claims = claims;
    claims["exp"] = json!(NOW + 60);
    let identity = Door::default().ask(claims)?;
    Ok(identity.user_id.as_str().to_owned())
}

#[test]
fn the_user_is_sub_else_id_else_user_id() {
    let all = json!({"sub": "s", "id": "i", "userId": "u"});
    assert_eq!(user(all).as_deref(), Ok("s"));
    assert_eq!(user(json!({"id": "i", "userId": "u"})).as_deref(), Ok("i"));
    assert_eq!(user(json!({"userId": 7})).as_deref(), Ok("7"));
    assert_eq!(user(json!({"sub": null, "id": 7})).as_deref(), Ok("7"));
    assert_eq!(user(json!({})), Err(AuthError::Invalid));
    // A claim that is there but wrong does not give way to the next one.
    assert_eq!(user(json!({"sub": "", "id": 7})), Err(AuthError::Invalid));
    assert_eq!(user(json!({"sub": {}, "id": 7})), Err(AuthError::Invalid));
}

#[test]
fn a_number_is_kept_as_its_digits() {
    for (number, text) in [
        (json!(42), "42"),
        (json!(0), "0"),
        (json!(-5), "-5"),
        (json!(42.0), "42"),
        (json!(1_234_567_890_123_456_789_u64), "1234567890123456789"),
    ] {
        assert_eq!(
            user(json!({"sub": number})).as_deref(),
            Ok(text),
            "{number}"
        );
    }
    for number in [json!(1.5), json!(1e17), json!(-1e300)] {
        assert_eq!(
            user(json!({"sub": number})),
            Err(AuthError::Invalid),
            "{number}"
        );
    }
    for odd in [json!(true), json!([1]), json!({"id": 1})] {
        assert_eq!(user(json!({"sub": odd})), Err(AuthError::Invalid), "{odd}");
    }
    let longest = "a".repeat(MAX_USER_ID_BYTES);
    assert_eq!(user(json!({"sub": longest})), Ok(longest.clone()));
    let longer = format!("{longest}a");
    assert_eq!(user(json!({"sub": longer})), Err(AuthError::Invalid));
    for dots in [".", ".."] {
        assert_eq!(user(json!({"sub": dots})), Err(AuthError::Invalid));
    }
    assert_eq!(user(json!({"sub": "..."})), Ok("...".into()));
}

#[test]
fn a_configured_user_claim_is_the_only_one() {
    let door = |claim: &str| Door {
        user: UserClaim::Configured(claim.into()),
        ..Door::default()
    };
    let found = |claim: &str, claims: Value| {
        door(claim)
            .ask_with(claims)
            .map(|identity| identity.user_id.as_str().to_owned())
    };
    assert_eq!(found("uid", json!({"uid": 9})).as_deref(), Ok("9"));
    assert_eq!(found("uid", json!({})), Err(AuthError::Invalid));
    assert_eq!(
        found("user.id", json!({"user": {"id": 9}})).as_deref(),
        Ok("9")
    );
    assert_eq!(
        found("/user/id", json!({"user": {"id": 9}})).as_deref(),
        Ok("9")
    );
    assert_eq!(
        found("/a~1b/~0", json!({"a/b": {"~": "x"}})).as_deref(),
        Ok("x")
    );
    let named = "https://example.com/user.id";
    assert_eq!(found(named, json!({named: "x"})).as_deref(), Ok("x"));
    assert_eq!(
        found("user.id", json!({"user": "9"})),
        Err(AuthError::Invalid)
    );
    assert_eq!(
        found("user.id", json!({"user": {"id": null}})),
        Err(AuthError::Invalid)
    );
}
