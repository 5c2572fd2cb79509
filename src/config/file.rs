//! Reads TOML key by key and remembers lines, so that every complaint can name one.
//!
//! `check` asks for each key that there is; what nobody asked for is unknown, and what was asked
//! for is the list that the nearest known key is looked up in. No second list can drift from it.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A configuration file while it is read.
pub(super) struct Reader<'t> {
    file: Option<PathBuf>,
    text: &'t str,
    sections: BTreeMap<String, Section<'t>>,
    known: Vec<(&'static str, &'static str)>,
    lines: BTreeMap<(&'static str, &'static str), usize>,
    /// What stands before any section.
    stray: Vec<(usize, String)>,
    problems: Vec<(usize, String)>,
}

/// One `[section]`: where it begins, and the keys that nobody has asked for yet.
struct Section<'t> {
    line: usize,
    keys: BTreeMap<String, (usize, Spanned<DeValue<'t>>)>,
}

impl<'t> Reader<'t> {
    /// A reader of `text`, which came from `file` if there was a file.
    pub fn new(file: Option<&Path>, text: &'t str) -> Reader<'t> {
        let mut reader = Reader {
            file: file.map(Path::to_owned),
            text,
            sections: BTreeMap::new(),
            known: Vec::new(),
            lines: BTreeMap::new(),
            stray: Vec::new(),
            problems: Vec::new(),
        };
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let line = error.span().map_or(1, |span| reader.line(&span));
            reader.problems.push((line, error.message().trim_end_matches('.').to_owned()));
        }
        for (name, value) in document.into_inner() {
            let line = reader.line(&name.span());
            let name = name.into_inner().into_owned();
            let mut keys = BTreeMap::new();
            match value.into_inner() {
                DeValue::Table(table) => {
                    for (key, value) in table {
                        let line = reader.line(&key.span());
                        keys.insert(key.into_inner().into_owned(), (line, value));
                    }
                    reader.sections.insert(name, Section { line, keys });
                }
                _ => reader.stray.push((line, name)),
            }
        }
        reader
    }

    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn take(&mut self, section: &'static str, key: &'static str) -> Option<DeValue<'t>> {
        self.known.push((section, key));
        let (line, value) = self.sections.get_mut(section)?.keys.remove(key)?;
        self.lines.insert((section, key), line);
        Some(value.into_inner())
    }

    /// Complains of a key's value: `problem` goes on after "port in [server] ".
    pub fn reject(&mut self, section: &'static str, key: &'static str, problem: &str) {
        let line = self.lines.get(&(section, key)).copied().unwrap_or(0);
        self.problems.push((line, format!("{key} in [{section}] {problem}")));
    }

    /// A text without control characters, which no path, name or URI here can have.
    pub fn text(&mut self, section: &'static str, key: &'static str) -> Option<String> {
        match self.take(section, key)? {
            DeValue::String(text) if text.is_empty() => {
                self.reject(section, key, "is empty");
                None
            }
            DeValue::String(text) if text.chars().any(char::is_control) => {
                self.reject(section, key, "holds a control character");
                None
            }
            DeValue::String(text) => Some(text.into_owned()),
            other => {
                let found = other.type_str();
                self.reject(section, key, &format!("must be a text in quotes, not {found}"));
                None
            }
        }
    }

    /// An absolute path.
    pub fn path(&mut self, section: &'static str, key: &'static str) -> Option<PathBuf> {
        let path = PathBuf::from(self.text(section, key)?);
        if path.is_absolute() {
            return Some(path);
        }
        self.reject(section, key, "must be an absolute path: a daemon has no folder of its own");
        None
    }

    /// Several absolute paths.
    pub fn paths(&mut self, section: &'static str, key: &'static str) -> Option<Vec<PathBuf>> {
        let value = self.take(section, key)?;
        let paths: Option<Vec<PathBuf>> = match &value {
            DeValue::Array(entries) => entries
                .iter()
                .map(|entry| entry.get_ref().as_str().map(PathBuf::from))
                .map(|path| path.filter(|path| path.is_absolute()))
                .collect(),
            _ => None,
        };
        if paths.is_none() {
            self.reject(section, key, "must be a list of absolute paths in quotes");
        }
        paths
    }

    /// `true` or `false`.
    pub fn flag(&mut self, section: &'static str, key: &'static str) -> Option<bool> {
        match self.take(section, key)? {
            DeValue::Boolean(flag) => Some(flag),
            other => {
                let found = other.type_str();
                self.reject(section, key, &format!("must be true or false, not {found}"));
                None
            }
        }
    }

    /// A whole number within `range`.
    pub fn number<T: TryFrom<u64>>(
        &mut self,
        section: &'static str,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<T> {
        let value = self.take(section, key)?;
        let number = match &value {
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let number = number.and_then(|number| u64::try_from(number).ok());
        match number.filter(|number| range.contains(number)).map(T::try_from) {
            Some(Ok(number)) => Some(number),
            _ => {
                let (from, to) = (range.start(), range.end());
                let problem = format!("must be a whole number from {from} to {to}");
                self.reject(section, key, &problem);
                None
            }
        }
    }

    /// One of a few words.
    pub fn word<T: Copy>(
        &mut self,
        section: &'static str,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let text = self.text(section, key)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let all: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        let problem = format!("must be one of {}, not {text:?}", all.join(", "));
        self.reject(section, key, &problem);
        None
    }

    /// The keys that were asked for, by section.
    #[cfg(test)]
    pub fn known(&self) -> &[(&'static str, &'static str)] {
        &self.known
    }

    /// Everything that is wrong, in the order of the lines, if anything is.
    pub fn finish(mut self) -> Result<(), Vec<String>> {
        for (name, section) in std::mem::take(&mut self.sections) {
            if !self.known.iter().any(|(known, _)| *known == name) {
                let nearest = nearest(&name, self.known.iter().map(|(section, _)| *section));
                let problem = format!(
                    "unknown section [{}]; the nearest known one is [{nearest}]",
                    shown(&name)
                );
                self.problems.push((section.line, problem));
                continue;
            }
            for (key, (line, _)) in section.keys {
                self.problems.push((line, self.unknown(&name, &key)));
            }
        }
        for (line, name) in std::mem::take(&mut self.stray) {
            let problem = self.misplaced(&name);
            self.problems.push((line, problem));
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        self.problems.sort();
        let file = self.file.as_ref().map(|file| file.display().to_string());
        let message = |(line, problem): &(usize, String)| match (&file, line) {
            (Some(file), 0) => format!("{file}: {problem}"),
            (Some(file), line) => format!("{file}:{line}: {problem}"),
            (None, _) => problem.clone(),
        };
        Err(self.problems.iter().map(message).collect())
    }

    fn misplaced(&self, name: &str) -> String {
        if self.known.iter().any(|(section, _)| *section == name) {
            return format!("{name} must be a section: write [{name}]");
        }
        let best = nearest(name, self.known.iter().map(|(_, key)| *key));
        let section = self.known.iter().find(|(_, key)| *key == best);
        let section = section.map_or("server", |(section, _)| section);
        format!(
            "the key {:?} stands before any [section]; the nearest known key is {best:?} in [{section}]",
            shown(name)
        )
    }

    fn unknown(&self, section: &str, key: &str) -> String {
        let found = format!("unknown key {:?} in [{section}]", shown(key));
        let elsewhere = self.known.iter().find(|(_, known)| *known == key);
        if let Some((other, _)) = elsewhere {
            return format!("{found}; it belongs in [{other}]");
        }
        let here = self.known.iter().filter(|(known, _)| *known == section);
        let best = nearest(key, here.map(|(_, key)| *key));
        format!("{found}; the nearest known key is {best:?}")
    }
}

/// The word most like `text`; none only if there are no words.
fn nearest<'w>(text: &str, words: impl Iterator<Item = &'w str>) -> &'w str {
    let text: String = text.chars().take(64).collect::<String>().to_lowercase();
    words
        .max_by(|one, other| {
            let (one, other) =
                (strsim::jaro_winkler(one, &text), strsim::jaro_winkler(other, &text));
            one.total_cmp(&other)
        })
        .unwrap_or_default()
}

/// A client's or an administrator's word, cut to what a message can bear.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}
