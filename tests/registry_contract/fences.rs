//! Bans, revocations and ended sessions, and the orders that come with them.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::{Either, join_all};
use jiff::{SignedDuration, Timestamp};
use switchboard::{
    connection::{Connection, ConnectionId},
    ending::Ending,
    registry::{
        Admission, Ahead, Ban, Bar, EndTarget, Fence, Grant, LoginId, Ordered, TOKEN_MARGIN,
        UserEntry,
    },
};

use super::home::{Home, LONG, all_of, entry, eventually, fleet, is_in, ordered};

fn now() -> Timestamp {
    Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap()
}

fn ahead(time: Timestamp, seconds: i64) -> Timestamp {
    time + SignedDuration::from_secs(seconds)
}

/// A grant of an hour ago.
fn old() -> Grant {
    issued(ahead(now(), -3600))
}

fn issued(at: Timestamp) -> Grant {
    Grant {
        issued_at: Some(at),
        ..Grant::default()
    }
}

fn by_token(id: &str) -> Grant {
    Grant {
        token_id: Some(id.into()),
        ..old()
    }
}

fn by_session(id: &str) -> Grant {
    Grant {
        session: Some(id.into()),
        ..old()
    }
}

fn banned() -> Ending {
    Ending::of(Ending::BANNED)
}

fn revoked() -> Ending {
    Ending::of(Ending::TOKEN_REVOKED)
}

fn ids<'a>(connections: impl IntoIterator<Item = &'a Connection>) -> BTreeSet<ConnectionId> {
    connections.into_iter().map(|it| it.id.clone()).collect()
}

/// Which connections an order lists.
fn listed_by(order: &Ordered) -> BTreeSet<ConnectionId> {
    let listed = order.connections.iter();
    listed.map(|it| it.entry.id.clone()).collect()
}

pub(super) async fn a_ban_keeps_out_until_it_is_lifted(home: &dyn Home) {
    let fleet = fleet(home, LONG, LONG).await;
    let [a, b] = &fleet;
    let connections = [a.connect("42").await, b.connect("42").await];
    b.connect("43").await;
    let ban = Ban {
        reason: Some("spam: \0 é".into()),
        until: None,
    };
    let user = async || b.registry.user(&"42".into()).await;
    assert!(!user().await.unwrap().banned);
    assert_eq!(b.registry.ban_of(&"42".into()).await.unwrap(), None);

    let fence = Fence::Ban(ban.clone());
    let order = a.order(&all_of("42"), Some(&fence), &banned()).await;
    assert_eq!(listed_by(&order), ids(&connections));
    assert_eq!(order.revoked_before, None);
    assert_eq!(ordered(&fleet, &connections).await, ids(&connections));
    for peer in [&a, &b] {
        assert_eq!(peer.bar("42", &Grant::default()).await, Some(Bar::Banned));
        assert_eq!(peer.bar("42", &issued(now())).await, Some(Bar::Banned));
        assert_eq!(peer.bar("43", &Grant::default()).await, None);
        assert_eq!(peer.bar("4", &Grant::default()).await, None);
    }
    // Also for what was there before, and comes back.
    let back = a.again(&connections[0], &old(), 1).await;
    assert_eq!(back, Admission::Ended(banned()));
    assert!(user().await.unwrap().banned);
    assert_eq!(b.registry.ban_of(&"42".into()).await.unwrap(), Some(ban));
    assert_eq!(b.registry.ban_of(&"43".into()).await.unwrap(), None);

    // A user who was never there can be banned, too.
    let other = Fence::Ban(Ban::default());
    let order = a.order(&all_of("{x}\0"), Some(&other), &banned()).await;
    assert_eq!(order, Ordered::default());
    assert_eq!(b.bar("{x}\0", &old()).await, Some(Bar::Banned));
    let absent = b.registry.user(&"{x}\0".into()).await.unwrap();
    let expected = UserEntry {
        banned: true,
        ..UserEntry::default()
    };
    assert_eq!(absent, expected);

    assert!(b.registry.unban(&"42".into()).await.unwrap());
    assert!(!b.registry.unban(&"42".into()).await.unwrap());
    assert!(!user().await.unwrap().banned);
    assert_eq!(a.bar("42", &old()).await, None);
    assert_eq!(b.bar("{x}\0", &old()).await, Some(Bar::Banned));
}

