//! Registries of another number of shards than by default.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use redis::AsyncCommands as _;
use switchboard::{
    config::Presence,
    connection::Instance,
    registry::{
        Lease, Registry, RegistryError,
        keys::{Keys, Shards},
    },
};

use super::{
    entries, families, fences,
    home::{LONG, Peer, Redis, RedisServer, fleet, timing},
    leases, limits, orders, reads,
    redis::raw,
};

#[tokio::test]
async fn the_contract_holds_for_any_number_of_shards() {
    for count in [1, 4, 64] {
        let shards = Shards::try_from(count).unwrap();
        // Each case has a registry to itself.
        macro_rules! hold {
            ($($module:ident::$case:ident)*) => {$(
                let server = RedisServer::start().await;
                $module::$case(&Redis::of_shards(&server, shards)).await;
            )*};
        }
        hold! {
            entries::a_guest_is_found_by_its_id_only
            entries::an_id_that_others_made_up_is_never_registered
            entries::many_are_unregistered_at_once
            entries::a_lease_lists_what_it_holds
            leases::a_buried_epoch_never_comes_back
            leases::a_node_that_joins_anew_lacks_all_until_it_has_entered
            leases::leaving_takes_everything_along
            reads::pages_hold_everybody_once
            reads::presence_comes_in_the_order_asked_for
            reads::totals_are_exact
            orders::an_order_can_mean_one_connection
            limits::the_oldest_make_room
            fences::a_token_is_revoked_for_whoever_has_it
            fences::a_node_learns_which_of_its_connections_may_not_be_there
            families::a_token_is_passed_on
        }
    }
}

#[tokio::test]
async fn users_are_in_all_shards_that_there_are_and_in_no_others() {
    for count in [4_u8, 64] {
        let server = RedisServer::start().await;
        let home = Redis::of_shards(&server, count.try_into().unwrap());
        let [a, b] = fleet(&home, LONG, LONG).await;
        let (shards, keys) = (a.registry.shards(), Keys::new("switchboard"));
        let mut expected = BTreeMap::new();
        for number in 0..u32::from(count) * 10 {
            let user = number.to_string();
            let connection = a.connect(&user).await;
            assert_eq!(connection.id.as_str().len(), 23);
            assert_eq!(b.ids(&user).await, [connection.id.as_str()]);
            let shard = shards.of_user(&user.as_str().into());
            *expected.entry(shard).or_insert(0_usize) += 1;
        }
        assert_eq!(expected.len(), usize::from(count), "some of each");
        let mut raw = raw(&home).await;
        for (shard, count) in expected {
            let found: usize = raw.zcard(keys.conns(shard)).await.unwrap();
            assert_eq!(found, count);
        }
        let all: BTreeSet<String> = raw.keys("*:generation").await.unwrap();
        assert_eq!(all.len(), usize::from(count), "{all:?}");
    }
}

#[tokio::test]
async fn a_node_of_another_number_of_shards_does_not_join_and_writes_nothing() {
    let server = RedisServer::start().await;
    let home = Redis::of_shards(&server, 4.try_into().unwrap());
    let first = home.registry(&timing(LONG), &Presence::default());
    let first = Peer::join(Arc::new(first), "first").await;
    first.connect("42").await;
    let mut raw = raw(&home).await;
    let before: BTreeSet<String> = raw.keys("*").await.unwrap();
    for other in [1_u8, 8, 16, 64] {
        let home = Redis::of_shards(&server, other.try_into().unwrap());
        let other = home.registry(&timing(LONG), &Presence::default());
        let lease = Lease {
            instance: Instance::random(),
            epoch: 1,
        };
        let refused = other.join(&lease, &first.report).await;
        let Err(RegistryError::Unavailable(why)) = refused else {
            panic!("{refused:?}");
        };
        let numbers = [
            "made with registry.shards = 4",
            &format!("has registry.shards = {}", other.shards().count()),
        ];
        for part in numbers {
            assert!(why.contains(part), "{part} in {why}");
        }
        let after: BTreeSet<String> = raw.keys("*").await.unwrap();
        assert_eq!(after, before);
    }
    assert!(first.beat().await);
}
