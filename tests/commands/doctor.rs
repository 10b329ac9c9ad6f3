//! `switchboard doctor`: nothing is wrong where nothing is, and each thing that is broken on purpose is found.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    Outcome, SWITCHBOARD, balancers, run,
    support::{
        bounds::seconds,
        fleet::{Fleet, Plan},
        proxy::{Proxy, Weather},
        redis_server::Server,
        run::Run,
    },
};

const PASSWORD: &str = "a-password-of-the-tests";

/// A Redis as deploy/redis/README.md has it, but for these changes of the user's rules.
async fn redis(changes: &str) -> Server {
    let redis = Server::start().await;
    let rules = std::fs::read_to_string("deploy/redis/switchboard.acl").unwrap();
    let rules = rules.lines().filter(|line| !line.starts_with('#'));
    // Redis 7.0 has no `client|setinfo`.
    let rules = rules
        .flat_map(str::split_whitespace)
        .filter(|rule| *rule != "+client|setinfo");
    let rules = rules.collect::<Vec<_>>().join(" ");
    let user = format!("ACL SETUSER switchboard on >{PASSWORD} {rules}");
    let _: () = redis.run(&user).await;
    if !changes.is_empty() {
        let _: () = redis
            .run(&format!("ACL SETUSER switchboard {changes}"))
            .await;
    }
    let _: () = redis.run("CONFIG SET maxmemory 100mb").await;
    redis
}

async fn doctor(redis: &Server, words: &[&str], settings: &[(&str, &str)]) -> Outcome {
    let url = format!("redis://switchboard:{PASSWORD}@{}", redis.addr());
    let words = [&[SWITCHBOARD, "doctor", "--json"], words].concat();
    let mut all = vec![
        ("REDIS_URL", url.as_str()),
        ("REGISTRY__SECRETS", "a-seal-of-the-tests-0123456789abcdef"),
    ];
    all.extend(settings);
    let outcome = run(&words, &all).await;
    for text in [&outcome.stdout, &outcome.stderr] {
        assert!(!text.contains("of-the-tests"), "a secret in {text}");
    }
    outcome
}

/// The checks with a verdict, and what each says.
fn with(outcome: &Outcome, verdict: &str) -> Vec<(String, String)> {
    let json = outcome.json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let checks = json["checks"].as_array().unwrap().iter();
    checks
        .filter(|check| check["verdict"] == verdict)
        .map(|check| (text(&check["check"]), text(&check["says"])))
        .collect()
}

/// Asserts that this and nothing else fails, and that what is said of it has these words.
fn fails(outcome: &Outcome, check: &str, words: &[&str]) {
    let failed = with(outcome, "FAIL");
    assert_eq!(outcome.code, Some(1), "{failed:?}");
    assert_eq!(outcome.json()["ok"], false);
    let names: Vec<_> = failed.iter().map(|(check, _)| check.as_str()).collect();
    assert_eq!(names, [check], "{failed:?}");
    for word in words {
        assert!(failed[0].1.contains(word), "{word} in {failed:?}");
    }
}

#[tokio::test]
async fn a_fleet_as_the_documentation_has_it_is_well() {
    let run = Run::begin("doctor");
    let plan = Plan::brisk(1)
        .with("PING__INTERVAL", "1s")
        .with("PING__TIMEOUT", "20s");
    let fleet = Fleet::start(&run, plan).await;
    let redis = redis("").await;
    let url = format!("http://{}", fleet[0].addr);
    let outcome = doctor(&redis, &["--url", &url], &[]).await;

    assert_eq!(outcome.code, Some(0), "{}", outcome.stdout);
    assert_eq!(outcome.json()["ok"], true);
    let well: Vec<_> = with(&outcome, "ok")
        .into_iter()
        .map(|(check, _)| check)
        .collect();
    for check in [
        "configuration",
        "redis.version",
        "redis.latency",
        "redis.clock",
        "redis.memory",
        "redis.rights",
        "balancer.polling",
        "balancer.websocket",
        "balancer.timeout",
    ] {
        assert!(
            well.iter().any(|one| one == check),
            "{check}: {}",
            outcome.stdout
        );
    }
    let lines = crate::run(&[SWITCHBOARD, "doctor"], &[]).await;
    assert_eq!(lines.code, Some(0), "{}", lines.stdout);
    assert!(lines.stdout.contains("\nok   redis "), "{}", lines.stdout);
    let left: Vec<String> = redis.run("KEYS *").await;
    assert_eq!(
        left,
        Vec::<String>::new(),
        "what it tried leaves nothing behind"
    );
}

