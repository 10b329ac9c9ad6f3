//! The contract of `switchboard::registry`, held against all of its homes.
//!
//! A case is a function that takes a home; the macro below runs each against each. What only Redis has is in `redis`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod calls;
mod entries;
mod families;
mod fences;
mod home;
mod leases;
mod limits;
mod lost_rotations;
mod orders;
mod outbox;
mod peer;
mod reads;
mod redis;
mod redis_bounds;
mod redis_cluster;
mod redis_fences;
mod redis_losses;
mod redis_reaping;
mod redis_returning;
mod redis_shards;
mod rooms;
mod schema;
#[path = "../support/mod.rs"]
mod support;
mod unreadable;

use support::{cluster, redis_server};

macro_rules! conformance {
    ($($module:ident: $($case:ident)*;)*) => {
        mod in_memory {
            $($(
                #[tokio::test]
                async fn $case() {
                    super::$module::$case(&super::home::Memory).await;
                }
            )*)*
        }

        mod in_redis {
            $($(
                #[tokio::test]
                async fn $case() {
                    let server = super::home::RedisServer::start().await;
                    super::$module::$case(&super::home::Redis::of(&server)).await;
                }
            )*)*
        }

        mod in_a_cluster {
            $($(
                #[tokio::test]
                async fn $case() {
                    let cluster = super::cluster::Cluster::shared().await;
                    super::$module::$case(&super::home::InCluster::of(&cluster)).await;
                }
            )*)*
        }
    };
}

conformance! {
    entries:
        a_registered_connection_is_listed_until_it_is_unregistered
        connections_and_devices_are_counted
        writes_can_be_repeated
        any_text_can_be_a_user
        a_guest_is_found_by_its_id_only
        what_is_asserted_again_is_as_it_is_by_its_last_version
        an_id_that_others_made_up_is_never_registered
        many_are_unregistered_at_once
        a_lease_lists_what_it_holds;
    leases:
        a_lapsed_lease_is_left_out_of_every_answer_at_once
        a_node_without_a_lease_is_told_nothing_of_who_is_there
        two_reapers_remove_each_entry_once
        a_lease_that_holds_is_not_reaped
        a_lease_that_is_late_goes_on_unless_it_is_buried
        a_buried_epoch_never_comes_back
        a_node_that_joins_anew_lacks_all_until_it_has_entered
        reaping_the_old_epoch_leaves_the_new_one_alone
        unregistering_under_the_old_epoch_leaves_the_new_one_alone
        leaving_takes_everything_along
        nodes_are_what_their_last_heartbeat_said
        a_report_between_heartbeats_does_not_prolong_the_lease;
    reads:
        pages_hold_everybody_once
        a_page_goes_on_after_a_user_that_has_gone
        a_foreign_cursor_is_refused
        presence_comes_in_the_order_asked_for
        last_seen_is_kept_for_as_long_as_configured
        last_seen_of_a_dead_nodes_user_is_its_last_heartbeat
        totals_are_exact;
    orders:
        holders_of_a_user_are_the_nodes_that_hold_it
        a_guest_that_is_ordered_to_end_is_not_released
        the_holder_of_a_connection_is_the_node_that_holds_it
        an_order_lists_what_it_means_and_is_found_by_whoever_missed_it
        an_order_can_mean_one_connection
        an_order_stands_until_its_node_has_carried_it_out
        an_order_outlives_the_reaping_of_its_node
        a_kick_means_who_was_there_and_nobody_who_comes_after
        a_kick_is_given_up_for_one_that_says_more
        of_too_many_kicks_the_oldest_are_merged;
    limits:
        one_too_many_is_refused
        those_that_are_ordered_to_end_do_not_count
        the_oldest_make_room
        equals_make_room_in_the_order_of_their_ids
        a_dead_nodes_connections_do_not_count
        who_was_let_in_before_is_held_to_no_limit
        many_connections_of_one_user_are_counted
        a_rush_does_not_get_past_the_limit
        newcomers_are_counted_together_for_a_while;
    fences:
        a_ban_keeps_out_until_it_is_lifted
        a_ban_runs_out
        a_revocation_only_goes_forward
        a_revocation_ends_what_is_older
        a_kick_that_revokes_means_everybody_but_those_that_stay
        a_token_is_revoked_for_whoever_has_it
        a_session_that_has_ended_stays_ended
        what_is_asserted_again_is_held_against_the_fences_too
        a_token_of_the_future_is_as_old_as_it_was_when_it_was_first_seen
        nothing_is_held_against_a_guest
        a_node_learns_which_of_its_connections_may_not_be_there
        nobody_slips_in_behind_a_fence;
    rooms:
        a_room_has_its_members_whatever_their_nodes
        rooms_of_any_name_are_listed_by_namespace_and_prefix
        the_members_of_a_dead_node_are_gone_with_it
        a_lasting_membership_is_told_to_who_comes_after_it
        a_lasting_membership_is_found_whatever_was_written_at_once
        an_order_for_a_room_means_its_members;
    calls:
        a_call_is_claimed_by_one_and_its_answer_kept
        a_call_that_did_nothing_is_free_and_one_that_may_have_is_its_own;
    outbox:
        what_happens_is_kept_once_and_in_order
        who_comes_back_in_time_was_not_gone
        the_end_of_a_node_is_told_once
        rooms_are_told_of_by_their_first_and_last_member
        an_event_is_kept_for_whom_it_is
        too_many_and_too_old_are_dropped
        one_node_delivers_at_a_time;
    families:
        a_token_is_passed_on
        a_family_that_is_not_there_is_unknown
        what_is_issued_before_a_revocation_bears_an_earlier_time
        two_tabs_get_the_same_successor
        a_token_that_is_used_again_kills_its_family
        the_grace_is_short
        a_family_is_closed_by_whoever_has_its_token
        claims_are_rewritten_where_they_are_as_they_were
        a_family_is_forgotten_when_it_expires
        what_is_held_against_a_user_is_held_against_its_families;
    lost_rotations:
        a_token_that_is_newer_than_the_registry_is_the_current_one
        a_newer_token_is_held_to_what_every_token_is;
}
