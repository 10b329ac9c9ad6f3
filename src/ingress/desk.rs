//! Looks at what a published message may do, and has it carried out on this node.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{
    Format,
    listener::Heard,
    order::{Action, Order, Refused},
};
use crate::{
    config::IngressVerb,
    connection::check_room,
    gateway::{Gateway, is_sendable},
    metrics::Metrics,
};

/// Takes what is published in one format.
pub(super) struct Desk {
    format: Arc<dyn Format>,
    namespaces: Vec<String>,
    allow: Vec<IngressVerb>,
    metrics: Metrics,
}

impl Desk {
    /// With what the configuration lets the format reach and do.
    pub(super) fn new(
        format: Arc<dyn Format>,
        namespaces: Vec<String>,
        allow: Vec<IngressVerb>,
        metrics: Metrics,
    ) -> Self {
        Self {
            format,
            namespaces,
            allow,
            metrics,
        }
    }

    /// Carries out a message, or counts why not. What it returns tells the registry of rooms that have been joined or left.
    pub(super) fn take(&self, gateway: &Gateway, heard: &Heard) -> Option<BoxFuture<'static, ()>> {
        let done = self.carry_out(gateway, heard);
        done.unwrap_or_else(|refused| {
            let source = self.format.source();
            refuse(&self.metrics, source, &heard.channel, refused);
            None
        })
    }

    fn carry_out(
        &self,
        gateway: &Gateway,
        heard: &Heard,
    ) -> Result<Option<BoxFuture<'static, ()>>, Refused> {
        // Most messages are for one user, who is on a few nodes: the others need not read them.
        if let Some((namespace, room)) = self.format.room(&heard.channel)
            && !gateway.has_members_here(namespace, room)
        {
            return Ok(None);
        }
        let Order {
            namespace,
            selection,
            action,
        } = self.format.read(&heard.channel, &heard.payload)?;
        if !self.namespaces.contains(&namespace) {
            return Err(Refused::Namespace);
        }
        if !self.allow.contains(&action.verb()) {
            return Err(Refused::NotAllowed);
        }
        let change = |rooms: &[String], joins| {
            if rooms.iter().any(|room| check_room(room).is_err()) {
                return Err(Refused::Room);
            }
            let (refused, telling) =
                gateway.change_rooms_here(&namespace, &selection, rooms, joins);
            // Those that were not refused have joined or left.
            if refused > 0 {
                let source = self.format.source();
                refuse(&self.metrics, source, &heard.channel, Refused::Room);
            }
            Ok(Some(telling))
        };
        match action {
            Action::Emit(message) => {
                if !is_sendable(&message.event) {
                    return Err(Refused::ReservedEvent);
                }
                if message.weight() > gateway.max_payload() {
                    return Err(Refused::TooLarge);
                }
                gateway.emit_here(&selection, &message);
            }
            Action::Join(rooms) => return change(&rooms, true),
            Action::Leave(rooms) => return change(&rooms, false),
            Action::End { transports } => gateway.end_here(&namespace, &selection, transports),
        }
        Ok(None)
    }
}

/// Counts a message that is not carried out, and says why.
pub(super) fn refuse(metrics: &Metrics, source: &'static str, channel: &str, refused: Refused) {
    let reason = refused.label();
    metrics.ingress_refused(source, reason).increment(1);
    tracing::warn!(source, channel, why = %refused, "a message of an emitter is refused");
}