pub(super) async fn a_ban_runs_out(home: &dyn Home) {
    let fleet = fleet(home, LONG, LONG).await;
    let [a, b] = &fleet;
    let connection = b.connect("42").await;
    let until = now() + Duration::from_millis(700);
    let ban = Ban {
        reason: None,
        until: Some(until),
    };
    let put = async |ban: &Ban| {
        let fence = Fence::Ban(ban.clone());
        a.order(&all_of("42"), Some(&fence), &banned()).await
    };
    put(&ban).await;
    let standing = b.registry.ban_of(&"42".into()).await.unwrap();
    let barred = b.bar("42", &old()).await;
    if now() < until {
        assert_eq!(standing, Some(ban.clone()));
        assert_eq!(barred, Some(Bar::Banned));
    }
    eventually("it is over", async || b.bar("42", &old()).await.is_none()).await;
    assert!(now() >= until);
    assert_eq!(b.registry.ban_of(&"42".into()).await.unwrap(), None);
    assert!(!b.registry.user(&"42".into()).await.unwrap().banned);
    assert!(!b.registry.unban(&"42".into()).await.unwrap());

    // One that is over from the start ends nobody, and takes the place of another all the same.
    let later = b.connect("42").await;
    put(&Ban::default()).await;
    assert_eq!(b.bar("42", &old()).await, Some(Bar::Banned));
    b.unregister(&[&connection, &later]).await;
    a.registry.unban(&"42".into()).await.unwrap();
    let connection = b.connect("42").await;
    assert_eq!(put(&ban).await, Ordered::default());
    assert_eq!(ordered(&fleet, [&connection]).await, BTreeSet::new());
    put(&Ban::default()).await;
    assert_eq!(b.bar("42", &old()).await, Some(Bar::Banned));
    assert_eq!(put(&ban).await, Ordered::default());
    assert_eq!(b.bar("42", &old()).await, None);
    // A long one.
    let long = Ban {
        reason: None,
        until: Some(Timestamp::from_second(Timestamp::MAX.as_second()).unwrap()),
    };
    put(&long).await;
    assert_eq!(b.registry.ban_of(&"42".into()).await.unwrap(), Some(long));
}

pub(super) async fn a_revocation_only_goes_forward(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let target = EndTarget::Revoked { user: "42".into() };
    let revoke = async |before| {
        let fence = Fence::RevokeBefore(before);
        let order = a.order(&target, Some(&fence), &revoked()).await;
        assert_eq!(order.connections, []);
        order.revoked_before.unwrap()
    };
    assert_eq!(b.bar("42", &Grant::default()).await, None);
    let time = ahead(now(), -600);
    let judge = async |time: Timestamp| {
        let earlier = time - SignedDuration::from_millis(1);
        assert_eq!(b.bar("42", &issued(earlier)).await, Some(Bar::Revoked));
        assert_eq!(b.bar("42", &issued(time)).await, None);
        // It can't show that it is newer.
        assert_eq!(b.bar("42", &Grant::default()).await, Some(Bar::Revoked));
        assert_eq!(b.bar("43", &issued(earlier)).await, None);
        assert_eq!(b.bar("43", &Grant::default()).await, None);
    };
    assert_eq!(revoke(Some(time)).await, time);
    judge(time).await;
    assert_eq!(revoke(Some(ahead(time, -1))).await, time);
    judge(time).await;
    let later = ahead(time, 1);
    assert_eq!(revoke(Some(later)).await, later);
    judge(later).await;

    let before = now();
    let by_its_clock = revoke(None).await;
    assert!((before..=now()).contains(&by_its_clock));
    judge(by_its_clock).await;
    let to_come = ahead(now(), 600);
    assert_eq!(revoke(Some(to_come)).await, to_come);
    assert_eq!(revoke(None).await, to_come);
    judge(to_come).await;
}

