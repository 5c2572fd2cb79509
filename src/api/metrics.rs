//! `/metrics`: the Prometheus text format, written by hand from what is in memory already. It makes
//! no libvirt call, so that a domain that hangs cannot hold it up.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Api;
use super::meters::{family, label};
use crate::model::VmState;
use crate::service::inventory::Picture;

/// The content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const STATES: [VmState; 6] = [
    VmState::Running,
    VmState::Paused,
    VmState::Suspended,
    VmState::Shutoff,
    VmState::Crashed,
    VmState::ShuttingDown,
];

/// The whole page.
pub fn text(api: &Api) -> String {
    let services = api.services();
    let picture = services.host.inventory().picture();
    let mut out = String::with_capacity(8192 + picture.vms.len() * 512);
    family(&mut out, "vapor_build_info", "gauge", "The version of the daemon.");
    let _ = writeln!(out, "vapor_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    gauge(
        &mut out,
        "vapor_libvirt_connected",
        "Whether libvirt answers.",
        u64::from(services.host.status().connected),
    );
    gauge(
        &mut out,
        "vapor_inventory_ready",
        "Whether there is a picture of the host to serve reads from.",
        u64::from(picture.filled),
    );
    if let Some(confirmed) = picture.confirmed_at {
        let seconds = confirmed.as_millisecond() as f64 / 1000.0;
        family(
            &mut out,
            "vapor_inventory_confirmed_timestamp_seconds",
            "gauge",
            "When libvirt last confirmed the picture.",
        );
        let _ = writeln!(out, "vapor_inventory_confirmed_timestamp_seconds {seconds}");
    }
    lanes(&mut out, api);
    gauge(
        &mut out,
        "vapor_tasks_running",
        "Operations under way.",
        services.tasks.running() as u64,
    );
    family(&mut out, "vapor_events_total", "counter", "Events numbered so far.");
    let _ = writeln!(out, "vapor_events_total {}", services.bus.last_seq());
    gauge(
        &mut out,
        "vapor_event_subscribers",
        "Streams and long polls that wait for events.",
        services.bus.subscribers() as u64,
    );
    api.core().meters.write(&mut out);
    vms(&mut out, &picture);
    pools(&mut out, &picture);
    out
}

fn gauge(out: &mut String, name: &str, help: &str, value: u64) {
    family(out, name, "gauge", help);
    let _ = writeln!(out, "{name} {value}");
}

fn lanes(out: &mut String, api: &Api) {
    let lanes = api.services().host.lanes();
    let mut write = |name: &str, help: &str, values: Vec<usize>| {
        family(out, name, "gauge", help);
        for (gauge, value) in lanes.iter().zip(values) {
            let _ = writeln!(out, "{name}{{lane=\"{}\"}} {value}", gauge.lane.as_str());
        }
    };
    let each = |value: fn(&_) -> usize| lanes.iter().map(value).collect();
    write("vapor_libvirt_workers", "Worker threads alive.", each(|lane| lane.workers));
    write("vapor_libvirt_calls_busy", "libvirt calls under way.", each(|lane| lane.busy));
    write(
        "vapor_libvirt_calls_stuck",
        "libvirt calls that nobody waits for any more.",
        each(|lane| lane.stuck),
    );
    write("vapor_libvirt_calls_queued", "libvirt calls that wait.", each(|lane| lane.queued));
    write(
        "vapor_libvirt_calls_queue_capacity",
        "libvirt calls that may wait.",
        each(|lane| lane.capacity),
    );
}

/// What the picture knows of VMs. Statistics of running guests are a later chapter.
fn vms(out: &mut String, picture: &Picture) {
    let mut states: BTreeMap<VmState, u64> = STATES.iter().map(|state| (*state, 0)).collect();
    for record in &picture.vms {
        *states.entry(record.vm.state).or_default() += 1;
    }
    family(out, "vapor_vms", "gauge", "Virtual machines by state.");
    for (state, count) in states {
        let _ = writeln!(out, "vapor_vms{{state=\"{}\"}} {count}", state.as_str());
    }
    let names: Vec<String> = picture
        .vms
        .iter()
        .map(|record| format!("uuid=\"{}\",name=\"{}\"", record.vm.uuid, label(&record.vm.name)))
        .collect();
    family(out, "vapor_vm_state", "gauge", "1 for the state each virtual machine is in.");
    for (record, name) in picture.vms.iter().zip(&names) {
        let _ = writeln!(out, "vapor_vm_state{{{name},state=\"{}\"}} 1", record.vm.state.as_str());
    }
    family(out, "vapor_vm_memory_bytes", "gauge", "Memory each virtual machine has.");
    for (record, name) in picture.vms.iter().zip(&names) {
        let bytes = record.vm.memory.saturating_mul(1 << 20);
        let _ = writeln!(out, "vapor_vm_memory_bytes{{{name}}} {bytes}");
    }
    family(out, "vapor_vm_vcpus", "gauge", "Virtual CPUs each virtual machine has.");
    for (record, name) in picture.vms.iter().zip(&names) {
        let _ = writeln!(out, "vapor_vm_vcpus{{{name}}} {}", record.vm.vcpus);
    }
}

fn pools(out: &mut String, picture: &Picture) {
    type Value = fn(&crate::model::Pool) -> u64;
    let families: [(&str, &str, Value); 3] = [
        ("vapor_pool_capacity_bytes", "Size of each storage pool.", |pool| pool.capacity_bytes),
        ("vapor_pool_allocation_bytes", "Bytes taken in each storage pool.", |pool| {
            pool.allocation_bytes
        }),
        ("vapor_pool_available_bytes", "Bytes free in each storage pool.", |pool| {
            pool.available_bytes
        }),
    ];
    for (name, help, value) in families {
        family(out, name, "gauge", help);
        for record in &picture.pools {
            let pool = label(&record.pool.name);
            let _ = writeln!(out, "{name}{{pool=\"{pool}\"}} {}", value(&record.pool));
        }
    }
}
