//! What stays bounded in Redis: looks at many connections, the kicks of a user, the questions while a shard is not whole.

use futures_util::future::join_all;
use redis::AsyncCommands;
use switchboard::{
    ending::Ending,
    registry::{
        EndTarget, Entry,
        keys::{Keys, Shards},
    },
};

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
    reset_stats(&mut raw).await;
    assert_eq!(b.registry.listed(&many).await.unwrap(), many);
    let stats = info(&mut raw, "commandstats").await;
    // The generation is read behind each piece, and no entry is carried along.
    assert_eq!(calls(&stats, "get"), Some(3));
    assert_eq!(calls(&stats, "zrangebylex"), None);
    // What the pool asks first of a connection: they wait behind no heartbeat, and none behind them.
    assert_eq!(calls(&stats, "unwatch"), Some(3));
}

#[tokio::test]
async fn kicks_of_a_user_are_bounded() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [a, _b] = fleet(&home, LONG, LONG).await;
    for _ in 0..40 {
        let target = EndTarget::User {
            user: "42".into(),
            except: vec![a.connect("42").await.id],
        };
        a.order(&target, None, &Ending::of(4500)).await;
    }
    let shard = Shards::default().of_user(&"42".into());
    let kicks = Keys::new("switchboard").kicks(shard, b"42");
    let kept: u64 = raw(&home).await.llen(&kicks).await.unwrap();
    assert_eq!(kept, 16);
}

#[tokio::test]
async fn who_asks_together_about_a_shard_that_is_not_whole_asks_once() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let [_a, b] = fleet(&home, LONG, LONG).await;
    // So that it knows of the other one.
    assert!(b.beat().await);
    let mut raw = raw(&home).await;
    let () = redis::cmd("FLUSHALL").query_async(&mut raw).await.unwrap();
    assert!(b.beat().await);
    b.enter().await;
    reset_stats(&mut raw).await;
    let user = "42".into();
    let asked = join_all((0..200).map(|_| b.registry.user(&user))).await;
    for answer in &asked {
        assert!(answer.is_err(), "{answer:?}");
    }
    let stats = info(&mut raw, "commandstats").await;
    let looks = calls(&stats, "smembers").unwrap();
    assert!(looks < 20, "{looks} looks for 200 questions");
}

/// A message costs Redis more than most commands in it.
#[tokio::test]
async fn a_heartbeat_is_one_message_of_eleven_commands() {
    let server = RedisServer::start().await;
    let home = Redis::of(&server);
    let fleet = fleet(&home, LONG, LONG).await;
    let mut raw = raw(&home).await;
    let mut fewest = u64::MAX;
    for peer in fleet.iter().cycle().take(20) {
        reset_stats(&mut raw).await;
        assert!(peer.beat().await);
        let stats = info(&mut raw, "all").await;
        for (command, count) in [
            ("evalsha", 1),
            // Within the script.
            ("time", 1),
            ("hgetall", 1),
            ("mget", 1),
            // A quarter of the shards is walked on in: their entries, and the members of their rooms.
            ("zrangebylex", 8),
        ] {
            assert_eq!(calls(&stats, command), Some(count), "{command}");
        }
        for other in ["get", "zcard"] {
            assert_eq!(calls(&stats, other), None, "{other}");
        }
        let messages: u64 = stats["total_reads_processed"].parse().unwrap();
        println!("{messages} messages");
        fewest = fewest.min(messages);
    }
    // The test's own question is one more; what links ask by themselves comes once a second.
    assert_eq!(fewest, 2);
}
