//! What Redis holds, read raw: without the product's own code, so that both can't be wrong alike.

use std::collections::{BTreeMap, BTreeSet};

use super::redis_server::Server;

/// A row of [`READ`]'s answer. Ids and leases are text; users need not be.
type Row = (String, Vec<u8>, Vec<u8>, Vec<u8>);

/// One look at all keys of a cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stored {
    /// Leases that hold, with the names of their nodes.
    pub(crate) live: BTreeMap<String, String>,
    /// Leases that have run out or are buried, and are not reaped.
    pub(crate) lapsed: BTreeSet<String>,
    /// The entries: id → user (none for guests) and lease.
    pub(crate) entries: BTreeMap<String, (String, String)>,
    /// The same from the side of the leases: id → leases that claim it.
    pub(crate) held: BTreeMap<String, Vec<String>>,
    /// The sum of the counters of users.
    pub(crate) users: i64,
    /// Every key with its time to live in ms; -1: for ever.
    pub(crate) keys: BTreeMap<String, i64>,
}

impl Stored {
    /// Reads all of it in one transaction, by a script, so that it is of one moment.
    pub(crate) async fn read(redis: &Server, prefix: &str) -> Result<Self, String> {
        let script = redis::Script::new(READ);
        let client = redis.client();
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(std::time::Duration::from_secs(5)))
            .set_response_timeout(Some(std::time::Duration::from_secs(5)));
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| format!("Redis: {error}"))?;
        let rows: Vec<Row> = script
            .arg(prefix)
            .invoke_async(&mut connection)
            .await
            .map_err(|error| format!("Redis: {error}"))?;
        let mut stored = Self::default();
        for (kind, a, b, c) in rows {
            let [a, b, c] = [a, b, c].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            match kind.as_str() {
                "live" => drop(stored.live.insert(a, b)),
                "lapsed" => drop(stored.lapsed.insert(a)),
                "entry" => {
                    if let Some((_, other)) = stored.entries.insert(a.clone(), (b, c.clone())) {
                        return Err(format!("two entries for {a}: of {other} and of {c}"));
                    }
                }
                "held" => stored.held.entry(a).or_default().push(b),
                "users" => stored.users += a.parse::<i64>().unwrap_or(i64::MIN / 4),
                "key" => drop(stored.keys.insert(a, b.parse().unwrap_or(-1))),
                other => return Err(format!("a row of kind {other}")),
            }
        }
        Ok(stored)
    }

    /// The keys that nobody has a reason to keep while there is no connection: all but what expires, the counters (whose sum
    /// is in [`Stored::users`]), the names of shards and what they have carried, the table of leases, and which shards live nodes
    /// are in. `over`: no node lives either.
    pub(crate) fn leftovers(&self, over: bool) -> Vec<String> {
        let mut left: Vec<_> = self
            .keys
            .iter()
            .filter(|(key, expires)| {
                let name = key.rsplit_once('}').map_or("", |(_, name)| name);
                let kept = matches!(name, ":users" | ":generation" | ":carried" | ":leases");
                let node = name.starts_with(":in:") && !over;
                !(kept || node || **expires >= 0)
            })
            .map(|(key, _)| key.clone())
            .collect();
        left.extend(
            self.lapsed
                .iter()
                .map(|lease| format!("lapsed lease {lease}")),
        );
        if over {
            left.extend(self.live.keys().map(|lease| format!("live lease {lease}")));
        }
        if self.users != 0 {
            left.push(format!("{} users are counted", self.users));
        }
        left
    }
}

/// Rows of four texts: a kind, and what it says. Users are short and plain in these tests, so they are not unescaped.
const READ: &str = r"
local prefix, rows = ARGV[1], {}
local function row(kind, a, b, c)
  rows[#rows + 1] = { kind, a, b or '', c or '' }
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local leases = redis.call('HGETALL', prefix .. ':2:{nodes}:leases')
for i = 1, #leases, 2 do
  local ends, report = string.match(leases[i + 1], '^(%d+):%d+:({.*})$')
  if not ends then
    -- The table's own generation, and when it was last written.
  elseif tonumber(ends) > now then
    row('live', leases[i], cjson.decode(report).n)
  else
    row('lapsed', leases[i])
  end
end
local cursor = '0'
repeat
  local page = redis.call('SCAN', cursor, 'COUNT', 1000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do
    local ttl = redis.call('PTTL', key)
    if ttl ~= -2 then
      row('key', key, tostring(ttl))
    end
    if string.sub(key, 1, #prefix) == prefix then
      local lease = string.match(key, '}:n:(.*)$')
      if string.match(key, '}:conns$') then
        for _, entry in ipairs(redis.call('ZRANGE', key, 0, -1)) do
          local user, id, lease = string.match(entry, '^(%Z*)%z(%Z*)%z(%Z*)%z')
          row('entry', id, user, lease)
        end
      elseif lease then
        for _, id in ipairs(redis.call('HKEYS', key)) do
          row('held', id, lease)
        end
      elseif string.match(key, '}:users$') then
        row('users', redis.call('GET', key))
      end
    end
  end
until cursor == '0'
return rows
";
