use std::{ffi::OsString, fs, os::unix::ffi::OsStringExt, time::Duration};

use bytesize::ByteSize;
use secrecy::ExposeSecret;

use super::*;
use crate::config::{AuthRule, LogFormat, Scope, key::Key};

#[test]
fn nothing_configured_is_the_contract_s_defaults() {
    let config = load_env([]).unwrap();

    assert_eq!(config.listen.to_string(), "127.0.0.1:3000");
    assert_eq!(config.limits.max_payload, ByteSize::mb(1));
    assert_eq!(
        (config.limits.connections, config.limits.memory),
        (None, None)
    );
    assert_eq!(config.auth.jwt.leeway, Duration::from_secs(5));
    let paths: Vec<_> = config.namespaces.iter().map(|n| n.path.as_str()).collect();
    assert_eq!(paths, ["/", "/public", "/admin"]);
}

#[test]
fn each_layer_covers_the_one_below() {
    let file =
        Toml::new("listen = '127.0.0.1:1'\nnode_id = 'file'\n[drain]\ndelay = '1s'\nwindow = '2s'");
    let mut sources = Sources {
        file: Some(file.path.clone()),
        ..Sources::default()
    };
    assert_eq!(sources.load().unwrap().listen.port(), 1);

    sources.environment = environment([
        ("SWITCHBOARD_LISTEN", "127.0.0.1:2"),
        ("SWITCHBOARD_DRAIN__DELAY", "3s"),
    ]);
    let config = sources.load().unwrap();
    assert_eq!(config.listen.port(), 2);
    assert_eq!(config.node_id.as_deref(), Some("file"));
    assert_eq!(config.drain.delay, Duration::from_secs(3));
    assert_eq!(config.drain.window, Duration::from_secs(2));

    sources.flags = Flags {
        listen: Some("127.0.0.1:3".into()),
        internal_listen: Some("127.0.0.1:4".into()),
        redis_url: Some("redis://localhost".into()),
        node_id: Some("flag".into()),
    };
    let config = sources.load().unwrap();
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.internal_listen.unwrap().port(), 4);
    assert_eq!(config.redis.urls[0].expose_secret(), "redis://localhost");
    assert_eq!(config.node_id.as_deref(), Some("flag"));
}

#[test]
fn the_environment_names_the_file_unless_the_flag_does() {
    let named = Toml::new("node_id = 'environment'");
    let flagged = Toml::new("node_id = 'flag'");
    let mut sources = Sources {
        environment: environment([("SWITCHBOARD_CONFIG", named.path.to_str().unwrap())]),
        ..Sources::default()
    };
    assert_eq!(
        sources.load().unwrap().node_id.as_deref(),
        Some("environment")
    );

    sources.file = Some(flagged.path.clone());
    assert_eq!(sources.load().unwrap().node_id.as_deref(), Some("flag"));
}

#[test]
fn variables_become_what_their_keys_take() {
    let config = load_env([
        ("SWITCHBOARD_INTERNAL_LISTEN", "127.0.0.1:3001"),
        ("SWITCHBOARD_NODE_ID", "7"),
        ("SWITCHBOARD_REDIS_URL", "redis://:a,b@localhost"),
        ("SWITCHBOARD_JWT_SECRET", "123456"),
        ("SWITCHBOARD_API_KEY", "true"),
        (
            "SWITCHBOARD_AUTH__JWT__ISSUER",
            "https://a.example, https://b.example",
        ),
        ("SWITCHBOARD_AUTH__JWT__AUDIENCE", ""),
        ("SWITCHBOARD_AUTH__JWT__LEEWAY", "250ms"),
        ("SWITCHBOARD_LIMITS__CONNECTIONS", "5"),
        ("SWITCHBOARD_LIMITS__MAX_PAYLOAD", "64KiB"),
        ("SWITCHBOARD_TRUSTED_PROXIES", "10.0.0.0/8,::1/128"),
        ("SWITCHBOARD_LOG__FORMAT", "json"),
        ("SWITCHBOARD_LOG__LEVEL", "info,switchboard=debug"),
        ("SWITCHBOARD_TRACES__SAMPLE_RATIO", "0.25"),
        ("PATH", "/bin"),
    ])
    .unwrap();

    assert_eq!(config.node_id.as_deref(), Some("7"));
    assert_eq!(
        config.redis.urls[0].expose_secret(),
        "redis://:a,b@localhost"
    );
    assert_eq!(config.auth.jwt.secret.unwrap().expose_secret(), "123456");
    assert_eq!(config.api.key.unwrap().text(), "true");
    assert_eq!(
        config.auth.jwt.issuer,
        ["https://a.example", "https://b.example"]
    );
    assert!(config.auth.jwt.audience.is_empty());
    assert_eq!(config.auth.jwt.leeway, Duration::from_millis(250));
    assert_eq!(config.limits.connections, Some(5));
    assert_eq!(config.limits.max_payload, ByteSize::kib(64));
    assert_eq!(config.trusted_proxies.len(), 2);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.level, "info,switchboard=debug");
    assert_eq!(config.traces.sample_ratio, 0.25);
}

