//! Carries a plan out in both homes, and compares what they say.

mod clock;
mod compare;
mod losses;

use std::{collections::BTreeSet, time::Duration};

use jiff::{SignedDuration, Timestamp};
use proptest::{prelude::*, test_runner::TestCaseError};
use switchboard::{
    connection::{Connection, Instance, Tally, TransportKind, UserId},
    ending::Ending,
    registry::{
        Admission, Ahead, Assertion, Ban, EndOrder, EndTarget, Entry, Family, FamilyToken, Fence,
        Grant, Lease, LimitPolicy, LoginId, NodeReport, RegistryError, Turn, UserLimit,
        keys::Shards,
    },
};

use super::{
    home::{Home, NODES},
    plan::{FencePick, GrantPick, LimitPick, Op, TargetPick},
};
use clock::{Clock, RENEWED, Timed};
use compare::Walk;

pub(super) type Outcome<T = ()> = Result<T, TestCaseError>;

/// Of several shards, and such that what separates fields and slots is in them. The first two are of one shard.
pub(super) const USERS: [&str; 6] = ["1", "user:7", "a\0b", "a", "{nodes}", "é😀\u{1}"];
const DEVICES: [Option<&str>; 4] = [None, Some(""), Some("phone"), Some("tab\0let")];
const TOKENS: [Option<&str>; 4] = [None, Some(""), Some("t1"), Some("t2")];

pub(super) fn entry(connection: &Connection) -> Entry {
    Entry {
        user: connection.user_id.clone(),
        id: connection.id.clone(),
    }
}

fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<_> = items.into_iter().collect();
    items.sort();
    items
}

/// One of four tokens of any family: two have the number 0, two the number 1.
fn token_of(pick: u8) -> FamilyToken {
    FamilyToken {
        number: u32::from(pick / 2),
        hash: [b'0' + pick; 32],
    }
}

fn claims(pick: u8) -> serde_json::Value {
    serde_json::json!({ "name": "é\0", "pick": pick })
}

struct Node {
    lease: Lease,
    report: NodeReport,
    /// What this run ever had.
    ever: Vec<usize>,
    /// Its lease is reaped.
    reaped: bool,
}

/// A connection as its node knows it.
#[derive(Clone)]
struct Known {
    connection: Connection,
    grant: Grant,
    version: u64,
    /// Once it has been let in.
    start: Option<Timestamp>,
}

pub(super) struct World<'a> {
    /// In memory.
    model: Home,
    /// In Redis.
    home: &'a Home,
    clock: Clock,
    nodes: Vec<Node>,
    /// All there ever were.
    connections: Vec<Known>,
    families: Vec<Family>,
    /// In either home, as cursors are its own.
    walks: [Option<Walk>; 2],
    /// How often everything has been compared.
    compared: usize,
    /// All there ever were.
    leases: BTreeSet<Lease>,
    base: Timestamp,
}

/// What a home answers; `Err` if the lease of the node that asked has run out.
fn answered<T>(answer: Result<T, RegistryError>) -> Outcome<Result<T, String>> {
    match answer {
        Ok(answer) => Ok(Ok(answer)),
        Err(RegistryError::Unavailable(why)) if why.contains("run out") => Ok(Err(why)),
        Err(error) => Err(TestCaseError::fail(error.to_string())),
    }
}

/// Makes a call in both homes, in a time of its own. What they answer must be the same, and is returned; none if the lease of the
/// node that asked has run out.
macro_rules! both {
    ($world:expr, $what:expr, |$home:ident| $call:expr) => {{
        $world.clock.begin();
        let expected = {
            let $home = &$world.model;
            $call
        };
        let answer = {
            let $home = $world.home;
            $call
        };
        $world.clock.end();
        let expected = answered(expected)?.rounded(&$world.clock);
        let answer = answered(answer)?.rounded(&$world.clock);
        prop_assert_eq!(&answer, &expected, "{}", $what);
        answer.ok()
    }};
}
pub(super) use both;

