use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::*;
use crate::{
    config,
    link::{RedisRuntime, login::logins},
};

/// No wait in these tests takes longer; one that does has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longer than that: a test that waits for a server which says nothing fails.
const FOREVER: Duration = Duration::from_secs(300);

/// What a fake says.
#[derive(Clone, Copy, Debug)]
enum Says {
    /// As a sentinel, of the master's port and its epoch; as a server of a cluster, of itself.
    Master(u16, u64),
    /// As a server that holds data, of itself.
    Role(&'static str),
    /// Nothing: it takes commands and keeps them.
    Nothing,
    /// It is away: what is connected is closed.
    Away,
}

/// Something that speaks Redis's protocol on loopback.
struct Fake {
    address: Address,
    says: watch::Sender<Says>,
}

impl Fake {
    async fn start(says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = address(listener.local_addr().unwrap().port());
        let (says, heard) = watch::channel(says);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, heard.clone()));
            }
        });
        Self { address, says }
    }

    async fn three(says: Says) -> [Self; 3] {
        [
            Self::start(says).await,
            Self::start(says).await,
            Self::start(says).await,
        ]
    }

    fn says(&self, says: Says) {
        self.says.send_replace(says);
    }
}

async fn serve(stream: TcpStream, mut says: watch::Receiver<Says>) {
    let mut away = says.clone();
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading);
    let serving = async {
        while let Some(words) = command(&mut reading).await {
            let speaks = says.wait_for(|says| !matches!(says, Says::Nothing)).await;
            let Ok(says) = speaks.map(|says| *says) else {
                return;
            };
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            let answer = match (words.as_slice(), says) {
                (["HELLO"], Says::Role(role)) => format!("%1\r\n+role\r\n+{role}\r\n"),
                (["HELLO", ..], _) => "%1\r\n+proto\r\n:3\r\n".to_owned(),
                (["SENTINEL", "GET-MASTER-ADDR-BY-NAME", _], Says::Master(port, _)) => {
                    format!("*2\r\n+127.0.0.1\r\n+{port}\r\n")
                }
                (["SENTINEL", "MASTER", _], Says::Master(_, epoch)) => {
                    format!("%1\r\n+config-epoch\r\n+{epoch}\r\n")
                }
                (["CLUSTER", "NODES"], Says::Master(port, epoch)) => {
                    let nodes =
                        format!("a 127.0.0.1:{port}@1 master - 0 0 {epoch} connected 0-16383");
                    format!("${}\r\n{nodes}\r\n", nodes.len())
                }
                _ => "+OK\r\n".to_owned(),
            };
            if writing.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = serving => {}
        _ = away.wait_for(|says| matches!(says, Says::Away)) => {}
    }
}

/// Reads one.
async fn command(from: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Vec<String>> {
    let mut words = Vec::new();
    for _ in 0..number(from, '*').await? {
        let mut word = vec![0; number(from, '$').await?];
        from.read_exact(&mut word).await.ok()?;
        from.read_exact(&mut [0; 2]).await.ok()?;
        words.push(String::from_utf8(word).ok()?);
    }
    Some(words)
}

async fn number(from: &mut (impl AsyncBufReadExt + Unpin), mark: char) -> Option<usize> {
    let mut line = String::new();
    from.read_line(&mut line).await.ok()?;
    line.trim_end().strip_prefix(mark)?.parse().ok()
}

/// An address that a connection to hangs for ever: nobody accepts, and as many are waiting as may.
struct BlackHole {
    address: Address,
    _listener: socket2::Socket,
    _waiting: Vec<std::net::TcpStream>,
}

impl BlackHole {
    fn open() -> Self {
        let listener =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let there = listener.local_addr().unwrap().as_socket().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) =
            std::net::TcpStream::connect_timeout(&there, Duration::from_millis(300))
        {
            waiting.push(stream);
            assert!(waiting.len() < 100, "connections are accepted");
        }
        Self {
            address: address(there.port()),
            _listener: listener,
            _waiting: waiting,
        }
    }
}

fn address(port: u16) -> Address {
    Address {
        host: "127.0.0.1".into(),
        port,
    }
}

fn login() -> Login {
    let redis = config::Redis {
        urls: vec!["redis://127.0.0.1".into()],
        ..config::Redis::default()
    };
    logins(&redis).unwrap().0
}

