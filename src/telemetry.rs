//! Logs: `tracing`, to standard error, as text or JSON lines.
//!
//! # Conventions
//!
//! - Identifiers are fields, not text: `connection`, `user`, `namespace`, `node`. The message is a fixed sentence that can be
//!   searched for.
//! - A connection gets one line, at its end: who, how long, how much, why. It is `info` a few times at once and then once a
//!   second, and `debug` beyond that. One line each ten seconds says how many came and went. What else clients cause is `debug`.
//! - `error`: an operator has to act. `warn`: an operator should know. Both are limited to a line a second of each kind, after a
//!   few at once; how many were left out is said. `info`: start, end, links lost and found.
//! - What comes from outside goes into fields. Those are escaped and cut (`format`).
//! - The audit is what has the target [`AUDIT`]: in a file of its own if there is one, whatever the filter says.
//! - A token, cookie, key or password is in no line at any level, and neither is what an event carries.
//!
//! The filter is `log.level` alone; `RUST_LOG` is not read. Some libraries log what must not be logged: `socketioxide` and
//! `engineioxide` the CONNECT packet's `auth` and every message, `tungstenite` every frame, `hyper`, `reqwest` and
//! `redis` what goes over their sockets. Those stay capped at `info`, whatever the filter says.

mod audit_file;
mod format;
mod limit;
pub mod traces;

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, LevelFilter, filter_fn},
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use self::{
    audit_file::AuditFile,
    format::{JsonEvent, TextFields},
    limit::RateLimit,
};
use crate::config::{ConfigError, Log, LogFormat};

/// The target of the audit's lines.
pub const AUDIT: &str = "audit";

/// How often it is said what was left out.
const REPORT: Duration = Duration::from_secs(10);

/// The crates whose `debug` and `trace` lines hold credentials or messages.
const CAPPED: [&str; 11] = [
    "socketioxide",
    "socketioxide_core",
    "socketioxide_redis",
    "engineioxide",
    "engineioxide_core",
    "hyper",
    "hyper_util",
    "redis",
    "reqwest",
    "tokio_tungstenite",
    "tungstenite",
];

/// The log of a process at work.
#[derive(Clone)]
pub struct Logging {
    limit: RateLimit,
    audit: Option<AuditFile>,
}

impl std::fmt::Debug for Logging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logging")
            .field("audit", &self.audit)
            .finish_non_exhaustive()
    }
}

impl Logging {
    /// Opens the audit's file anew, for after a rotation.
    pub fn reopen(&self) {
        if let Some(audit) = &self.audit {
            audit.reopen();
        }
    }

    /// Says each ten seconds how many lines the limit of rate has kept back. Never returns.
    pub async fn report(self) {
        let mut ticks = tokio::time::interval(REPORT);
        loop {
            ticks.tick().await;
            self.limit.report();
        }
    }
}

/// Makes the process log as configured. Once a process: its global subscriber is set.
///
/// # Errors
///
/// A filter that does not parse or an audit file that can't be opened, by its key; a subscriber that is already there.
pub fn init(log: &Log) -> anyhow::Result<Logging> {
    let (subscriber, logging) = build(log, io::stderr, io::stderr().is_terminal())?;
    subscriber.try_init()?;
    Ok(logging)
}

/// What [`init`] installs, for any writer. `colors` is for text on a terminal.
///
/// # Errors
///
/// A filter that does not parse or an audit file that can't be opened, by its key.
pub fn subscriber<W>(
    log: &Log,
    writer: W,
    colors: bool,
) -> Result<impl Subscriber + Send + Sync + use<W>, ConfigError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    build(log, writer, colors).map(|(subscriber, _)| subscriber)
}