#[tokio::test]
async fn what_a_user_may_not_do_is_named() {
    let lacking = redis("-spublish -zadd").await;
    let outcome = doctor(&lacking, &[], &[]).await;
    fails(&outcome, "redis.rights", &["+spublish", "+zadd"]);

    let deaf = redis("-ssubscribe").await;
    fails(
        &doctor(&deaf, &[], &[]).await,
        "redis.rights",
        &["+ssubscribe"],
    );

    let whole = redis("").await;
    let elsewhere = [("REGISTRY__PREFIX", "elsewhere")];
    let outcome = doctor(&whole, &[], &elsewhere).await;
    fails(&outcome, "redis.rights", &["~elsewhere:*", "&elsewhere:*"]);

    let sessions = [
        ("AUTH__SESSION__SECRETS", "a-cookie-secret-of-the-tests"),
        ("AUTH__SESSION__KEY_PREFIX", "mine:"),
    ];
    let outcome = doctor(&whole, &[], &sessions).await;
    fails(&outcome, "redis.rights", &["%R~mine:*"]);

    let backends = r#"[{name = "app", stream = "my:events", notify = ["user.online"]}]"#;
    let outcome = doctor(&whole, &[], &[("BACKENDS", backends)]).await;
    fails(&outcome, "redis.rights", &["~my:events"]);

    let emitters = [
        ("INGRESS__EMITTER__KEY", "mine"),
        ("INGRESS__PYTHON__CHANNEL", "theirs"),
    ];
    let outcome = doctor(&whole, &[], &emitters).await;
    fails(&outcome, "redis.rights", &["+psubscribe", "+subscribe"]);
    let hears = redis("+psubscribe +subscribe &mine#*").await;
    let outcome = doctor(&hears, &[], &emitters).await;
    fails(&outcome, "redis.rights", &["&mine-request#*", "&theirs"]);
    let hears = redis("+psubscribe +subscribe &mine#* &mine-request#* &theirs").await;
    let outcome = doctor(&hears, &[], &emitters).await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.stdout);

    let elsewhere = format!("redis://nobody:{PASSWORD}@{}", whole.addr());
    let elsewhere = [("INGRESS__PYTHON__REDIS_URL", elsewhere.as_str())];
    let outcome = doctor(&whole, &[], &elsewhere).await;
    fails(&outcome, "redis", &["it refuses the user or the password"]);
}

#[tokio::test]
async fn what_a_node_can_do_without_is_no_failure() {
    let lean = redis("-scan -copy -pubsub|shardchannels -info").await;
    let outcome = doctor(&lean, &[], &[]).await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.stdout);
    let warnings = with(&outcome, "warn");
    for word in ["+scan", "+copy", "+pubsub|shardchannels", "+info|memory"] {
        assert!(
            warnings.iter().any(|(_, says)| says.contains(word)),
            "{word}: {warnings:?}"
        );
    }
}

#[tokio::test]
async fn a_redis_that_is_not_fit_is_a_failure() {
    let redis = redis("").await;
    let _: () = redis.run("CONFIG SET maxmemory-policy allkeys-lru").await;
    let outcome = doctor(&redis, &[], &[]).await;
    fails(&outcome, "redis.memory", &["allkeys-lru", "noeviction"]);
    let _: () = redis.run("CONFIG SET maxmemory-policy noeviction").await;

    let _: () = redis
        .run("ACL SETUSER switchboard resetpass >another")
        .await;
    let outcome = doctor(&redis, &[], &[]).await;
    fails(&outcome, "redis", &["password"]);

    let gone = Server::absent();
    fails(
        &doctor(&gone, &[], &[]).await,
        "redis",
        &["can't be reached"],
    );
    fails(
        &doctor(
            &gone,
            &[],
            &[
                ("REDIS__MODE", "cluster"),
                ("REDIS_URL", "redis://127.0.0.1:1"),
            ],
        )
        .await,
        "redis",
        &["not every slot"],
    );
}

