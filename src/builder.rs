//! The way into the library: a configuration and handlers, from which a node is built.

use crate::{
    app::App,
    auth,
    config::Config,
    gateway::handlers::{Arg, ClientEvent, Decision, Departed, Handlers, Newcomer},
};

/// Builds a node from a configuration and from handlers of one's own. The binary is a node without handlers.
///
/// A handler is an async function or closure. What it gets says who the client is and has a [`Gateway`](crate::Gateway), by which
/// it sends to any connection of the fleet.
///
/// - **Order**: the handlers of a connection's events run one after the other, in the order in which the client sent them, and
///   its `on_disconnect` after them. Handlers of different connections run at the same time, on the caller's runtime.
/// - **Bounds**: as many events of a connection wait as [`limits`](crate::config::Limits) allow (`events_burst`, `max_payload`);
///   beyond that they are refused with an `error` event. A handler is never cancelled: bound its own waits.
/// - **Switchboard's own events** (`refreshToken`, `devices`, `logoutDevice`, `authenticate`; in `/admin` the administrators')
///   are not held up by handlers, and can't be taken by one.
/// - **Failures**: what a handler returns as an error is logged, and the client's acknowledgement is
///   `{ok: false, error: "Unavailable"}`. So is that of one that panics; it takes nothing else along. What the client is to know
///   is an answer of the handler's own.
///
/// ```
/// # use switchboard::{Builder, Config};
/// let builder = Builder::new(Config::default())
///     .on_event("/", "echo", |event| async move { Ok(event.args) });
/// ```
#[derive(Debug)]
pub struct Builder {
    config: Config,
    handlers: Handlers,
    twice: Option<BuildError>,
}

/// Handlers that can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A handler is for a namespace that the configuration does not have.
    #[error("a handler is for the namespace {0}, which is not in the configuration (namespaces)")]
    UnknownNamespace(String),
    /// A handler is for an event that Switchboard handles itself.
    #[error("a handler is for the event {event} in {namespace}, which is Switchboard's own")]
    OwnEvent {
        /// The namespace.
        namespace: String,
        /// The event.
        event: String,
    },
    /// Two handlers are for the same.
    #[error("two handlers: {0}")]
    Twice(String),
}

impl Builder {
    /// A node of this configuration, without handlers.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            handlers: Handlers::default(),
            twice: None,
        }
    }

    /// Handles an event that clients send in a namespace. What it returns is the client's acknowledgement, if the client waits
    /// for one: `Ok(vec![])` calls it without arguments.
    ///
    /// ```
    /// # use serde_json::json;
    /// # use switchboard::{Builder, Config};
    /// # let builder = Builder::new(Config::default());
    /// builder.on_event("/", "add", |event| async move {
    ///     let (a, b): (f64, f64) = event.read()?;
    ///     Ok(vec![json!({"ok": true, "sum": a + b}).into()])
    /// });
    /// ```
    #[must_use]
    pub fn on_event<F, Fut>(mut self, namespace: &str, event: &str, handler: F) -> Self
    where
        F: Fn(ClientEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<Vec<Arg>>> + Send + 'static,
    {
        let first = self.handlers.on_event(namespace, event, handler);
        self.once(first, || format!("on_event({namespace:?}, {event:?})"))
    }

    /// Decides who is let into a namespace, once the credentials are good and before any node knows of the connection. An error, a
    /// panic, or no decision within `limits.handshake_timeout` closes the transport, after which the client tries again by itself.
    /// The handler is dropped when its time is over or its client goes.
    ///
    /// ```
    /// # use switchboard::{Builder, Config, Decision};
    /// # let builder = Builder::new(Config::default());
    /// builder.on_connect("/", |newcomer| async move {
    ///     Ok(match newcomer.connection.device_id {
    ///         Some(_) => Decision::admit(),
    ///         None => Decision::refuse("Device required"),
    ///     })
    /// });
    /// ```
    #[must_use]
    pub fn on_connect<F, Fut>(mut self, namespace: &str, handler: F) -> Self
    where
        F: Fn(Newcomer) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<Decision>> + Send + 'static,
    {
        let first = self.handlers.on_connect(namespace, handler);
        self.once(first, || format!("on_connect({namespace:?})"))
    }

    /// Is told of each connection of this node that is gone, once, in any namespace: of each that has had `ready`, and of each that
    /// `on_connect` was asked about and has not refused, however far that one got. A node that is killed tells nobody.
    #[must_use]
    pub fn on_disconnect<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(Departed) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let first = self.handlers.on_disconnect(handler);
        self.once(first, || "on_disconnect".to_owned())
    }

    /// Sends clients no `ready`, for those that expect a plain Socket.IO server and take any event for one of the application's.
    #[must_use]
    pub fn without_ready(mut self) -> Self {
        self.handlers.leave_out_ready();
        self
    }

    fn once(mut self, first: bool, what: impl FnOnce() -> String) -> Self {
        if !first {
            self.twice = Some(BuildError::Twice(what()));
        }
        self
    }

    /// Binds the addresses and builds the node, which takes nobody in before [`App::run`]. Redis and a JWKS server may be away:
    /// the node then waits for them, not ready.
    ///
    /// # Errors
    ///
    /// A configuration that is wrong, [`BuildError`], an address that can't be bound, or keys that can't be read.
    pub async fn bind(self) -> anyhow::Result<App> {
        let Self {
            config,
            handlers,
            twice,
        } = self;
        config.validate()?;
        if let Some(error) = twice.or_else(|| wrong(&config, &handlers)) {
            return Err(error.into());
        }
        auth::install_crypto()?;
        App::build(config, handlers).await
    }
}

/// What is wrong with handlers, if something is.
fn wrong(config: &Config, handlers: &Handlers) -> Option<BuildError> {
    handlers.names().find_map(|(namespace, event)| {
        if !config.namespaces.iter().any(|one| one.path == namespace) {
            return Some(BuildError::UnknownNamespace(namespace.to_owned()));
        }
        let event = event.filter(|event| crate::gateway::is_own_event(config, namespace, event))?;
        Some(BuildError::OwnEvent {
            namespace: namespace.to_owned(),
            event: event.to_owned(),
        })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    async fn error(builder: Builder) -> String {
        match builder.bind().await {
            Ok(_) => "it is built".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    fn with(namespace: &str, event: &str) -> Builder {
        let builder = Builder::new(Config::default());
        builder.on_event(namespace, event, |event| async move { Ok(event.args) })
    }

    #[tokio::test]
    async fn handlers_that_can_t_be_are_named() {
        for (builder, expected) in [
            (with("/x", "chat"), "the namespace /x, "),
            (with("/", "devices"), "the event devices in /, "),
            (with("/admin", "banUser"), "the event banUser in /admin, "),
            (
                with("/", "chat").on_event("/", "chat", |event| async move { Ok(event.args) }),
                r#"on_event("/", "chat")"#,
            ),
            (
                Builder::new(Config::default())
                    .on_connect("/y", |_| async { Ok(Decision::admit()) }),
                "the namespace /y, ",
            ),
        ] {
            let error = error(builder).await;
            assert!(error.contains(expected), "{error}");
        }
    }
}
