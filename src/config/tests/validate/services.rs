//! What a node talks to: Redis, emitters, traces, backends, the page of operators.

use super::*;

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
