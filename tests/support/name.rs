//! A master and its replica behind one name, which leads to the master: a proxy stands for the name. Connections outlive what the
//! name says, as they do.

#![allow(dead_code)]

use std::collections::BTreeSet;

use switchboard::{config, link::Servers};

use super::{
    proxy::Proxy,
    redis_server::{PATIENCE, Server, until},
};

/// The two, and the way there.
pub(crate) struct Named {
    pub(crate) first: Server,
    pub(crate) second: Server,
    name: Proxy,
}

impl Named {
    /// Both in step; the first is the master.
    pub(crate) async fn start() -> Self {
        let (first, second) = (Server::start().await, Server::start().await);
        follow(&second, &first).await;
        let name = Proxy::start(first.addr()).await;
        Self {
            first,
            second,
            name,
        }
    }

    /// As a node is configured to connect to it.
    pub(crate) fn config(&self) -> config::Redis {
        config::Redis {
            urls: vec![format!("redis://{}", self.name.addr()).into()],
            ..config::Redis::default()
        }
    }

    pub(crate) fn servers(&self) -> Servers {
        Servers::new(&self.config()).unwrap()
    }

    /// The second becomes the master, with all that the first has been told so far, and the first its replica. The name still
    /// leads to the first.
    pub(crate) async fn change_places(&self) {
        let mut all = redis::pipe();
        all.cmd("SET").arg("last").arg("").ignore();
        all.cmd("WAIT").arg(1).arg(PATIENCE.as_millis() as u64);
        let mut connection = self.first.connection().await;
        let (told,): (u64,) = all.query_async(&mut connection).await.unwrap();
        assert_eq!(told, 1, "the replica has fallen behind");
        self.second.run::<()>("REPLICAOF NO ONE").await;
        follow(&self.first, &self.second).await;
    }

    /// The name leads to the second.
    pub(crate) fn lead_on(&self) {
        self.name.aim(self.second.addr());
    }
}

async fn follow(replica: &Server, master: &Server) {
    let port = master.addr().port();
    let () = replica.run(&format!("REPLICAOF 127.0.0.1 {port}")).await;
    until("the replica is in step", async || {
        let info = replica.info("replication").await;
        info.contains("master_link_status:up")
    })
    .await;
}

/// The connections to a server, by number, but for the asking one and those between servers.
pub(crate) async fn connections(server: &Server) -> BTreeSet<u64> {
    let mut connection = server.connection().await;
    let mut client = redis::cmd("CLIENT");
    let own: u64 = client
        .clone()
        .arg("ID")
        .query_async(&mut connection)
        .await
        .unwrap();
    let list: String = client
        .arg("LIST")
        .query_async(&mut connection)
        .await
        .unwrap();
    let id = |line: &str| line.strip_prefix("id=")?.split(' ').next()?.parse().ok();
    let foreign = |line: &&str| !line.contains(" flags=M") && !line.contains(" flags=S");
    let ids = list.lines().filter(foreign).filter_map(id);
    ids.filter(|id| *id != own).collect()
}
