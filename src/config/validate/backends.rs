//! What must go together of backends, and of the namespaces that they decide on.

use std::collections::HashSet;

use super::Findings;
use crate::config::{AuthRule, Config};

impl Config {
    pub(super) fn backends(&self, findings: &mut Findings) {
        let mut names = HashSet::new();
        for (index, backend) in self.backends.iter().enumerate() {
            let at = |field: &str| format!("backends.{index}.{field}");
            if !names.insert(backend.name.as_str()) {
                findings.add(at("name"), "the name of another backend");
            }
            let is_called = !backend.events.is_empty() || backend.connect;
            match &backend.stream {
                None if backend.url.is_empty() => {
                    findings.add(at("url"), "not set: an http:// or https:// URL");
                }
                Some(_) if !backend.url.is_empty() => {
                    findings.add(at("stream"), "set beside url: one of them");
                }
                Some(_) if is_called => {
                    findings.add(
                        at("stream"),
                        "for notifications only: events and connect take a url",
                    );
                }
                Some(_) if self.redis.urls.is_empty() => {
                    findings.add(at("stream"), "there is no Redis: set redis.urls");
                }
                _ => {}
            }
            if backend.stream.is_none() && backend.all_secrets().next().is_none() {
                findings.add(at("secret"), "not set: without one nothing can be signed");
            }
            for namespace in &backend.namespaces {
                if !self.namespaces.iter().any(|one| one.path == *namespace) {
                    findings.add(at("namespaces"), format!("there is no {namespace:?}"));
                }
            }
        }
        for (index, namespace) in self.namespaces.iter().enumerate() {
            let path = namespace.path.as_str();
            if namespace.auth == AuthRule::Backend && self.asked_about(path).is_none() {
                findings.add(
                    format!("namespaces.{index}.auth"),
                    format!("there is no backend that hears {path:?}"),
                );
            }
            let asked = self
                .backends
                .iter()
                .filter(|one| one.connect && one.hears(path));
            if asked.count() > 1 {
                findings.add(
                    "backends",
                    format!("connect: one backend decides on newcomers of {path:?}, not several"),
                );
            }
        }
    }
}
