//! What the user of Redis may do, found out by doing it on names that nobody reads.

use std::collections::BTreeSet;

use redis::{Cmd, RedisError, RedisResult, Value, aio::ConnectionLike};

use crate::{
    config::{Config, EmitterIngress, PythonIngress, RedisMode},
    connection::Instance,
    registry::keys::Keys,
};

/// All that a node runs. Each leaves nothing behind, or something that one after it removes; and only whether it is
/// permitted counts: in a cluster, the server may answer that the key is elsewhere.
const NODE: &[&str] = &[
    "PING",
    "CLIENT SETNAME switchboard-doctor",
    "UNWATCH",
    "TIME",
    "SCRIPT LOAD return(1)",
    "EVALSHA 0000000000000000000000000000000000000000 0",
    "SET {key} 1 PX 10000",
    "GET {key}",
    "MGET {key}",
    "EXISTS {key}",
    "INCR {key}",
    "DECR {key}",
    "PTTL {key}",
    "PEXPIRE {key} 10000",
    "PEXPIREAT {key} 1",
    "DEL {key}",
    "HSET {key} f v",
    "HSETNX {key} f v",
    "HGET {key} f",
    "HMGET {key} f",
    "HGETALL {key}",
    "HRANDFIELD {key}",
    "HSCAN {key} 0",
    "HDEL {key} f",
    "HINCRBY {key} f 1",
    "DEL {key}",
    "ZADD {key} XX 0 m",
    "ZREM {key} m",
    "ZCARD {key}",
    "ZRANGEBYLEX {key} - +",
    "ZRANGEBYSCORE {key} 0 1",
    "ZLEXCOUNT {key} - +",
    "XADD {key} NOMKSTREAM * f v",
    "XRANGE {key} - +",
    "XLEN {key}",
    "XTRIM {key} MAXLEN 0",
    "XDEL {key} 0-1",
    "SADD {key} m",
    "SMEMBERS {key}",
    "SREM {key} m",
    "RPUSH {key} m",
    "LRANGE {key} 0 -1",
    "LTRIM {key} 1 0",
    "SPUBLISH {channel} x",
    "SSUBSCRIBE {channel}",
    "SUNSUBSCRIBE {channel}",
];

/// What a node can do without, and what it is for.
const OPTIONAL: &[(&str, &str)] = &[
    ("SCAN 0 MATCH {key} COUNT 1", "the first start of a fleet"),
    ("COPY {key} {key}:copy", "the first start of a fleet"),
    (
        "PUBSUB SHARDCHANNELS {channel}",
        "a start right after Redis has lost its data",
    ),
];

const CLUSTER: &[&str] = &["CLUSTER NODES", "CLUSTER INFO", "ASKING"];

const SESSIONS: &[&str] = &["MGET {session}", "PTTL {session}", "TIME"];

/// A command that is tried.
pub(super) struct Try {
    command: Cmd,
    name: String,
    /// The pattern that its key or channel falls under.
    pattern: String,
    /// None: a node needs it. Else what it is for.
    only_for: Option<&'static str>,
}

/// What a user may not do.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// Commands (`+get`), keys (`~switchboard:*`) and channels (`&switchboard:*`) that a node needs.
    pub(super) needed: Vec<String>,
    /// What it can do without, in sentences.
    pub(super) notes: Vec<String>,
}

/// What nodes with this configuration do in the Redis of the fleet.
pub(super) fn of_a_node(config: &Config) -> Vec<Try> {
    let mut tries: Vec<_> = NODE
        .iter()
        .map(|text| Try::new(text, None, config))
        .collect();
    let optional = OPTIONAL.iter();
    tries.extend(optional.map(|(text, only_for)| Try::new(text, Some(only_for), config)));
    if config.redis.mode == RedisMode::Cluster {
        tries.extend(CLUSTER.iter().map(|text| Try::new(text, None, config)));
    }
    if config.auth.session.is_on() && config.auth.session.redis_url.is_none() {
        tries.extend(of_sessions(config));
    }
    let streams = config.backends.iter().filter_map(|it| it.stream.as_ref());
    tries.extend(streams.map(|stream| {
        Try {
            // Permitted or not, this adds nothing: no entry may have that id.
            command: redis::cmd("XADD")
                .arg(stream)
                .arg("0-0")
                .arg("f")
                .arg("v")
                .take(),
            name: "xadd".to_owned(),
            pattern: format!("~{stream}"),
            only_for: None,
        }
    }));
    tries
}

/// What a node does where emitters publish with `@socket.io/redis-emitter`, or Socket.IO servers with the Redis adapter.
pub(super) fn of_emitters(ingress: &EmitterIngress) -> Vec<Try> {
    let channels = [
        format!("{}#*", ingress.key),
        format!("{}-request#*", ingress.key),
    ];
    let tries = channels.map(|channel| Try {
        command: redis::cmd("PSUBSCRIBE").arg(&channel).take(),
        name: "psubscribe".to_owned(),
        pattern: format!("&{channel}"),
        only_for: None,
    });
    tries.into()
}

