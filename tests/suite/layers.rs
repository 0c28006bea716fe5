//! The order of the source files: who may know whom, by the paths that they name. `docs/architecture.md` draws it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The layers as `docs/architecture.md` draws them, the lowest first. What stands on one line stands apart.
fn layers() -> Vec<Vec<String>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, drawn) = page.split_once("## Layers\n").unwrap();
    let (_, drawn) = drawn.split_once("```text\n").unwrap();
    let (drawn, _) = drawn.split_once("```").unwrap();
    // A description stands behind the names, and is more than a word.
    let names = |line: &str| {
        let columns = line
            .split("  ")
            .map(str::trim)
            .filter(|column| !column.is_empty());
        let names = columns.take_while(|column| column.chars().all(is_word));
        names.map(str::to_owned).collect()
    };
    drawn.lines().rev().map(names).collect()
}

/// A source file as a module.
struct Module {
    /// Its path in the crate: `tape::plan::groups`, nothing for `lib.rs`.
    path: Vec<String>,
    /// Paths that it names, each with the segments before and behind: `use` trees are spread out.
    names: Vec<Vec<String>>,
    /// What it hands on: the name, and the path that it stands for.
    exports: BTreeMap<String, Vec<String>>,
    /// Whether it only declares modules and hands names on.
    is_index: bool,
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Source text without comments, strings and tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let mut code = String::new();
    let mut is_string = false;
    for line in text.lines() {
        let mut previous = ' ';
        for (at, c) in line.char_indices() {
            let is_quote = c == '"' && previous != '\\' && !line[at..].starts_with("\"'");
            if is_quote {
                is_string = !is_string;
            } else if !is_string && line[at..].starts_with("//") {
                break;
            } else if !is_string {
                code.push(c);
            }
            previous = if previous == '\\' { ' ' } else { c };
        }
        code.push('\n');
    }
    code
}

/// Spreads `a::{b, c::{self, d}}` out, `as` left out.
fn spread(tree: &str, before: &[String], out: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    if let Some((head, rest)) = tree.split_once('{') {
        let mut path = before.to_vec();
        path.extend(segments(head));
        let inner = &rest[..rest.rfind('}').expect("braces close")];
        let (mut depth, mut start) = (0, 0);
        for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    spread(&inner[start..at], &path, out);
                    start = at + 1;
                }
                _ => {}
            }
        }
    } else if !tree.is_empty() {
        let mut path = before.to_vec();
        path.extend(segments(tree.split(" as ").next().unwrap()));
        if !before.is_empty() {
            // It stands for what is before it.
            path.retain(|segment| segment != "self");
        }
        out.push(path);
    }
}

fn segments(path: &str) -> Vec<String> {
    path.split("::")
        .map(|segment| segment.trim().to_owned())
        .filter(|segment| !segment.is_empty())
        .collect()
}

fn read(file: &Path, root: &Path) -> Module {
    let inside = file.strip_prefix(root).unwrap().with_extension("");
    let mut path: Vec<String> = inside
        .iter()
        .map(|part| part.to_str().unwrap().to_owned())
        .collect();
    path.retain(|part| part != "mod" && part != "lib");
    let code = code(&fs::read_to_string(file).unwrap());
    let (mut names, mut exports) = (Vec::new(), BTreeMap::new());
    let mut rest = String::new();
    for statement in code.split_inclusive(';') {
        let found = statement.find("use ").filter(|&at| {
            let line = statement[..at].rsplit('\n').next().unwrap();
            line.trim().is_empty() || line.trim_start().starts_with("pub")
        });
        let Some(at) = found else {
            rest += statement;
            continue;
        };
        let line = statement[..at].rsplit('\n').next().unwrap();
        rest += &statement[..at - line.len()];
        let mut paths = Vec::new();
        spread(&statement[at + 4..statement.len() - 1], &[], &mut paths);
        for used in paths {
            if line.trim_start().starts_with("pub") {
                exports.insert(used.last().unwrap().clone(), used);
            } else {
                names.push(used);
            }
        }
    }
    // Paths outside of `use`.
    for start in ["crate::", "super::"] {
        for (at, _) in rest.match_indices(start) {
            if !rest[..at].ends_with(|c: char| is_word(c) || c == ':') {
                let path = rest[at..].split(|c: char| !is_word(c) && c != ':');
                names.push(segments(path.into_iter().next().unwrap()));
            }
        }
    }
    // What is named through a module that was declared or imported.
    let declared = rest
        .lines()
        .filter_map(|line| line.trim().strip_suffix(';')?.split_once("mod "))
        .map(|(_, name)| vec!["self".to_owned(), name.to_owned()]);
    for module in declared.chain(names.clone()).collect::<Vec<_>>() {
        let start = format!("{}::", module.last().unwrap());
        for (at, _) in rest.match_indices(&start) {
            if !rest[..at].ends_with(|c: char| is_word(c) || c == ':') {
                let behind = &rest[at + start.len()..];
                let name = behind.split(|c: char| !is_word(c)).next().unwrap();
                names.push([&module[..], &[name.to_owned()]].concat());
            }
        }
    }
    let items = ["fn ", "struct ", "enum ", "trait ", "impl ", "impl<"];
    let is_item = |line: &str| items.iter().any(|item| line.contains(item));
    let is_index = !rest.lines().any(is_item);
    Module {
        path,
        names,
        exports,
        is_index,
    }
}

