use super::*;

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
fn redis_urls() {
    let url = |url: &str| format!("redis.urls = ['{url}']");
    for bad in [
        "",
        "localhost:6379",
        "http://localhost",
        "redis://",
        "redis+unix:///tmp/redis.sock",
        "redis://localhost/notanumber",
        "redis://localhost:port",
        "redis://:***@localhost",
    ] {
        assert_eq!(wrong(&url(bad)), ["redis.urls.0"], "{bad}");
    }
    for good in [
        "redis://localhost",
        "redis://:p%40ss@localhost:6380/2",
        "rediss://ann:pw@redis.example.com",
        "redis://[::1]:6379",
        "redis://localhost/?protocol=resp3",
    ] {
        assert_eq!(wrong(&url(good)), [""; 0], "{good}");
    }
    assert_wrong(&[("redis.urls = ['redis://a', 'redis://b']", "redis.urls")]);
}

#[test]
fn redis_modes() {
    let with = |mode: &str, rest: &str| format!("redis.mode = '{mode}'\n{rest}");
    let two = "redis.urls = ['redis://:p@a', 'redis://:p@b']";
    let named = format!("{two}\nredis.master_name = 'm'");
    assert_eq!(wrong(&with("sentinel", &named)), [""; 0]);
    assert_eq!(wrong(&with("cluster", two)), [""; 0]);
    for (mode, rest, key) in [
        ("sentinel", two, "redis.master_name"),
        (
            "sentinel",
            &format!("{two}\nredis.master_name = ''"),
            "redis.master_name",
        ),
        ("sentinel", "redis.master_name = 'm'", "redis.urls"),
        ("cluster", "", "redis.urls"),
        ("cluster", "redis.urls = ['redis://a/1']", "redis.urls"),
        (
            "cluster",
            "redis.urls = ['redis://:p@a', 'redis://:q@b']",
            "redis.urls",
        ),
        (
            "cluster",
            "redis.urls = ['redis://a', 'rediss://b']",
            "redis.urls",
        ),
        ("cluster", "redis.urls = ['redis://a', 'b']", "redis.urls.1"),
        (
            "standalone",
            "redis.ca_file = '/nowhere.pem'",
            "redis.ca_file",
        ),
        // A file without a certificate.
        (
            "standalone",
            "redis.ca_file = 'Cargo.toml'",
            "redis.ca_file",
        ),
        (
            "standalone",
            "redis.sentinel_password = '***'",
            "redis.sentinel_password",
        ),
    ] {
        assert_eq!(wrong(&with(mode, rest)), [key], "{mode} {rest}");
    }
}

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
fn emitters() {
    assert_wrong(&[
        ("[ingress.emitter]", "ingress.emitter.redis_url"),
        ("[ingress.python]", "ingress.python.redis_url"),
        (
            "ingress.emitter.redis_url = 'redis://a'\ningress.emitter.key = ''",
            "ingress.emitter.key",
        ),
        (
            "ingress.emitter.redis_url = 'redis://a'\ningress.emitter.key = 'a#b'",
            "ingress.emitter.key",
        ),
        (
            "ingress.emitter.redis_url = 'redis://a'\ningress.emitter.namespaces = ['/', '/x']",
            "ingress.emitter.namespaces.1",
        ),
        (
            "ingress.python.redis_url = 'localhost'",
            "ingress.python.redis_url",
        ),
    ]);
    assert_fine(&[
        "redis.urls = ['redis://a']\n[ingress.emitter]\n[ingress.python]",
        "ingress.python.redis_url = 'redis://a'\ningress.python.allow = 'emit'",
        "ingress.emitter.redis_url = 'redis://a'\ningress.emitter.namespaces = ['/public']",
    ]);
}

