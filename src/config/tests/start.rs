use secrecy::ExposeSecret;

use super::*;
use crate::config::Effective;

fn effective<'a>(
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Effective, ConfigError> {
    load_env(variables).and_then(Effective::of)
}

const SECRET: (&str, &str) = ("SWITCHBOARD_JWT_SECRET", "0123456789abcdef0123456789abcdef");
const KEY: (&str, &str) = ("SWITCHBOARD_API_KEY", "a-key-of-the-tests");

#[test]
fn nothing_configured_on_loopback_is_development_mode() {
    for listen in ["127.0.0.1:0", "127.8.8.8:1", "[::1]:0"] {
        let effective = effective([("SWITCHBOARD_LISTEN", listen)]).unwrap();
        let made_up = effective.development.unwrap();

        let secret = effective.config.auth.jwt.secret.unwrap();
        assert_eq!(secret.expose_secret(), made_up.secret.expose_secret());
        let key = effective.config.api.key.unwrap();
        assert_eq!(key.text(), made_up.api_key.expose_secret());
        assert_ne!(secret.expose_secret(), key.text());
        assert!(secret.expose_secret().len() >= 32);
    }
}

#[test]
fn what_is_made_up_is_new_each_time() {
    let secret = || {
        let made_up = effective([]).unwrap().development.unwrap();
        made_up.secret.expose_secret().to_owned()
    };
    assert_ne!(secret(), secret());
}

#[test]
fn nothing_configured_anywhere_else_is_refused() {
    for variable in [
        ("SWITCHBOARD_LISTEN", "0.0.0.0:3000"),
        ("SWITCHBOARD_LISTEN", "[::]:3000"),
        ("SWITCHBOARD_LISTEN", "192.168.0.1:3000"),
        ("SWITCHBOARD_INTERNAL_LISTEN", "10.0.0.1:3001"),
    ] {
        let error = effective([variable]).unwrap_err().to_string();
        assert!(error.starts_with("auth.jwt.secret"), "{error}");
        assert!(error.contains("SWITCHBOARD_JWT_SECRET"), "{error}");
        assert!(error.contains("SWITCHBOARD_API_KEY"), "{error}");
        assert!(error.contains(variable.1), "{error}");
    }
}

#[test]
fn an_api_key_alone_is_refused_on_any_address() {
    for listen in ["127.0.0.1:3000", "0.0.0.0:3000"] {
        let error = effective([KEY, ("SWITCHBOARD_LISTEN", listen)]).unwrap_err();
        assert_eq!(error.problems()[0].key, "auth.jwt.secret");
        assert!(
            error.to_string().contains("SWITCHBOARD_JWT_SECRET"),
            "{error}"
        );
    }
}

#[test]
fn no_api_key_is_a_warning() {
    let effective = effective([SECRET, ("SWITCHBOARD_LISTEN", "0.0.0.0:3000")]).unwrap();

    assert!(effective.development.is_none());
    assert!(effective.config.api.key.is_none());
    assert_eq!(effective.warnings.len(), 1);
    assert!(effective.warnings[0].contains("SWITCHBOARD_API_KEY"));
}

#[test]
fn both_configured_is_silent() {
    let effective = effective([SECRET, KEY]).unwrap();

    assert!(effective.development.is_none());
    assert_eq!(effective.warnings, [""; 0]);
}

#[test]
fn a_short_secret_is_a_warning_that_does_not_show_it() {
    let effective = effective([("SWITCHBOARD_JWT_SECRET", "hush"), KEY]).unwrap();

    assert_eq!(effective.warnings.len(), 1);
    assert!(!effective.warnings[0].contains("hush"));
}

#[test]
fn any_source_of_keys_counts() {
    let url = (
        "SWITCHBOARD_AUTH__JWT__JWKS_URL",
        "https://id.example.com/jwks",
    );
    let previous = ("SWITCHBOARD_AUTH__JWT__PREVIOUS_SECRETS", "old");
    for source in [url, previous] {
        let effective = effective([source, KEY, ("SWITCHBOARD_LISTEN", "0.0.0.0:1")]).unwrap();
        assert!(effective.development.is_none());
        assert!(effective.config.auth.jwt.secret.is_none());
    }
}

