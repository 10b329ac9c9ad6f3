//! The page of `@socket.io/admin-ui`: `admin_ui`.

use super::{Config, section::section, validate::Findings, validate::texts};
use secrecy::SecretString;

section! {
    /// The server side of the page of `@socket.io/admin-ui`, for operators who have it. On by being there; the same on all nodes.
    AdminUi in "admin_ui." {
        /// The namespace that the page connects to; none of `[[namespaces]]`.
        namespace: String = "/ui".into(), shown("`/ui`"), fits(texts::path);
        /// The operators' user name.
        username: String = String::new(), shown("required"), fits(texts::named);
        /// Their password as bcrypt hashes it (`htpasswd -nBC 10 ""`). All that were logged in have to log in anew when it is another
        /// one.
        password_hash: Option<SecretString> = None, shown("required"), fits(texts::bcrypt_hash);
        /// Whether operators may only look.
        read_only: bool = false, shown("`false`");
    }
}

impl Config {
    /// Checks whether operators can log in, and that their namespace is nobody else's.
    pub(super) fn admin_ui(&self, findings: &mut Findings) {
        let Some(admin_ui) = &self.admin_ui else {
            return;
        };
        findings.expect(
            admin_ui.password_hash.is_some(),
            "admin_ui.password_hash",
            "not set: the password as bcrypt hashes it",
        );
        let namespace = &admin_ui.namespace;
        if self.namespaces.iter().any(|it| it.path == *namespace) {
            findings.add(
                "admin_ui.namespace",
                format!("{namespace:?} is one of the configured namespaces, which clients connect to: name another"),
            );
        }
    }
}
