//! Refresh families of which the registry has lost the last rotations, as a Redis may whose master fails.

use switchboard::{
    ending::Ending,
    registry::{Ban, Bar, Fence, Rotation, Turn},
};

use super::{
    families::{GRACE, by, end_session, open, rotate, token},
    home::{Home, LONG, all_of, fleet},
};

pub(super) async fn a_token_that_is_newer_than_the_registry_is_the_current_one(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    // How many rotations were lost, before the first that was kept and after it.
    for (kept, newest) in [(0, 1), (0, 7), (1, 2), (2, 4)] {
        let family = open(&a, "42").await;
        for n in 0..kept {
            rotate(&a, &family, n).await;
        }
        let rotation = rotate(&b, &family, newest).await;
        assert_eq!(rotation, Rotation::Recovered(family.clone()));
        // It is a token like any other from here on: another tab has its grace, and its successor rotates.
        let rotation = rotate(&a, &family, newest).await;
        assert_eq!(rotation, Rotation::Repeated(family.clone()));
        let rotation = rotate(&a, &family, newest + 1).await;
        assert_eq!(rotation, Rotation::Rotated(family.clone()));
        assert_eq!(b.bar("42", &by(&family)).await, None);
        // Another holder of it comes too late, and so does one with a token that was lost or used before.
        let rotation = rotate(&b, &family, newest).await;
        assert_eq!(rotation, Rotation::Reused(family));
    }
    for old in [0, 1, 2] {
        let family = open(&a, "42").await;
        rotate(&a, &family, 0).await;
        let rotation = rotate(&a, &family, 3).await;
        assert_eq!(rotation, Rotation::Recovered(family.clone()));
        let rotation = rotate(&b, &family, old).await;
        assert_eq!(rotation, Rotation::Reused(family), "{old}");
    }
    // A thief may be the first to come after a loss, with the token that is current again. The user's own is newer for once,
    // and the thief is found out by the next.
    let family = open(&a, "42").await;
    let thief = rotate(&b, &family, 0).await;
    assert_eq!(thief, Rotation::Rotated(family.clone()));
    let user = rotate(&a, &family, 2).await;
    assert_eq!(user, Rotation::Recovered(family.clone()));
    let thief = rotate(&b, &family, 1).await;
    assert_eq!(thief, Rotation::Reused(family));
}

pub(super) async fn a_newer_token_is_held_to_what_every_token_is(home: &dyn Home) {
    let [a, b] = fleet(home, LONG, LONG).await;
    let family = open(&a, "42").await;
    let ban = Fence::Ban(Ban::default());
    b.order(&all_of("42"), Some(&ban), &Ending::of(4501)).await;
    assert_eq!(rotate(&a, &family, 5).await, Rotation::Refused(Bar::Banned));
    b.registry.unban(&"42".into()).await.unwrap();
    // It was refused, and has changed nothing.
    assert_eq!(
        rotate(&a, &family, 0).await,
        Rotation::Rotated(family.clone())
    );
    let turn = Turn {
        presented: &token(&family.id, 5),
        successor: &token(&family.id, 6),
        grace: GRACE,
        renew: Some(LONG),
    };
    let (rotation, at) = a.registry.rotate(&family.id, turn).await.unwrap();
    let Rotation::Recovered(renewed) = rotation else {
        panic!("{rotation:?}");
    };
    let lives_on = renewed.expires_at.duration_since(at.unwrap());
    assert_eq!(lives_on.as_millis(), LONG.as_millis() as i128);

    end_session(&b, &family).await;
    assert_eq!(rotate(&a, &family, 9).await, Rotation::Unknown);
}
