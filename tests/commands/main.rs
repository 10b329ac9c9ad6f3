//! The commands of the binary that look at running servers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod balancers;
mod bench;
mod doctor;

use std::process::Command;

use serde_json::Value;
use support::token::{KEY, SECRET};

/// What a command has printed, and its exit code.
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Outcome {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!("{error} in {:?}; stderr: {}", self.stdout, self.stderr);
        })
    }
}

/// Runs a command to its end, with the secrets of the fleets and further settings: names after `SWITCHBOARD_`, and values.
async fn run(words: &[&str], settings: &[(&str, &str)]) -> Outcome {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env_clear();
    command.envs(std::env::vars().filter(|(name, _)| name == "PATH"));
    for (name, value) in [("JWT_SECRET", SECRET), ("API_KEY", KEY)]
        .iter()
        .chain(settings)
    {
        command.env(format!("SWITCHBOARD_{name}"), value);
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

const SWITCHBOARD: &str = env!("CARGO_BIN_EXE_switchboard");