fn shared() -> Shared {
    Shared::new(
        RedisRuntime::start().unwrap(),
        login(),
        false,
        Map::default(),
    )
}

fn asking(ask: Ask, seeds: &[&Address], patience: Duration) -> Finder {
    Finder {
        patience,
        ..Finder::new(login(), seeds.iter().copied().cloned().collect(), ask)
    }
}

fn sentinels() -> Ask {
    Ask::Sentinels("m".into())
}

impl Finder {
    /// The port of the one master that is found; it must be found.
    async fn finds(&mut self, shared: &Shared) -> u16 {
        let found = timeout(PATIENCE, self.find(shared)).await;
        assert!(found.expect("a search that ends"), "nobody has answered");
        let map = self.memory.map();
        assert!(map.is_whole());
        map.servers().first().unwrap().port
    }
}

#[tokio::test]
async fn one_that_is_behind_leads_nobody_back_and_most_of_them_do() {
    for ask in [sentinels(), Ask::Cluster] {
        let shared = shared();
        let [a, b, c] = Fake::three(Says::Master(2, 5)).await;
        a.says(Says::Master(1, 4));
        let mut finder = asking(ask, &[&a.address, &b.address, &c.address], PATIENCE);
        assert_eq!(finder.finds(&shared).await, 2);
        for cut_off in [&b, &c] {
            cut_off.says(Says::Away);
        }
        // The connections that are kept end with the first, and others are closed as they come.
        for _ in 0..3 {
            assert_eq!(finder.finds(&shared).await, 2);
        }
        // They were set up anew, and their epochs start over.
        b.says(Says::Master(1, 0));
        assert_eq!(finder.finds(&shared).await, 1);
        c.says(Says::Master(3, 5));
        assert_eq!(finder.finds(&shared).await, 3);
    }
}

#[tokio::test]
async fn only_a_master_holds_against_an_older_answer() {
    let shared = shared();
    let master = Fake::start(Says::Role("master")).await;
    let sentinel = Fake::start(Says::Master(master.address.port, 1)).await;
    let mut finder = asking(sentinels(), &[&sentinel.address], PATIENCE);
    finder.finds(&shared).await;
    assert!(finder.holds(&shared).await);
    for says in [Says::Role("replica"), Says::Master(0, 0), Says::Away] {
        master.says(says);
        assert!(!finder.holds(&shared).await, "{says:?}");
    }
}

#[tokio::test]
async fn a_dead_seed_is_not_waited_for() {
    let (hole, shared) = (BlackHole::open(), shared());
    for ask in [sentinels(), Ask::Cluster] {
        let [a, b, _] = Fake::three(Says::Master(1, 1)).await;
        // In a cluster the master that is known is asked as well.
        let master = Fake::start(Says::Away).await.address.port;
        for seeds in [
            &[&hole.address, &a.address][..],
            &[&hole.address, &a.address, &b.address],
        ] {
            a.says(Says::Master(master, 1));
            b.says(Says::Master(master, 1));
            let mut finder = asking(ask.clone(), seeds, FOREVER);
            for _ in 0..3 {
                assert_eq!(finder.finds(&shared).await, master);
                assert!(finder.asked.contains(&hole.address));
            }
            assert_eq!(finder.asking.len(), 1);
            // Nor for what is newer, of the one that knows it.
            a.says(Says::Master(master, 2));
            assert_eq!(finder.finds(&shared).await, master);
        }
    }
}

#[tokio::test]
async fn what_comes_late_and_is_newer_counts() {
    let shared = shared();
    let prompt = Fake::start(Says::Master(1, 5)).await;
    for (late, then) in [(Says::Master(2, 6), 2), (Says::Master(3, 4), 1)] {
        let slow = Fake::start(Says::Nothing).await;
        let seeds = [&prompt.address, &slow.address];
        let mut finder = asking(sentinels(), &seeds, FOREVER);
        assert_eq!(finder.finds(&shared).await, 1);
        finder.publish(&shared);
        slow.says(late);
        let heard = async {
            while !finder.asked.is_empty() {
                finder.rest(&shared).await;
            }
        };
        timeout(PATIENCE, heard).await.expect("an answer");
        assert_eq!(**shared.map.borrow(), Map::of_one(address(then)));
    }
}
