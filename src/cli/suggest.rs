//! The nearest name to a mistyped one.

use serde_json::Value;

use super::client::{Request, VMS, escape};
use super::context::Context;
use super::failure::Failure;
use super::output::fetch_list;
use super::volume::Name;
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

impl Meant<'_> {
    /// Adds the nearest name of its kind to a failure that says there is none of that name.
    pub async fn suggest(self, cx: &Context, failure: Failure) -> Failure {
        match self {
            Meant::Vm(typed) => for_vm(cx, typed, failure).await,
            Meant::Pool(typed) => for_pool(cx, typed, failure).await,
            Meant::Volume(typed) => for_volume(cx, typed, failure).await,
            Meant::Iso(typed) => for_iso(cx, typed, failure).await,
            Meant::Network(typed) => for_network(cx, typed, failure).await,
            Meant::Template(typed) => for_template(cx, typed, failure).await,
        }
    }
}

/// Adds the nearest VM's name to a failure that says there is none of that name, unless the daemon
/// has named one already.
pub async fn for_vm(cx: &Context, typed: &str, failure: Failure) -> Failure {
    let vms = Request::get(VMS).query("fields", "name");
    lookup(cx, Kind::VmNotFound, vms, "vms", typed, failure).await
}

/// The same for pools.
pub async fn for_pool(cx: &Context, typed: &str, failure: Failure) -> Failure {
    let pools = Request::get("/virtualization/storages/pools");
    lookup(cx, Kind::PoolNotFound, pools, "pools", typed, failure).await
}

/// The same for volumes and their pools.
pub async fn for_volume(cx: &Context, typed: &Name, failure: Failure) -> Failure {
    let failure = for_pool(cx, &typed.pool, failure).await;
    let path = format!("/virtualization/storages/pools/{}/volumes", escape(&typed.pool));
    let volumes = Request::get(path).query("fields", "name");
    lookup(cx, Kind::VolumeNotFound, volumes, "volumes", &typed.volume, failure).await
}

/// The same for ISO images.
pub async fn for_iso(cx: &Context, typed: &str, failure: Failure) -> Failure {
    let isos = Request::get("/virtualization/isos").query("fields", "name");
    lookup(cx, Kind::IsoNotFound, isos, "isos", typed, failure).await
}

/// The same for networks.
pub async fn for_network(cx: &Context, typed: &str, failure: Failure) -> Failure {
    let networks = Request::get("/virtualization/networks").query("fields", "name");
    lookup(cx, Kind::NetworkNotFound, networks, "networks", typed, failure).await
}

/// The same for templates.
pub async fn for_template(cx: &Context, typed: &str, failure: Failure) -> Failure {
    let templates =
        Request::get("/virtualization/virtualmachines/templates").query("fields", "name");
    lookup(cx, Kind::TemplateNotFound, templates, "templates", typed, failure).await
}

async fn lookup(
    cx: &Context,
    kind: Kind,
    list: Request,
    noun: &str,
    typed: &str,
    failure: Failure,
) -> Failure {
    if failure.code.as_deref() != Some(kind.code()) || failure.has_suggestion() {
        return failure;
    }
    // a list that cannot be had is no reason to hide the failure itself
    let Ok(data) = fetch_list(cx, list, noun, None).await else { return failure };
    let items = data.get(noun).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let names = items.iter().filter_map(|item| item.get("name")?.as_str());
    match nearest(typed, names) {
        Some(near) => failure.with_suggestion(near),
        None => failure,
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
