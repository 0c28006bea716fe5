//! From WGSL to declarations.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::declaration::{Declaration, Kind};

#[derive(Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    start: usize,
}

impl Token<'_> {
    fn is_name(&self) -> bool {
        self.text
            .starts_with(|c: char| is_word(c) && !c.is_ascii_digit())
    }

    fn range(&self) -> Range<usize> {
        self.start..self.start + self.text.len()
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Names and keywords, numbers, and every other character by itself, of a text without comments.
fn tokens(text: &str) -> impl Iterator<Item = Token<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        at += text[at..].find(|c: char| !c.is_whitespace())?;
        let rest = &text[at..];
        let first = rest.chars().next()?;
        let mut last = first;
        let is_number = first.is_ascii_digit();
        let is_hex = rest.starts_with("0x") || rest.starts_with("0X");
        let in_number = |c: char, last: char| {
            c == '.' || (matches!(c, '+' | '-') && matches!(last, 'e' | 'E') && !is_hex)
        };
        let end = rest.find(|c: char| {
            let goes_on = is_word(c) || (is_number && in_number(c, last));
            last = c;
            !goes_on
        });
        let length = match is_word(first) {
            true => end.unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        let token = Token {
            text: &rest[..length],
            start: at,
        };
        at += length;
        Some(token)
    })
}

/// The text without comments, on the same lines.
fn without_comments(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    let starts = |(at, _): &(usize, &str), rest: &str| {
        matches!(rest.as_bytes().get(at + 1), Some(b'/' | b'*'))
    };
    while let Some((start, _)) = rest.match_indices('/').find(|found| starts(found, rest)) {
        let comment = &rest[start..];
        if comment.starts_with("//") {
            text.push_str(rest[..start].trim_end_matches([' ', '\t']));
            rest = &comment[comment.find('\n').unwrap_or(comment.len())..];
            continue;
        }
        text.push_str(&rest[..start]);
        let mut depth = 0;
        let mut pairs = comment.as_bytes().windows(2);
        let end = pairs.position(|pair| {
            depth += i32::from(pair == b"/*") - i32::from(pair == b"*/");
            depth == 0
        });
        let (comment, behind) = comment.split_at(end.map_or(comment.len(), |end| end + 2));
        text.extend(comment.chars().map(|c| if c == '\n' { c } else { ' ' }));
        rest = behind;
    }
    text + rest
}

/// The text with lines repeated, each still as one line: `$8` stands for 0 to 7 in turn.
fn repeated(source: &str) -> String {
    let line = |line: &str| {
        let behind = line.split_once('$').map_or("", |(_, behind)| behind);
        let digits = behind.find(|c: char| !c.is_ascii_digit());
        let count = &behind[..digits.unwrap_or(behind.len())];
        let turn = |n: usize| line.replace(&format!("${count}"), &n.to_string());
        match count.parse() {
            Ok(times) => (0..times).map(turn).collect(),
            Err(_) => line.to_owned(),
        }
    };
    let lines: Vec<String> = source.split('\n').map(line).collect();
    lines.join("\n")
}

