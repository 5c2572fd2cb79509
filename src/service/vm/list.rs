//! The list of VMs: filters, order, cursor. The usual list, all by name, is a walk over the
//! picture without sorting or copying an object.

use std::sync::Arc;

use super::VmService;
use crate::error::{Error, Result};
use crate::model::VmState;
use crate::service::inventory::{Outline, VmRecord};
use crate::service::page::{self, PageQuery};

/// The fields a list can be sorted by.
pub const SORT_FIELDS: [&str; 7] =
    ["name", "uuid", "state", "memory", "vcpus", "created_at", "updated_at"];

/// Which VMs, and which part of them.
#[derive(Clone, Debug, Default)]
pub struct VmQuery {
    pub state: Option<VmState>,
    /// A name, in which `*` stands for any text.
    pub name: Option<String>,
    /// Each of these labels.
    pub labels: Vec<(String, String)>,
    /// `a=b,c!=d,e,!f`: equal, unequal, present, absent.
    pub selector: Option<String>,
    pub limit: Option<usize>,
    pub cursor: Option<String>,
    /// One of [`SORT_FIELDS`], with `-` before it for the reverse order.
    pub sort: Option<String>,
}

/// One page of VMs, ready to be sent.
#[derive(Clone, Debug)]
pub struct VmPage {
    pub records: Vec<Arc<VmRecord>>,
    /// How many match the filters.
    pub total: usize,
    pub next: Option<String>,
    pub etag: String,
}

impl VmService {
    /// VMs.
    ///
    /// # Errors
    /// 400 for a selector, a sort field or a cursor that cannot be understood.
    pub fn list(&self, query: &VmQuery) -> Result<VmPage> {
        let picture = self.tools.inventory.picture();
        picture.ready()?;
        let sort = query.sort.as_deref().unwrap_or("name");
        let field = sort.strip_prefix('-').unwrap_or(sort);
        if !SORT_FIELDS.contains(&field) {
            return Err(Error::field("sort", format!("is not one of {}", SORT_FIELDS.join(", "))));
        }
        let selector = query.selector.as_deref().map(Selector::parse).transpose()?;
        let matching = |record: &&Arc<VmRecord>| {
            let vm = &record.vm;
            query.state.is_none_or(|state| vm.state == state)
                && query.name.as_ref().is_none_or(|name| page::matches_pattern(name, &vm.name))
                && query
                    .labels
                    .iter()
                    .all(|(key, value)| vm.labels.get(key) == Some(value.as_str()))
                && selector.as_ref().is_none_or(|selector| selector.matches(vm))
        };
        let limit = query.limit.unwrap_or(page::DEFAULT_LIMIT).clamp(1, page::MAX_LIMIT);
        let (records, total, next) = if sort == "name" && query.cursor.is_none() {
            let mut records: Vec<_> = picture.vms.iter().filter(matching).cloned().collect();
            let total = records.len();
            records.truncate(limit);
            let next = records.last().filter(|_| total > limit).map(|last| {
                let (key, id) = keys(field, &last.vm);
                page::Cursor { sort: sort.to_owned(), key, id }.encode()
            });
            (records, total, next)
        } else {
            let records = picture.vms.iter().filter(matching).cloned().collect();
            let query = PageQuery {
                limit: Some(limit),
                cursor: query.cursor.clone(),
                ..PageQuery::default()
            };
            page::paginate(records, &query, sort, |record: &VmRecord| keys(field, &record.vm))?
        };
        let etag = etag(&records, total);
        Ok(VmPage { records, total, next, etag })
    }
}

/// Changes with the members of the page, their order and their versions.
fn etag(records: &[Arc<VmRecord>], total: usize) -> String {
    let mut hash = page::stable_hash(&total.to_le_bytes());
    for record in records {
        hash = hash.rotate_left(5) ^ record.etag_hash;
        hash = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        hash ^= record.vm.uuid.as_u64_pair().0;
    }
    format!("\"{hash:016x}\"")
}

/// Texts that order as the values do.
fn keys(field: &str, vm: &Outline) -> (String, String) {
    let key = match field {
        "uuid" => vm.uuid.to_string(),
        "state" => vm.state.as_str().to_owned(),
        "memory" => format!("{:020}", vm.memory),
        "vcpus" => format!("{:010}", vm.vcpus),
        "created_at" => time(vm.created_at),
        "updated_at" => time(vm.updated_at),
        _ => vm.name.clone(),
    };
    (key, vm.uuid.to_string())
}

fn time(at: Option<jiff::Timestamp>) -> String {
    at.map(|at| format!("{:030}", at.as_nanosecond())).unwrap_or_default()
}

/// A label selector.
#[derive(Debug, PartialEq, Eq)]
struct Selector(Vec<Term>);

#[derive(Debug, PartialEq, Eq)]
enum Term {
    Equal(String, String),
    Unequal(String, String),
    Present(String),
    Absent(String),
}

impl Selector {
    fn parse(text: &str) -> Result<Selector> {
        let mut terms = Vec::new();
        for term in text.split(',').map(str::trim).filter(|term| !term.is_empty()) {
            let owned = |text: &str| text.trim().to_owned();
            terms.push(if let Some((key, value)) = term.split_once("!=") {
                Term::Unequal(owned(key), owned(value))
            } else if let Some((key, value)) = term.split_once('=') {
                Term::Equal(owned(key), owned(value.trim_start_matches('=')))
            } else if let Some(key) = term.strip_prefix('!') {
                Term::Absent(owned(key))
            } else {
                Term::Present(owned(term))
            });
        }
        if terms.len() > 32 {
            return Err(Error::field("selector", "has more than 32 terms"));
        }
        Ok(Selector(terms))
    }

    fn matches(&self, vm: &Outline) -> bool {
        self.0.iter().all(|term| match term {
            Term::Equal(key, value) => vm.labels.get(key) == Some(value.as_str()),
            Term::Unequal(key, value) => vm.labels.get(key) != Some(value.as_str()),
            Term::Present(key) => vm.labels.contains_key(key),
            Term::Absent(key) => !vm.labels.contains_key(key),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn vm(labels: &[(&str, &str)]) -> Outline {
        let labels: BTreeMap<String, String> =
            labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        Outline { labels: labels.iter().collect(), ..Outline::default() }
    }

    #[test]
    fn a_selector_joins_its_terms_by_and() {
        let selector = Selector::parse("tier=web, env!=prod, owner, !legacy").unwrap();
        assert!(selector.matches(&vm(&[("tier", "web"), ("owner", "")])));
        assert!(!selector.matches(&vm(&[("tier", "web"), ("owner", ""), ("env", "prod")])));
        assert!(!selector.matches(&vm(&[("tier", "web")])));
        assert!(!selector.matches(&vm(&[("tier", "web"), ("owner", ""), ("legacy", "1")])));
    }

    #[test]
    fn sort_keys_of_numbers_order_as_numbers() {
        let small = Outline { memory: 512, ..Outline::default() };
        let large = Outline { memory: 16_384, ..Outline::default() };
        assert!(keys("memory", &small) < keys("memory", &large));
    }
}
