//! Refresh families.

use std::time::Duration;

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use switchboard::{
    ending::Ending,
    registry::{
        Ban, Bar, EndOrder, EndTarget, Family, FamilyToken, Fence, Grant, LoginId, RegistryError,
        Rotation, Turn,
    },
};

use super::home::{Home, LONG, Peer, all_of, eventually, fleet};

pub(super) const GRACE: Duration = Duration::from_secs(10);

/// The `n`th token of a family.
pub(super) fn token(family: &LoginId, n: u32) -> FamilyToken {
    FamilyToken {
        number: n,
        hash: Sha256::digest(format!("{}.secret.{n}", family.as_str())).into(),
    }
}

/// A token with the number of a family's `n`th, which is another one.
fn namesake(family: &LoginId, n: u32) -> FamilyToken {
    FamilyToken {
        number: n,
        ..token(family, 1_000_000 + n)
    }
}

/// A family of a user, opened with its token 0.
pub(super) async fn open(peer: &Peer, user: &str) -> Family {
    let family = of(peer, user);
    let first = token(&family.id, 0);
    peer.registry.open_family(&family, &first).await.unwrap();
    family
}

fn of(peer: &Peer, user: &str) -> Family {
    Family {
        id: peer.registry.new_family_id(&user.into()),
        user: user.into(),
        claims: json!({"role": "admin", "username": "é\0", "n": [1, null]}),
        expires_at: Timestamp::from_millisecond(Timestamp::now().as_millisecond() + 3_600_000)
            .unwrap(),
    }
}

/// Uses token `n` of a family for token `n + 1`.
pub(super) async fn rotate(peer: &Peer, family: &Family, n: u32) -> Rotation {
    rotate_within(peer, family, n, GRACE).await
}

async fn rotate_within(peer: &Peer, family: &Family, n: u32, grace: Duration) -> Rotation {
    present(peer, family, token(&family.id, n), grace).await
}

async fn present(peer: &Peer, family: &Family, token: FamilyToken, grace: Duration) -> Rotation {
    let turn = Turn {
        presented: &token,
        successor: &self::token(&family.id, token.number + 1),
        grace,
        renew: None,
    };
    peer.registry.rotate(&family.id, turn).await.unwrap().0
}

/// Kills a family that was never refreshed: with a token of its first one's number that is not that.
pub(super) async fn reuse(peer: &Peer, family: &Family) {
    let rotation = present(peer, family, namesake(&family.id, 0), GRACE).await;
    assert_eq!(rotation, Rotation::Reused(family.clone()));
}

/// Orders a family's connections to end.
pub(super) async fn end_session(peer: &Peer, family: &Family) {
    let target = EndTarget::Session {
        user: family.user.clone(),
        session: family.id.clone(),
    };
    let fence = Fence::EndSession(family.id.clone());
    peer.order(&target, Some(&fence), &Ending::of(4503)).await;
}

pub(super) fn by(family: &Family) -> Grant {
    Grant {
        issued_at: Some(Timestamp::now() + SignedDuration::from_secs(60)),
        token_id: None,
        session: Some(family.id.clone()),
        ahead: None,
    }
}

pub(super) async fn a_token_is_passed_on(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let emoji = "😀".repeat(256);
    for user in ["42", "a\0b", "{x}", "\u{1}", &emoji] {
        let family = open(&a, user).await;
        let other = open(&a, user).await;
        assert_ne!(family.id, other.id);
        for n in 0..5 {
            let peer = [&a, &b][n as usize % 2];
            let rotation = rotate(peer, &family, n).await;
            assert_eq!(rotation, Rotation::Rotated(family.clone()));
        }
        assert_eq!(a.bar(user, &by(&family)).await, None);
        assert_eq!(rotate(&b, &other, 0).await, Rotation::Rotated(other));
    }
}

