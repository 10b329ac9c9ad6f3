use secrecy::ExposeSecret;

use super::*;
use crate::config::key::Key;

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
fn emitters_wait_for_the_next_start() {
    assert_eq!(
        reload("[ingress.emitter]\n"),
        (vec![], vec!["ingress.emitter"])
    );
}

#[test]
fn nothing_new_changes_nothing() {
    assert_eq!(reload(""), (vec![], vec![]));
}

/// What a rotation of keys, a change of limits and other backends touch: contract 9.
#[test]
fn keys_of_credentials_and_limits_are_taken_over_and_no_others() {
    for key in Key::all() {
        let is_taken = ["api.", "auth.jwt.", "limits."]
            .iter()
            .any(|section| key.path.starts_with(section))
            || ["auth.session.secrets", "registry.secrets", "backends"].contains(&key.path);
        assert_eq!(key.reload, is_taken, "{}", key.path);
    }
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
