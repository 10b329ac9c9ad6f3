//! Random files and variables: no panic, an error that names a key, and no secret in it.

use proptest::{collection::vec, prelude::*, sample::select};

use super::{super::key::Key, *};

/// In every value of a key that is secret.
const MARK: &str = "s3cr3t-mark";

const VALUES: [&str; 34] = [
    "",
    "0",
    "1",
    "-1",
    "18446744073709551616",
    "1.5",
    "nan",
    "true",
    "0s",
    "1ns",
    "10s",
    "11years",
    "9999999999999999y",
    "1e9s",
    "1B",
    "64MB",
    "18446744073709551615B",
    "127.0.0.1:0",
    "256.0.0.1:1",
    ":3000",
    "redis://",
    "redis://é@[::1]:0/99999999999",
    "http://",
    "https://app.example",
    "*",
    "/",
    "/a b",
    "\u{0}",
    "é\u{202e}",
    "[[",
    "{}",
    "[{\"path\":1}]",
    "[{ path = \"/x\", auth = \"none\" }]",
    "sha256:zz",
];

fn value(secret: bool) -> impl Strategy<Value = String> {
    let value = prop_oneof![
        select(VALUES.to_vec()).prop_map(str::to_owned),
        "[ -~]{0,20}",
        any::<String>()
    ];
    value.prop_map(move |value| {
        if secret {
            format!("{value}{MARK}")
        } else {
            value
        }
    })
}

/// A key, or almost one, and the text of a value.
fn setting() -> impl Strategy<Value = (String, String)> {
    // A `…_FILE` names a file, and what it would be is not for chance to say.
    let keys: Vec<_> = Key::all()
        .into_iter()
        .filter(|key| !key.path.ends_with("_file"))
        .collect();
    prop_oneof![
        9 => select(keys).prop_flat_map(|key| {
            let url = key.secret && (key.path.ends_with("redis.urls") || key.path.ends_with("redis_url"));
            // Of a URL the password is secret, and the rest is shown.
            let value = value(key.secret && !url).prop_map(move |value| match url {
                true => format!("redis://:{MARK}@{value}"),
                false => value,
            });
            (Just(key.path.to_owned()), value)
        }),
        1 => ("[a-z_.]{1,20}", value(false)).prop_filter("no file", |(path, _)| !path.ends_with("file")),
    ]
}

fn judged(loaded: Result<Config, ConfigError>) -> Result<(), TestCaseError> {
    match loaded {
        Ok(config) => {
            // What is in force can be shown, without secrets.
            prop_assert!(!config.to_toml().unwrap_or_default().contains(MARK));
        }
        Err(error) => {
            let shown = format!("{error}\n{error:?}");
            prop_assert!(!shown.contains(MARK), "{}", shown);
            prop_assert!(!error.problems().is_empty());
            for problem in error.problems() {
                prop_assert!(
                    !problem.key.is_empty() && !problem.what.is_empty(),
                    "{:?}",
                    problem
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_environment_is_a_configuration_or_an_error(settings in vec(setting(), 1..5)) {
        let variables: Vec<_> = settings
            .into_iter()
            .map(|(path, value)| (format!("SWITCHBOARD_{}", path.replace('.', "__").to_uppercase()), value))
            .collect();
        judged(load_env(variables.iter().map(|(name, value)| (name.as_str(), value.as_str()))))?;
    }

    #[test]
    fn any_file_is_a_configuration_or_an_error(settings in vec((setting(), 0..4_u8), 1..5), rubbish in any::<String>()) {
        let lines = settings.into_iter().map(|((path, value), kind)| match kind {
            0 => format!("{path} = {}", toml::Value::from(value)),
            1 => format!("{path} = [{}]", toml::Value::from(value)),
            2 => format!("{path} = {}", value.len()),
            _ => format!("[{path}]"),
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        judged(load_toml(&text))?;
        judged(load_toml(&format!("{text}\n{rubbish}")))?;
        judged(load_toml(&rubbish))?;
    }
}