pub(super) async fn a_revocation_ends_what_is_older(home: &dyn Home) {
    let fleet = fleet(home, LONG, LONG).await;
    let [a, b] = &fleet;
    let target = EndTarget::Revoked { user: "42".into() };
    let time = ahead(now(), -60);
    let older = b.connect_by("42", &old()).await;
    let undated = a.connect_by("42", &Grant::default()).await;
    let same = a.connect_by("42", &issued(time)).await;
    let newer = b.connect_by("42", &issued(ahead(time, 120))).await;
    let all = [&older, &undated, &same, &newer];
    // Nothing is revoked.
    let order = a.order(&target, None, &revoked()).await;
    assert_eq!(order, Ordered::default());

    let fence = Fence::RevokeBefore(Some(time));
    let order = a.order(&target, Some(&fence), &revoked()).await;
    assert_eq!(listed_by(&order), ids([&older, &undated]));
    assert_eq!(ordered(&fleet, all).await, ids([&older, &undated]));
    // Without a fence it means those that an earlier one is held against.
    a.unregister(&[&undated]).await;
    let order = a.order(&target, None, &revoked()).await;
    assert_eq!(listed_by(&order), ids([&older]));
    assert_eq!(order.revoked_before, None);
    b.unregister(&[&older]).await;
    let fence = Fence::RevokeBefore(None);
    let order = a.order(&target, Some(&fence), &revoked()).await;
    assert_eq!(listed_by(&order), ids([&same]));
    assert_eq!(ordered(&fleet, all).await, ids([&same]));
}

pub(super) async fn a_kick_that_revokes_means_everybody_but_those_that_stay(home: &dyn Home) {
    let fleet = fleet(home, LONG, LONG).await;
    let [a, b] = &fleet;
    let older = b.connect_by("42", &old()).await;
    // By an issuer whose clock is ahead.
    let newer = a.connect_by("42", &issued(ahead(now(), 60))).await;
    let grant = old();
    let stays = b.connect_by("42", &grant).await;
    let target = EndTarget::User {
        user: "42".into(),
        except: vec![stays.id.clone()],
    };
    let fence = Fence::RevokeBefore(None);
    let order = a
        .order(&target, Some(&fence), &Ending::of(Ending::DISCONNECTED))
        .await;
    assert_eq!(listed_by(&order), ids([&older, &newer]));
    assert!(order.revoked_before.is_some());
    assert_eq!(
        ordered(&fleet, [&older, &newer, &stays]).await,
        ids([&older, &newer])
    );
    // It stays for as long as it is listed, by the grant that it has and by no other of those that are revoked.
    let asked = [(entry(&stays), grant.clone())];
    let standing = b.registry.standing(&asked).await.unwrap();
    assert_eq!(standing, [(entry(&stays), Bar::Revoked)]);
    assert!(is_in(&b.again(&stays, &grant, 2).await));
    let refused = Admission::Refused(Bar::Revoked);
    for other in [issued(ahead(now(), -1800)), Grant::default()] {
        assert_eq!(b.again(&stays, &other, 3).await, refused);
    }
    b.unregister(&[&stays]).await;
    assert_eq!(b.again(&stays, &grant, 4).await, refused);
}

pub(super) async fn a_token_is_revoked_for_whoever_has_it(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let long = "x".repeat(5000);
    for token in ["t1", "", "{s0}:\0é", &long] {
        assert_eq!(b.bar("42", &by_token(token)).await, None);
        a.registry.revoke_token(token, None).await.unwrap();
        a.registry.revoke_token(token, None).await.unwrap();
        // Users of every shard.
        for n in 0..64 {
            let user = format!("user{n}");
            assert_eq!(b.bar(&user, &by_token(token)).await, Some(Bar::Revoked));
        }
    }
    assert_eq!(b.bar("42", &by_token("t2")).await, None);
    assert_eq!(b.bar("42", &old()).await, None);
    let guest = b.guest();
    let admission = b.admit(&guest, &by_token("t1"), None).await.unwrap();
    assert!(is_in(&admission));

    let margin = SignedDuration::try_from(TOKEN_MARGIN).unwrap();
    let over = now() - margin;
    a.registry.revoke_token("t2", Some(over)).await.unwrap();
    assert_eq!(b.bar("42", &by_token("t2")).await, None);
    // Its own expiry is not the end of it: there is leeway.
    a.registry.revoke_token("t2", Some(now())).await.unwrap();
    assert_eq!(b.bar("42", &by_token("t2")).await, Some(Bar::Revoked));
    a.registry.revoke_token("t2", Some(over)).await.unwrap();
    assert_eq!(b.bar("42", &by_token("t2")).await, Some(Bar::Revoked));
}

