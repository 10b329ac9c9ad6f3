//! The life of the process.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::Parser;
use switchboard::{
    Builder,
    app::Reloader,
    auth,
    cli::{self, Cli, Command, bench::bench, commands, development::Welcome, doctor::doctor},
    config::{Effective, Environment, Reload, Sources},
    telemetry::{self, Logging},
};
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Gives freed memory back, as glibc's allocator does not: see `gateway::memory`.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cli::usage(&error),
    };
    run(cli).unwrap_or_else(|error| {
        for line in format!("{error:#}").lines() {
            eprintln!("switchboard: {line}");
        }
        cli::exit_code(&error)
    })
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    auth::install_crypto()?;
    let sources = cli.options.sources(Environment::of_process());
    let runtime = Runtime::new().context("no runtime")?;
    let outcome = runtime.block_on(async {
        match cli.command.unwrap_or(Command::Serve) {
            Command::Serve => serve(&sources).await,
            Command::Token(args) => commands::mint(&sources, args),
            Command::CheckToken { token } => commands::check_token(&sources, token).await,
            Command::CheckConfig => commands::check_config(&sources),
            Command::PrintConfig => commands::print_config(&sources),
            Command::ConfigDoc => commands::config_doc(),
            Command::Completions { shell } => commands::completions(shell),
            Command::Doctor(args) => doctor(&sources, args).await,
            Command::Bench(args) => bench(&sources, args).await,
            Command::Healthcheck { url } => commands::healthcheck(&sources, url).await,
        }
    });
    // A name lookup that hangs on a blocking thread must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn serve(sources: &Sources) -> anyhow::Result<ExitCode> {
    let effective = Effective::of(sources.load()?)?;
    let logging = telemetry::init(&effective.config.log)?;
    tokio::spawn(logging.clone().report());
    // From here on also what ends the process is a line that log readers can parse.
    live(effective, sources, logging).await.or_else(|error| {
        tracing::error!(error = format!("{error:#}"), "the node ends");
        Ok(cli::exit_code(&error))
    })
}

async fn live(
    effective: Effective,
    sources: &Sources,
    logging: Logging,
) -> anyhow::Result<ExitCode> {
    for warning in effective.warnings {
        tracing::warn!("{warning}");
    }
    // A connection is a file descriptor, and the soft limit is 1,024 on most systems, for the sake of programs that use
    // select(2).
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) => tracing::debug!(files, "file descriptors that may be open"),
        Err(error) => tracing::warn!(%error, "the limit of open files can't be raised"),
    }
    // Before anything is built, so that no signal finds the default handler, which drains nothing.
    let signals = count_signals()?;

    let (jwt, transport) = (
        effective.config.auth.jwt.clone(),
        effective.config.transport.clone(),
    );
    let mut app = Builder::new(effective.config).bind().await?;
    let (public, internal) = (app.addr()?, app.internal_addr()?);
    if let Some(made_up) = effective.development {
        let welcome = Welcome::new(
            &made_up,
            &jwt,
            &transport,
            public,
            internal.unwrap_or(public),
        )?;
        // Development mode goes on with nobody reading along.
        let _ = write!(io::stdout().lock(), "{welcome}");
        app = app.signed_in(made_up);
    }
    let node = app.node_id().to_string();
    tracing::info!(node, "listening on http://{public}");
    if let Some(internal) = internal {
        tracing::info!(node, "internal listener on http://{internal}");
    }

    tokio::spawn(reload_at_hangup(app.reloader(), sources.clone(), logging));

    let run = app.run(at_least(1, &signals), at_least(2, &signals));
    tokio::select! {
        () = run => {}
        () = overdue(&signals) => {}
    }
    if *signals.borrow() > 1 {
        tracing::warn!(node, "ended at once by a second signal");
        return Ok(ExitCode::FAILURE);
    }
    tracing::info!(node, "ended");
    Ok(ExitCode::SUCCESS)
}

/// Opens the audit's file and takes the configuration over anew at each SIGHUP. What is wrong with it changes nothing.
async fn reload_at_hangup(reloader: Reloader, sources: Sources, logging: Logging) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        tracing::warn!("SIGHUP can't be listened for: the configuration is not reloaded");
        return;
    };
    while hangup.recv().await.is_some() {
        logging.reopen();
        let reloaded = sources
            .load()
            .map_err(anyhow::Error::from)
            .and_then(|config| reloader.reload(&config));
        match reloaded {
            Ok(Reload {
                changed, restart, ..
            }) => {
                tracing::info!(changed = changed.join(", "), "configuration reloaded");
                if !restart.is_empty() {
                    let keys = restart.join(", ");
                    tracing::warn!(keys, "changed, but taken over at the next start only");
                }
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(
                    error,
                    "the configuration can't be reloaded; nothing has changed"
                );
            }
        }
    }
}

/// How many of SIGTERM and SIGINT have come.
fn count_signals() -> anyhow::Result<watch::Receiver<u32>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (count, counted) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            count.send_modify(|count| *count += 1);
        }
    });
    Ok(counted)
}

/// Resolves when that many signals have come.
fn at_least(
    wanted: u32,
    signals: &watch::Receiver<u32>,
) -> impl Future<Output = ()> + Send + 'static {
    let mut signals = signals.clone();
    async move {
        // The sender is never dropped while the runtime runs.
        let _ = signals.wait_for(|count| *count >= wanted).await;
    }
}

/// Resolves a second after the second signal: whatever still holds the node up by then, it ends.
async fn overdue(signals: &watch::Receiver<u32>) {
    at_least(2, signals).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
}
