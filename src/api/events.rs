//! Events: a page, a long poll, or a stream of server-sent events.
//!
//! All three number events alike, so that a client may change from one to another: `since` of a
//! page, `Last-Event-ID` of a stream. What has been pruned is announced as a gap, never left out
//! in silence.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use http::header::{ACCEPT, CACHE_CONTROL};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Map, json};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Caller, Query};
use super::lists::LabelFilter;
use super::reply::{joined, json as json_reply, render, with_header, wrap_list};
use super::schemas::{EventList, Success};
use super::{Api, accept, tasks};
use crate::authz::{Action, Resource};
use crate::bus::{Delivery, EventFilter, EventPage, EventQuery};
use crate::error::{Error, Result};
use crate::model::SubjectType;

/// Silence after which a stream says that it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The operations on events.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_events))
}

/// Which events, and how long to wait for them.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct EventListQuery {
    /// Only events after this number. For a stream without it: from now on.
    #[param(minimum = 0, maximum = 9007199254740991_u64)]
    since: Option<u64>,
    /// Seconds to wait if there is none yet.
    #[param(minimum = 0, maximum = 300, default = 0)]
    wait: u64,
    /// How many at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// Only events of these kinds; `vm.*` stands for every kind that begins with `vm.`.
    #[param(max_items = 16, inline)]
    kind: Vec<EventKind>,
    /// Only events about things of this type.
    #[param(inline)]
    subject_type: Option<SubjectType>,
    /// Only events about the thing with this UUID (volumes: `pool/volume`), or the VM of this name.
    #[param(min_length = 1, max_length = 511, pattern = r"^[^\x00-\x1F\x7F]+$")]
    subject: Option<String>,
    /// Only events about VMs that had this label, as `key:value`; all of them if repeated.
    #[param(max_items = 16, inline)]
    label: Vec<LabelFilter>,
}

/// One kind of events, or a family of them.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, max_length = 64, pattern = r"^[a-z][a-z._-]*\*?$", example = "vm.*")]
struct EventKind(String);

/// Watch events.
///
/// A page; with `wait` a long poll, which answers as soon as there is something; with
/// `Accept: text/event-stream` a stream, whose events carry their number as id, so that a client
/// which comes back sends `Last-Event-ID` and misses nothing. An event `gap` in a stream says which
/// numbers cannot be had any more.
#[utoipa::path(get, path = "/events", tag = "events",
    params(EventListQuery, ("Last-Event-ID" = Option<u64>, Header,
        description = "For a stream: the number after which it goes on; it wins over `since`.",
        minimum = 0, maximum = 9007199254740991_u64)),
    responses((status = 200, description = "A page of events, or a stream of them.", content(
        (Success<EventList> = "application/json"), (String = "text/event-stream")))))]
async fn list_events(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<EventListQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    caller.may(Action::ListEvents, Resource::All(SubjectType::Task))?;
    let accepted = joined(&headers, ACCEPT);
    let wanted = EventQuery {
        since: query.since.unwrap_or(0),
        until: None,
        limit: query.limit.unwrap_or(100),
        kinds: query.kind.into_iter().map(|kind| kind.0).collect(),
        subject_type: query.subject_type,
        subject_id: tasks::subject_id(&api, query.subject, query.subject_type),
        labels: query.label.into_iter().map(LabelFilter::pair).collect(),
    };
    let last = last_event_id(&headers)?;
    let offers = ["application/json", "text/event-stream"];
    if accept::best(accepted.as_deref(), &offers) == Some("text/event-stream") {
        return Ok(stream(&api, last.or(query.since), EventFilter::from(&wanted)));
    }
    let wait = Duration::from_secs(query.wait).min(api.core().limits().max_wait);
    page(&api.services().bus.wait(&wanted, wait).await?)
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>> {
    let Some(id) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let text = id.to_str().unwrap_or_default();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(id) if digits && id <= 9_007_199_254_740_991 => Ok(Some(id)),
        _ => Err(Error::field("Last-Event-ID", "is not the number of an event")),
    }
}

fn page(page: &EventPage) -> Result<Response> {
    let items = page.events.iter().map(|event| render(&**event)).collect::<Result<Vec<_>>>()?;
    let gap = page.gap.map(|gap| json!({"from": gap.from, "to": gap.to}));
    let extra = Map::from_iter([("gap".to_owned(), gap.unwrap_or_default())]);
    let total = usize::try_from(page.last_seq).unwrap_or(usize::MAX);
    Ok(json_reply(wrap_list("events", &items, total, Some(&page.next.to_string()), &extra)))
}

fn stream(api: &Api, since: Option<u64>, filter: EventFilter) -> Response {
    let stopping = api.core().stopping.clone();
    let deliveries = api.services().bus.subscribe(since, filter);
    let events = deliveries.map(written).take_until(stopping.cancelled_owned());
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive");
    let greeted = futures_util::stream::iter([Ok(sse::Event::default().comment("connected"))]);
    let response = Sse::new(greeted.chain(events)).keep_alive(keep_alive).into_response();
    with_header(response, CACHE_CONTROL, HeaderValue::from_static("no-store"))
}

fn written(delivery: Delivery) -> Result<sse::Event, Infallible> {
    Ok(match delivery {
        Delivery::Event(event) => {
            let data = serde_json::to_string(&*event).unwrap_or_default();
            sse::Event::default().id(event.seq.to_string()).event(line(&event.kind)).data(data)
        }
        Delivery::Gap(gap) => {
            let data = json!({"from": gap.from, "to": gap.to}).to_string();
            sse::Event::default().id(gap.to.to_string()).event("gap").data(data)
        }
    })
}

/// A field of a stream is one line; our kinds are, and this keeps it so.
fn line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_event_id_is_a_number_or_refused() {
        let of = |text: &'static str| {
            last_event_id(&HeaderMap::from_iter([(LAST_EVENT_ID, text.parse().unwrap())]))
        };
        assert_eq!(of("17").unwrap(), Some(17));
        assert_eq!(last_event_id(&HeaderMap::new()).unwrap(), None);
        for bad in ["", "-1", "+1", "1.5", "x", "99999999999999999999"] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
