//! `vapor vm update`.

use std::collections::BTreeMap;

use clap::Args;
use http::Method;
use http::header::IF_MATCH;
use serde_json::Value;

use super::super::client::{Request, vm_path};
use super::super::context::Context;
use super::super::failure::{Exit, Failure, Result};
use super::super::operation::{ChangeArgs, Ended, change, perform, show_done};
use super::super::output::read;
use super::super::suggest::Meant;
use super::super::text::{parse_mib, safe};
use super::create_cloud_init::CloudInitArgs;
use super::update_hardware::HardwareChange;
use super::{spec, spec_change, without_nulls};
use crate::model::vm_request::BootDevice;
use crate::model::vm_update::{UpdateDisk, UpdateNic};
use crate::model::{LabelKey, LabelValue, UpdateVm, Vm, VmName};

/// What changes; what is not named stays.
#[derive(Args, Debug)]
pub struct UpdateArgs {
    /// Name or UUID
    #[arg(value_name = "VM", value_parser = super::vm_name())]
    pub name: String,
    /// Another name; only of a stopped virtual machine
    #[arg(long = "name", value_name = "NAME", value_parser = spec::new_name)]
    pub new_name: Option<VmName>,
    /// One line for people; empty to take it away
    #[arg(long)]
    pub title: Option<String>,
    /// Free text; empty to take it away
    #[arg(long)]
    pub description: Option<String>,
    /// Memory in MiB, or with a unit (2G); at once where the guest allows it
    #[arg(long, value_name = "SIZE", value_parser = parse_mib)]
    pub memory: Option<u64>,
    /// The most it can have without a restart; with the next boot
    #[arg(long, value_name = "SIZE", value_parser = parse_mib)]
    pub max_memory: Option<u64>,
    /// Virtual CPUs; at once where the machine allows it
    #[arg(long, value_name = "N")]
    pub vcpus: Option<u32>,
    /// The most it can have without a restart; with the next boot
    #[arg(long, value_name = "N")]
    pub max_vcpus: Option<u32>,
    /// Boot devices in order: hd, cdrom, network, fd
    #[arg(long, value_delimiter = ',', value_parser = spec::boot_device)]
    pub boot: Option<Vec<BootDevice>>,
    /// Start with the host
    #[arg(long, value_name = "yes|no", num_args = 0..=1, default_missing_value = "yes", value_parser = spec::yes_no)]
    pub autostart: Option<bool>,
    /// Set a label, and leave the others; repeat it for several
    #[arg(long, value_name = "KEY=VALUE", value_parser = spec::label)]
    pub label: Vec<(LabelKey, LabelValue)>,
    /// Take a label away; repeat it for several
    #[arg(long, value_name = "KEY")]
    pub remove_label: Vec<String>,
    /// Grow a disk, at once: vda=40G; repeat it for several
    #[arg(long, value_name = "TARGET=SIZE", value_parser = spec_change::grown_disk)]
    pub grow: Vec<UpdateDisk>,
    /// Plug the cable of a NIC in or out, at once: 52:54:00:12:34:56=down; repeat it for several
    #[arg(long, value_name = "MAC=up|down", value_parser = spec_change::nic_link)]
    pub link: Vec<UpdateNic>,
    /// Plug a NIC into another network: MAC=NETWORK, MAC=bridge:NAME, MAC=direct:DEVICE or MAC=user;
    /// at once from one network or bridge to another; repeat it for several
    #[arg(long, value_name = "MAC=SOURCE", value_parser = spec_change::nic_source)]
    pub plug: Vec<UpdateNic>,
    /// Change a disk: TARGET with [,cache=,io=,discard=,iothread=,bus=,boot-order=,serial=,read-only=,
    /// size=]; with the next boot; repeat it for several
    #[arg(long, value_name = "DISK", value_parser = spec_change::changed_disk)]
    pub disk: Vec<UpdateDisk>,
    /// Change a NIC: MAC with [,inbound=,outbound=,isolated=,link=] at once, or [,model=,vlan=,mode=,
    /// boot-order=] with the next boot; a limit is AVERAGE[:PEAK[:BURST]] in KiB/s, 0 for none
    #[arg(long, value_name = "NIC", value_parser = spec_change::nic_options)]
    pub nic: Vec<UpdateNic>,
    #[command(flatten)]
    pub hardware: HardwareChange,
    /// Read the body from a JSON or YAML (or .toml) file, - for stdin; options given besides win
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<String>,
    #[command(flatten)]
    pub cloud_init: CloudInitArgs,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Changes.
pub async fn run(cx: &mut Context, args: &UpdateArgs) -> Result<()> {
    let updated = update(cx, args).await;
    Meant::Vm(&args.name).checked(cx, updated).await
}

async fn update(cx: &mut Context, args: &UpdateArgs) -> Result<()> {
    let mut request = Request::new(Method::PATCH, vm_path(&args.name, ""));
    let mut labels = None;
    if !(args.label.is_empty() && args.remove_label.is_empty()) {
        // the API replaces all labels: take the present ones, and only if they are still present
        let reply = cx.client.send(&Request::get(vm_path(&args.name, ""))).await?.checked()?;
        if let Some(etag) = reply.etag() {
            request = request.header(IF_MATCH, etag);
        }
        labels = Some(changed_labels(read(reply.data()?)?, args)?);
    }
    let flags = UpdateVm {
        name: args.new_name.clone(),
        description: args.description.clone(),
        memory: args.memory,
        max_memory: args.max_memory,
        vcpus: args.vcpus,
        max_vcpus: args.max_vcpus,
        boot: args.boot.clone(),
        autostart: args.autostart,
        labels,
        title: args.title.clone(),
        disks: some(spec_change::disks(args.grow.iter().chain(&args.disk))),
        networks: some(spec_change::nics(args.link.iter().chain(&args.plug).chain(&args.nic))),
        ..args.hardware.request()
    };
    let flags = serde_json::to_value(flags).map_err(Failure::unintelligible)?;
    let mut flags = without_nulls(flags);
    if let Some(cloud_init) = args.cloud_init.body(cx)? {
        flags["cloud_init"] = cloud_init;
    }
    let body = spec::overlay(spec::read_body(cx, args.file.as_deref())?, flags);
    if body.as_object().is_none_or(serde_json::Map::is_empty) {
        return Err(Failure::new(Exit::Refused, "nothing to change was named")
            .with_hint("see `vapor vm update --help`"));
    }
    match perform(cx, request.json(&body), &args.change).await? {
        Ended::Done(data) => done(cx, &data, &args.name),
        Ended::Planned | Ended::Accepted => Ok(()),
    }
}

/// Which virtual machine gets which name.
#[derive(Args, Debug)]
pub struct RenameArgs {
    /// Name or UUID
    #[arg(value_name = "VM", value_parser = super::vm_name())]
    pub name: String,
    /// The new name
    #[arg(value_name = "NEW", value_parser = spec::new_name)]
    pub new: VmName,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Renames.
pub async fn rename(cx: &mut Context, args: &RenameArgs) -> Result<()> {
    let body = serde_json::json!({ "name": args.new });
    let request = Request::new(Method::PATCH, vm_path(&args.name, "")).json(&body);
    change(cx, request, &args.change, Meant::Vm(&args.name), &args.name, "renamed").await
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn changed_labels(vm: Vm, args: &UpdateArgs) -> Result<BTreeMap<LabelKey, LabelValue>> {
    let mut labels = BTreeMap::new();
    for (key, value) in vm.labels {
        if !args.remove_label.contains(&key) {
            let invalid = |error: crate::error::Error| Failure::new(Exit::Failed, error.message());
            let key: LabelKey = key.parse().map_err(invalid)?;
            labels.insert(key, LabelValue::try_from(value).map_err(invalid)?);
        }
    }
    labels.extend(args.label.iter().cloned());
    Ok(labels)
}

fn done(cx: &mut Context, data: &Value, name: &str) -> Result<()> {
    show_done(cx, data, name, "updated")?;
    if cx.format.is_data() {
        return Ok(());
    }
    let changes = data.get("pending").and_then(|pending| pending.get("changes")?.as_array());
    let fields: Vec<_> =
        changes.into_iter().flatten().filter_map(|change| change.get("field")?.as_str()).collect();
    if !fields.is_empty() {
        cx.note(&format!("with the next boot: {}", safe(&fields.join(", "))));
    }
    Ok(())
}