#[test]
fn a_configured_list_of_namespaces_replaces_the_default_one() {
    let from_toml = load_toml(
        "[[namespaces]]\npath = '/chat'\nauth = 'none'\n[[namespaces]]\npath = '/ops'\nroles = ['ops']\nissuer = ['x']",
    )
    .unwrap();
    let json = r#"[{"path":"/chat","auth":"none"},{"path":"/ops","roles":["ops"],"issuer":["x"]}]"#;
    let inline =
        "[{path = '/chat', auth = 'none'}, {path = '/ops', roles = ['ops'], issuer = ['x']}]";
    for config in [
        from_toml,
        load_env([("SWITCHBOARD_NAMESPACES", json)]).unwrap(),
        load_env([("SWITCHBOARD_NAMESPACES", inline)]).unwrap(),
    ] {
        assert_eq!(config.namespaces.len(), 2);
        assert_eq!(config.namespaces[0].auth, AuthRule::None);
        assert_eq!(config.namespaces[1].auth, AuthRule::Required);
        assert_eq!(config.namespaces[1].roles, ["ops"]);
        assert_eq!(
            config.namespaces[1].issuer.as_deref(),
            Some(&["x".to_owned()][..])
        );
        assert_eq!(config.namespaces[1].audience, None);
    }
}

#[test]
fn api_keys_come_with_names_and_scopes() {
    let config =
        load_toml("[[api.keys]]\nname = 'billing'\nkey = 'k1'\nscopes = ['read', 'send']").unwrap();

    assert_eq!(config.api.keys[0].name, "billing");
    assert_eq!(config.api.keys[0].key.text(), "k1");
    assert_eq!(config.api.keys[0].scopes, [Scope::Read, Scope::Send]);
}

#[test]
fn sessions_are_on_when_there_are_secrets() {
    let redis = ("SWITCHBOARD_REDIS_URL", "redis://a");
    let secrets = ("SWITCHBOARD_AUTH__SESSION__SECRETS", "new, old");
    let own = (
        "SWITCHBOARD_AUTH__SESSION__REDIS_URL",
        "redis://:a,b@sessions",
    );
    let pointers = ("SWITCHBOARD_AUTH__SESSION__USER_ID_POINTER", "/a,/b");

    let off = load_env([redis, own]).unwrap();
    assert!(!off.auth.session.is_on() && off.session_redis().is_none());
    assert_eq!(
        off.auth.session.user_id_pointer,
        ["/userId", "/user/id", "/passport/user"]
    );
    let shared = load_env([redis, secrets, pointers]).unwrap();
    let url = |config: &Config| {
        config.session_redis().unwrap().urls[0]
            .expose_secret()
            .to_owned()
    };
    assert_eq!(shared.auth.session.secrets.len(), 2);
    assert_eq!(shared.auth.session.user_id_pointer, ["/a", "/b"]);
    assert_eq!(url(&shared), "redis://a");
    for variables in [&[redis, secrets, own][..], &[secrets, own]] {
        let config = load_env(variables.iter().copied()).unwrap();
        assert_eq!(url(&config), "redis://:a,b@sessions");
    }
    let one = load_toml("auth.session.user_id_pointer = '/uid'").unwrap();
    assert_eq!(one.auth.session.user_id_pointer, ["/uid"]);
}