impl<'a> World<'a> {
    pub(super) async fn new(home: &'a Home) -> Outcome<World<'a>> {
        if let Some(redis) = &home.redis {
            redis.flush_all().await;
        }
        let mut world = Self {
            model: Home::model(),
            home,
            clock: Clock::default(),
            nodes: Vec::new(),
            connections: Vec::new(),
            families: Vec::new(),
            walks: [None, None],
            compared: 0,
            leases: BTreeSet::new(),
            base: clock::now() - SignedDuration::from_hours(24),
        };
        for number in 0..NODES {
            world.start(number).await?;
        }
        world.vouch().await?;
        Ok(world)
    }

    /// A new run of a node.
    async fn start(&mut self, number: usize) -> Outcome {
        let node = Node {
            lease: Lease {
                instance: Instance::random(),
                epoch: 1,
            },
            report: NodeReport {
                node_id: format!("node-{number}").as_str().into(),
                version: "1".into(),
                started_at: self.base,
                connections: number as u64,
                users: 0,
                draining: number == 1,
            },
            ever: Vec::new(),
            reaped: false,
        };
        if number < self.nodes.len() {
            self.nodes[number] = node;
        } else {
            self.nodes.push(node);
        }
        self.join(number).await
    }

    /// Takes a node's lease up, and makes it last.
    async fn join(&mut self, number: usize) -> Outcome {
        let (lease, report) = self.named(number);
        self.leases.insert(lease.clone());
        let joined = both!(self, "join", |home| home.nodes[number]
            .join(&lease, &report)
            .await);
        prop_assert_eq!(joined, Some(true));
        self.prolong(number).await
    }

    async fn prolong(&mut self, number: usize) -> Outcome {
        let (lease, report) = self.named(number);
        let held = both!(self, "prolong", |home| home
            .lasting
            .heartbeat(&lease, &report)
            .await
            .map(|it| it.held));
        prop_assert_eq!(held, Some(true), "{} holds", lease);
        Ok(())
    }

    fn named(&self, number: usize) -> (Lease, NodeReport) {
        let node = &self.nodes[number];
        (node.lease.clone(), node.report.clone())
    }

    fn user(&self, user: u8) -> UserId {
        USERS[usize::from(user)].into()
    }

    fn hours(&self, hours: i64) -> Timestamp {
        self.base + SignedDuration::from_hours(hours)
    }

    fn issued(&self, pick: u8) -> Option<Timestamp> {
        let hours = [None, Some(0), Some(1), Some(2), Some(48)];
        hours[usize::from(pick)].map(|hours| self.hours(hours))
    }

    /// 0 is none, 1 and 2 are two cookies, the others are the first families.
    fn session(&self, pick: u8) -> Option<LoginId> {
        match pick {
            0 => None,
            1 => Some("".into()),
            2 => Some("s\0".into()),
            family => self
                .families
                .get(usize::from(family) - 3)
                .map(|family| family.id.clone()),
        }
    }

    /// Two of them whose `iat` is of the future are one if token and session are.
    fn grant(&self, pick: GrantPick) -> Grant {
        let ahead = Ahead {
            digest: format!("{} {}", pick.token, pick.session),
            expires_at: self.hours(72),
        };
        Grant {
            issued_at: self.issued(pick.issued),
            token_id: TOKENS[usize::from(pick.token)].map(Into::into),
            session: self.session(pick.session),
            ahead: (pick.issued == 4).then_some(ahead),
        }
    }

    fn limit(pick: Option<LimitPick>) -> Option<UserLimit> {
        pick.map(|pick| UserLimit {
            max: pick.max.into(),
            policy: match pick.evicts {
                true => LimitPolicy::EvictOldest,
                false => LimitPolicy::Reject,
            },
            newcomers: 0,
        })
    }

    /// Any connection there ever was.
    fn any(&self, of: u16) -> Option<&Connection> {
        let count = self.connections.len();
        (count > 0).then(|| &self.connections[usize::from(of) % count].connection)
    }

    /// One that this run of the node ever had.
    fn own(&self, node: u8, of: u16) -> Option<usize> {
        let ever = &self.nodes[usize::from(node)].ever;
        (!ever.is_empty()).then(|| ever[usize::from(of) % ever.len()])
    }

    /// Has the handles of a node know who lives, as with a heartbeat.
    async fn look(&self, number: usize) {
        let _ = self.home.nodes[number].nodes().await;
    }

    /// Asserts a connection as it is given, which its node then remembers, if it is in and no later one is.
    async fn assert(
        &mut self,
        number: usize,
        which: usize,
        given: Known,
        limit: Option<UserLimit>,
        again: bool,
    ) -> Outcome<Admission> {
        self.look(number).await;
        let (lease, _) = self.named(number);
        let entry = entry(&given.connection);
        let shard = Shards::default().of_entry(&entry).unwrap();
        let held = self.model.nodes[number].held(&lease, shard).await.unwrap();
        let stale = given.version < self.connections[which].version;
        // Nobody counts for one who is in already, nor does a node that is gone.
        let uncounted = again || stale || self.nodes[number].reaped;
        let admission = both!(self, "assert", |home| {
            let assertion = Assertion {
                connection: &given.connection,
                grant: &given.grant,
                version: given.version,
                start: given.start,
                limit,
                again,
            };
            let admission = home.nodes[number].assert(&lease, &assertion).await;
            admission.map(|admission| match admission {
                Admission::Admitted {
                    start,
                    tally,
                    evicted,
                    lasting,
                } => Admission::Admitted {
                    start,
                    tally: if uncounted { Tally::default() } else { tally },
                    evicted: sorted(evicted),
                    lasting,
                },
                kept_out => kept_out,
            })
        });
        let admission = admission.ok_or_else(|| TestCaseError::fail("it looks at no lease"))?;
        if let Admission::Admitted { start, .. } = admission
            && !(stale && held.contains(&entry))
        {
            self.connections[which] = Known {
                start: Some(start),
                ..given
            };
        }
        Ok(admission)
    }

    pub(super) async fn step(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Register { .. } | Op::Again { .. } | Op::Change { .. } => {
                let node = self.comes(op).await?;
                // What is written under a lease that is reaped is gone with the next one.
                if self.nodes[node].reaped {
                    self.recover(node, false).await?;
                }
            }
            Op::Release { .. } | Op::Unregister { .. } => self.goes(op).await?,
            Op::Beat { .. }
            | Op::Report { .. }
            | Op::Recover { .. }
            | Op::Hang { .. }
            | Op::Restart { .. }
            | Op::Leave { .. }
            | Op::Reap { .. } => self.lives(op).await?,
            Op::Order { .. } | Op::Unban { .. } | Op::RevokeToken { .. } => self.bars(op).await?,
            Op::Open { .. } | Op::Rotate { .. } | Op::Close { .. } | Op::Rewrite { .. } => {
                self.turns(op).await?;
            }
            Op::Totals => self.totals().await?,
            Op::Page { limit } => self.page((*limit).into()).await?,
            Op::Everybody { limit } => self.everybody((*limit).into()).await?,
            Op::ScriptFlush => {
                if let Some(redis) = &self.home.redis {
                    redis.flush_scripts().await;
                }
            }
            Op::FlushAll => self.lose_all().await?,
            Op::Lose { part } => self.lose(*part).await?,
        }
        self.compare().await
    }