#[test]
fn session_cookies_let_in_as_well() {
    let secrets = ("SWITCHBOARD_AUTH__SESSION__SECRETS", "s");
    let redis = ("SWITCHBOARD_REDIS_URL", "redis://a");
    let listen = ("SWITCHBOARD_LISTEN", "0.0.0.0:1");

    let with_key = effective([secrets, redis, listen, KEY]).unwrap();
    assert!(with_key.development.is_none());
    assert_eq!(with_key.warnings.len(), 1);
    assert!(with_key.warnings[0].contains("registry.secrets"));
    assert!(with_key.config.auth.jwt.secret.is_none());

    let without = effective([secrets, redis]).unwrap();
    assert!(without.development.is_none());
    assert!(without.warnings[0].contains("nobody can call"));
}

#[test]
fn a_queue_that_no_large_message_fits_is_a_warning() {
    let queue = ("SWITCHBOARD_LIMITS__SEND_QUEUE_BYTES", "64KB");
    let warnings = effective([SECRET, KEY, queue]).unwrap().warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("limits.send_queue_bytes (64KB)"));
}

#[test]
fn a_key_without_an_issuer_beside_one_with_is_a_warning_that_names_it() {
    let warnings = |keys: &str, issuer: Option<&str>| {
        let keys = ("SWITCHBOARD_AUTH__JWT__KEYS", keys);
        let issuer = issuer.map(|issuer| ("SWITCHBOARD_AUTH__JWT__ISSUER", issuer));
        let all = [SECRET, KEY, keys].into_iter().chain(issuer);
        effective(all).unwrap().warnings
    };
    let secret = "a-secret-of-a-partner-0123456789abcdef";
    let bound = format!(r#"{{"secret": "{secret}", "issuer": "https://partner.example"}}"#);
    let unbound = format!(r#"{{"secret": "{secret}"}}"#);
    let mixed = format!("[{bound}, {unbound}]");
    let told = warnings(&mixed, None);
    assert_eq!(told.len(), 1);
    assert!(
        told[0].contains("auth.jwt.keys.1 has no issuer"),
        "{told:?}"
    );
    assert!(told[0].contains("any issuer") && !told[0].contains(secret));
    let told = warnings(&mixed, Some("https://own.example"));
    assert!(
        told[0].contains("the issuers in auth.jwt.issuer"),
        "{told:?}"
    );
    for silent in [format!("[{bound}]"), format!("[{unbound}, {unbound}]")] {
        assert_eq!(warnings(&silent, None), [""; 0], "{silent}");
    }
}

#[test]
fn an_admin_namespace_for_everybody_is_a_warning() {
    let warnings = |jwt: &str, namespaces: &str| {
        let namespaces = ("SWITCHBOARD_NAMESPACES", namespaces);
        let all = [SECRET, KEY, namespaces, ("SWITCHBOARD_API__JWT", jwt)];
        effective(all).unwrap().warnings
    };
    let open = r#"[{"path": "/admin"}]"#;
    assert!(warnings("true", open)[0].contains("/admin asks for no role"));
    assert_eq!(warnings("false", open), [""; 0]);
    let closed = r#"[{"path": "/admin", "roles": ["operator"]}]"#;
    assert_eq!(warnings("true", closed), [""; 0]);
    assert_eq!(warnings("true", r#"[{"path": "/"}]"#), [""; 0]);
}

#[test]
fn a_fleet_without_a_secret_is_told_that_its_messages_are_not_sealed() {
    let redis = ("SWITCHBOARD_REDIS_URL", "redis://127.0.0.1");
    let public = ("SWITCHBOARD_AUTH__JWT__PUBLIC_KEY_FILE", "Cargo.toml");
    let own = (
        "SWITCHBOARD_REGISTRY__SECRETS",
        "0123456789abcdef0123456789abcdef",
    );
    let bare = effective([redis, KEY, public]).unwrap().warnings;
    assert_eq!(bare.len(), 1);
    assert!(bare[0].contains("registry.secrets"), "{bare:?}");
    for sealed_or_alone in [
        &[redis, KEY, public, own][..],
        &[redis, KEY, SECRET],
        &[KEY, public],
    ] {
        let warnings = effective(sealed_or_alone.iter().copied()).unwrap().warnings;
        assert_eq!(warnings, [""; 0], "{sealed_or_alone:?}");
    }
}
