//! A child process with its output kept, and what the system knows of it.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use super::bounds::within;

/// A process; killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    ended: Option<ExitStatus>,
}

impl Process {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::default();
        read_along(child.stdout.take().unwrap(), &lines);
        read_along(child.stderr.take().unwrap(), &lines);
        Self {
            child,
            lines,
            ended: None,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has printed.
    pub(crate) fn log(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits for a line that `find` finds something in.
    pub(crate) async fn line<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let look = async || {
            let log = self.log();
            let found = log.iter().find_map(|line| find(line));
            found.ok_or_else(|| log.join("\n"))
        };
        within(Duration::from_secs(60), what, look).await.1
    }

    /// Sends it a signal by name: `TERM`, `KILL`, `STOP`, `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.pid().to_string()])
            .status();
        assert!(sent.unwrap().success(), "SIG{name} to {}", self.pid());
    }

    /// Stops it, and returns when it stands still: until one of its threads has taken the signal, the others go on.
    pub(crate) fn stop(&self) {
        self.signal("STOP");
        let start = std::time::Instant::now();
        while !self.stands_still() {
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "SIGSTOP stops nothing"
            );
            #[expect(
                clippy::disallowed_methods,
                reason = "a process that is being stopped says nothing to await, and stops at once"
            )]
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stands_still(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid()));
        tasks.is_ok_and(|tasks| {
            tasks.flatten().all(|task| {
                let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
                status.is_empty() || status.contains("State:\tT")
            })
        })
    }

    /// How it has ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended
    }

    /// Waits for its end.
    pub(crate) async fn ends(&mut self, limit: Duration) -> ExitStatus {
        let start = tokio::time::Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(
                start.elapsed() < limit,
                "process {} has not ended within {limit:?}; its log:\n{}",
                self.pid(),
                self.log().join("\n")
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends it without ceremony: `kill -9`.
    pub(crate) fn kill(&mut self) {
        if self.ended().is_none() {
            self.child.kill().ok();
            self.ended = self.child.wait().ok();
        }
    }

    /// How many file descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// A number of `/proc/PID/status`: `VmRSS` in KB, `Threads`.
    pub(crate) fn status(&self, name: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    }
}

impl Process {
    /// The time that its threads have computed so far, in the system's ticks of 10 ms.
    pub(crate) fn cpu(&self) -> Duration {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // After the name, which may have anything in it: state is the third field, utime and stime are 14 and 15.
        let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(10 * ticks)
    }

    /// Has `VmHWM` of `/proc/PID/status` begin anew, at what is resident now.
    pub(crate) fn forget_peak(&self) {
        let path = format!("/proc/{}/clear_refs", self.pid());
        fs::write(&path, "5").unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read_along(from: impl Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) {
    let lines = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(plain(&line));
        }
    });
}

/// Without the colours.
fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        text.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    text.push_str(rest);
    text
}
