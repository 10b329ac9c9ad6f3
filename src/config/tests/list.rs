//! One text where a list is meant.

use secrecy::ExposeSecret;

use super::*;
use crate::config::Scope;

#[test]
fn one_text_is_the_list_of_it_for_every_key() {
    let config = load_toml(
        r#"
trusted_proxies = "10.0.0.0/8"
[redis]
urls = "redis://127.0.0.1:6379"
[cors]
allowed_origins = "https://app.example"
[auth.jwt]
secret = "0123456789abcdef0123456789abcdef"
previous_secrets = "an older one, of 0123456789abcdef"
algorithms = "HS256"
issuer = "https://id.example"
audience = "app"
[auth.session]
secrets = "of cookies"
user_id_pointer = "/uid"
[[api.keys]]
name = "billing"
key = "k1"
scopes = "send"
[[namespaces]]
path = "/"
roles = "editor"
issuer = "https://other.example"
audience = "other"
"#,
    )
    .unwrap();
    let jwt = &config.auth.jwt;
    // A comma does not divide it, as it does in the environment.
    let secrets = [&jwt.previous_secrets, &config.auth.session.secrets]
        .map(|secrets| Vec::from_iter(secrets.iter().map(ExposeSecret::expose_secret)));
    assert_eq!(secrets[0], ["an older one, of 0123456789abcdef"]);
    assert_eq!(secrets[1], ["of cookies"]);
    assert_eq!(config.redis.urls.len(), 1);
    assert_eq!(config.trusted_proxies, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(config.cors.allowed_origins, ["https://app.example"]);
    assert_eq!(jwt.algorithms, ["HS256"]);
    assert_eq!(jwt.issuer, ["https://id.example"]);
    assert_eq!(jwt.audience, ["app"]);
    assert_eq!(config.auth.session.user_id_pointer, ["/uid"]);
    assert_eq!(config.api.keys[0].scopes, [Scope::Send]);
    let namespace = &config.namespaces[0];
    assert_eq!(namespace.roles, ["editor"]);
    assert_eq!(namespace.issuer, Some(vec!["https://other.example".into()]));
    assert_eq!(namespace.audience, Some(vec!["other".into()]));
}

#[test]
fn so_it_is_in_tables_from_the_environment() {
    for tables in [
        r#"[{"path": "/", "roles": "editor", "issuer": null}]"#,
        "[{path = '/', roles = 'editor'}]",
    ] {
        let config = load_env([("SWITCHBOARD_NAMESPACES", tables)]).unwrap();
        assert_eq!(config.namespaces[0].roles, ["editor"]);
        assert_eq!(config.namespaces[0].issuer, None);
    }
}

#[test]
fn what_is_neither_is_wrong_at_its_key_and_no_secret_is_shown() {
    for (text, error) in [
        ("auth.jwt.issuer = 4", "auth.jwt.issuer"),
        ("auth.jwt.issuer = ['a', 4]", "auth.jwt.issuer.1"),
        ("auth.jwt.audience = {a = 'b'}", "auth.jwt.audience"),
        ("auth.jwt.algorithms = 'none'", "auth.jwt.algorithms"),
        ("trusted_proxies = 'nowhere'", "trusted_proxies"),
        ("cors.allowed_origins = ''", "cors.allowed_origins"),
        ("auth.session.secrets = 4711", "auth.session.secrets"),
        ("redis.urls = 'hush'", "redis.urls"),
        (
            "[[namespaces]]\npath = '/'\nroles = 4",
            "namespaces.0.roles",
        ),
        (
            "[[api.keys]]\nname = 'a'\nkey = 'k'\nscopes = 'hush'",
            "api.keys.0.scopes",
        ),
    ] {
        let shown = load_toml(text).unwrap_err().to_string();
        assert!(shown.starts_with(error), "{text}: {shown}");
        assert!(
            !shown.contains("hush") && !shown.contains("4711"),
            "{shown}"
        );
    }
}
