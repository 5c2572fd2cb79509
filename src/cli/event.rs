//! `vapor event …`.

use std::time::Duration;

use clap::{Args, Subcommand};
use http::HeaderName;
use http::header::ACCEPT;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::client::{Request, refused};
use super::context::Context;
use super::failure::{Exit, Failure, Result};
use super::output::{Column, Format, Listing, read};
use super::sse::{Message, Parser};
use super::text::{NONE, or_none, plain, safe, to_the_second};
use crate::model::{Event, Subject};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// The daemon sends a sign of life more often than this; a connection without one is dead.
const SILENCE: Duration = Duration::from_secs(90);
/// The daemon's largest page of events.
const MAX_PAGE: usize = 1000;
/// The longest pause between two attempts to reconnect.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// What can be done with events.
#[derive(Subcommand, Debug)]
pub enum EventCommand {
    /// List past events
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show events as they happen, until Ctrl-C; goes on where it was after a lost connection
    Watch(WatchArgs),
}

/// Which events.
#[derive(Args, Clone, Debug)]
pub struct Filter {
    /// Only events after this number
    #[arg(long, value_name = "SEQ")]
    pub since: Option<u64>,
    /// Only events of this kind, such as vm.started or vm.*; repeat it for several
    #[arg(long)]
    pub kind: Vec<String>,
    /// Only events of this virtual machine (name or UUID)
    #[arg(long, value_name = "VM")]
    pub vm: Option<String>,
}

/// Which past events are listed.
#[derive(Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    pub filter: Filter,
    /// No more than this many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
}

