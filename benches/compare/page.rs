//! `docs/performance.md`.

use std::fmt::Write;

use crate::{
    curves::{self, DRAWN},
    figures::{ROWS, Results},
    tables,
};

/// What is compared, and how.
const ABOUT: &str = "\
Each fleet is alone on the machine with its clients and a Redis of its own. All do the same work for the same crowd: users with two devices each, on different nodes where there are
several; rooms of 20 connections on all nodes; messages of 128 bytes, sent by a backend over HTTP to a node that does not hold the user, where there is one.

- **Switchboard** with its defaults: a JWT for each client, presence, and receipts for each send.
- **Socket.IO**: one Node.js process a node, with `@socket.io/redis-adapter`: the classic adapter, and the sharded one with a channel for each room (`dynamic`). A user is a
  room that is joined at connect.
- **socketioxide**: the crate that Switchboard is built on, plain, with `socketioxide-redis`: [examples/plain.rs](../examples/plain.rs).
- **Centrifugo** with its Redis engine, its own protocol (JSON over WebSocket), a JWT for each client, a channel for each user with presence, one for each room, and one for all.
";

const READING: &str = "\
**CPU** is what all processes of the fleet took together, and Redis, for each of many calls by 32 callers at once (a broadcast: 2), without what the idle fleet takes in that
time. **Latency** is from when a message was due to when the client had it, at a fixed rate that does not wait for answers (no coordinated omission). **Memory** is what each
connection adds to the nodes' resident memory. In brackets: how many times Switchboard's. One run on one machine: differences of a few per cent are noise.
";

const REASONS: &str = "\
- Socket.IO's classic adapter and socketioxide publish each message to all nodes, and each takes it apart, also where nobody is to get it: a send costs the more, the more nodes there are.
- The sharded adapter, Centrifugo and Switchboard reach the nodes alone that hold somebody.
- Switchboard asks Redis for each send who holds the user, and has the holders say what became of it. That is a read and a message or two more, for an answer with a number in it; for
  a broadcast, it is a receipt of each other node.
- What an idle fleet takes is heartbeats: Switchboard's, by which a dead node's users are offline within seconds.
";

/// The page.
pub(crate) fn of(results: &Results) -> String {
    let mut page = "# Performance beside the peers\n\n".to_owned();
    let Results {
        date,
        command,
        machine,
        users,
        ..
    } = results;
    let clients = 2 * users;
    write!(
        page,
        "Measured on {date}, {machine}, {clients} clients over loopback, all in one run:\n\n```sh\n{command}\n```\n\n\
         It builds what it needs, and writes this page, [its figures](performance.json) and its curves.\n\n{ABOUT}\n"
    )
    .unwrap();
    page.push_str("| | version | what the answer to a send says |\n|---|---|---|\n");
    for peer in results.peers() {
        let version = results.versions.get(&peer).map_or("", String::as_str);
        writeln!(page, "| {peer} | {version} | {} |", peer.promise()).unwrap();
    }
    write!(page, "\n{READING}").unwrap();
    for size in results.sizes().into_iter().rev() {
        let (title, table) = (tables::title(size), tables::table(results, size));
        write!(page, "\n## {title}\n\n{table}").unwrap();
    }
    write!(
        page,
        "\n## Why\n\n{REASONS}\n## From one node to many\n\nThe axis of values is logarithmic.\n\n"
    )
    .unwrap();
    for id in DRAWN {
        let title = ROWS
            .iter()
            .find(|row| row.id == id)
            .map_or(id, |row| row.title);
        writeln!(page, "![{title}](images/{})", curves::file(id)).unwrap();
    }
    if !results.notes.is_empty() {
        page.push_str("\n## What did not go well in this run\n\n");
        for note in &results.notes {
            writeln!(page, "- {note}").unwrap();
        }
    }
    page
}
