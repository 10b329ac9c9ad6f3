//! What operators ask for: events for clients, rooms, ends. Each is told to every node, which does it for its own connections.

use std::sync::Arc;

use derive_more::Constructor;
use serde_json::Value;

use crate::{
    config::Config,
    connection::check_room,
    gateway::{
        delivery::Deliverer,
        message::{Json, Message, Selection, is_sendable},
        rooms::RoomChanges,
        tasks::Tasks,
    },
};

/// Why an operator's verb is not carried out. `Display` is for the log: the protocol has no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("admin_ui.read_only")]
    ReadOnly,
    #[error("not a verb of the page's, or not its arguments")]
    Unreadable,
    #[error("no such namespace")]
    Namespace,
    #[error("an event of Socket.IO's or Switchboard's own")]
    ReservedEvent,
    #[error("more than limits.max_payload")]
    TooLarge,
    #[error("no room that can be joined or left")]
    Room,
    #[error("too many at once")]
    TooMany,
    #[error("Redis is away: this node alone has done it")]
    Away,
}

/// What is asked for.
#[derive(Debug, PartialEq)]
enum Action {
    Emit(Message),
    Join(String),
    Leave(String),
    Disconnect { transports: bool },
}

/// What an operator asks for, and of which connections.
#[derive(Debug, PartialEq)]
pub(super) struct Verb {
    namespace: String,
    /// A room, or the id of a connection; none: all of the namespace.
    filter: Option<String>,
    action: Action,
}

impl Verb {
    /// Reads an event of the page's: its name, and its arguments behind it. The filter is the page's second or third argument, and
    /// undefined is null there.
    pub(super) fn read(said: &[Value]) -> Result<Self, Refused> {
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or(Refused::Unreadable);
        let (Some(name), Some(namespace)) = (said.first(), said.get(1)) else {
            return Err(Refused::Unreadable);
        };
        let rest = &said[2..];
        let filter = |at: usize| match rest.get(at) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(value) => text(value).map(Some),
        };
        let namespace = text(namespace)?;
        let (filter, action) = match (name.as_str(), rest) {
            (Some("emit"), [_, event, args @ ..]) => {
                let args = args.iter().map(Json::of).collect::<Result<_, _>>();
                let message = Message {
                    args: args.map_err(|_| Refused::Unreadable)?,
                    ..Message::new(namespace.as_str(), text(event)?)
                };
                (filter(0)?, Action::Emit(message))
            }
            (Some("join"), [room, ..]) => (filter(1)?, Action::Join(text(room)?)),
            (Some("leave"), [room, ..]) => (filter(1)?, Action::Leave(text(room)?)),
            (Some("_disconnect"), rest) => {
                let transports = rest.first().is_some_and(|close| *close == true);
                (filter(1)?, Action::Disconnect { transports })
            }
            _ => return Err(Refused::Unreadable),
        };
        Ok(Self {
            namespace,
            filter,
            action,
        })
    }

    /// Holds it against the configuration.
    pub(super) fn check(&self, config: &Config) -> Result<(), Refused> {
        if config.admin_ui.as_ref().is_none_or(|it| it.read_only) {
            return Err(Refused::ReadOnly);
        }
        if !config.namespaces.iter().any(|it| it.path == self.namespace) {
            return Err(Refused::Namespace);
        }
        match &self.action {
            Action::Emit(message) if !is_sendable(&message.event) => Err(Refused::ReservedEvent),
            Action::Emit(message)
                if message.weight() as u64 > config.limits.max_payload.as_u64() =>
            {
                Err(Refused::TooLarge)
            }
            Action::Join(room) | Action::Leave(room) if check_room(room).is_err() => {
                Err(Refused::Room)
            }
            _ => Ok(()),
        }
    }

    /// Its name, for the audit.
    pub(super) fn name(&self) -> &'static str {
        match self.action {
            Action::Emit(_) => "emit",
            Action::Join(_) => "join",
            Action::Leave(_) => "leave",
            Action::Disconnect { .. } => "_disconnect",
        }
    }

    /// The room, connection or namespace that it is about, for the audit.
    pub(super) fn subject(&self) -> &str {
        self.filter.as_deref().unwrap_or(&self.namespace)
    }
}

