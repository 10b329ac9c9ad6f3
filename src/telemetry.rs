//! Logs: `tracing`, to standard error, as text or JSON lines.
//!
//! # Conventions
//!
//! - Identifiers are fields, not text: `connection`, `user`, `namespace`, `node`. The message is a fixed sentence that can be
//!   searched for.
//! - A connection gets one summary line, at its end: who, how long, how much, why. What happens in between is `debug`.
//! - `error`: somebody has to act. `warn`: somebody should know. `info`: start, end, links lost and found, connections.
//! - A token, cookie, key or password is in no line at any level, and neither is what an event carries.
//!
//! The filter is `log.level` alone; `RUST_LOG` is not read. Some libraries log what must not be logged: `socketioxide` and
//! `engineioxide` the CONNECT packet's `auth` and every message, `tungstenite` every frame, `hyper`, `reqwest` and
//! `redis` what goes over their sockets. Those stay capped at `info`, whatever the filter says.

use std::io::{self, IsTerminal};

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::filter_fn,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::{ConfigError, Log, LogFormat};

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

/// Makes the process log as configured. Once a process: its global subscriber is set.
///
/// # Errors
///
/// A filter that does not parse, by its key; a subscriber that is already there.
pub fn init(log: &Log) -> anyhow::Result<()> {
    subscriber(log, io::stderr, io::stderr().is_terminal())?.try_init()?;
    Ok(())
}

/// What [`init`] installs, for any writer. `colors` is for text on a terminal.
///
/// # Errors
///
/// A filter that does not parse, by its key.
pub fn subscriber<W>(
    log: &Log,
    writer: W,
    colors: bool,
) -> Result<impl Subscriber + Send + Sync + use<W>, ConfigError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&log.level)
        .map_err(|error| ConfigError::at("log.level", error.to_string()))?;
    let lines = fmt::layer().with_writer(writer);
    let lines: Box<dyn Layer<_> + Send + Sync> = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        // Left alone on a terminal, the layer heeds NO_COLOR.
        LogFormat::Text if colors => lines.boxed(),
        LogFormat::Text => lines.with_ansi(false).boxed(),
    };
    Ok(Registry::default()
        .with(lines)
        .with(filter)
        .with(filter_fn(may_log)))
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
        };
        let subscriber = subscriber(&config, move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = lines.0.lock().clone();
        String::from_utf8(bytes).unwrap()
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
    fn a_filter_that_does_not_parse_is_named() {
        let log = Log {
            level: "info,=,=".into(),
            ..Log::default()
        };

        let error = subscriber(&log, io::sink, false).err().expect("refused");
        assert_eq!(error.problems()[0].key, "log.level");
    }
}
