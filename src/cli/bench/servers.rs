//! What the nodes' processes use, as far as they are on this machine.

use std::{fmt, net::SocketAddr, time::Instant};

use serde::Serialize;

/// What a process used during a load.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Usage {
    pid: i32,
    cpu_seconds: f64,
    cpu_percent: f64,
    /// Resident, in bytes.
    memory_before: u64,
    memory_after: u64,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        write!(
            f,
            "{:<12}{:>9.2}{:>10.1}{:>14.1}{:>14.1}",
            self.pid,
            self.cpu_seconds,
            self.cpu_percent,
            megabytes(self.memory_before),
            megabytes(self.memory_after)
        )
    }
}

/// Processes as they were when a load began.
pub(super) struct Meter {
    since: Instant,
    before: Vec<(i32, f64, u64)>,
}

impl Meter {
    pub(super) fn start(pids: &[i32]) -> Self {
        Self {
            since: Instant::now(),
            before: pids.iter().filter_map(|pid| look(*pid)).collect(),
        }
    }

    /// What they used since. A process that is gone is left out.
    pub(super) fn stop(self) -> Vec<Usage> {
        let seconds = self.since.elapsed().as_secs_f64();
        let usage = |(pid, cpu, memory_before): (i32, f64, u64)| {
            let (_, now, memory_after) = look(pid)?;
            Some(Usage {
                pid,
                cpu_seconds: now - cpu,
                cpu_percent: 100.0 * (now - cpu) / seconds,
                memory_before,
                memory_after,
            })
        };
        self.before.into_iter().filter_map(usage).collect()
    }
}

/// A process's id, the seconds that it has computed, and its resident bytes.
#[cfg(target_os = "linux")]
fn look(pid: i32) -> Option<(i32, f64, u64)> {
    let process = procfs::process::Process::new(pid).ok()?;
    let stat = process.stat().ok()?;
    let cpu = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
    Some((pid, cpu, stat.rss * procfs::page_size()))
}

#[cfg(not(target_os = "linux"))]
fn look(_: i32) -> Option<(i32, f64, u64)> {
    None
}

/// The processes that listen at these addresses, as far as they are on this machine and this user's.
#[cfg(target_os = "linux")]
pub(super) fn listening_at(addresses: &[SocketAddr]) -> Vec<i32> {
    use procfs::{net::TcpState, process::FDTarget};

    let sockets = [procfs::net::tcp(), procfs::net::tcp6()];
    let sockets = sockets.into_iter().flatten().flatten();
    let inodes: Vec<u64> = sockets
        .filter(|socket| {
            let (at, to) = (socket.local_address, addresses);
            socket.state == TcpState::Listen
                && to.iter().any(|to| {
                    to.port() == at.port() && (at.ip() == to.ip() || at.ip().is_unspecified())
                })
        })
        .map(|socket| socket.inode)
        .collect();
    let processes = procfs::process::all_processes()
        .into_iter()
        .flatten()
        .flatten();
    processes
        .filter(|process| {
            let files = process.fd().into_iter().flatten().flatten();
            files.into_iter().any(
                |file| matches!(file.target, FDTarget::Socket(inode) if inodes.contains(&inode)),
            )
        })
        .map(|process| process.pid)
        .collect()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn listening_at(_: &[SocketAddr]) -> Vec<i32> {
    Vec::new()
}
