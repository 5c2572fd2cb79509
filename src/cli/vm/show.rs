//! `vapor vm show`.

use clap::Args;

use super::super::client::{Request, vm_path};
use super::super::context::{Context, Style};
use super::super::failure::Result;
use super::super::output::{Format, Sheet, read};
use super::super::suggest::Meant;
use super::super::text::{NONE, bytes, mib, moment, or_none, plain, safe, yes_no};
use super::list::note_stale;
use crate::model::vm_request::{Bandwidth, CpuMode, CpuRequest};
use crate::model::{Disk, GuestAgentState, Nic, Vm, VmState};

/// Which VM is shown.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// Name or UUID
    #[arg(value_name = "VM", value_parser = super::vm_name())]
    pub name: String,
}

/// Shows.
pub async fn run(cx: &mut Context, args: &ShowArgs) -> Result<()> {
    let request = Request::get(vm_path(&args.name, ""));
    let data = Meant::Vm(&args.name).fetch(cx, request).await?;
    if cx.format.is_data() {
        return cx.print_value(&data);
    }
    let vm: Vm = read(data)?;
    if cx.format == Format::Name {
        return cx.print(&format!("{}\n", safe(&vm.name)));
    }
    let text = sheet(cx, &vm).render();
    cx.print(&text)?;
    if let Some(stale) = &vm.stale {
        note_stale(cx, stale);
    }
    Ok(())
}

fn sheet(cx: &Context, vm: &Vm) -> Sheet {
    let wide = cx.format == Format::Wide;
    let mut sheet = Sheet::default();
    sheet.row("name", &vm.name).row("uuid", vm.uuid.to_string());
    if let Some(title) = &vm.title {
        sheet.row("title", title);
    }
    if !vm.description.is_empty() {
        sheet.row("description", &vm.description);
    }
    sheet.painted("state", state(cx, vm));
    sheet.row("vcpus", with_max(vm.vcpus.to_string(), vm.max_vcpus.to_string()));
    sheet.row("memory", with_max(mib(vm.memory), mib(vm.max_memory)));
    sheet.rows("cpu", vm.cpu.iter().map(|cpu| cpu_words(cpu)));
    sheet.row("machine", machine(vm));
    sheet.row("boot", or_none(Some(&vm.os.boot.join(", "))));
    if let Some(direct) = &vm.os.direct_boot {
        sheet.row("kernel", &direct.kernel);
        sheet.rows("initrd", direct.initrd.clone());
        sheet.rows("cmdline", direct.cmdline.clone());
    }
    sheet.row("autostart", yes_no(vm.autostart));
    if !vm.persistent {
        sheet.row("persistent", "no: it is gone once it stops");
    }
    sheet.rows("disks", vm.disks.iter().map(disk));
    sheet.rows("networks", vm.networks.iter().map(nic));
    sheet.rows(
        "graphics",
        vm.graphics.iter().map(|graphics| {
            let at = match (&graphics.listen, graphics.port) {
                (Some(listen), Some(port)) => format!(" on {listen}:{port}"),
                (None, Some(port)) => format!(" on port {port}"),
                _ => String::new(),
            };
            format!("{}{at}", graphics.r#type)
        }),
    );
    if wide {
        sheet.rows("devices", devices(vm));
    }
    guest(cx, vm, &mut sheet);
    if let Some(seed) = &vm.cloud_init {
        sheet.row("cloud-init", format!("{} on {}", seed.instance_id, seed.target));
    }
    if let Some(told) = &vm.ignition {
        let from = told.target.as_deref().or(told.file.as_deref()).unwrap_or_default();
        sheet.row("ignition", format!("version {} in {from}", told.version));
    }
    if vm.snapshot_count > 0 {
        sheet.row("snapshots", vm.snapshot_count.to_string());
    }
    if vm.has_saved_state {
        sheet.row("saved state", "yes: the next start goes on from it");
    }
    sheet.rows("labels", vm.labels.iter().map(|(key, value)| format!("{key}={value}")));
    if let Some(owner) = &vm.owner {
        sheet.row("owner", owner);
    }
    if let Some(then) = vm.created_at {
        sheet.row("created", moment(cx.now, then));
    }
    if let Some(then) = vm.updated_at {
        sheet.row("changed", moment(cx.now, then));
    }
    if let Some(pending) = &vm.pending {
        sheet.rows(
            "next boot",
            pending.changes.iter().map(|change| {
                format!(
                    "{}: {} -> {}",
                    change.field,
                    plain(&change.running),
                    plain(&change.next_boot)
                )
            }),
        );
    }
    sheet
}

/// Devices without a view of their own; those of one kind and model on one line.
fn devices(vm: &Vm) -> Vec<String> {
    let mut counted: Vec<(String, usize)> = Vec::new();
    for device in &vm.devices {
        let name = match &device.model {
            Some(model) => format!("{} {model}", device.kind),
            None => device.kind.clone(),
        };
        match counted.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => counted.push((name, 1)),
        }
    }
    let line = |(name, count)| if count == 1 { name } else { format!("{name} ({count} of them)") };
    counted.into_iter().map(line).collect()
}

