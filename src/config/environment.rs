//! The environment as a layer of the configuration.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt, fs,
};

use figment::value::Value;

use super::{
    ConfigError, Problem,
    key::{Key, Kind},
};

const PREFIX: &str = "SWITCHBOARD_";

/// Names the configuration file, and is no key itself.
pub(super) const CONFIG_VARIABLE: &str = "SWITCHBOARD_CONFIG";

/// The variables that begin with `SWITCHBOARD_`. A value of its own, so that tests need not change the process's.
///
/// Each key has a long name (`SWITCHBOARD_AUTH__JWT__LEEWAY`), three have a short one too (`SWITCHBOARD_REDIS_URL`,
/// `SWITCHBOARD_JWT_SECRET`, `SWITCHBOARD_API_KEY`), and any name with `_FILE` behind it names a file that holds the value,
/// less the newline at its end: how containers are handed secrets. `SWITCHBOARD_AUTH__JWT__PUBLIC_KEY_FILE` and
/// `…JWKS_FILE` are keys that end so by themselves, and mean those.
///
/// A list is comma-separated. `SWITCHBOARD_NAMESPACES`, `SWITCHBOARD_API__KEYS` and `SWITCHBOARD_AUTH__JWT__KEYS` are lists of
/// tables and take JSON or an inline TOML array.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, OsString>);

/// A variable's value, under its key.
pub(super) struct Setting {
    pub(super) path: &'static str,
    pub(super) variable: String,
    pub(super) value: Value,
}

impl Environment {
    /// The process's own.
    pub fn of_process() -> Self {
        std::env::vars_os().collect()
    }

    /// The value of `SWITCHBOARD_CONFIG`.
    pub(super) fn config_file(&self) -> Option<&OsStr> {
        self.0.get(CONFIG_VARIABLE).map(OsString::as_os_str)
    }

    /// Every variable under its key.
    ///
    /// # Errors
    ///
    /// All variables that name no key, all that are no text, all files that can't be read, and all keys that two variables
    /// set: which of them would win is nothing to guess at.
    pub(super) fn settings(&self) -> Result<Vec<Setting>, ConfigError> {
        let mut settings: Vec<Setting> = Vec::new();
        let mut problems = Vec::new();
        for (variable, value) in &self.0 {
            if variable == CONFIG_VARIABLE || is_service_link(variable, value) {
                continue;
            }
            let setting = match setting(variable, value) {
                Ok(setting) => setting,
                Err(problem) => {
                    problems.push(problem);
                    continue;
                }
            };
            if let Some(other) = settings.iter().find(|other| other.path == setting.path) {
                problems.push(
                    Problem::new(setting.path, "set twice, drop one of the two")
                        .origin(format!("from {} and {variable}", other.variable)),
                );
            }
            settings.push(setting);
        }
        ConfigError::unless_empty(problems)?;
        Ok(settings)
    }
}

fn setting(variable: &str, value: &OsStr) -> Result<Setting, Problem> {
    let not_text = || Problem::new(variable, "not UTF-8");
    let (key, text) = if let Some(key) = Key::of_variable(variable) {
        (key, value.to_str().ok_or_else(not_text)?.to_owned())
    } else if let Some(key) = variable.strip_suffix("_FILE").and_then(Key::of_variable) {
        let text = fs::read_to_string(value)
            .map_err(|error| Problem::new(variable, format!("{}: {error}", value.display())))?;
        (key, text.trim_end_matches(['\r', '\n']).to_owned())
    } else {
        return Err(unknown(variable));
    };
    // A password may hold a comma, and this name is for one URL.
    let whole = variable.starts_with("SWITCHBOARD_REDIS_URL");
    let value = match key.kind {
        Kind::List if whole => Value::from(vec![text]),
        Kind::List => Value::from(entries(&text)),
        Kind::Text | Kind::Section(_) => Value::from(text),
        Kind::Number => text
            .trim()
            .parse::<u64>()
            .map(Value::from)
            .or_else(|_| text.trim().parse::<f64>().map(Value::from))
            .unwrap_or_else(|_| Value::from(text)),
        Kind::Bool => text
            .trim()
            .parse::<bool>()
            .map_or_else(|_| Value::from(text), Value::from),
        Kind::Tables(_) => tables(&text).ok_or_else(|| {
            Problem::new(
                variable,
                "neither a JSON array of objects nor an inline TOML array of tables",
            )
        })?,
    };
    Ok(Setting {
        path: key.path,
        variable: variable.to_owned(),
        value,
    })
}

fn entries(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(str::to_owned)
        .collect()
}

fn tables(text: &str) -> Option<Value> {
    if let Ok(value) = serde_json::from_str::<serde_json::Value>(text) {
        return Value::serialize(value).ok();
    }
    let table = toml::from_str::<toml::Table>(&format!("value = {text}")).ok()?;
    // More than the one key: the text had a line break and went on with keys of its own.
    (table.len() == 1)
        .then(|| Value::serialize(table.get("value")?).ok())
        .flatten()
}

fn unknown(variable: &str) -> Problem {
    let squeeze = |name: &str| name.replace("__", "_");
    let meant = Key::all()
        .into_iter()
        .map(Key::variable)
        .find(|name| squeeze(name) == squeeze(variable));
    Problem::new(
        variable,
        match meant {
            Some(name) => format!("unknown key; {name} is meant, perhaps"),
            None => "unknown key".to_owned(),
        },
    )
}

/// Whether Kubernetes put the variable there: for every Service in the namespace it adds `<NAME>_SERVICE_HOST` and more to
/// every container's environment, and `switchboard` or `switchboard-redis` are likely names of one.
fn is_service_link(variable: &str, value: &OsStr) -> bool {
    let value = value.to_str().unwrap_or_default();
    let is_url = ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|scheme| value.starts_with(scheme));
    let is_port = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let protocol = |part: &str| matches!(part, "TCP" | "UDP" | "SCTP");
    let parts: Vec<&str> = variable.split('_').collect();
    let numbered = |port: &str| port.parse::<u16>().is_ok();
    match parts.as_slice() {
        [.., "SERVICE", "HOST"] => true,
        [.., "PORT", port, last] if numbered(port) && protocol(last) => true,
        [.., "PORT", port, middle, "PROTO" | "PORT" | "ADDR"]
            if numbered(port) && protocol(middle) =>
        {
            true
        }
        [.., "PORT"] if is_url => true,
        _ => is_port && variable.contains("_SERVICE_PORT"),
    }
}

impl<N: Into<OsString>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(name, value)| (name.into().to_string_lossy().into_owned(), value.into()))
                .filter(|(name, _)| name.starts_with(PREFIX))
                .collect(),
        )
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
