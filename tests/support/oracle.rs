//! The oracle: the registry, and every node's answers, are exactly the set of live connections.
//!
//! Each look says at once what does not hold; the caller looks again until it does, or until the bound is over. The clients
//! know which connections there are: those with `ready` whose sockets are open.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    bounds::ensure,
    client::Client,
    fleet::{Fleet, Node},
    stored::Stored,
};

/// Of so many users the connections are asked one by one, on every node.
const SAMPLE: usize = 12;

/// How many file descriptors more than at its start a node may have: connections to Redis that it opens as it needs them. The
/// link and the bus's two are there at the start; the pool of four is not, and the link may be replacing its own.
const TO_REDIS: usize = 6;

/// One look, with clients connected.
pub(crate) async fn exact(fleet: &Fleet, clients: &[&Client]) -> Result<(), String> {
    let live: Vec<_> = clients.iter().filter(|client| client.is_open()).collect();
    let expected: BTreeMap<String, (String, String)> = live
        .iter()
        .map(|client| {
            (
                client.id.clone(),
                (client.user.clone(), client.node.clone()),
            )
        })
        .collect();
    let users: BTreeSet<&String> = live.iter().map(|client| &client.user).collect();
    in_redis(fleet, &expected, users.len()).await?;
    for node in fleet.up() {
        answers(fleet, node, &expected).await?;
    }
    // None went meanwhile: what was compared was there all along.
    let still = live.iter().filter(|client| client.is_open()).count();
    ensure(still == live.len(), || {
        "clients went during the look".into()
    })
}

async fn in_redis(
    fleet: &Fleet,
    expected: &BTreeMap<String, (String, String)>,
    users: usize,
) -> Result<(), String> {
    let stored = Stored::read(&fleet.redis, "switchboard").await?;
    ensure(stored.lapsed.is_empty(), || {
        format!("leases nobody has reaped: {:?}", stored.lapsed)
    })?;
    let names: BTreeSet<_> = stored.live.values().cloned().collect();
    let nodes: BTreeSet<_> = fleet.up().map(|node| node.name.clone()).collect();
    ensure(names == nodes && stored.live.len() == nodes.len(), || {
        format!("leases of {:?} instead of {nodes:?}", stored.live)
    })?;
    let found: BTreeMap<_, _> = stored
        .entries
        .iter()
        .map(|(id, (user, lease))| {
            let node = stored.live.get(lease).cloned();
            (
                id.clone(),
                (
                    user.clone(),
                    node.unwrap_or_else(|| format!("lease {lease}")),
                ),
            )
        })
        .collect();
    ensure(found == *expected, || difference("Redis", &found, expected))?;
    for (id, leases) in &stored.held {
        let entry = stored.entries.get(id);
        ensure(
            leases.len() == 1 && entry.is_some_and(|(_, lease)| *lease == leases[0]),
            || format!("{id} is held by {leases:?}, and its entry is {entry:?}"),
        )?;
    }
    ensure(stored.held.len() == stored.entries.len(), || {
        format!(
            "{} are held, {} entries",
            stored.held.len(),
            stored.entries.len()
        )
    })?;
    ensure(stored.users == users as i64, || {
        format!("Redis counts {} users of {users}", stored.users)
    })
}

