//! How each peer is built and started.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use tempfile::NamedTempFile;
use tokio::net::TcpStream;

use crate::{
    options::Options,
    peers::Peer,
    support::{
        bounds::{seconds, within},
        fleet::{Fleet, Plan},
        process::Process,
        redis_server::{Server, free_port},
        run::Run,
        token::{KEY, SECRET},
    },
};

/// The peers that can be started, each by its command, and why others can't.
pub(crate) struct Programs {
    pub(crate) commands: BTreeMap<Peer, Vec<String>>,
    pub(crate) versions: BTreeMap<Peer, String>,
    pub(crate) left_out: Vec<String>,
}

/// Servers of one kind around a Redis of their own; gone when this is dropped.
pub(crate) enum Servers {
    Ours(Fleet),
    Theirs {
        redis: Server,
        nodes: Vec<(SocketAddr, Process)>,
        _config: NamedTempFile,
    },
}

impl Programs {
    /// Builds what is wanted.
    pub(crate) fn build(options: &Options) -> Self {
        let mut programs = Self {
            commands: BTreeMap::new(),
            versions: BTreeMap::new(),
            left_out: Vec::new(),
        };
        for peer in options.peers() {
            match command(peer, options) {
                Ok((command, version)) => {
                    programs.commands.insert(peer, command);
                    programs.versions.insert(peer, version);
                }
                Err(why) => programs.left_out.push(format!("{peer} is left out: {why}")),
            }
        }
        programs
    }
}

/// The command that starts a peer, and its version; an error is why there is none.
fn command(peer: Peer, options: &Options) -> Result<(Vec<String>, String), String> {
    let built = Path::new(env!("CARGO_BIN_EXE_switchboard"));
    match peer {
        Peer::Switchboard => {
            let binary = options.bin.as_deref().unwrap_or(built);
            let version = said(Command::new(binary).arg("--version"))?;
            let version = version.trim_start_matches("switchboard ").to_owned();
            Ok((vec![binary.display().to_string()], version))
        }
        Peer::SocketIo | Peer::SocketIoSharded => {
            let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/compare/socketio");
            let node = said(Command::new("node").arg("--version"))?;
            if !at.join("node_modules/.package-lock.json").exists() {
                let mut install = Command::new("npm");
                install.args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]);
                said(install.current_dir(&at))?;
            }
            let mut command = vec![
                "node".to_owned(),
                at.join("server.mjs").display().to_string(),
            ];
            if peer == Peer::SocketIoSharded {
                command.push("sharded".to_owned());
            }
            let packages = json!(include_str!("socketio/package.json"));
            let packages: serde_json::Value =
                serde_json::from_str(packages.as_str().unwrap()).unwrap();
            let version = |name: &str| {
                packages["dependencies"][name]
                    .as_str()
                    .unwrap_or("?")
                    .to_owned()
            };
            let (server, adapter) = (version("socket.io"), version("@socket.io/redis-adapter"));
            Ok((
                command,
                format!("{server}, @socket.io/redis-adapter {adapter}, Node.js {node}"),
            ))
        }
        Peer::Socketioxide => {
            let (target, profile) = (built.parent().unwrap(), built.parent().unwrap().file_name());
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--locked", "--example", "plain", "--target-dir"]);
            build.arg(target.parent().unwrap());
            if profile.is_some_and(|name| name == "release") {
                build.arg("--release");
            }
            said(build.current_dir(env!("CARGO_MANIFEST_DIR")))?;
            let version = format!(
                "{}, socketioxide-redis {}",
                locked("socketioxide"),
                locked("socketioxide-redis")
            );
            Ok((
                vec![target.join("examples/plain").display().to_string()],
                version,
            ))
        }
        Peer::Centrifugo => {
            let binary = options.centrifugo.as_ref();
            let binary = binary.ok_or("CENTRIFUGO_BIN says where its binary is")?;
            let version = said(Command::new(binary).arg("version"))?;
            let version = version.trim_start_matches("Centrifugo v").to_owned();
            Ok((vec![binary.display().to_string()], version))
        }
    }
}

