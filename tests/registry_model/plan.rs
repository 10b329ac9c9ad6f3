//! Random operations. They name things by numbers, which the world takes modulo what there is, so that any part of a
//! plan is a plan: that is what lets it shrink.

use proptest::{collection::vec, option, prelude::*};

#[derive(Clone, Copy, Debug)]
pub(super) struct GrantPick {
    /// When it was issued: 0 is not said, then ever later; the last one is in the future.
    pub(super) issued: u8,
    pub(super) token: u8,
    pub(super) session: u8,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct LimitPick {
    pub(super) max: u8,
    pub(super) evicts: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum TargetPick {
    User { user: u8, except: Option<u16> },
    Revoked { user: u8 },
    Session { user: u8, session: u8 },
    Connection { of: u16 },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum FencePick {
    /// 0: for ever, 1: until a day from now, 2: until a day ago.
    Ban(u8),
    /// 0: now; else as [`GrantPick::issued`].
    Revoke(u8),
    EndSession(u8),
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Register {
        node: u8,
        /// None: a guest.
        user: Option<u8>,
        device: u8,
        /// When it began: 0 is now, then ever later times of yesterday.
        age: u8,
        grant: GrantPick,
        limit: Option<LimitPick>,
        /// The call is made again, as if its answer had been lost.
        twice: bool,
    },
    /// A node asserts a connection that it ever had, which may be there, or be gone.
    Again {
        node: u8,
        of: u16,
        /// Of one that has been let in; else as of a newcomer.
        known: bool,
        limit: Option<LimitPick>,
    },
    /// `version`: 0 is one before the last, 1 the last, 2 the next.
    Change {
        node: u8,
        of: u16,
        device: u8,
        grant: GrantPick,
        version: u8,
        twice: bool,
    },
    Release {
        node: u8,
        of: u16,
        twice: bool,
    },
    /// `stale`: under the lease before.
    Unregister {
        node: u8,
        of: Vec<u16>,
        stale: bool,
        twice: bool,
    },
    Beat {
        node: u8,
    },
    Report {
        node: u8,
        connections: u8,
    },
    /// The next epoch, and what the node knows is asserted again.
    Recover {
        node: u8,
        twice: bool,
    },
    /// The node hangs until its lease has run out.
    Hang {
        node: u8,
    },
    /// Killed; another run comes in its place.
    Restart {
        node: u8,
    },
    /// Ends in order; another run comes in its place.
    Leave {
        node: u8,
        twice: bool,
    },
    /// `by_two`: at the same moment.
    Reap {
        lease: u8,
        by_two: bool,
    },
    Order {
        node: u8,
        target: TargetPick,
        fence: Option<FencePick>,
        code: u8,
        twice: bool,
    },
    Unban {
        user: u8,
        twice: bool,
    },
    /// `until`: 0 is not said, 1 in a day, 2 ten days ago.
    RevokeToken {
        token: u8,
        until: u8,
        twice: bool,
    },
    Open {
        user: u8,
        expired: bool,
        token: u8,
    },
    Rotate {
        family: u8,
        presented: u8,
        successor: u8,
        renew: bool,
    },
    Close {
        family: u8,
        token: u8,
        twice: bool,
    },
    Rewrite {
        family: u8,
        from: u8,
        to: u8,
    },
    Totals,
    /// Goes on where the last one was.
    Page {
        limit: u8,
    },
    Everybody {
        limit: u8,
    },
    ScriptFlush,
    FlushAll,
    /// What nodes can put back is lost: 0 to 15: the connections of that shard; else the table of leases.
    Lose {
        part: u8,
    },
}

fn grant() -> impl Strategy<Value = GrantPick> {
    (0..5_u8, 0..4_u8, 0..5_u8).prop_map(|(issued, token, session)| GrantPick {
        issued,
        token,
        session,
    })
}

fn limit() -> impl Strategy<Value = Option<LimitPick>> {
    option::of((0..4_u8, any::<bool>()).prop_map(|(max, evicts)| LimitPick { max, evicts }))
}

fn target() -> impl Strategy<Value = TargetPick> {
    let user = || 0..6_u8;
    prop_oneof![
        (user(), option::of(any::<u16>()))
            .prop_map(|(user, except)| TargetPick::User { user, except }),
        user().prop_map(|user| TargetPick::Revoked { user }),
        (user(), 0..5_u8).prop_map(|(user, session)| TargetPick::Session { user, session }),
        any::<u16>().prop_map(|of| TargetPick::Connection { of }),
    ]
}

fn fence() -> impl Strategy<Value = Option<FencePick>> {
    option::of(prop_oneof![
        (0..3_u8).prop_map(FencePick::Ban),
        (0..5_u8).prop_map(FencePick::Revoke),
        (0..5_u8).prop_map(FencePick::EndSession),
    ])
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let node = || 0..3_u8;
    let user = || 0..6_u8;
    prop_oneof![
        12 => (node(), option::weighted(0.9, user()), 0..4_u8, 0..3_u8, grant(), limit(), any::<bool>()).prop_map(
            |(node, user, device, age, grant, limit, twice)| Op::Register { node, user, device, age, grant, limit, twice }
        ),
        4 => (node(), any::<u16>(), any::<bool>(), limit())
            .prop_map(|(node, of, known, limit)| Op::Again { node, of, known, limit }),
        3 => (node(), any::<u16>(), 0..4_u8, grant(), 0..3_u8, any::<bool>()).prop_map(
            |(node, of, device, grant, version, twice)| Op::Change { node, of, device, grant, version, twice }
        ),
        2 => (node(), any::<u16>(), any::<bool>()).prop_map(|(node, of, twice)| Op::Release { node, of, twice }),
        4 => (node(), vec(any::<u16>(), 1..4), any::<bool>(), any::<bool>())
            .prop_map(|(node, of, stale, twice)| Op::Unregister { node, of, stale, twice }),
        2 => node().prop_map(|node| Op::Beat { node }),
        1 => (node(), any::<u8>()).prop_map(|(node, connections)| Op::Report { node, connections }),
        3 => (node(), any::<bool>()).prop_map(|(node, twice)| Op::Recover { node, twice }),
        2 => node().prop_map(|node| Op::Hang { node }),
        1 => node().prop_map(|node| Op::Restart { node }),
        1 => (node(), any::<bool>()).prop_map(|(node, twice)| Op::Leave { node, twice }),
        3 => (any::<u8>(), any::<bool>()).prop_map(|(lease, by_two)| Op::Reap { lease, by_two }),
        4 => (node(), target(), fence(), 0..3_u8, any::<bool>())
            .prop_map(|(node, target, fence, code, twice)| Op::Order { node, target, fence, code, twice }),
        1 => (user(), any::<bool>()).prop_map(|(user, twice)| Op::Unban { user, twice }),
        1 => (0..4_u8, 0..3_u8, any::<bool>()).prop_map(|(token, until, twice)| Op::RevokeToken { token, until, twice }),
        3 => (user(), prop::bool::weighted(0.1), 0..4_u8).prop_map(|(user, expired, token)| Op::Open { user, expired, token }),
        4 => (any::<u8>(), 0..4_u8, 0..4_u8, any::<bool>()).prop_map(
            |(family, presented, successor, renew)| Op::Rotate { family, presented, successor, renew }
        ),
        1 => (any::<u8>(), 0..4_u8, any::<bool>()).prop_map(|(family, token, twice)| Op::Close { family, token, twice }),
        1 => (any::<u8>(), 0..2_u8, 0..2_u8).prop_map(|(family, from, to)| Op::Rewrite { family, from, to }),
        1 => Just(Op::Totals),
        3 => (1..4_u8).prop_map(|limit| Op::Page { limit }),
        1 => (0..4_u8).prop_map(|limit| Op::Everybody { limit }),
        1 => Just(Op::ScriptFlush),
        1 => Just(Op::FlushAll),
        1 => (0..18_u8).prop_map(|part| Op::Lose { part }),
    ]
}

pub(super) fn plan() -> impl Strategy<Value = Vec<Op>> {
    vec(op(), 1..60)
}
