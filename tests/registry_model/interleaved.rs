//! Many callers at once, and what holds once they are done.
//!
//! What one call did not see of another is not compared; what no order of the calls can give is.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use parking_lot::Mutex;
use proptest::{collection::vec, option, prelude::*, test_runner::TestCaseError};
use switchboard::{
    connection::{Connection, ConnectionId, Instance, TransportKind, UserId},
    ending::Ending,
    registry::{
        Admission, Assertion, Ban, EndOrder, EndTarget, Fence, Grant, Lease, LimitPolicy,
        NodeReport, Registry, RegistryError, UserLimit, keys::Shards,
    },
};

use tokio::task::JoinHandle;

use super::{
    home::{Home, NODES},
    world::{USERS, entry},
};

/// What one caller does, on whichever node it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    Register {
        user: u8,
        limited: bool,
    },
    /// One of the caller's own, also twice at once.
    Unregister {
        of: u8,
        twice: bool,
    },
    /// For good: nobody lifts it.
    Ban {
        user: u8,
    },
    Kick {
        user: u8,
    },
    Read {
        user: u8,
    },
    Totals,
}

/// A few callers' acts, and the node that dies while they are at it.
pub(super) type Rush = (Vec<Vec<Act>>, Option<u8>);

pub(super) fn rush() -> impl Strategy<Value = Rush> {
    let user = || 0..3_u8;
    let act = prop_oneof![
        8 => (user(), any::<bool>()).prop_map(|(user, limited)| Act::Register { user, limited }),
        4 => (any::<u8>(), any::<bool>()).prop_map(|(of, twice)| Act::Unregister { of, twice }),
        1 => user().prop_map(|user| Act::Ban { user }),
        1 => user().prop_map(|user| Act::Kick { user }),
        2 => user().prop_map(|user| Act::Read { user }),
        1 => Just(Act::Totals),
    ];
    (vec(vec(act, 1..12), 2..7), option::of(0..NODES as u8))
}

/// At most so many of a user where a limit is asked for.
const MAX: u32 = 3;

/// What is known of all calls once they are done.
#[derive(Default)]
struct Known {
    admitted: BTreeSet<(UserId, ConnectionId)>,
    /// A connection that its client has left.
    unregistered: BTreeSet<ConnectionId>,
    /// That an order listed.
    listed: BTreeSet<ConnectionId>,
    banned: BTreeSet<UserId>,
    /// Of these, there may be more than the limit.
    unlimited: BTreeSet<UserId>,
}

struct Caller {
    registry: Arc<dyn Registry>,
    lease: Lease,
    report: NodeReport,
    known: Arc<Mutex<Known>>,
}

impl Caller {
    fn connection(&self, user: &UserId) -> Connection {
        Connection {
            id: self.registry.new_id(Some(user)),
            user_id: Some(user.clone()),
            namespace: "/".into(),
            node_id: self.report.node_id.clone(),
            transport: TransportKind::Websocket,
            connected_at: Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap(),
            expires_at: None,
            device_id: None,
            remote_addr: None,
            user_agent: None,
            rooms: Vec::new(),
            meta: None,
        }
    }

    async fn order(&self, user: &UserId, fence: Option<&Fence>) -> Result<(), RegistryError> {
        let target = EndTarget::User {
            user: user.clone(),
            except: Vec::new(),
        };
        let order = EndOrder {
            target: &target,
            fence,
            ending: &Ending::of(Ending::BANNED),
        };
        // Those that are ordered to end don't count towards a limit.
        self.known.lock().unlimited.insert(user.clone());
        let ordered = self.registry.order_end(order).await?;
        let mut known = self.known.lock();
        if fence.is_some() {
            known.banned.insert(user.clone());
        }
        let listed = ordered.connections.into_iter().map(|it| it.entry.id);
        known.listed.extend(listed);
        Ok(())
    }

    fn assertion<'a>(connection: &'a Connection, grant: &'a Grant) -> Assertion<'a> {
        Assertion {
            connection,
            grant,
            version: 1,
            start: None,
            limit: None,
            again: false,
        }
    }

