//! The command line.

use clap::{Parser, ValueEnum};

/// Sockets of the largest crowd, if no user is to have more. Of more connections, each socket carries several.
pub(crate) const SOCKETS: usize = 12_500;

/// Measures what the foundation costs.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// The node's command, instead of the binary that cargo built; repeated: a column each. A shell word or several:
    /// `--bin 'env SWITCHBOARD_X=1 ./switchboard'`
    #[arg(long, env = "SWITCHBOARD_BIN")]
    pub(crate) bin: Vec<String>,

    /// Only these parts
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,

    /// Passes over everything; the lowest of each figure counts
    #[arg(long, default_value_t = 1)]
    pub(crate) repeat: usize,

    /// Nodes of the usual fleet
    #[arg(long, default_value_t = 8)]
    pub(crate) nodes: usize,

    /// Nodes of the large fleet that reads and heartbeats are measured with
    #[arg(long, default_value_t = 100)]
    pub(crate) leases: usize,

    /// Sends that are measured, of each fleet
    #[arg(long, default_value_t = 20_000)]
    pub(crate) sends: usize,

    /// Also sends at 16 nodes and at 4, with the same holders
    #[arg(long)]
    pub(crate) wide: bool,

    /// Connections of one user that a connect is measured with
    #[arg(long, default_value_t = 10_000)]
    pub(crate) crowded: usize,

    /// Members of one room, which are in the registry and nowhere else
    #[arg(long, default_value_t = 100_000)]
    pub(crate) members: usize,

    /// Seconds that these may take to come
    #[arg(long, default_value_t = 60)]
    pub(crate) patience: u64,

    /// Clients' events that are kept for a backend and delivered
    #[arg(long, default_value_t = 25_600)]
    pub(crate) events: usize,

    /// Connections that Redis loses
    #[arg(long, default_value_t = 20_000)]
    pub(crate) lost: usize,

    /// Nodes that put them back at once, after one has
    #[arg(long, default_value_t = 4)]
    pub(crate) losers: usize,

    /// Is the server without Socket.IO
    #[arg(long, hide = true)]
    pub(crate) bare: bool,

    /// Said by `cargo bench`, and not by `cargo test`
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

/// What is measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    Heartbeats,
    Sends,
    Reads,
    Rooms,
    Members,
    Notifications,
    Syscalls,
    Connects,
    Loss,
}

impl Options {
    /// The parts that are wanted, in their order.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let all = Part::value_variants().iter().copied();
        all.filter(|part| self.only.is_empty() || self.only.contains(part))
            .collect()
    }

    /// The titles of the columns.
    pub(crate) fn columns(&self) -> Vec<String> {
        match self.bin.as_slice() {
            [] => vec!["this tree".to_owned()],
            given => given.to_vec(),
        }
    }

    /// Raises the limit of file descriptors to what the largest crowd needs at one end; the nodes inherit it.
    pub(crate) fn make_room(&self) {
        // A node keeps up to an eighth of its descriptors back, the bench has its calls' besides.
        let largest = self.crowded.max(SOCKETS.min(self.lost)) as u64;
        let need = largest + largest / 4 + 2_000;
        let (_, hard) = rlimit::Resource::NOFILE.get().unwrap();
        if rlimit::Resource::NOFILE.set(need, hard.max(need)).is_err() {
            eprintln!(
                "{need} file descriptors are needed and {hard} allowed: raise the hard limit, or lower --crowded"
            );
            #[expect(clippy::disallowed_methods, reason = "nothing has been started yet")]
            std::process::exit(2);
        }
    }
}