/// What one node says.
async fn answers(
    fleet: &Fleet,
    node: &Node,
    expected: &BTreeMap<String, (String, String)>,
) -> Result<(), String> {
    let name = &node.name;
    node.api
        .ready()
        .await
        .map_err(|error| format!("{name}: {error}"))?;
    let mut of_user: BTreeMap<&String, Vec<(String, String)>> = BTreeMap::new();
    let mut here = 0;
    for (id, (user, at)) in expected {
        let pair = (id.clone(), at.clone());
        of_user.entry(user).or_default().push(pair);
        here += u64::from(at == name);
    }

    let pages = node.api.everybody(200).await?;
    let listed: BTreeMap<_, _> = pages.iter().cloned().collect();
    let wanted: BTreeMap<_, _> = of_user
        .iter()
        .map(|(user, list)| ((*user).clone(), list.len() as u64))
        .collect();
    ensure(listed == wanted && pages.len() == listed.len(), || {
        difference(&format!("/v1/users of {name}"), &listed, &wanted)
    })?;

    let stats = node.api.read("/v1/stats").await?;
    let number = |field: &str| stats[field].as_u64().unwrap_or(u64::MAX);
    let nodes = fleet.up().count() as u64;
    let saw = (number("nodes"), number("connections"), number("users"));
    let right = (nodes, expected.len() as u64, of_user.len() as u64);
    ensure(saw == right, || {
        format!("/v1/stats of {name}: {saw:?} instead of {right:?}")
    })?;

    let step = (of_user.len() / SAMPLE).max(1);
    for (user, list) in of_user.iter().step_by(step) {
        let found = node.api.connections_of(user).await?;
        ensure(found == *list, || {
            format!("{name}: {user} has {found:?}, not {list:?}")
        })?;
    }

    let scrape = node.api.metrics().await?;
    let gauge = scrape.sum("switchboard_connections", &[]) as u64;
    ensure(gauge == here, || {
        format!("/metrics of {name}: {gauge} connections of {here}")
    })
}

/// One look at what nodes say by heartbeat: the sums of `/v1/nodes`, and the cluster's gauges.
pub(crate) async fn reported(fleet: &Fleet, clients: &[&Client]) -> Result<(), String> {
    let expected = clients.iter().filter(|client| client.is_open()).count() as u64;
    let nodes = fleet.up().count();
    for node in fleet.up() {
        let name = &node.name;
        let list = node.api.read("/v1/nodes").await?;
        let list = list["nodes"].as_array().cloned().unwrap_or_default();
        let sum: u64 = list
            .iter()
            .filter_map(|node| node["connections"].as_u64())
            .sum();
        ensure((list.len(), sum) == (nodes, expected), || {
            format!(
                "/v1/nodes of {name}: {} nodes, {sum} connections of {expected}",
                list.len()
            )
        })?;
        let scrape = node.api.metrics().await?;
        let cluster = scrape.sum("switchboard_cluster_connections", &[]) as u64;
        ensure(cluster == expected, || {
            format!("/metrics of {name}: {cluster} in the cluster of {expected}")
        })?;
    }
    Ok(())
}

/// One look after all clients have gone: exact with nobody, no key but those that expire or of live nodes, file descriptors
/// as many as at the beginning, no panic.
pub(crate) async fn empty(fleet: &Fleet) -> Result<(), String> {
    exact(fleet, &[]).await?;
    let stored = Stored::read(&fleet.redis, "switchboard").await?;
    let left = stored.leftovers(false);
    ensure(left.is_empty(), || format!("left in Redis: {left:?}"))?;
    for node in fleet.up() {
        let (now, base) = (node.process.descriptors(), node.base());
        ensure(now <= base + TO_REDIS, || {
            format!(
                "{} has {now} file descriptors, at the beginning {base}",
                node.name
            )
        })?;
    }
    no_panic(fleet)
}

/// No node has panicked.
pub(crate) fn no_panic(fleet: &Fleet) -> Result<(), String> {
    for node in &fleet.nodes {
        let panics = node.logged(&["panicked at"]);
        ensure(panics.is_empty(), || format!("{}: {panics:?}", node.name))?;
    }
    Ok(())
}

/// What is too much and what is missing, a few of each.
fn difference<V: PartialEq + std::fmt::Debug>(
    where_: &str,
    found: &BTreeMap<String, V>,
    expected: &BTreeMap<String, V>,
) -> String {
    let beyond = |a: &BTreeMap<String, V>, b: &BTreeMap<String, V>| -> (usize, Vec<String>) {
        let keys = a.iter().filter(|(key, value)| b.get(*key) != Some(value));
        let keys: Vec<_> = keys
            .map(|(key, value)| format!("{key} {value:?}"))
            .collect();
        (keys.len(), keys.into_iter().take(4).collect())
    };
    let (more, extra) = beyond(found, expected);
    let (less, missing) = beyond(expected, found);
    format!("{where_}: {more} too many or wrong {extra:?}, {less} missing or wrong {missing:?}")
}
