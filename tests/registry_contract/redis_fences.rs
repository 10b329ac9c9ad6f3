//! What only the fences and families in Redis have: what is kept, for how long, and what is not.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use redis::aio::MultiplexedConnection;
use switchboard::{
    config::Presence,
    ending::Ending,
    registry::{
        Ban, Bar, EndTarget, Family, Fence, Grant, REVOCATION_KEPT, Rotation, SESSION_KEPT,
        TOKEN_KEPT, TOKEN_MARGIN, Turn,
    },
};

use super::{
    families::{open, reuse, rotate, token},
    home::{LONG, Peer, Redis, RedisServer, all_of, entry, fleet, timing},
    redis::{assert_named, calls, info, key_names, raw, reset_stats},
};

fn old(token: Option<&str>, session: Option<&str>) -> Grant {
    Grant {
        issued_at: Some(Timestamp::now() - SignedDuration::from_secs(3600)),
        token_id: token.map(Into::into),
        session: session.map(Into::into),
        ahead: None,
    }
}

/// Puts up one fence of each kind, against users that are named like it.
async fn put_up_all(peer: &Peer) {
    for (user, fence) in [
        ("banned", Fence::Ban(Ban::default())),
        ("revoked", Fence::RevokeBefore(None)),
        ("ended", Fence::EndSession("s3cr3t-session".into())),
    ] {
        peer.order(&all_of(user), Some(&fence), &Ending::of(4500))
            .await;
    }
    peer.registry
        .revoke_token("s3cr3t-token", None)
        .await
        .unwrap();
}

#[tokio::test]
async fn fences_and_families_outlive_every_node() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, LONG, LONG).await;
    put_up_all(&a).await;
    let family = open(&a, "42").await;
    let stolen = open(&a, "42").await;
    rotate(&a, &family, 0).await;
    reuse(&a, &stolen).await;
    for peer in [a, b] {
        peer.registry.leave(&peer.lease).await.unwrap();
    }

    let registry = home.registry(&timing(LONG), &Presence::default());
    let c = Peer::join(Arc::new(registry), "c").await;
    for (user, grant, bar) in [
        ("banned", old(None, None), Bar::Banned),
        ("revoked", old(None, None), Bar::Revoked),
        (
            "ended",
            old(None, Some("s3cr3t-session")),
            Bar::SessionEnded,
        ),
        ("42", old(Some("s3cr3t-token"), None), Bar::Revoked),
        ("42", old(None, Some(stolen.id.as_str())), Bar::SessionEnded),
    ] {
        assert_eq!(c.bar(user, &grant).await, Some(bar), "{user}");
        let connection = c.connection(user);
        let standing = c.registry.standing(&[(entry(&connection), grant)]).await;
        assert_eq!(standing.unwrap(), [(entry(&connection), bar)]);
    }
    assert_eq!(
        rotate(&c, &family, 0).await,
        Rotation::Repeated(family.clone())
    );
    assert_eq!(rotate(&c, &family, 1).await, Rotation::Rotated(family));
    assert_eq!(rotate(&c, &stolen, 0).await, Rotation::Reused(stolen));
}

/// All of a key's value, one after the other.
async fn value_of(raw: &mut MultiplexedConnection, name: &[u8]) -> Vec<u8> {
    let kind: String = redis::cmd("TYPE").arg(name).query_async(raw).await.unwrap();
    let mut read = match kind.as_str() {
        "string" => redis::cmd("GET"),
        "hash" => redis::cmd("HGETALL"),
        "set" => redis::cmd("SMEMBERS"),
        "list" => redis::cmd("LRANGE"),
        "zset" => redis::cmd("ZRANGE"),
        other => panic!("{other}"),
    };
    read.arg(name);
    if kind == "zset" || kind == "list" {
        read.arg(0).arg(-1);
    }
    let value: redis::Value = read.query_async(raw).await.unwrap();
    let mut bytes = Vec::new();
    flatten(&value, &mut bytes);
    bytes
}

fn flatten(value: &redis::Value, bytes: &mut Vec<u8>) {
    match value {
        redis::Value::BulkString(text) => bytes.extend(text),
        redis::Value::SimpleString(text) => bytes.extend(text.bytes()),
        redis::Value::Array(values) | redis::Value::Set(values) => {
            values.iter().for_each(|it| flatten(it, bytes))
        }
        redis::Value::Map(pairs) => pairs.iter().for_each(|(key, value)| {
            flatten(key, bytes);
            flatten(value, bytes);
        }),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nothing_of_a_token_or_a_cookie_is_in_redis_in_clear() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, _b] = fleet(&home, LONG, LONG).await;
    put_up_all(&a).await;
    let family = open(&a, "42").await;
    rotate(&a, &family, 0).await;
    let killed = open(&a, "42").await;
    reuse(&a, &killed).await;
    let grant = old(Some("s3cr3t-jti"), Some("s3cr3t-cookie"));
    a.connect_by("42", &grant).await;
    let target = EndTarget::Session {
        user: "42".into(),
        session: "s3cr3t-cookie".into(),
    };
    a.order(&target, None, &Ending::of(4503)).await;

    let mut raw = raw(&home).await;
    let names = key_names(&mut raw).await;
    assert_named(&names, "switchboard");
    let mut all = Vec::new();
    for name in &names {
        all.extend(name);
        all.push(b'\n');
        all.extend(value_of(&mut raw, name).await);
        all.push(b'\n');
    }
    let holds = |part: &[u8]| all.windows(part.len()).any(|it| it == part);
    assert!(holds(b"banned"), "the search finds what is there");
    assert!(
        holds(&token(&family.id, 1).hash),
        "the hash of the current one"
    );
    assert!(!holds(b"s3cr3t"));
    assert!(!holds(b".secret."), "no refresh token");
}

