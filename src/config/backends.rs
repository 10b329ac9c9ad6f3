//! Where what clients say goes: `[[backends]]`.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{AuthRule, Config, section::section, validate::texts, value::Value};

section! {
    /// A backend: code of yours that is asked over HTTP about what clients say, and about who comes, and told what has happened. Each
    /// request is a signed `POST` of JSON. Of several that a call could go to, the first in the list gets it; a notification goes to
    /// each that it is meant for.
    Backend in "backends." {
        /// Its name, in metrics and logs; unique.
        name: String = String::new(), shown("required"), fits(texts::named);
        /// Where it is called: an `http://` or `https://` URL. Redirects are not followed.
        url: String = String::new(), shown("required, or `stream`"), fits(texts::backend_url);
        /// Instead of `url`, for notifications only: the key of a Redis stream that they are added to, for consumer groups. As it stands
        /// here, without `registry.prefix`. Its readers delete what they have read.
        stream: Option<String> = None, fits(texts::named);
        /// What signs the calls, as in Standard Webhooks: `whsec_` and the base64 of 24 to 64 bytes. Not of a `stream`.
        secret: Option<SecretString> = None, shown("required, or `secrets`"), fits(texts::webhook_secret);
        /// Further secrets: each signs too. While a secret is replaced: the new one comes in here until the backend knows it.
        secrets: Vec<SecretString> = Vec::new(), fits(texts::webhook_secret);
        /// The namespaces whose clients it hears.
        namespaces: Vec<String> = Vec::new(), shown("all"), fits(texts::path);
        /// The clients' events that are calls, by name; `chat:*` is each that begins with `chat:`, `*` is all. Switchboard's own
        /// never are.
        events: Vec<String> = Vec::new(), fits(texts::event_pattern);
        /// The clients' events that are notifications, by name as in `events`, over which it takes precedence: they are kept, and
        /// acknowledged, before anybody has handled them.
        queue: Vec<String> = Vec::new(), fits(texts::event_pattern);
        /// What it is told: `connection.opened`, `connection.closed`, `user.online`, `user.offline`, `room.occupied`, `room.vacated`.
        notify: Vec<Fact> = Vec::new(), shown("none");
        /// Whether it is asked before a connection is let in: one backend at the most for each namespace. In a namespace with `auth =
        /// "backend"` one is asked also without this.
        connect: bool = false, shown("`false`");
        /// How long an answer may take, from the request to its last byte.
        timeout: Duration = Duration::from_secs(5), positive, shown("`5s`");
        /// How many calls of this node may wait for their answers at once. Beyond it a client is told `Unavailable`.
        in_flight: u32 = 64, positive, shown("`64`");
        /// Headers of the handshake request that it is told when it is asked about a connection. Never a token or a session
        /// cookie that Switchboard has verified.
        forward_headers: Vec<String> = Vec::new(), shown("none"), fits(texts::header_name);
    }
}

/// What a backend can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub enum Fact {
    /// A connection is there.
    #[serde(rename = "connection.opened")]
    Opened,
    /// A connection is gone.
    #[serde(rename = "connection.closed")]
    Closed,
    /// A user's first connection is there.
    #[serde(rename = "user.online")]
    Online,
    /// A user's last connection is gone, and none came back in time.
    #[serde(rename = "user.offline")]
    Offline,
    /// A room's first member is in it.
    #[serde(rename = "room.occupied")]
    Occupied,
    /// A room's last member is out of it.
    #[serde(rename = "room.vacated")]
    Vacated,
}

impl Fact {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Opened,
        Self::Closed,
        Self::Online,
        Self::Offline,
        Self::Occupied,
        Self::Vacated,
    ];

    /// `type` of the notification, and what it is called in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "connection.opened",
            Self::Closed => "connection.closed",
            Self::Online => "user.online",
            Self::Offline => "user.offline",
            Self::Occupied => "room.occupied",
            Self::Vacated => "room.vacated",
        }
    }
}

fn names(patterns: &[String], event: &str) -> bool {
    let fits = |pattern: &String| match pattern.strip_suffix('*') {
        Some(prefix) => event.starts_with(prefix),
        None => event == pattern,
    };
    patterns.iter().any(fits)
}

impl Backend {
    /// Whether it hears the clients of a namespace.
    pub fn hears(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|one| one == namespace)
    }

    /// Whether a client's event of a namespace is a call to it.
    pub fn takes(&self, namespace: &str, event: &str) -> bool {
        self.hears(namespace) && names(&self.events, event)
    }

    /// Whether a client's event of a namespace is kept for it.
    pub fn queues(&self, namespace: &str, event: &str) -> bool {
        self.hears(namespace) && names(&self.queue, event)
    }

    /// Whether anything is kept for it.
    pub fn is_notified(&self) -> bool {
        !self.queue.is_empty() || !self.notify.is_empty()
    }

    /// All of its secrets.
    pub(crate) fn all_secrets(&self) -> impl Iterator<Item = &SecretString> {
        self.secret.iter().chain(&self.secrets)
    }

    /// A warning, if one of its secrets is shorter than Standard Webhooks asks for.
    pub(super) fn short_secret(&self) -> Option<String> {
        const LEAST: usize = "whsec_".len() + 32;
        let is_short = |secret: &SecretString| secret.expose_secret().len() < LEAST;
        self.all_secrets().any(is_short).then(|| {
            format!(
                "A secret of the backend {:?} has fewer than 24 bytes: it can be guessed from a single call.",
                self.name
            )
        })
    }

    /// Whether another one is configured exactly alike.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.same(other)
    }
}

section! {
    /// What is kept for backends until it is delivered: notifications.
    Events in "events." {
        /// How many notifications wait for one backend at the most. Beyond it the oldest are dropped, and counted.
        max_queued: u32 = 1_000_000, positive;
        /// How long a notification waits at the most. Older ones are dropped, and counted.
        retention: Duration = Duration::from_secs(24 * 3600), positive;
    }
}

impl Config {
    /// Whether anyone can be let in at all: by a token, by a cookie, or by a backend.
    pub fn lets_in(&self) -> bool {
        let by_backend = |one: &super::Namespace| one.auth == AuthRule::Backend;
        self.auth.lets_in() || self.namespaces.iter().any(by_backend)
    }

    /// The place in `backends` of the one that is asked about newcomers of a namespace; none if none is.
    pub(crate) fn asked_about(&self, namespace: &str) -> Option<usize> {
        let decides = self
            .namespaces
            .iter()
            .any(|one| one.path == namespace && one.auth == AuthRule::Backend);
        let hears = |one: &Backend| one.stream.is_none() && one.hears(namespace);
        let asked = self
            .backends
            .iter()
            .position(|one| one.connect && hears(one));
        match decides {
            true => asked.or_else(|| self.backends.iter().position(hears)),
            false => asked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_named_exactly_or_by_their_beginning() {
        let takes = |patterns: &[&str], event: &str| {
            let backend = Backend {
                namespaces: vec!["/".into()],
                events: patterns.iter().map(|one| (*one).to_owned()).collect(),
                ..Backend::default()
            };
            assert!(!backend.takes("/other", event));
            backend.takes("/", event)
        };
        assert!(takes(&["chat"], "chat") && !takes(&["chat"], "chat:"));
        assert!(takes(&["chat:*"], "chat:") && takes(&["chat:*"], "chat:say"));
        assert!(!takes(&["chat:*"], "chat") && takes(&["a", "*"], "anything"));
        assert!(!takes(&[], "anything"));
    }
}
