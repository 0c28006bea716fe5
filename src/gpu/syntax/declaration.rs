//! Declarations at the outermost level, and what they say.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

/// A declaration at the outermost level.
#[derive(Debug)]
pub(crate) struct Declaration {
    /// Empty for assertions and directives.
    pub name: Box<str>,
    pub kind: Kind,
    /// Without comments, on the same lines.
    pub text: Box<str>,
    /// Where the text mentions something that it does not declare itself, and its own name.
    pub(super) mentions: Vec<Range<usize>>,
    /// What it mentions, each once.
    pub(super) uses: Vec<Box<str>>,
    /// What it declares within.
    pub(super) locals: Vec<Box<str>>,
    /// The file, and how many lines are before.
    pub(super) origin: (Arc<str>, usize),
}

impl PartialEq for Declaration {
    fn eq(&self, other: &Declaration) -> bool {
        self.text == other.text
    }
}

impl Eq for Declaration {}

impl Hash for Declaration {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Entry,
    Function,
    Struct,
    Constant,
    /// A binding's number; for storage, whether it can be written to.
    Uniform(u32),
    Storage(u32, bool),
    Workgroup,
    Import,
    Other,
}

impl Declaration {
    pub fn uses(&self, name: &str) -> bool {
        self.uses.iter().any(|used| **used == *name)
    }

    /// Where it mentions a name.
    pub fn mentions<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
        self.mentions
            .iter()
            .filter(move |&at| self.text[at.clone()] == *name)
            .cloned()
    }

    /// The text with other names for what it mentions.
    pub fn renamed(&self, names: &HashMap<&str, String>) -> String {
        let name =
            |at: &Range<usize>| Some((at.clone(), names.get(&self.text[at.clone()])?.clone()));
        self.edited(self.mentions.iter().filter_map(name).collect())
    }

    /// The text with other pieces in the places of some.
    pub(super) fn edited(&self, mut edits: Vec<(Range<usize>, String)>) -> String {
        edits.sort_by_key(|(at, _)| at.start);
        let mut text = String::with_capacity(self.text.len() + 64);
        let mut done = 0;
        for (at, new) in edits {
            text.push_str(&self.text[done..at.start]);
            text.push_str(&new);
            done = at.end;
        }
        text + &self.text[done..]
    }

    /// The brackets of the index behind a mention.
    pub fn index(&self, mention: &Range<usize>) -> Option<[usize; 2]> {
        let behind = &self.text[mention.end..];
        let open = behind.find(|c: char| !c.is_whitespace())?;
        let mut depth = 0;
        let close = behind[open..].find(|c| {
            depth += i32::from(c == '[') - i32::from(c == ']');
            depth == 0
        })?;
        (close > 0).then_some([mention.end + open, mention.end + open + close])
    }

    pub fn declares_local(&self, test: impl Fn(&str) -> bool) -> bool {
        self.locals.iter().any(|local| test(local))
    }

    /// Where a function's body begins, behind its brace.
    pub fn body(&self) -> usize {
        self.text.find('{').map_or(0, |at| at + 1)
    }

    /// Where a function's parameters are, or a struct's members.
    pub fn inside(&self) -> Range<usize> {
        if self.kind == Kind::Struct {
            return self.body()..self.text.rfind('}').unwrap_or(self.text.len());
        }
        let open = self
            .mentions(&self.name)
            .next()
            .map_or(0, |name| name.end + 1);
        open..self.text[..self.body()].rfind(')').unwrap_or(open)
    }

    /// What is there, where all of that is values that are built in, or structs of such.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.text[self.inside()].split(',').filter_map(|field| {
            let (attributes, name) = field.rsplit_once(')').unwrap_or(("", field));
            let (name, ty) = name.split_once(':')?;
            let (_, builtin) = attributes.split_once('(').unwrap_or_default();
            let [builtin, name, ty] = [builtin, name, ty].map(str::trim);
            Some(Field { builtin, name, ty })
        })
    }
}

/// How many invocations an entry point's workgroups have: what stands in the parentheses of the attribute.
pub(crate) fn workgroup_size(text: &str) -> &str {
    let (head, _) = text.split_once("fn ").unwrap_or_default();
    let size = head
        .split_once("workgroup_size(")
        .and_then(|(_, size)| size.rsplit_once(')'));
    size.map_or("", |(size, _)| size.trim())
}

/// What follows the colon in the declaration of a variable.
pub(crate) fn declared_type(text: &str) -> &str {
    let (_, ty) = text.split_once(':').unwrap_or_default();
    ty.trim().trim_end_matches(';').trim_end()
}

/// A parameter or a member.
pub(crate) struct Field<'a> {
    /// Empty if it is not built in.
    pub builtin: &'a str,
    pub name: &'a str,
    pub ty: &'a str,
}
