//! The command line: what there is to type, and the exit codes.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use self::{bench::BenchArgs, doctor::DoctorArgs};
use crate::{
    auth::AuthConfigError,
    config::{ConfigError, Environment, Flags, Sources},
    link::LinkError,
};

pub mod bench;
pub mod commands;
pub mod development;
pub mod doctor;
mod socket;

/// Bad configuration or usage: `EX_USAGE` of sysexits.h.
const EXIT_USAGE: u8 = 64;

/// The command line.
#[derive(Parser)]
#[command(name = "switchboard", version, about, max_term_width = 100)]
#[command(
    after_help = "Every key of the configuration can be set in the environment: SWITCHBOARD_LIMITS__MAX_PAYLOAD=64KB. \
                  Secrets can be set nowhere else but there and in the file: SWITCHBOARD_JWT_SECRET, SWITCHBOARD_API_KEY, \
                  or the name of a file with the secret in it: SWITCHBOARD_JWT_SECRET_FILE."
)]
pub struct Cli {
    /// Where the configuration comes from, for every command.
    #[command(flatten)]
    pub options: Options,
    /// What to do; none: serve.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The flags, before the command or after it.
#[derive(Args)]
#[command(next_help_heading = "Configuration")]
pub struct Options {
    /// TOML file with the configuration [env: SWITCHBOARD_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where clients connect [env: SWITCHBOARD_LISTEN] [default: 127.0.0.1:3000]
    #[arg(long, global = true, value_name = "ADDR")]
    listen: Option<String>,
    /// Where /v1, /metrics, /healthz and /readyz are instead [env: SWITCHBOARD_INTERNAL_LISTEN]
    #[arg(long, global = true, value_name = "ADDR")]
    internal_listen: Option<String>,
    /// Redis of the cluster; ps shows a password in it, the environment does not [env: SWITCHBOARD_REDIS_URL]
    #[arg(long, global = true, value_name = "URL")]
    redis_url: Option<String>,
    /// The node's name [env: SWITCHBOARD_NODE_ID] [default: host name and a random suffix]
    #[arg(long, global = true, value_name = "NAME")]
    node_id: Option<String>,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Run a node (the default)
    Serve,
    /// Print a JWT signed with the configured secret
    Token(TokenArgs),
    /// Print the identity a token stands for, or why it is refused
    CheckToken {
        /// The token; - reads it from standard input
        token: String,
    },
    /// Validate the configuration
    CheckConfig,
    /// Print the effective configuration as TOML, secrets masked
    PrintConfig,
    /// Print every key of the configuration as Markdown
    ConfigDoc,
    /// Print a script that completes this command line in a shell
    Completions {
        /// The shell that reads the script
        shell: Shell,
    },
    /// Look at all that a node needs, Redis and the balancer among it, and say what will not do
    Doctor(DoctorArgs),
    /// Put load on running nodes, and measure
    Bench(BenchArgs),
    /// Exit 0 when the node answers ready
    Healthcheck {
        /// The node's URL; its path is /readyz unless it has one [default: the configured address]
        url: Option<String>,
    },
}

/// `switchboard token`: what goes into the token.
#[derive(Args)]
pub struct TokenArgs {
    /// The user's id
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub user: String,
    /// A role; any number of them
    #[arg(long = "role", value_name = "ROLE")]
    pub roles: Vec<String>,
    /// The user's name
    #[arg(long, value_name = "NAME")]
    pub username: Option<String>,
    /// How long it is good for
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = humantime_serde::re::humantime::parse_duration)]
    pub ttl: std::time::Duration,
    /// A further claim; the value is JSON where it parses as such, else text
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    pub claims: Vec<(String, serde_json::Value)>,
}

impl Options {
    /// The layers that the flags and `environment` make.
    pub fn sources(self, environment: Environment) -> Sources {
        Sources {
            file: self.config,
            environment,
            flags: Flags {
                listen: self.listen,
                internal_listen: self.internal_listen,
                redis_url: self.redis_url,
                node_id: self.node_id,
            },
        }
    }
}

/// Prints what clap has to say: help and version (exit 0), or what is wrong with the command line (64).
pub fn usage(error: &clap::Error) -> ExitCode {
    // Nothing is left to do when the pipe is closed.
    let _ = error.print();
    if error.use_stderr() {
        EXIT_USAGE.into()
    } else {
        ExitCode::SUCCESS
    }
}

/// The exit code of a failure: 64 when the configuration is the reason, the content of the files that it names among it; else
/// 1.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    let of_the_configuration = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<ConfigError>()
            || cause.is::<AuthConfigError>()
            || matches!(cause.downcast_ref(), Some(LinkError::Config(_)))
    };
    if error.chain().any(of_the_configuration) {
        EXIT_USAGE.into()
    } else {
        ExitCode::FAILURE
    }
}

fn claim(text: &str) -> Result<(String, serde_json::Value), &'static str> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((
            name.to_owned(),
            serde_json::from_str(value).unwrap_or_else(|_| value.into()),
        )),
        _ => Err("not NAME=VALUE"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_go_before_and_after_the_command() {
        for line in [
            ["switchboard", "--listen", "127.0.0.1:1", "serve"],
            ["switchboard", "serve", "--listen", "127.0.0.1:1"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert!(matches!(cli.command, Some(Command::Serve)));
            assert_eq!(cli.options.listen.as_deref(), Some("127.0.0.1:1"));
        }
    }

    #[test]
    fn a_claim_is_json_where_it_parses() {
        assert_eq!(claim("n=1").unwrap(), ("n".into(), 1.into()));
        assert_eq!(claim("t=a=b").unwrap(), ("t".into(), "a=b".into()));
        assert_eq!(
            claim("l=[\"x\"]").unwrap(),
            ("l".into(), serde_json::json!(["x"]))
        );
        assert!(claim("none").is_err());
        assert!(claim("=1").is_err());
    }

    #[test]
    fn secrets_are_no_flags() {
        for flag in ["--jwt-secret", "--api-key"] {
            assert!(Cli::try_parse_from(["switchboard", flag, "x"]).is_err());
        }
    }
}