    /// Does its acts one by one. A lease that runs out under it is no error. Returns the connections it still has, and since when.
    async fn act(&self, acts: &[Act]) -> Result<Vec<(Connection, Timestamp)>, RegistryError> {
        let mut mine: Vec<(Connection, Timestamp)> = Vec::new();
        for act in acts {
            match *act {
                Act::Register { user, limited } => {
                    let user = USERS[usize::from(user)].into();
                    let connection = self.connection(&user);
                    let limit = limited.then_some(UserLimit {
                        max: MAX,
                        policy: LimitPolicy::Reject,
                        newcomers: 0,
                    });
                    if !limited {
                        self.known.lock().unlimited.insert(user.clone());
                    }
                    let grant = Grant::default();
                    let assertion = Assertion {
                        limit,
                        ..Self::assertion(&connection, &grant)
                    };
                    let admission = self.registry.assert(&self.lease, &assertion);
                    match forgiven(admission.await)? {
                        Some(Admission::Admitted { start, .. }) => {
                            let id = connection.id.clone();
                            self.known.lock().admitted.insert((user, id));
                            mine.push((connection, start));
                        }
                        Some(Admission::Refused(_) | Admission::Ended(_)) | None => {}
                    }
                }
                Act::Unregister { of, twice } if !mine.is_empty() => {
                    let (gone, _) = mine.swap_remove(usize::from(of) % mine.len());
                    self.known.lock().unregistered.insert(gone.id.clone());
                    let entries = [entry(&gone)];
                    let once = || self.registry.unregister(&self.lease, &entries);
                    if twice {
                        tokio::try_join!(once(), once())?;
                    } else {
                        once().await?;
                    }
                }
                Act::Unregister { .. } => {}
                Act::Ban { user } => {
                    let fence = Fence::Ban(Ban::default());
                    let user = USERS[usize::from(user)].into();
                    let banned = self.order(&user, Some(&fence));
                    forgiven(banned.await)?;
                }
                Act::Kick { user } => {
                    let user = USERS[usize::from(user)].into();
                    let kicked = self.order(&user, None);
                    forgiven(kicked.await)?;
                }
                Act::Read { user } => {
                    let read = self.registry.user(&USERS[usize::from(user)].into()).await;
                    let Some(read) = forgiven(read)? else {
                        continue;
                    };
                    let ids: BTreeSet<_> = read.connections.iter().map(|it| &it.id).collect();
                    if ids.len() != read.connections.len() {
                        return Err(RegistryError::Corrupt("an id twice in one answer".into()));
                    }
                }
                Act::Totals => {
                    forgiven(self.registry.totals().await)?;
                }
            }
        }
        Ok(mine)
    }

    /// Once all is quiet: who was there when an order was given is told of it, and nobody else.
    async fn again(
        &self,
        mine: &[(Connection, Timestamp)],
        known: &Known,
    ) -> Result<(), TestCaseError> {
        let grant = Grant::default();
        for (connection, start) in mine {
            let assertion = Assertion {
                start: Some(*start),
                again: true,
                ..Self::assertion(connection, &grant)
            };
            let admission = self.registry.assert(&self.lease, &assertion).await;
            let ends = matches!(admission.map_err(failed)?, Admission::Ended(_));
            let listed = known.listed.contains(&connection.id);
            prop_assert_eq!(ends, listed, "{} is to end", connection.id);
        }
        Ok(())
    }
}

/// An answer, unless the lease of the node that asked has run out.
fn forgiven<T>(answer: Result<T, RegistryError>) -> Result<Option<T>, RegistryError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(RegistryError::Unavailable(why)) if why.contains("run out") => Ok(None),
        Err(error) => Err(error),
    }
}

fn failed(error: RegistryError) -> TestCaseError {
    TestCaseError::fail(error.to_string())
}

