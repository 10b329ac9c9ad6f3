//! Secrets, tokens, cookies, passwords, and what limits guesses at them.

use super::*;

#[test]
fn secrets_and_api_keys() {
    assert_wrong(&[
        ("auth.jwt.secret = ''", "auth.jwt.secret"),
        ("auth.jwt.secret = '***'", "auth.jwt.secret"),
        (
            "auth.jwt.previous_secrets = ['a', '']",
            "auth.jwt.previous_secrets.1",
        ),
        (
            "registry.secrets = ['0123456789abcdef0123456789abcdef', '0123456789abcdef0123456789abcde']",
            "registry.secrets.1",
        ),
        ("registry.secrets = ''", "registry.secrets.0"),
        ("registry.secrets = ['***']", "registry.secrets.0"),
        ("api.key = ''", "api.key"),
        ("api.key = '***'", "api.key"),
        ("api.key = \"a\\n\"", "api.key"),
        ("api.key = 'sha256:abc'", "api.key"),
        (
            "api.keys = [{ name = '', key = 'k', scopes = ['read'] }]",
            "api.keys.0.name",
        ),
        (
            "api.keys = [{ name = 'a', key = '', scopes = ['read'] }]",
            "api.keys.0.key",
        ),
        (
            "api.keys = [{ name = 'a', key = 'k', scopes = [] }]",
            "api.keys.0.scopes",
        ),
        (
            "api.keys = [{ name = 'a', key = 'k', scopes = ['write'] }]",
            "api.keys.0.scopes.0",
        ),
        (
            "api.keys = [{ name = 'a', key = 'k' }]",
            "api.keys.0.scopes",
        ),
        (
            "api.keys = [{ name = 'a', key = 'k', scopes = ['read'] }, { name = 'a', key = 'l', scopes = ['read'] }]",
            "api.keys.1.name",
        ),
        (
            "api.key = 'k'\napi.keys = [{ name = 'a', key = 'k', scopes = ['read'] }]",
            "api.keys.0.key",
        ),
        (
            "api.key = 'k'\napi.keys = [{ name = 'a', key = 'sha256:8254c329a92850f6d539dd376f4816ee2764517da5e0235514af433164480d7a', scopes = ['read'] }]",
            "api.keys.0.key",
        ),
    ]);
}

#[test]
fn sessions() {
    assert_wrong(&[
        ("auth.session.secrets = ['x']", "auth.session.secrets"),
        (
            "redis.urls = ['redis://a']\nauth.session.secrets = ['x', '']",
            "auth.session.secrets.1",
        ),
        (
            "redis.urls = ['redis://a']\nauth.session.secrets = ['***']",
            "auth.session.secrets.0",
        ),
        (
            "auth.session.redis_url = 'localhost'",
            "auth.session.redis_url",
        ),
        (
            "auth.session.redis_url = 'redis://:***@localhost'",
            "auth.session.redis_url",
        ),
        ("auth.session.cookie_name = ''", "auth.session.cookie_name"),
        (
            "auth.session.cookie_name = 'a=b'",
            "auth.session.cookie_name",
        ),
        (
            "auth.session.cookie_name = 'a b'",
            "auth.session.cookie_name",
        ),
        (
            "auth.session.key_prefix = \"a\\n\"",
            "auth.session.key_prefix",
        ),
        (
            "auth.session.user_id_pointer = []",
            "auth.session.user_id_pointer",
        ),
        (
            "auth.session.user_id_pointer = ['/a', 'b']",
            "auth.session.user_id_pointer.1",
        ),
        (
            "auth.session.user_id_pointer = ''",
            "auth.session.user_id_pointer.0",
        ),
        (
            "auth.session.username_pointer = '/a~2'",
            "auth.session.username_pointer",
        ),
        (
            "auth.session.role_pointer = '/a~'",
            "auth.session.role_pointer",
        ),
    ]);
    assert_fine(&[
        "auth.session.secrets = ['x']\nredis.urls = ['redis://a']",
        "auth.session.secrets = ['x']\nauth.session.redis_url = 'rediss://a'",
        "auth.session.cookie_name = '__Host-sid'\nauth.session.key_prefix = ''",
        "auth.session.user_id_pointer = '/a~1b/~0/0'",
    ]);
}

