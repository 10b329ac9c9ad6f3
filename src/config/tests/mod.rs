#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fs, path::PathBuf};

use super::{Config, ConfigError, Environment, Flags, Sources};

mod document;
mod fuzz;
mod list;
mod load;
mod reload;
mod start;
mod validate;

/// A configuration file, for as long as the test runs.
struct Toml {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Toml {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("switchboard.toml");
        fs::write(&path, text).unwrap();
        Self {
            _directory: directory,
            path,
        }
    }
}

fn load_env<'a>(
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Config, ConfigError> {
    Sources {
        environment: environment(variables),
        ..Sources::default()
    }
    .load()
}

fn load_toml(text: &str) -> Result<Config, ConfigError> {
    let file = Toml::new(text);
    Sources {
        file: Some(file.path.clone()),
        ..Sources::default()
    }
    .load()
}

fn environment<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Environment {
    variables.into_iter().collect()
}
