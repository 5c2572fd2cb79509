//! `vapor host` and `vapor capabilities`.

use clap::Args;
use serde_json::Value;

use super::client::Request;
use super::context::Context;
use super::failure::Result;
use super::output::{Format, Sheet, read};
use super::text::{bytes, plain, safe, seconds_short, yes_no};
use crate::model::host::{Capabilities, HostHardware};

/// Which kind of guest.
#[derive(Args, Debug)]
pub struct CapabilitiesArgs {
    /// The guest's architecture, such as x86_64
    #[arg(long)]
    pub architecture: Option<String>,
    /// Its machine type, such as q35
    #[arg(long)]
    pub machine: Option<String>,
    /// kvm, qemu, …
    #[arg(long)]
    pub domain_type: Option<String>,
}

/// Shows the host.
///
/// # Errors
/// What keeps it from being shown.
pub async fn run(cx: &mut Context) -> Result<()> {
    let data = cx.client.send(&Request::get("/host")).await?.checked()?.data()?;
    if cx.format.is_data() {
        return cx.print_value(&data);
    }
    let text = |path: &str| data.pointer(path).filter(|value| !value.is_null()).map(plain);
    let number = |path: &str| data.pointer(path).and_then(Value::as_u64);
    if cx.format == Format::Name {
        return cx.print(&format!("{}\n", safe(&text("/hostname").unwrap_or_default())));
    }
    let mut sheet = Sheet::default();
    for (label, path) in [
        ("host", "/hostname"),
        ("kernel", "/vitals/kernel"),
        ("vapord", "/version"),
        ("libvirt", "/libvirt/version"),
        ("hypervisor", "/libvirt/hypervisor_version"),
        ("time", "/time"),
    ] {
        sheet.rows(label, text(path));
    }
    sheet.rows("up", number("/vitals/uptime_seconds").map(seconds_short));
    if let Some(load) = data.pointer("/vitals/load").and_then(Value::as_array) {
        sheet.row("load", load.iter().map(plain).collect::<Vec<_>>().join(" "));
    }
    if let (Some(total), Some(free)) =
        (number("/vitals/memory_total_bytes"), number("/vitals/memory_available_bytes"))
    {
        sheet.row("memory", format!("{} of {} available", bytes(free), bytes(total)));
    }
    let hardware = data.get("hardware").filter(|hardware| !hardware.is_null());
    if let Some(hardware) = hardware {
        let hardware: HostHardware = read(hardware.clone())?;
        let cpu = &hardware.cpu;
        let model = [cpu.vendor.clone(), cpu.model.clone()].into_iter().flatten();
        sheet.row("cpu", model.collect::<Vec<_>>().join(" "));
        sheet.row(
            "topology",
            format!(
                "{} sockets, {} dies, {} cores, {} threads",
                cpu.sockets, cpu.dies, cpu.cores, cpu.threads
            ),
        );
        sheet.rows(
            "numa",
            hardware.numa.iter().map(|cell| {
                format!("{}: {}, {} cpus", cell.id, bytes(cell.memory_bytes), cell.cpus.len())
            }),
        );
        sheet.row("iommu", yes_no(hardware.iommu));
    }
    sheet.row("kvm", text("/kvm_obstacle").unwrap_or_else(|| "usable".to_owned()));
    sheet.rows("vms", text("/vms"));
    let text = sheet.render();
    cx.print(&text)
}

/// Shows what guests can have.
///
/// # Errors
/// What keeps it from being shown.
pub async fn capabilities(cx: &mut Context, args: &CapabilitiesArgs) -> Result<()> {
    let request = Request::get("/virtualization/capabilities")
        .maybe("architecture", args.architecture.as_deref())
        .maybe("machine", args.machine.as_deref())
        .maybe("domain_type", args.domain_type.as_deref());
    let data = cx.client.send(&request).await?.checked()?.data()?;
    if cx.format.is_data() {
        return cx.print_value(&data);
    }
    let all: Capabilities = read(data)?;
    if cx.format == Format::Name {
        let names: String =
            all.guests.iter().map(|guest| format!("{}\n", safe(&guest.architecture))).collect();
        return cx.print(&names);
    }
    let mut sheet = Sheet::default();
    let guests = all
        .guests
        .iter()
        .map(|guest| format!("{} ({})", guest.architecture, guest.domain_types.join(", ")));
    sheet.rows("guests", guests);
    let one = &all.preferred;
    sheet.row("shown", format!("{} {} {}", one.architecture, one.machine, one.domain_type));
    sheet.row("emulator", &one.emulator);
    sheet.row("vcpus", format!("at most {}", one.max_vcpus));
    sheet.row("firmware", one.firmware.join(", "));
    sheet.row("secure boot", yes_no(one.secure_boot));
    sheet.row("cpu modes", one.cpu_modes.join(", "));
    for device in one.devices.iter().chain(&one.features) {
        let values = device
            .variants
            .iter()
            .map(|variants| format!("{} {}", variants.name, variants.values.join(", ")));
        let values: Vec<String> = values.collect();
        let words = match (device.supported, values.is_empty()) {
            (false, _) => "no".to_owned(),
            (true, true) => "yes".to_owned(),
            (true, false) => values.join("; "),
        };
        sheet.row(&device.name, words);
    }
    let text = sheet.render();
    cx.print(&text)
}
