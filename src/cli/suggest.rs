//! The nearest name to a mistyped one.

use serde_json::Value;

use super::client::{ISOS, NETWORKS, POOLS, Reply, Request, TEMPLATES, VMS};
use super::context::Context;
use super::failure::{Failure, Result};
use super::output::fetch_list;
use super::volume::{Name, volumes};
use crate::error::Kind;

/// What a command's user named, of which there may be none.
#[derive(Clone, Copy, Debug)]
pub enum Meant<'a> {
    Vm(&'a str),
    Pool(&'a str),
    Volume(&'a Name),
    Iso(&'a str),
    Network(&'a str),
    Template(&'a str),
}

impl std::fmt::Display for Meant<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Meant::Volume(typed) => typed.fmt(f),
            Meant::Vm(typed)
            | Meant::Pool(typed)
            | Meant::Iso(typed)
            | Meant::Network(typed)
            | Meant::Template(typed) => f.write_str(typed),
        }
    }
}

/// Where the names of a kind are listed.
struct Known<'a> {
    list: String,
    noun: &'static str,
    typed: &'a str,
    /// What stands before a name where it is typed.
    before: String,
}

impl<'a> Meant<'a> {
    /// Adds the nearest name of its kind to a failure that says there is none of that name.
    ///
    /// # Errors
    /// The failure.
    pub async fn checked<T>(self, cx: &Context, result: Result<T>) -> Result<T> {
        match result {
            Ok(done) => Ok(done),
            Err(failure) => Err(self.suggest(cx, failure).await),
        }
    }

    /// The data that the daemon answers with.
    ///
    /// # Errors
    /// Those of the request, with the nearest name where there is none of this one.
    pub async fn fetch(self, cx: &Context, request: Request) -> Result<Value> {
        let reply = cx.client.send(&request).await.and_then(Reply::checked);
        self.checked(cx, reply).await?.data()
    }

    async fn suggest(self, cx: &Context, failure: Failure) -> Failure {
        if failure.has_suggestion() {
            return failure;
        }
        let known = failure.code.as_deref().and_then(|code| self.known(code));
        let Some(known) = known else { return failure };
        let list = Request::get(known.list).query("fields", "name");
        // a list that cannot be had is no reason to hide the failure itself
        let Ok(data) = fetch_list(cx, list, known.noun, None).await else { return failure };
        let items = data.get(known.noun).and_then(Value::as_array);
        let items = items.map(Vec::as_slice).unwrap_or_default();
        let names = items.iter().filter_map(|item| item.get("name")?.as_str());
        match nearest(known.typed, names) {
            Some(near) => failure.with_suggestion(&format!("{}{near}", known.before)),
            None => failure,
        }
    }

    /// The names of which one may have been meant, if this code says that there is none like it. Of a
    /// volume it may be the pool that is missing.
    fn known(self, code: &str) -> Option<Known<'a>> {
        let names = |missing: Kind, list: &str, noun, typed| {
            let list = list.to_owned();
            let known = Known { list, noun, typed, before: String::new() };
            (code == missing.code()).then_some(known)
        };
        match self {
            Meant::Vm(typed) => names(Kind::VmNotFound, VMS, "vms", typed),
            Meant::Pool(typed) => names(Kind::PoolNotFound, POOLS, "pools", typed),
            Meant::Volume(Name { pool, volume }) => names(Kind::PoolNotFound, POOLS, "pools", pool)
                .or_else(|| {
                    let known = names(Kind::VolumeNotFound, &volumes(pool), "volumes", volume)?;
                    Some(Known { before: format!("{pool}/"), ..known })
                }),
            Meant::Iso(typed) => names(Kind::IsoNotFound, ISOS, "isos", typed),
            Meant::Network(typed) => names(Kind::NetworkNotFound, NETWORKS, "networks", typed),
            Meant::Template(typed) => names(Kind::TemplateNotFound, TEMPLATES, "templates", typed),
        }
    }
}

/// The known word that is fewest slips away from the typed one, if it is near enough to have been
/// meant: a third of its length, or begun with it.
pub fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    let near = |word: &str| {
        let word = word.to_lowercase();
        let distance = strsim::damerau_levenshtein(&typed, &word);
        let begun = typed.chars().count() >= 3 && word.starts_with(&typed);
        let meant = distance <= (word.chars().count() / 3).max(1) || begun;
        meant.then_some((distance, word))
    };
    known.filter_map(|word| near(word).map(|rank| (rank, word))).min().map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
        nearest(typed, known.iter().copied())
    }

    #[test]
    fn slips_of_the_finger_are_understood() {
        assert_eq!(near("wbe1", &["db1", "web1", "web2"]), Some("web1"));
        assert_eq!(near("Web1", &["web1"]), Some("web1"));
        assert_eq!(near("databas", &["database-primary", "web"]), Some("database-primary"));
    }

    #[test]
    fn what_is_far_away_is_not_suggested() {
        assert_eq!(near("mail", &["web1", "db1"]), None);
        assert_eq!(near("", &["web1"]), None);
        assert_eq!(near("x", &[]), None);
    }
}