#[test]
fn tokens() {
    assert_wrong(&[
        ("auth.jwt.algorithms = ['none']", "auth.jwt.algorithms.0"),
        ("auth.jwt.algorithms = ['hs256']", "auth.jwt.algorithms.0"),
        ("auth.jwt.issuer = ['']", "auth.jwt.issuer.0"),
        ("auth.jwt.user_id_claim = ''", "auth.jwt.user_id_claim"),
        ("auth.jwt.jwks_url = 'ftp://x/jwks'", "auth.jwt.jwks_url"),
        ("auth.jwt.jwks_url = 'x'", "auth.jwt.jwks_url"),
        (
            "auth.jwt.jwks_url = 'https://u:p@x/jwks'",
            "auth.jwt.jwks_url",
        ),
        (
            "auth.jwt.public_key_file = '/nowhere/key.pem'",
            "auth.jwt.public_key_file",
        ),
        ("auth.jwt.jwks_file = '/'", "auth.jwt.jwks_file"),
    ]);
    assert_fine(&[
        "auth.jwt.algorithms = ['HS256', 'RS512', 'PS384', 'ES256', 'EdDSA']",
        "auth.jwt.jwks_url = 'http://127.0.0.1:8080/jwks.json'",
    ]);
}

#[test]
fn keys_that_are_bound_have_one_source_each() {
    let entry = |fields: &str| format!("auth.jwt.keys = [{{ secret = 'k' }}, {{ {fields} }}]");
    for (fields, key) in [
        ("", "auth.jwt.keys.1"),
        ("issuer = 'x'", "auth.jwt.keys.1"),
        ("secret = 'k', jwks_url = 'https://x'", "auth.jwt.keys.1"),
        ("secret = ''", "auth.jwt.keys.1.secret"),
        ("secret = '***'", "auth.jwt.keys.1.secret"),
        ("secrets = ['k']", "auth.jwt.keys.1.secrets"),
        ("jwks_url = 'ftp://x'", "auth.jwt.keys.1.jwks_url"),
        ("jwks_url = 'https://a:b@x'", "auth.jwt.keys.1.jwks_url"),
        ("jwks_file = '/nowhere'", "auth.jwt.keys.1.jwks_file"),
        (
            "public_key_file = '/nowhere'",
            "auth.jwt.keys.1.public_key_file",
        ),
        (
            "secret = 'k', algorithms = ['none']",
            "auth.jwt.keys.1.algorithms.0",
        ),
        ("secret = 'k', issuer = ''", "auth.jwt.keys.1.issuer.0"),
        ("secret = 'k', roles = ['a', '']", "auth.jwt.keys.1.roles.1"),
    ] {
        assert_eq!(wrong(&entry(fields)), [key], "{fields}");
    }
    let several = "jwks_url = 'https://x/jwks', issuer = ['a', 'b'], audience = 'c', algorithms = 'ES256', roles = []";
    assert_fine(&[&entry(several)]);
}

#[test]
fn a_key_that_others_can_guess_at_is_long() {
    let with = |listen: &str, key: &str| format!("{listen}\napi.key = '{key}'");
    let named = |listen: &str, key: &str| {
        format!("{listen}\napi.keys = [{{ name = 'a', key = '{key}', scopes = ['read'] }}]")
    };
    let hashed = format!("sha256:{}", "0".repeat(64));
    let [short, long] = [15, 16].map(|length| "k".repeat(length));
    for open in [
        "listen = '0.0.0.0:1'",
        "listen = '[::]:1'",
        "listen = '10.0.0.1:1'",
        "internal_listen = '0.0.0.0:1'",
    ] {
        for short in ["a", &short] {
            assert_eq!(wrong(&with(open, short)), ["api.key"], "{open}");
            assert_eq!(wrong(&named(open, short)), ["api.keys.0.key"], "{open}");
        }
        assert_fine(&[&with(open, &long), &named(open, &long)]);
        assert_fine(&[&with(open, &hashed), &named(open, &hashed)]);
        assert_eq!(wrong(&with(open, "")), ["api.key"], "said once");
        assert_eq!(wrong(&with(open, "***")), ["api.key"], "said once");
    }
    // Nobody else reaches the API there.
    for closed in [
        "listen = '127.0.0.1:1'",
        "listen = '0.0.0.0:1'\ninternal_listen = '127.0.0.1:2'",
    ] {
        assert_fine(&[&with(closed, "a"), &named(closed, "a")]);
    }
}

#[test]
fn a_password_in_clear_is_not_shown() {
    let text = "[admin_ui]\nusername = 'ops'\npassword_hash = 'hush-hush'";
    let error = load_toml(text).err().unwrap().to_string();
    assert!(error.contains("$2") && !error.contains("hush"), "{error}");
}
