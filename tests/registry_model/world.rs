//! Carries a plan out, in a registry and in the model, and compares what they say after each step.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::try_join_all;
use jiff::{SignedDuration, Timestamp};
use proptest::{prelude::*, test_runner::TestCaseError};
use switchboard::{
    connection::{Connection, ConnectionId, Instance, TransportKind, UserId},
    ending::Ending,
    registry::{
        Admission, Ban, EndOrder, EndTarget, Entry, Family, FamilyToken, Fence, Grant, Lease,
        LimitPolicy, NodeReport, Ordered, Registry, RegistryError, SessionId, Turn, UserLimit,
        Whom,
        keys::{Place, Shard},
    },
};

use super::{
    home::{Home, NODES},
    model::{Kept, Model, Moment, entry},
    plan::{FencePick, GrantPick, LimitPick, Op, TargetPick},
};

type Outcome<T = ()> = Result<T, TestCaseError>;

/// Of several shards, and such that what separates fields and slots is in them. The first two are of one shard.
pub(super) const USERS: [&str; 6] = ["1", "user:7", "a\0b", "a", "{nodes}", "é😀\u{1}"];
const DEVICES: [Option<&str>; 4] = [None, Some(""), Some("phone"), Some("tab\0let")];
const TOKENS: [Option<&str>; 4] = [None, Some(""), Some("t1"), Some("t2")];

pub(super) struct Node {
    pub(super) registry: Arc<dyn Registry>,
    pub(super) lease: Lease,
    pub(super) report: NodeReport,
    /// What this run ever had, and what it has, as far as it knows.
    ever: Vec<usize>,
    mine: BTreeSet<usize>,
}

/// A walk through the pages of everybody.
#[derive(Default)]
struct Walk {
    cursor: Option<String>,
    seen: BTreeSet<UserId>,
    /// Online all along.
    stayed: BTreeSet<UserId>,
}

pub(super) struct World<'a> {
    home: &'a Home,
    pub(super) nodes: Vec<Node>,
    model: Model,
    /// All there ever were, as they were written last.
    connections: Vec<(Connection, Grant)>,
    families: Vec<SessionId>,
    walk: Option<Walk>,
    /// How often everything has been compared.
    compared: usize,
    base: Timestamp,
}

fn unavailable<T>(answer: Result<T, RegistryError>) -> Outcome<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(RegistryError::Unavailable(why)) if why.contains("run out") => Ok(None),
        Err(error) => Err(TestCaseError::fail(error.to_string())),
    }
}

/// What a call answered, and when.
async fn timed<T>(call: impl Future<Output = Result<T, RegistryError>>) -> Outcome<(T, Moment)> {
    let before = now();
    let answer = call
        .await
        .map_err(|error| TestCaseError::fail(error.to_string()))?;
    Ok((answer, (before, now())))
}

fn now() -> Timestamp {
    Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap()
}

fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<_> = items.into_iter().collect();
    items.sort();
    items
}

fn admission_sorted(admission: Admission) -> Admission {
    match admission {
        Admission::Admitted { tally, evicted } => Admission::Admitted {
            tally,
            evicted: sorted(evicted),
        },
        refused => refused,
    }
}

fn place(part: u8) -> Place {
    match Shard::all().nth(part.into()) {
        Some(shard) => Place::Shard(shard),
        None => Place::Nodes,
    }
}

/// One of four tokens of any family: two have the number 0, two the number 1.
fn token_of(pick: u8) -> FamilyToken {
    FamilyToken {
        number: u32::from(pick / 2),
        hash: [b'0' + pick; 32],
    }
}

impl<'a> World<'a> {
    pub(super) async fn new(home: &'a Home) -> Outcome<World<'a>> {
        if let Some(redis) = &home.redis {
            redis.flush_all().await;
        }
        let mut world = Self {
            home,
            nodes: Vec::new(),
            model: Model::default(),
            connections: Vec::new(),
            families: Vec::new(),
            walk: None,
            compared: 0,
            base: now() - SignedDuration::from_hours(24),
        };
        for number in 0..NODES {
            world.start(number).await?;
        }
        Ok(world)
    }

    /// A new run of a node.
    async fn start(&mut self, number: usize) -> Outcome {
        let node = Node {
            registry: Arc::clone(&self.home.nodes[number]),
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
                settled: number != 1,
            },
            ever: Vec::new(),
            mine: BTreeSet::new(),
        };
        let at = timed(node.registry.join(&node.lease, &node.report))
            .await?
            .1;
        self.model.join(&node.lease, &node.report.node_id, at);
        if number < self.nodes.len() {
            self.nodes[number] = node;
        } else {
            self.nodes.push(node);
        }
        Ok(())
    }

