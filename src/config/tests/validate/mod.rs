use super::*;

mod credentials;
mod services;

/// The keys that are wrong in a file.
fn wrong(text: &str) -> Vec<String> {
    match load_toml(text) {
        Ok(_) => Vec::new(),
        Err(error) => error
            .problems()
            .iter()
            .map(|problem| problem.key.clone())
            .collect(),
    }
}

fn assert_wrong(cases: &[(&str, &str)]) {
    for (text, key) in cases {
        assert_eq!(wrong(text), [*key], "{text}");
    }
}

fn assert_fine(cases: &[&str]) {
    for text in cases {
        assert_eq!(wrong(text), [""; 0], "{text}");
    }
}

#[test]
fn timing() {
    assert_wrong(&[
        ("registry.lease = '5s'", "registry.lease"),
        ("registry.heartbeat = '0s'", "registry.heartbeat"),
        ("ping.interval = '0s'", "ping.interval"),
        ("transport.path = 'live'", "transport.path"),
        ("transport.path = '/'", "transport.path"),
        ("transport.path = '/live/'", "transport.path"),
        ("transport.path = '/a/{b}'", "transport.path"),
        ("transport.path = '/v1'", "transport.path"),
        ("transport.path = '/api/live'", "transport.path"),
        ("transport.cookie = ''", "transport.cookie"),
        ("transport.cookie = 'io=1'", "transport.cookie"),
        (
            "transport.cookie = \"io; Path=/\\r\\nX: 1\"",
            "transport.cookie",
        ),
        ("ping.timeout = '0s'", "ping.timeout"),
        (
            "limits.handshake_timeout = '0s'",
            "limits.handshake_timeout",
        ),
        ("limits.write_deadline = '0s'", "limits.write_deadline"),
        ("auth.refresh_ttl = '0s'", "auth.refresh_ttl"),
        ("auth.token_ttl = '0s'", "auth.token_ttl"),
        ("auth.token_ttl = '1500ms'", "auth.token_ttl"),
        ("auth.session.recheck = '0s'", "auth.session.recheck"),
        ("drain.window = '11years'", "drain.window"),
    ]);
    assert_fine(&[
        "registry.heartbeat = '3s'\nregistry.lease = '6s'",
        "drain.delay = '0s'\ndrain.window = '0s'",
        "presence.last_seen = '0s'",
        "auth.jwt.leeway = '0s'\nauth.refresh_lead = '0s'",
    ]);
}

#[test]
fn namespaces() {
    let namespace = |path: &str| format!("namespaces = [{{ path = \"{path}\" }}]");
    for path in [
        "chat",
        "",
        "/a b",
        "/a#b",
        "/a,b",
        "/a?b",
        "/{id}",
        "/a\\u0007",
    ] {
        let found = wrong(&namespace(path));
        assert!(!found.is_empty(), "{path}");
        assert!(
            found.iter().all(|key| key == "namespaces.0.path"),
            "{path}: {found:?}"
        );
    }
    assert_wrong(&[
        ("namespaces = []", "namespaces"),
        (
            "namespaces = [{ path = '/a' }, { path = '/a' }]",
            "namespaces.1.path",
        ),
        (
            "namespaces = [{ path = '/a', roles = [''] }]",
            "namespaces.0.roles.0",
        ),
        (
            "namespaces = [{ path = '/a', auth = 'none', roles = ['x'] }]",
            "namespaces.0.roles",
        ),
        (
            "namespaces = [{ path = '/a', auth = 'maybe' }]",
            "namespaces.0.auth",
        ),
        ("namespaces = [{ auth = 'none' }]", "namespaces.0.path"),
    ]);
    for path in ["/", "/chat", "/a/b-c_d.e", "/ünï"] {
        assert_eq!(wrong(&namespace(path)), [""; 0], "{path}");
    }
}

#[test]
fn origins() {
    let origin = |origin: &str| format!("cors.allowed_origins = ['{origin}']");
    for bad in [
        "https://app.example.com/",
        "https://app.example.com/path",
        "https://app.example.com:443",
        "https://App.example.com",
        "app.example.com",
        "https://user@app.example.com",
        "https://",
        "https://*.example.com",
        "null",
        "",
    ] {
        assert_eq!(wrong(&origin(bad)), ["cors.allowed_origins.0"], "{bad}");
    }
    for good in [
        "https://app.example.com",
        "http://localhost:8080",
        "http://[::1]:8080",
        "capacitor://localhost",
        "*",
    ] {
        assert_eq!(wrong(&origin(good)), [""; 0], "{good}");
    }
    assert_wrong(&[(
        "cors.allowed_origins = ['https://a.example', '*']",
        "cors.allowed_origins.1",
    )]);
}

#[test]
fn sizes_and_rates() {
    assert_wrong(&[
        ("limits.max_payload = '999B'", "limits.max_payload"),
        ("limits.max_payload = '65MB'", "limits.max_payload"),
        (
            "limits.max_payload_guest = '999B'",
            "limits.max_payload_guest",
        ),
        (
            "limits.max_payload_guest = '65MB'",
            "limits.max_payload_guest",
        ),
        ("limits.events_per_second = 0", "limits.events_per_second"),
        ("limits.events_burst = 0", "limits.events_burst"),
    ]);
    assert_fine(&[
        "limits.max_payload = 1000",
        "limits.max_payload = '64MB'",
        "limits.send_queue_bytes = '1B'",
    ]);
}

#[test]
fn addresses_names_and_logs() {
    assert_wrong(&[
        (
            "listen = '127.0.0.1:1'\ninternal_listen = '127.0.0.1:1'",
            "internal_listen",
        ),
        (
            "listen = '0.0.0.0:1'\ninternal_listen = '127.0.0.1:1'",
            "internal_listen",
        ),
        ("node_id = ''", "node_id"),
        ("node_id = 'a b'", "node_id"),
        ("registry.prefix = ''", "registry.prefix"),
        ("registry.prefix = 'a{b}'", "registry.prefix"),
        ("registry.prefix = 'a b'", "registry.prefix"),
        ("registry.prefix = 'a*'", "registry.prefix"),
        ("registry.shards = 0", "registry.shards"),
        ("registry.shards = 12", "registry.shards"),
        ("registry.shards = 128", "registry.shards"),
        ("registry.shards = 1000", "registry.shards"),
        ("log.level = 'inof'", "log.level"),
        ("log.level = 'info,switchboard'", "log.level"),
        ("log.level = 'switchboard=loud'", "log.level"),
    ]);
    assert_fine(&[
        "listen = '127.0.0.1:0'\ninternal_listen = '127.0.0.1:0'",
        "listen = '127.0.0.1:1'\ninternal_listen = '127.0.0.2:1'",
        "log.level = 'INFO'",
        "log.level = 'warn,switchboard::auth=debug,redis=off'",
        "registry.prefix = 'prod:eu-1'",
        "registry.shards = 64",
    ]);
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    assert_eq!(
        wrong("node_id = ''\n[registry]\nlease = '1s'\n[ping]\ntimeout = '0s'"),
        ["node_id", "ping.timeout", "registry.lease"]
    );
}
