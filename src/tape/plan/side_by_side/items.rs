//! The declarations of a shader text, and its words: as much of WGSL as putting texts together needs.

use std::collections::HashMap;

/// A declaration at the outermost level, without comments.
pub(super) struct Item<'a> {
    pub name: &'a str,
    pub text: &'a str,
    pub kind: Kind<'a>,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind<'a> {
    /// The parameters.
    Uniform,
    /// A binding's number and how it is declared: `read` or `read_write`.
    Storage(usize, &'a str),
    /// An array in workgroup memory: its element and its size.
    Workgroup([&'a str; 2]),
    Struct,
    /// A function that is an entry point.
    Entry,
    Other,
}

pub(super) fn without_comments(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    for line in source.lines() {
        let code = line.split("//").next().unwrap_or_default().trim_end();
        if !code.is_empty() {
            text.push_str(code);
            text.push('\n');
        }
    }
    text
}

/// The declarations of a text, each of which begins a line. `None` if there is one of an unknown sort.
pub(super) fn items(source: &str) -> Option<Vec<Item<'_>>> {
    let mut starts = Vec::new();
    let mut at = 0;
    let mut is_attribute = false;
    for line in source.split_inclusive('\n') {
        let begins = line.starts_with(|c: char| c == '@' || c.is_ascii_alphabetic());
        if begins && !is_attribute {
            starts.push(at);
        }
        is_attribute = line.starts_with("@compute") && !line.contains(" fn ");
        at += line.len();
    }
    let ends = starts.iter().skip(1).copied().chain([source.len()]);
    let texts = starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| &source[start..end]);
    texts.map(item).collect()
}

fn item(text: &str) -> Option<Item<'_>> {
    let (mut rest, is_entry) = (text, text.starts_with("@compute"));
    if is_entry {
        rest = &text[text.find("fn ")?..];
    }
    let mut number = 0;
    if let Some(bound) = text.strip_prefix("@group(0) @binding(") {
        let (digits, declaration) = bound.split_once(") ")?;
        (number, rest) = (digits.parse().ok()?, declaration);
    }
    let after = |keyword: &str| rest.strip_prefix(keyword);
    let (kind, named) = if let Some(named) = after("fn ") {
        (if is_entry { Kind::Entry } else { Kind::Other }, named)
    } else if let Some(named) = after("struct ") {
        (Kind::Struct, named)
    } else if let Some(named) = after("const ").or_else(|| after("alias ")) {
        (Kind::Other, named)
    } else if let Some(named) = after("var<uniform> ") {
        (Kind::Uniform, named)
    } else if let Some(named) = after("var<storage, ") {
        let (mode, named) = named.split_once("> ")?;
        (Kind::Storage(number, mode), named)
    } else if let Some(named) = after("var<workgroup> ") {
        let array = declared_type(text)?.strip_prefix("array<")?;
        let (element, size) = array.strip_suffix('>')?.split_once(", ")?;
        (Kind::Workgroup([element, size]), named)
    } else {
        return None;
    };
    let name = words(named).next()?;
    Some(Item { name, text, kind })
}

/// What follows the colon in the declaration of a variable.
pub(super) fn declared_type(text: &str) -> Option<&str> {
    let (_, ty) = text.split_once(": ")?;
    Some(ty.split_once(';')?.0)
}

/// The declarations that the entry point needs, as far as words tell.
pub(super) fn used<'a>(items: Vec<Item<'a>>, entry: &str) -> Option<Vec<Item<'a>>> {
    let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, item) in items.iter().enumerate() {
        // Nothing calls an entry point.
        if item.kind == Kind::Entry {
            continue;
        }
        by_name.entry(item.name).or_default().push(index);
    }
    let is_entry = |item: &Item<'_>| item.kind == Kind::Entry && item.name == entry;
    let mut open = vec![items.iter().position(is_entry)?];
    let mut is_used = vec![false; items.len()];
    is_used[open[0]] = true;
    while let Some(index) = open.pop() {
        for word in words(items[index].text) {
            for &other in by_name.get(word).into_iter().flatten() {
                if !std::mem::replace(&mut is_used[other], true) {
                    open.push(other);
                }
            }
        }
    }
    let items = items.into_iter().zip(is_used);
    Some(
        items
            .filter_map(|(item, used)| used.then_some(item))
            .collect(),
    )
}

/// Whether a function has a local variable or a parameter of this name.
pub(super) fn declares_local(text: &str, name: &str) -> bool {
    let local = [format!("let {name} "), format!("var {name} ")];
    let typed = [format!(" {name}: "), format!("({name}: ")];
    let is_global = text.starts_with('@') && !text.starts_with("@compute");
    !is_global && local.iter().chain(&typed).any(|local| text.contains(local))
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Names, keywords and numbers, members of structs left out where they are read.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find(is_name)?;
            let is_member = rest[..start].ends_with('.');
            rest = &rest[start..];
            let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
            let word = &rest[..end];
            rest = &rest[end..];
            if !is_member {
                return Some(word);
            }
        }
    })
}

/// The text with other names. In structs, members keep theirs.
pub(super) fn renamed(text: &str, names: &HashMap<&str, String>, is_struct: bool) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_name) {
        result.push_str(&rest[..start]);
        let is_read = rest[..start].ends_with('.');
        rest = &rest[start..];
        let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
        let word = &rest[..end];
        rest = &rest[end..];
        let is_member = is_read || (is_struct && rest.starts_with(':'));
        match names.get(word) {
            Some(name) if !is_member => result.push_str(name),
            _ => result.push_str(word),
        }
    }
    result.push_str(rest);
    result
}