pub(super) async fn a_family_that_is_not_there_is_unknown(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let real = open(&a, "42").await;
    let digit = &real.id.as_str()[..1];
    let elsewhere = if digit == "0" { '1' } else { '0' };
    let misplaced = format!("{elsewhere}{}", &real.id.as_str()[1..]);
    for id in ["", "x", "../../etc", "é", "0\0", "{s0}", &misplaced] {
        let made_up = Family {
            id: id.into(),
            ..real.clone()
        };
        let first = token(&made_up.id, 0);
        let opened = a.registry.open_family(&made_up, &first).await;
        assert!(matches!(opened, Err(RegistryError::Corrupt(_))), "{id}");
        assert_eq!(rotate(&b, &made_up, 0).await, Rotation::Unknown, "{id}");
        let closed = b.registry.close_family(&made_up.id, &first).await.unwrap();
        assert_eq!(closed, None, "{id}");
    }
    let never_opened = of(&a, "42");
    assert_eq!(rotate(&b, &never_opened, 0).await, Rotation::Unknown);
    assert_eq!(rotate(&b, &real, 0).await, Rotation::Rotated(real));
}

pub(super) async fn what_is_issued_before_a_revocation_bears_an_earlier_time(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let family = of(&a, "42");
    let first = token(&family.id, 0);
    let opened = a.registry.open_family(&family, &first).await.unwrap();
    let turn = Turn {
        presented: &first,
        successor: &token(&family.id, 1),
        grace: GRACE,
        renew: None,
    };
    let (rotation, at) = b.registry.rotate(&family.id, turn).await.unwrap();
    assert_eq!(rotation, Rotation::Rotated(family.clone()));
    let at = at.unwrap();
    assert!(opened <= at);
    let ending = Ending::of(Ending::TOKEN_REVOKED);
    let order = EndOrder {
        target: &EndTarget::Revoked { user: "42".into() },
        fence: Some(&Fence::RevokeBefore(None)),
        ending: &ending,
    };
    let ordered = a.registry.order_end(order).await.unwrap();
    assert!(at <= ordered.revoked_before.unwrap());
    let (rotation, later) = b.registry.rotate(&family.id, turn).await.unwrap();
    assert!(matches!(
        rotation,
        Rotation::Refused(Bar::Revoked) | Rotation::Repeated(_)
    ));
    assert!(later.unwrap() >= ordered.revoked_before.unwrap());
}

pub(super) async fn two_tabs_get_the_same_successor(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    for round in 0..20 {
        let family = open(&a, &format!("user{round}")).await;
        let tabs = (0..8).map(|n| rotate([&a, &b][n % 2], &family, 0));
        let mut answers = join_all(tabs).await;
        answers.sort_by_key(|it| matches!(it, Rotation::Repeated(_)));
        assert_eq!(answers[0], Rotation::Rotated(family.clone()));
        for answer in &answers[1..] {
            assert_eq!(*answer, Rotation::Repeated(family.clone()));
        }
        // Both go on from there; the one that comes second has its grace again.
        assert_eq!(
            rotate(&b, &family, 1).await,
            Rotation::Rotated(family.clone())
        );
        assert_eq!(rotate(&a, &family, 1).await, Rotation::Repeated(family));
    }
}

