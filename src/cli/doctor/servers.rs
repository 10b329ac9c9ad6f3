//! The servers of Redis: whether they are there, and fit.

use std::{collections::HashMap, convert::Infallible, time::Duration};

use jiff::Timestamp;
use redis::{
    AsyncConnectionConfig, FromRedisValue, RedisResult, Value, aio::MultiplexedConnection,
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{report::Report, rights};
use crate::{
    config::{self, Config, RedisMode},
    link::{self, Address, LinkError, Servers},
};

/// How long a server may take to be found, and to be connected to.
const PATIENCE: Duration = Duration::from_secs(3);

/// How many PINGs are measured.
const PINGS: usize = 20;

/// From this latency on, each call of a client notices Redis.
const SLOW: Duration = Duration::from_millis(5);

/// From this difference on, tokens seem to be of the future or over: `auth.jwt.leeway` is 5 s.
const CLOCKS_APART: f64 = 5.0;

/// From this difference on, a clock is not kept in time.
const CLOCKS_OFF: f64 = 1.0;

/// The oldest version that has all commands.
const OLDEST: u32 = 7;

/// Looks at every server that nodes would use, and at those of sessions and emitters. What is not done `until` then is said to be
/// late.
pub(super) async fn examine(
    config: &Config,
    until: Instant,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (emitter, python) = (&config.ingress.emitter, &config.ingress.python);
    let emitter = emitter
        .iter()
        .map(|it| (it.redis_url.clone(), rights::of_emitters(it)));
    let python = python
        .iter()
        .map(|it| (it.redis_url.clone(), rights::of_python(it)));
    let mut ingress: Vec<_> = emitter.chain(python).collect();
    if config.redis.urls.is_empty() {
        let says = "none is configured: the embedded registry, for one node alone";
        report.ok("redis", says);
    } else {
        let mut tries = rights::of_a_node(config);
        let here = ingress.extract_if(.., |(url, _)| url.is_none());
        tries.extend(here.flat_map(|(_, tries)| tries));
        of(&config.redis, Some(config), &tries, until, report).await?;
    }
    for (url, tries) in ingress {
        of(&config.redis_at(url.as_ref()), None, &tries, until, report).await?;
    }
    if let Some(redis) = config.session_redis()
        && (config.auth.session.redis_url.is_some() || config.redis.urls.is_empty())
    {
        of(&redis, None, &rights::of_sessions(config), until, report).await?;
    }
    Ok(())
}

async fn of(
    redis: &config::Redis,
    registry: Option<&Config>,
    tries: &[rights::Try],
    until: Instant,
    report: &mut Report,
) -> Result<(), LinkError> {
    let servers = Servers::new(redis)?;
    let mut maps = servers.maps();
    let whole = timeout(PATIENCE, maps.wait_for(|map| map.is_whole()));
    if whole.await.is_err() {
        report.fail("redis", match redis.mode {
            RedisMode::Sentinel => "no sentinel names the master: look at redis.urls, redis.master_name, redis.sentinel_username and redis.sentinel_password",
            _ => "not every slot has a master that answers: look at redis.urls, its user and password, and CLUSTER INFO",
        });
    }
    let map = servers.map();
    for address in map.servers() {
        match timeout_at(until, connect(&servers, address)).await {
            Err(_) => report.late("redis", address),
            Ok(Ok(connection)) => {
                Server {
                    address,
                    connection,
                    until,
                    report: &mut *report,
                }
                .examine(redis.mode, registry, tries)
                .await;
            }
            Ok(Err(why)) => report.fail("redis", format!("{address}: {why}")),
        }
    }
    Ok(())
}

async fn connect(servers: &Servers, address: &Address) -> Result<MultiplexedConnection, String> {
    let client = servers.client(address).map_err(|error| error.to_string())?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE))
        // Without it, a subscription is refused by the library.
        .set_push_sender(|_| Ok::<(), Infallible>(()));
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    connecting.await.map_err(|error| {
        let code = error.code().unwrap_or_default();
        match code == "WRONGPASS"
            || code == "NOAUTH"
            || error.kind() == redis::ErrorKind::AuthenticationFailed
        {
            true => format!("it refuses the user or the password of its URL: {error}"),
            false => {
                format!("can't be reached: {error}; look at its URL, and at the network between")
            }
        }
    })
}

/// One server under examination.
struct Server<'a> {
    address: &'a Address,
    connection: MultiplexedConnection,
    until: Instant,
    report: &'a mut Report,
}