    fn node(&self, node: u8) -> &Node {
        &self.nodes[usize::from(node)]
    }

    fn user(&self, user: u8) -> UserId {
        USERS[usize::from(user)].into()
    }

    fn issued(&self, pick: u8) -> Option<Timestamp> {
        let hours = [None, Some(0), Some(1), Some(2), Some(48)];
        hours[usize::from(pick)].map(|hours| self.base + SignedDuration::from_hours(hours))
    }

    /// 0 is none, 1 and 2 are two cookies, the others are the first families.
    fn session(&self, pick: u8) -> Option<SessionId> {
        match pick {
            0 => None,
            1 => Some("".into()),
            2 => Some("s\0".into()),
            family => self.families.get(usize::from(family) - 3).cloned(),
        }
    }

    fn grant(&self, pick: GrantPick) -> Grant {
        Grant {
            issued_at: self.issued(pick.issued),
            token_id: TOKENS[usize::from(pick.token)].map(Into::into),
            session: self.session(pick.session),
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
        (count > 0).then(|| &self.connections[usize::from(of) % count].0)
    }

    /// One that this run of the node ever had.
    fn own(&self, node: u8, of: u16) -> Option<usize> {
        let ever = &self.node(node).ever;
        (!ever.is_empty()).then(|| ever[usize::from(of) % ever.len()])
    }

    async fn register(&mut self, node: u8, number: usize, limit: Option<UserLimit>) -> Outcome {
        let (connection, grant) = &self.connections[number];
        let it = &self.nodes[usize::from(node)];
        let answer = it
            .registry
            .register(&it.lease, connection, grant, limit)
            .await;
        let answer = unavailable(answer)?.map(admission_sorted);
        let expected = self.model.register(&it.lease, connection, grant, limit);
        prop_assert_eq!(&answer, &expected.map(admission_sorted), "register");
        let mine = &mut self.nodes[usize::from(node)].mine;
        match answer {
            Some(Admission::Admitted { .. }) => mine.insert(number),
            Some(Admission::Refused(_)) => mine.remove(&number),
            None => false,
        };
        Ok(())
    }

    pub(super) async fn step(&mut self, op: &Op) -> Outcome {
        let times = |twice: &bool| 0..1 + usize::from(*twice);
        match op {
            Op::Register {
                node,
                user,
                device,
                age,
                grant,
                limit,
                twice,
            } => {
                let it = self.node(*node);
                let user = user.map(|user| self.user(user));
                let connection = Connection {
                    id: it.registry.new_id(user.as_ref()),
                    user_id: user,
                    namespace: "/a\0".into(),
                    node_id: it.report.node_id.clone(),
                    transport: TransportKind::Polling,
                    connected_at: self.base + SignedDuration::from_secs((*age).into()),
                    expires_at: None,
                    device_id: DEVICES[usize::from(*device)].map(Into::into),
                    remote_addr: Some("2001:db8::1".into()),
                    user_agent: None,
                };
                let number = self.connections.len();
                self.connections.push((connection, self.grant(*grant)));
                self.nodes[usize::from(*node)].ever.push(number);
                for _ in times(twice) {
                    self.register(*node, number, Self::limit(*limit)).await?;
                }
            }
            Op::Again { node, of, limit } => {
                if let Some(number) = self.own(*node, *of) {
                    self.register(*node, number, Self::limit(*limit)).await?;
                }
            }
            Op::Update {
                node,
                of,
                device,
                grant,
                twice,
            } => {
                let Some(number) = self.own(*node, *of) else {
                    return Ok(());
                };
                let (mut connection, grant) =
                    (self.connections[number].0.clone(), self.grant(*grant));
                connection.transport = TransportKind::Websocket;
                connection.expires_at = Some(self.base + SignedDuration::from_hours(30));
                connection.device_id = DEVICES[usize::from(*device)].map(Into::into);
                for _ in times(twice) {
                    let it = &self.nodes[usize::from(*node)];
                    let (answer, _) =
                        timed(it.registry.update(&it.lease, &connection, &grant)).await?;
                    let expected = self.model.update(&it.lease, &connection, &grant);
                    prop_assert_eq!(answer, expected, "update");
                }
                if self
                    .model
                    .entries
                    .get(&entry(&connection))
                    .is_some_and(|it| it.connection == connection)
                {
                    self.connections[number] = (connection, grant);
                }
            }
            Op::Unregister {
                node,
                of,
                stale,
                twice,
            } => {
                let numbers: BTreeSet<_> =
                    of.iter().filter_map(|of| self.own(*node, *of)).collect();
                let entries: Vec<_> = numbers
                    .iter()
                    .map(|number| entry(&self.connections[*number].0))
                    .collect();
                let it = &mut self.nodes[usize::from(*node)];
                let epoch = it.lease.epoch.saturating_sub(u64::from(*stale)).max(1);
                let lease = Lease {
                    epoch,
                    ..it.lease.clone()
                };
                for _ in times(twice) {
                    let at = timed(it.registry.unregister(&lease, &entries)).await?.1;
                    self.model.unregister(&lease, &entries, at);
                }
                it.mine.retain(|number| !numbers.contains(number));
            }
            Op::Beat { node } => self.beat(*node).await?,
            Op::Recover { node, twice } => self.recover(*node, *twice).await?,
            Op::Hang { node } => self.lapse(*node).await?,
            Op::Restart { node } => {
                self.lapse(*node).await?;
                self.start((*node).into()).await?;
            }
            Op::Leave { node, twice } => {
                let it = self.node(*node);
                let lease = it.lease.clone();
                for _ in times(twice) {
                    let at = timed(self.node(*node).registry.leave(&lease)).await?.1;
                    self.model.leave(&lease, at);
                }
                self.start((*node).into()).await?;
            }
            Op::Reap { lease, by_two } => {
                let leases: Vec<_> = self.model.leases.keys().cloned().collect();
                if leases.is_empty() {
                    return Ok(());
                }
                let lease = &leases[usize::from(*lease) % leases.len()];
                let [a, b, _] = &self.home.nodes[..] else {
                    unreachable!()
                };
                let reaped = match by_two {
                    true => {
                        let (a, b) = tokio::join!(a.reap(lease), b.reap(lease));
                        a.and_then(|a| Ok(a + b?))
                    }
                    false => a.reap(lease).await,
                };
                let reaped = reaped.map_err(|error| TestCaseError::fail(error.to_string()))?;
                prop_assert_eq!(reaped, self.model.reap(lease), "reap {}", lease);
            }
            Op::Order {
                node,
                target,
                fence,
                code,
                twice,
            } => {
                for _ in times(twice) {
                    self.order(*node, *target, *fence, *code).await?;
                }
            }
            Op::Unban { user, twice } => {
                let user = self.user(*user);
                for _ in times(twice) {
                    let (answer, _) = timed(self.nodes[0].registry.unban(&user)).await?;
                    prop_assert_eq!(answer, self.model.bans.remove(&user).is_some(), "unban");
                }
            }
            Op::RevokeToken {
                token,
                until,
                twice,
            } => {
                let token = TOKENS[usize::from(*token)].unwrap_or("another");
                let until = match until {
                    0 => None,
                    1 => Some(self.base + SignedDuration::from_hours(48)),
                    _ => Some(self.base - SignedDuration::from_hours(240)),
                };
                for _ in times(twice) {
                    timed(self.nodes[0].registry.revoke_token(token, until)).await?;
                }
                if until.is_none_or(|until| until > self.base) {
                    let everywhere = Shard::all().map(|shard| (shard, token.to_owned()));
                    self.model.tokens.extend(everywhere);
                }
            }
            Op::Open {
                user,
                expired,
                token,
            } => self.open(*user, *expired, *token).await?,
            Op::Rotate {
                family,
                presented,
                successor,
                renew,
            } => {
                let Some(id) = self.family(*family) else {
                    return Ok(());
                };
                let turn = Turn {
                    presented: &token_of(*presented),
                    successor: &token_of(*successor),
                    grace: Duration::from_secs(3600),
                    renew: renew.then_some(Duration::from_secs(7200)),
                };
                let ((rotation, at), _) = timed(self.nodes[1].registry.rotate(&id, turn)).await?;
                let at =
                    at.ok_or_else(|| TestCaseError::fail("a family of this shape has a time"))?;
                prop_assert_eq!(rotation, self.model.rotate(&id, turn, at), "rotate");
            }
            Op::Close {
                family,
                token,
                twice,
            } => {
                let Some(id) = self.family(*family) else {
                    return Ok(());
                };
                for _ in times(twice) {
                    let token = token_of(*token);
                    let (closed, at) =
                        timed(self.nodes[2].registry.close_family(&id, &token)).await?;
                    prop_assert_eq!(closed, self.model.close(&id, &token, at.1), "close");
                }
            }
            Op::Totals => self.totals().await?,
            Op::Page { limit } => self.page((*limit).into()).await?,
            Op::Everybody { limit } => {
                let mut all = Vec::new();
                let mut cursor = None;
                loop {
                    let (page, _) =
                        timed(self.home.reader.users(cursor.as_deref(), (*limit).into())).await?;
                    prop_assert!(
                        page.users.len() <= usize::from(*limit).max(1),
                        "a page of {}",
                        page.users.len()
                    );
                    all.extend(page.users);
                    cursor = page.next;
                    if cursor.is_none() {
                        break;
                    }
                }
                let count = all.len();
                let all: BTreeMap<_, _> = all.into_iter().collect();
                prop_assert_eq!(all.len(), count, "each once");
                prop_assert_eq!(all, self.model.online(), "everybody");
            }
            Op::ScriptFlush => {
                if let Some(redis) = &self.home.redis {
                    redis.flush_scripts().await;
                }
            }
            Op::FlushAll => {
                if let Some(redis) = &self.home.redis {
                    redis.flush_all().await;
                    self.model = Model::default();
                    self.walk = None;
                }
            }
            Op::Lose { part, noticed } => self.lose(*part, *noticed).await?,
            Op::Away { part, noticed } => self.away(*part, *noticed).await?,
        }
        self.compare().await
    }

    /// A heartbeat, and what a node does that hears that its lease was lost in some places.
    async fn beat(&mut self, node: u8) -> Outcome {
        let it = self.node(node);
        let (heartbeat, mut at) = timed(it.registry.heartbeat(&it.lease, &it.report)).await?;
        if heartbeat.partly {
            at = timed(it.registry.resume(&it.lease, &it.report)).await?.1;
        }
        let lease = it.lease.clone();
        let mut lapsed = self.model.lapsed();
        let (held, partly) = self.model.beat(&lease, at);
        prop_assert_eq!(
            (heartbeat.held, heartbeat.partly),
            (held, partly),
            "heartbeat of {}",
            lease
        );
        lapsed.retain(|lapsed| *lapsed != lease || !held);
        let named: BTreeSet<_> = heartbeat.lapsed.into_iter().collect();
        for lease in &named {
            prop_assert!(lapsed.contains(lease), "{} is called lapsed", lease);
        }
        for lease in lapsed {
            let left = self.model.entries.values().any(|held| held.lease == lease);
            prop_assert!(
                !left || named.contains(&lease),
                "{} has lapsed and is not named",
                lease
            );
        }
        if partly {
            let it = self.node(node);
            let held = timed(it.registry.held(&lease)).await?.0;
            let mut missing = it.mine.clone();
            missing.retain(|number| !held.contains(&entry(&self.connections[*number].0)));
            for number in missing {
                self.register(node, number, None).await?;
            }
        }
        Ok(())
    }

    /// The lease of a node runs out.
    async fn lapse(&mut self, node: u8) -> Outcome {
        let it = self.node(node);
        let dying = &self.home.dying;
        let (heartbeat, mut at) = timed(dying.heartbeat(&it.lease, &it.report)).await?;
        if heartbeat.partly {
            at = timed(dying.resume(&it.lease, &it.report)).await?.1;
        }
        let lease = it.lease.clone();
        prop_assert_eq!(
            heartbeat.held,
            self.model.lapse(&lease, at),
            "the last heartbeat of {}",
            lease
        );
        Ok(())
    }

    /// What a node does that has lost its lease, or that fears so.
    async fn recover(&mut self, node: u8, twice: bool) -> Outcome {
        self.nodes[usize::from(node)].lease.epoch += 1;
        for _ in 0..1 + usize::from(twice) {
            let it = self.node(node);
            let at = timed(it.registry.join(&it.lease, &it.report)).await?.1;
            let (lease, name) = (it.lease.clone(), it.report.node_id.clone());
            self.model.join(&lease, &name, at);
        }
        for number in self.node(node).mine.clone() {
            self.register(node, number, None).await?;
        }
        Ok(())
    }

    async fn order(
        &mut self,
        node: u8,
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
                    .map(|hours| self.base + SignedDuration::from_hours(hours)),
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
        let order = EndOrder {
            target: &target,
            fence: fence.as_ref(),
            ending: &ending,
        };
        let it = self.node(node);
        let before = now();
        let answer = it.registry.order_end(order).await;
        let at = (before, now());
        let believed = self.model.may_order(&it.lease, &target);
        let Some(ordered) = unavailable(answer)? else {
            prop_assert!(!believed, "{} holds and may give no order", it.lease);
            return Ok(());
        };
        prop_assert!(believed, "an order by {}, which does not hold", it.lease);
        let Ordered {
            connections,
            revoked_before,
        } = ordered;
        if let (Some(Fence::RevokeBefore(before)), Some(user)) = (&fence, target.user()) {
            let earlier = self
                .model
                .revoked
                .get(user)
                .copied()
                .unwrap_or(Timestamp::UNIX_EPOCH);
            let (low, high) = before.map_or(at, |before| (before, before));
            let got = revoked_before.ok_or_else(|| TestCaseError::fail("no word of when"))?;
            prop_assert!(
                (low.max(earlier)..=high.max(earlier)).contains(&got),
                "revoked before {}",
                got
            );
        } else {
            prop_assert_eq!(revoked_before, None);
        }
        let meant = self
            .model
            .order(&target, fence.as_ref(), &ending, revoked_before, at.1);
        let listed = connections.into_iter().map(|it| (it.entry, it.instance));
        let expected = meant
            .into_iter()
            .map(|it| (entry(&it.connection), it.lease.instance));
        prop_assert_eq!(sorted(listed), sorted(expected), "meant by {:?}", target);
        Ok(())
    }

    fn family(&self, pick: u8) -> Option<SessionId> {
        let count = self.families.len();
        (count > 0).then(|| self.families[usize::from(pick) % count].clone())
    }

    async fn open(&mut self, user: u8, expired: bool, token: u8) -> Outcome {
        let user = self.user(user);
        let registry = Arc::clone(&self.nodes[0].registry);
        let family = Family {
            id: registry.new_family_id(&user),
            user,
            claims: serde_json::json!({ "name": "é\0" }),
            expires_at: self.base + SignedDuration::from_hours(if expired { 1 } else { 48 }),
        };
        let (opened, at) = timed(registry.open_family(&family, &token_of(token))).await?;
        prop_assert!(at.0 <= opened && opened <= at.1, "opened at {}", opened);
        self.families.push(family.id.clone());
        let (id, current) = (family.id.clone(), token_of(token));
        let kept = Kept {
            family,
            opened,
            current,
            previous: None,
            dead: None,
        };
        self.model.families.insert(id, kept);
        Ok(())
    }

    async fn totals(&mut self) -> Outcome {
        for lease in self.model.uncounted() {
            self.model.reap(&lease);
        }
        let (totals, _) = timed(self.home.reader.totals()).await?;
        let nodes = self.model.leases.keys();
        let nodes = nodes
            .filter(|it| self.model.holds(it, Place::Nodes))
            .count() as u64;
        // Those too that aren't believed where their lease has run out, while their node is there: it takes them up again.
        let (connections, users) = self.model.counts();
        prop_assert_eq!(
            (totals.nodes, totals.connections, totals.users),
            (nodes, connections, users),
            "totals"
        );
        Ok(())
    }

    async fn page(&mut self, limit: usize) -> Outcome {
        let mut walk = self.walk.take().unwrap_or_else(|| Walk {
            stayed: self.model.online().into_keys().collect(),
            ..Walk::default()
        });
        let (page, _) = timed(self.home.reader.users(walk.cursor.as_deref(), limit)).await?;
        prop_assert!(page.users.len() <= limit, "a page of {}", page.users.len());
        let online = self.model.online();
        for (user, tally) in page.users {
            prop_assert_eq!(Some(&tally), online.get(&user), "{} on a page", user);
            prop_assert!(walk.seen.insert(user.clone()), "{} on two pages", user);
        }
        walk.cursor = page.next;
        if walk.cursor.is_none() {
            let missed = sorted(walk.stayed.difference(&walk.seen));
            prop_assert_eq!(
                missed,
                Vec::<&UserId>::new(),
                "online all along and on no page"
            );
        } else {
            self.walk = Some(walk);
        }
        Ok(())
    }

    /// A master of a cluster is lost with all it held.
    async fn lose(&mut self, part: u8, noticed: bool) -> Outcome {
        let Some(redis) = self.home.redis.clone() else {
            return Ok(());
        };
        let place = place(part);
        match place {
            Place::Shard(_) => redis.lose(&format!("s{part:x}")).await,
            Place::Nodes => redis.lose("nodes").await,
        }
        self.model.lose(place);
        self.walk = None;
        self.notice(noticed).await
    }

    /// A master of a cluster was away for longer than leases hold.
    async fn away(&mut self, part: u8, noticed: bool) -> Outcome {
        let Some(redis) = self.home.redis.clone() else {
            return Ok(());
        };
        redis.lapse_all(place(part)).await;
        self.model.lapse_all(place(part));
        self.notice(noticed).await
    }

    async fn notice(&mut self, noticed: bool) -> Outcome {
        if noticed {
            for node in 0..NODES as u8 {
                self.beat(node).await?;
            }
        }
        Ok(())
    }

    /// What every read says is what the model says.
    async fn compare(&mut self) -> Outcome {
        self.compared += 1;
        let online = self.model.online();
        if let Some(walk) = &mut self.walk {
            walk.stayed.retain(|user| online.contains_key(user));
        }
        let model = &self.model;
        let reader = &self.home.reader;
        let users: Vec<UserId> = USERS.iter().map(|user| (*user).into()).collect();
        let (presence, _) = timed(reader.presence(&users)).await?;
        let reads = try_join_all(users.iter().map(|user| timed(reader.user(user)))).await?;
        for ((user, presence), (it, _)) in users.iter().zip(presence).zip(reads) {
            prop_assert_eq!(presence.tally, model.tally(user), "tally of {}", user);
            self.seen(user, presence.last_seen)?;
            let live = model
                .live_of(user)
                .into_iter()
                .map(|it| it.connection.clone());
            prop_assert_eq!(
                it.connections,
                live.collect::<Vec<_>>(),
                "connections of {}",
                user
            );
            prop_assert_eq!(it.banned, model.bans.contains_key(user), "ban of {}", user);
            self.seen(user, it.last_seen)?;
        }
        if let Some((connection, _)) = self.connections.last() {
            self.compare_one(connection).await?;
        }
        let (mut nodes, _) = timed(reader.nodes()).await?;
        nodes.sort_by(|a, b| {
            a.node_id
                .cmp(&b.node_id)
                .then(a.last_heartbeat.cmp(&b.last_heartbeat))
        });
        let leases = model.leases.iter();
        let live = leases.filter(|(lease, _)| model.holds(lease, Place::Nodes));
        let live = sorted(live.map(|(_, it)| it.node.clone()));
        prop_assert_eq!(
            nodes.into_iter().map(|it| it.node_id).collect::<Vec<_>>(),
            live,
            "nodes"
        );
        // One node at a time: it is the one read that takes many round trips.
        if let Some(node) = self.nodes.get(self.compared % NODES) {
            let (held, _) = timed(node.registry.held(&node.lease)).await?;
            let of_lease = model
                .entries
                .iter()
                .filter(|(_, held)| held.lease == node.lease);
            let of_lease = of_lease.map(|(entry, _)| entry.clone());
            prop_assert_eq!(sorted(held), sorted(of_lease), "held by {}", node.lease);
        }
        let all: Vec<_> = self
            .connections
            .iter()
            .map(|(it, grant)| (entry(it), grant.clone()))
            .collect();
        let entries: Vec<Entry> = all.iter().map(|(entry, _)| entry.clone()).collect();
        let (orders, _) = timed(reader.orders(&entries)).await?;
        let orders: BTreeMap<ConnectionId, Ending> = orders
            .into_iter()
            .map(|(entry, order)| (entry.id, order))
            .collect();
        prop_assert_eq!(&orders, &model.orders, "orders");
        // And whoever came in by a family.
        let by_family = model.families.values().map(|kept| {
            let (user, id) = (kept.family.user.clone(), "any".into());
            let grant = Grant {
                issued_at: Some(Timestamp::MAX),
                token_id: None,
                session: Some(kept.family.id.clone()),
            };
            (
                Entry {
                    user: Some(user),
                    id,
                },
                grant,
            )
        });
        let all: Vec<_> = all.into_iter().chain(by_family).collect();
        let (standing, _) = timed(reader.standing(&all)).await?;
        let expected = all.iter().filter_map(|(entry, grant)| {
            Some((entry.clone(), model.barred(entry.user.as_ref(), grant)?))
        });
        prop_assert_eq!(sorted(standing), sorted(expected), "standing");
        if let Some(redis) = &self.home.redis {
            let (entries, users) = model.counts();
            prop_assert_eq!(
                redis.counted().await,
                (entries, users as i64),
                "entries and users as Redis counts them"
            );
        }
        Ok(())
    }

    /// One connection, and the ways that lead to it and its user.
    async fn compare_one(&self, connection: &Connection) -> Outcome {
        let reader = &self.home.reader;
        let named = entry(connection);
        let held = self.model.entries.get(&named);
        let live = held.filter(|held| self.model.is_live(&named, held));
        let (found, _) = timed(reader.connection(&connection.id)).await?;
        prop_assert_eq!(
            found.as_ref(),
            live.map(|held| &held.connection),
            "connection"
        );
        let holder = live.map(|held| held.lease.instance.clone());
        let whom = Whom::Connection(entry(connection));
        let (holders, _) = timed(reader.holders(&whom)).await?;
        prop_assert_eq!(holders, Vec::from_iter(holder), "the holder of one");
        if let Some(user) = &connection.user_id {
            let (ban, _) = timed(reader.ban_of(user)).await?;
            prop_assert_eq!(ban.as_ref(), self.model.bans.get(user), "ban");
            let (holders, _) = timed(reader.holders(&Whom::User(user.clone()))).await?;
            let live = self
                .model
                .live_of(user)
                .into_iter()
                .map(|it| it.lease.instance.clone());
            let expected: BTreeSet<_> = live.collect();
            prop_assert_eq!(holders, Vec::from_iter(expected), "holders");
        }
        Ok(())
    }

    fn seen(&self, user: &UserId, seen: Option<Timestamp>) -> Outcome {
        let expected = self.model.last_seen(user);
        let fits = match (seen, expected) {
            (None, None) => true,
            (Some(seen), Some((from, to))) => (from..=to).contains(&seen),
            _ => false,
        };
        prop_assert!(
            fits,
            "{} was last seen at {:?}, not {:?}",
            user,
            seen,
            expected
        );
        Ok(())
    }

    /// Everybody goes, in order or not, and what is left in Redis is only what goes by itself.
    pub(super) async fn end(mut self) -> Outcome {
        for node in 0..NODES as u8 {
            self.beat(node).await?;
            let lease = self.node(node).lease.clone();
            let at = timed(self.node(node).registry.leave(&lease)).await?.1;
            self.model.leave(&lease, at);
        }
        self.totals().await?;
        prop_assert_eq!(self.model.entries.len(), 0);
        self.compare().await?;
        if let Some(redis) = &self.home.redis {
            prop_assert_eq!(redis.orphans().await, Vec::<String>::new(), "left in Redis");
        }
        Ok(())
    }
}