    /// Returns on which node.
    async fn comes(&mut self, op: &Op) -> Outcome<usize> {
        Ok(match op {
            Op::Register {
                node,
                user,
                device,
                age,
                grant,
                limit,
                twice,
            } => {
                let number = usize::from(*node);
                let user = user.map(|user| self.user(user));
                let started = self.base + SignedDuration::from_secs((*age).into());
                let new = Known {
                    connection: Connection {
                        id: self.home.nodes[number].new_id(user.as_ref()),
                        user_id: user,
                        namespace: "/a\0".into(),
                        node_id: self.nodes[number].report.node_id.clone(),
                        transport: TransportKind::Polling,
                        connected_at: started,
                        expires_at: None,
                        device_id: DEVICES[usize::from(*device)].map(Into::into),
                        remote_addr: Some("2001:db8::1".into()),
                        user_agent: None,
                        rooms: Vec::new(),
                        meta: None,
                    },
                    grant: self.grant(*grant),
                    version: 1,
                    start: (*age > 0).then_some(started),
                };
                let which = self.connections.len();
                self.connections.push(new.clone());
                for _ in 0..1 + usize::from(*twice) {
                    self.nodes[number].ever.push(which);
                    self.assert(number, which, new.clone(), Self::limit(*limit), false)
                        .await?;
                }
                number
            }
            Op::Again {
                node,
                of,
                known,
                limit,
            } => {
                if let Some(which) = self.own(*node, *of) {
                    let given = self.connections[which].clone();
                    let limit = Self::limit(*limit);
                    self.assert((*node).into(), which, given, limit, *known)
                        .await?;
                }
                (*node).into()
            }
            Op::Change {
                node,
                of,
                device,
                grant,
                version,
                twice,
            } => {
                let Some(which) = self.own(*node, *of) else {
                    return Ok((*node).into());
                };
                let mut given = self.connections[which].clone();
                given.connection.transport = TransportKind::Websocket;
                given.connection.expires_at = Some(self.hours(30));
                given.connection.device_id = DEVICES[usize::from(*device)].map(Into::into);
                given.grant = self.grant(*grant);
                given.version = (given.version + u64::from(*version)).saturating_sub(1);
                for _ in 0..1 + usize::from(*twice) {
                    self.assert((*node).into(), which, given.clone(), None, true)
                        .await?;
                }
                (*node).into()
            }
            _ => unreachable!(),
        })
    }

