//! Holds `src/` to the table of rooms in docs/architecture.md: who may use whom, where `virt`,
//! `rusqlite` and `unsafe` may be named, how long a file may be, and that XML is never formatted.
//!
//! The sources are read token by token, so that words in comments and texts count for nothing and
//! `super::super::x`, nested `use` groups and paths in the middle of a line count as what they are.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Which rooms a room may name, besides itself. `*` stands for every room.
const MAY_USE: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("model", &["error"]),
    ("xml", &["model", "error"]),
    ("libvirt", &["model", "error"]),
    ("store", &["model", "error"]),
    ("authz", &["model", "error"]),
    ("bus", &["store", "model", "error"]),
    ("service", &["bus", "authz", "store", "libvirt", "xml", "model", "error", "config"]),
    ("api", &["service", "authz", "bus", "model", "error"]),
    ("cli", &["model", "error", "config"]),
    ("config", &["*"]),
    ("telemetry", &["*"]),
    ("systemd", &["*"]),
    ("daemon", &["*"]),
    ("bin", &["*"]),
];

/// Crates that one room alone may name.
const CRATE_OF: &[(&str, &str)] = &[("virt", "libvirt"), ("rusqlite", "store")];

/// A file of more lines holds two things.
const MAX_LINES: usize = 700;

/// The one place outside `libvirt/ffi/` that may say `unsafe`, once: it takes ownership of the
/// descriptors that the service manager passed.
const UNSAFE_BESIDE_FFI: (&str, usize) = ("systemd.rs", 1);

// --- the checks -------------------------------------------------------------------------------------

#[test]
fn no_room_uses_a_room_that_it_may_not() {
    expect_none(sources().iter().flat_map(|source| forbidden_edges(source, MAY_USE)));
}

#[test]
fn every_file_belongs_to_a_room_of_the_table() {
    expect_none(sources().iter().filter_map(|source| {
        let room = source.room();
        let known = room == "lib" || MAY_USE.iter().any(|(name, _)| *name == room);
        (!known).then(|| format!("src/{}: no room of the table", source.path))
    }));
}

#[test]
fn virt_and_rusqlite_are_named_in_one_room_each() {
    expect_none(sources().iter().flat_map(foreign_crates));
}

#[test]
fn unsafe_stands_in_ffi_alone_and_says_why_it_is_sound() {
    let all = sources();
    expect_none(all.iter().flat_map(|source| misplaced_unsafe(source, UNSAFE_BESIDE_FFI)));
    expect_none(all.iter().flat_map(unsafe_without_safety));
}

#[test]
fn xml_is_never_assembled_by_formatting() {
    expect_none(sources().iter().flat_map(formatted_xml));
}

#[test]
fn no_file_is_longer_than_it_should_be() {
    expect_none(sources().iter().filter_map(|source| {
        let lines = source.text.lines().count();
        (lines > MAX_LINES)
            .then(|| format!("src/{}: {lines} lines, at most {MAX_LINES}", source.path))
    }));
}

#[test]
fn the_rooms_of_the_document_are_the_rooms_of_this_test() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let text = std::fs::read_to_string(document).expect("docs/architecture.md is there");
    let documented = documented_rooms(&text);
    expect_none(
        MAY_USE
            .iter()
            .filter(|(room, _)| !documented.contains_key(*room))
            .map(|(room, _)| format!("docs/architecture.md has no room {room}")),
    );
    // What the document says in words ("the rooms above") is this test's business alone.
    for (room, allowed) in MAY_USE.iter().filter(|(room, _)| *room != "service") {
        let cell = documented.get(*room).map_or("", String::as_str);
        if allowed == &["*"] {
            assert_eq!(cell, "everything", "what docs/architecture.md lets {room} use");
            continue;
        }
        let mut said: Vec<&str> = cell
            .split(',')
            .map(|word| word.trim().split(' ').next().unwrap_or_default())
            .filter(|word| !word.is_empty() && *word != "–")
            .collect();
        let mut wanted = allowed.to_vec();
        said.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(said, wanted, "what docs/architecture.md lets {room} use");
    }
}