#[test]
fn a_file_can_hold_a_variable_s_value() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let (secret, key, url) = (
        write("secret", " s3cret \r\n"),
        write("key", "k3y\n"),
        write("url", "redis://:p@localhost\n"),
    );
    let previous = write("previous", "one,two\n");
    let config = load_env([
        ("SWITCHBOARD_JWT_SECRET_FILE", secret.as_str()),
        ("SWITCHBOARD_API__KEY_FILE", &key),
        ("SWITCHBOARD_REDIS_URL_FILE", &url),
        ("SWITCHBOARD_AUTH__JWT__PREVIOUS_SECRETS_FILE", &previous),
        // Real keys that end in `_FILE`: they name the file, and don't stand for what is in it.
        ("SWITCHBOARD_AUTH__JWT__PUBLIC_KEY_FILE", &key),
        ("SWITCHBOARD_AUTH__JWT__JWKS_FILE", &secret),
    ])
    .unwrap();

    let jwt = config.auth.jwt;
    assert_eq!(jwt.secret.unwrap().expose_secret(), " s3cret ");
    assert_eq!(config.api.key.unwrap().text(), "k3y");
    assert_eq!(config.redis.urls[0].expose_secret(), "redis://:p@localhost");
    assert_eq!(jwt.previous_secrets.len(), 2);
    assert_eq!(jwt.public_key_file.unwrap().to_str().unwrap(), key);
    assert_eq!(jwt.jwks_file.unwrap().to_str().unwrap(), secret);

    let gone = load_env([("SWITCHBOARD_JWT_SECRET_FILE", "/nowhere/secret")]).unwrap_err();
    assert_eq!(gone.problems()[0].key, "SWITCHBOARD_JWT_SECRET_FILE");
    assert!(gone.to_string().contains("/nowhere/secret"), "{gone}");
}

#[test]
fn an_unknown_key_is_an_error_wherever_it_is() {
    let cases = [
        ("fooo = 1", "fooo"),
        ("[limits]\nmax_paylod = 1", "limits.max_paylod"),
        (
            "[[namespaces]]\npath = '/'\nrole = 'x'",
            "namespaces.0.role",
        ),
        ("[[api.keys]]\nnaem = 'x'", "api.keys.0.naem"),
        ("[auth.session]\nsecret = 'x'", "auth.session.secret"),
        ("[redis]\nurl = 'redis://x'", "redis.url"),
    ];
    for (text, key) in cases {
        let error = load_toml(text).unwrap_err();
        let problem = &error.problems()[0];
        assert_eq!(problem.key, key);
        assert!(problem.what.contains("unknown key"), "{error}");
        assert!(
            problem
                .origin
                .as_ref()
                .unwrap()
                .ends_with("switchboard.toml"),
            "{error}"
        );
    }
    for name in [
        "SWITCHBOARD_FOO",
        "SWITCHBOARD_PORT",
        "SWITCHBOARD_LIMITS",
        "SWITCHBOARD_",
    ] {
        let error = load_env([(name, "1")]).unwrap_err();
        assert_eq!(error.problems()[0].key, name);
    }
    let slip = load_env([("SWITCHBOARD_DRAIN_DELAY", "1s")]).unwrap_err();
    assert!(
        slip.to_string().contains("SWITCHBOARD_DRAIN__DELAY"),
        "{slip}"
    );
}

