//! Any text as an id, a cursor or a name: it goes round as it is, or is refused.

use proptest::{collection::vec, prelude::*, test_runner::TestCaseError};
use switchboard::{
    connection::UserId,
    registry::{
        EndTarget, Entry, FamilyToken, Lease, LoginId, Recipient, RegistryError,
        keys::{Keys, Shards, escape, unescape},
    },
};

use super::home::Home;

proptest! {
    #[test]
    fn an_escaped_text_comes_back_and_keeps_its_place(a in any::<String>(), b in any::<String>()) {
        let (zero_a, zero_b) = (a.replace('a', "\0").replace('e', "\u{1}"), b.replace('a', "\0"));
        for (a, b) in [(&a, &b), (&zero_a, &zero_b), (&zero_a, &b)] {
            prop_assert!(!escape(a).contains(&0));
            prop_assert_eq!(unescape(&escape(a)), Some(a.clone()));
            prop_assert_eq!(escape(a).cmp(&escape(b)), a.as_bytes().cmp(b.as_bytes()));
        }
    }

    #[test]
    fn bytes_are_unescaped_or_refused(bytes in vec(prop_oneof![0..3_u8, any::<u8>()], 0..20)) {
        if let Some(text) = unescape(&bytes) {
            prop_assert_eq!(escape(&text), bytes);
        }
    }

    #[test]
    fn a_made_up_id_has_no_shard_but_its_own(id in "[0-9a-gA-F][A-Za-z0-9_\\-:{}]{20,23}|.{0,30}", user in any::<String>()) {
        let user = UserId::from(user);
        let entry = Entry { user: Some(user.clone()), id: id.as_str().into() };
        if let Some(shard) = Shards::default().of_entry(&entry) {
            prop_assert_eq!(shard, Shards::default().of_user(&user));
        }
        let family = LoginId::from(id);
        if let Some(shard) = Shards::default().of_family(&family) {
            // Its key can't leave the slot, whatever is in it.
            let key = Keys::new("p").family(shard, &family);
            prop_assert_eq!(key.matches('{').count(), 1, "{}", key);
        }
    }

    #[test]
    fn a_lease_is_read_or_refused(text in any::<String>(), epoch in any::<u64>()) {
        if let Ok(lease) = text.parse::<Lease>() {
            prop_assert_eq!(lease.to_string().parse::<Lease>().unwrap(), lease);
        }
        let lease = Lease { instance: text.into(), epoch };
        prop_assert_eq!(lease.to_string().parse::<Lease>().unwrap(), lease);
    }
}

/// Nothing that callers make up is more than a bad cursor, or nobody.
pub(super) async fn carry_out(home: &Home, text: &str) -> Result<(), TestCaseError> {
    let registry = &home.nodes[0];
    match registry.users(Some(text), 10).await {
        Ok(page) => prop_assert!(page.users.is_empty() && page.next.is_none()),
        Err(error) => prop_assert!(matches!(error, RegistryError::BadCursor), "{}", error),
    }
    let answered = async {
        let (user, id) = (UserId::from(text), text.into());
        let found = registry.connection(&id).await?;
        let entry = Entry {
            user: Some(user.clone()),
            id,
        };
        let guest = Entry {
            user: None,
            ..entry.clone()
        };
        for recipient in [
            Recipient::User(user.clone()),
            Recipient::Connection(entry.id.clone()),
        ] {
            assert!(registry.holders(&recipient).await?.is_empty());
        }
        assert!(
            registry
                .listed(&[entry.clone(), guest.clone()])
                .await?
                .is_empty()
        );
        registry.revoke_token(text, None).await?;
        let order = switchboard::registry::EndOrder {
            target: &EndTarget::Connection(entry),
            fence: None,
            ending: &switchboard::ending::Ending::of(4500),
        };
        let ordered = registry.order_end(order).await?;
        let token = FamilyToken {
            number: 0,
            hash: [0; 32],
        };
        let close = registry.close_family(&text.into(), &token).await?;
        Ok::<_, RegistryError>((
            found,
            ordered.connections,
            close,
            registry.user(&user).await?.connections,
        ))
    };
    let (found, ordered, close, connections) = answered
        .await
        .map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!((found, close), (None, None));
    prop_assert_eq!((ordered, connections), (Vec::new(), Vec::new()));
    Ok(())
}
