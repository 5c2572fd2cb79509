//! `vapor vm list`.

use clap::Args;

use super::super::client::{Request, VMS};
use super::super::context::Context;
use super::super::failure::Result;
use super::super::output::{Column, Listing, fetch_list, read};
use super::super::text::{NONE, age, bytes, mib, or_none, yes_no};
use crate::model::{DiskDevice, Stale, Vm};

/// Which VMs are listed, and in which order.
#[derive(Args, Debug, Default)]
pub struct ListArgs {
    /// Only those whose name fits; `*` stands for any text
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Only those in this state: running, paused, suspended, shutoff, crashed, shutting-down
    #[arg(long)]
    pub state: Option<String>,
    /// Only those with this label; repeat it for several
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Only those whose labels fit, such as tier=web,stage!=prod
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    /// The field to sort by, with - before it for the reverse order
    #[arg(long, allow_hyphen_values = true)]
    pub sort: Option<String>,
    /// No more than this many
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
}

const COLUMNS: &[Column<Vm>] = &[
    Column::text("NAME", |vm, _| vm.name.clone()),
    Column::text("STATE", |vm, _| vm.state.as_str().to_owned()),
    Column::number("VCPUS", |vm, _| vm.vcpus.to_string()),
    Column::number("MEMORY", |vm, _| mib(vm.memory)),
    Column::text("ADDRESS", |vm, _| {
        or_none(vm.runtime_details.as_ref().and_then(|details| details.primary_address.as_deref()))
    }),
    Column::text("GUEST", |vm, _| guest(vm)),
    Column::number("UP", |vm, now| {
        let since = vm.runtime_details.as_ref().and_then(|details| details.started_at);
        since
            .filter(|_| vm.state.is_active())
            .map_or_else(|| NONE.to_owned(), |then| age(now, then))
    }),
    Column::wide("AUTOSTART", |vm, _| yes_no(vm.autostart).to_owned()),
    Column::wide("PENDING", |vm, _| yes_no(vm.pending.is_some()).to_owned()),
    Column::wide_number("SNAPSHOTS", |vm, _| vm.snapshot_count.to_string()),
    Column::wide("DISKS", |vm, _| disks(vm)),
    Column::wide("NETWORKS", |vm, _| {
        let sources = vm
            .networks
            .iter()
            .map(|nic| nic.source.name.clone().unwrap_or_else(|| nic.source.r#type.clone()));
        or_none(Some(&sources.collect::<Vec<_>>().join(",")))
    }),
    Column::wide("LABELS", |vm, _| {
        let labels = vm.labels.iter().map(|(key, value)| format!("{key}={value}"));
        or_none(Some(&labels.collect::<Vec<_>>().join(",")))
    }),
    Column::wide("UUID", |vm, _| vm.uuid.to_string()),
];

const LISTING: Listing<'_, Vm> =
    Listing { noun: "vms", columns: COLUMNS, name: |vm| vm.name.clone() };

/// Lists.
pub async fn run(cx: &mut Context, args: &ListArgs) -> Result<()> {
    let mut request = Request::get(VMS)
        .maybe("name", args.name.as_deref())
        .maybe("state", args.state.as_deref())
        .maybe("selector", args.selector.as_deref())
        .maybe("sort", args.sort.as_deref());
    for label in &args.label {
        request = request.query("label", &label.replacen('=', ":", 1));
    }
    if cx.format == super::super::output::Format::Name {
        request = request.query("fields", "name");
        let data = fetch_list(cx, request, "vms", args.limit.map(|limit| limit as usize)).await?;
        let names = NAMES;
        return names.show(cx, &data);
    }
    let data = fetch_list(cx, request, "vms", args.limit.map(|limit| limit as usize)).await?;
    LISTING.show(cx, &data)?;
    let stale = data.get("vms").and_then(|vms| vms.get(0)?.get("stale").cloned());
    if let Some(stale) = stale.filter(|stale| !stale.is_null()) {
        note_stale(cx, &read(stale)?);
    }
    Ok(())
}

/// The names alone, which is all that `-o name` asks for.
#[derive(serde::Deserialize)]
struct Named {
    name: String,
}

const NAMES: Listing<'_, Named> = Listing { noun: "vms", columns: &[], name: |vm| vm.name.clone() };

/// Says that what was shown is old.
pub fn note_stale(cx: &mut Context, stale: &Stale) {
    let since = age(cx.now, stale.since);
    let reason = if stale.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", super::super::text::safe(&stale.reason))
    };
    cx.note(&format!(
        "warning: libvirt has been away for {since}; this is the last known picture{reason}"
    ));
}

fn guest(vm: &Vm) -> String {
    let details = vm.runtime_details.as_ref();
    or_none(
        details
            .and_then(|details| details.os_name.as_deref().or(details.os_id.as_deref()))
            .or(vm.os.variant.as_deref()),
    )
}

fn disks(vm: &Vm) -> String {
    let disks: Vec<_> = vm.disks.iter().filter(|disk| disk.device == DiskDevice::Disk).collect();
    let total: u64 = disks.iter().filter_map(|disk| disk.capacity_bytes).sum();
    match (disks.len(), total) {
        (0, _) => NONE.to_owned(),
        (count, 0) => count.to_string(),
        (count, total) => format!("{count} ({})", bytes(total)),
    }
}
