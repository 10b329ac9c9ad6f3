//! What stays bounded in Redis: looks at many connections.

use switchboard::{ending::Ending, registry::Entry};

use super::{
    home::{LONG, Redis, RedisServer, all_of, entry, fleet},
    redis::{calls, info, raw, reset_stats},
};

#[tokio::test]
async fn a_look_at_many_connections_is_cut_into_pieces() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, b] = fleet(&home, LONG, LONG).await;
    let mut many: Vec<Entry> = Vec::new();
    for _ in 0..600 {
        many.push(entry(&a.connect("42").await));
    }
    b.order(&all_of("42"), None, &Ending::of(4500)).await;
    let mut raw = raw(&home).await;
    let other = raw.clone();
    let clients = async || {
        let clients = info(&mut other.clone(), "clients").await;
        clients["connected_clients"].parse::<u64>().unwrap()
    };
    let before = clients().await;
    reset_stats(&mut raw).await;
    assert_eq!(b.registry.listed(&many).await.unwrap(), many);
    let stats = info(&mut raw, "commandstats").await;
    // The generation is read behind each piece, and no entry is carried along.
    assert_eq!(calls(&stats, "get"), Some(3));
    assert_eq!(calls(&stats, "zrangebylex"), None);
    assert!(clients().await > before, "on a connection of its own");
}
