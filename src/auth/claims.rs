//! What a verified payload says: the registered claims (RFC 7519 §4.1), and who the user is.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{
    auth::{AuthError, Identity, SessionRef, json::Object, jwt::Refusal, rule::Intended},
    connection::{MAX_USER_ID_BYTES, UserId},
};

/// The last second of the year 9999. Beyond it is most often a time in milliseconds.
pub(crate) const MAX_TIME: i64 = 253_402_300_799;

/// The longest `sid` that is kept.
const MAX_SID_BYTES: usize = 256;

/// From here on a float no longer tells one integer from the next.
const MAX_EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

/// Where a payload names the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UserClaim {
    /// `sub`, else `id`, else `userId`.
    Usual,
    /// `auth.jwt.user_id_claim`: the name of a claim, else a JSON pointer (`/user/id`), else a dotted path (`user.id`).
    /// A name comes first because `https://example.com/user.id` is a usual one.
    Configured(String),
}

impl UserClaim {
    fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        match self {
            Self::Usual => ["sub", "id", "userId"]
                .into_iter()
                .find_map(|name| present(claims, name)),
            Self::Configured(name) => present(claims, name)
                .or_else(|| Self::descend(claims, name))
                .filter(|value| !value.is_null()),
        }
    }

    fn descend<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
        let (path, separator) = match path.strip_prefix('/') {
            Some(pointer) => (pointer, '/'),
            None => (path, '.'),
        };
        let mut steps = path.split(separator);
        let mut value = claims.get(&unescape(steps.next()?, separator))?;
        for step in steps {
            value = value.get(unescape(step, separator))?;
        }
        Some(value)
    }
}

/// One step of a JSON pointer (RFC 6901 §4); steps of a dotted path stay as they are.
fn unescape(step: &str, separator: char) -> String {
    if separator == '/' {
        step.replace("~1", "/").replace("~0", "~")
    } else {
        step.to_owned()
    }
}

/// What to hold a payload against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check<'a> {
    /// The time that counts as now.
    pub(crate) now: Timestamp,
    /// Tolerance for `exp`, `nbf` and `iat`.
    pub(crate) leeway: Duration,
    /// `iss` and `aud`.
    pub(crate) intended: &'a Intended,
    /// The user's claim.
    pub(crate) user: &'a UserClaim,
}

impl Check<'_> {
    /// The identity in the payload of a token whose signature is good. Whether it is past `exp` is looked at last, so
    /// that `Expired` is said of a token that is otherwise right, and of no other.
    pub(crate) fn identity(&self, Object(claims): &Object) -> Result<Identity, Refusal> {
        let expires_at = time(claims, "exp")?.ok_or(Refusal::invalid("it has no exp"))?;
        // Held against the clock in whole seconds: one node's milliseconds are in the future of another.
        if self.is_ahead(time(claims, "iat")?) {
            return Err(Refusal::invalid("its iat is in the future"));
        }
        if self.is_ahead(time(claims, "nbf")?) {
            return Err(Refusal::invalid("its nbf is in the future"));
        }
        self.check_issuer(claims)?;
        self.check_audience(claims)?;
        let user_id = user_id(self.user.find(claims))?;
        let token_id = present(claims, "jti").map(text).transpose()?;

        if self.now_millis() >= millis(expires_at) + self.leeway_millis() {
            return Err(Refusal::new(AuthError::Expired, "it is past its exp"));
        }
        Ok(Identity {
            user_id,
            username: string(claims, "username"),
            email: string(claims, "email"),
            roles: roles(claims),
            expires_at: Some(timestamp(expires_at)),
            issued_at: issued_at(claims),
            token_id,
            session: family(claims),
        })
    }

    fn is_ahead(&self, seconds: Option<i64>) -> bool {
        seconds.is_some_and(|seconds| millis(seconds) > self.now_millis() + self.leeway_millis())
    }

    fn now_millis(&self) -> i128 {
        self.now.as_millisecond().into()
    }

    fn leeway_millis(&self) -> i128 {
        i128::try_from(self.leeway.as_millis()).unwrap_or(i128::from(i64::MAX))
    }

    fn check_issuer(&self, claims: &Map<String, Value>) -> Result<(), Refusal> {
        let issuers = &self.intended.issuers;
        let known = |value: &Value| issuers.iter().any(|issuer| value == issuer.as_str());
        if issuers.is_empty() || claims.get("iss").is_some_and(known) {
            Ok(())
        } else {
            Err(Refusal::invalid("its iss is not the configured one"))
        }
    }

    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), Refusal> {
        let audiences = &self.intended.audiences;
        let ours = |value: &Value| audiences.iter().any(|audience| value == audience.as_str());
        let held = match claims.get("aud") {
            Some(Value::Array(values)) => {
                values.iter().all(Value::is_string) && values.iter().any(ours)
            }
            Some(value) => ours(value),
            None => false,
        };
        if audiences.is_empty() || held {
            Ok(())
        } else {
            Err(Refusal::invalid("its aud is not the configured one"))
        }
    }
}

