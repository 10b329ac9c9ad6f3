//! The link to Redis: whom to connect to and how, and one shared connection that is quick to say when it can't.
//!
//! redis-rs reconnects, but does not bound it: a call made while it reconnects waits for that, and a Redis that accepts
//! connections and does not answer is never left, as a timeout is no reason for it to reconnect. So a [`Link`] adds:
//!
//! - a deadline on every call, [`DEADLINE`], the wait for a connection included;
//! - a breaker: while Redis is known to be away, calls fail at once;
//! - a prober that PINGs, and alone decides whether Redis is there; after [`MISSES`] PINGs without an answer in a row it
//!   throws the connection away and opens another.
//!
//! A call that hit the deadline may still be carried out by Redis. Whoever calls makes only calls that can be repeated.

mod pool;
mod probe;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use redis::{
    Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, Pipeline, ProtocolVersion,
    RedisError, RedisResult, ScriptInvocation, ServerErrorKind,
    aio::ConnectionLike,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use secrecy::ExposeSecret;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use pool::Pool;
use probe::{Probe, State};

use crate::{config, metrics::Metrics};

/// How long a call may take, the wait for a connection included.
pub const DEADLINE: Duration = Duration::from_millis(800);

/// After how many PINGs without an answer in a row the connection is thrown away.
pub const MISSES: u32 = 3;

/// Why Redis did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// `redis.urls` names no server that can be connected to.
    #[error("redis.urls: {0}")]
    Config(String),
    /// Redis is known to be away; it was not asked.
    #[error("Redis is away")]
    Away,
    /// No answer within the deadline. It may have been carried out.
    #[error("Redis did not answer within {0:?}")]
    Late(Duration),
    /// The pool has no connection to give.
    #[error("no connection to Redis: {0}")]
    Pool(String),
    /// Redis, or the way there, says no.
    #[error("{0}")]
    Redis(#[from] RedisError),
}

/// A client for the server of `redis.urls`: RESP3, no Nagle delay, and a peer that falls silent is noticed in seconds.
///
/// For `rediss://`, also makes aws-lc the process's TLS provider if it has none: redis-rs takes no other way.
///
/// # Errors
///
/// [`LinkError::Config`] if there is not exactly one URL, or it can't be parsed. The text never holds the URL, as its password
/// may be in any place if it was not escaped.
pub fn client(redis: &config::Redis) -> Result<Client, LinkError> {
    let [url] = redis.urls.as_slice() else {
        return Err(LinkError::Config(format!(
            "one URL is needed, {} are given",
            redis.urls.len()
        )));
    };
    let info = url
        .expose_secret()
        .into_connection_info()
        .map_err(|_| LinkError::Config("not a redis:// or rediss:// URL".into()))?;
    if url.expose_secret().starts_with("rediss:") || url.expose_secret().starts_with("valkeys:") {
        // Fails if there is one already, which is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
    let settings = info
        .redis_settings()
        .clone()
        .set_protocol(ProtocolVersion::RESP3);
    let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(
        TcpKeepalive::new()
            .with_time(Duration::from_secs(5))
            .with_interval(Duration::from_secs(2))
            .with_retries(3),
    );
    // How long written bytes may go without an acknowledgement: bounds what keepalive does not, a link that has traffic.
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    let tcp = tcp.set_user_timeout(Duration::from_secs(5));
    Client::open(info.set_redis_settings(settings).set_tcp_settings(tcp))
        .map_err(|error| LinkError::Config(error.to_string()))
}

/// What Redis can be asked.
#[derive(Debug)]
pub enum Request<'a> {
    /// One command.
    Command(&'a Cmd),
    /// Several commands, sent together.
    Pipeline(&'a Pipeline),
    /// A script; loaded first if Redis does not have it.
    Script(&'a ScriptInvocation<'a>),
}

impl<'a> From<&'a Cmd> for Request<'a> {
    fn from(cmd: &'a Cmd) -> Self {
        Self::Command(cmd)
    }
}

impl<'a> From<&'a mut Cmd> for Request<'a> {
    fn from(cmd: &'a mut Cmd) -> Self {
        Self::Command(cmd)
    }
}

impl<'a> From<&'a Pipeline> for Request<'a> {
    fn from(pipeline: &'a Pipeline) -> Self {
        Self::Pipeline(pipeline)
    }
}

impl<'a> From<&'a ScriptInvocation<'a>> for Request<'a> {
    fn from(script: &'a ScriptInvocation<'a>) -> Self {
        Self::Script(script)
    }
}

impl<'a, 'b: 'a> From<&'a mut ScriptInvocation<'b>> for Request<'a> {
    fn from(script: &'a mut ScriptInvocation<'b>) -> Self {
        Self::Script(script)
    }
}

impl Request<'_> {
    async fn on<T: FromRedisValue>(
        self,
        connection: &mut (impl ConnectionLike + Send),
    ) -> RedisResult<T> {
        match self {
            Self::Command(cmd) => cmd.query_async(connection).await,
            Self::Pipeline(pipeline) => pipeline.query_async(connection).await,
            Self::Script(script) => script.invoke_async(connection).await,
        }
    }
}

