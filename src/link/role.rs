//! Whether a server takes writes, by its own word.

use std::{collections::HashMap, time::Duration};

use redis::{Value, aio::ConnectionLike};
use tokio::time::timeout;

/// What a server is to those that replicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It takes writes.
    Master,
    /// It has what its master has, and takes none.
    Replica,
}

impl Role {
    /// Asks the server at the end of a connection; none if it does not say, or not within `limit`.
    ///
    /// By `HELLO`, which any user may call: `ROLE` and `INFO` take permissions that Switchboard has no other use for. It says
    /// nothing of whether the server is well: it is answered while data is loaded too, and while a script runs for long.
    pub(crate) async fn of(connection: &mut impl ConnectionLike, limit: Duration) -> Option<Self> {
        let hello = redis::cmd("HELLO");
        let asking = hello.query_async::<HashMap<String, Value>>(connection);
        let mut said = timeout(limit, asking).await.ok()?.ok()?;
        let role = redis::from_redis_value::<String>(said.remove("role")?).ok()?;
        match role.as_str() {
            "master" => Some(Self::Master),
            "replica" | "slave" => Some(Self::Replica),
            // Such as KeyDB's active replica, which does take writes.
            _ => None,
        }
    }
}
