//! Sessions as the real packages store them, when they end, and what changes in them ends.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::auth::MemorySessions;

/// What the real packages made, see `testdata/sessions.mjs`.
#[derive(Deserialize)]
struct Made {
    signed: Vec<Signed>,
    sessions: Vec<Visit>,
}

#[derive(Deserialize)]
struct Signed {
    id: String,
    secret: String,
    value: String,
}

#[derive(Deserialize)]
struct Visit {
    what: String,
    cookie: String,
    key: String,
    json: String,
    pttl: i64,
}

fn made() -> Made {
    serde_json::from_str(include_str!("../testdata/sessions.json")).unwrap()
}

fn sessions(change: impl FnOnce(&mut config::Session)) -> Sessions {
    let mut config = config::Session {
        secrets: vec!["test-only secret".into(), "older secret".into()],
        ..config::Session::default()
    };
    change(&mut config);
    Sessions::new(&config).unwrap()
}

fn now() -> Timestamp {
    "2040-01-01T00:00:00Z".parse().unwrap()
}

fn id(text: &str) -> StoredSessionId {
    StoredSessionId::new(text).unwrap()
}

#[test]
fn signatures_are_those_of_cookie_signature() {
    for Signed { id, secret, value } in made().signed {
        let keys = CookieKeys::new(&[secret.as_str().into()]);
        assert_eq!(keys.verify(&value).unwrap().expose(), id, "{value}");
    }
}

#[tokio::test]
async fn sessions_are_those_of_express() {
    let sessions = sessions(|_| ());
    let store = MemorySessions::default();
    let mut outcomes = Vec::new();
    for visit in made().sessions {
        let stored_as = visit.key.strip_prefix("sess:").unwrap();
        match u64::try_from(visit.pttl) {
            Ok(left) => {
                let left = Duration::from_millis(left);
                store.set_with_time_left(stored_as, visit.json, left);
            }
            Err(_) => store.set(stored_as, visit.json),
        }
        let outcome = match sessions.id(&visit.cookie).unwrap() {
            Ok(id) => {
                assert_eq!(id.expose(), stored_as);
                let found = sessions.identities(&store, &[id], now()).await.unwrap();
                found.into_iter().next().unwrap()
            }
            Err(reason) => Err(reason),
        };
        outcomes.push((visit.what, outcome));
    }
    let shown: Vec<_> = outcomes
        .iter()
        .map(|(what, outcome)| match outcome {
            Ok(it) => {
                let user = it.user_id.as_str();
                format!("{what}: {user} {:?} {:?}", it.username, it.roles)
            }
            Err(reason) => format!("{what}: {reason}"),
        })
        .collect();
    assert_eq!(
        shown,
        [
            "a number: 42 None []",
            "a name and a role: u-42 Some(\"Zoë\") [\"admin\"]",
            "several roles: 42 None [\"user\", \"admin\"]",
            "passport: 42 None []",
            "nobody: nobody is logged in",
            "an older secret: 42 None []",
            "a foreign secret: no secret has signed it",
            "ids of its own: 42 None []",
            "no end: 42 None []",
            "no end in Redis either: 42 None []",
            "in use beyond its expires: 42 None []",
            "past its expires, and kept: the session is past its expires",
        ]
    );
    let first = outcomes.swap_remove(0).1.unwrap();
    assert_eq!((first.expires_at, first.issued_at), (None, None));
    assert!(matches!(first.session, Some(SessionRef::Cookie(_))));
}

#[tokio::test]
async fn a_session_s_word_is_as_old_as_the_look_at_the_store() {
    let sessions = sessions(|_| ());
    let store = MemorySessions::default();
    store.set("x", json!({"userId": 42}).to_string());
    // Not the node's clock, which may be minutes off.
    store.set_clock("2039-12-31T23:55:00.250Z".parse().unwrap());
    let found = sessions.identity(&store, &id("x"), now()).await.unwrap();
    let identity = found.unwrap();
    let issued_at = identity.issued_at.unwrap().to_string();
    assert_eq!(issued_at, "2039-12-31T23:55:00.249Z");
    assert!(matches!(&identity.session, Some(SessionRef::Cookie(it)) if it.expose() == "x"));

    // Looked at again, it is the same whatever the time.
    store.set_clock("2040-01-01T00:00:00Z".parse().unwrap());
    let over = sessions.over(&store, &[(id("x"), &identity)], now()).await;
    assert_eq!(over, Ok(vec![]));
    let gone = sessions.identity(&store, &id("y"), now()).await.unwrap();
    assert_eq!(gone, Err("there is no such session"));
}

/// Who a stored session is; empty if nobody.
async fn user(sessions: &Sessions, stored: Value, left: Option<Duration>) -> String {
    let store = MemorySessions::default();
    match left {
        Some(left) => store.set_with_time_left("x", stored.to_string(), left),
        None => store.set("x", stored.to_string()),
    }
    let found = sessions.identities(&store, &[id("x")], now()).await;
    let found = found.unwrap().remove(0);
    found.map_or_else(|_| String::new(), |it| it.user_id.as_str().to_owned())
}