/// The rooms of the document's table with what their last cell says.
fn documented_rooms(text: &str) -> BTreeMap<String, String> {
    let mut rooms = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `src/")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let (Some(first), Some(last)) = (cells.first(), cells.last()) else { continue };
        for path in first.split(',').map(str::trim) {
            let name = path.trim_matches('`').trim_start_matches("src/").trim_end_matches('/');
            rooms.insert(name.trim_end_matches(".rs").to_owned(), (*last).to_owned());
        }
    }
    rooms
}

fn expect_none(problems: impl Iterator<Item = String>) {
    let problems: Vec<String> = problems.collect();
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

fn forbidden_edges(source: &Source, table: &[(&str, &[&str])]) -> Vec<String> {
    let room = source.room();
    let rooms: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
    let allowed = table.iter().find(|(name, _)| *name == room).map_or(&[][..], |row| row.1);
    let free = room == "lib" || allowed.contains(&"*");
    let mut problems: Vec<String> = source
        .paths()
        .into_iter()
        // What a test sets up beside its room is the test's business.
        .filter(|path| !source.in_tests(path.token))
        .filter_map(|path| {
            let used = path.segments.first()?;
            let fine = free
                || !rooms.contains(&used.as_str())
                || *used == room
                || allowed.contains(&used.as_str());
            (!fine && path.local)
                .then(|| format!("src/{}:{}: {room} must not use {used}", source.path, path.line))
        })
        .collect();
    problems.dedup();
    problems
}

fn foreign_crates(source: &Source) -> Vec<String> {
    source
        .paths()
        .into_iter()
        .filter_map(|path| {
            let named = path.segments.first().filter(|_| !path.local)?;
            let (_, home) = CRATE_OF.iter().find(|(name, _)| name == named)?;
            (source.room() != *home)
                .then(|| format!("src/{}:{}: only {home} may name {named}", source.path, path.line))
        })
        .collect()
}

fn misplaced_unsafe(source: &Source, (beside, most): (&str, usize)) -> Vec<String> {
    if source.path.starts_with("libvirt/ffi/") {
        return Vec::new();
    }
    let found: Vec<u32> =
        source.tokens.iter().filter(|token| token.is("unsafe")).map(|token| token.line).collect();
    let most = if source.path == beside { most } else { 0 };
    found
        .into_iter()
        .skip(most)
        .map(|line| format!("src/{}:{line}: unsafe outside libvirt/ffi/", source.path))
        .collect()
}

/// Blocks and impls need the word SAFETY above them, functions a section of it for their callers.
/// Callbacks (`extern "C"`) are called by libvirt alone: what they rely on stands at their blocks.
fn unsafe_without_safety(source: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    for (at, token) in source.tokens.iter().enumerate().filter(|(_, token)| token.is("unsafe")) {
        let following = |ahead: usize| source.tokens.get(at + ahead);
        let needs = match following(1) {
            Some(next) if next.is("{") || next.is("impl") => true,
            Some(next) if next.is("fn") => following(2).is_some_and(Token::is_word),
            _ => false,
        };
        if needs && !source.has_safety_above(at) {
            problems.push(format!(
                "src/{}:{}: unsafe without a SAFETY sentence",
                source.path, token.line
            ));
        }
    }
    problems
}

/// Texts of formatting macros that look like markup with something put into it. A message that
/// names an element (`<{name}> is too deep`) is none.
fn formatted_xml(source: &Source) -> Vec<String> {
    const MACROS: [&str; 7] =
        ["format", "format_args", "write", "writeln", "print", "println", "concat"];
    let mut problems = Vec::new();
    let tokens = &source.tokens;
    for at in 0..tokens.len() {
        let is_macro = MACROS.iter().any(|name| tokens[at].is(name))
            && tokens.get(at + 1).is_some_and(|token| token.is("!"))
            && tokens.get(at + 2).is_some_and(|token| token.is("("));
        if !is_macro || source.in_tests(at) {
            continue;
        }
        let mut depth = 0_i32;
        for token in &tokens[at + 2..] {
            match &token.kind {
                Kind::Punct('(') => depth += 1,
                Kind::Punct(')') => depth -= 1,
                Kind::Text(text) if is_markup(text) => problems.push(format!(
                    "src/{}:{}: XML in a format string: {text:?}",
                    source.path, token.line
                )),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    problems.dedup();
    problems
}

fn is_markup(text: &str) -> bool {
    let opens = |at: usize| {
        let rest = &text[at + 1..];
        rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '{' || c == '!')
    };
    let has_tag = text.match_indices('<').any(|(at, _)| opens(at));
    has_tag && ["</", "/>", "='", "=\\\"", "=\"", "<!--", "?>"].iter().any(|end| text.contains(end))
}

// --- the sources ------------------------------------------------------------------------------------

/// One file below `src/`.
struct Source {
    /// Such as `service/vm/mod.rs`.
    path: String,
    text: String,
    tokens: Vec<Token>,
    comments: Vec<(u32, String)>,
}

/// A path that the code names, resolved as far as its first room or crate.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    line: u32,
    /// Where among the tokens it stands.
    token: usize,
    /// Whether it begins in this crate.
    local: bool,
    segments: Vec<String>,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 50, "the sources are not where they were: {}", files.len());
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let path = file.strip_prefix(&root).expect("below src").display().to_string();
            Source::new(&path, std::fs::read_to_string(&file).expect("a source is UTF-8"))
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("src can be read") {
        let path = entry.expect("src can be read").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

impl Source {
    fn new(path: &str, text: String) -> Source {
        let (tokens, comments) = tokenize(&text);
        Source { path: path.to_owned(), text, tokens, comments }
    }

    /// The first part of the path: `service` of `service/vm/mod.rs`, `bus` of `bus.rs`.
    fn room(&self) -> String {
        let first = self.path.split('/').next().unwrap_or_default();
        first.trim_end_matches(".rs").to_owned()
    }

    /// The module that the file is: `[service, vm]` of `service/vm/mod.rs`.
    fn module(&self) -> Vec<String> {
        let path = self.path.trim_end_matches(".rs");
        let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
        if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
            parts.pop();
        }
        parts
    }

    /// Every path that the code names.
    fn paths(&self) -> Vec<Named> {
        let mut found = Vec::new();
        let base = self.module();
        let mut inner: Vec<(String, i32)> = Vec::new();
        let mut depth = 0_i32;
        let mut at = 0;
        while at < self.tokens.len() {
            let token = &self.tokens[at];
            match &token.kind {
                Kind::Punct('{') => depth += 1,
                Kind::Punct('}') => {
                    depth -= 1;
                    while inner.last().is_some_and(|(_, opened)| *opened > depth) {
                        inner.pop();
                    }
                }
                Kind::Word(word) if word == "mod" => {
                    let name = self.tokens.get(at + 1);
                    if let Some(Token { kind: Kind::Word(name), .. }) = name
                        && self.tokens.get(at + 2).is_some_and(|token| token.is("{"))
                    {
                        inner.push((name.clone(), depth + 1));
                    }
                }
                Kind::Word(word) if word == "use" => {
                    let here: Vec<String> =
                        base.iter().cloned().chain(inner.iter().map(|m| m.0.clone())).collect();
                    at = self.tree(at + 1, &here, Vec::new(), &mut found);
                    continue;
                }
                Kind::Word(word) => {
                    let continued = at > 0 && self.tokens[at - 1].is("::");
                    let leads = self.tokens.get(at + 1).is_some_and(|token| token.is("::"));
                    // `<T>::f` and `a::b` go on; `::virt::x` begins.
                    let global = continued
                        && !(at > 1
                            && (self.tokens[at - 2].is_word() || self.tokens[at - 2].is(">")));
                    if leads && (!continued || global) && !word.is_empty() {
                        let here: Vec<String> =
                            base.iter().cloned().chain(inner.iter().map(|m| m.0.clone())).collect();
                        at = self.tree(at, &here, Vec::new(), &mut found);
                        continue;
                    }
                }
                _ => {}
            }
            at += 1;
        }
        found
    }

    /// Reads one path or tree of paths that begins at `at`; returns where it ends.
    fn tree(
        &self,
        mut at: usize,
        here: &[String],
        mut prefix: Vec<String>,
        found: &mut Vec<Named>,
    ) -> usize {
        let begins = at;
        let line = self.tokens.get(at).map_or(0, |token| token.line);
        if self.tokens.get(at).is_some_and(|token| token.is("::")) {
            at += 1;
        }
        loop {
            match self.tokens.get(at).map(|token| &token.kind) {
                Some(Kind::Word(word)) => {
                    prefix.push(word.clone());
                    at += 1;
                }
                Some(Kind::Punct('*')) => at += 1,
                Some(Kind::Punct('{')) => {
                    at += 1;
                    while let Some(token) = self.tokens.get(at) {
                        if token.is("}") {
                            at += 1;
                            break;
                        }
                        if token.is(",") {
                            at += 1;
                            continue;
                        }
                        let before = at;
                        at = self.tree(at, here, prefix.clone(), found);
                        // `x as y`
                        while self.tokens.get(at).is_some_and(|t| !t.is(",") && !t.is("}")) {
                            at += 1;
                        }
                        if at == before {
                            at += 1;
                        }
                    }
                    return at;
                }
                _ => {}
            }
            if self.tokens.get(at).is_some_and(|token| token.is("::")) {
                at += 1;
            } else {
                break;
            }
        }
        found.extend(resolve(line, begins, here, &prefix));
        at
    }

    /// Whether a comment with SAFETY stands on the lines right above the statement of this token.
    fn has_safety_above(&self, at: usize) -> bool {
        let line = self.tokens[at].line;
        // Back to where the statement or the item begins.
        let mut first = at;
        while first > 0 {
            let before = &self.tokens[first - 1];
            if before.is(";") || before.is("{") || before.is("}") {
                break;
            }
            first -= 1;
        }
        let begins = self.tokens[first].line;
        let mut wanted = line;
        while wanted > 0 {
            let here: Vec<&str> = self
                .comments
                .iter()
                .filter(|(commented, _)| *commented == wanted)
                .map(|(_, text)| text.as_str())
                .collect();
            if here.iter().any(|text| text.contains("SAFETY") || text.contains("# Safety")) {
                return true;
            }
            if wanted < begins && here.is_empty() {
                return false;
            }
            wanted -= 1;
        }
        false
    }

    /// Whether the token stands in a module or a file of tests.
    fn in_tests(&self, at: usize) -> bool {
        let of_tests = |name: &str| matches!(name, "tests" | "testing") || name.ends_with("_tests");
        if self.module().iter().any(|part| of_tests(part)) {
            return true;
        }
        let mut depth = 0_i32;
        let mut opened: Option<i32> = None;
        for index in 0..at {
            match &self.tokens[index].kind {
                Kind::Punct('{') => depth += 1,
                Kind::Punct('}') => {
                    depth -= 1;
                    if opened.is_some_and(|tests| depth < tests) {
                        opened = None;
                    }
                }
                Kind::Word(word) if word == "mod" && opened.is_none() => {
                    if let Some(Token { kind: Kind::Word(name), .. }) = self.tokens.get(index + 1)
                        && of_tests(name)
                    {
                        opened = Some(depth + 1);
                    }
                }
                _ => {}
            }
        }
        opened.is_some()
    }
}

/// What a path names, seen from the module `here`. Paths to own children and to what a `use` above
/// brought in are not told apart from crates: neither is a room's business.
fn resolve(line: u32, token: usize, here: &[String], path: &[String]) -> Option<Named> {
    let first = path.first()?;
    let (local, segments) = match first.as_str() {
        "crate" | "vapor" => (true, path[1..].to_vec()),
        "self" | "super" => {
            let mut module = here.to_vec();
            let mut rest = path;
            while let Some(word) = rest.first() {
                match word.as_str() {
                    "self" => {}
                    "super" => {
                        module.pop();
                    }
                    _ => break,
                }
                rest = &rest[1..];
            }
            module.extend(rest.iter().cloned());
            (true, module)
        }
        _ => (false, path.to_vec()),
    };
    Some(Named { line, token, local, segments })
}

// --- tokens -----------------------------------------------------------------------------------------

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Word(String),
    /// A text literal, without its quotes, as it is written.
    Text(String),
    PathSeparator,
    Punct(char),
    /// Numbers, characters, lifetimes: nothing that matters here.
    Other,
}

#[derive(Clone, Debug)]
struct Token {
    line: u32,
    kind: Kind,
}

impl Token {
    fn is(&self, text: &str) -> bool {
        match &self.kind {
            Kind::Word(word) => word == text,
            Kind::PathSeparator => text == "::",
            Kind::Punct(punct) => text.chars().eq([*punct]),
            Kind::Text(_) | Kind::Other => false,
        }
    }

    fn is_word(&self) -> bool {
        matches!(self.kind, Kind::Word(_))
    }
}

/// The tokens of a source and its comments, each with its line.
fn tokenize(text: &str) -> (Vec<Token>, Vec<(u32, String)>) {
    let chars: Vec<char> = text.chars().collect();
    let (mut tokens, mut comments) = (Vec::new(), Vec::new());
    let (mut at, mut line) = (0, 1_u32);
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied().unwrap_or('\0');
        let begun = line;
        if c == '\n' {
            line += 1;
            at += 1;
        } else if c.is_whitespace() {
            at += 1;
        } else if c == '/' && next == '/' {
            let end = chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |n| at + n);
            comments.push((line, chars[at..end].iter().collect()));
            at = end;
        } else if c == '/' && next == '*' {
            let mut depth = 0;
            let from = at;
            while at < chars.len() {
                match (chars[at], chars.get(at + 1)) {
                    ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
                    ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
                    (c, _) => {
                        line += u32::from(c == '\n');
                        at += 1;
                    }
                }
                if depth == 0 {
                    break;
                }
            }
            let whole: String = chars[from..at].iter().collect();
            for (offset, part) in (0..).zip(whole.lines()) {
                comments.push((begun + offset, part.to_owned()));
            }
        } else if let Some((body, end)) = raw_text(&chars, at).or_else(|| plain_text(&chars, at)) {
            line += u32::try_from(chars[at..end].iter().filter(|c| **c == '\n').count())
                .expect("a source is short");
            tokens.push(Token { line: begun, kind: Kind::Text(body) });
            at = end;
        } else if c == '\'' {
            at = after_quote(&chars, at);
            tokens.push(Token { line, kind: Kind::Other });
        } else if c.is_ascii_digit() {
            while chars.get(at).is_some_and(|c| is_word(*c)) {
                at += 1;
            }
            tokens.push(Token { line, kind: Kind::Other });
        } else if is_word(c) {
            let mut word = String::new();
            if c == 'r' && next == '#' {
                at += 2;
            }
            while let Some(c) = chars.get(at).filter(|c| is_word(**c)) {
                word.push(*c);
                at += 1;
            }
            tokens.push(Token { line, kind: Kind::Word(word) });
        } else if c == ':' && next == ':' {
            tokens.push(Token { line, kind: Kind::PathSeparator });
            at += 2;
        } else {
            tokens.push(Token { line, kind: Kind::Punct(c) });
            at += 1;
        }
    }
    (tokens, comments)
}

