use secrecy::ExposeSecret;

use super::*;
use crate::config::keys::KEYS;

const RUNNING: &str = "auth.jwt.secret = 'one'\napi.key = 'k'\nredis.urls = ['redis://a']\n";

fn config(more: &str) -> Config {
    load_toml(&format!("{RUNNING}{more}")).unwrap()
}

/// The keys that are taken over, and those that wait, when `more` is configured in addition.
fn reload(more: &str) -> (Vec<&'static str>, Vec<&'static str>) {
    let reload = config("").reloadable_from(&config(more)).unwrap();
    (reload.changed, reload.restart)
}

#[test]
fn nothing_new_changes_nothing() {
    assert_eq!(reload(""), (vec![], vec![]));
}

/// Every key, with a line that gives it another value: which of them a running node takes.
#[test]
fn each_key_is_taken_over_or_waits() {
    let taken = [
        "api.jwt = false",
        "api.keys = [{ name = 'a', key = 'b', scopes = ['read'] }]",
        "api.rate = 1",
        "api.in_flight = 1",
        "auth.jwt.previous_secrets = ['zero']",
        "auth.jwt.public_key_file = 'Cargo.toml'",
        "auth.jwt.jwks_file = 'Cargo.toml'",
        "auth.jwt.jwks_url = 'https://id.example/jwks'",
        "auth.jwt.keys = [{ secret = 'partner', issuer = 'x' }]",
        "auth.jwt.algorithms = ['HS256']",
        "registry.secrets = ['0123456789abcdef0123456789abcdef']",
        "auth.jwt.issuer = ['x']",
        "auth.jwt.audience = ['x']",
        "auth.jwt.user_id_claim = 'x'",
        "auth.jwt.leeway = '1s'",
        "limits.connections = 1",
        "limits.memory = '1GB'",
        "limits.connections_per_address = 1",
        "limits.handshakes_per_second_per_address = 1",
        "limits.connections_per_user = 1",
        "limits.connections_per_user_policy = 'evict_oldest'",
        "limits.connects_per_second_per_user = 1",
        "limits.ack_bytes = '1KB'",
        "limits.events_per_second = 1",
        "limits.events_burst = 1",
        "limits.send_queue_bytes = '2MB'",
        "limits.max_payload = '2MB'",
        "limits.max_payload_guest = '2KB'",
        "limits.handshake_timeout = '1s'",
        "limits.handshakes = 1",
        "limits.write_deadline = '1s'",
    ];
    let waiting = [
        "listen = '127.0.0.1:1'",
        "internal_listen = '127.0.0.1:1'",
        "node_id = 'x'",
        "auth.session.secrets = ['x']",
        "auth.session.cookie_name = 'x'",
        "auth.session.key_prefix = 'x'",
        "auth.session.user_id_pointer = '/x'",
        "auth.session.username_pointer = '/x'",
        "auth.session.role_pointer = '/x'",
        "auth.session.recheck = '1s'",
        "auth.session.redis_url = 'redis://x'",
        "redis.mode = 'cluster'",
        "redis.master_name = 'x'",
        "redis.sentinel_username = 'x'",
        "redis.sentinel_password = 'x'",
        "redis.ca_file = 'src/config/tests/ca.pem'",
        "auth.refresh_lead = '1s'",
        "auth.refresh_ttl = '1s'",
        "auth.token_ttl = '1s'",
        "namespaces = [{ path = '/x' }]",
        "cors.allowed_origins = ['https://x']",
        "registry.heartbeat = '1s'",
        "registry.lease = '11s'",
        "registry.prefix = 'x'",
        "presence.last_seen = '1s'",
        "drain.delay = '1s'",
        "drain.window = '1s'",
        "transport.path = '/live'",
        "transport.cookie = 'io'",
        "transport.http_compression = true",
        "transport.client_bundle = '/client'",
        "ping.interval = '1s'",
        "ping.timeout = '1s'",
        "trusted_proxies = ['10.0.0.0/8']",
        "log.format = 'json'",
        "log.level = 'debug'",
        "log.audit_file = '/var/log/audit'",
    ];
    fn key(line: &str) -> &str {
        line.split(" = ").next().unwrap()
    }
    for line in taken {
        assert_eq!(reload(line), (vec![key(line)], vec![]), "{line}");
    }
    for line in waiting {
        assert_eq!(reload(line), (vec![], vec![key(line)]), "{line}");
    }
    // These are in the running configuration already; the next test changes them.
    let there = ["api.key", "auth.jwt.secret", "redis.urls"];
    let lines = taken.iter().chain(&waiting);
    let mut covered: Vec<_> = lines.map(|line| key(line)).chain(there).collect();
    let mut all: Vec<_> = KEYS.iter().map(|key| key.path).collect();
    covered.sort_unstable();
    all.sort_unstable();
    assert_eq!(covered, all);
}

#[test]
fn what_is_taken_over_is_in_the_new_configuration_and_nothing_else() {
    let mut running = config("auth.session.secrets = ['old']\n");
    running.node_id = Some("made-up".into());
    let new = load_toml(
        "listen = '127.0.0.1:1'\nauth.jwt.secret = 'two'\nauth.session.secrets = ['new', 'old']\n\
         api.key = 'l'\nredis.urls = ['redis://b']\nlimits.connections = 7\nlog.level = 'debug'\n",
    )
    .unwrap();
    let reload = running.reloadable_from(&new).unwrap();

    let expected = [
        "api.key",
        "auth.jwt.secret",
        "auth.session.secrets",
        "limits.connections",
    ];
    assert_eq!(reload.changed, expected);
    let expected = ["listen", "node_id", "redis.urls", "log.level"];
    assert_eq!(reload.restart, expected);

    let config = reload.config;
    assert_eq!(config.auth.jwt.secret.unwrap().expose_secret(), "two");
    assert_eq!(config.auth.session.secrets.len(), 2);
    assert_eq!(config.api.key.unwrap().text(), "l");
    assert_eq!(config.limits.connections, Some(7));
    assert_eq!(config.log.level, running.log.level);
    assert_eq!(config.listen, running.listen);
    assert_eq!(config.node_id.as_deref(), Some("made-up"));
    assert_eq!(config.redis.urls[0].expose_secret(), "redis://a");
}

#[test]
fn cookies_are_not_switched_while_a_node_runs() {
    let (off, on) = (config(""), config("auth.session.secrets = ['x']"));
    for (from, to) in [(&off, &on), (&on, &off)] {
        let reload = from.reloadable_from(to).unwrap();
        assert_eq!(reload.restart, ["auth.session.secrets"]);
        let secrets = reload.config.auth.session.secrets.len();
        assert_eq!(secrets, from.auth.session.secrets.len());
    }
}

#[test]
fn a_configuration_that_lets_nobody_in_changes_nothing() {
    let error = config("")
        .reloadable_from(&load_env([]).unwrap())
        .unwrap_err();
    assert_eq!(error.problems()[0].key, "auth.jwt.secret");
}