#[tokio::test]
async fn the_first_pointer_that_leads_to_a_value_counts() {
    let usual = sessions(|_| ());
    let at = async |stored| user(&usual, stored, None).await;
    let all = json!({"userId": "a", "user": {"id": "b"}, "passport": {"user": "c"}});
    assert_eq!(at(all).await, "a");
    assert_eq!(at(json!({"userId": null, "user": {"id": 7}})).await, "7");
    assert_eq!(
        at(json!({"user": "b", "passport": {"user": "c"}})).await,
        "c"
    );
    // One that is wrong does not give way to the next.
    assert_eq!(at(json!({"userId": "", "user": {"id": 7}})).await, "");
    assert_eq!(at(json!({"passport": {"user": {"id": 7}}})).await, "");

    let configured = sessions(|config| config.user_id_pointer = vec!["/a~1b/0/~0".into()]);
    let stored = json!({"a/b": [{"~": "deep"}], "userId": "a"});
    assert_eq!(user(&configured, stored, None).await, "deep");
}

#[tokio::test]
async fn expires_is_honoured_unless_the_session_was_touched_since() {
    let usual = sessions(|_| ());
    let past = "2039-12-31T23:59:59.999Z";
    let secs = |secs| Some(Duration::from_secs(secs));
    for (cookie, left, lives) in [
        (json!({"expires": "2040-01-01T00:00:00.001Z"}), None, true),
        (json!({"expires": "2040-01-01T00:00:00.000Z"}), None, false),
        (json!({"expires": past}), None, false),
        (json!({"expires": past}), secs(60), false),
        (
            json!({"expires": past, "originalMaxAge": 60_000}),
            None,
            false,
        ),
        (
            json!({"expires": past, "originalMaxAge": 60_000}),
            secs(60),
            true,
        ),
        (
            json!({"expires": past, "originalMaxAge": 59_001}),
            secs(60),
            true,
        ),
        (
            json!({"expires": past, "originalMaxAge": 59_000}),
            secs(60),
            false,
        ),
        (
            json!({"expires": past, "originalMaxAge": null}),
            secs(60),
            false,
        ),
        (
            json!({"expires": past, "originalMaxAge": -1}),
            secs(0),
            false,
        ),
        (
            json!({"expires": past, "originalMaxAge": "60000"}),
            secs(1),
            false,
        ),
        (json!({"expires": null}), None, true),
        (json!({"expires": false}), None, true),
        (json!({"expires": ""}), None, true),
        (json!({}), None, true),
        (json!(null), None, true),
        // The last moment of JavaScript.
        (
            json!({"expires": "+275760-09-13T00:00:00.000Z"}),
            None,
            true,
        ),
        (json!({"expires": "soon"}), None, false),
        (json!({"expires": 1}), None, false),
        (json!({"expires": 1e300}), None, false),
        (json!({"expires": true}), None, false),
        (json!({"expires": ["2041-01-01T00:00:00Z"]}), None, false),
    ] {
        let stored = json!({"cookie": cookie, "userId": 42});
        let expected = if lives { "42" } else { "" };
        assert_eq!(
            user(&usual, stored, left).await,
            expected,
            "{cookie} {left:?}"
        );
    }
    assert_eq!(user(&usual, json!({"userId": 42}), None).await, "42");
}

#[tokio::test]
async fn looked_at_again_it_is_over_when_the_session_or_its_user_is_another() {
    let sessions = sessions(|_| ());
    let store = MemorySessions::default();
    let names = [
        "same",
        "renamed",
        "gone",
        "logged-out",
        "other-user",
        "promoted",
        "reordered",
        "expired",
        "broken",
    ];
    let ids = names.map(id);
    for name in names {
        store.set(name, json!({"userId": 42, "role": ["a", "b"]}).to_string());
    }
    let found = sessions.identities(&store, &ids, now()).await.unwrap();
    let identities: Vec<_> = found.into_iter().map(Result::unwrap).collect();
    // Two connections to each session.
    let once = ids.iter().cloned().zip(&identities);
    let held: Vec<_> = once.clone().chain(once).collect();
    assert_eq!(sessions.over(&store, &held, now()).await, Ok(vec![]));

    let set = |name, session: Value| store.set(name, session.to_string());
    set(
        "renamed",
        json!({"userId": 42, "role": ["a", "b"], "username": "x"}),
    );
    store.remove("gone");
    set("logged-out", json!({"cookie": {}}));
    set("other-user", json!({"userId": 43, "role": ["a", "b"]}));
    set(
        "promoted",
        json!({"userId": 42, "role": ["a", "b", "admin"]}),
    );
    set(
        "reordered",
        json!({"userId": "42", "role": ["b", "a", "b"]}),
    );
    let past = json!({"expires": "2020-01-01T00:00:00Z"});
    set(
        "expired",
        json!({"userId": 42, "role": ["a", "b"], "cookie": past}),
    );
    store.set("broken", "{");
    store.take_asked();
    let over = sessions.over(&store, &held, now()).await.unwrap();
    assert_eq!(over, [2, 3, 4, 5, 7, 8, 11, 12, 13, 14, 16, 17]);
    assert_eq!(store.take_asked(), [names.len()]);

    store.set_away(true);
    assert!(sessions.over(&store, &held, now()).await.is_err());
}

#[tokio::test]
async fn many_are_looked_at_in_few_round_trips() {
    let sessions = sessions(|_| ());
    let store = MemorySessions::default();
    let ids: Vec<_> = (0..600).map(|n| format!("session-{n}")).collect();
    for id in &ids {
        store.set(id, json!({"userId": 42}).to_string());
    }
    let first = sessions.identities(&store, &[id("session-0")], now()).await;
    let identity = first.unwrap().remove(0).unwrap();
    store.remove("session-0");
    store.remove("session-599");
    store.take_asked();
    let held: Vec<_> = ids.iter().map(|text| (id(text), &identity)).collect();
    let over = sessions.over(&store, &held, now()).await;
    assert_eq!(over, Ok(vec![0, 599]));
    assert_eq!(store.take_asked(), [256, 256, 88]);
}