/// `r"…"`, `r#"…"#`, `br"…"`, `cr"…"`: the body and where it ends.
fn raw_text(chars: &[char], from: usize) -> Option<(String, usize)> {
    let mut at = from + usize::from(matches!(chars[from], 'b' | 'c'));
    if chars.get(at) != Some(&'r') {
        return None;
    }
    at += 1;
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    at += hashes;
    if chars.get(at) != Some(&'"') {
        return None;
    }
    let body = at + 1;
    let mut end = body;
    while end < chars.len() {
        let closes = chars[end] == '"'
            && chars[end + 1..].iter().take_while(|c| **c == '#').count() >= hashes;
        if closes {
            break;
        }
        end += 1;
    }
    Some((chars[body..end].iter().collect(), (end + 1 + hashes).min(chars.len())))
}

/// `"…"`, `b"…"`, `c"…"`: the body and where it ends.
fn plain_text(chars: &[char], from: usize) -> Option<(String, usize)> {
    let at = from + usize::from(matches!(chars[from], 'b' | 'c'));
    if chars.get(at) != Some(&'"') {
        return None;
    }
    let mut end = at + 1;
    while end < chars.len() && chars[end] != '"' {
        end += if chars[end] == '\\' { 2 } else { 1 };
    }
    let body = chars.get(at + 1..end.min(chars.len()))?.iter().collect();
    Some((body, (end + 1).min(chars.len())))
}