/// How long a key lives on, in ms; the only one of its kind.
async fn ttl(raw: &mut MultiplexedConnection, part: &str) -> i64 {
    let names = key_names(raw).await;
    let named: Vec<_> = names
        .iter()
        .filter(|name| String::from_utf8_lossy(name).contains(part))
        .collect();
    assert!(!named.is_empty(), "{part}");
    let mut ttls = Vec::new();
    for name in named {
        let mut pttl = redis::cmd("PTTL");
        ttls.push(pttl.arg(name).query_async::<i64>(raw).await.unwrap());
    }
    assert!(ttls.iter().max().unwrap() - ttls.iter().min().unwrap() < 10_000);
    ttls[0]
}

fn assert_about(ttl: i64, expected: Duration) {
    let expected = expected.as_millis() as i64;
    assert!(
        (expected - 60_000..=expected).contains(&ttl),
        "{ttl} ms, not {expected} ms"
    );
}

#[tokio::test]
async fn all_that_is_held_against_somebody_is_forgotten_in_the_end() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, _b] = fleet(&home, LONG, LONG).await;
    put_up_all(&a).await;
    let mut raw = raw(&home).await;
    assert_eq!(
        ttl(&mut raw, "}:ban:banned").await,
        -1,
        "until it is lifted"
    );
    assert_about(ttl(&mut raw, "}:revoked:revoked").await, REVOCATION_KEPT);
    assert_about(ttl(&mut raw, "}:over:ended").await, SESSION_KEPT);
    assert_about(ttl(&mut raw, "}:jti:").await, TOKEN_KEPT);

    let soon = Duration::from_secs(3600);
    let until = Some(Timestamp::now() + SignedDuration::try_from(soon).unwrap());
    let fence = Fence::Ban(Ban {
        reason: None,
        until,
    });
    a.order(&all_of("banned"), Some(&fence), &Ending::of(4501))
        .await;
    assert_about(ttl(&mut raw, "}:ban:banned").await, soon);
    // A revocation that is shorter leaves the longer one.
    a.registry
        .revoke_token("s3cr3t-token", until)
        .await
        .unwrap();
    assert_about(ttl(&mut raw, "}:jti:").await, TOKEN_KEPT);
    let _: () = redis::cmd("FLUSHALL").query_async(&mut raw).await.unwrap();
    a.registry.revoke_token("other", until).await.unwrap();
    assert_about(ttl(&mut raw, "}:jti:").await, soon + TOKEN_MARGIN);
    a.registry.revoke_token("other", None).await.unwrap();
    assert_about(ttl(&mut raw, "}:jti:").await, TOKEN_KEPT);

    let family = open(&a, "42").await;
    assert_about(ttl(&mut raw, "}:family:").await, soon);
    rotate(&a, &family, 0).await;
    assert_about(ttl(&mut raw, "}:family:").await, soon);
    let turn = Turn {
        presented: &token(&family.id, 1),
        successor: &token(&family.id, 2),
        grace: Duration::ZERO,
        renew: Some(LONG),
    };
    a.registry.rotate(&family.id, turn).await.unwrap();
    assert_about(ttl(&mut raw, "}:family:").await, LONG);
    rotate(&a, &family, 0).await;
    assert_about(ttl(&mut raw, "}:family:").await, LONG);
    assert_about(ttl(&mut raw, "}:over:42").await, SESSION_KEPT);
}

#[tokio::test]
async fn how_a_thousand_stand_is_a_few_commands() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, _b] = fleet(&home, LONG, LONG).await;
    put_up_all(&a).await;
    let asked: Vec<_> = (0..1000)
        .map(|n| entry(&a.connection(&format!("user{n}"))))
        .map(|entry| (entry, old(Some("t"), Some("s"))))
        .chain([(entry(&a.connection("banned")), old(None, None))])
        .collect();
    let mut raw = raw(&home).await;
    reset_stats(&mut raw).await;
    assert_eq!(a.registry.standing(&asked).await.unwrap().len(), 1);
    let stats = info(&mut raw, "commandstats").await;
    assert!(calls(&stats, "mget").is_some_and(|calls| calls <= 16));
    for other in ["get", "exists", "scan", "keys", "evalsha"] {
        assert_eq!(calls(&stats, other), None, "{other}");
    }
}

#[tokio::test]
async fn what_a_full_redis_refuses_has_not_happened() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, _b] = fleet(&home, LONG, LONG).await;
    let family = open(&a, "42").await;
    let connection = a.connect_by("42", &old(None, None)).await;
    let raw = raw(&home).await;
    let set = async |value: &str| {
        let mut command = redis::cmd("CONFIG");
        command.arg("SET").arg("maxmemory").arg(value);
        let _: () = command.query_async(&mut raw.clone()).await.unwrap();
    };
    set("1").await;
    let first = token(&family.id, 0);
    let turn = Turn {
        presented: &first,
        successor: &token(&family.id, 1),
        grace: LONG,
        renew: None,
    };
    assert!(a.registry.rotate(&family.id, turn).await.is_err());
    let closed = a.registry.close_family(&family.id, &first).await;
    assert!(closed.is_err());
    let other = Family {
        id: a.registry.new_family_id(&"42".into()),
        ..family.clone()
    };
    assert!(a.registry.open_family(&other, &first).await.is_err());
    assert!(a.registry.revoke_token("t", None).await.is_err());
    set("0").await;
    assert_eq!(a.bar("42", &old(Some("t"), None)).await, None);
    assert_eq!(rotate(&a, &other, 0).await, Rotation::Unknown);
    assert_eq!(rotate(&a, &family, 0).await, Rotation::Rotated(family));
    assert_eq!(a.end_of(&connection).await, None);
}