/// What a command prints, on one line.
fn said(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{name}: {}: {}", output.status, errors.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .trim()
        .replace('\n', " "))
}

/// The version of a crate in the lock file.
fn locked(name: &str) -> &'static str {
    let lock = include_str!("../../Cargo.lock");
    let package = format!("name = \"{name}\"\nversion = \"");
    let rest = lock.split_once(&package).map_or("?", |(_, rest)| rest);
    rest.split('"').next().unwrap_or("?")
}

impl Servers {
    pub(crate) async fn start(run: &Run, peer: Peer, command: &[String], size: usize) -> Self {
        if peer == Peer::Switchboard {
            let mut plan = Plan::of(size);
            let instead = format!("shift; exec '{}' \"$@\"", command[0]);
            plan.wrapper = ["sh", "-c", &instead, "sh"].map(str::to_owned).to_vec();
            return Self::Ours(Fleet::start(run, plan).await);
        }
        let redis = Server::start().await;
        let config = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
        let mut nodes = Vec::new();
        for _ in 0..size {
            let mut process = Command::new(&command[0]);
            process.args(&command[1..]);
            process.env("REDIS_URL", redis.url().trim_end_matches('/'));
            process.env("NODE_ENV", "production");
            nodes.push(match peer {
                Peer::Centrifugo => centrifugo(process, config.path(), &redis).await,
                _ => {
                    let process = Process::spawn(&mut process);
                    let says = |line: &str| line.strip_prefix("listening on http://")?.parse().ok();
                    let addr = process.line("it says where it listens", says).await;
                    (addr, process)
                }
            });
        }
        Self::Theirs {
            redis,
            nodes,
            _config: config,
        }
    }

    pub(crate) fn redis(&self) -> &Server {
        match self {
            Self::Ours(fleet) => &fleet.redis,
            Self::Theirs { redis, .. } => redis,
        }
    }

    /// Where they listen, and their processes.
    pub(crate) fn nodes(&self) -> Vec<(SocketAddr, &Process)> {
        match self {
            Self::Ours(fleet) => {
                let nodes = fleet.nodes.iter();
                nodes.map(|node| (node.addr, &node.process)).collect()
            }
            Self::Theirs { nodes, .. } => {
                let nodes = nodes.iter();
                nodes.map(|(addr, process)| (*addr, process)).collect()
            }
        }
    }

    /// Resident memory of all nodes, in KB.
    pub(crate) fn memory(&self) -> f64 {
        let nodes = self.nodes().into_iter();
        let memory = nodes.map(|(_, process)| process.status("VmRSS"));
        memory.sum::<u64>() as f64
    }
}

/// Presence is on for users alone, as they are who is asked for.
async fn centrifugo(mut command: Command, config: &Path, redis: &Server) -> (SocketAddr, Process) {
    let settings = json!({
        "client": { "token": { "hmac_secret_key": SECRET }, "allowed_origins": ["*"] },
        "http_api": { "key": KEY },
        "engine": { "type": "redis", "redis": { "address": redis.url().trim_end_matches('/') } },
        "channel": { "namespaces": [{ "name": "user", "presence": true }, { "name": "room" }, { "name": "all" }] },
        "log": { "level": "error" },
    });
    std::fs::write(config, settings.to_string()).unwrap();
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    command.arg("--config").arg(PathBuf::from(config));
    command.args(["--http_server.address", "127.0.0.1"]);
    command.args(["--http_server.port", &addr.port().to_string()]);
    let process = Process::spawn(&mut command);
    let look = async || {
        let opened = TcpStream::connect(addr).await;
        opened.map_err(|error| format!("{error}; {}", process.log().join("\n")))
    };
    within(seconds(30.0), "Centrifugo listens", look).await;
    (addr, process)
}
