//! Calls to backends: who comes (`connect`, with the `headers` of the handshake), what clients say (`event`), and what is to be done by
//! the answers (`actions`).
//!
//! A client's event that is a call waits in its connection's [`lane`](super::handlers::lane), like one that a handler of the
//! library's takes: a connection's calls go one after another, and hold up nothing but each other.

mod actions;
pub(super) mod connect;
mod event;
mod headers;

use std::sync::Arc;

use derive_more::Constructor;
use serde_json::Value;

use super::{arg::Arg, handlers::OnEvent, message};
use crate::{backend::Backends, config::RunningConfig, metrics::Metrics, registry::Registry};

/// Calls backends.
#[derive(Constructor)]
pub(super) struct Calls {
    backends: Arc<Backends>,
    registry: Arc<dyn Registry>,
    config: RunningConfig,
    metrics: Metrics,
}

impl Calls {
    /// The handler of a client's event that is kept for backends or a call to one; none if it is neither.
    pub(super) fn handler(&self, namespace: &str, event: &str) -> Option<OnEvent> {
        let queueing = self.backends.queueing(namespace, event);
        if !queueing.is_empty() {
            return Some(event::keeper(queueing, self.registry.clone()));
        }
        let backend = self.backends.for_event(namespace, event)?;
        Some(event::handler(backend, self.metrics.clone()))
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
