//! The scripts of `src/registry/lua`, each behind the functions that they share.

use redis::Script;

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {
        /// Each is a constant: what differs between calls goes in as KEYS and ARGV, as the head of its file says.
        #[derive(Debug)]
        pub(super) struct Scripts {
            $($(#[$doc])* pub(super) $name: Script,)*
        }

        impl Scripts {
            pub(super) fn new() -> Self {
                Self {
                    $($name: Script::new(concat!(
                        include_str!("../lua/prelude.lua"),
                        "\n",
                        include_str!(concat!("../lua/", $file, ".lua")),
                    )),)*
                }
            }
        }
    };
}

scripts! {
    heartbeat = "heartbeat";
    raise = "raise";
    report = "report";
    bury = "bury";
    forget = "forget";
    mark = "mark";
    recount = "recount";
    assert = "assert";
    remove = "remove";
    order_end = "order_end";
    revoke_token = "revoke_token";
    open_family = "open_family";
    rotate = "rotate";
    close_family = "close_family";
    rewrite_claims = "rewrite_claims";
    claim_call = "claim_call";
    settle_call = "settle_call";
    change_members = "change_members";
    keep_in_room = "keep_in_room";
    unlist_kept = "unlist_kept";
    deliver = "deliver";
    tell_left = "tell_left";
    keep_event = "keep_event";
    prune = "prune";
    carry = "carry";
}