pub(super) async fn a_token_that_is_used_again_kills_its_family(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let sibling = open(&a, "42").await;
    let stranger = open(&a, "43").await;
    // Two back; one with the current one's number that is not it, before the first turn and later.
    for (turns, back) in [(2, Some(0)), (3, Some(1)), (0, None), (2, None)] {
        let family = open(&a, "42").await;
        for n in 0..turns {
            rotate(&a, &family, n).await;
        }
        assert_eq!(b.bar("42", &by(&family)).await, None);
        let id = &family.id;
        let used = back.map_or(namesake(id, turns), |n| token(id, n));
        let reused = Rotation::Reused(family.clone());
        assert_eq!(present(&b, &family, used, GRACE).await, reused);
        // The good token is dead with it, and so is what would follow; and the answer is repeated until the order to end has
        // been given.
        for n in [turns, turns + 1] {
            assert_eq!(rotate(&a, &family, n).await, reused);
        }
        assert_eq!(present(&b, &family, used, GRACE).await, reused);
        assert_eq!(
            b.bar("42", &by(&family)).await,
            Some(Bar::SessionEnded),
            "{turns} turns"
        );
        end_session(&b, &family).await;
        for token in [token(id, turns), token(id, turns + 1), used] {
            let rotation = present(&a, &family, token, GRACE).await;
            assert_eq!(rotation, Rotation::Unknown);
            let closed = a.registry.close_family(id, &token).await;
            assert_eq!(closed.unwrap(), None);
        }
    }
    for (other, user) in [(&sibling, "42"), (&stranger, "43")] {
        assert_eq!(b.bar(user, &by(other)).await, None);
        assert_eq!(rotate(&b, other, 0).await, Rotation::Rotated(other.clone()));
    }
}

pub(super) async fn the_grace_is_short(home: &dyn Home) {
    let [a, _b] = fleet(home, LONG, LONG).await;
    let family = open(&a, "42").await;
    rotate(&a, &family, 0).await;
    eventually("a moment has passed", async || {
        let again = rotate_within(&a, &family, 0, Duration::from_millis(1)).await;
        match again {
            Rotation::Repeated(_) => false,
            Rotation::Reused(_) => true,
            other => panic!("{other:?}"),
        }
    })
    .await;
    assert_eq!(rotate(&a, &family, 1).await, Rotation::Reused(family));
}

pub(super) async fn a_family_is_closed_by_whoever_has_its_token(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    // The last two are newer than the registry's.
    for presented in [1, 0, 2, 9] {
        let family = open(&a, "42").await;
        let other = open(&a, "42").await;
        rotate(&a, &family, 0).await;
        let close_with =
            async |token: FamilyToken| b.registry.close_family(&family.id, &token).await.unwrap();
        let close = async |n| close_with(token(&family.id, n)).await;
        for n in [1, 0] {
            let other = namesake(&family.id, n);
            assert_eq!(close_with(other).await, None, "not its token");
        }
        assert_eq!(b.bar("42", &by(&family)).await, None);
        // Twice, as the order to end may fail.
        for _ in 0..2 {
            assert_eq!(close(presented).await, Some(family.clone()));
        }
        assert_eq!(b.bar("42", &by(&family)).await, Some(Bar::SessionEnded));
        // A tab that comes late is not a thief.
        for n in [1, 0, 5] {
            assert_eq!(rotate(&a, &family, n).await, Rotation::Unknown);
        }
        end_session(&a, &family).await;
        assert_eq!(close(presented).await, None, "nothing is left to do");
        assert_eq!(rotate(&a, &family, 1).await, Rotation::Unknown);
        assert_eq!(rotate(&a, &other, 0).await, Rotation::Rotated(other));
    }
}

pub(super) async fn claims_are_rewritten_where_they_are_as_they_were(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let family = open(&a, "42").await;
    rotate(&a, &family, 0).await;
    let claims = json!({"role": "user"});
    let rewritten = async |family: &Family| {
        let rewriting = b.registry.rewrite_claims(family, &claims);
        rewriting.await.unwrap()
    };
    assert!(rewritten(&family).await);
    assert!(!rewritten(&family).await, "it has others by now");
    assert!(!rewritten(&of(&a, "42")).await, "it is not there");
    let after = Family {
        claims: claims.clone(),
        ..family.clone()
    };
    assert_eq!(rotate(&a, &family, 1).await, Rotation::Rotated(after));
}

