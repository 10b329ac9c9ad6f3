//! What other programs publish in Redis for clients: emitters of Socket.IO servers, as they are.
//!
//! ```text
//!  Redis ─▶ listener ─▶ (inbox) ─▶ reader: emitter or python ─▶ Order ─▶ desk ─▶ gateway: connections of this node
//! ```
//!
//! Every node hears every message, as pub/sub has it, and hands it to its own connections alone: nothing goes over the bus, and each
//! client gets it once. Nobody answers, so all that is refused is counted by reason.
//!
//! `listener` keeps a connection to Redis and the subscriptions on it, `emitter` and `python` read the two formats, `msgpack` is the
//! values of one of them, and `desk` looks at what is allowed and has it carried out.

mod desk;
mod emitter;
#[cfg(test)]
mod fuzz;
mod listener;
mod msgpack;
mod order;
mod python;
mod texts;

use std::sync::Arc;

use anyhow::Context;
use tokio::{
    sync::mpsc::{self, UnboundedReceiver},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use self::{
    desk::Desk,
    emitter::EmitterFormat,
    listener::{Heard, Listener},
    order::{Order, Refused},
    python::PythonFormat,
};
use crate::{
    config::{Config, RunningConfig},
    gateway::{Gateway, contain},
    link::Servers,
    metrics::Metrics,
};

/// How many messages that change rooms may be under way to the registry at once.
const TELLING: usize = 64;

/// How what is published by one kind of program is heard and read.
pub(crate) trait Format: Send + Sync + 'static {
    /// The value of the metric label `source`.
    fn source(&self) -> &'static str;

    /// The commands that subscribe to it, each with its channel or pattern.
    fn subscriptions(&self) -> Vec<(&'static str, String)>;

    /// The namespace and the one room that a message on this channel is for; none if the channel does not say.
    fn room<'a>(&self, channel: &'a str) -> Option<(&'a str, &'a str)> {
        let _ = channel;
        None
    }

    /// Reads what was published on a channel.
    ///
    /// # Errors
    ///
    /// Why it is not carried out.
    fn read(&self, channel: &str, payload: &[u8]) -> Result<Order, Refused>;
}

/// What is configured of it: none, one or both formats.
pub(crate) struct Ingress(Vec<Source>);

struct Source {
    listener: Listener,
    inbox: UnboundedReceiver<Heard>,
    desk: Desk,
}

impl Ingress {
    /// Builds what the configuration has; nothing is heard before [`Ingress::run`]. `cluster` are the servers of `redis.urls`.
    pub(crate) fn new(
        config: &RunningConfig,
        cluster: Option<&Servers>,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let now = config.now();
        let Config { ingress, .. } = &**now;
        let mut sources = Vec::new();
        let mut add = |format: Arc<dyn Format>, url: Option<_>, namespaces, allow| {
            let source = format.source();
            let servers = match (url, cluster) {
                (None, Some(cluster)) => cluster.clone(),
                (url, _) => Servers::new(&now.redis_at(url))
                    .with_context(|| format!("ingress.{source}.redis_url"))?,
            };
            let (sender, inbox) = mpsc::unbounded_channel();
            sources.push(Source {
                listener: Listener::new(
                    servers,
                    source,
                    format.subscriptions(),
                    config.clone(),
                    sender,
                    metrics.clone(),
                ),
                inbox,
                desk: Desk::new(format, namespaces, allow, metrics.clone()),
            });
            anyhow::Ok(())
        };
        if let Some(it) = &ingress.emitter {
            let format = Arc::new(EmitterFormat::new(&it.key));
            let (url, namespaces) = (it.redis_url.as_ref(), it.namespaces.clone());
            add(format, url, namespaces, it.allow.clone())?;
        }
        if let Some(it) = &ingress.python {
            let format = Arc::new(PythonFormat::new(&it.channel));
            let (url, namespaces) = (it.redis_url.as_ref(), it.namespaces.clone());
            add(format, url, namespaces, it.allow.clone())?;
        }
        Ok(Self(sources))
    }

    /// Hears and carries out what is published, until `stop`.
    pub(crate) fn run(self, gateway: &Gateway, stop: &CancellationToken) {
        for Source {
            listener,
            mut inbox,
            desk,
        } in self.0
        {
            // On the thread of the links: its PINGs don't wait behind clients.
            let thread = listener.runtime();
            let hearing = stop.clone().run_until_cancelled_owned(listener.run());
            thread.handle().spawn(hearing);
            let gateway = gateway.clone();
            let work = async move {
                let mut telling = JoinSet::new();
                while let Some(heard) = inbox.recv().await {
                    let carry_out = || desk.take(&gateway, &heard);
                    let taken = contain("a message of an emitter", &heard.channel, carry_out);
                    while telling.try_join_next().is_some() {}
                    if let Some(told) = taken.flatten() {
                        // Who publishes faster than the registry takes it waits, and then the inbox is full.
                        if telling.len() >= TELLING {
                            telling.join_next().await;
                        }
                        telling.spawn(told);
                    }
                }
            };
            tokio::spawn(stop.clone().run_until_cancelled_owned(work));
        }
    }
}