pub(super) async fn carry_out(home: &Home, (acts, dies): &Rush) -> Result<(), TestCaseError> {
    if let Some(redis) = &home.redis {
        redis.flush_all().await;
    }
    let known = Arc::new(Mutex::new(Known::default()));
    let mut nodes = Vec::new();
    for (number, registry) in home.nodes.iter().enumerate() {
        let lease = Lease {
            instance: Instance::random(),
            epoch: 1,
        };
        let report = NodeReport {
            node_id: format!("node-{number}").into(),
            version: "1".into(),
            started_at: Timestamp::UNIX_EPOCH,
            connections: 0,
            users: 0,
            draining: false,
        };
        registry.join(&lease, &report).await.map_err(failed)?;
        nodes.push((lease, report));
    }
    let callers = acts.iter().enumerate().map(|(number, acts)| {
        let (lease, report) = nodes[number % NODES].clone();
        let caller = Caller {
            registry: Arc::clone(&home.nodes[number % NODES]),
            lease,
            report,
            known: Arc::clone(&known),
        };
        let acts = acts.clone();
        tokio::spawn(async move { caller.act(&acts).await.map(|mine| (caller, mine)) })
    });
    let tasks: Vec<_> = callers.collect();
    let death = dies.map(|dies| {
        // Two nodes find it dead at the same moment, while the others go on.
        let (lease, report) = nodes[usize::from(dies)].clone();
        let dying = Arc::clone(&home.dying);
        let reapers = [Arc::clone(&home.nodes[0]), Arc::clone(&home.nodes[1])];
        tokio::spawn(async move {
            dying.heartbeat(&lease, &report).await?;
            tokio::try_join!(reapers[0].reap(&lease), reapers[1].reap(&lease))
        })
    });
    let mut callers = Vec::new();
    for task in tasks {
        callers.push(joined(task).await?);
    }
    if let (Some(death), Some(dies)) = (death, dies) {
        joined(death).await?;
        // What was written since goes with its next lease.
        let (lease, report) = &nodes[usize::from(*dies)];
        let next = Lease {
            epoch: 2,
            ..lease.clone()
        };
        let node = &home.nodes[usize::from(*dies)];
        node.join(&next, report).await.map_err(failed)?;
        home.nodes[0].reap(lease).await.map_err(failed)?;
        for shard in Shards::default().all() {
            let generation = node.generation(shard).unwrap();
            let entered = node.entered(&next, shard, &generation).await;
            prop_assert!(entered.map_err(failed)?, "nothing is lost");
        }
        nodes[usize::from(*dies)].0 = next;
    }
    let known = std::mem::take(&mut *known.lock());
    quiet(home, &known, dies.is_some()).await?;
    if dies.is_none() {
        for (caller, mine) in &callers {
            caller.again(mine, &known).await?;
        }
        quiet(home, &known, false).await?;
    }
    for (lease, _) in &nodes {
        home.nodes[0].leave(lease).await.map_err(failed)?;
    }
    if let Some(redis) = &home.redis {
        let left = redis.orphans().await;
        prop_assert!(left.is_empty(), "left in Redis: {:?}", left);
    }
    Ok(())
}

async fn joined<T>(task: JoinHandle<Result<T, RegistryError>>) -> Result<T, TestCaseError> {
    let done = task
        .await
        .map_err(|died| TestCaseError::fail(died.to_string()))?;
    done.map_err(failed)
}

/// What holds whatever the order was.
async fn quiet(home: &Home, known: &Known, died: bool) -> Result<(), TestCaseError> {
    let registry = &home.reader;
    let totals = registry.totals().await.map_err(failed)?;
    prop_assert_eq!(totals.nodes, NODES as u64);
    let (mut connections, mut users) = (0, 0);
    for user in USERS.map(UserId::from) {
        let read = registry.user(&user).await.map_err(failed)?.connections;
        connections += read.len() as u64;
        users += i64::from(!read.is_empty());
        for connection in &read {
            let known_of = known
                .admitted
                .contains(&(user.clone(), connection.id.clone()));
            prop_assert!(known_of, "{} was not let in", connection.id);
            let gone = known.unregistered.contains(&connection.id);
            prop_assert!(!gone, "{} is gone and listed", connection.id);
            let found = registry.connection(&connection.id).await.map_err(failed)?;
            prop_assert_eq!(found.as_ref(), Some(connection));
        }
        if !known.unlimited.contains(&user) {
            prop_assert!(read.len() <= MAX as usize, "{} of {}", read.len(), user);
        }
        if !died {
            let ids: BTreeSet<_> = read.into_iter().map(|it| it.id).collect();
            let of_user = known.admitted.iter().filter(|(of, _)| *of == user);
            let stay = of_user.filter(|(_, id)| !known.unregistered.contains(id));
            let stay: BTreeSet<_> = stay.map(|(_, id)| id.clone()).collect();
            prop_assert_eq!(ids, stay, "{} is lost or too much", user);
            // Each that is in was there before the ban, and the ban's order listed it.
            if known.banned.contains(&user) {
                let of_user = known.admitted.iter().filter(|(of, _)| *of == user);
                for (_, id) in of_user.filter(|(_, id)| !known.unregistered.contains(id)) {
                    prop_assert!(known.listed.contains(id), "{} slipped in behind a ban", id);
                }
            }
        }
    }
    prop_assert_eq!(
        (totals.connections, totals.users as i64),
        (connections, users),
        "totals"
    );
    if let Some(redis) = &home.redis {
        let counted = redis.counted().await;
        let entries: u64 = counted.iter().map(|(entries, _)| entries).sum();
        let counted: i64 = counted.iter().filter_map(|(_, users)| *users).sum();
        prop_assert_eq!(
            (entries, counted),
            (connections, users),
            "entries and users as Redis counts them"
        );
    }
    Ok(())
}
