//! Backends: code outside of this process that is called over HTTP about what clients say.
//!
//! A call is one `POST` of JSON, signed as Standard Webhooks has it, whose answer somebody waits for. Nothing is repeated: a
//! call that fails has failed, and its caller is told so at once. A notification is such a `POST` too; repeating it is for
//! `gateway::notifications`.
//!
//! ```text
//!  gateway::calls ─▶ Backends (which one) ─▶ Backend ─▶ breaker, in_flight ─▶ signature ─▶ POST
//! ```
//!
//! [`Backends`] are those of the configuration, `client` calls one, `breaker` spares one that is down, `signature` signs.

mod breaker;
mod client;
mod signature;

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{config::Config, metrics::Metrics, telemetry::traces::Traces};

pub use client::{Backend, CallType, Failure, MAX_ANSWER_BYTES, envelope};

/// A configuration that no backend can be called by. `Display` begins with the key at fault.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct BackendError {
    key: String,
    problem: String,
}

/// The backends of the configuration, in its order. A reload replaces them.
pub struct Backends {
    metrics: Metrics,
    traces: Traces,
    now: ArcSwap<Prepared>,
}

/// The backends of a configuration, ready to be called. Those that are streams are not among them.
#[derive(Clone)]
pub struct Prepared {
    config: Config,
    backends: Vec<Arc<Backend>>,
}

impl Prepared {
    fn named(&self, name: &str) -> Option<Arc<Backend>> {
        let mut backends = self.backends.iter();
        backends.find(|one| one.config.name == name).cloned()
    }
}

impl Backends {
    /// The backends of a configuration. Calls nobody yet.
    ///
    /// # Errors
    ///
    /// [`BackendError`], for a URL or a secret that is none, or without the system's root certificates for one of `https`.
    pub fn new(config: &Config, metrics: Metrics, traces: Traces) -> Result<Self, BackendError> {
        let prepared = prepare(config, &[], &metrics, &traces)?;
        Ok(Self {
            metrics,
            traces,
            now: ArcSwap::from_pointee(prepared),
        })
    }

    /// The backends of another configuration, for [`Backends::replace`]. Those that are configured as before keep their
    /// connections, and their calls under way go on counting.
    ///
    /// # Errors
    ///
    /// [`BackendError`], as for [`Backends::new`].
    pub fn prepare(&self, config: &Config) -> Result<Prepared, BackendError> {
        let before = &self.now.load().backends;
        prepare(config, before, &self.metrics, &self.traces)
    }

    /// Goes by other backends from here on. Calls under way go on.
    pub fn replace(&self, prepared: Prepared) {
        self.now.store(Arc::new(prepared));
    }

    /// The backend that a client's event is a call to; none if there is none.
    pub fn for_event(&self, namespace: &str, event: &str) -> Option<Arc<Backend>> {
        let now = self.now.load();
        let takes = |one: &&Arc<Backend>| one.config.takes(namespace, event);
        now.backends.iter().find(takes).cloned()
    }

    /// The backend that is asked about newcomers of a namespace; none if none is.
    pub fn for_newcomers(&self, namespace: &str) -> Option<Arc<Backend>> {
        let now = self.now.load();
        let index = now.config.asked_about(namespace)?;
        now.named(&now.config.backends.get(index)?.name)
    }

    /// The backend of a name; none if there is none that is called over HTTP.
    pub fn named(&self, name: &str) -> Option<Arc<Backend>> {
        self.now.load().named(name)
    }

    /// The names of the backends for which a client's event is kept.
    pub fn queueing(&self, namespace: &str, event: &str) -> Vec<String> {
        let now = self.now.load();
        let backends = now.config.backends.iter();
        let queueing = backends.filter(|one| one.queues(namespace, event));
        queueing.map(|one| one.name.clone()).collect()
    }

    /// The names of those that have not answered for a while.
    pub fn down(&self) -> Vec<String> {
        let now = self.now.load();
        let down = now.backends.iter().filter(|one| one.is_down());
        down.map(|one| one.config.name.clone()).collect()
    }
}

fn prepare(
    config: &Config,
    before: &[Arc<Backend>],
    metrics: &Metrics,
    traces: &Traces,
) -> Result<Prepared, BackendError> {
    let backends = config.backends.iter().enumerate();
    let backends = backends.filter(|(_, one)| one.stream.is_none());
    let backends =
        backends.map(
            |(index, one)| match before.iter().find(|old| old.config.is_like(one)) {
                Some(old) => Ok(old.clone()),
                None => Backend::new(index, one, metrics.clone(), traces.clone()).map(Arc::new),
            },
        );
    Ok(Prepared {
        backends: backends.collect::<Result<_, _>>()?,
        config: config.clone(),
    })
}
