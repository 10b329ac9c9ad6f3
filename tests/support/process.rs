//! A child process with its output kept, and what the system knows of it.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
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

/// The file descriptors of a process, told apart by where they lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Descriptors {
    /// Connections to one given address: to Redis, which a node opens as it needs them.
    pub(crate) to_redis: usize,
    /// All others.
    pub(crate) others: usize,
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

    /// Its file descriptors.
    pub(crate) fn descriptors(&self, redis: SocketAddr) -> Descriptors {
        let remotes = remotes(self.pid());
        let mut found = Descriptors::default();
        let Ok(open) = fs::read_dir(format!("/proc/{}/fd", self.pid())) else {
            return found;
        };
        for entry in open.flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            let target = target.to_string_lossy();
            let inode = target
                .strip_prefix("socket:[")
                .map(|rest| rest.trim_end_matches(']'));
            match inode.and_then(|inode| remotes.get(inode)) {
                Some(port) if *port == redis.port() => found.to_redis += 1,
                _ => found.others += 1,
            }
        }
        found
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

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Inode of each TCP socket in the process's network namespace, and the port that it leads to.
fn remotes(pid: u32) -> HashMap<String, u16> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let rows = text.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (_, port) = fields.get(2)?.split_once(':')?;
        Some((
            (*fields.get(9)?).to_owned(),
            u16::from_str_radix(port, 16).ok()?,
        ))
    });
    rows.collect()
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
