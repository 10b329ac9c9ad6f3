//! Layers into a configuration.

use std::{fs, path::Path, path::PathBuf};

use figment::{
    Figment, Metadata, Profile, Provider,
    error::Kind,
    util::nest,
    value::{Dict, Map, Value},
};

use super::{Config, ConfigError, Environment, Problem, environment::CONFIG_VARIABLE, key::Key};

/// Where a configuration comes from, the weakest first: defaults, file, environment, flags.
#[derive(Clone, Default)]
pub struct Sources {
    /// `--config FILE`; without it `SWITCHBOARD_CONFIG` names the file, if there is one.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: Environment,
    /// The flags.
    pub flags: Flags,
}

/// What the command line sets, as it was written there.
#[derive(Clone, Default)]
pub struct Flags {
    /// `--listen`
    pub listen: Option<String>,
    /// `--internal-listen`
    pub internal_listen: Option<String>,
    /// `--redis-url`
    pub redis_url: Option<String>,
    /// `--node-id`
    pub node_id: Option<String>,
}

impl Sources {
    /// Reads and validates.
    ///
    /// # Errors
    ///
    /// What can't be read, names no key, has the wrong type, or does not go with the rest; each with its key and where it
    /// came from, none with a secret's value.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let layers = self.layers()?;
        let config: Config = layers
            .extract()
            .map_err(|error| wrong_type(&layers, error))?;
        config
            .validate()
            .map_err(|error| error.map(|problem| with_origin(&layers, problem)))?;
        Ok(config)
    }

    fn layers(&self) -> Result<Figment, ConfigError> {
        let mut layers = Figment::new();
        let file = match &self.file {
            Some(path) => Some((path.as_path(), "--config")),
            None => self
                .environment
                .config_file()
                .map(|path| (Path::new(path), CONFIG_VARIABLE)),
        };
        if let Some((path, named_by)) = file {
            layers = layers.merge(file_layer(path, named_by)?);
        }
        for setting in self.environment.settings()? {
            layers = layers.merge(Layer::of(
                setting.path,
                setting.value,
                format!("from {}", setting.variable),
            ));
        }
        let text = |flag: &Option<String>| flag.clone().map(Value::from);
        let url = self.flags.redis_url.clone();
        let flags = [
            ("listen", text(&self.flags.listen)),
            ("internal_listen", text(&self.flags.internal_listen)),
            ("redis.urls", url.map(|url| vec![url].into())),
            ("node_id", text(&self.flags.node_id)),
        ];
        for (path, value) in flags {
            if let Some(value) = value {
                let flag = Key::around(path).and_then(|key| key.flag);
                let origin = format!("from {}", flag.unwrap_or(path));
                layers = layers.merge(Layer::of(path, value, origin));
            }
        }
        Ok(layers)
    }
}

/// Values of one origin. Each variable and each flag is a layer, so that figment can tell which one a bad value is from.
struct Layer {
    origin: String,
    values: Dict,
}

impl Layer {
    fn of(path: &str, value: Value, origin: String) -> Self {
        Self {
            origin,
            values: nest(path, value).into_dict().unwrap_or_default(),
        }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

fn file_layer(path: &Path, named_by: &str) -> Result<Layer, ConfigError> {
    let text = fs::read_to_string(path)
        .map_err(|error| Problem::new(named_by, format!("{}: {error}", path.display())))?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| {
        // The error's own `Display` quotes the line, with whatever secret is on it.
        let line = error
            .span()
            .and_then(|span| text.get(..span.start))
            .map_or(1, |before| before.matches('\n').count() + 1);
        Problem::new(
            format!("{}:{line}", path.display()),
            format!("not TOML: {}", error.message()),
        )
    })?;
    let values = Value::serialize(table)
        .ok()
        .and_then(Value::into_dict)
        .unwrap_or_default();
    Ok(Layer {
        origin: format!("in {}", path.display()),
        values,
    })
}

fn wrong_type(layers: &Figment, error: figment::Error) -> ConfigError {
    let mut path = error.path.join(".");
    let shown = Key::shows_value(&path);
    let what = match error.kind {
        Kind::UnknownField(_, known) => format!("unknown key; known here: {}", known.join(", ")),
        Kind::MissingField(name) => {
            path = format!("{path}.{name}");
            "missing".to_owned()
        }
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            let expected = readable(&expected);
            if shown {
                format!("{found} is not {expected}")
            } else {
                format!("not {expected}")
            }
        }
        Kind::UnknownVariant(_, known) => format!("must be one of: {}", known.join(", ")),
        Kind::Message(message) if shown => match text_at(layers, &path) {
            Some(text) => format!("{text:?}: {message}"),
            None => message,
        },
        _ => "not a value that this key takes".to_owned(),
    };
    let problem = Problem::new(path, what);
    match error.metadata {
        Some(metadata) => problem.origin(metadata.name).into(),
        None => problem.into(),
    }
}

/// What serde and the types' own deserialisers say they expect, in the operator's words.
fn readable(expected: &str) -> &str {
    match expected {
        "a duration" => "a duration such as 250ms, 30s or 15m",
        "u32" => "a whole number from 0 to 4294967295",
        "a sequence" => "a list",
        name if name.starts_with("struct ") => "a table",
        name => name,
    }
}

/// Says where the value came from that validation found fault with. What is inside a list comes from where the list does.
fn with_origin(layers: &Figment, problem: Problem) -> Problem {
    let metadata = Key::around(&problem.key).and_then(|key| layers.find_metadata(key.path));
    match metadata {
        Some(metadata) => problem.origin(metadata.name.clone()),
        None => problem,
    }
}

/// The text at a path, which may lead through lists: `trusted_proxies.0`.
fn text_at(layers: &Figment, path: &str) -> Option<String> {
    let key = Key::around(path)?;
    let mut value = layers.find_value(key.path).ok()?;
    for step in path[key.path.len()..]
        .split('.')
        .filter(|step| !step.is_empty())
    {
        value = match value {
            Value::Array(_, mut entries) => {
                let index: usize = step.parse().ok()?;
                (index < entries.len()).then(|| entries.swap_remove(index))?
            }
            Value::Dict(_, mut fields) => fields.remove(step)?,
            _ => return None,
        };
    }
    value.into_string()
}
