//! Pages of lists: a stable order, an opaque cursor, an ETag of the whole.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::{Error, Kind, Result};

/// The page size where a client names none.
pub const DEFAULT_LIMIT: usize = 1_000;

/// The largest page.
pub const MAX_LIMIT: usize = 5_000;

/// Which part of a list a client wants.
#[derive(Clone, Debug, Default)]
pub struct PageQuery {
    pub limit: Option<usize>,
    pub cursor: Option<String>,
    /// A name, in which `*` stands for any text.
    pub name: Option<String>,
    /// A field, with `-` before it for the reverse order.
    pub sort: Option<String>,
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    pub items: Vec<Arc<T>>,
    /// How many there are without `limit` and `cursor`.
    pub total: usize,
    pub next: Option<String>,
    pub etag: String,
}

/// What a cursor says: the place of the last object of the page before. The place is the sort key
/// and the name, so that objects that come and go in between neither repeat nor hide others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub sort: String,
    pub key: String,
    pub id: String,
}

impl Cursor {
    /// The opaque text.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}\u{0}{}\u{0}{}", self.sort, self.key, self.id))
    }

    /// Reads a cursor of a list sorted by `sort`.
    ///
    /// # Errors
    /// [`Kind::InvalidCursor`].
    pub fn decode(text: &str, sort: &str) -> Result<Cursor> {
        let bad = |why| {
            Error::new(Kind::InvalidCursor, format!("the cursor {why}")).with_field("cursor", why)
        };
        let bytes =
            URL_SAFE_NO_PAD.decode(text).map_err(|_| bad("was not issued by this daemon"))?;
        let plain = String::from_utf8(bytes).map_err(|_| bad("was not issued by this daemon"))?;
        let mut parts = plain.splitn(3, '\u{0}');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(of), Some(key), Some(id)) if of == sort => {
                Ok(Cursor { sort: of.to_owned(), key: key.to_owned(), id: id.to_owned() })
            }
            (Some(_), Some(_), Some(_)) => Err(bad("belongs to a list of another order")),
            _ => Err(bad("was not issued by this daemon")),
        }
    }
}

/// Sorts, cuts and counts. `keys` gives the sort key of an item (texts that order as the values
/// do) and its identity.
pub fn paginate<T>(
    mut items: Vec<Arc<T>>,
    query: &PageQuery,
    sort: &str,
    keys: impl Fn(&T) -> (String, String),
) -> Result<(Vec<Arc<T>>, usize, Option<String>)> {
    let total = items.len();
    let (field, reverse) = match sort.strip_prefix('-') {
        Some(field) => (field, true),
        None => (sort, false),
    };
    debug_assert!(!field.is_empty());
    items.sort_by_cached_key(|item| keys(item));
    if reverse {
        items.reverse();
    }
    if let Some(text) = &query.cursor {
        let cursor = Cursor::decode(text, sort)?;
        let place = (cursor.key, cursor.id);
        items.retain(|item| {
            let here = keys(item);
            if reverse { here < place } else { here > place }
        });
    }
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let more = items.len() > limit;
    items.truncate(limit);
    let next = match items.last() {
        Some(last) if more => {
            let (key, id) = keys(last);
            Some(Cursor { sort: sort.to_owned(), key, id }.encode())
        }
        _ => None,
    };
    Ok((items, total, next))
}

/// One page with the ETag of its content.
pub fn page_of<T: serde::Serialize>(
    items: Vec<Arc<T>>,
    query: &PageQuery,
    sort: &str,
    keys: impl Fn(&T) -> (String, String),
) -> Result<Page<T>> {
    let (items, total, next) = paginate(items, query, sort, keys)?;
    let text = serde_json::to_vec(&(&items, total, &next)).map_err(Error::internal)?;
    let etag = format!("\"{:016x}\"", stable_hash(&text));
    Ok(Page { items, total, next, etag })
}

/// Whether `name` matches `pattern`, in which `*` stands for any text.
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A 64-bit FNV-1a hash: stable across restarts and builds, so that an ETag outlives both.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page(
        names: &[&str],
        limit: usize,
        cursor: Option<String>,
        sort: &str,
    ) -> (Vec<String>, Option<String>) {
        let items = names.iter().map(|name| Arc::new((*name).to_owned())).collect();
        let query = PageQuery { limit: Some(limit), cursor, ..PageQuery::default() };
        let (items, total, next) =
            paginate(items, &query, sort, |name| (name.clone(), name.clone())).unwrap();
        assert_eq!(total, names.len());
        (items.iter().map(|name| (**name).clone()).collect(), next)
    }

    #[test]
    fn pages_follow_each_other_and_the_last_has_no_cursor() {
        let names = ["c", "a", "b"];
        let (first, next) = page(&names, 2, None, "name");
        assert_eq!(first, ["a", "b"]);
        let (second, end) = page(&names, 2, next, "name");
        assert_eq!((second, end), (vec!["c".to_owned()], None));
    }

    #[test]
    fn an_object_that_vanishes_between_two_pages_hides_no_other() {
        let (_, next) = page(&["a", "b", "c"], 2, None, "name");
        let (second, _) = page(&["a", "c"], 2, next, "name");
        assert_eq!(second, ["c"]);
    }

    #[test]
    fn a_cursor_of_another_order_is_refused() {
        let cursor = Cursor { sort: "name".into(), key: "a".into(), id: "a".into() }.encode();
        assert_eq!(Cursor::decode(&cursor, "-name").unwrap_err().kind(), Kind::InvalidCursor);
        assert_eq!(Cursor::decode("%%%", "name").unwrap_err().kind(), Kind::InvalidCursor);
    }

    #[test]
    fn a_star_stands_for_any_text() {
        assert!(matches_pattern("web*", "web1"));
        assert!(matches_pattern("*", ""));
        assert!(matches_pattern("a*b*c", "axxbyyc"));
        assert!(!matches_pattern("web", "web1"));
        assert!(!matches_pattern("a*bc", "ab"));
        assert!(!matches_pattern("a*a", "a"));
    }

    proptest! {
        #[test]
        fn paging_through_yields_every_item_once_in_order(
            names in proptest::collection::hash_set("[a-c]{1,3}", 0..20), limit in 1usize..7, reverse: bool,
        ) {
            let names: Vec<String> = names.into_iter().collect();
            let refs: Vec<&str> = names.iter().map(String::as_str).collect();
            let sort = if reverse { "-name" } else { "name" };
            let mut seen = Vec::new();
            let mut cursor = None;
            loop {
                let (items, next) = page(&refs, limit, cursor, sort);
                seen.extend(items);
                match next { Some(next) => cursor = Some(next), None => break }
            }
            let mut expected = names.clone();
            expected.sort();
            if reverse { expected.reverse(); }
            prop_assert_eq!(seen, expected);
        }
    }
}