fn build<W>(
    log: &Log,
    writer: W,
    colors: bool,
) -> Result<(impl Subscriber + Send + Sync + use<W>, Logging), ConfigError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&log.level)
        .map_err(|error| ConfigError::at("log.level", error.to_string()))?;
    let audit = log.audit_file.as_deref().map(|path| {
        AuditFile::open(path).map_err(|error| {
            ConfigError::at("log.audit_file", format!("{}: {error}", path.display()))
        })
    });
    let audit = audit.transpose()?;
    let logging = Logging {
        limit: RateLimit::default(),
        audit: audit.clone(),
    };
    let apart = audit.is_some();
    // Every part has a hint of its level: without one of them tungstenite's traces, several for each frame, would all be asked about
    // here (measured: 6 % of what a broadcast costs).
    let may_log =
        move |metadata: &Metadata<'_>| may_log(metadata) && !(apart && is_audit(metadata));
    let main = filter
        .and(filter_fn(may_log).with_max_level_hint(LevelFilter::TRACE))
        .and(logging.limit.clone());
    let is_audit = filter_fn(is_audit).with_max_level_hint(LevelFilter::INFO);
    let audit = audit.map(|file| lines(log.format, file, false).with_filter(is_audit));
    let subscriber = Registry::default()
        .with(lines(log.format, writer, colors).with_filter(main))
        .with(audit);
    Ok((subscriber, logging))
}

fn lines<S, W>(format: LogFormat, writer: W, colors: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = fmt::layer().fmt_fields(TextFields).with_writer(writer);
    match format {
        LogFormat::Json => lines.event_format(JsonEvent).boxed(),
        // Left alone on a terminal, the layer heeds NO_COLOR.
        LogFormat::Text if colors => lines.boxed(),
        LogFormat::Text => lines.with_ansi(false).boxed(),
    }
}

fn is_audit(metadata: &Metadata<'_>) -> bool {
    metadata.target() == AUDIT
}

