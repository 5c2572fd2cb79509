//! `vapor status`: whether the daemon and libvirt are well.

use serde_json::Value;

use super::client::Request;
use super::context::{Context, Style};
use super::failure::{Exit, Failure, Result};
use super::output::{Format, Sheet};
use super::text::{moment, plain, safe};

/// Shows how the daemon is; libvirt's absence is an exit code of its own.
///
/// # Errors
/// A daemon that cannot be reached; [`Exit::LibvirtUnavailable`].
pub async fn run(cx: &mut Context) -> Result<()> {
    // a degraded daemon may answer 503 and still say how it is
    let reply = cx.client.send(&Request::get("/health")).await?;
    let Ok(data) = reply.data() else { return Err(reply.failure()) };
    let connected = data.get("libvirt").and_then(|libvirt| libvirt.get("connected")?.as_bool());
    let database = data.get("database").and_then(Value::as_bool);
    match cx.format {
        Format::Json | Format::Yaml => cx.print_value(&data)?,
        Format::Name => {
            let word = data.get("status").map(plain).unwrap_or_default();
            cx.print(&format!("{}\n", safe(&word)))?;
        }
        Format::Table | Format::Wide => {
            let text = sheet(cx, &data).render();
            cx.print(&text)?;
        }
    }
    match (connected, database) {
        (Some(false), _) => Err(Failure::silent(Exit::LibvirtUnavailable)),
        (_, Some(false)) => Err(Failure::silent(Exit::Failed)),
        (_, _) => Ok(()),
    }
}

fn sheet(cx: &Context, data: &Value) -> Sheet {
    let at = |path: &str| data.pointer(path).filter(|value| !value.is_null());
    let time = |path: &str| {
        at(path)?.as_str()?.parse().ok().map(|then: jiff::Timestamp| moment(cx.now, then))
    };
    let mut sheet = Sheet::default();
    let word = at("/status").map(plain).unwrap_or_default();
    let style = if word == "ok" { Style::Green } else { Style::Red };
    sheet.painted("status", cx.paint(style, &safe(&word)));
    let version = at("/version").map(plain).unwrap_or_default();
    sheet.row("daemon", format!("vapord {version} at {}", cx.client.endpoint()));
    if let Some(started) = time("/started_at") {
        sheet.row("started", started);
    }
    let uri = at("/libvirt/uri").map(plain).unwrap_or_default();
    let connected = at("/libvirt/connected") == Some(&Value::Bool(true));
    let versions = ["/libvirt/version", "/libvirt/hypervisor_version"];
    let versions: Vec<_> = versions.iter().filter_map(|path| at(path).map(plain)).collect();
    let versions =
        if versions.is_empty() { String::new() } else { format!(" ({})", versions.join(", ")) };
    if connected {
        sheet.row("libvirt", format!("connected to {uri}{versions}"));
    } else {
        let reason = at("/libvirt/reason").map(|reason| format!(": {}", plain(reason)));
        sheet.row("libvirt", format!("not connected to {uri}{}", reason.unwrap_or_default()));
    }
    if let Some(since) = time("/libvirt/since") {
        sheet.row("", format!("since {since}"));
    }
    if let Some(database) = at("/database").and_then(Value::as_bool) {
        sheet.row("database", if database { "takes writes" } else { "does not answer" });
    }
    if let Some(confirmed) = time("/confirmed_at") {
        sheet.row("picture of", confirmed);
    }
    if let Some(vms) = at("/vms") {
        sheet.row("vms", plain(vms));
    }
    if let Some(tasks) = at("/running_tasks") {
        sheet.row("running tasks", plain(tasks));
    }
    sheet
}
