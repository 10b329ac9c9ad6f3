//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::peers::Peer;

/// Measures Switchboard beside its peers.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Only these
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<Peer>,

    /// Sizes of the fleets
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8])]
    pub(crate) nodes: Vec<usize>,

    /// Users, with two devices each
    #[arg(long, default_value_t = 800)]
    pub(crate) users: usize,

    /// Sends to users whose CPU is measured; a quarter as many to rooms
    #[arg(long, default_value_t = 4_000)]
    pub(crate) sends: usize,

    /// Sends a second to users while their latency is measured; a quarter as many to rooms
    #[arg(long, default_value_t = 200.0)]
    pub(crate) rate: f64,

    /// For how long
    #[arg(long, default_value_t = 5)]
    pub(crate) seconds: u64,

    /// Some seconds of everything, which say only that it works
    #[arg(long)]
    smoke: bool,

    /// A Switchboard instead of the one that cargo built
    #[arg(long, env = "SWITCHBOARD_BIN")]
    pub(crate) bin: Option<PathBuf>,

    /// A Centrifugo; without it, it is left out
    #[arg(long, env = "CENTRIFUGO_BIN")]
    pub(crate) centrifugo: Option<PathBuf>,

    /// Print JSON, and not the tables
    #[arg(long)]
    pub(crate) json: bool,

    /// A directory for the page, its figures as JSON, and its curves: `docs`
    #[arg(long)]
    pub(crate) write: Option<PathBuf>,

    /// Measure nothing, and take the figures that an earlier run has written
    #[arg(long)]
    pub(crate) from: Option<PathBuf>,

    /// Said by `cargo bench`, and not by `cargo test`
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

impl Options {
    pub(crate) fn read() -> Self {
        let options = Self::parse();
        match options.smoke {
            true => Self {
                nodes: vec![1, 2],
                users: 40,
                sends: 80,
                rate: 40.0,
                seconds: 1,
                ..options
            },
            false => options,
        }
    }

    /// The peers that are wanted, in their order.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        let wanted = |peer: &Peer| self.only.is_empty() || self.only.contains(peer);
        Peer::ALL.into_iter().filter(wanted).collect()
    }
}
