//! What paths stand for: links followed, so that two spellings of one file are seen to be one.
//!
//! Only names are looked at, never contents. It is done on a thread of its own, because a look at
//! a mount whose server is gone may never return: then the spellings stand as they were known.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use tokio::sync::mpsc::WeakUnboundedSender;

use super::actor::Command;

/// Real paths, where they differ from the words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Aliases(HashMap<String, String>);

impl Aliases {
    /// The place of a path. What is no absolute path is its own place.
    pub(super) fn place<'a>(&self, path: &'a str) -> Cow<'a, str> {
        if !path.starts_with('/') {
            return Cow::Borrowed(path);
        }
        let tidy = tidy(path);
        if self.0.is_empty() {
            return tidy;
        }
        if let Some(real) = self.0.get(path).or_else(|| self.0.get(&*tidy)) {
            return Cow::Owned(real.clone());
        }
        match tidy.rsplit_once('/') {
            Some((folder, name)) => match self.0.get(folder) {
                Some(real) => Cow::Owned([real, name].join("/")),
                None => tidy,
            },
            None => tidy,
        }
    }
}

/// The path without empty parts, `.` and `..`.
fn tidy(path: &str) -> Cow<'_, str> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if path.len() > 1 && path[1..].split('/').all(plain) {
        return Cow::Borrowed(path);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Cow::Owned(format!("/{}", parts.join("/")))
}

/// Looks these paths up, and tells the actor.
pub(super) fn look_up(paths: BTreeSet<String>, actor: WeakUnboundedSender<Command>) {
    let work = move || {
        let real = |path: &String| {
            let real = Path::new(path).canonicalize().ok()?;
            let real = real.to_str()?.to_owned();
            (real != tidy(path)).then(|| (path.clone(), real))
        };
        let aliases = Aliases(paths.iter().filter_map(real).collect());
        if let Some(actor) = actor.upgrade() {
            // The daemon may be stopping.
            let _ = actor.send(Command::Aliases(aliases));
        }
    };
    if let Err(error) = std::thread::Builder::new().name("paths".to_owned()).spawn(work) {
        tracing::error!(%error, "paths cannot be looked up");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_by_its_place_however_it_is_spelt() {
        let aliases = Aliases(HashMap::from([
            ("/images".to_owned(), "/srv/images".to_owned()),
            ("/dev/mapper/vg-lv".to_owned(), "/dev/dm-3".to_owned()),
            ("/dev/vg/lv".to_owned(), "/dev/dm-3".to_owned()),
        ]));
        for (path, place) in [
            ("/srv/images/a", "/srv/images/a"),
            ("/images/a", "/srv/images/a"),
            ("//images/./b/../a", "/srv/images/a"),
            ("/images-2/a", "/images-2/a"),
            ("/dev/mapper/vg-lv", "/dev/dm-3"),
            ("/dev/vg/lv", "/dev/dm-3"),
            ("pool/volume", "pool/volume"),
            ("/", "/"),
        ] {
            assert_eq!(aliases.place(path), place, "{path}");
        }
    }
}