/// The declarations of a text. What is none, naga says.
pub(super) fn declarations(file: &Arc<str>, source: &str) -> Vec<Arc<Declaration>> {
    let source = repeated(&without_comments(source));
    let tokens: Vec<Token<'_>> = tokens(&source).collect();
    let mut declarations = Vec::new();
    let (mut first, mut line, mut counted) = (0, 0, 0);
    while first < tokens.len() {
        let keyword = keyword(&tokens, first);
        let has_body = matches!(
            tokens.get(keyword).map(|token| token.text),
            Some("fn" | "struct")
        );
        let mut depth = 0;
        let end = tokens[first..].iter().position(|token| {
            match token.text {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            depth == 0 && (token.text == ";" || (has_body && token.text == "}"))
        });
        let end = end.map_or(tokens.len(), |end| first + end + 1);
        let start = tokens[first].start;
        line += source[counted..start].matches('\n').count();
        counted = start;
        // A struct may have a semicolon behind it.
        if tokens[first].text != ";" {
            let text = &source[start..tokens[end - 1].range().end];
            let own = (&tokens[first..end], keyword.min(end - 1) - first);
            declarations.push(Arc::new(declaration(
                own,
                text,
                start,
                (file.clone(), line),
            )));
        }
        first = end;
    }
    declarations
}

fn length_until(end: &str, tokens: &[Token<'_>]) -> usize {
    let is_end = |token: &Token<'_>| token.text == end;
    tokens.iter().position(is_end).unwrap_or(tokens.len())
}

/// The token behind the attributes that begin at one.
fn keyword(tokens: &[Token<'_>], mut at: usize) -> usize {
    while tokens.get(at).is_some_and(|token| token.text == "@") {
        at += 2;
        if tokens.get(at).is_some_and(|token| token.text == "(") {
            at += 1 + length_until(")", &tokens[at..]);
        }
    }
    at
}

fn declaration(
    (tokens, keyword): (&[Token<'_>], usize),
    text: &str,
    start: usize,
    origin: (Arc<str>, usize),
) -> Declaration {
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let binding = || {
        let at = tokens.iter().position(|token| token.text == "binding");
        at.and_then(|at| word(at + 2).trim_end_matches(['u', 'i']).parse().ok())
    };
    let mut name = keyword + 1;
    let kind = match word(keyword) {
        "fn" if tokens[..keyword]
            .iter()
            .any(|token| token.text == "compute") =>
        {
            Kind::Entry
        }
        "fn" => Kind::Function,
        "struct" => Kind::Struct,
        "const" => Kind::Constant,
        "import" => Kind::Import,
        "var" => {
            let template = tokens[name..].iter().take_while(|token| token.text != ">");
            let template: Vec<&str> = template.map(|token| token.text).collect();
            let kind = match (&template[..], binding()) {
                (["<", "uniform"], Some(number)) => Kind::Uniform(number),
                (["<", "storage", mode @ ..], Some(number)) => {
                    Kind::Storage(number, mode.contains(&"read_write"))
                }
                (["<", "workgroup"], _) => Kind::Workgroup,
                _ => Kind::Other,
            };
            if word(name) == "<" {
                name += template.len() + 1;
            }
            kind
        }
        "alias" | "override" => Kind::Other,
        _ => {
            name = tokens.len();
            Kind::Other
        }
    };
    let name = match kind {
        Kind::Import => {
            let path = tokens[name..].iter().take_while(|token| token.text != ";");
            path.map(|token| token.text).collect()
        }
        _ => word(name).to_owned(),
    };
    let (mentions, locals) = resolved(tokens, kind);
    let uses: BTreeSet<&str> = mentions.iter().map(|&at| tokens[at].text).collect();
    let local = |at: &usize| {
        let range = tokens[*at].range();
        range.start - start..range.end - start
    };
    Declaration {
        name: name.into(),
        kind,
        text: text.into(),
        mentions: mentions.iter().map(local).collect(),
        uses: uses.into_iter().map(Box::from).collect(),
        locals: locals.into_iter().map(Box::from).collect(),
        origin,
    }
}

/// Which tokens mention what is declared at the outermost level, by WGSL's scopes, and the names that are declared within.
/// Members, attributes and the words of templates that are no types are neither; keywords are among the mentions.
fn resolved<'a>(tokens: &[Token<'a>], kind: Kind) -> (Vec<usize>, BTreeSet<&'a str>) {
    let (mut mentions, mut locals) = (Vec::new(), BTreeSet::new());
    // Names in scope, and where each scope begins among them; whether it is the head of a loop, which ends with its body.
    let mut names: Vec<&str> = Vec::new();
    let mut scopes: Vec<(usize, bool)> = Vec::new();
    // What a statement declares, from its end on.
    let mut pending = None;
    let is_function = matches!(kind, Kind::Entry | Kind::Function);
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let (mut at, mut depth) = (0, 0);
    while at < tokens.len() {
        let token = tokens[at];
        match token.text {
            "(" => depth += 1,
            ")" => depth -= 1,
            "@" => {
                at += 2;
                let has_words = matches!(word(at - 1), "builtin" | "interpolate" | "diagnostic");
                if has_words {
                    at += 1 + length_until(")", &tokens[at..]);
                }
                continue;
            }
            "." => at += 1,
            "{" => scopes.push((names.len(), false)),
            "}" => {
                let body = scopes.pop();
                let head = scopes.pop_if(|(_, is_head)| *is_head);
                if let Some((start, _)) = head.or(body) {
                    names.truncate(start);
                }
            }
            ";" => names.extend(pending.take()),
            _ if !token.is_name() => {}
            "let" | "const" | "var" => {
                mentions.push(at);
                at += match word(at + 1) {
                    "<" => 1 + length_until(">", &tokens[at..]),
                    _ => 1,
                };
                match scopes.is_empty() {
                    true => mentions.push(at),
                    false => pending = Some(word(at)),
                }
                locals.extend(pending);
            }
            "ptr" if word(at + 1) == "<" => at += 2,
            name => {
                if name == "for" {
                    scopes.push((names.len(), true));
                }
                let is_declared = word(at + 1) == ":";
                let is_member = kind == Kind::Struct && is_declared && depth == 0;
                let is_parameter = is_function && is_declared && depth == 1 && scopes.is_empty();
                if is_parameter {
                    names.push(name);
                    locals.insert(name);
                } else if !is_member && !names.contains(&name) {
                    mentions.push(at);
                }
            }
        }
        at += 1;
    }
    mentions.retain(|&at| at < tokens.len());
    (mentions, locals)
}