fn may_log(metadata: &Metadata<'_>) -> bool {
    let root = metadata
        .target()
        .split_once("::")
        .map_or(metadata.target(), |(root, _)| root);
    *metadata.level() <= Level::INFO || !CAPPED.contains(&root)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, format: LogFormat, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let config = Log {
            format,
            level: level.into(),
            ..Log::default()
        };
        let subscriber = subscriber(&config, move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = lines.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn lines_below_the_level_are_asked_about_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        for audit_file in [None, Some(dir.path().join("audit"))] {
            for (level, most) in [
                ("info", LevelFilter::INFO),
                ("info,switchboard=debug", LevelFilter::DEBUG),
            ] {
                let config = Log {
                    level: level.into(),
                    audit_file: audit_file.clone(),
                    ..Log::default()
                };
                let subscriber = subscriber(&config, io::stderr, false).unwrap();
                assert_eq!(subscriber.max_level_hint(), Some(most), "{level}");
            }
        }
    }

    #[test]
    fn libraries_that_log_credentials_are_capped_whatever_the_filter_says() {
        let text = logged(
            "trace,engineioxide=trace,redis::aio=trace",
            LogFormat::Text,
            || {
                tracing::trace!(target: "engineioxide::socket", "leak-1");
                tracing::debug!(target: "socketioxide::client", "leak-2");
                tracing::debug!(target: "redis::aio", "leak-3");
                tracing::debug!(target: "hyper_util", "leak-4");
                tracing::info!(target: "socketioxide", "news");
                tracing::trace!(target: "switchboard::gateway", "ours");
            },
        );

        assert!(!text.contains("leak"), "{text}");
        assert!(text.contains("news") && text.contains("ours"), "{text}");
    }

    #[test]
    fn the_filter_is_the_configured_one() {
        let text = logged("warn,switchboard::auth=debug", LogFormat::Text, || {
            tracing::info!(target: "switchboard::api", "quiet");
            tracing::debug!(target: "switchboard::auth", "loud");
        });

        assert!(!text.contains("quiet") && text.contains("loud"), "{text}");
        assert!(!text.contains('\x1b'), "{text:?}");
    }

    #[test]
    fn json_is_one_object_a_line_with_its_fields_on_top() {
        let text = logged("info", LogFormat::Json, || {
            tracing::info!(user = "42", "connection ended");
        });

        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["user"], "42");
        assert_eq!(line["message"], "connection ended");
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn what_comes_from_outside_makes_no_line_and_no_field() {
        let user = "a\n2026-01-01T00:00:00Z INFO audit: who=\"root\"\u{9b}1m\u{2028}";
        let log = || {
            tracing::info!(target: AUDIT, who = "key:shop", whom = %user, "access");
            tracing::info!(target: AUDIT, whom = user, debug = ?user, "of {user}");
            tracing::info!(%user, plain = %"c-1", spaced = %"a who=root");
        };

        let text = logged("info", LogFormat::Text, log);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(!text.contains(['\u{9b}', '\u{2028}']), "{text:?}");
        let escaped = r#"whom="a\n2026-01-01T00:00:00Z INFO audit: who=\"root\"\u{9b}1m\u{2028}""#;
        for line in &lines[..2] {
            assert!(line.contains(escaped), "{line}");
        }
        assert!(
            lines[2].ends_with(r#"plain=c-1 spaced="a who=root""#),
            "{text}"
        );

        let json = logged("info", LogFormat::Json, log);
        for line in json.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_ne!(line["who"], "root");
        }
        assert_eq!(json.lines().count(), 3, "{json}");
    }

    #[test]
    fn what_comes_from_outside_is_cut() {
        let long = "ä".repeat(900_000);
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = logged("info", format, || {
                tracing::info!(display = %long, text = long, debug = ?long, "{long}");
            });

            assert_eq!(text.lines().count(), 1);
            let kept = text.chars().filter(|c| *c == 'ä').count();
            assert_eq!(kept, 255 + 255 + 254 + 2047, "{format:?}");
            assert_eq!(text.chars().filter(|c| *c == '…').count(), 4);
        }
    }

    #[test]
    fn warnings_of_a_kind_are_limited_and_those_left_out_are_counted() {
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, logging) = build(&Log::default(), move || writer.clone(), false).unwrap();
        let logged = |log: &dyn Fn()| {
            log();
            String::from_utf8(std::mem::take(&mut *lines.0.lock())).unwrap()
        };
        tracing::subscriber::with_default(subscriber, || {
            let warned = logged(&|| {
                for user in 0..1000 {
                    tracing::warn!(user, "a cookie was used twice");
                    tracing::info!("said");
                }
                tracing::warn!("of another kind");
            });
            let twice = warned.matches("a cookie was used twice").count();
            assert!((10..100).contains(&twice), "{twice}");
            assert_eq!(warned.matches("said").count(), 1000);
            assert!(warned.contains("of another kind"));

            let reported = logged(&|| logging.limit.report());
            let rest = format!("lines={} of=\"a cookie was used twice\"", 1000 - twice);
            assert!(reported.contains(&rest), "{reported}");
            assert_eq!(logged(&|| logging.limit.report()), "");
        });
    }

    #[test]
    fn the_audit_goes_to_its_file_alone_whatever_the_level() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let log = Log {
            level: "error".into(),
            audit_file: Some(path.clone()),
            ..Log::default()
        };
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, logging) = build(&log, move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: AUDIT, whom = "1", "access");
            tracing::error!("another line");
            let rotated = folder.path().join("audit.log.1");
            std::fs::rename(&path, &rotated).unwrap();
            tracing::info!(target: AUDIT, whom = "2", "access");
            logging.reopen();
            tracing::info!(target: AUDIT, whom = "3", "access");

            let old = std::fs::read_to_string(rotated).unwrap();
            assert_eq!(old.lines().count(), 2, "{old}");
            assert!(old.contains("whom=\"2\""), "{old}");
            let new = std::fs::read_to_string(&path).unwrap();
            assert_eq!(new.lines().count(), 1, "{new}");
            assert!(new.contains("whom=\"3\""), "{new}");
        });
        let log = String::from_utf8(lines.0.lock().clone()).unwrap();
        assert!(
            log.contains("another line") && !log.contains("whom"),
            "{log}"
        );
    }

    #[test]
    fn an_audit_file_that_can_not_be_opened_is_named() {
        let log = Log {
            audit_file: Some("/nowhere/audit.log".into()),
            ..Log::default()
        };

        let error = subscriber(&log, io::sink, false).err().expect("refused");
        assert_eq!(error.problems()[0].key, "log.audit_file");
    }

    #[test]
    fn a_filter_that_does_not_parse_is_named() {
        let log = Log {
            level: "info,=,=".into(),
            ..Log::default()
        };

        let error = subscriber(&log, io::sink, false).err().expect("refused");
        assert_eq!(error.problems()[0].key, "log.level");
    }
}
