//! Where what clients say goes: `[[backends]]`.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::{AuthRule, Config, section::section, validate::texts, value::Value};

section! {
    /// A backend: code of yours that is asked over HTTP about what clients say, and about who comes. Each call is a signed `POST`
    /// of JSON. Of several that a call could go to, the first in the list gets it.
    Backend in "backends." {
        /// Its name, in metrics and logs; unique.
        name: String = String::new(), shown("required"), fits(texts::named);
        /// Where it is called: an `http://` or `https://` URL. Redirects are not followed.
        url: String = String::new(), shown("required"), fits(texts::backend_url);
        /// What signs the calls, as in Standard Webhooks: `whsec_` and the base64 of 24 to 64 bytes.
        secret: Option<SecretString> = None, shown("required, or `secrets`"), fits(texts::webhook_secret);
        /// Further secrets: each signs too. While a secret is replaced: the new one comes in here until the backend knows it.
        secrets: Vec<SecretString> = Vec::new(), fits(texts::webhook_secret);
        /// The namespaces whose clients it hears.
        namespaces: Vec<String> = Vec::new(), shown("all"), fits(texts::path);
        /// The clients' events that are calls, by name; `chat:*` is each that begins with `chat:`, `*` is all. Switchboard's own
        /// never are.
        events: Vec<String> = Vec::new(), fits(texts::event_pattern);
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

impl Backend {
    /// Whether it hears the clients of a namespace.
    pub fn hears(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|one| one == namespace)
    }

    /// Whether a client's event of a namespace is a call to it.
    pub fn takes(&self, namespace: &str, event: &str) -> bool {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => event.starts_with(prefix),
            None => event == pattern,
        };
        self.hears(namespace) && self.events.iter().any(fits)
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
        let hears = |one: &Backend| one.hears(namespace);
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