impl Server<'_> {
    async fn examine(mut self, mode: RedisMode, registry: Option<&Config>, tries: &[rights::Try]) {
        let until = self.until;
        if timeout_at(until, self.introduction(mode)).await.is_err() {
            self.report.late("redis.version", self.address);
        }
        if timeout_at(until, self.latency()).await.is_err() {
            self.report.late("redis.latency", self.address);
        }
        if timeout_at(until, self.clock()).await.is_err() {
            self.report.late("redis.clock", self.address);
        }
        if registry.is_some() && timeout_at(until, self.memory()).await.is_err() {
            self.report.late("redis.memory", self.address);
        }
        let missing = rights::missing(&mut self.connection, tries);
        match timeout_at(until, missing).await {
            Err(_) => {
                self.report.late("redis.rights", self.address);
                let cleaning = rights::clean(&mut self.connection, tries);
                timeout(PATIENCE, cleaning).await.ok();
            }
            Ok(Ok(missing)) => {
                let address = self.address;
                if missing.needed.is_empty() {
                    self.report.ok(
                        "redis.rights",
                        format!("{address}: the user may run all that a node needs"),
                    );
                } else {
                    let needed = missing.needed.join(", ");
                    self.report.fail("redis.rights", format!("{address}: the user lacks {needed}; give it what deploy/redis/README.md lists"));
                }
                for note in missing.notes {
                    self.report
                        .warn("redis.rights", format!("{address}: {note}"));
                }
            }
            Ok(Err(error)) => self.silent("redis.rights", &error),
        }
    }

    async fn ask<T: FromRedisValue>(&mut self, command: &str) -> RedisResult<T> {
        redis::cmd(command).query_async(&mut self.connection).await
    }

    /// Nothing can be said of a check. A command that is refused is named with the rights.
    fn silent(&mut self, check: &'static str, error: &redis::RedisError) {
        if !rights::is_refused(error) {
            let says = format!("{}: {error}", self.address);
            self.report.fail(check, says);
        }
    }

    /// Version, mode and role: what `HELLO` says, which any user may ask for.
    async fn introduction(&mut self, mode: RedisMode) {
        let said: HashMap<String, Value> = match self.ask("HELLO").await {
            Ok(said) => said,
            Err(error) => return self.silent("redis.version", &error),
        };
        let field = |name: &str| {
            let value = said.get(name).cloned().unwrap_or(Value::Nil);
            String::from_redis_value(value).unwrap_or_default()
        };
        let (address, version) = (self.address, field("version"));
        let says = format!("{address}: {} {version}", field("server"));
        let major = version
            .split('.')
            .next()
            .and_then(|major| major.parse().ok());
        match major {
            Some(OLDEST..) => self.report.ok("redis.version", says),
            _ => self.report.fail(
                "redis.version",
                format!("{says}: use Redis 7 or newer, or Valkey 8"),
            ),
        }
        if matches!(field("role").as_str(), "replica" | "slave") && mode != RedisMode::Cluster {
            self.report.fail("redis.role", format!("{address}: it is a replica, and nodes read and write on masters: name the master, or set redis.mode to sentinel"));
        }
        if (field("mode") == "cluster") != (mode == RedisMode::Cluster) {
            let is = field("mode");
            self.report.fail(
                "redis.mode",
                format!("{address}: it runs as {is}: set redis.mode to what it is"),
            );
        }
    }

    async fn latency(&mut self) {
        let mut taken = Vec::with_capacity(PINGS);
        let mut worst = Duration::ZERO;
        // One that is too slow tells enough, and leaves time for the rest.
        while taken.len() < PINGS && worst < link::DEADLINE {
            let start = Instant::now();
            if let Err(error) = self.ask::<Value>("PING").await {
                return self.silent("redis.latency", &error);
            }
            taken.push(start.elapsed());
            worst = worst.max(start.elapsed());
        }
        taken.sort_unstable();
        let (count, median) = (taken.len(), taken[taken.len() / 2]);
        let says = format!(
            "{}: PING takes {median:.1?}, {worst:.1?} at the worst of {count}",
            self.address
        );
        if worst >= link::DEADLINE {
            let deadline = link::DEADLINE;
            self.report.fail("redis.latency", format!("{says}: nodes give a call {deadline:?}; put Redis nearer, or find what holds it up"));
        } else if median >= SLOW {
            self.report.warn(
                "redis.latency",
                format!("{says}: put Redis nearer to the nodes"),
            );
        } else {
            self.report.ok("redis.latency", says);
        }
    }

    async fn clock(&mut self) {
        let before = Timestamp::now();
        let answer = self.ask::<Vec<Option<Vec<u8>>>>("TIME").await;
        let after = Timestamp::now();
        let there = match answer {
            Ok(answer) => link::time(&answer),
            Err(error) => return self.silent("redis.clock", &error),
        };
        let Some(there) = there else {
            return self.report.fail(
                "redis.clock",
                format!("{}: TIME answers no time", self.address),
            );
        };
        // The answer is of some moment between the two.
        let here = before + after.duration_since(before) / 2;
        let apart = there.duration_since(here).as_secs_f64();
        let says = format!("{}: its clock is {apart:+.3} s from ours", self.address);
        match apart.abs() {
            CLOCKS_APART.. => self
                .report
                .fail("redis.clock", format!("{says}: synchronise both (NTP)")),
            CLOCKS_OFF.. => self
                .report
                .warn("redis.clock", format!("{says}: synchronise both (NTP)")),
            _ => self.report.ok("redis.clock", says),
        }
    }

    /// Whether Redis forgets when it is full.
    async fn memory(&mut self) {
        let address = self.address;
        let mut command = redis::cmd("INFO");
        let answer = command
            .arg("memory")
            .query_async::<String>(&mut self.connection)
            .await;
        let info = match answer {
            Ok(info) => info,
            Err(error) if rights::is_refused(&error) => {
                return self.report.warn("redis.memory", format!("{address}: the user may not ask for the memory policy (+info|memory): see to it that it is noeviction"));
            }
            Err(error) => return self.silent("redis.memory", &error),
        };
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
        let policy = field("maxmemory_policy:").map_or("unknown", str::trim);
        let limit = field("maxmemory:").map_or("0", str::trim);
        let says = format!("{address}: maxmemory-policy is {policy}");
        match policy {
            "noeviction" if limit == "0" => self.report.warn("redis.memory", format!("{says}, and maxmemory is not set: set it, or Redis grows until the system ends it")),
            "noeviction" => self.report.ok("redis.memory", format!("{says}, maxmemory {limit} bytes")),
            _ => self.report.fail("redis.memory", format!("{says}: a full Redis would drop bans and whole shards; set it to noeviction")),
        }
    }
}