/// Which events are watched.
#[derive(Args, Debug)]
pub struct WatchArgs {
    #[command(flatten)]
    pub filter: Filter,
    /// End after so many events
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

const COLUMNS: &[Column<Event>] = &[
    Column::number("SEQ", |event, _| event.seq.to_string()),
    Column::text("TIME", |event, _| to_the_second(event.time)),
    Column::text("KIND", |event, _| event.kind.clone()),
    Column::text("SUBJECT", |event, _| subject(&event.subject)),
    Column::text("DETAIL", |event, _| detail(&event.data)),
    Column::wide("BY", |event, _| or_none(event.principal.as_deref())),
    Column::wide("TASK", |event, _| {
        event.task.map_or_else(|| NONE.to_owned(), |task| task.to_string())
    }),
];

const LISTING: Listing<'_, Event> =
    Listing { noun: "events", columns: COLUMNS, name: |event| event.seq.to_string() };

/// Runs one command.
///
/// # Errors
/// What keeps it from being done.
pub async fn run(cx: &mut Context, command: EventCommand) -> Result<()> {
    match command {
        EventCommand::List(args) => list(cx, &args).await,
        EventCommand::Watch(args) => watch(cx, &args).await,
    }
}

/// The request for events, without a place to begin at.
async fn filtered(cx: &Context, filter: &Filter) -> Result<Request> {
    let request = filter
        .kind
        .iter()
        .flat_map(|kinds| kinds.split(','))
        .fold(Request::get("/events"), |request, kind| request.query("kind", kind));
    Ok(match &filter.vm {
        Some(vm) => {
            let id = super::vm_uuid(cx, vm).await?;
            request.query("subject_type", "vm").query("subject", &id)
        }
        None => request,
    })
}

async fn list(cx: &mut Context, args: &ListArgs) -> Result<()> {
    let request = filtered(cx, &args.filter).await?;
    let limit = args.limit as usize;
    let page = match args.filter.since {
        Some(since) => read_from(cx, &request, since, limit).await?,
        None => latest(cx, &request, limit).await?,
    };
    if let Some(gap) = page.get("gap").filter(|gap| !gap.is_null()) {
        note_gap(cx, gap);
    }
    LISTING.show(cx, &page)
}

/// The newest `limit` events that fit. The API reads forward, so this begins a little before the
/// end and goes back further for as long as too few of those that follow fit.
async fn latest(cx: &Context, request: &Request, limit: usize) -> Result<Value> {
    let last = last_seq(cx).await?;
    let mut window = limit as u64;
    loop {
        let since = last.saturating_sub(window);
        let mut page = read_from(cx, request, since, usize::MAX).await?;
        let events = page.get_mut("events").and_then(Value::as_array_mut);
        let events = events.ok_or_else(|| Failure::unintelligible("it holds no events"))?;
        if events.len() >= limit || since == 0 {
            events.drain(..events.len().saturating_sub(limit));
            page["count"] = json!(page["events"].as_array().map_or(0, Vec::len));
            // what is missing before the newest events was not asked for
            page["gap"] = Value::Null;
            return Ok(page);
        }
        window = window.saturating_mul(8);
    }
}

/// All events after `since`, but no more than `limit`, as one page.
async fn read_from(cx: &Context, request: &Request, since: u64, limit: usize) -> Result<Value> {
    let mut since = since;
    let mut events: Vec<Value> = Vec::new();
    let mut gap = Value::Null;
    loop {
        let wanted = (limit - events.len()).min(MAX_PAGE);
        let request = request.clone().query("since", &since.to_string());
        let request = request.query("limit", &wanted.to_string());
        let mut page = cx.client.send(&request).await?.checked()?.data()?;
        let Some(Value::Array(more)) = page.get_mut("events").map(Value::take) else {
            return Err(Failure::unintelligible("it holds no events"));
        };
        if let Some(first) = page.get("gap").filter(|_| gap.is_null()) {
            gap = first.clone();
        }
        let whole = more.len() < wanted;
        let next = page.get("next").and_then(seq_of);
        events.extend(more);
        match next {
            Some(next) if !whole && events.len() < limit && next > since => since = next,
            _ => {
                page["count"] = json!(events.len());
                page["events"] = Value::Array(events);
                page["gap"] = gap;
                return Ok(page);
            }
        }
    }
}

/// The number of the newest event there is.
async fn last_seq(cx: &Context) -> Result<u64> {
    // nothing comes after the largest number there can be
    let request = Request::get("/events").query("since", "9007199254740991").query("limit", "1");
    let page = cx.client.send(&request).await?.checked()?.data()?;
    let last = page.get("total").and_then(Value::as_u64);
    last.ok_or_else(|| Failure::unintelligible("the events have no total"))
}

/// Cursors are texts, and those of events are numbers.
fn seq_of(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Where a watch stands.
struct Watch {
    /// The number of the last event seen, or to begin after.
    last: u64,
    left: Option<u64>,
}

async fn watch(cx: &mut Context, args: &WatchArgs) -> Result<()> {
    let request = filtered(cx, &args.filter).await?.header(ACCEPT, "text/event-stream");
    // a place to go on from, should the connection be lost before the first event
    let since = match args.filter.since {
        Some(since) => since,
        None => last_seq(cx).await?,
    };
    let mut watch = Watch { last: since, left: args.count };
    let mut pause = Duration::ZERO;
    let mut connected_before = false;
    loop {
        let last = watch.last.to_string();
        let request = if connected_before {
            request.clone().header(LAST_EVENT_ID, &last)
        } else {
            request.clone().query("since", &last)
        };
        let why = match cx.client.stream(&request).await {
            Ok(response) if response.status().is_success() => {
                if connected_before {
                    cx.note("connected again");
                }
                connected_before = true;
                pause = Duration::ZERO;
                match read_stream(cx, response.into_body(), &mut watch).await? {
                    Some(why) => why,
                    None => return Ok(()),
                }
            }
            Ok(response) => {
                let failure = refused(response).await;
                match failure.exit {
                    Exit::Unreachable | Exit::LibvirtUnavailable if connected_before => {
                        failure.message().to_owned()
                    }
                    _ => return Err(failure),
                }
            }
            Err(failure) if !connected_before => return Err(failure),
            Err(failure) => failure.message().to_owned(),
        };
        if pause.is_zero() {
            cx.note(&format!("{why}; connecting again"));
        }
        pause = (pause * 2).clamp(Duration::from_millis(500), MAX_PAUSE);
        sleep(pause).await;
    }
}

/// Shows events until the stream ends, and says why; `None` when enough have been seen.
async fn read_stream(
    cx: &mut Context,
    mut body: Incoming,
    watch: &mut Watch,
) -> Result<Option<String>> {
    let mut parser = Parser::default();
    loop {
        let frame = match timeout(SILENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Ok(Some(format!("the connection broke: {error}"))),
            Ok(None) => return Ok(Some("the daemon ended the stream".to_owned())),
            Err(_) => return Ok(Some(format!("no sign of life for {} s", SILENCE.as_secs()))),
        };
        let Ok(bytes) = frame.into_data() else { continue };
        for message in parser.push(&bytes) {
            if let Some(seq) = message.id.as_deref().and_then(|id| id.parse().ok()) {
                watch.last = seq;
            }
            if show(cx, &message)? {
                watch.left = watch.left.map(|left| left.saturating_sub(1));
            }
            if watch.left == Some(0) {
                return Ok(None);
            }
        }
    }
}

/// Shows one message; whether it was an event.
fn show(cx: &mut Context, message: &Message) -> Result<bool> {
    let data: Value = serde_json::from_str(&message.data).map_err(Failure::unintelligible)?;
    if data.get("seq").is_none() {
        // what is no event is told beside them: that some are missing, or how the stream stands
        if message.event == "gap" {
            note_gap(cx, &data);
        }
        return Ok(false);
    }
    match cx.format {
        Format::Json => cx.print_line(&data)?,
        Format::Yaml => {
            cx.print("---\n")?;
            cx.print_value(&data)?;
        }
        Format::Name => {
            let seq = data.get("seq").map(plain).unwrap_or_default();
            cx.print(&format!("{}\n", safe(&seq)))?;
        }
        Format::Table | Format::Wide => {
            let event: Event = read(data)?;
            let line = line(&event, cx.format == Format::Wide);
            cx.print(&line)?;
        }
    }
    Ok(true)
}

fn note_gap(cx: &mut Context, gap: &Value) {
    let bound =
        |name: &str| safe(&gap.get(name).map_or_else(|| "?".to_owned(), plain)).into_owned();
    let (from, to) = (bound("from"), bound("to"));
    cx.note(&format!("warning: the events {from} to {to} are no longer kept"));
}

/// One line of a watch: columns of a fixed width, as the rest is not known yet.
fn line(event: &Event, wide: bool) -> String {
    let mut line = format!(
        "{:>6}  {}  {:<24}  {:<20}  {}",
        event.seq,
        to_the_second(event.time),
        safe(&event.kind),
        safe(&subject(&event.subject)),
        safe(&detail(&event.data)),
    );
    if wide {
        line += &format!("  {}", safe(&or_none(event.principal.as_deref())));
        line += &event.task.map_or_else(String::new, |task| format!("  {task}"));
    }
    format!("{}\n", line.trim_end())
}

fn subject(subject: &Subject) -> String {
    format!("{} {}", subject.r#type.as_str(), subject.name)
}

/// What the event says of itself, as words; what is empty, or only repeats the subject, is left out.
fn detail(data: &Value) -> String {
    let Value::Object(members) = data else { return plain(data) };
    let words = members.iter().filter_map(|(key, value)| {
        let text = match value {
            Value::Null => return None,
            Value::Object(inner) if inner.is_empty() => return None,
            Value::Array(inner) if inner.is_empty() => return None,
            // a thing with a name is that name, and an error what it says
            Value::Object(inner) => {
                let word = inner.get("name").or_else(|| inner.get("message"));
                word.map_or_else(|| value.to_string(), plain)
            }
            other => plain(other),
        };
        Some(format!("{key}={text}"))
    });
    or_none(Some(&words.collect::<Vec<_>>().join(" ")))
}
