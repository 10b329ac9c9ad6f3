//! `bench`: load against running nodes, and what it took them.
//!
//! Operations are due at fixed times, whether or not the earlier ones are done, and each is timed from when it was due (`pace`): a
//! node that stalls is not asked less often for it, and its stall is in every percentile.
//!
//! `work` is what each kind of load does, `crowd` the clients that it does it with, `target` the nodes, `report` what comes out.

mod crowd;
mod pace;
mod report;
mod servers;
mod target;
mod work;

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use humantime_serde::re::humantime::parse_duration;
use reqwest::Url;

use self::{pace::Pace, report::Report, target::Target};
use crate::config::{ConfigError, Sources};

/// The longest run.
const LONGEST: Duration = Duration::from_secs(3600);

/// The most operations of a run.
const MOST_OPERATIONS: u64 = 1_000_000;

/// `switchboard bench`: which load, on which nodes.
#[derive(Args)]
pub struct BenchArgs {
    #[command(flatten)]
    load: Load,
    #[command(subcommand)]
    work: Work,
}

/// What every kind of load takes. Secrets and the API key are those of the configuration.
#[derive(Args)]
#[command(next_help_heading = "Load")]
struct Load {
    /// Where clients connect; several are taken in turn [default: the configured address]
    #[arg(long = "url", global = true)]
    urls: Vec<Url>,
    /// Where /v1 is [default: the first of --url]
    #[arg(long, global = true)]
    api: Option<Url>,
    /// How many clients
    #[arg(long, global = true, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    connections: u32,
    /// Operations a second
    #[arg(long, global = true, default_value_t = 50.0, value_parser = rate)]
    rate: f64,
    /// For how long, up to an hour
    #[arg(long, global = true, default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// The clients' namespace
    #[arg(long, global = true, default_value = "/")]
    namespace: String,
    /// Bytes of data in each message
    #[arg(long, global = true, default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    size: u32,
    /// Nodes' processes on this machine, to measure [default: who listens at --url]
    #[arg(long = "pid", global = true)]
    pids: Vec<i32>,
    /// Allow servers on other machines: load may take them down
    #[arg(long, global = true)]
    allow_remote: bool,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

/// The kinds of load.
#[derive(Subcommand)]
enum Work {
    /// Clients connect, at --rate, up to --connections
    Connect,
    /// --connections clients stay for --duration and say nothing
    Idle,
    /// A backend sends to one user after the other
    Send,
    /// A backend sends to everybody
    Broadcast,
    /// A backend sends to a room with all clients in it
    Room,
    /// Clients emit an event and wait for its acknowledgement
    Call {
        /// The event; `devices` is answered by every node itself
        #[arg(long, default_value = "devices")]
        event: String,
    },
    /// A backend disconnects one user after the other
    Kick,
    /// Clients come, stay and go again, at --rate for --duration
    Churn {
        /// How long each stays
        #[arg(long, default_value = "1s", value_parser = duration)]
        stay: Duration,
    },
}

impl Work {
    fn name(&self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Idle => "idle",
            Self::Send => "send",
            Self::Broadcast => "broadcast",
            Self::Room => "room",
            Self::Call { .. } => "call",
            Self::Kick => "kick",
            Self::Churn { .. } => "churn",
        }
    }

    /// How many operations there are, and how fast: one for each client, or as many as there are in the time. Fails if they
    /// are too many, or take too long.
    fn pace(&self, load: &Load) -> Result<Pace, ConfigError> {
        let pace = match self {
            Self::Connect | Self::Idle | Self::Kick => Pace {
                rate: load.rate,
                count: load.connections.into(),
            },
            _ => Pace::lasting(load.rate, load.duration),
        };
        let seconds = pace.count as f64 / pace.rate;
        if pace.count > MOST_OPERATIONS || seconds > LONGEST.as_secs_f64() + 1.0 / pace.rate {
            let says = format!(
                "{} operations in {seconds:.0} s are too much: {MOST_OPERATIONS} are allowed, in an hour",
                pace.count
            );
            return Err(ConfigError::at("--rate", says));
        }
        Ok(pace)
    }
}

/// `bench`: runs a load and prints what came of it; exit code 1 when an operation failed.
///
/// # Errors
///
/// A bad configuration, or one without the secrets for it; servers elsewhere, without `--allow-remote`; clients that can't
/// be connected before the load begins.
pub async fn bench(sources: &Sources, args: BenchArgs) -> anyhow::Result<ExitCode> {
    let BenchArgs { load, work } = args;
    let pace = work.pace(&load)?;
    // A client is a file descriptor here as well. One that can't be had is an operation that fails.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let target = Target::new(&sources.load()?, &load).await?;
    let pids = match load.pids.as_slice() {
        [] => servers::listening_at(target.addresses()),
        given => given.to_vec(),
    };

    let report = work::run(&work, &load, pace, target, &pids).await?;
    super::commands::print(&match load.json {
        true => serde_json::to_string_pretty(&report)?,
        false => report.to_string(),
    })?;
    Ok(match report.has_failures() {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.01..=50_000.0).contains(&rate) => Ok(rate),
        _ => Err("not a number between 0.01 and 50000".into()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        Ok(_) => Err("more than an hour".into()),
        Err(error) => Err(error.to_string()),
    }
}
