//! What is wrong with a configuration: the key as the operator wrote it, where it came from, and why it won't do.

use std::fmt;

/// Why there is no configuration: at least one [`Problem`], one a line. Exit code 64 (`EX_USAGE`), or 1 of
/// `check-config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

/// One thing that is wrong. Never holds a secret's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, `limits.max_payload`, or the name of a variable that stands for none.
    pub key: String,
    /// Where its value came from, with the preposition: `in switchboard.toml`, `from SWITCHBOARD_LISTEN`.
    pub origin: Option<String>,
    /// Why it won't do.
    pub what: String,
}

impl Problem {
    /// A problem whose origin isn't known, or is the default.
    pub fn new(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            origin: None,
            what: what.into(),
        }
    }

    /// The same, with where the value came from.
    pub(super) fn origin(mut self, origin: impl Into<String>) -> Self {
        self.origin = Some(origin.into());
        self
    }
}

impl ConfigError {
    /// All of `problems`, or `Ok` when there is none.
    pub(super) fn unless_empty(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Self { problems })
        }
    }

    /// A single problem of one key, found after loading: a key file that holds no key.
    pub fn at(key: impl Into<String>, what: impl Into<String>) -> Self {
        Problem::new(key, what).into()
    }

    /// What is wrong, in no particular order.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Changes each problem, to fill in what its finder did not know.
    pub(super) fn map(self, change: impl FnMut(Problem) -> Problem) -> Self {
        Self {
            problems: self.problems.into_iter().map(change).collect(),
        }
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(origin) = &self.origin {
            write!(f, " ({origin})")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