    async fn goes(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Release { node, of, twice } => {
                let Some(which) = self.own(*node, *of) else {
                    return Ok(());
                };
                let number = usize::from(*node);
                let (lease, _) = self.named(number);
                let entry = entry(&self.connections[which].connection);
                for _ in 0..1 + usize::from(*twice) {
                    both!(self, "release", |home| home.nodes[number]
                        .release(&lease, &entry)
                        .await);
                }
            }
            Op::Unregister {
                node,
                of,
                stale,
                twice,
            } => {
                let number = usize::from(*node);
                let which: BTreeSet<_> = of.iter().filter_map(|of| self.own(*node, *of)).collect();
                let entries: Vec<_> = which
                    .iter()
                    .map(|which| entry(&self.connections[*which].connection))
                    .collect();
                let (mut lease, _) = self.named(number);
                lease.epoch = lease.epoch.saturating_sub(u64::from(*stale)).max(1);
                for _ in 0..1 + usize::from(*twice) {
                    both!(self, "unregister", |home| home.nodes[number]
                        .unregister(&lease, &entries)
                        .await);
                }
            }
            _ => unreachable!(),
        }
        Ok(())
    }

    async fn lives(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Beat { node } => {
                self.beat((*node).into()).await?;
            }
            Op::Report { node, connections } => {
                let node = usize::from(*node);
                self.nodes[node].report.connections = (*connections).into();
                let (lease, report) = self.named(node);
                both!(self, "report", |home| home.nodes[node]
                    .report(&lease, &report)
                    .await);
            }
            Op::Recover { node, twice } => self.recover((*node).into(), *twice).await?,
            Op::Hang { node } => self.lapse((*node).into()).await?,
            Op::Restart { node } => {
                self.lapse((*node).into()).await?;
                self.start((*node).into()).await?;
            }
            Op::Leave { node, twice } => {
                let node = usize::from(*node);
                let (lease, _) = self.named(node);
                for _ in 0..1 + usize::from(*twice) {
                    both!(self, "leave", |home| home.nodes[node].leave(&lease).await);
                }
                self.start(node).await?;
            }
            Op::Reap { lease, by_two } => {
                let which = usize::from(*lease) % self.leases.len();
                let lease = self.leases.iter().nth(which).unwrap().clone();
                self.reap(&lease, *by_two).await?;
            }
            _ => unreachable!(),
        }
        Ok(())
    }

    /// Whether the lease held; then it does so for longer.
    async fn beat(&mut self, number: usize) -> Outcome<bool> {
        let (lease, report) = self.named(number);
        // Which leases have run out for long enough, and which entries they are to reap, is each home's own.
        let mut said = Vec::new();
        let held = both!(self, "heartbeat", |home| {
            let beat = home.nodes[number].heartbeat(&lease, &report).await;
            beat.map(|beat| {
                said.push(BTreeSet::from_iter(beat.lapsed));
                let lacking = beat.held.then_some(beat.lacking);
                (beat.held, lacking, beat.lost)
            })
        });
        prop_assert!(said[1].is_subset(&said[0]), "lapsed: {:?}", said);
        let (held, lacking, lost) = held.ok_or_else(|| TestCaseError::fail("asked for itself"))?;
        prop_assert!(!lost, "nothing was lost");
        prop_assert!(lacking.is_none_or(|it| it.is_empty()), "it has entered");
        if held {
            self.prolong(number).await?;
            self.look(number).await;
            let known = self.home.nodes[number].known();
            let living = self.model.nodes[number].known();
            prop_assert!(living.is_subset(&known), "knows {:?}", known);
        }
        Ok(held)
    }

    /// The lease of a node runs out.
    async fn lapse(&mut self, number: usize) -> Outcome {
        if self.nodes[number].reaped {
            return Ok(());
        }
        let (lease, report) = self.named(number);
        let held = both!(self, "a last heartbeat", |home| home
            .dying
            .heartbeat(&lease, &report)
            .await
            .map(|it| it.held));
        prop_assert_eq!(held, Some(true), "{} was there", lease);
        Ok(())
    }

    async fn reap(&mut self, lease: &Lease, by_two: bool) -> Outcome {
        for number in 0..2 {
            self.look(number).await;
        }
        let reaped = both!(self, format!("reap {lease}"), |home| {
            let [a, b, _] = &home.nodes[..] else {
                unreachable!()
            };
            match by_two {
                true => {
                    let (a, b) = tokio::join!(a.reap(lease), b.reap(lease));
                    a.and_then(|a| Ok(a + b?))
                }
                false => a.reap(lease).await,
            }
        });
        prop_assert!(reaped.is_some(), "others are asked about as ever");
        let nodes = self.model.reader.nodes().await.unwrap();
        for node in &mut self.nodes {
            let holds = nodes.iter().any(|it| it.node_id == node.report.node_id);
            node.reaped |= node.lease == *lease && !holds;
        }
        Ok(())
    }

    /// What a node does that has lost its lease, or that fears so.
    async fn recover(&mut self, number: usize, twice: bool) -> Outcome {
        let (before, _) = self.named(number);
        let mut entries = self.held_of(&before).await;
        self.nodes[number].lease.epoch += 1;
        self.nodes[number].reaped = false;
        for _ in 0..1 + usize::from(twice) {
            self.join(number).await?;
        }
        // What it lost with its lease it has still.
        let ever = self.nodes[number].ever.clone();
        let last = ever.iter().rev().take(2);
        entries.extend(last.map(|which| entry(&self.connections[*which].connection)));
        self.put_back(
            number,
            &entries,
            &Shards::default().all().collect::<Vec<_>>(),
        )
        .await
    }

    /// The entries of a lease.
    async fn held_of(&self, lease: &Lease) -> BTreeSet<Entry> {
        let mut held = BTreeSet::new();
        for shard in Shards::default().all() {
            held.extend(self.model.reader.held(lease, shard).await.unwrap());
        }
        held
    }

    async fn bars(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Order {
                node,
                target,
                fence,
                code,
                twice,
            } => {
                for _ in 0..1 + usize::from(*twice) {
                    self.order((*node).into(), *target, *fence, *code).await?;
                }
            }
            Op::Unban { user, twice } => {
                let user = self.user(*user);
                for _ in 0..1 + usize::from(*twice) {
                    both!(self, "unban", |home| home.nodes[0].unban(&user).await);
                }
            }
            Op::RevokeToken {
                token,
                until,
                twice,
            } => {
                let token = TOKENS[usize::from(*token)].unwrap_or("another");
                let until = [None, Some(48), Some(-240)][usize::from(*until)];
                let until = until.map(|hours| self.hours(hours));
                for _ in 0..1 + usize::from(*twice) {
                    both!(self, "revoke a token", |home| home.nodes[0]
                        .revoke_token(token, until)
                        .await);
                }
            }
            _ => unreachable!(),
        }
        Ok(())
    }

    async fn order(
        &mut self,
        number: usize,
        target: TargetPick,
        fence: Option<FencePick>,
        code: u8,
    ) -> Outcome {
        let target = match target {
            TargetPick::User { user, except } => {
                let spared = except.and_then(|of| self.any(of));
                let of_spared = spared.and_then(|it| it.user_id.clone());
                EndTarget::User {
                    user: of_spared.unwrap_or_else(|| self.user(user)),
                    except: spared.map(|it| it.id.clone()).into_iter().collect(),
                }
            }
            TargetPick::Revoked { user } => EndTarget::Revoked {
                user: self.user(user),
            },
            TargetPick::Session { user, session } => EndTarget::Session {
                user: self.user(user),
                session: self.session(session).unwrap_or_default(),
            },
            TargetPick::Connection { of } => match self.any(of) {
                Some(connection) => EndTarget::Connection(entry(connection)),
                None => return Ok(()),
            },
        };
        let fence = fence.map(|fence| match fence {
            FencePick::Ban(until) => Fence::Ban(Ban {
                reason: Some("é\0".into()),
                until: [None, Some(48), Some(-24)][usize::from(until)]
                    .map(|hours| self.hours(hours)),
            }),
            FencePick::Revoke(before) => Fence::RevokeBefore(self.issued(before)),
            FencePick::EndSession(session) => {
                Fence::EndSession(self.session(session).unwrap_or_default())
            }
        });
        let ending = Ending::of(
            [
                Ending::DISCONNECTED,
                Ending::LIMIT,
                Ending::RECONNECT_REQUESTED,
            ][usize::from(code)],
        );
        both!(self, format!("order to {target:?} {fence:?}"), |home| {
            let order = EndOrder {
                target: &target,
                fence: fence.as_ref(),
                ending: &ending,
            };
            let ordered = home.nodes[number].order_end(order).await;
            ordered.map(|ordered| {
                let listed = ordered.connections.into_iter();
                let listed = listed.map(|it| (it.entry, it.instance));
                (sorted(listed), ordered.revoked_before)
            })
        });
        Ok(())
    }

    async fn turns(&mut self, op: &Op) -> Outcome {
        if let Op::Open {
            user,
            expired,
            token,
        } = op
        {
            let user = self.user(*user);
            let family = Family {
                id: self.home.nodes[0].new_family_id(&user),
                user,
                claims: claims(0),
                expires_at: self.hours(if *expired { 1 } else { 48 }),
            };
            both!(self, "open a family", |home| home.nodes[0]
                .open_family(&family, &token_of(*token))
                .await);
            self.families.push(family);
            return Ok(());
        }
        let count = self.families.len();
        let (Op::Rotate { family, .. } | Op::Close { family, .. } | Op::Rewrite { family, .. }) =
            op
        else {
            unreachable!()
        };
        if count == 0 {
            return Ok(());
        }
        let family = self.families[usize::from(*family) % count].clone();
        let id = &family.id;
        match op {
            Op::Rotate {
                presented,
                successor,
                renew,
                ..
            } => {
                let turn = Turn {
                    presented: &token_of(*presented),
                    successor: &token_of(*successor),
                    grace: Duration::from_secs(3600),
                    renew: renew.then_some(RENEWED),
                };
                both!(self, "rotate", |home| home.nodes[1].rotate(id, turn).await);
            }
            Op::Close { token, twice, .. } => {
                for _ in 0..1 + usize::from(*twice) {
                    both!(self, "close", |home| home.nodes[2]
                        .close_family(id, &token_of(*token))
                        .await);
                }
            }
            Op::Rewrite { from, to, .. } => {
                let as_given = Family {
                    claims: claims(*from),
                    ..family.clone()
                };
                both!(self, "rewrite", |home| home.nodes[0]
                    .rewrite_claims(&as_given, &claims(*to))
                    .await);
            }
            _ => unreachable!(),
        }
        Ok(())
    }

    /// Everybody goes, in order or not, and what is left in Redis is only what goes by itself.
    pub(super) async fn end(mut self) -> Outcome {
        self.reap_all().await?;
        for number in 0..NODES {
            let (lease, _) = self.named(number);
            both!(self, "leave", |home| home.nodes[number].leave(&lease).await);
        }
        self.totals().await?;
        self.compare().await?;
        if let Some(redis) = &self.home.redis {
            prop_assert_eq!(redis.orphans().await, Vec::<String>::new(), "left in Redis");
        }
        Ok(())
    }
}
