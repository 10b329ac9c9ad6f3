//! Calls to backends: who comes (`connect`, with the `headers` of the handshake), what clients say (`event`), and what is to be done by
//! the answers (`actions`).
//!
//! A client's event that is a call waits in its connection's [`lane`](super::lanes), like one that a program's own
//! handler takes: a connection's calls go one after another, and hold up nothing but each other.

mod actions;
pub(super) mod connect;
mod event;
mod headers;

use std::sync::Arc;

use derive_more::Constructor;
use serde_json::Value;

use super::{application::OnEvent, arg::Arg, delivery::Deliverer, message, rooms::RoomChanges};
use crate::{backend::Backends, config::RunningConfig, metrics::Metrics, registry::Registry};

/// Calls backends.
#[derive(Constructor)]
pub(super) struct Calls {
    backends: Arc<Backends>,
    registry: Arc<dyn Registry>,
    config: RunningConfig,
    metrics: Metrics,
    delivery: Arc<Deliverer>,
    rooms: Arc<RoomChanges>,
}

impl Calls {
    /// The handler of a client's event that is kept for backends or a call to one; none if it is neither.
    pub(super) fn handler(self: &Arc<Self>, namespace: &str, event: &str) -> Option<OnEvent> {
        let queueing = self.backends.queueing(namespace, event);
        if !queueing.is_empty() {
            return Some(event::keeper(queueing, self.registry.clone()));
        }
        let backend = self.backends.for_event(namespace, event)?;
        Some(event::handler(backend, self.clone()))
    }
}

/// Reads what a backend says as the arguments of an acknowledgement: a list is several, anything else is one, and nothing is none.
fn ack_arguments(said: Option<Value>) -> Result<Vec<Arg>, String> {
    let values = match said {
        None => Vec::new(),
        Some(Value::Array(values)) => values,
        Some(value) => vec![value],
    };
    for (index, value) in values.iter().enumerate() {
        let checked = message::check_binary(value, &mut format!("ack[{index}]"));
        checked.map_err(|error| error.to_string())?;
    }
    Ok(values.into_iter().map(Arg::from).collect())
}
