//! Nodes whose clocks jump by a day while they run (F13): as after a wrong time server, or a virtual machine that was paused.
//!
//! Needs `faketime`, as `clocks` does. Its library reads how much a clock is off from a file, which the test writes anew.

use std::{fs, path::PathBuf, time::Duration};

use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    clocks::library,
    support::{
        bounds::{ensure, seconds, within},
        client::{Client, Hello, Refused},
        fleet::{Fleet, Node, Plan},
        oracle,
        run::Run,
        token::{SECRET, fresh_token},
    },
};

const DAY: i64 = 86_400;

/// `auth.jwt.leeway`, in seconds: long enough that no case below is decided by how long the test takes.
const LEEWAY: i64 = 60;

/// How a node that lets a token in says so, and how the others don't.
const EXPIRED: &str = "Invalid or expired token";
const INVALID: &str = "Invalid token";
const REVOKED: &str = "Token revoked";
const BANNED: &str = "User banned";

/// A clock that can be set while its node runs.
struct Clock {
    file: PathBuf,
    _directory: TempDir,
}

impl Clock {
    /// One that is right, and the wrapper of a node that goes by it.
    fn right(library: &str) -> (Self, Vec<String>) {
        let directory = tempfile::tempdir().unwrap();
        let clock = Self {
            file: directory.path().join("clock"),
            _directory: directory,
        };
        clock.set("+0");
        let settings = [
            format!("LD_PRELOAD={library}"),
            format!("FAKETIME_TIMESTAMP_FILE={}", clock.file.display()),
            // In seconds; how long the library believes what it has read.
            "FAKETIME_CACHE_DURATION=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        ];
        let wrapper = ["env".to_owned()].into_iter().chain(settings);
        (clock, wrapper.collect())
    }

    /// Sets it, in one step: a node that reads half of it would be somewhere else.
    fn set(&self, offset: &str) {
        let next = self.file.with_extension("next");
        fs::write(&next, offset).unwrap();
        fs::rename(next, &self.file).unwrap();
    }
}

/// A token of a user, with its `iat` and `exp` in seconds from now, by the right clock.
fn token_of(user: &str, issued: i64, expires: i64) -> String {
    let now = Timestamp::now().as_second();
    let claims = json!({ "sub": user, "iat": now + issued, "exp": now + expires });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap()
}

/// A token that no clock here takes for expired, or for issued in its future.
fn long_token(user: &str) -> String {
    token_of(user, -2 * DAY, 3 * DAY)
}

/// What a node says to a token: nothing, or the words of its `connect_error`.
async fn verdict(node: &Node, token: &str) -> Option<String> {
    match Client::connect(node.addr, &Hello::with(token)).await {
        Ok(_) => None,
        Err(Refused::Connect(words)) => Some(words),
        Err(other) => panic!("{}: {other:?}", node.name),
    }
}

/// Awaits that the clock of a node is set: it is read when the library's cache is over.
async fn shows(node: &Node, token: &str, verdict_then: Option<&str>) {
    let look = async || {
        let found = verdict(node, token).await;
        ensure(found.as_deref() == verdict_then, || format!("{found:?}"))
    };
    let what = format!("the clock of {} is set", node.name);
    within(seconds(10.0), &what, look).await;
}

#[tokio::test]
async fn f13_clocks_that_jump_by_a_day_end_no_lease_and_forget_no_revocation() {
    let run = Run::begin("f13-jump");
    let Some(library) = library() else {
        run.tell("SKIPPED: faketime is not installed");
        return;
    };
    let plan = Plan::brisk(1).with("AUTH__JWT__LEEWAY", &format!("{LEEWAY}s"));
    let mut fleet = Fleet::start(&run, plan).await;
    let mut clocks = Vec::new();
    for _ in 0..2 {
        let (clock, wrapper) = Clock::right(&library);
        fleet.plan.wrapper = wrapper;
        fleet.add().await;
        clocks.push(clock);
    }
    let (right, ahead, behind) = (0, 1, 2);
    let mut clients = Vec::new();
    for number in 0..30 {
        let (door, user) = (fleet[number % 3].addr, format!("stays-{number}"));
        let hello = Hello::with(long_token(&user));
        clients.push(Client::connect(door, &hello).await.unwrap());
    }
    // Of these the tokens have hours to go, and by the clock that will be behind a day more.
    let mut hourly = fleet.crowd("hourly", 3).await;
    let expires_tomorrow = hourly.remove(ahead);
    clients.append(&mut hourly);
    for (user, call) in [("banned", "ban"), ("revoked", "revoke-tokens")] {
        let path = format!("/v1/users/{user}/{call}");
        let method = if call == "ban" { "PUT" } else { "POST" };
        let answer = fleet[right].api.call(method, &path, Some(json!({}))).await;
        answer.unwrap().ok(call).unwrap();
    }
    let everybody = || clients.iter().chain([&expires_tomorrow]);
    fleet.exact(everybody(), seconds(5.0)).await;

    run.note("the clocks jump");
    clocks[0].set("+1d");
    clocks[1].set("-1d");
    let usual = fresh_token("usual");
    shows(&fleet[ahead], &usual, Some(EXPIRED)).await;
    shows(&fleet[behind], &usual, Some(INVALID)).await;
    shows(&fleet[right], &usual, None).await;

    // Each node goes by its own clock, and by the leeway.
    for (number, off) in [(right, 0), (ahead, DAY), (behind, -DAY)] {
        let cases = [
            ((-10, LEEWAY), None),
            ((-DAY, 20 - LEEWAY), None),
            ((-DAY, -10 - LEEWAY), Some(EXPIRED)),
            ((LEEWAY / 2, DAY), None),
            ((5 * LEEWAY, DAY), Some(INVALID)),
        ];
        for ((issued, expires), expected) in cases {
            let token = token_of("by-the-clock", off + issued, off + expires);
            let node = &fleet[number];
            let found = verdict(node, &token).await;
            let name = &node.name;
            assert_eq!(found.as_deref(), expected, "{name}: {issued} {expires}");
        }
    }

    // What was held against users is, on every node; and what a wrong clock's node holds against them from here on is what was
    // issued before it, by Redis's clock.
    for node in &fleet.nodes {
        let banned = verdict(node, &long_token("banned")).await;
        assert_eq!(banned.as_deref(), Some(BANNED), "{}", node.name);
        let revoked = verdict(node, &long_token("revoked")).await;
        assert_eq!(revoked.as_deref(), Some(REVOKED), "{}", node.name);
    }
    for number in [ahead, behind] {
        let user = format!("revoked-by-{number}");
        let old = long_token(&user);
        let before = Client::connect(fleet[right].addr, &Hello::with(&old)).await;
        let body = json!({ "revokeTokens": true });
        let answer = fleet[number].api.disconnect(&user, body).await.unwrap();
        assert_eq!(answer.body["disconnected"], 1, "{answer:?}");
        before.unwrap().ended(seconds(1.0)).await;
        for node in &fleet.nodes {
            let again = verdict(node, &old).await;
            assert_eq!(again.as_deref(), Some(REVOKED), "{}", node.name);
        }
        // Half a leeway in the future: in time for both clocks that are not behind.
        let fresh = token_of(&user, LEEWAY / 2, 2 * DAY);
        for number in [right, ahead] {
            assert_eq!(verdict(&fleet[number], &fresh).await, None);
        }
        // Last seen by Redis's clock, once the ones above are out of the registry.
        let look = async || {
            let path = format!("/v1/users/{user}");
            let body = fleet[right].api.read(&path).await?;
            let seen = body["lastSeen"].as_str().ok_or_else(|| body.to_string())?;
            let seen: Timestamp = seen.parse().map_err(|_| seen.to_owned())?;
            let off = seen.duration_since(Timestamp::now()).abs();
            ensure(off < SignedDuration::from_hours(1), || seen.to_string())
        };
        within(seconds(5.0), "it is said when the user was seen", look).await;
    }

    // An order reaches the connections it is for, however far the clock of their node is from the one that it was given by.
    for node in [ahead, behind] {
        let user = format!("kicked-at-{node}");
        let hello = Hello::with(long_token(&user));
        let kicked = Client::connect(fleet[node].addr, &hello).await.unwrap();
        let answer = fleet[right].api.disconnect(&user, json!({})).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        kicked.ended(seconds(1.0)).await;
    }
    // Whose token is over by the clock of the node is sent away, and nobody else.
    let end = expires_tomorrow.ended(seconds(10.0)).await;
    assert_eq!(end.code(), 4001, "{end:?}");

    // Leases hold, and nobody who stayed within exp was sent away.
    let over = tokio::time::Instant::now() + fleet.plan.lease + fleet.plan.heartbeat;
    while tokio::time::Instant::now() < over {
        let stay: Vec<_> = everybody().collect();
        let look = async || oracle::exact(&fleet, &stay).await;
        within(seconds(2.0), "exact, by wrong clocks", look).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for node in &fleet.nodes {
        for words in ["reaped", "lease has run out", "had lost the lease"] {
            let lines = node.logged(&[words]);
            assert!(lines.is_empty(), "{}: {lines:?}", node.name);
        }
    }
    assert!(clients.iter().all(Client::is_open), "one was sent away");

    run.note("the clocks are set right");
    for (clock, number) in clocks.iter().zip([ahead, behind]) {
        clock.set("+0");
        shows(&fleet[number], &usual, None).await;
    }
    // A ban would outlive the run.
    let lifted = fleet[behind]
        .api
        .call("DELETE", "/v1/users/banned/ban", None);
    lifted.await.unwrap().ok("unban").unwrap();
    assert!(clients.iter().all(Client::is_open), "one was sent away");
    fleet.finish(clients, Duration::from_secs(10)).await;
}