pub(super) async fn a_family_is_forgotten_when_it_expires(home: &dyn Home) {
    let [a, _b] = fleet(home, LONG, LONG).await;
    let after =
        |ms: i64| Timestamp::from_millisecond(Timestamp::now().as_millisecond() + ms).unwrap();
    let brief = Family {
        expires_at: after(500),
        ..of(&a, "42")
    };
    let first = token(&brief.id, 0);
    a.registry.open_family(&brief, &first).await.unwrap();
    let renewed = open(&a, "42").await;
    let over = Family {
        expires_at: after(-1),
        ..of(&a, "42")
    };
    let token_of_over = token(&over.id, 0);
    a.registry.open_family(&over, &token_of_over).await.unwrap();
    assert_eq!(rotate(&a, &over, 0).await, Rotation::Unknown);

    let before = Timestamp::now().as_millisecond();
    let turn = Turn {
        presented: &token(&renewed.id, 0),
        successor: &token(&renewed.id, 1),
        grace: GRACE,
        renew: Some(LONG),
    };
    let Rotation::Rotated(family) = a.registry.rotate(&renewed.id, turn).await.unwrap().0 else {
        panic!("not rotated");
    };
    let lives_on = family.expires_at.as_millisecond() - LONG.as_millis() as i64;
    assert!((before..=Timestamp::now().as_millisecond()).contains(&lives_on));
    assert_eq!(
        rotate(&a, &renewed, 1).await,
        Rotation::Rotated(family.clone()),
        "and stays so"
    );

    eventually("it is forgotten", async || {
        // The first call rotates, the next ones are in the grace.
        rotate(&a, &brief, 0).await == Rotation::Unknown
    })
    .await;
    assert!(Timestamp::now() >= brief.expires_at);
    let shorter = Turn {
        presented: &token(&renewed.id, 2),
        successor: &token(&renewed.id, 3),
        grace: GRACE,
        renew: Some(Duration::from_millis(100)),
    };
    assert!(matches!(
        a.registry.rotate(&renewed.id, shorter).await.unwrap().0,
        Rotation::Rotated(_)
    ));
    eventually("it is forgotten", async || {
        rotate(&a, &renewed, 2).await == Rotation::Unknown
    })
    .await;
}

pub(super) async fn what_is_held_against_a_user_is_held_against_its_families(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let family = open(&a, "42").await;
    let ban = Fence::Ban(Ban::default());
    b.order(&all_of("42"), Some(&ban), &Ending::of(4501)).await;
    assert_eq!(rotate(&a, &family, 0).await, Rotation::Refused(Bar::Banned));
    b.registry.unban(&"42".into()).await.unwrap();
    assert_eq!(
        rotate(&a, &family, 0).await,
        Rotation::Rotated(family.clone())
    );

    // A revocation means also what the old login would get from now on, for good.
    let revocation = Fence::RevokeBefore(None);
    let opened_before = async || {
        b.order(&all_of("42"), Some(&revocation), &Ending::of(4502))
            .await;
        rotate(&a, &family, 1).await == Rotation::Refused(Bar::Revoked)
    };
    eventually("a moment has passed since it was opened", opened_before).await;
    let again = open(&a, "42").await;
    assert_eq!(
        rotate(&a, &again, 0).await,
        Rotation::Rotated(again.clone())
    );

    // Another user's order does not reach it, whatever session it names; its user's does.
    let end = Fence::EndSession(again.id.clone());
    let namesake = (0..)
        .map(|n: u32| n.to_string())
        .find(|user| {
            let id = a.registry.new_family_id(&user.as_str().into());
            user != "42" && id.as_str()[..1] == again.id.as_str()[..1]
        })
        .unwrap();
    b.order(&all_of(&namesake), Some(&end), &Ending::of(4503))
        .await;
    assert_eq!(
        rotate(&a, &again, 1).await,
        Rotation::Rotated(again.clone())
    );
    end_session(&b, &again).await;
    assert_eq!(rotate(&a, &again, 2).await, Rotation::Unknown);
    assert_eq!(b.bar("42", &by(&again)).await, Some(Bar::SessionEnded));
}
