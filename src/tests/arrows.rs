//! Holds the code to the order of modules that ARCHITECTURE.md draws: each module knows only those that are listed before it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

/// A path of the code, as its segments: `crate::auth::Identity` is `auth`, `Identity`.
type Segments = Vec<String>;

/// One file of the code, without its tests.
struct Source {
    /// The module that it is.
    module: Segments,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap();
        match path.extension() {
            _ if name == "tests" => {}
            None => files(&path, found),
            Some(kind) if kind == "rs" => found.push(path),
            Some(_) => {}
        }
    }
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    files(&root().join("src"), &mut found);
    let read = |path: PathBuf| {
        let relative = path.strip_prefix(root().join("src")).unwrap();
        let module = relative.with_extension("");
        let module = module.iter().map(|it| it.to_string_lossy().into_owned());
        let whole = fs::read_to_string(&path).unwrap();
        let code = whole.split("#[cfg(test)]\n#[allow").next().unwrap();
        let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let lines = code.lines();
        let text = lines.map(|line| line.split("//").next().unwrap());
        Source {
            module: module.filter(|it| it != "mod" && it != "lib").collect(),
            text: text.collect::<Vec<_>>().join("\n"),
        }
    };
    found.into_iter().map(read).collect()
}

/// Reads a path, or all paths of a group in braces, and puts them behind `prefix`. Returns what follows.
fn read_paths<'a>(mut text: &'a str, mut prefix: Segments, found: &mut Vec<Segments>) -> &'a str {
    loop {
        text = text.trim_start();
        if let Some(mut group) = text.strip_prefix('{') {
            loop {
                group = read_paths(group, prefix.clone(), found);
                let next = group.find([',', '}']).expect("a group ends");
                let is_last = group[next..].starts_with('}');
                group = group[next + 1..].trim_start();
                if is_last {
                    return group;
                }
                if let Some(behind) = group.strip_prefix('}') {
                    return behind;
                }
            }
        }
        let end = text.find(|it: char| !it.is_alphanumeric() && it != '_');
        let (name, behind) = text.split_at(end.unwrap_or(text.len()));
        if !name.is_empty() {
            prefix.push(name.to_owned());
        }
        match behind.strip_prefix("::") {
            Some(rest) if !name.is_empty() => text = rest,
            _ => {
                found.push(prefix);
                return behind;
            }
        }
    }
}

impl Source {
    /// Every path of the crate that the code names.
    fn paths(&self) -> Vec<Segments> {
        let mut found = Vec::new();
        for (start, from) in [("crate::", 0), ("self::", self.module.len())] {
            for (at, _) in self.text.match_indices(start) {
                let before = &self.text[..at];
                if !before.ends_with(|it: char| it.is_alphanumeric() || "_:$".contains(it)) {
                    let prefix = self.module[..from].to_vec();
                    read_paths(&self.text[at + start.len()..], prefix, &mut found);
                }
            }
        }
        for (at, _) in self.text.match_indices("super::") {
            if !self.text[..at].ends_with(':') {
                let (mut up, mut rest) = (0, &self.text[at..]);
                while let Some(behind) = rest.strip_prefix("super::") {
                    (up, rest) = (up + 1, behind);
                }
                let prefix = self.module[..self.module.len() - up].to_vec();
                read_paths(rest, prefix, &mut found);
            }
        }
        found
    }

    /// Where each item comes from that the module passes on: its name, and the first segment of its path.
    fn passed_on(&self) -> HashMap<String, String> {
        let mut found = Vec::new();
        for (at, start) in self.text.match_indices("\npub") {
            let rest = self.text[at + start.len()..].trim_start_matches("(crate)");
            if let Some(path) = rest.strip_prefix(" use ") {
                read_paths(path, Vec::new(), &mut found);
            }
        }
        let item = |path: Segments| Some((path.last()?.clone(), path.first()?.clone()));
        found.into_iter().filter_map(item).collect()
    }
}

/// The names of a table's first column in ARCHITECTURE.md, in the order of its rows.
fn listed(head: &str) -> Vec<String> {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let table = page.lines().skip_while(|line| !line.starts_with(head));
    let rows = table.skip(2).take_while(|line| line.starts_with('|'));
    let names = |row: &str| {
        let cell = row.split('|').nth(1).unwrap();
        let names = cell.split('`').skip(1).step_by(2);
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    rows.flat_map(names).collect()
}

/// Asserts that the modules below `parent` are those of a table of ARCHITECTURE.md, and know only what the table has before them.
fn assert_order(parent: &[&str], head: &str) {
    let (sources, listed) = (sources(), listed(head));
    let depth = parent.len();
    let inside = |path: &[String]| path.len() > depth && path[..depth] == *parent;
    let inner = sources.iter().filter(|it| inside(&it.module));
    let modules: BTreeSet<_> = inner.clone().map(|it| &*it.module[depth]).collect();
    let face = sources.iter().find(|it| it.module == parent);
    let passed_on = face.map(Source::passed_on).unwrap_or_default();
    let place = |name: &str| listed.iter().position(|it| it == name);
    let mut wrong = BTreeSet::new();
    for module in &modules {
        if place(module).is_none() {
            wrong.insert(format!("{module} is not in the table"));
        }
    }
    for source in inner {
        let from = &source.module[depth];
        for path in source.paths().iter().filter(|it| inside(it)) {
            let name = &path[depth];
            let to = match modules.contains(&**name) {
                true => name,
                // An item that the parent passes on from one of its modules, or the parent's own.
                false => passed_on.get(name).unwrap_or(name),
            };
            if from != to && place(to) >= place(from) {
                wrong.insert(format!("{from} knows {to} ({})", source.module.join("/")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_module_knows_only_those_before_it() {
    assert_order(&[], "| module |");
}

#[test]
fn a_part_of_the_gateway_knows_only_those_before_it() {
    assert_order(&["gateway"], "| part |");
}

#[test]
fn paths_are_read_with_their_groups() {
    let mut found = Vec::new();
    read_paths("a::{b, c::{self, D as E,},}; f::g", Vec::new(), &mut found);
    let found: Vec<_> = found.iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["a::b", "a::c::self", "a::c::D"]);
}
