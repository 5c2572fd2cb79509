//! What lists have in common: their query, and their reply with or without a choice of fields.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::IntoParams;

use super::list_body::ListBody;
use super::reply::{Conditional, json, list_head, list_tail, pick, render, wrap_list};
use crate::error::Result;
use crate::service::{Page, PageQuery};

macro_rules! queries {
    ($($(#[$doc:meta])* $name:ident, $fields:tt;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Default, Deserialize, IntoParams)]
            #[serde(default)]
            #[into_params(parameter_in = Query)]
            pub struct $name {
                /// How many at most.
                #[param(minimum = 1, maximum = 5000, default = 1000)]
                pub limit: Option<u32>,
                /// The `next` of the page before.
                #[param(min_length = 1, max_length = 2048, pattern = "^[A-Za-z0-9_-]+$")]
                pub cursor: Option<String>,
                /// The field to sort by, with `-` before it for the reverse order.
                #[param(pattern = "^-?name$", default = "name")]
                pub sort: Option<String>,
                /// Only these fields of each object, separated by commas.
                #[param(pattern = $fields, max_length = 512)]
                pub fields: Option<String>,
                /// Only objects of this name, in which `*` stands for any text.
                #[param(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1F\x7F]+$")]
                pub name: Option<String>,
            }

            impl $name {
                /// What the service needs of it.
                pub fn page(&self) -> PageQuery {
                    PageQuery {
                        limit: self.limit.map(|limit| limit as usize),
                        cursor: self.cursor.clone(),
                        name: self.name.clone(),
                        sort: self.sort.clone(),
                    }
                }
            }
        )*
    };
}

queries! {
    /// Which pools, and which part of them.
    PoolQuery, "^(uuid|name|type|state|problem|capacity_bytes|allocation_bytes|available_bytes|target_path|source|target|features|autostart|persistent|volume_count|generation)(,(uuid|name|type|state|problem|capacity_bytes|allocation_bytes|available_bytes|target_path|source|target|features|autostart|persistent|volume_count|generation)){0,15}$";
    /// Which volumes, and which part of them.
    VolumeQuery, "^(pool|name|key|path|type|format|capacity_bytes|allocation_bytes|physical_bytes|backing_path|backing_chain|backing_of|encryption|permissions|accessed_at|modified_at|changed_at|created_at|template|used_by|used_as)(,(pool|name|key|path|type|format|capacity_bytes|allocation_bytes|physical_bytes|backing_path|backing_chain|backing_of|encryption|permissions|accessed_at|modified_at|changed_at|created_at|template|used_by|used_as)){0,19}$";
    /// Which networks, and which part of them.
    NetworkQuery, "^(uuid|name|active|persistent|autostart|bridge|forward|addresses|dhcp_ranges|ips|routes|domain|dns|mtu|mac|vlan|virtual_port|bandwidth|port_isolation|portgroups|pending|generation)(,(uuid|name|active|persistent|autostart|bridge|forward|addresses|dhcp_ranges|ips|routes|domain|dns|mtu|mac|vlan|virtual_port|bandwidth|port_isolation|portgroups|pending|generation)){0,31}$";
}

/// The fields asked for.
pub fn chosen(fields: Option<&str>) -> Option<Vec<String>> {
    Some(fields?.split(',').map(str::to_owned).collect())
}

/// A page of objects that have to be rendered.
///
/// # Errors
/// [`crate::error::Kind::Internal`] if an object cannot be written.
pub fn page<T: Serialize>(
    conditional: &Conditional,
    noun: &str,
    page: &Page<T>,
    fields: Option<&str>,
) -> Result<Response> {
    page_with(conditional, noun, page, fields, &Map::new())
}

/// [`page`] with what the list says beside its objects, which the page's tag has to cover.
///
/// # Errors
/// [`crate::error::Kind::Internal`] if an object cannot be written.
pub fn page_with<T: Serialize>(
    conditional: &Conditional,
    noun: &str,
    page: &Page<T>,
    fields: Option<&str>,
    extra: &Map<String, Value>,
) -> Result<Response> {
    conditional.reply(&page.etag, || {
        let items = page.items.iter().map(|item| render(&**item)).collect::<Result<Vec<_>>>()?;
        rendered_with(noun, &items, (page.total, page.next.as_deref()), fields, extra)
    })
}

/// The body of a page of rendered objects.
///
/// # Errors
/// [`crate::error::Kind::Internal`] if an object is none.
pub fn rendered<B: AsRef<[u8]>>(
    noun: &str,
    items: &[B],
    total: usize,
    next: Option<&str>,
    fields: Option<&str>,
) -> Result<Bytes> {
    rendered_with(noun, items, (total, next), fields, &Map::new())
}

fn rendered_with<B: AsRef<[u8]>>(
    noun: &str,
    items: &[B],
    (total, next): (usize, Option<&str>),
    fields: Option<&str>,
    extra: &Map<String, Value>,
) -> Result<Bytes> {
    match chosen(fields) {
        None => Ok(wrap_list(noun, items, total, next, extra)),
        Some(fields) => {
            let picked: Result<Vec<_>> =
                items.iter().map(|item| pick(item.as_ref(), &fields)).collect();
            Ok(wrap_list(noun, &picked?, total, next, extra))
        }
    }
}

/// The body of a page of objects that are rendered already: none is copied before it is sent.
///
/// # Errors
/// [`crate::error::Kind::Internal`] if an object is none.
pub fn streamed(
    noun: &str,
    items: Vec<Bytes>,
    total: usize,
    next: Option<&str>,
    fields: Option<&str>,
) -> Result<Body> {
    if fields.is_some() {
        return rendered(noun, &items, total, next, fields).map(Body::from);
    }
    let tail = list_tail(items.len(), total, next, &Map::new());
    Ok(Body::new(ListBody::new(list_head(noun), items, tail)))
}

/// A list that always comes whole and is not worth a tag.
///
/// # Errors
/// [`crate::error::Kind::Internal`] if an object cannot be written.
pub fn whole<T: Serialize>(noun: &str, items: &[T]) -> Result<Response> {
    Ok(json(whole_body(noun, items)?))
}

/// The body of a list that always comes whole.
///
/// # Errors
/// [`crate::error::Kind::Internal`] if an object cannot be written.
pub fn whole_body<T: Serialize>(noun: &str, items: &[T]) -> Result<Bytes> {
    let rendered = items.iter().map(render).collect::<Result<Vec<_>>>()?;
    Ok(wrap_list(noun, &rendered, items.len(), None, &Map::new()))
}

/// One label to be filtered by, as `key:value`.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, pattern = r"^[A-Za-z0-9_.+-]{1,63}:[\x20-\x7E]{0,255}$", example = "tier:web")]
pub(super) struct LabelFilter(String);

impl LabelFilter {
    /// Key and value.
    pub(super) fn pair(self) -> (String, String) {
        let (key, value) = self.0.split_once(':').unwrap_or((&self.0, ""));
        (key.to_owned(), value.to_owned())
    }
}