/// What a node does where python-socketio publishes.
pub(super) fn of_python(ingress: &PythonIngress) -> Vec<Try> {
    let channel = &ingress.channel;
    vec![Try {
        command: redis::cmd("SUBSCRIBE").arg(channel).take(),
        name: "subscribe".to_owned(),
        pattern: format!("&{channel}"),
        only_for: None,
    }]
}

/// What nodes with this configuration do where the sessions are.
pub(super) fn of_sessions(config: &Config) -> Vec<Try> {
    let tries = SESSIONS.iter();
    tries.map(|text| Try::new(text, None, config)).collect()
}

impl Try {
    fn new(text: &str, only_for: Option<&'static str>, config: &Config) -> Self {
        let keys = Keys::new(&config.registry.prefix);
        let instance = Instance::from("switchboard-doctor");
        let shard = config.registry.shards.all().next();
        let channel = shard.map(|shard| keys.node_channel(shard, &instance));
        let session = &config.auth.session.key_prefix;
        let mut command = Cmd::new();
        for word in text.split(' ') {
            command.arg(
                word.replace("{key}", &channel.clone().unwrap_or_default())
                    .replace("{channel}", &channel.clone().unwrap_or_default())
                    .replace("{session}", &format!("{session}switchboard-doctor")),
            );
        }
        let mut words = text.split(' ');
        let name = words.next().unwrap_or_default().to_lowercase();
        let name = match (name.as_str(), words.next()) {
            ("client" | "script" | "pubsub" | "cluster", Some(sub)) => {
                format!("{name}|{}", sub.to_lowercase())
            }
            _ => name,
        };
        let prefix = &config.registry.prefix;
        let pattern = match text {
            text if text.contains("{session}") => format!("%R~{session}*"),
            text if text.contains("{channel}") => format!("&{prefix}:*"),
            _ => format!("~{prefix}:*"),
        };
        Self {
            command,
            name,
            pattern,
            only_for,
        }
    }
}

/// Whether a user may not do something.
pub(super) fn is_refused(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
}

/// Tries everything, and returns what is not permitted.
pub(super) async fn missing(
    connection: &mut (impl ConnectionLike + Send),
    tries: &[Try],
) -> RedisResult<Missing> {
    let mut missing = Missing::default();
    let mut needed = BTreeSet::new();
    for one in tries {
        // One after the other: what answers a subscription is out of line.
        let answer = connection.req_packed_command(&one.command).await;
        let error = match answer.and_then(Value::extract_error) {
            Err(error) if is_refused(&error) => error.to_string(),
            Err(error) if error.is_io_error() || error.is_timeout() => return Err(error),
            _ => continue,
        };
        let lacks = match error.contains("run the") {
            true => format!("+{}", one.name),
            false => one.pattern.clone(),
        };
        match one.only_for {
            None => drop(needed.insert(lacks)),
            Some(only_for) => missing
                .notes
                .push(format!("the user lacks {lacks}, which is for {only_for}")),
        }
    }
    missing.needed = needed.into_iter().collect();
    Ok(missing)
}

/// Removes what [`missing`] leaves where it is given up half way.
pub(super) async fn clean(connection: &mut (impl ConnectionLike + Send), tries: &[Try]) {
    if let Some(removal) = tries.iter().find(|one| one.name == "del") {
        connection.req_packed_command(&removal.command).await.ok();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_acl_is_tried() {
        let acl = std::fs::read_to_string("deploy/redis/switchboard.acl").unwrap();
        let rules = acl.lines().filter(|line| !line.starts_with('#'));
        let granted: BTreeSet<_> = rules
            .flat_map(str::split_whitespace)
            .filter_map(|word| word.strip_prefix('+'))
            // Sent by the library, which goes on without; and by the look at the memory.
            .filter(|word| !matches!(*word, "client|setinfo" | "info|memory"))
            .map(str::to_owned)
            .collect();
        let tries = of_a_node(&Config::default());
        let tried: BTreeSet<_> = tries.into_iter().map(|one| one.name).collect();
        assert_eq!(granted, tried);
    }

    /// What is said to Redis in the files of a folder, in lower case.
    fn said_in(folder: &str) -> BTreeSet<String> {
        let files = std::fs::read_dir(folder).unwrap();
        let texts = files.filter_map(|file| std::fs::read_to_string(file.unwrap().path()).ok());
        let said = texts.flat_map(|text| {
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let after = |call: &'static str, end: char| {
                let names = code.split(call).skip(1);
                names.filter_map(move |rest| Some(rest.split_once(end)?.0.to_lowercase()))
            };
            let names = after("redis.call('", '\'').chain(after("cmd(\"", '"'));
            names.collect::<Vec<_>>()
        });
        said.collect()
    }

    #[test]
    fn every_command_of_the_registry_and_the_bus_is_tried() {
        let tries = of_a_node(&Config::default());
        let tried: BTreeSet<_> = tries.into_iter().map(|one| one.name).collect();
        for folder in ["src/registry/lua", "src/registry/redis", "src/bus"] {
            let mut said = said_in(folder);
            assert!(said.len() > 2, "{folder}: {said:?}");
            said.remove("pubsub");
            let untried: Vec<_> = said.difference(&tried).collect();
            assert!(untried.is_empty(), "{folder}: {untried:?}");
        }
    }
}