#[test]
fn traces() {
    assert_wrong(&[
        ("traces.endpoint = 'localhost:4317'", "traces.endpoint"),
        ("traces.endpoint = 'http://a:b@c'", "traces.endpoint"),
        ("traces.endpoint = 'http://a/?b'", "traces.endpoint"),
        ("traces.headers = ['a=b', 'c']", "traces.headers.1"),
        ("traces.headers = ['a b=c']", "traces.headers.0"),
        ("traces.sample_ratio = 1.5", "traces.sample_ratio"),
        ("traces.sample_ratio = -0.1", "traces.sample_ratio"),
        ("traces.sample_ratio = nan", "traces.sample_ratio"),
        ("traces.service_name = ' '", "traces.service_name"),
        ("traces.timeout = '0s'", "traces.timeout"),
    ]);
    assert_fine(&[
        "traces.endpoint = 'http://127.0.0.1:4318'\ntraces.headers = 'x-api-key=a=b,c'",
        "traces.endpoint = 'https://collector.example/otlp'\ntraces.sample_ratio = 0",
        "traces.sample_ratio = 0.25",
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
fn backends() {
    const SECRET: &str = "secret = 'whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD'";
    let with = |more: &str| {
        let url = "url = 'http://127.0.0.1:8000/switchboard'";
        wrong(&format!(
            "[[backends]]\nname = 'app'\n{url}\n{SECRET}\n{more}"
        ))
    };
    assert_eq!(with("events = ['*', 'chat:*', 'say']"), [""; 0]);
    assert_eq!(
        with("namespaces = ['/', '/admin']\nconnect = true"),
        [""; 0]
    );
    for (more, key) in [
        ("timeout = '0s'", "backends.0.timeout"),
        ("in_flight = 0", "backends.0.in_flight"),
        ("events = ['a*b']", "backends.0.events.0"),
        ("events = ['']", "backends.0.events.0"),
        ("namespaces = ['/nowhere']", "backends.0.namespaces"),
        ("forward_headers = ['a b']", "backends.0.forward_headers.0"),
        ("secrets = ['hush']", "backends.0.secrets.0"),
        ("secrets = ['whsec_']", "backends.0.secrets.0"),
        ("queue = ['a*b']", "backends.0.queue.0"),
        ("stream = 'events'", "backends.0.stream"),
    ] {
        assert_eq!(with(more), [key], "{more}");
    }
    assert_eq!(
        with("queue = ['track:*']\nnotify = ['user.online', 'connection.closed', 'room.vacated']"),
        [""; 0]
    );
    let stream = |more: &str| {
        let redis = "redis = {urls = ['redis://a']}";
        wrong(&format!(
            "{redis}\nbackends = [{{name = 'a', stream = 'events', {more}}}]"
        ))
    };
    assert_eq!(stream("queue = ['a'], notify = ['user.online']"), [""; 0]);
    assert_eq!(stream("events = ['a']"), ["backends.0.stream"]);
    assert_eq!(stream("connect = true"), ["backends.0.stream"]);
    assert_wrong(&[
        (
            "backends = [{name = 'a', stream = 'events'}]",
            "backends.0.stream",
        ),
        (
            "backends = [{name = 'a', secret = 'whsec_aaaa'}]",
            "backends.0.url",
        ),
        ("events = {max_queued = 0}", "events.max_queued"),
        ("events = {retention = '0s'}", "events.retention"),
        (
            "backends = [{name = 'a', url = 'http://a'}]",
            "backends.0.secret",
        ),
        (
            "backends = [{name = 'a', url = 'http://me:hush@a', secret = 'whsec_aaaa'}]",
            "backends.0.url",
        ),
        (
            "backends = [{name = 'a', url = 'ftp://a', secret = 'whsec_aaaa'}]",
            "backends.0.url",
        ),
        (
            "namespaces = [{path = '/', auth = 'backend'}]",
            "namespaces.0.auth",
        ),
    ]);
    let two = |more: &str| {
        let one = |name: &str| {
            format!("{{name = '{name}', url = 'http://a', secret = 'whsec_aaaa'{more}}}")
        };
        wrong(&format!("backends = [{}, {}]", one("a"), one("b")))
    };
    assert_eq!(two(""), [""; 0]);
    assert_eq!(two(", connect = true")[0], "backends");
}

#[test]
fn the_admin_ui() {
    const HASH: &str = "$2b$04$zGvCl1/v9qKDq3P2xNfCDe0kqHYhLDcG5XHbI.BsPGroZcC0Avn5S";
    let with =
        |rest: &str| format!("[admin_ui]\nusername = 'ops'\npassword_hash = '{HASH}'\n{rest}");
    for (rest, key) in [
        ("namespace = 'ui'", "admin_ui.namespace"),
        ("namespace = '/admin'", "admin_ui.namespace"),
        ("[[namespaces]]\npath = '/ui'", "admin_ui.namespace"),
    ] {
        assert_eq!(wrong(&with(rest)), [key], "{rest}");
    }
    assert_wrong(&[
        ("[admin_ui]\nusername = 'ops'", "admin_ui.password_hash"),
        (
            "[admin_ui]\nusername = 'ops'\npassword_hash = 'secret'",
            "admin_ui.password_hash",
        ),
        (
            "[admin_ui]\nusername = 'ops'\npassword_hash = '$2b$31$zGvCl1/v9qKDq3P2xNfCDe0kqHYhLDcG5XHbI.BsPGroZcC0Avn5S'",
            "admin_ui.password_hash",
        ),
    ]);
    assert_eq!(
        wrong(&format!("[admin_ui]\npassword_hash = '{HASH}'")),
        ["admin_ui.username"]
    );
    assert_fine(&[
        "",
        &with("read_only = true"),
        &with("[[namespaces]]\npath = '/'"),
    ]);
}

#[test]
fn a_password_in_clear_is_not_shown() {
    let text = "[admin_ui]\nusername = 'ops'\npassword_hash = 'hush-hush'";
    let error = load_toml(text).err().unwrap().to_string();
    assert!(error.contains("$2") && !error.contains("hush"), "{error}");
}