#[test]
fn what_kubernetes_adds_for_services_is_no_key() {
    load_env([
        ("SWITCHBOARD_SERVICE_HOST", "10.0.0.1"),
        ("SWITCHBOARD_SERVICE_PORT", "3000"),
        ("SWITCHBOARD_SERVICE_PORT_HTTP", "3000"),
        ("SWITCHBOARD_PORT", "tcp://10.0.0.1:3000"),
        ("SWITCHBOARD_PORT_3000_TCP", "tcp://10.0.0.1:3000"),
        ("SWITCHBOARD_PORT_3000_TCP_PROTO", "tcp"),
        ("SWITCHBOARD_PORT_3000_TCP_PORT", "3000"),
        ("SWITCHBOARD_PORT_3000_TCP_ADDR", "10.0.0.1"),
        ("SWITCHBOARD_REDIS_SERVICE_HOST", "10.0.0.2"),
        ("SWITCHBOARD_REDIS_PORT_6379_TCP_ADDR", "10.0.0.2"),
    ])
    .unwrap();
}

#[test]
fn a_key_set_by_two_variables_is_an_error() {
    let error = load_env([
        ("SWITCHBOARD_JWT_SECRET", "hush-1"),
        ("SWITCHBOARD_AUTH__JWT__SECRET", "hush-2"),
    ])
    .unwrap_err()
    .to_string();

    assert!(error.contains("SWITCHBOARD_JWT_SECRET"), "{error}");
    assert!(error.contains("SWITCHBOARD_AUTH__JWT__SECRET"), "{error}");
    assert!(!error.contains("hush"), "{error}");
}

#[test]
fn a_bad_value_is_named_with_its_origin() {
    let cases = [
        ("SWITCHBOARD_LISTEN", "localhost:3000", "listen"),
        (
            "SWITCHBOARD_LIMITS__CONNECTIONS",
            "-1",
            "limits.connections",
        ),
        (
            "SWITCHBOARD_LIMITS__CONNECTIONS",
            "4294967296",
            "limits.connections",
        ),
        (
            "SWITCHBOARD_LIMITS__MAX_PAYLOAD",
            "lots",
            "limits.max_payload",
        ),
        ("SWITCHBOARD_DRAIN__DELAY", "5", "drain.delay"),
        ("SWITCHBOARD_LOG__FORMAT", "xml", "log.format"),
        (
            "SWITCHBOARD_TRUSTED_PROXIES",
            "10.0.0.0/8,10.0.0.1",
            "trusted_proxies.1",
        ),
    ];
    for (variable, value, key) in cases {
        let error = load_env([(variable, value)]).unwrap_err();
        assert_eq!(error.problems()[0].key, key);
        assert_eq!(error.problems()[0].origin, Some(format!("from {variable}")));
    }
    let error = load_env([("SWITCHBOARD_NAMESPACES", "/,/chat")]).unwrap_err();
    assert_eq!(error.problems()[0].key, "SWITCHBOARD_NAMESPACES");

    let flags = Flags {
        listen: Some("nowhere".into()),
        ..Flags::default()
    };
    let error = Sources {
        flags,
        ..Sources::default()
    }
    .load()
    .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("listen (from --listen): \"nowhere\""),
        "{error}"
    );
}

#[test]
fn validation_says_where_the_value_came_from() {
    let file = Toml::new("[registry]\nheartbeat = '6s'\n[limits]\nmax_payload = '1KB'");
    let sources = Sources {
        file: Some(file.path.clone()),
        environment: environment([
            ("SWITCHBOARD_LIMITS__EVENTS_BURST", "0"),
            ("SWITCHBOARD_AUTH__JWT__ALGORITHMS", "HS256,none"),
        ]),
        ..Sources::default()
    };

    let error = sources.load().unwrap_err();
    let origin = |key: &str| {
        let problem = error.problems().iter().find(|problem| problem.key == key);
        problem
            .unwrap_or_else(|| panic!("{key} in {error}"))
            .origin
            .clone()
    };

    assert_eq!(
        origin("limits.events_burst").unwrap(),
        "from SWITCHBOARD_LIMITS__EVENTS_BURST"
    );
    assert_eq!(
        origin("auth.jwt.algorithms.1").unwrap(),
        "from SWITCHBOARD_AUTH__JWT__ALGORITHMS"
    );
    // The lease is the default one, though other keys of its section are in the file.
    assert_eq!(origin("registry.lease"), None);
}

