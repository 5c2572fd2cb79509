//! `vapor pool show` and `vapor pool capacity`.

use clap::Args;

use super::super::client::Request;
use super::super::context::{Context, Style};
use super::super::failure::Result;
use super::super::output::{Format, Sheet, read};
use super::super::suggest::Meant;
use super::super::text::{bytes, safe, yes_no};
use crate::model::pool::{PoolAdapter, PoolHost, PoolPermissions};
use crate::model::{Pool, PoolCapacity, PoolState};

/// Which pool is shown.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// Its name
    #[arg(value_name = "POOL", value_parser = super::pool_name())]
    pub name: String,
}

/// Shows a pool.
pub async fn run(cx: &mut Context, args: &ShowArgs) -> Result<()> {
    let Some(data) = fetch(cx, args, "").await? else { return Ok(()) };
    let pool: Pool = read(data)?;
    let text = sheet(cx, &pool).render();
    cx.print(&text)
}

/// Shows its room.
pub async fn capacity(cx: &mut Context, args: &ShowArgs) -> Result<()> {
    let Some(data) = fetch(cx, args, "/capacity").await? else { return Ok(()) };
    let room: PoolCapacity = read(data)?;
    let mut sheet = Sheet::default();
    sheet.row("name", &room.name).row("state", room.state.as_str());
    sheet.row("capacity", bytes(room.capacity_bytes));
    sheet.row("taken", bytes(room.allocation_bytes));
    sheet.row("free", bytes(room.available_bytes));
    sheet.row("volumes", room.volume_count.to_string());
    sheet.row("promised to them", bytes(room.volumes_capacity_bytes));
    sheet.row("taken by them", bytes(room.volumes_allocation_bytes));
    if let Some(overcommit) = room.overcommit {
        sheet.row("overcommit", format!("{overcommit:.2}"));
    }
    cx.print(&sheet.render())
}

/// The data, unless it has been printed as it is.
async fn fetch(cx: &mut Context, args: &ShowArgs, rest: &str) -> Result<Option<serde_json::Value>> {
    let request = Request::get(super::path(&args.name, rest));
    let data = Meant::Pool(&args.name).fetch(cx, request).await?;
    if cx.format.is_data() {
        cx.print_value(&data)?;
        return Ok(None);
    }
    if cx.format == Format::Name {
        cx.print(&format!("{}\n", safe(&args.name)))?;
        return Ok(None);
    }
    Ok(Some(data))
}

fn sheet(cx: &Context, pool: &Pool) -> Sheet {
    let mut sheet = Sheet::default();
    sheet.row("name", &pool.name).row("uuid", pool.uuid.to_string());
    sheet.row("type", &pool.r#type);
    let style = match pool.state {
        PoolState::Running => Style::Green,
        PoolState::Building => Style::Yellow,
        PoolState::Inactive => Style::Bold,
        PoolState::Degraded | PoolState::Inaccessible => Style::Red,
    };
    sheet.painted("state", cx.paint(style, pool.state.as_str()));
    if let Some(problem) = &pool.problem {
        sheet.row("problem", problem);
    }
    sheet.row("autostart", yes_no(pool.autostart));
    if !pool.persistent {
        sheet.row("persistent", "no: it is gone once it stops");
    }
    if pool.state.is_active() {
        sheet.row("capacity", bytes(pool.capacity_bytes));
        sheet.row("taken", bytes(pool.allocation_bytes));
        sheet.row("free", bytes(pool.available_bytes));
        sheet.row("volumes", pool.volume_count.to_string());
    }
    source(pool, &mut sheet);
    if let Some(path) = &pool.target.path {
        sheet.row("path", path);
    }
    if let Some(permissions) = &pool.target.permissions {
        sheet.row("permissions", permissions_words(permissions));
    }
    if let Some(cow) = pool.features.cow {
        sheet.row("copy-on-write", yes_no(cow));
    }
    sheet
}

fn source(pool: &Pool, sheet: &mut Sheet) {
    let source = &pool.source;
    sheet.rows("hosts", source.hosts.iter().map(host));
    sheet.rows("devices", source.devices.iter().map(|device| device.path.clone()));
    for (label, value) in [
        ("source folder", &source.dir),
        ("source name", &source.name),
        ("source format", &source.format),
        ("initiator", &source.initiator),
        ("protocol version", &source.protocol_version),
    ] {
        if let Some(value) = value {
            sheet.row(label, value);
        }
    }
    if let Some(adapter) = &source.adapter {
        sheet.row("adapter", adapter_words(adapter));
    }
    if let Some(auth) = &source.auth {
        sheet.row("user", format!("{} ({})", auth.username, auth.r#type.as_str()));
    }
}

fn host(host: &PoolHost) -> String {
    match host.port {
        Some(port) => format!("{} port {port}", host.name),
        None => host.name.clone(),
    }
}

fn adapter_words(adapter: &PoolAdapter) -> String {
    let words = [&adapter.name, &adapter.parent, &adapter.wwnn, &adapter.wwpn];
    words.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn permissions_words(permissions: &PoolPermissions) -> String {
    let number = |label: &str, number: Option<u32>| number.map(|n| format!("{label} {n}"));
    let words = [
        permissions.mode.clone(),
        number("owner", permissions.owner),
        number("group", permissions.group),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