pub(super) async fn a_session_that_has_ended_stays_ended(home: &dyn Home) {
    let fleet = fleet(home, LONG, LONG).await;
    let [a, b] = &fleet;
    let long = "s".repeat(3000);
    for session in ["s1", "a\0b", "{x}", &long] {
        let grant = by_session(session);
        let mine = a.connect_by("42", &grant).await;
        let theirs = b.connect_by("42", &grant).await;
        let other = b.connect_by("42", &by_session("s2")).await;
        let none = b.connect_by("42", &old()).await;
        let namesake = b.connect_by("43", &grant).await;
        let target = EndTarget::Session {
            user: "42".into(),
            session: session.into(),
        };
        let fence = Fence::EndSession(session.into());
        let ending = Ending::of(Ending::SESSION_ENDED);
        let order = a.order(&target, Some(&fence), &ending).await;
        assert_eq!(listed_by(&order), ids([&mine, &theirs]));
        let all = [&mine, &theirs, &other, &none, &namesake];
        assert_eq!(ordered(&fleet, all).await, ids([&mine, &theirs]));
        assert_eq!(b.bar("42", &grant).await, Some(Bar::SessionEnded));
        let new = Grant {
            issued_at: Some(now()),
            ..grant.clone()
        };
        assert_eq!(b.bar("42", &new).await, Some(Bar::SessionEnded));
        assert_eq!(b.bar("42", &by_session("s2")).await, None);
        assert_eq!(b.bar("42", &old()).await, None);
        assert_eq!(b.bar("43", &grant).await, None);
    }
    // A session can be ended by ending one connection of it.
    let one = b.connect_by("42", &by_session("s3")).await;
    let target = EndTarget::Connection(entry(&one));
    let fence = Fence::EndSession("s3".into());
    a.order(&target, Some(&fence), &Ending::of(Ending::LOGGED_OUT))
        .await;
    assert_eq!(
        b.bar("42", &by_session("s3")).await,
        Some(Bar::SessionEnded)
    );
}

pub(super) async fn what_is_asserted_again_is_held_against_the_fences_too(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let connection = a.connect_by("42", &old()).await;
    let stays = a.connect_by("42", &old()).await;
    let fence = Fence::RevokeBefore(Some(ahead(now(), -60)));
    let revocation = EndTarget::Revoked { user: "42".into() };
    let spares_all = EndTarget::User {
        user: "42".into(),
        except: vec![connection.id.clone(), stays.id.clone()],
    };
    b.order(&spares_all, Some(&fence), &revoked()).await;

    let refreshed = Connection {
        expires_at: Some(ahead(connection.connected_at, 7200)),
        ..connection.clone()
    };
    let kept = async || b.registry.connection(&connection.id).await.unwrap();
    for grant in [issued(ahead(now(), -1800)), Grant::default()] {
        let refused = a.again(&refreshed, &grant, 2).await;
        assert_eq!(refused, Admission::Refused(Bar::Revoked));
        assert_eq!(kept().await, Some(connection.clone()));
    }
    assert!(is_in(&a.again(&refreshed, &issued(now()), 2).await));
    assert_eq!(kept().await, Some(refreshed.clone()));
    // It is the new grant that counts from here on.
    let order = b.order(&revocation, None, &revoked()).await;
    assert_eq!(listed_by(&order), ids([&stays]));

    b.registry.revoke_token("t", None).await.unwrap();
    let new = Grant {
        issued_at: Some(now()),
        ..by_token("t")
    };
    let refused = a.again(&refreshed, &new, 3).await;
    assert_eq!(refused, Admission::Refused(Bar::Revoked));
    let new = Grant {
        issued_at: Some(now()),
        ..by_session("s")
    };
    assert!(is_in(&a.again(&refreshed, &new, 4).await));
    // What was said before it and comes late is not what counts then.
    assert!(is_in(&a.again(&connection, &issued(now()), 2).await));
    let target = EndTarget::Session {
        user: "42".into(),
        session: "s".into(),
    };
    let fence = Fence::EndSession("s".into());
    let order = b.order(&target, Some(&fence), &revoked()).await;
    assert_eq!(listed_by(&order), ids([&connection]));
    // It has been ordered to end itself.
    let ended = a.again(&refreshed, &new, 4).await;
    assert_eq!(ended, Admission::Ended(revoked()));
    assert_eq!(b.bar("42", &new).await, Some(Bar::SessionEnded));
    let fence = Fence::Ban(Ban::default());
    let last = a.connect_by("42", &issued(now())).await;
    let spares_it = EndTarget::User {
        user: "42".into(),
        except: vec![last.id.clone()],
    };
    b.order(&spares_it, Some(&fence), &banned()).await;
    let refused = a.again(&last, &issued(now()), 2).await;
    assert_eq!(refused, Admission::Refused(Bar::Banned));
    assert!(b.ids("42").await.contains(&last.id.to_string()));
}