/// Does what operators ask for, for the connections of this node.
#[derive(Constructor)]
pub(super) struct Hands {
    delivery: Arc<Deliverer>,
    rooms: Arc<RoomChanges>,
    tasks: Tasks,
}

impl Hands {
    /// Carries a verb out. Never waits: the registry is told of rooms later.
    pub(super) fn carry_out(&self, verb: Verb) {
        let selection = Selection {
            rooms: verb.filter.into_iter().collect(),
            except: Vec::new(),
        };
        let change = |room: String, joins| {
            let meant = self.delivery.in_rooms(&verb.namespace, &selection);
            let (refused, telling) = self.rooms.change_here(meant, &[room], joins);
            if refused > 0 {
                tracing::warn!(
                    refused,
                    "connections stay in or out of an operator's room: their user is to be there, or in too many"
                );
            }
            self.tasks.spawn(telling);
        };
        match verb.action {
            Action::Emit(message) => self.delivery.deliver_here(&selection, &message),
            Action::Join(room) => change(room, true),
            Action::Leave(room) => change(room, false),
            Action::Disconnect { transports } => {
                self.delivery
                    .end_here(&verb.namespace, &selection, transports);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::AdminUi;

    fn read(said: Value) -> Result<Verb, Refused> {
        Verb::read(said.as_array().unwrap())
    }

    fn checked(said: Value, read_only: bool) -> Result<(), Refused> {
        let admin_ui = AdminUi {
            read_only,
            ..AdminUi::default()
        };
        let config = Config {
            admin_ui: Some(admin_ui),
            ..Config::default()
        };
        read(said)?.check(&config)
    }

    #[test]
    fn the_verbs_of_the_page_are_read_with_and_without_a_filter() {
        let verb = |filter: Option<&str>, action| Verb {
            namespace: "/".into(),
            filter: filter.map(str::to_owned),
            action,
        };
        let hello = Message::new("/", "hello").with(&1).unwrap();
        let hello = || Action::Emit(hello.clone());
        let end = |transports| Action::Disconnect { transports };
        for (said, filter, action) in [
            (json!(["emit", "/", null, "hello", 1]), None, hello()),
            (json!(["emit", "/", "r", "hello", 1]), Some("r"), hello()),
            (
                json!(["join", "/", "a", "r"]),
                Some("r"),
                Action::Join("a".into()),
            ),
            (json!(["join", "/", "a"]), None, Action::Join("a".into())),
            (
                json!(["leave", "/", "a", null]),
                None,
                Action::Leave("a".into()),
            ),
            (json!(["_disconnect", "/", true, "r"]), Some("r"), end(true)),
            (json!(["_disconnect", "/", false]), None, end(false)),
        ] {
            assert_eq!(read(said.clone()), Ok(verb(filter, action)), "{said}");
        }
        for garbage in [
            json!([]),
            json!(["emit"]),
            json!(["emit", "/"]),
            json!(["emit", "/", null]),
            json!(["emit", "/", null, 1]),
            json!(["emit", "/", {}, "hello"]),
            json!(["join", "/"]),
            json!(["join", "/", 1]),
            json!(["_disconnect", "/", true, 1]),
            json!(["_disconnect", 1]),
            json!(["other", "/"]),
            json!([1, "/"]),
        ] {
            assert_eq!(read(garbage.clone()), Err(Refused::Unreadable), "{garbage}");
        }
    }

    #[test]
    fn what_is_not_for_operators_is_refused() {
        for (said, refused) in [
            (json!(["emit", "/none", null, "hello"]), Refused::Namespace),
            (json!(["emit", "/ui", null, "hello"]), Refused::Namespace),
            (json!(["emit", "/", null, "ready"]), Refused::ReservedEvent),
            (
                json!(["emit", "/", null, "x", "x".repeat(2_000_000)]),
                Refused::TooLarge,
            ),
            (json!(["join", "/", "user:42"]), Refused::Room),
            (json!(["leave", "/", ""]), Refused::Room),
        ] {
            assert_eq!(checked(said, false), Err(refused));
        }
        assert_eq!(checked(json!(["_disconnect", "/", true]), false), Ok(()));
        assert_eq!(
            checked(json!(["_disconnect", "/", true]), true),
            Err(Refused::ReadOnly)
        );
    }
}
