//! `client.event`: a client has sent an event, and a backend says what is acknowledged and what is to be done; or it is kept for
//! backends, and acknowledged then.

use std::sync::Arc;

use opentelemetry::trace::SpanKind;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::to_raw_value};

use super::{
    Calls, ack_arguments,
    actions::{Action, Actions},
};
use crate::{
    backend::{Backend, CallType},
    connection::Connection,
    gateway::{
        application::{OnEvent, ReceivedEvent, Reply, handler_of},
        arg::Arg,
        requests::fields::{Object, or_default, present},
    },
    registry::{Entry, Registry, RegistryError},
    telemetry::traces::Begin,
};

/// `data` of the call.
#[derive(Serialize)]
struct Data<'a> {
    namespace: &'a str,
    connection: &'a Connection,
    event: &'a str,
    args: Vec<Value>,
    /// Whether the client waits for an acknowledgement.
    ack: bool,
}

impl<'a> Data<'a> {
    fn of(event: &'a ReceivedEvent) -> Self {
        Self {
            namespace: &event.connection.namespace,
            connection: &event.connection,
            event: &event.name,
            args: event.args.iter().map(Arg::to_json).collect(),
            ack: event.wants_ack,
        }
    }
}

/// What a backend answers. Other fields are read over.
#[derive(Default, Deserialize)]
struct Said {
    #[serde(default, deserialize_with = "present")]
    ack: Option<Value>,
    #[serde(default, deserialize_with = "or_default")]
    actions: Vec<Value>,
}

/// What is to come of an event.
struct Answer {
    ack: Vec<Arg>,
    actions: Vec<Action>,
}

/// The handler of events that are calls to a backend.
pub(super) fn handler(backend: Arc<Backend>, calls: Arc<Calls>) -> OnEvent {
    handler_of(move |event| {
        let (backend, calls) = (backend.clone(), calls.clone());
        async move { Ok(call(&backend, &calls, event).await) }
    })
}

/// The handler of events that are kept for backends, which are given by name.
pub(super) fn keeper(backends: Vec<String>, registry: Arc<dyn Registry>) -> OnEvent {
    handler_of(move |event| {
        let (backends, registry) = (backends.clone(), registry.clone());
        async move { Ok(keep(&backends, &*registry, event).await) }
    })
}

async fn keep(backends: &[String], registry: &dyn Registry, event: ReceivedEvent) -> Reply {
    let from = Entry {
        user: event.connection.user_id.clone(),
        id: event.connection.id.clone(),
    };
    let kept = match to_raw_value(&Data::of(&event)) {
        Ok(data) => registry.keep_event(&from, backends, &data).await,
        Err(error) => Err(RegistryError::Corrupt(error.to_string())),
    };
    match kept {
        Ok(()) => Reply::from(vec![json!({ "ok": true }).into()]),
        Err(error) => {
            tracing::warn!(%error, "can't keep a client's event");
            Reply::unavailable()
        }
    }
}

/// Calls a backend about an event, in a trace that begins with the event and holds what the answer asks for.
async fn call(backend: &Backend, calls: &Calls, event: ReceivedEvent) -> Reply {
    let span = backend.traces().begin(|| {
        Begin::new(CallType::Event.as_str(), SpanKind::Server)
            .with("switchboard.namespace", event.connection.namespace.clone())
            .with("switchboard.event", event.name.clone())
            .with("switchboard.connection", event.connection.id.to_string())
    });
    span.within(ask(backend, calls, event)).await
}

async fn ask(backend: &Backend, calls: &Calls, event: ReceivedEvent) -> Reply {
    let data = Data::of(&event);
    let max_payload = calls.delivery.max_payload();
    let read = |body: &[u8]| read(body, &event.connection.namespace, max_payload);
    match backend.call(CallType::Event, &data, read).await {
        Ok(Answer { ack, actions }) => {
            let name = &backend.config().name;
            let ending = Actions::new(name, calls, &event).carry_out(actions).await;
            Reply { args: ack, ending }
        }
        Err(_) => Reply::unavailable(),
    }
}

/// Reads an answer, and all of its actions before any is done.
fn read(body: &[u8], namespace: &str, max_payload: usize) -> Result<Answer, String> {
    let said: Option<Object<Said>> = match body {
        [] => None,
        body => serde_json::from_slice(body).map_err(|error| error.to_string())?,
    };
    let said = said.map(|Object(said)| said).unwrap_or_default();
    let actions = said.actions.into_iter().enumerate().map(|(index, action)| {
        Action::read(action, namespace, max_payload)
            .map_err(|error| format!("actions[{index}]: {error}"))
    });
    Ok(Answer {
        actions: actions.collect::<Result<_, _>>()?,
        ack: ack_arguments(said.ack)?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_json(body: Value) -> Result<Answer, String> {
        read(body.to_string().as_bytes(), "/", 100)
    }

    fn ack(body: Value) -> Vec<Arg> {
        read_json(body).unwrap().ack
    }

    #[test]
    fn an_acknowledgement_has_no_argument_one_or_several() {
        assert_eq!(read(b"", "/", 100).unwrap().ack, []);
        assert_eq!(ack(json!(null)), []);
        assert_eq!(ack(json!({})), []);
        assert_eq!(ack(json!({"ack": 1, "actions": null})).len(), 1);
        assert_eq!(ack(json!({"other": 1})), []);
        assert_eq!(ack(json!({"ack": null})), [Arg::Null]);
        assert_eq!(ack(json!({"ack": "a"})), [Arg::from("a")]);
        assert_eq!(ack(json!({"ack": [1, "b"]})).len(), 2);
        assert_eq!(ack(json!({"ack": [[1, 2]]})).len(), 1);
        let binary = ack(json!({"ack": [{"file": {"$base64": "AQID"}}]}));
        assert_eq!(
            binary[0].get("file").unwrap().as_bytes(),
            Some(&[1, 2, 3][..])
        );
    }

    #[test]
    fn what_can_not_be_read_is_said() {
        let error = |body: &[u8]| read(body, "/", 100).err().unwrap();
        assert!(error(b"<html>").contains("expected value"));
        for no_object in [&b"7"[..], b"[]", b"[1,[]]"] {
            error(no_object);
        }
        let error = |body| read_json(body).err().unwrap();
        assert!(error(json!({"ack": {"$base64": "?"}})).starts_with("ack[0].$base64"));
        assert!(error(json!({"actions": {}})).contains("sequence"));
        let second = json!({"actions": [{"do": "join", "room": "r"}, {"do": "dance"}]});
        assert!(error(second).starts_with("actions[1]: unknown variant"));
    }
}