/// The shared connection. Clones share it; with the last one its prober ends.
#[derive(Clone, Debug)]
pub struct Link {
    probe: Arc<Probe>,
    metrics: Metrics,
    _prober: Arc<DropGuard>,
}

impl Link {
    /// A link to `client`'s server, which need not be there yet. Takes a Tokio runtime to run on.
    ///
    /// # Errors
    ///
    /// [`LinkError::Redis`] if the client's settings contradict themselves.
    pub fn new(client: Client, metrics: Metrics) -> Result<Self, LinkError> {
        let probe = Arc::new(Probe::new(client)?);
        let stop = CancellationToken::new();
        tokio::spawn(Arc::clone(&probe).run(stop.clone()));
        Ok(Self {
            probe,
            metrics,
            _prober: Arc::new(stop.drop_guard()),
        })
    }

    /// Whether the last that was heard of Redis was good. Reads a flag; never waits. False until it was heard of at all.
    pub fn is_up(&self) -> bool {
        self.probe.state() == State::Up
    }

    /// Asks Redis, and counts it as `operation`.
    ///
    /// # Errors
    ///
    /// [`LinkError::Away`] at once while the breaker is open; else [`LinkError::Late`] after [`DEADLINE`], or what Redis says.
    pub async fn query<'a, T: FromRedisValue>(
        &self,
        operation: &'static str,
        request: impl Into<Request<'a>>,
    ) -> Result<T, LinkError> {
        let request = request.into();
        self.call(operation, DEADLINE, async {
            let mut connection = self.probe.connection();
            Ok(request.on(&mut connection).await?)
        })
        .await
    }

    /// Runs `work` with breaker, deadline and metrics.
    async fn call<T>(
        &self,
        operation: &'static str,
        deadline: Duration,
        work: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        let start = Instant::now();
        let result = if self.probe.state() == State::Away {
            Err(LinkError::Away)
        } else {
            tokio::time::timeout(deadline, work)
                .await
                .unwrap_or(Err(LinkError::Late(deadline)))
        };
        match &result {
            Err(LinkError::Redis(error)) if is_of_a_replica(error) => self.probe.replace(),
            Err(LinkError::Redis(error)) if error.is_io_error() => self.probe.doubt(),
            Err(LinkError::Late(_) | LinkError::Pool(_)) => self.probe.doubt(),
            _ => {}
        }
        self.metrics
            .registry(operation, start.elapsed(), result.is_err());
        result
    }
}

/// Whether this server has become a replica: it answers every PING, and will never take a write. A new connection, after
/// another look-up of the name, may find its successor.
fn is_of_a_replica(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn urls(urls: &[&str]) -> config::Redis {
        config::Redis {
            urls: urls.iter().map(|url| (*url).into()).collect(),
        }
    }

    #[test]
    fn a_client_speaks_resp3_without_delay_and_notices_silence() {
        let client = client(&urls(&["redis://u:p@localhost:7000/3"])).unwrap();
        let info = client.get_connection_info();
        assert_eq!(info.redis_settings().protocol(), ProtocolVersion::RESP3);
        assert_eq!(info.redis_settings().db(), 3);
        assert_eq!(info.redis_settings().password(), Some("p"));
        assert!(info.tcp_settings().nodelay());
        assert!(info.tcp_settings().keepalive().is_some());
    }

    #[test]
    fn tls_is_taken_from_the_scheme() {
        let client = client(&urls(&["rediss://localhost"])).unwrap();
        let addr = client.get_connection_info().addr();
        assert!(
            matches!(
                addr,
                redis::ConnectionAddr::TcpTls {
                    insecure: false,
                    ..
                }
            ),
            "{addr:?}"
        );
        assert!(rustls::crypto::CryptoProvider::get_default().is_some());
    }

    #[test]
    fn an_error_names_the_key_and_never_the_password() {
        for given in [
            &[][..],
            &["redis://:hunter2@a", "redis://:hunter2@b"],
            &["redis://:hunter2@host:port"],
            &["redis://:hunter2@host/db"],
            &["hunter2"],
            &["http://:hunter2@host"],
            &["redis://:6379/hunter2@host"],
            &["redis://host/?protocol=hunter2"],
        ] {
            let error = client(&urls(given)).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.starts_with("redis.urls: "), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[tokio::test]
    async fn the_prober_ends_with_the_last_clone() {
        // Nobody listens on port 1.
        let client = client(&urls(&["redis://127.0.0.1:1"])).unwrap();
        let link = Link::new(client, Metrics::new().unwrap()).unwrap();
        let probe = Arc::downgrade(&link.probe);
        drop(link.clone());
        let asked = link.query::<()>("ping", &redis::cmd("PING")).await;
        assert!(
            matches!(asked, Err(LinkError::Redis(_) | LinkError::Away)),
            "{asked:?}"
        );
        assert!(!link.is_up());
        drop(link);
        let ended = async {
            while probe.upgrade().is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ended)
            .await
            .unwrap();
    }
}