/// A claim that is there and not `null`.
fn present<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).filter(|value| !value.is_null())
}

fn string(claims: &Map<String, Value>, name: &str) -> Option<String> {
    claims.get(name)?.as_str().map(str::to_owned)
}

/// A NumericDate (RFC 7519 §2) in whole seconds, fractions cut. What is there has to be a number, which `null` is not.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<i64>, Refusal> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let seconds = match (value.as_i64(), value.as_f64()) {
        (Some(seconds), _) => seconds,
        // The cast saturates, and what it saturates to is out of range.
        (None, Some(seconds)) => seconds.floor() as i64,
        (None, None) => return Err(Refusal::invalid("a time in it is not a number")),
    };
    if (-MAX_TIME..=MAX_TIME).contains(&seconds) {
        Ok(Some(seconds))
    } else {
        Err(Refusal::invalid("a time in it is out of range"))
    }
}

/// `iat` in milliseconds, as far as it has them: what was issued right after a revocation is told from what was issued
/// right before it. [`time`] has found it in range.
fn issued_at(claims: &Map<String, Value>) -> Option<Timestamp> {
    let iat = claims.get("iat")?;
    if let Some(seconds) = iat.as_i64() {
        return Some(timestamp(seconds));
    }
    // Rounded, since most decimal fractions are none in binary: 0.29 s is 0.28999….
    let millis = (iat.as_f64()? * 1000.0).round();
    Timestamp::from_millisecond(millis as i64).ok()
}

/// The session that a token is of: `sid`, as Switchboard mints it. Other issuers have their own `sid` (OpenID Connect), which
/// is kept just as well; one that can't be a session's id is none.
fn family(claims: &Map<String, Value>) -> Option<SessionRef> {
    let sid = string(claims, "sid")?;
    let fits = (1..=MAX_SID_BYTES).contains(&sid.len());
    fits.then_some(SessionRef::Family(sid))
}

fn millis(seconds: i64) -> i128 {
    i128::from(seconds) * 1000
}

/// In range already, but for a few hours at either end of what `jiff` can hold.
fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(if seconds < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

/// A user's id: a string, or an integer as its digits; neither empty nor longer than [`MAX_USER_ID_BYTES`].
pub(crate) fn user_id(value: Option<&Value>) -> Result<UserId, Refusal> {
    let id = text(value.ok_or(Refusal::invalid("it names no user"))?)?;
    if id.is_empty() || id.len() > MAX_USER_ID_BYTES {
        return Err(Refusal::invalid("its user id is empty or too long"));
    }
    Ok(id.into())
}

/// A string, or an integer as its digits. A float stands for an integer where it is exactly one (`42.0`).
fn text(value: &Value) -> Result<String, Refusal> {
    const NO_ID: Refusal = Refusal::invalid("an id in it is neither a string nor an integer");
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) if !number.is_f64() => Ok(number.to_string()),
        Value::Number(number) => number
            .as_f64()
            .filter(|float| float.fract() == 0.0 && float.abs() <= MAX_EXACT_FLOAT)
            .map(|float| (float as i64).to_string())
            .ok_or(NO_ID),
        _ => Err(NO_ID),
    }
}

fn roles(claims: &Map<String, Value>) -> Vec<String> {
    let both = ["role", "roles"].into_iter();
    granted(both.filter_map(|name| claims.get(name)))
}

/// All roles in some values, each of them a string or a list of strings; what is neither grants nothing.
pub(crate) fn granted<'a>(values: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
    let mut roles = Vec::new();
    let mut grant = |role: &Value| {
        if let Some(role) = role.as_str()
            && !role.is_empty()
            && !roles.iter().any(|held| held == role)
        {
            roles.push(role.to_owned());
        }
    };
    for value in values {
        match value {
            Value::Array(items) => items.iter().for_each(&mut grant),
            one => grant(one),
        }
    }
    roles
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
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
                    issuers: Vec::new(),
                    audiences: Vec::new(),
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
                user: &self.user,
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

    fn user(claims: Value) -> Result<String, AuthError> {
        let mut claims = claims;
        claims["exp"] = json!(NOW + 60);
        let identity = Door::default().ask(claims)?;
        Ok(identity.user_id.as_str().to_owned())
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
                user_id: "42".into(),
                username: Some("ann".into()),
                email: Some("ann@example.com".into()),
                roles: vec!["user".into(), "editor".into(), "admin".into()],
                expires_at: Some(Timestamp::from_second(NOW + 60).unwrap()),
                issued_at: Some(Timestamp::from_second(NOW).unwrap()),
                token_id: Some("t-1".into()),
                session: Some(SessionRef::Family("s-1".into())),
            }
        );
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
    fn issuer_and_audience_are_asked_for_when_configured() {
        let door = Door {
            intended: Intended {
                issuers: vec!["https://idp".into(), "https://idp2".into()],
                audiences: vec!["chat".into(), "chat2".into()],
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
    fn expired_is_said_only_of_what_is_otherwise_right() {
        let door = Door {
            intended: Intended {
                issuers: vec!["https://idp".into()],
                audiences: Vec::new(),
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
}
