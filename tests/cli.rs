//! The binary as an operator meets it: exit codes, what goes to stdout and to stderr, and that no secret is in either.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// How long a command may take that ends by itself.
const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The binary with nothing of the test's own environment that it would read.
fn switchboard(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SWITCHBOARD_") {
            command.env_remove(name);
        }
    }
    command
}

struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

/// What a command that ends by itself has printed. One that does not (a node that starts by mistake) is killed.
fn output(command: &mut Command) -> Output {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = piped.spawn().unwrap();
    let pid = child.id().to_string();
    let (ended, waits) = mpsc::channel::<()>();
    thread::spawn(move || {
        if waits.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            Command::new("kill").args(["-KILL", &pid]).status().unwrap();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    output
}

fn outcome(command: &mut Command) -> Outcome {
    let Output {
        status,
        stdout,
        stderr,
    } = output(command);
    Outcome {
        code: status.code().expect("an exit code"),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

fn run(args: &[&str], environment: &[(&str, &str)]) -> Outcome {
    outcome(switchboard(args).envs(environment.iter().copied()))
}

fn config_file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("switchboard.toml");
    fs::write(&path, text).unwrap();
    (directory, path)
}

/// The claims of a token, its signature unseen.
fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

fn token(args: &[&str]) -> String {
    let args: Vec<_> = ["token"].iter().chain(args).copied().collect();
    let minted = run(&args, &[("SWITCHBOARD_JWT_SECRET", SECRET)]);
    assert_eq!(minted.code, 0, "{}", minted.stderr);
    minted.stdout.trim_end().to_owned()
}

/// A token of the same secret that ran out in 1970.
fn expired_token() -> String {
    switchboard::auth::install_crypto().unwrap();
    jsonwebtoken::encode(
        &jsonwebtoken::Header::default(),
        &json!({"sub": "42", "iat": 1_000, "exp": 2_000}),
        &jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes()),
    )
    .unwrap()
}

#[test]
fn version_and_help_are_no_failures() {
    let version = run(&["--version"], &[]);
    assert_eq!(version.code, 0);
    assert_eq!(
        version.stdout,
        format!("switchboard {}\n", env!("CARGO_PKG_VERSION"))
    );
    let help = run(&["--help"], &[]);
    assert_eq!(help.code, 0);
    for command in [
        "serve",
        "token",
        "check-token",
        "check-config",
        "print-config",
        "config-doc",
        "completions",
        "doctor",
        "bench",
        "healthcheck",
    ] {
        assert!(help.stdout.contains(command), "{command}");
    }
}

#[test]
fn a_command_line_that_is_wrong_is_64() {
    for args in [
        &["frobnicate"][..],
        &["--frobnicate"],
        &["token"],
        &["token", "--user", ""],
        &["token", "--user", "1", "--ttl", "soon"],
        &["token", "--user", "1", "--claim", "novalue"],
        &["check-token"],
        &["completions"],
        &["completions", "tcl"],
        &["--jwt-secret", "x"],
        &["--api-key", "x"],
    ] {
        let refused = run(args, &[]);
        assert_eq!(refused.code, 64, "{args:?}");
        assert_eq!(refused.stdout, "", "{args:?}");
    }
}

#[test]
fn token_prints_a_jwt_and_nothing_else() {
    let minted = run(
        &[
            "token",
            "--user",
            "42",
            "--role",
            "admin",
            "--username",
            "ann",
            "--ttl",
            "10m",
            "--claim",
            "tenant=acme",
            "--claim",
            "level=3",
            "--claim",
            "tags=[\"a\"]",
        ],
        &[("SWITCHBOARD_JWT_SECRET", SECRET)],
    );

    assert_eq!(minted.code, 0, "{}", minted.stderr);
    assert_eq!(minted.stderr, "");
    assert_eq!(minted.stdout.lines().count(), 1);
    let claims = claims(minted.stdout.trim_end());
    assert_eq!(claims["sub"], "42");
    assert_eq!(claims["username"], "ann");
    assert_eq!(claims["tenant"], "acme");
    assert_eq!(claims["level"], 3);
    assert_eq!(claims["tags"], json!(["a"]));
    assert_eq!(
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(),
        600
    );
}

#[test]
fn token_without_a_secret_is_64() {
    let refused = run(&["token", "--user", "42"], &[]);
    assert_eq!(refused.code, 64);
    assert_eq!(refused.stdout, "");
    assert!(
        refused.stderr.contains("auth.jwt.secret"),
        "{}",
        refused.stderr
    );
}

#[test]
fn check_token_prints_the_identity() {
    let token = token(&["--user", "42", "--role", "admin", "--username", "ann"]);
    let checked = run(
        &["check-token", &token],
        &[("SWITCHBOARD_JWT_SECRET", SECRET)],
    );

    assert_eq!(checked.code, 0, "{}", checked.stderr);
    let identity: Value = serde_json::from_str(&checked.stdout).unwrap();
    assert_eq!(identity["userId"], "42");
    assert_eq!(identity["username"], "ann");
    assert_eq!(identity["roles"], json!(["admin"]));
    assert!(identity["expiresAt"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn check_token_reads_standard_input() {
    let token = token(&["--user", "42"]);
    let mut child = switchboard(&["check-token", "-"])
        .env("SWITCHBOARD_JWT_SECRET", SECRET)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{token}").unwrap();
    let output = child.wait_with_output().unwrap();

    assert!(output.status.success());
    let identity: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(identity["userId"], "42");
}

#[test]
fn check_token_says_why_it_refuses() {
    let valid = token(&["--user", "42"]);
    let expired = expired_token();
    let cases = [
        (
            valid.as_str(),
            "another-secret-another-secret-another",
            "Invalid token",
        ),
        (expired.as_str(), SECRET, "Invalid or expired token"),
        ("nonsense", SECRET, "Invalid token"),
    ];
    for (token, secret, reason) in cases {
        let refused = run(
            &["check-token", token],
            &[
                ("SWITCHBOARD_JWT_SECRET", secret),
                ("SWITCHBOARD_AUTH__JWT__LEEWAY", "0s"),
            ],
        );
        assert_eq!(refused.code, 1, "{}", refused.stderr);
        assert_eq!(refused.stdout, "");
        assert!(refused.stderr.contains(reason), "{}", refused.stderr);
        assert!(!refused.stderr.contains(token), "{}", refused.stderr);
        assert!(!refused.stderr.contains(secret), "{}", refused.stderr);
    }
    assert_eq!(run(&["check-token", &valid], &[]).code, 64);
}

#[test]
fn check_config_is_0_or_1_and_names_the_key() {
    let fine = run(
        &["check-config"],
        &[
            ("SWITCHBOARD_JWT_SECRET", SECRET),
            ("SWITCHBOARD_API_KEY", "k"),
        ],
    );
    assert_eq!(
        (fine.code, fine.stdout.as_str()),
        (0, "ok\n"),
        "{}",
        fine.stderr
    );
    assert_eq!(fine.stderr, "");
    assert_eq!(run(&["check-config"], &[]).code, 0);

    let (_directory, path) = config_file("[limits]\nmax_paylod = '1MB'\n");
    let path = path.to_str().unwrap();
    let unknown = run(&["check-config", "--config", path], &[]);
    assert_eq!(unknown.code, 1);
    assert!(
        unknown.stderr.contains("limits.max_paylod"),
        "{}",
        unknown.stderr
    );
    assert!(unknown.stderr.contains(path), "{}", unknown.stderr);

    for (variable, value, named) in [
        ("SWITCHBOARD_FOO", "1", "SWITCHBOARD_FOO"),
        ("SWITCHBOARD_REGISTRY__LEASE", "4s", "registry.lease"),
        ("SWITCHBOARD_API_KEY", "", "api.key"),
        ("SWITCHBOARD_LISTEN", "0.0.0.0:3000", "auth.jwt.secret"),
        ("SWITCHBOARD_CONFIG", "/nowhere.toml", "SWITCHBOARD_CONFIG"),
    ] {
        let wrong = run(&["check-config"], &[(variable, value)]);
        assert_eq!(wrong.code, 1, "{variable}");
        assert_eq!(wrong.stdout, "", "{variable}");
        assert!(wrong.stderr.contains(named), "{}", wrong.stderr);
    }
}

#[test]
fn a_bad_configuration_keeps_every_other_command_from_running() {
    for args in [
        &[][..],
        &["serve"],
        &["print-config"],
        &["token", "--user", "1"],
        &["check-token", "x"],
        &["doctor"],
        &["bench", "connect"],
        &["healthcheck"],
    ] {
        let refused = run(args, &[("SWITCHBOARD_FOO", "1")]);
        assert_eq!(refused.code, 64, "{args:?}");
        assert_eq!(refused.stdout, "", "{args:?}");
        assert!(
            refused.stderr.contains("SWITCHBOARD_FOO"),
            "{}",
            refused.stderr
        );
    }
}

#[test]
fn config_doc_prints_the_page_of_the_documentation() {
    // With whatever is configured, also where that is wrong.
    let outcome = run(&["config-doc"], &[("SWITCHBOARD_LISTEN", "nowhere")]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let page = fs::read_to_string("docs/configuration.md").unwrap();
    let is_same = outcome.stdout == page;
    assert!(is_same, "cargo run -- config-doc > docs/configuration.md");
}

#[test]
fn completions_name_the_commands_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        // With whatever is configured, also where that is wrong.
        let outcome = run(&["completions", shell], &[("SWITCHBOARD_FOO", "1")]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        assert!(outcome.stdout.contains("check-token"), "{shell}");
    }
}

#[test]
fn print_config_shows_the_layers_and_masks_the_secrets() {
    let (_directory, path) = config_file(
        "node_id = 'file'\n[auth.jwt]\nprevious_secrets = ['hush-1']\n\
         [[api.keys]]\nname = 'billing'\nkey = 'hush-2'\nscopes = ['send']\n[drain]\nwindow = '90s'\n",
    );
    let printed = run(
        &[
            "--listen",
            "127.0.0.1:4000",
            "print-config",
            "--config",
            path.to_str().unwrap(),
        ],
        &[
            ("SWITCHBOARD_LISTEN", "127.0.0.1:5000"),
            ("SWITCHBOARD_JWT_SECRET", "hush-3"),
            ("SWITCHBOARD_API_KEY", "hush-4"),
            (
                "SWITCHBOARD_REDIS_URL",
                "redis://ann:hush-5@redis.example:6379/1",
            ),
            ("SWITCHBOARD_LIMITS__MAX_PAYLOAD", "64KB"),
        ],
    );

    assert_eq!(printed.code, 0, "{}", printed.stderr);
    assert!(!printed.stdout.contains("hush"), "{}", printed.stdout);
    let config: toml::Table = toml::from_str(&printed.stdout).unwrap();
    assert_eq!(config["listen"].as_str(), Some("127.0.0.1:4000"));
    assert_eq!(config["node_id"].as_str(), Some("file"));
    assert_eq!(config["drain"]["window"].as_str(), Some("90s"));
    assert_eq!(config["limits"]["max_payload"].as_str(), Some("64KB"));
    assert_eq!(config["auth"]["jwt"]["secret"].as_str(), Some("***"));
    assert_eq!(config["api"]["key"].as_str(), Some("***"));
    assert_eq!(config["api"]["keys"][0]["key"].as_str(), Some("***"));
    assert_eq!(
        config["redis"]["urls"][0].as_str(),
        Some("redis://ann:***@redis.example:6379/1")
    );
}

#[test]
fn a_printout_can_be_the_next_configuration() {
    let first = run(&["print-config"], &[("SWITCHBOARD_DRAIN__DELAY", "1500ms")]);
    let (_directory, path) = config_file(&first.stdout);
    let second = run(&["print-config", "--config", path.to_str().unwrap()], &[]);

    assert_eq!(second.code, 0, "{}", second.stderr);
    assert_eq!(first.stdout, second.stdout);
}

#[test]
fn serve_says_what_to_set() {
    for (variables, named) in [
        (
            &[("SWITCHBOARD_LISTEN", "0.0.0.0:0")][..],
            "SWITCHBOARD_API_KEY",
        ),
        (&[("SWITCHBOARD_API_KEY", "hush")], "SWITCHBOARD_JWT_SECRET"),
    ] {
        let refused = run(&["serve"], variables);
        assert_eq!(refused.code, 64);
        assert!(refused.stderr.contains(named), "{}", refused.stderr);
        assert!(
            refused.stderr.contains("SWITCHBOARD_JWT_SECRET"),
            "{}",
            refused.stderr
        );
        assert!(!refused.stderr.contains("hush"), "{}", refused.stderr);
    }
}

/// What is wrong only inside a file, or with the keys together, is the configuration's fault all the same.
#[test]
fn keys_that_can_t_be_read_or_used_are_64_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let pem = file(
        "bad.pem",
        "-----BEGIN PUBLIC KEY-----\nbm8ga2V5\n-----END PUBLIC KEY-----\n",
    );
    let jwks = file("bad.json", "{\"keys\": 4}");
    let empty = file("empty.json", "{\"keys\": []}");
    let secret = ("SWITCHBOARD_JWT_SECRET", SECRET);
    for (variables, named) in [
        (
            vec![("SWITCHBOARD_AUTH__JWT__PUBLIC_KEY_FILE", pem.as_str())],
            "auth.jwt.public_key_file",
        ),
        (
            vec![("SWITCHBOARD_AUTH__JWT__JWKS_FILE", &jwks)],
            "auth.jwt.jwks_file",
        ),
        (
            vec![("SWITCHBOARD_AUTH__JWT__JWKS_FILE", &empty)],
            "auth.jwt.jwks_file",
        ),
        (
            vec![secret, ("SWITCHBOARD_AUTH__JWT__ALGORITHMS", "RS256")],
            "auth.jwt.",
        ),
    ] {
        let mut variables = variables;
        variables.push(("SWITCHBOARD_LISTEN", "127.0.0.1:0"));
        variables.push(("SWITCHBOARD_API_KEY", "k"));
        let serve = run(&["serve"], &variables);
        let said = serve.stdout + &serve.stderr;
        assert_eq!(serve.code, 64, "{named}: {said}");
        assert!(said.contains(named), "{said}");
        if named.starts_with("auth") {
            let check = run(&["check-config"], &variables);
            assert_eq!(check.code, 1, "{}", check.stderr);
            assert!(check.stderr.contains(named), "{}", check.stderr);
            let token = run(&["check-token", "x"], &variables);
            assert_eq!(token.code, 64, "{named}: {}", token.stderr);
        }
    }
}

#[test]
fn serve_on_an_address_that_is_taken_is_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let failed = run(&["serve", "--listen", &address], &[]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
}

/// A node that is ended with the test, however that goes.
struct Node {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Node {
    fn start(args: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = switchboard(args);
        command.envs(environment.iter().copied());
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// The log up to the line that says where it listens, and that address. The rest of the log is read and dropped.
    fn listening(&mut self) -> (String, String) {
        let mut log = String::new();
        let mut lines = BufReader::new(self.child.stderr.take().unwrap());
        loop {
            let from = log.len();
            let read = lines.read_line(&mut log).unwrap();
            assert!(read > 0, "the node ended: {log}");
            if let Some((_, rest)) = log[from..].split_once("listening on http://") {
                let address = rest.split_whitespace().next().unwrap().to_owned();
                thread::spawn(move || lines.read_to_end(&mut Vec::new()));
                return (log, address);
            }
        }
    }

    /// What comes on stdout up to a line with `last` in it.
    fn printed(&mut self, last: &str) -> String {
        let mut text = String::new();
        loop {
            let from = text.len();
            let read = self.stdout.read_line(&mut text).unwrap();
            assert!(read > 0, "the node ended: {text}");
            if text[from..].contains(last) {
                return text;
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn development_mode_prints_all_that_it_takes() {
    let mut node = Node::start(&["--listen", "127.0.0.1:0"], &[]);
    let (log, address) = node.listening();
    let text = node.printed("curl -s");

    assert!(text.contains("development mode"), "{text}");
    assert!(text.contains("socket.io-client"), "{text}");
    assert!(text.contains(&format!("io(\"http://{address}\"")), "{text}");
    assert!(
        text.contains(&format!("http://{address}/v1/users/alice/events")),
        "{text}"
    );
    let after = |label: &str| {
        let mut lines = text.lines().skip_while(|line| !line.starts_with(label));
        lines.nth(1).expect(label).trim().to_owned()
    };
    let user = claims(&after("User token"));
    assert_eq!(user["sub"], "alice");
    assert_eq!(
        user["exp"].as_i64().unwrap() - user["iat"].as_i64().unwrap(),
        24 * 3600
    );
    let admin = after("Admin token");
    assert!(claims(&admin).to_string().contains("\"admin\""));
    let key = after("API key");
    assert!(text.contains(&format!("Bearer {key}")), "{text}");
    assert!(!log.contains(&key) && !log.contains(&admin), "{log}");
}

#[test]
fn a_configured_node_prints_nothing_on_stdout() {
    let mut node = Node::start(
        &["--listen", "127.0.0.1:0"],
        &[
            ("SWITCHBOARD_JWT_SECRET", SECRET),
            ("SWITCHBOARD_API_KEY", "hush"),
            ("SWITCHBOARD_LOG__FORMAT", "json"),
        ],
    );
    let (log, _) = node.listening();
    node.signal("-TERM");
    assert_eq!(node.child.wait().unwrap().code(), Some(0));

    let mut stdout = String::new();
    node.stdout.read_to_string(&mut stdout).unwrap();
    assert_eq!(stdout, "");
    for line in log.lines() {
        serde_json::from_str::<Value>(line).expect(line);
    }
    assert!(!log.contains("hush") && !log.contains(SECRET), "{log}");
}

#[test]
fn a_signal_ends_the_node_with_0() {
    for signal in ["-TERM", "-INT"] {
        let mut node = Node::start(&["--listen", "127.0.0.1:0"], &[]);
        node.listening();
        node.signal(signal);
        assert_eq!(node.child.wait().unwrap().code(), Some(0), "{signal}");
    }
}

#[test]
fn a_second_signal_ends_the_node_at_once_with_1() {
    let mut node = Node::start(
        &["--listen", "127.0.0.1:0"],
        &[("SWITCHBOARD_DRAIN__DELAY", "10m")],
    );
    let (_, address) = node.listening();
    let ready = || run(&["healthcheck", "--listen", &address], &[]).code == 0;
    assert!(ready());
    node.signal("-TERM");
    while ready() {}
    assert!(node.child.try_wait().unwrap().is_none(), "it drains");

    node.signal("-TERM");
    assert_eq!(node.child.wait().unwrap().code(), Some(1));
}

#[cfg(target_os = "linux")]
#[test]
fn a_node_takes_all_the_file_descriptors_that_it_may_have() {
    let bare = switchboard(&["--listen", "127.0.0.1:0"]);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", r#"ulimit -Sn 256; exec "$0" "$@""#])
        .arg(bare.get_program())
        .args(bare.get_args());
    for (name, value) in bare.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let mut node = Node::spawn(limited);
    node.listening();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", node.child.id())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let files: Vec<_> = files.unwrap().split_whitespace().collect();
    assert_eq!(files[3], files[4], "{limits}");
    assert_ne!(files[3], "256");
    node.child.kill().unwrap();
    node.child.wait().unwrap();
}

#[test]
fn healthcheck_asks_the_node() {
    let mut node = Node::start(
        &[
            "--listen",
            "127.0.0.1:0",
            "--internal-listen",
            "127.0.0.1:0",
        ],
        &[],
    );
    let (_, public) = node.listening();
    let text = node.printed("curl -s");
    let internal = text
        .split_once("http://127.0.0.1:")
        .and_then(|_| text.rsplit_once("/v1/users/alice/events"))
        .and_then(|(before, _)| before.rsplit_once("http://"))
        .map(|(_, address)| address.to_owned())
        .unwrap();
    assert_ne!(internal, public);

    // A proxy of the environment's is not asked: it knows nothing of this host's node.
    let proxy = [
        ("HTTP_PROXY", "http://127.0.0.1:1"),
        ("http_proxy", "http://127.0.0.1:1"),
    ];
    for args in [
        &["healthcheck", &format!("http://{internal}")][..],
        &["healthcheck", &format!("http://{internal}/readyz")],
        &["healthcheck", "--internal-listen", &internal],
        &["healthcheck", "--listen", &internal],
    ] {
        let healthy = run(args, &proxy);
        assert_eq!(healthy.code, 0, "{args:?}: {}", healthy.stderr);
    }
    assert_eq!(
        run(&["healthcheck", &format!("http://{internal}/nowhere")], &[]).code,
        1
    );
    assert_eq!(run(&["healthcheck", "nonsense"], &[]).code, 1);

    node.child.kill().unwrap();
    node.child.wait().unwrap();
    assert_eq!(run(&["healthcheck", "--listen", &internal], &[]).code, 1);
}

#[test]
fn healthcheck_is_1_when_the_node_is_not_ready_and_says_why() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answering = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        BufReader::new(&stream).read_line(&mut request).unwrap();
        stream
            .write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 8\r\nconnection: close\r\n\r\ndraining")
            .unwrap();
        request
    });
    let unready = run(&["healthcheck"], &[("SWITCHBOARD_LISTEN", &address)]);

    assert_eq!(unready.code, 1);
    assert!(unready.stderr.contains("503"), "{}", unready.stderr);
    assert!(unready.stderr.contains("draining"), "{}", unready.stderr);
    assert_eq!(answering.join().unwrap(), "GET /readyz HTTP/1.1\r\n");
}
