use crate::config::{document, key::Key};

#[test]
fn the_page_has_a_row_for_every_key_with_what_is_declared() {
    let page = document();
    for key in Key::all() {
        assert!(
            page.contains(&format!("\n| `{}`", key.path)),
            "{}",
            key.path
        );
    }
    for row in [
        "| `limits.max_payload` | `1MB` | reload | The size of one message",
        "| `auth.jwt.secret`, `SWITCHBOARD_JWT_SECRET` |  | secret, reload | A shared secret",
        "| `auth.session.user_id_pointer` | `/userId`, `/user/id`, `/passport/user` |  | JSON",
        "| `namespaces.auth` | `required` |  | Who is let in",
    ] {
        assert!(page.contains(row), "{row}");
    }
}
