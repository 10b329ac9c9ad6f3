//! A program's own handlers: what [`Builder`](crate::Builder) takes.
//!
//! They stand above the gateway, which runs them as its [`Application`]: each gets the [`Gateway`] with what it is `given`.

mod given;

use std::{
    fmt,
    sync::{Arc, OnceLock, Weak},
};

use anyhow::Context as _;

pub use self::given::{ClientEvent, Decision, Departed, EmitError, Newcomer};
pub use super::arg::{Arg, Mismatch};

use super::{
    Composition, Gateway,
    application::{Application, Handler, Reply, handler_of},
    connections::local::LocalConnection,
};

/// A program's handlers. The default: none.
#[derive(Default)]
pub(crate) struct Handlers {
    /// What the gateway runs.
    pub(crate) application: Application,
    node: NodeCell,
}

/// The node that handlers may ask for anything, once it is built. Weak: the node owns its handlers.
#[derive(Clone, Default)]
struct NodeCell(Arc<OnceLock<Weak<Composition>>>);

impl NodeCell {
    /// Fails while the node is being built, and when it has been dropped.
    fn gateway(&self) -> anyhow::Result<Gateway> {
        let inner = self.0.get().and_then(Weak::upgrade);
        let inner = inner.context("the node is not there")?;
        Ok(Gateway { inner })
    }

    /// Makes a handler that gets the node too.
    fn serving<I, O, F, Fut>(&self, handler: F) -> Handler<I, O>
    where
        F: Fn(Gateway, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<O>> + Send + 'static,
        I: Send + 'static,
        O: 'static,
    {
        let (node, handler) = (self.clone(), Arc::new(handler));
        handler_of(move |input| {
            let (node, handler) = (node.clone(), handler.clone());
            async move { handler(node.gateway()?, input).await }
        })
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").finish_non_exhaustive()
    }
}

impl Handlers {
    /// Gives the node to the handlers, which fail before.
    pub(crate) fn serve(&self, gateway: &Gateway) {
        self.node.0.set(Arc::downgrade(&gateway.inner)).ok();
    }

    /// Sets the handler of an event. Returns false if there was one.
    pub(crate) fn on_event<F, Fut>(&mut self, namespace: &str, event: &str, handler: F) -> bool
    where
        F: Fn(ClientEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<Vec<Arg>>> + Send + 'static,
    {
        let handler = self.node.serving(move |gateway, received| {
            let handled = handler(ClientEvent::new(gateway, received));
            async { handled.await.map(Reply::from) }
        });
        self.application.set_on_event(namespace, event, handler)
    }

    /// Sets what decides on a namespace's newcomers. Returns false if something did.
    pub(crate) fn on_connect<F, Fut>(&mut self, namespace: &str, handler: F) -> bool
    where
        F: Fn(Newcomer) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<Decision>> + Send + 'static,
    {
        let handler =
            self.node
                .serving(move |gateway, (local, auth): (Arc<LocalConnection>, _)| {
                    let decided = handler(Newcomer::new(gateway, &local, auth));
                    async { decided.await?.checked() }
                });
        self.application.set_on_connect(namespace, handler)
    }

    /// Sets what is told of connections that are gone. Returns false if something was.
    pub(crate) fn on_disconnect<F, Fut>(&mut self, handler: F) -> bool
    where
        F: Fn(Departed) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let handler =
            self.node
                .serving(move |gateway, (local, reason): (Arc<LocalConnection>, _)| {
                    handler(Departed::new(gateway, &local, reason))
                });
        self.application.set_on_disconnect(handler)
    }

    /// Sends clients no `ready`.
    pub(crate) fn leave_out_ready(&mut self) {
        self.application.leave_out_ready();
    }

    /// The namespaces and, where it is one's, the events that there are handlers of.
    pub(crate) fn names(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.application.names()
    }
}
