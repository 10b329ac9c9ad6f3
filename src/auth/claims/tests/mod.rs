//! What a payload may say, and what is refused.

mod times;
mod user;

use serde_json::json;

use super::*;

const NOW: i64 = 1_700_000_000;

struct Door {
    leeway: Duration,
    intended: Intended,
    user: UserClaim,
}

impl Default for Door {
    fn default() -> Self {
        Self {
            leeway: Duration::from_secs(5),
            intended: Intended {
                issuers: Vec::new().into(),
                audiences: Vec::new().into(),
            },
            user: UserClaim::Usual,
        }
    }
}

impl Door {
    fn ask(&self, claims: Value) -> Result<Identity, AuthError> {
        let object = serde_json::from_value(claims).unwrap();
        let check = Check {
            now: Timestamp::from_second(NOW).unwrap(),
            leeway: self.leeway,
            intended: &self.intended,
            bound: &Bound::default(),
            user: &self.user,
            rooms: "rooms",
            digest: TokenDigest::of("e30.e30.c2ln"),
        };
        check.identity(&object).map_err(AuthError::from)
    }

    fn ask_with(&self, extra: Value) -> Result<Identity, AuthError> {
        let mut claims = json!({"sub": "42", "exp": NOW + 60});
        let members = claims.as_object_mut().unwrap();
        for (name, value) in extra.as_object().unwrap() {
            members.insert(name.clone(), value.clone());
        }
        self.ask(claims)
    }
}

#[test]
fn everything_a_payload_says() {
    let identity = Door::default()
        .ask(json!({
            "sub": 42, "username": "ann", "email": "ann@example.com", "role": "user",
            "roles": ["editor", "user", 7, "", "admin"], "exp": NOW + 60, "iat": NOW, "jti": "t-1",
            "sid": "s-1",
        }))
        .unwrap();
    assert_eq!(
        identity,
        Identity {
            rooms: Vec::new(),
            watch: Vec::new(),
            user_id: "42".into(),
            username: Some("ann".into()),
            email: Some("ann@example.com".into()),
            roles: vec!["user".into(), "editor".into(), "admin".into()],
            expires_at: Some(Timestamp::from_second(NOW + 60).unwrap()),
            issued_at: Some(Timestamp::from_second(NOW).unwrap()),
            token_id: Some("t-1".into()),
            digest: Some(TokenDigest::of("e30.e30.c2ln")),
            session: Some(SessionRef::Family("s-1".into())),
        }
    );
}

#[test]
fn issuer_and_audience_are_asked_for_when_configured() {
    let door = Door {
        intended: Intended {
            issuers: vec!["https://idp".into(), "https://idp2".into()].into(),
            audiences: vec!["chat".into(), "chat2".into()].into(),
        },
        ..Door::default()
    };
    let outcome = |claims| door.ask_with(claims).map(drop);

    assert_eq!(
        outcome(json!({"iss": "https://idp2", "aud": "chat"})),
        Ok(())
    );
    assert_eq!(
        outcome(json!({"iss": "https://idp", "aud": ["x", "chat2"]})),
        Ok(())
    );
    for wrong in [
        json!({}),
        json!({"iss": "https://idp"}),
        json!({"aud": "chat"}),
        json!({"iss": "https://idp/", "aud": "chat"}),
        json!({"iss": ["https://idp"], "aud": "chat"}),
        json!({"iss": null, "aud": "chat"}),
        json!({"iss": 1, "aud": "chat"}),
        json!({"iss": "https://idp", "aud": "x"}),
        json!({"iss": "https://idp", "aud": []}),
        json!({"iss": "https://idp", "aud": ["chat", 1]}),
        json!({"iss": "https://idp", "aud": {"chat": true}}),
        json!({"iss": "https://idp", "aud": "CHAT"}),
    ] {
        assert_eq!(outcome(wrong.clone()), Err(AuthError::Invalid), "{wrong}");
    }
    let unasked = Door::default().ask_with(json!({"iss": 1, "aud": {"chat": true}}));
    assert_eq!(unasked.map(drop), Ok(()));
}

#[test]
fn what_is_of_the_wrong_type_grants_nothing() {
    let identity = Door::default()
        .ask_with(json!({"username": 1, "email": ["a"], "role": {"admin": true}, "roles": 1}))
        .unwrap();
    assert_eq!(identity.username, None);
    assert_eq!(identity.email, None);
    assert!(identity.roles.is_empty());
    let roles = |claims| Door::default().ask_with(claims).unwrap().roles;
    assert_eq!(roles(json!({"roles": "admin"})), ["admin"]);
    assert_eq!(roles(json!({"role": ["admin", "user"]})), ["admin", "user"]);
    assert_eq!(roles(json!({"role": "admin user"})), ["admin user"]);
}

#[test]
fn a_token_id_is_text_or_an_integer() {
    let id = |jti: Value| {
        Door::default()
            .ask_with(json!({"jti": jti}))
            .map(|it| it.token_id)
    };
    assert_eq!(id(json!("a")), Ok(Some("a".into())));
    assert_eq!(id(json!(7)), Ok(Some("7".into())));
    assert_eq!(id(json!(null)), Ok(None));
    // One that can't be revoked by its id is not let in.
    assert_eq!(id(json!({"a": 1})), Err(AuthError::Invalid));
}

#[test]
fn a_sid_is_text_of_some_length() {
    let session = |sid: Value| {
        let identity = Door::default().ask_with(json!({"sid": sid})).unwrap();
        identity.session
    };
    let family = |sid: &str| Some(SessionRef::Family(sid.into()));
    assert_eq!(session(json!("s")), family("s"));
    let longest = "s".repeat(256);
    assert_eq!(session(json!(longest)), family(&longest));
    for none in [
        json!(""),
        json!("s".repeat(257)),
        json!(1),
        json!(null),
        json!(["s"]),
    ] {
        assert_eq!(session(none.clone()), None, "{none}");
    }
}
