//! `doctor`: looks at all that a node needs, and says of each thing whether it will do.
//!
//! `servers` is what is asked of each server of Redis, `rights` what its user may do there, `balancer` what clients meet at a URL.

mod balancer;
mod report;
mod rights;
mod servers;

use std::{process::ExitCode, time::Duration};

use clap::Args;
use reqwest::Url;
use tokio::time::{Instant, timeout_at};

use self::report::Report;
use crate::{
    auth::Authenticator,
    config::{Effective, Limits, Sources},
    transport::door::descriptors_for,
};

/// How long what is asked of servers may take, all together; what is tried at `--url` has as long again, and `--patience`.
const WITHIN: Duration = Duration::from_secs(30);

/// With fewer descriptors than this, a node is full before it is busy.
const MANY_DESCRIPTORS: u64 = 65_536;

/// With fewer descriptors than this, a node is of no use.
const FEW_DESCRIPTORS: u64 = 1_024;

/// `switchboard doctor`: what is looked at besides the configuration.
#[derive(Args)]
pub struct DoctorArgs {
    /// Where clients connect, a balancer or a node: tries long-polling, WebSocket and idle timeouts there
    #[arg(long)]
    url: Option<Url>,
    /// How long to wait for the server's ping on an idle connection
    #[arg(long, value_name = "DURATION", default_value = "35s", value_parser = humantime_serde::re::humantime::parse_duration)]
    patience: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `doctor`: prints a line for each thing that it has looked at; exit code 1 when one of them will not do.
///
/// # Errors
///
/// A bad configuration; standard output that can't be written to.
pub async fn doctor(sources: &Sources, args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let effective = Effective::of(sources.load()?)?;
    let config = &effective.config;
    let authenticator = Authenticator::new(&config.auth, &config.namespaces)?;

    let until = Instant::now() + WITHIN;
    let mut report = Report::default();
    match effective.warnings.as_slice() {
        [] => report.ok("configuration", "a node would start with it"),
        some => some
            .iter()
            .for_each(|one| report.warn("configuration", one)),
    }
    servers::examine(config, until, &mut report).await?;
    let asked = timeout_at(until, authenticator.ask_issuers()).await;
    if asked.is_err() {
        report.late("jwks", "the JWKS URLs");
    }
    for (key, asked) in asked.unwrap_or_default() {
        match asked {
            Ok(keys) => report.ok("jwks", format!("{key}: {keys} keys")),
            Err(why) => report.fail(
                "jwks",
                format!("{key}: {why}; tokens of its keys are refused until it answers"),
            ),
        }
    }
    match rlimit::Resource::NOFILE.get_hard() {
        Ok(hard) => descriptors(hard, &config.limits, &mut report),
        Err(error) => report.warn("descriptors", format!("the limit can't be read: {error}")),
    }
    if let Some(url) = &args.url {
        balancer::examine(config, url, args.patience, &mut report).await;
    }

    super::commands::print(&report.print(args.json)?)?;
    Ok(match report.is_well() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Judges the hard limit, as a node raises the soft one to it.
fn descriptors(hard: u64, limits: &Limits, report: &mut Report) {
    let room = descriptors_for(hard);
    let says = format!("{hard} may be open, which is room for {room} connections");
    let raise = "raise the hard limit (LimitNOFILE=, --ulimit nofile=, ulimit -Hn)";
    let wanted = limits.connections.map_or(0, u64::from);
    if wanted > room {
        let says = format!("{says}, and limits.connections is {wanted}: {raise}");
        report.fail("descriptors", says);
    } else if hard < FEW_DESCRIPTORS {
        report.fail("descriptors", format!("{says}: {raise}"));
    } else if hard < MANY_DESCRIPTORS && wanted == 0 {
        report.warn("descriptors", format!("{says}: {raise}"));
    } else {
        report.ok("descriptors", says);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hard_limit_is_held_against_what_is_configured() {
        for (hard, connections, begins) in [
            (1_048_576, None, "ok"),
            (1_048_576, Some(1_000_000), "ok"),
            (1_048_576, Some(1_048_576), "FAIL"),
            (4_096, None, "warn"),
            (4_096, Some(3_000), "ok"),
            (512, None, "FAIL"),
        ] {
            let limits = Limits {
                connections,
                ..Limits::default()
            };
            let mut report = Report::default();
            descriptors(hard, &limits, &mut report);
            let printed = report.print(false).unwrap_or_default();
            assert!(printed.starts_with(begins), "{hard}: {printed}");
        }
    }
}