/// Where a character or a lifetime that begins at `from` ends.
fn after_quote(chars: &[char], from: usize) -> usize {
    match (chars.get(from + 1), chars.get(from + 2)) {
        (Some('\\'), _) => {
            let mut at = from + 3;
            while chars.get(at).is_some_and(|c| *c != '\'') {
                at += 1;
            }
            at + 1
        }
        (Some(_), Some('\'')) => from + 3,
        _ => {
            let mut at = from + 1;
            while chars.get(at).is_some_and(|c| c.is_alphanumeric() || *c == '_') {
                at += 1;
            }
            at.max(from + 1)
        }
    }
}

// --- the checks can fail ----------------------------------------------------------------------------

fn source(path: &str, text: &str) -> Source {
    Source::new(path, text.to_owned())
}

fn edges(path: &str, text: &str) -> Vec<String> {
    forbidden_edges(&source(path, text), MAY_USE)
}

fn named(path: &str, text: &str) -> String {
    source(path, text).paths().iter().fold(String::new(), |mut all, path| {
        let _ = write!(all, "{}{} ", if path.local { "" } else { "::" }, path.segments.join("."));
        all
    })
}

#[test]
fn an_upward_import_is_found_in_every_form() {
    for text in [
        "use crate::service::Services;",
        "use crate::{model::Vm, service::{self, vm::VmService}};",
        "fn f() { crate::service::go() }",
        "fn f() -> super::super::service::X { loop {} }",
        "macro_rules! m { () => { $crate::service::go() } }",
        "pub(in crate::libvirt) use crate::service::X;",
    ] {
        let found = edges("libvirt/domain.rs", text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].ends_with("libvirt must not use service"), "{found:?}");
    }
    assert_eq!(edges("bin/vapord.rs", "use vapor::service::X;"), Vec::<String>::new());
}

