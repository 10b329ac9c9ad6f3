//! The spans of a send: one where it is asked for, and below it one on each node that another node has told of it.

use futures_util::{FutureExt, future::BoxFuture};
use opentelemetry::trace::SpanKind;

use super::Deliverer;
use crate::{
    gateway::{
        GatewayError,
        message::{Delivery, Message, Target},
    },
    telemetry::traces::{Begin, Span},
};

impl Deliverer {
    /// The span of a send that this node is asked for.
    pub(super) fn sending(&self, target: &Target, message: &Message) -> Span {
        self.traces
            .begin(|| begin("send", SpanKind::Producer, target, message))
    }

    /// The span of what this node does of a send that another node was asked for. `trace` is what that node says of it.
    pub(crate) fn receiving(
        &self,
        trace: Option<&str>,
        target: &Target,
        message: &Message,
    ) -> Span {
        self.traces.follow(trace, || {
            begin("deliver", SpanKind::Consumer, target, message)
        })
    }
}

/// A span of a message. Says nothing of its recipients but what kind they are.
fn begin(verb: &'static str, kind: SpanKind, target: &Target, message: &Message) -> Begin {
    Begin::new(format!("{verb} {}", target.kind()), kind)
        .with("switchboard.namespace", message.namespace.clone())
        .with("switchboard.event", message.event.clone())
}

/// Says in a span where its message went.
pub(super) fn handed(span: &Span, connections: u64, nodes: u64, unconfirmed: u64) {
    span.set("switchboard.connections", connections as i64);
    span.set("switchboard.nodes", nodes as i64);
    span.set("switchboard.unconfirmed", unconfirmed as i64);
}

/// Keeps a span open until it is known where its message went, and says so in it.
pub(super) fn with_outcome(
    span: Span,
    sent: Result<BoxFuture<'_, Delivery>, GatewayError>,
) -> Result<BoxFuture<'_, Delivery>, GatewayError> {
    match sent {
        Ok(confirmed) if span.is_some() => Ok(async move {
            let delivery = confirmed.await;
            handed(
                &span,
                delivery.connections,
                delivery.nodes,
                delivery.unconfirmed,
            );
            delivery
        }
        .boxed()),
        Ok(confirmed) => Ok(confirmed),
        Err(error) => {
            span.fail(&error);
            Err(error)
        }
    }
}