/// An issuer's clock may be ahead of the registry's.
pub(super) async fn a_token_of_the_future_is_as_old_as_it_was_when_it_was_first_seen(
    home: &dyn Home,
) {
    let fleet = fleet(home, LONG, LONG).await;
    let [a, b] = &fleet;
    let expires_at = ahead(now(), 1200);
    let future = |digest: &str| Grant {
        ahead: Some(Ahead {
            digest: digest.into(),
            expires_at,
        }),
        ..issued(ahead(now(), 600))
    };
    let target = EndTarget::Revoked { user: "42".into() };
    let revoke = async || {
        // A revocation counts in milliseconds: one passes first.
        let seen = now();
        eventually("a moment has passed", async || now() > seen).await;
        let fence = Fence::RevokeBefore(None);
        a.order(&target, Some(&fence), &revoked()).await
    };
    let there = b.connect_by("42", &future("one")).await;
    assert_eq!(a.bar("42", &future("two")).await, None);
    assert_eq!(a.bar("43", &future("two")).await, None);

    let order = revoke().await;
    assert_eq!(listed_by(&order), ids([&there]));
    assert_eq!(ordered(&fleet, [&there]).await, ids([&there]));
    let old = ["one", "two"].map(future);
    for peer in &fleet {
        for grant in &old {
            assert_eq!(peer.bar("42", grant).await, Some(Bar::Revoked));
            assert_eq!(peer.bar("43", grant).await, None);
        }
    }
    let asked = old.map(|grant| (entry(&there), grant));
    let standing = a.registry.standing(&asked).await.unwrap();
    assert_eq!(standing.len(), 2);

    // One that nobody has seen before is new, until the next.
    assert_eq!(b.bar("42", &future("three")).await, None);
    let newer = b.connect_by("42", &future("three")).await;
    let asked = [(entry(&newer), future("three"))];
    assert_eq!(a.registry.standing(&asked).await.unwrap(), []);
    assert!(is_in(&b.again(&newer, &future("three"), 2).await));
    b.unregister(&[&there]).await;
    let order = revoke().await;
    assert_eq!(listed_by(&order), ids([&newer]));
    assert_eq!(a.bar("42", &future("three")).await, Some(Bar::Revoked));
    // It is not asserted back either.
    b.unregister(&[&newer]).await;
    let again = b.again(&newer, &future("three"), 2).await;
    assert!(!is_in(&again), "{again:?}");
}

pub(super) async fn nothing_is_held_against_a_guest(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let guest = a.guest();
    a.register(&guest).await;
    for fence in [
        Fence::Ban(Ban::default()),
        Fence::RevokeBefore(None),
        Fence::EndSession("s".into()),
    ] {
        let target = EndTarget::Connection(entry(&guest));
        let order = b.order(&target, Some(&fence), &banned()).await;
        assert_eq!(listed_by(&order), ids([&guest]));
        assert_eq!(order.revoked_before, None);
        for grant in [Grant::default(), by_session("s"), by_token("t")] {
            let other = b.guest();
            let admission = b.admit(&other, &grant, None).await.unwrap();
            assert!(is_in(&admission));
            assert!(is_in(&b.again(&other, &grant, 2).await));
            let standing = b.registry.standing(&[(entry(&other), grant)]).await;
            assert_eq!(standing.unwrap(), []);
        }
    }
}