#[test]
fn what_a_test_uses_is_its_own_business() {
    assert!(edges("libvirt/domain.rs", "mod tests { use crate::service::X; }").is_empty());
    assert!(edges("libvirt/tests/nouns.rs", "use crate::service::X;").is_empty());
    let after = "mod tests { use crate::model::X; } use crate::service::X;";
    assert_eq!(edges("libvirt/domain.rs", after).len(), 1);
}

#[test]
fn siblings_do_not_import_each_other() {
    assert_eq!(edges("xml/a.rs", "use crate::store::Store;").len(), 1);
    assert_eq!(edges("store/mod.rs", "use super::libvirt::X;").len(), 1);
    assert_eq!(edges("api/vms.rs", "use crate::libvirt::Lane;").len(), 1);
    assert_eq!(edges("api/vms.rs", "use crate::store::Store;").len(), 1);
    assert_eq!(edges("cli/vm.rs", "use crate::api::VMS;").len(), 1);
    assert_eq!(edges("error.rs", "use crate::model::Vm;").len(), 1);
}

#[test]
fn what_the_table_allows_is_allowed() {
    for (path, text) in [
        ("service/vm/mod.rs", "use super::gate::Gate; use crate::libvirt::Lane; use crate::xml;"),
        ("service/vm/mod.rs", "use super::super::store::Store;"),
        ("api/vms.rs", "use super::reply; use crate::service::vm::VmQuery; use crate::authz::X;"),
        ("bus.rs", "pub use crate::store::{EventQuery, NewEvent};"),
        ("libvirt/ffi/typed.rs", "fn f() { super::super::session::x() }"),
        ("daemon.rs", "use crate::api::server; use crate::store::Store;"),
        ("model/vm.rs", "#[derive(serde::Serialize)] struct X(std::sync::Arc<u8>);"),
    ] {
        assert_eq!(edges(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}

#[test]
fn words_in_comments_and_texts_are_no_paths() {
    let text = r##"
        // use crate::service::X;
        /* crate::service::X /* nested */ crate::service::Y */
        /// [`crate::service::X`]
        const A: &str = "crate::service::X \" crate::service::Y";
        const B: &str = r#"use crate::service::X; " "#;
        const C: char = '"'; const D: char = '\''; const E: u8 = b'"';
        fn f<'a>(x: &'a str) -> &'a str { x }
    "##;
    assert_eq!(edges("xml/a.rs", text), Vec::<String>::new());
    // What follows such a text is read again.
    assert_eq!(edges("xml/a.rs", &format!("{text} use crate::service::X;")).len(), 1);
}

#[test]
fn paths_are_resolved_from_where_they_stand() {
    assert_eq!(named("a/b.rs", "use super::c::X;"), "a.c.X ");
    assert_eq!(named("a/b/mod.rs", "use super::c;"), "a.c ");
    assert_eq!(named("a/b/mod.rs", "mod m { use super::c; } use super::d;"), "a.b.c a.d ");
    assert_eq!(named("a.rs", "use crate::{x, y::{self, z as w}, v::*};"), "x y.self y.z v ");
    assert_eq!(named("a.rs", "fn f() { ::virt::x(); a::b::c(); <T>::d() }"), "::virt.x ::a.b.c ");
}

#[test]
fn virt_outside_its_room_is_found() {
    for text in [
        "use virt::domain::Domain;",
        "use ::virt::domain::Domain;",
        "fn f(x: virt::domain::Domain) {}",
        "use {std::fmt, virt::sys};",
    ] {
        assert_eq!(foreign_crates(&source("service/vm.rs", text)).len(), 1, "{text}");
        assert!(foreign_crates(&source("libvirt/vm.rs", text)).is_empty(), "{text}");
    }
    assert_eq!(foreign_crates(&source("bus.rs", "use rusqlite as db;")).len(), 1);
    assert!(foreign_crates(&source("service/vm.rs", "use crate::libvirt::Virt;")).is_empty());
}

#[test]
fn unsafe_outside_ffi_is_found() {
    let found = |path, text| misplaced_unsafe(&source(path, text), UNSAFE_BESIDE_FFI).len();
    assert_eq!(found("libvirt/domain.rs", "fn f() { unsafe { g() } }"), 1);
    assert_eq!(found("libvirt/ffi/domain.rs", "fn f() { unsafe { g() } }"), 0);
    assert_eq!(found("systemd.rs", "fn f() { unsafe { g() } }"), 0);
    assert_eq!(found("systemd.rs", "fn f() { unsafe { g() }; unsafe { g() } }"), 1);
    assert_eq!(found("xml/a.rs", "// unsafe\nconst A: &str = \"unsafe\";"), 0);
}

#[test]
fn unsafe_without_its_sentence_is_found() {
    let found = |text| unsafe_without_safety(&source("libvirt/ffi/a.rs", text)).len();
    assert_eq!(found("fn f() {\n  unsafe { g() }\n}"), 1);
    assert_eq!(found("fn f() {\n  // SAFETY: g needs nothing.\n  unsafe { g() }\n}"), 0);
    assert_eq!(
        found("fn f() {\n  // SAFETY: two\n  // lines.\n  let x =\n    unsafe { g() };\n}"),
        0
    );
    assert_eq!(found("// SAFETY: of another\nfn h() {}\nfn f() {\n  unsafe { g() }\n}"), 1);
    assert_eq!(found("unsafe impl Send for X {}"), 1);
    assert_eq!(found("unsafe fn f() {}"), 1);
    assert_eq!(found("/// # Safety\n/// Nothing.\nunsafe fn f() {}"), 0);
    assert_eq!(found("type F = unsafe extern \"C\" fn(i32);"), 0);
    assert_eq!(found("unsafe extern \"C\" fn f() {}"), 0);
    assert_eq!(found("unsafe extern \"C\" fn f() { unsafe { g() } }"), 1);
}

#[test]
fn formatted_markup_is_found_and_messages_are_none() {
    let found = |text| formatted_xml(&source("service/a.rs", text)).len();
    assert_eq!(found(r#"fn f() { format!("<name>{}</name>", x) }"#), 1);
    assert_eq!(found(r#"fn f() { write!(out, "<disk type='{kind}'>")?; }"#), 1);
    assert_eq!(found(r#"fn f() { format!("{}", format_args!("<a b=\"{}\">", c)) }"#), 1);
    assert_eq!(found(r#"fn f() { format!("<{name}> has more than {most} attributes") }"#), 0);
    assert_eq!(found(r#"fn f() { format!("a < b, see x='y'") }"#), 0);
    assert_eq!(found(r#"mod tests { fn f() { format!("<a>{}</a>", x) } }"#), 0);
    let after = r#"mod tests { fn f() {} } fn g() { format!("<a>{}</a>", x) }"#;
    assert_eq!(found(after), 1);
}

#[test]
fn the_table_of_a_document_is_read() {
    let table = "| room | what | may use |\n| --- | --- | --- |\n\
        | `src/xml/` | text | model, error |\n| `src/config.rs`, `src/daemon.rs` | x | everything |";
    let rooms = documented_rooms(table);
    assert_eq!(rooms.keys().collect::<Vec<_>>(), ["config", "daemon", "xml"]);
    assert_eq!(rooms["xml"], "model, error");
}
