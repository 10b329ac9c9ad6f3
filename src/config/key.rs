//! A key of the configuration, as the rest of the module and the page of documentation see it.

use bytesize::ByteSize;

use super::Config;

/// A key: a value, a section, or a list of tables. What its declaration says in `section!`.
#[derive(Debug)]
pub(super) struct Key {
    /// Its path, `auth.jwt.secret`. Of a key inside a list of tables it has no index: `namespaces.path`.
    pub(super) path: &'static str,
    /// What it means, a line of text for each line of the declaration.
    pub(super) doc: &'static str,
    /// How a variable of the environment becomes its value.
    pub(super) kind: Kind,
    /// Whether its value is never shown.
    pub(super) secret: bool,
    /// Whether a node takes a new value while it runs.
    pub(super) reload: bool,
    /// Its short name in the environment.
    pub(super) short: Option<&'static str>,
    /// Its flag on the command line.
    pub(super) flag: Option<&'static str>,
    /// Its default in words, as Markdown, where the value itself does not say it.
    pub(super) shown: Option<&'static str>,
    /// Whether a number must be at least 1, and a duration at least 1ms.
    pub(super) positive: bool,
    /// The least and the largest size.
    pub(super) within: Option<(ByteSize, ByteSize)>,
    /// Whether its path must be that of a file that can be read.
    pub(super) readable: bool,
    /// Says what is wrong with a text, or with each of a list of texts.
    pub(super) fits: Option<Check>,
}

/// Says what is wrong with a text.
pub(super) type Check = fn(&str) -> Result<(), String>;

/// What the text of a variable stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Itself: a string, a path, an address, a duration, a size.
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Bool,
    /// A comma-separated list of texts.
    List,
    /// A list of tables, written as JSON or as an inline TOML array.
    Tables(&'static Table),
    /// Nothing: a section has keys of its own.
    Section(&'static Table),
}

/// The keys of a section, or of a table in a list.
#[derive(Debug)]
pub(super) struct Table {
    /// What the keys are about.
    pub(super) about: &'static str,
    /// The keys, in the order of their declaration.
    pub(super) keys: &'static [Key],
}

/// What a declaration can say behind the default.
impl Key {
    pub(super) const fn new(
        path: &'static str,
        doc: &'static str,
        kind: Kind,
        secret: bool,
    ) -> Self {
        Self {
            path,
            doc,
            kind,
            secret,
            reload: false,
            short: None,
            flag: None,
            shown: None,
            positive: false,
            within: None,
            readable: false,
            fits: None,
        }
    }

    pub(super) const fn reload(self) -> Self {
        Self {
            reload: true,
            ..self
        }
    }

    pub(super) const fn short(self, name: &'static str) -> Self {
        Self {
            short: Some(name),
            ..self
        }
    }

    pub(super) const fn flag(self, name: &'static str) -> Self {
        Self {
            flag: Some(name),
            ..self
        }
    }

    pub(super) const fn shown(self, default: &'static str) -> Self {
        Self {
            shown: Some(default),
            ..self
        }
    }

    pub(super) const fn positive(self) -> Self {
        Self {
            positive: true,
            ..self
        }
    }

    pub(super) const fn within(self, least: ByteSize, largest: ByteSize) -> Self {
        Self {
            within: Some((least, largest)),
            ..self
        }
    }

    pub(super) const fn readable(self) -> Self {
        Self {
            readable: true,
            ..self
        }
    }

    pub(super) const fn fits(self, check: Check) -> Self {
        Self {
            fits: Some(check),
            ..self
        }
    }
}

impl Table {
    /// Whether a value of any of the keys is never shown.
    pub(super) const fn has_secret(&self) -> bool {
        let mut index = 0;
        while index < self.keys.len() {
            if self.keys[index].secret {
                return true;
            }
            index += 1;
        }
        false
    }

    /// The keys that hold values, those of sections in the section's place.
    fn leaves(&'static self) -> Vec<&'static Key> {
        let keys = self.keys.iter().flat_map(|key| match key.kind {
            Kind::Section(table) => table.leaves(),
            _ => vec![key],
        });
        keys.collect()
    }
}

impl Key {
    /// The whole configuration.
    pub(super) const ROOT: Self = Self::new("", "", Kind::Section(Config::TABLE), false);

    /// Every key that holds a value, as against a section.
    pub(super) fn all() -> Vec<&'static Self> {
        Config::TABLE.leaves()
    }

    /// The key of a variable's name, long or short.
    pub(super) fn of_variable(name: &str) -> Option<&'static Self> {
        let mut all = Self::all().into_iter();
        all.find(|key| key.short == Some(name) || key.variable() == name)
    }

    /// Its variable's long name, `SWITCHBOARD_AUTH__JWT__SECRET`.
    pub(super) fn variable(&self) -> String {
        format!(
            "SWITCHBOARD_{}",
            self.path.replace('.', "__").to_uppercase()
        )
    }

    /// The key that `path` is, or is inside of: `api.keys` for `api.keys.0.name`. None for a section.
    pub(super) fn around(path: &str) -> Option<&'static Self> {
        Self::all().into_iter().find(|key| {
            path.strip_prefix(key.path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    /// Whether an error at `path` may show the value it found there: that of a key that is known to hold no secret. A
    /// section isn't one, since `redis = "redis://:password@host"` is a likely slip.
    pub(super) fn shows_value(path: &str) -> bool {
        Self::around(path).is_some_and(|key| !key.secret)
    }
}
