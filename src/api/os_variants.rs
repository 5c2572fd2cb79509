//! Operating systems that guests may run, from libosinfo's database.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Caller, Query};
use super::reply::Conditional;
use super::schemas::{OsVariantList, Success};
use super::{Api, lists};
use crate::authz::{Action, Resource};
use crate::error::Result;
use crate::model::{ReleaseStatus, SubjectType};
use crate::service::PageQuery;
use crate::service::os_variant::OsVariantQuery;

/// The operations on OS variants.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_os_variants))
}

/// Which systems, and which part of them.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct OsVariantListQuery {
    /// Only systems whose short id or name is this; `*` stands for any text.
    #[param(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1F\x7F]+$")]
    name: Option<String>,
    /// Only this family, such as `linux` or `winnt`.
    #[param(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.+-]+$")]
    family: Option<String>,
    /// Only this distribution, such as `debian` or `fedora`.
    #[param(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.+-]+$")]
    distro: Option<String>,
    /// Only systems that media or needs are known of for this architecture.
    #[param(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.+-]+$")]
    architecture: Option<String>,
    /// Only systems that stand there in their life.
    #[param(inline)]
    release_status: Option<ReleaseStatus>,
    /// How many at most.
    #[param(minimum = 1, maximum = 5000, default = 1000)]
    limit: Option<u32>,
    /// The `next` of the page before.
    #[param(min_length = 1, max_length = 2048, pattern = "^[A-Za-z0-9_-]+$")]
    cursor: Option<String>,
    /// The field to sort by, with `-` before it for the reverse order.
    #[param(pattern = "^-?(short_id|name|release_date|eol_date)$", default = "short_id")]
    sort: Option<String>,
    /// Only these fields of each object, separated by commas.
    #[param(
        max_length = 512,
        pattern = "^(id|short_id|name|version|vendor|family|distro|codename|release_status|release_date|eol_date|derives_from|architectures|resources|firmware|devices)(,(id|short_id|name|version|vendor|family|distro|codename|release_status|release_date|eol_date|derives_from|architectures|resources|firmware|devices)){0,31}$",
        example = "short_id,name"
    )]
    fields: Option<String>,
}

/// List the operating systems that guests may run.
///
/// Read from libosinfo's database where it is installed on the host; without it the list is empty
/// and `hint` says what to install.
#[utoipa::path(get, path = "", tag = "host", params(OsVariantListQuery),
    responses((status = 200, description = "A page of systems.", body = Success<OsVariantList>)))]
async fn list_os_variants(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    Query(query): Query<OsVariantListQuery>,
) -> Result<Response> {
    caller.may(Action::ListOsVariants, Resource::All(SubjectType::Host))?;
    let wanted = OsVariantQuery {
        page: PageQuery {
            limit: query.limit.map(|limit| limit as usize),
            cursor: query.cursor,
            name: query.name,
            sort: query.sort,
        },
        family: query.family,
        distro: query.distro,
        architecture: query.architecture,
        release_status: query.release_status,
    };
    let found = api.services().os_variants.list(&wanted).await?;
    let extra = Map::from_iter([
        ("database".to_owned(), found.database.map_or(Value::Null, Value::from)),
        ("hint".to_owned(), found.hint.map_or(Value::Null, Value::from)),
    ]);
    let fields = query.fields.as_deref();
    lists::page_with(&conditional, "os_variants", &found.page, fields, &extra)
}