fn read_all() -> Vec<Module> {
    fn walk(directory: &Path, root: &Path, modules: &mut Vec<Module>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                walk(&path, root, modules);
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
                modules.push(read(&path, root));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = Vec::new();
    walk(&root, &root, &mut modules);
    modules.sort_by(|a, b| a.path.cmp(&b.path));
    modules
}

/// The file that defines what a path names, by its index.
fn resolve(modules: &[Module], from: &[String], path: &[String]) -> Option<usize> {
    let position = |path: &[String]| modules.binary_search_by(|m| m.path[..].cmp(path)).ok();
    let (mut at, mut rest): (Vec<String>, &[String]) = match path.first()?.as_str() {
        "crate" => (Vec::new(), &path[1..]),
        "super" => {
            let ups = path
                .iter()
                .take_while(|segment| *segment == "super")
                .count();
            (from[..from.len() - ups].to_vec(), &path[ups..])
        }
        "self" => (from.to_vec(), &path[1..]),
        first => {
            position(&[from, &[first.to_owned()]].concat())?;
            (from.to_vec(), path)
        }
    };
    loop {
        let here = position(&at)?;
        let Some((next, behind)) = rest.split_first() else {
            return Some(here);
        };
        let child = [&at[..], std::slice::from_ref(next)].concat();
        if position(&child).is_some() {
            (at, rest) = (child, behind);
        } else if let Some(export) = modules[here].exports.get(next) {
            return resolve(modules, &at, export).or(Some(here));
        } else {
            return Some(here);
        }
    }
}

/// The files that each file knows.
fn edges(modules: &[Module]) -> Vec<BTreeSet<usize>> {
    let of = |(index, module): (usize, &Module)| {
        let exports = module.exports.values().filter(|_| !module.is_index);
        let named = module.names.iter().chain(exports);
        let known = named.filter_map(|path| resolve(modules, &module.path, path));
        known.filter(|&other| other != index).collect()
    };
    modules.iter().enumerate().map(of).collect()
}

fn name(module: &Module) -> String {
    module.path.join("::")
}

#[test]
fn layers_know_only_what_is_below() {
    let (modules, layers) = (read_all(), layers());
    assert!(layers.len() > 5, "{layers:?}");
    let layer = |module: &Module| {
        let room = module.path.first()?;
        let found = layers.iter().position(|rooms| rooms.contains(room));
        Some(found.unwrap_or_else(|| {
            panic!("`{room}` has no layer: give it one in docs/architecture.md")
        }))
    };
    let mut upward = Vec::new();
    for (module, known) in modules.iter().zip(edges(&modules)) {
        for other in known.into_iter().map(|index| &modules[index]) {
            let (Some(here), there) = (layer(module), layer(other)) else {
                continue;
            };
            let is_apart = there == Some(here) && module.path[0] != other.path[0];
            if there.is_none_or(|there| there > here) || is_apart {
                upward.push(format!("{} knows {}", name(module), name(other)));
            }
        }
    }
    assert!(upward.is_empty(), "{upward:#?}");
}

#[test]
fn no_files_know_one_another() {
    let modules = read_all();
    let edges = edges(&modules);
    // Files whose every import is done with leave, again and again; what is left goes in circles.
    let mut left: BTreeSet<usize> = (0..modules.len()).collect();
    loop {
        let done: Vec<usize> = left
            .iter()
            .copied()
            .filter(|&index| edges[index].is_disjoint(&left))
            .collect();
        if done.is_empty() {
            break;
        }
        left.retain(|index| !done.contains(index));
    }
    let circle: Vec<String> = left
        .iter()
        .map(|&index| {
            let known = edges[index].intersection(&left);
            let known: Vec<String> = known.map(|&other| name(&modules[other])).collect();
            format!("{} -> {}", name(&modules[index]), known.join(", "))
        })
        .collect();
    assert!(circle.is_empty(), "{circle:#?}");
}

/// The reading finds what it is meant to find.
#[test]
fn what_is_read() {
    let modules = read_all();
    let edges = edges(&modules);
    let knows = |from: &str, to: &str| {
        let index = |path: &str| modules.iter().position(|m| name(m) == path).unwrap();
        edges[index(from)].contains(&index(to))
    };
    // Through a re-export, through `super`, through a path without `use`.
    assert!(knows("ops::softmax", "tape::record"));
    assert!(knows("tape::plan::groups", "tape::plan::analysis"));
    assert!(knows("tape::run", "tape::plan::cache"));
    assert!(!knows("gpu::device", "tape::record"));
    let mut paths = Vec::new();
    spread("a::{b, c::{self, d as e}, f}", &[], &mut paths);
    let paths: Vec<String> = paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(paths, ["a::b", "a::c", "a::c::d", "a::f"]);
    assert_eq!(code("a \"b // c\" d // e\nf"), "a  d \nf\n");
}
