//! The figures as Markdown tables, one for each size of fleet, with the ratios to Switchboard's.

use std::fmt::Write;

use crate::{
    figures::{ROWS, Results, Row},
    peers::Peer,
};

/// What is called level: a ratio that would be printed as 1.00.
const LEVEL: f64 = 1.005;

/// All of it.
pub(crate) fn of(results: &Results) -> String {
    let mut text = String::new();
    for size in results.sizes() {
        write!(text, "{}\n\n{}\n", title(size), table(results, size)).unwrap();
    }
    for note in &results.notes {
        writeln!(text, "- {note}").unwrap();
    }
    text
}

/// What a table of fleets of this size is called.
pub(crate) fn title(size: usize) -> String {
    match size {
        1 => "One node".to_owned(),
        _ => format!("{size} nodes"),
    }
}

/// The fleets of one size: a column each, and how Switchboard's compares.
pub(crate) fn table(results: &Results, size: usize) -> String {
    let peers = results.peers();
    let names: Vec<_> = peers.iter().map(Peer::to_string).collect();
    let mut text = format!("| | {} | Switchboard is |\n", names.join(" | "));
    writeln!(text, "|---|{}---|", "--:|".repeat(peers.len())).unwrap();
    for row in ROWS {
        let ours = results.get(Peer::Switchboard, size, row.id);
        let cells = peers.iter().map(|peer| {
            let value = results.get(*peer, size, row.id);
            match (value, ours) {
                (None, _) => "–".to_owned(),
                (Some(value), Some(ours)) if *peer != Peer::Switchboard && ours > 0.0 => {
                    format!("{} (× {})", short(value), short(value / ours))
                }
                (Some(value), _) => short(value),
            }
        });
        let cells: Vec<_> = cells.collect();
        let verdict = verdict(results, size, row);
        writeln!(
            text,
            "| {} | {} | {verdict} |",
            row.title,
            cells.join(" | ")
        )
        .unwrap();
    }
    text
}

/// Whether Switchboard is ahead of all peers, or by how much it is not.
fn verdict(results: &Results, size: usize, row: Row) -> String {
    let Some(ours) = results.get(Peer::Switchboard, size, row.id) else {
        return String::new();
    };
    let peers = results
        .peers()
        .into_iter()
        .filter(|peer| *peer != Peer::Switchboard);
    let measured = peers.filter_map(|peer| Some((peer, results.get(peer, size, row.id)?)));
    let behind = |theirs: f64| match row.more_is_better {
        true => theirs / ours,
        false => ours / theirs,
    };
    let best = measured.max_by(|(_, one), (_, other)| behind(*one).total_cmp(&behind(*other)));
    match best {
        None => String::new(),
        Some((_, theirs)) if behind(theirs) <= 1.0 => "ahead".to_owned(),
        Some((peer, theirs)) if behind(theirs) < LEVEL => format!("level with {peer}"),
        Some((peer, theirs)) if theirs > 0.0 => {
            format!("behind {peer}: {} × its", short(ours / theirs))
        }
        Some((peer, _)) => format!("behind {peer}: its is too little to be measured"),
    }
}

/// With as many digits as mean something.
fn short(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
