//! The audit log: one line for each call that changes a user's right to be connected, with the caller, the verb, the target and
//! the result. A call that is malformed, has no valid credentials, or has the token of a user who is no administrator is not
//! logged; a stranger's call is logged only if it changed something. So neither strangers nor users can fill the log.
//!
//! The lines have the target `audit` and the level `info`, so that `log.level = "warn,audit=info"` keeps them where the
//! rest is too much, and `log.audit_file` has them in a file of their own. The log quotes and cuts names and ids: an id with a
//! line break in it makes no second line.

use http::Method;

use super::error::ApiError;
use crate::{
    gateway::{
        Disconnected, TokenRevoked,
        access::{Issued, Revoked},
    },
    telemetry::AUDIT,
};

/// What a call came to.
pub trait Outcome {
    /// In a word.
    fn word(&self) -> &'static str {
        match self.ended() {
            Some(ended) if !ended.remaining.is_empty() => "unconfirmed",
            _ => "done",
        }
    }

    /// The connections that it ended.
    fn ended(&self) -> Option<&Disconnected> {
        None
    }
}

impl Outcome for Disconnected {
    fn ended(&self) -> Option<&Disconnected> {
        Some(self)
    }
}

impl Outcome for Revoked {
    fn ended(&self) -> Option<&Disconnected> {
        Some(&self.disconnected)
    }
}

impl Outcome for TokenRevoked {
    fn word(&self) -> &'static str {
        match self.unconfirmed {
            0 => self.disconnected.word(),
            _ => "unconfirmed",
        }
    }

    fn ended(&self) -> Option<&Disconnected> {
        Some(&self.disconnected)
    }
}

impl Outcome for Issued {}

/// Whether there was anything to do.
impl Outcome for bool {
    fn word(&self) -> &'static str {
        if *self { "done" } else { "nothing_to_do" }
    }
}

/// Runs a call and writes its audit line: `who` did `what` to `whom`. A call that fails is logged with its error's code as the
/// result; one whose caller has gone, or whose time was up, is logged as well.
pub async fn leave<T: Outcome>(
    who: &str,
    what: &'static str,
    whom: &str,
    call: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    let mut line = Line {
        who,
        what,
        whom,
        written: false,
    };
    let result = call.await;
    match &result {
        Ok(outcome) => line.write(outcome.word(), outcome.ended()),
        Err(error) => line.write(&error.code.to_string(), None),
    }
    result
}

/// Writes the audit line of a stranger's call that changed something: `who` did `what` to `whom`.
pub fn changed(who: &str, what: &'static str, whom: &str) {
    write(who, what, whom, "done", None);
}

/// Leaves the line of a call that a key was refused for want of the scope.
pub fn refused(who: &str, method: &Method, path: &str) {
    write(who, method.as_str(), path, "forbidden", None);
}

struct Line<'a> {
    who: &'a str,
    what: &'static str,
    whom: &'a str,
    written: bool,
}

impl Line<'_> {
    fn write(&mut self, result: &str, ended: Option<&Disconnected>) {
        self.written = true;
        write(self.who, self.what, self.whom, result, ended);
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.written {
            self.write("abandoned", None);
        }
    }
}

fn write(who: &str, what: &str, whom: &str, result: &str, ended: Option<&Disconnected>) {
    tracing::info!(
        target: AUDIT,
        who,
        what,
        whom,
        result,
        disconnected = ended.map(|ended| ended.disconnected),
        remaining = ended.map(|ended| ended.remaining.len()),
        "access"
    );
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(super) mod tests {
    use std::{io, sync::Arc};

    use futures_util::FutureExt;
    use parking_lot::Mutex;
    use serde_json::{Value, json};
    use tracing::subscriber::DefaultGuard;

    use super::*;
    use crate::{
        api::error::ErrorCode,
        config::{Log, LogFormat},
        telemetry,
    };

    /// The audit's lines of this thread.
    pub(in crate::api) struct Lines {
        bytes: Arc<Mutex<Vec<u8>>>,
        _guard: DefaultGuard,
    }

    struct Writer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Writer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        pub(in crate::api) fn listen() -> Self {
            let bytes = Arc::new(Mutex::default());
            let log = Log {
                format: LogFormat::Json,
                level: "audit=info".into(),
                ..Log::default()
            };
            let to = Arc::clone(&bytes);
            let subscriber =
                telemetry::subscriber(&log, move || Writer(to.clone()), false).unwrap();
            let _guard = tracing::subscriber::set_default(subscriber);
            Self { bytes, _guard }
        }

        /// Those since the last time, without the time.
        pub(in crate::api) fn take(&self) -> Vec<Value> {
            let text = String::from_utf8(std::mem::take(&mut *self.bytes.lock())).unwrap();
            let line = |text| {
                let mut line: Value = serde_json::from_str(text).unwrap();
                let fields = line.as_object_mut().unwrap();
                assert!(fields.remove("timestamp").is_some());
                assert_eq!(fields.remove("level"), Some(json!("INFO")));
                assert_eq!(fields.remove("target"), Some(json!("audit")));
                assert_eq!(fields.remove("message"), Some(json!("access")));
                line
            };
            text.lines().map(line).collect()
        }
    }

    #[tokio::test]
    async fn every_call_leaves_one_line_however_it_ends() {
        let lines = Lines::listen();
        let mut ended = Disconnected {
            disconnected: 2,
            ..Disconnected::default()
        };
        let (who, whom) = ("key:shop", "42\nwho=\"key:other\"");
        let base =
            |result: &str| json!({"who": who, "what": "ban", "whom": whom, "result": result});
        let counted = |result: &str, remaining: u64| {
            let mut line = base(result);
            line["disconnected"] = json!(2);
            line["remaining"] = json!(remaining);
            line
        };

        let answer = leave(who, "ban", whom, async { Ok(ended.clone()) }).await;
        assert_eq!(answer, Ok(ended.clone()));
        assert_eq!(lines.take(), [counted("done", 0)]);

        ended.remaining.push("c".into());
        let answer = leave(who, "ban", whom, async { Ok(ended.clone()) }).await;
        assert_eq!(answer, Ok(ended));
        assert_eq!(lines.take(), [counted("unconfirmed", 1)]);

        for there_was in [true, false] {
            let answer = leave(who, "ban", whom, async { Ok(there_was) }).await;
            assert_eq!(answer, Ok(there_was));
        }
        assert_eq!(lines.take(), [base("done"), base("nothing_to_do")]);

        let late = ApiError::new(ErrorCode::InvalidTime, "until: in the past");
        let failed = async { Err(late.clone()) };
        assert_eq!(leave::<bool>(who, "ban", whom, failed).await, Err(late));
        assert_eq!(lines.take(), [base("invalid_time")]);

        // Polled once, and dropped.
        let endless = std::future::pending::<Result<bool, ApiError>>();
        assert_eq!(leave(who, "ban", whom, endless).now_or_never(), None);
        assert_eq!(lines.take(), [base("abandoned")]);
    }
}