#[test]
fn no_error_shows_a_secret() {
    let files = [
        "auth.jwt.secret = 'hush",
        "auth.jwt.secret = ['hush']",
        "auth.jwt.secret = { hush = 'hush' }",
        "auth.jwt = 'hush'",
        "auth = 'hush'",
        "api = 'hush'",
        "api.keys = ['hush']",
        "api.keys = 'hush'",
        "[[api.keys]]\nname = 1\nkey = 'hush'\nscopes = ['hush']",
        "redis = 'redis://:hush@x'",
        "redis.urls = 'http://:hush@x'",
        "redis.urls = ['http://:hush@x']",
        "redis.urls = ['redis://:hu/hush@x']",
        "auth.jwt.jwks_url = 'https://u:hush@x'",
        "api.key = 'sha256:hush'",
        "auth.session.secrets = { hush = 'hush' }",
        "auth.session = 'hush'",
        "auth.session.redis_url = 'redis://:hush@x:y'",
        "redis.sentinel_password = ['hush']",
        "redis.mode = 'cluster'\nredis.urls = ['redis://:hush@a', 'redis://:hash@b']",
        "auth.jwt.secret = 'a'\nauth.jwt.secret = 'hush'",
        "auth.jwt.secret = hush",
        "'auth.jwt.secret' = 'hush'",
    ];
    for text in files {
        let error = load_toml(text).unwrap_err();
        assert!(!error.to_string().contains("hush'"), "{error}");
        assert!(!error.to_string().contains("hush@"), "{error}");
        assert!(!format!("{error:?}").contains("\"hush\""), "{error:?}");
        assert!(!error.problems()[0].what.contains("hush"), "{error}");
    }
    let variables = [
        ("SWITCHBOARD_REDIS_URL", "hush"),
        ("SWITCHBOARD_API__KEYS", "hush"),
        ("SWITCHBOARD_API__KEYS", "[{\"key\":\"hush\"}]"),
        ("SWITCHBOARD_API_KEY", "hush hush"),
        ("SWITCHBOARD_API_KEY", "sha256:hush"),
        ("SWITCHBOARD_AUTH__SESSION__SECRETS", "hush"),
        ("SWITCHBOARD_JWTSECRET", "hush"),
    ];
    for (name, value) in variables {
        let error = load_env([(name, value)]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
    }
    assert!(!format!("{:?}", environment([variables[0]])).contains("hush"));
}

#[test]
fn a_syntax_error_is_named_with_its_line() {
    let error = load_toml("listen = '127.0.0.1:1'\n\n[limits\n").unwrap_err();
    assert!(
        error.problems()[0].key.ends_with("switchboard.toml:3"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let sources = Sources {
        file: Some("/nowhere/switchboard.toml".into()),
        ..Sources::default()
    };
    let error = sources.load().unwrap_err().to_string();
    assert!(
        error.starts_with("--config: /nowhere/switchboard.toml"),
        "{error}"
    );
}

#[test]
fn a_variable_that_is_no_text_is_an_error() {
    let environment: Environment = [(
        OsString::from("SWITCHBOARD_JWT_SECRET"),
        OsString::from_vec(vec![0xff, 0xfe]),
    )]
    .into_iter()
    .collect();
    let sources = Sources {
        environment,
        ..Sources::default()
    };
    let error = sources.load().unwrap_err();
    assert_eq!(error.problems()[0].key, "SWITCHBOARD_JWT_SECRET");
}

#[test]
fn a_key_has_a_long_name_and_perhaps_a_short_one() {
    for name in ["SWITCHBOARD_AUTH__JWT__SECRET", "SWITCHBOARD_JWT_SECRET"] {
        assert_eq!(Key::of_variable(name).unwrap().path, "auth.jwt.secret");
    }
    let file = Key::around("auth.jwt.public_key_file").unwrap();
    assert_eq!(file.variable(), "SWITCHBOARD_AUTH__JWT__PUBLIC_KEY_FILE");
}
