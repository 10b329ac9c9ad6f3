//! What must go together of credentials: tokens and their keys, session cookies, and who is let into a namespace.

use std::collections::HashSet;

use super::Findings;
use crate::config::{AuthRule, Config, Jwt};

impl Jwt {
    pub(super) fn key_sources(&self, findings: &mut Findings) {
        for (index, entry) in self.keys.iter().enumerate() {
            let sources = [
                ("secret", entry.secret.is_some()),
                ("public_key_file", entry.public_key_file.is_some()),
                ("jwks_file", entry.jwks_file.is_some()),
                ("jwks_url", entry.jwks_url.is_some()),
            ];
            let set = sources.iter().filter(|(_, is_set)| *is_set);
            let set: Vec<_> = set.map(|(name, _)| *name).collect();
            if set.len() != 1 {
                let has = match set.is_empty() {
                    true => "none".to_owned(),
                    false => set.join(" and "),
                };
                findings.add(
                    format!("auth.jwt.keys.{index}"),
                    format!("must have exactly one of secret, public_key_file, jwks_file, jwks_url, and has {has}"),
                );
            }
        }
    }
}

impl Config {
    pub(super) fn namespace_rules(&self, findings: &mut Findings) {
        findings.expect(
            !self.namespaces.is_empty(),
            "namespaces",
            "must name at least one namespace",
        );
        let mut paths = HashSet::new();
        for (index, namespace) in self.namespaces.iter().enumerate() {
            let path = namespace.path.as_str();
            if !paths.insert(path) {
                findings.add(
                    format!("namespaces.{index}.path"),
                    format!("{path:?} is there twice"),
                );
            }
            if namespace.auth == AuthRule::None && !namespace.roles.is_empty() {
                findings.add(
                    format!("namespaces.{index}.roles"),
                    "goes with auth = \"required\": who needs no token has no role",
                );
            }
        }
    }

    pub(super) fn sessions(&self, findings: &mut Findings) {
        let session = &self.auth.session;
        if session.is_on() && session.redis_url.is_none() && self.redis.urls.is_empty() {
            findings.add(
                "auth.session.secrets",
                "are set, and there is no Redis with sessions in it: set redis.urls or auth.session.redis_url",
            );
        }
        findings.expect(
            !session.user_id_pointer.is_empty(),
            "auth.session.user_id_pointer",
            "must name at least one place",
        );
    }
}