/// A Redis that takes 1.2 s for each answer would take the rights alone a minute.
#[tokio::test]
async fn a_redis_that_is_slow_is_said_to_be_so_within_half_a_minute() {
    let redis = redis("").await;
    let slow = Proxy::start(redis.addr()).await;
    slow.set(Weather {
        delay: Duration::from_millis(600),
        ..Weather::FAIR
    });
    let url = format!("redis://switchboard:{PASSWORD}@{}", slow.addr());
    let begun = Instant::now();
    let outcome = doctor(&redis, &[], &[("REDIS_URL", &url)]).await;
    assert!(begun.elapsed() < seconds(40.0), "{:?}", begun.elapsed());
    assert_eq!(outcome.code, Some(1), "{}", outcome.stdout);
    let failed = with(&outcome, "FAIL");
    let names: Vec<_> = failed.iter().map(|(check, _)| check.as_str()).collect();
    assert_eq!(names, ["redis.latency", "redis.rights"], "{failed:?}");
    assert!(failed[1].1.contains("not answered within"), "{failed:?}");
    let left: Vec<String> = redis.run("KEYS *").await;
    assert_eq!(left, Vec::<String>::new());
    let well = with(&outcome, "ok");
    for check in ["redis.version", "redis.clock", "redis.memory"] {
        assert!(well.iter().any(|(one, _)| one == check), "{well:?}");
    }
}

#[tokio::test]
async fn a_key_set_that_can_t_be_had_is_a_failure() {
    let redis = redis("").await;
    let url = [("AUTH__JWT__JWKS_URL", "http://127.0.0.1:1/jwks")];
    let outcome = doctor(&redis, &[], &url).await;
    fails(&outcome, "jwks", &["auth.jwt.jwks_url"]);

    let refusing = balancers::refusing("503 Service Unavailable").await;
    let outcome = doctor(&redis, &[], &[("AUTH__JWT__JWKS_URL", &refusing)]).await;
    fails(&outcome, "jwks", &["503"]);
}

#[tokio::test]
async fn too_few_descriptors_are_a_failure() {
    let limited = [
        "sh",
        "-c",
        "ulimit -n 512; exec \"$0\" doctor --json",
        SWITCHBOARD,
    ];
    let outcome = run(&limited, &[]).await;
    fails(&outcome, "descriptors", &["512"]);
}

/// Needs `faketime`, as `tests/faults/clocks.rs` does; where it is missing the test says so and is over.
#[tokio::test]
async fn clocks_that_differ_are_a_failure() {
    if std::process::Command::new("faketime")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("SKIPPED: faketime is not installed");
        return;
    }
    let redis = redis("").await;
    let url = format!("redis://switchboard:{PASSWORD}@{}", redis.addr());
    let words = ["faketime", "-f", "+60s", SWITCHBOARD, "doctor", "--json"];
    let outcome = run(&words, &[("REDIS_URL", &url)]).await;
    fails(&outcome, "redis.clock", &["-60", "NTP"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balancer_that_deals_clients_out_cuts_them_off_or_knows_no_websocket_is_a_failure() {
    let run = Run::begin("doctor-balancer");
    let plan = Plan::brisk(2).with("PING__INTERVAL", "3s");
    let fleet = Fleet::start(&run, plan).await;
    let redis = redis("").await;
    let nodes = [fleet[0].addr, fleet[1].addr];

    let dealing = balancers::in_turn(nodes.to_vec(), None).await;
    let outcome = doctor(&redis, &["--url", &dealing], &[]).await;
    fails(&outcome, "balancer.stickiness", &["another node"]);

    let hasty = balancers::in_turn(vec![nodes[0]], Some(Duration::from_secs(1))).await;
    let outcome = doctor(&redis, &["--url", &hasty], &[]).await;
    fails(&outcome, "balancer.timeout", &["idle timeout"]);

    let refusing = balancers::refusing("404 Not Found").await;
    let outcome = doctor(&redis, &["--url", &refusing], &[]).await;
    let failed: Vec<_> = with(&outcome, "FAIL")
        .into_iter()
        .map(|(check, _)| check)
        .collect();
    assert_eq!(failed, ["balancer.polling", "balancer.websocket"]);
    assert_eq!(outcome.code, Some(1));
}