pub(super) async fn a_node_learns_which_of_its_connections_may_not_be_there(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let put = async |user: &str, fence: Fence| {
        b.order(&all_of(user), Some(&fence), &banned()).await;
    };
    assert_eq!(a.registry.standing(&[]).await.unwrap(), []);
    let mut asked = Vec::new();
    let mut expected = BTreeSet::new();
    for n in 0..600 {
        let user = format!("user{n}");
        let (grant, bar) = match n % 8 {
            0 => {
                put(&user, Fence::Ban(Ban::default())).await;
                put(&user, Fence::RevokeBefore(None)).await;
                (old(), Some(Bar::Banned))
            }
            1 => {
                put(&user, Fence::RevokeBefore(Some(ahead(now(), -60)))).await;
                (old(), Some(Bar::Revoked))
            }
            2 => {
                put(&user, Fence::RevokeBefore(Some(ahead(now(), -60)))).await;
                (Grant::default(), Some(Bar::Revoked))
            }
            3 => {
                put(&user, Fence::RevokeBefore(Some(ahead(now(), -60)))).await;
                (issued(now()), None)
            }
            4 => {
                put(&user, Fence::EndSession("s".into())).await;
                (by_session("s"), Some(Bar::SessionEnded))
            }
            5 => {
                put(&user, Fence::EndSession("s".into())).await;
                (by_session("t"), None)
            }
            6 => (by_token("t"), Some(Bar::Revoked)),
            _ => (by_token("u"), None),
        };
        // Nobody looks whether they are registered.
        let entry = entry(&a.connection(&user));
        expected.extend(bar.map(|bar| (entry.clone(), bar)));
        asked.push((entry, grant));
    }
    b.registry.revoke_token("t", None).await.unwrap();
    let standing = a.registry.standing(&asked).await.unwrap();
    assert_eq!(standing.len(), expected.len());
    assert_eq!(standing.into_iter().collect::<BTreeSet<_>>(), expected);
}

pub(super) async fn nobody_slips_in_behind_a_fence(home: &dyn Home) {
    let fleet = fleet(home, LONG, LONG).await;
    let [a, b] = &fleet;
    let (mut listed, mut refused) = (0, 0);
    for round in 0..60_usize {
        let user = format!("user{round}");
        let grant = by_session("s");
        let session = || LoginId::from("s");
        let (target, fence, bar) = match round % 4 {
            0 => (all_of(&user), Fence::Ban(Ban::default()), Bar::Banned),
            1 => (all_of(&user), Fence::RevokeBefore(None), Bar::Revoked),
            2 => (
                EndTarget::Revoked {
                    user: user.as_str().into(),
                },
                Fence::RevokeBefore(None),
                Bar::Revoked,
            ),
            _ => (
                EndTarget::Session {
                    user: user.as_str().into(),
                    session: session(),
                },
                Fence::EndSession(session()),
                Bar::SessionEnded,
            ),
        };
        let comers: Vec<_> = (0..12)
            .map(|n| &fleet[n % 2])
            .map(|peer| (peer, peer.connection(&user)))
            .collect();
        // In the midst of those that come, in another place each time.
        let ending = banned();
        let mut calls: Vec<_> = comers
            .iter()
            .map(|(peer, connection)| Either::Left(peer.admit(connection, &grant, None)))
            .collect();
        let giver = &fleet[round % 2];
        calls.insert(
            round % 13,
            Either::Right(giver.order(&target, Some(&fence), &ending)),
        );
        let answers = join_all(calls.into_iter().map(async |call| match call {
            Either::Left(admission) => Either::Left(admission.await.unwrap()),
            Either::Right(order) => Either::Right(order.await),
        }))
        .await;
        let (mut entered, mut meant) = (BTreeSet::new(), None);
        let mut comers = comers.iter();
        for answer in answers {
            match answer {
                Either::Left(Admission::Admitted { .. }) => {
                    entered.insert(comers.next().unwrap().1.id.clone());
                }
                Either::Left(Admission::Ended(ending)) => panic!("{ending:?}"),
                Either::Left(Admission::Refused(why)) => {
                    assert_eq!(why, bar);
                    comers.next().unwrap();
                    refused += 1;
                }
                Either::Right(order) => meant = Some(listed_by(&order)),
            }
        }
        assert_eq!(Some(&entered), meant.as_ref(), "round {round}");
        listed += entered.len();
        assert_eq!(a.bar(&user, &grant).await, Some(bar));
        assert_eq!(b.bar(&user, &grant).await, Some(bar));
    }
    assert!(listed > 0 && refused > 0, "{listed} in, {refused} out");
}