fn guest(cx: &Context, vm: &Vm, sheet: &mut Sheet) {
    let Some(details) = &vm.runtime_details else { return };
    sheet.row(
        "guest agent",
        match details.guest_agent {
            GuestAgentState::NotConfigured => "no channel for one",
            GuestAgentState::NotConnected => "not running in the guest",
            GuestAgentState::Connected => "connected",
            GuestAgentState::NotResponding => "does not answer",
        },
    );
    if let Some(hostname) = &details.hostname {
        sheet.row("hostname", hostname);
    }
    let os = details.os_name.as_deref().or(details.os_id.as_deref());
    if os.is_some() || details.kernel.is_some() {
        let parts = [os, details.kernel.as_deref(), details.machine.as_deref()];
        sheet.row("guest", parts.into_iter().flatten().collect::<Vec<_>>().join(", "));
    }
    sheet.rows(
        "addresses",
        details.addresses.iter().map(|address| {
            let interface = address.interface.as_deref().map(|name| format!(" on {name}"));
            format!(
                "{}/{}{} ({})",
                address.address,
                address.prefix,
                interface.unwrap_or_default(),
                address.source
            )
        }),
    );
    if let Some(then) = details.started_at {
        sheet.row("started", moment(cx.now, then));
    }
}

fn state(cx: &Context, vm: &Vm) -> String {
    let style = match vm.state {
        VmState::Running => Style::Green,
        VmState::Paused | VmState::Suspended | VmState::ShuttingDown => Style::Yellow,
        VmState::Shutoff => Style::Bold,
        VmState::Crashed => Style::Red,
    };
    let word = cx.paint(style, vm.state.as_str());
    if matches!(vm.state_reason.as_str(), "" | "unknown") {
        word
    } else {
        format!("{word} ({})", safe(&vm.state_reason))
    }
}

fn with_max(value: String, max: String) -> String {
    if value == max { value } else { format!("{value} of at most {max}") }
}

fn machine(vm: &Vm) -> String {
    let os = &vm.os;
    let parts = [&os.domain_type, &os.architecture, &os.machine, &os.firmware];
    let mut parts: Vec<String> =
        parts.into_iter().filter(|part| !part.is_empty()).cloned().collect();
    match (os.secure_boot, os.enrolled_keys) {
        (false, _) => {}
        (true, Some(false)) => parts.push("Secure Boot without keys".to_owned()),
        (true, Some(true) | None) => parts.push("Secure Boot".to_owned()),
    }
    parts.extend(
        vm.tpm.as_ref().map(|tpm| format!("TPM {}", tpm.version.as_deref().unwrap_or(&tpm.model))),
    );
    or_none(Some(&parts.join(", ")))
}

fn disk(disk: &Disk) -> String {
    let source = match (&disk.volume, &disk.source) {
        (Some(volume), _) => format!("{}/{}", volume.pool, volume.volume),
        (None, Some(source)) => source.clone(),
        (None, None) => "empty".to_owned(),
    };
    let size = match (disk.capacity_bytes, disk.allocation_bytes) {
        (Some(capacity), Some(allocation)) => {
            format!(", {} ({} taken)", bytes(capacity), bytes(allocation))
        }
        (Some(capacity), None) => format!(", {}", bytes(capacity)),
        (None, _) => String::new(),
    };
    let format = disk.format.as_deref().map(|format| format!(", {format}")).unwrap_or_default();
    let read_only = if disk.read_only { ", read-only" } else { "" };
    let device =
        serde_json::to_value(disk.device).map_or_else(|_| NONE.to_owned(), |word| plain(&word));
    let tuning = [
        ("cache", disk.cache.map(|cache| cache.as_str().to_owned())),
        ("io", disk.io.map(|io| io.as_str().to_owned())),
        ("iothread", disk.iothread.map(|number| number.to_string())),
        ("boot order", disk.boot_order.map(|order| order.to_string())),
    ];
    let tuning = told(tuning);
    format!("{} {device} on {}: {source}{format}{size}{read_only}{tuning}", disk.target, disk.bus)
}

/// `, NAME VALUE` for each that has a value.
fn told<const N: usize>(parts: [(&str, Option<String>); N]) -> String {
    let parts = parts.into_iter().filter_map(|(name, value)| Some((name, value?)));
    parts.map(|(name, value)| format!(", {name} {value}")).collect()
}

fn cpu_words(cpu: &CpuRequest) -> String {
    let mode = cpu.mode.map(CpuMode::as_str).unwrap_or("usual");
    let pins = cpu.pinning.iter().flatten();
    let pins: Vec<String> = pins.map(|pin| format!("{}={}", pin.vcpu, pin.cpus)).collect();
    let topology = cpu.topology.map(|topology| {
        let threads = topology.threads.unwrap_or(1);
        let cores = topology.dies.unwrap_or(1).saturating_mul(topology.cores);
        format!("{}x{cores}x{threads}", topology.sockets)
    });
    let more = told([
        ("model", cpu.model.as_ref().map(ToString::to_string)),
        ("topology", topology),
        ("NUMA cells", cpu.numa.as_ref().map(|cells| cells.len().to_string())),
        ("pinned", (!pins.is_empty()).then(|| pins.join(" "))),
    ]);
    format!("{mode}{more}")
}

fn nic(nic: &Nic) -> String {
    let source = nic.source.name.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
    let model = nic.model.as_deref().map(|model| format!(", {model}")).unwrap_or_default();
    let target = nic.target.as_deref().map(|target| format!(", {target}")).unwrap_or_default();
    let link = if nic.link_up { "" } else { ", link down" };
    let limit = |limit: Option<Bandwidth>| limit.map(|limit| format!("{} KiB/s", limit.average));
    let tuning = told([
        ("in at most", limit(nic.inbound)),
        ("out at most", limit(nic.outbound)),
        ("VLAN", nic.vlan.map(|tag| tag.to_string())),
    ]);
    let isolated = if nic.isolated == Some(true) { ", isolated" } else { "" };
    format!("{}: {}{source}{model}{target}{link}{tuning}{isolated}", nic.mac, nic.source.r#type)
}
