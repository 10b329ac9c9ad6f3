//! The page about the configuration, from the keys' declarations: what `config-doc` prints, and docs/configuration.md is.

use std::fmt::Write;

use toml::{Table as Toml, Value};

use super::{
    Config,
    key::{Key, Kind, Table},
};

/// Every key as Markdown: a table for each section and for each list of tables.
pub fn document() -> String {
    let mut page =
        "<!-- Written by `switchboard config-doc` from src/config: change it there. -->\n"
            .to_owned();
    for line in include_str!("intro.md").lines() {
        // The page's title is the first heading, the others are below it.
        let deeper = line.starts_with('#') && page.contains("\n# ");
        let _ = writeln!(page, "{}{line}", if deeper { "#" } else { "" });
    }
    page.push_str("\n## Keys\n");
    // It fails on a path that is no UTF-8, and no default is one.
    let defaults = Toml::try_from(Config::default()).unwrap_or_default();
    section(&mut page, None, Config::TABLE, Some(&defaults));
    page
}

/// A section's keys that hold values, then the tables in its lists, then its sections.
fn section(page: &mut String, title: Option<String>, table: &Table, defaults: Option<&Toml>) {
    if let Some(title) = title {
        let _ = write!(page, "\n### `{title}`\n\n{}\n", one_line(table.about));
    }
    let is_value = |key: &&Key| !matches!(key.kind, Kind::Section(_));
    if table.keys.iter().any(|key| is_value(&key)) {
        page.push_str("\n| key | default | | |\n|---|---|---|---|\n");
    }
    for key in table.keys.iter().filter(is_value) {
        row(page, key, defaults);
    }
    for key in table.keys {
        match key.kind {
            Kind::Tables(entry) => section(page, Some(format!("[[{}]]", key.path)), entry, None),
            Kind::Section(inner) => {
                let inside = defaults.and_then(|table| table.get(name(key))?.as_table());
                section(page, Some(key.path.to_owned()), inner, inside);
            }
            _ => {}
        }
    }
}

fn row(page: &mut String, key: &Key, defaults: Option<&Toml>) {
    let mut names = vec![format!("`{}`", key.path)];
    names.extend(
        [key.short, key.flag]
            .into_iter()
            .flatten()
            .map(|name| format!("`{name}`")),
    );
    let default = match key.shown {
        Some(words) => words.to_owned(),
        None => defaults
            .and_then(|table| shown(table.get(name(key))?))
            .unwrap_or_default(),
    };
    let mut marks = Vec::new();
    marks.extend(key.secret.then_some("secret"));
    marks.extend(key.reload.then_some("reload"));
    let _ = writeln!(
        page,
        "| {} | {default} | {} | {} |",
        names.join(", "),
        marks.join(", "),
        one_line(key.doc).replace('|', "\\|")
    );
}

/// The last part of a key's path.
fn name(key: &Key) -> &str {
    key.path.rsplit('.').next().unwrap_or_default()
}

fn shown(default: &Value) -> Option<String> {
    match default {
        Value::Array(all) => {
            let all: Vec<_> = all.iter().filter_map(shown).collect();
            (!all.is_empty()).then(|| all.join(", "))
        }
        Value::String(text) => Some(format!("`{text}`")),
        other => Some(format!("`{other}`")),
    }
}

fn one_line(doc: &str) -> String {
    doc.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}
