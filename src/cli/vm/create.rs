//! `vapor vm create`.

use std::collections::BTreeMap;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::super::client::{Request, VMS};
use super::super::context::Context;
use super::super::failure::{Exit, Failure, Result};
use super::super::operation::{ChangeArgs, Ended, perform, show_done};
use super::super::text::{parse_mib, quoted};
use super::{spec, without_nulls};
use crate::model::vm_request::{BootDevice, DirectBoot};
use crate::model::{
    CreateVm, DiskAction, DiskRequest, GraphicsRequest, GraphicsType, LabelKey, LabelValue,
    NicRequest, OsRequest, ResourceName, StorageRequest, VmName, VolumeRef,
};

/// The new VM.
#[derive(Args, Debug, Default)]
pub struct CreateArgs {
    /// Name of the new virtual machine
    #[arg(required_unless_present = "file")]
    pub name: Option<VmName>,
    /// Memory in MiB, or with a unit (2G)
    #[arg(long, value_name = "SIZE", value_parser = parse_mib, required_unless_present = "file")]
    pub memory: Option<u64>,
    /// The most it can have without a restart
    #[arg(long, value_name = "SIZE", value_parser = parse_mib)]
    pub max_memory: Option<u64>,
    /// Virtual CPUs
    #[arg(long, value_name = "N", required_unless_present = "file")]
    pub vcpus: Option<u32>,
    /// The most it can have without a restart
    #[arg(long, value_name = "N")]
    pub max_vcpus: Option<u32>,
    /// A new disk of so many GiB: SIZE[,pool=,volume=,format=,bus=,serial=,boot-order=]
    #[arg(long, value_name = "SIZE", value_parser = spec::new_disk)]
    pub disk: Vec<DiskRequest>,
    /// An existing volume as a disk: POOL/VOLUME[,bus=,serial=,boot-order=,read-only]
    #[arg(long, value_name = "VOLUME", value_parser = spec::attached_disk)]
    pub attach: Vec<DiskRequest>,
    /// A copy of a volume as a disk: POOL/VOLUME[,size=,pool=,volume=,bus=,...]
    #[arg(long, value_name = "VOLUME", value_parser = spec::cloned_disk)]
    pub clone: Vec<DiskRequest>,
    /// A volume in a CD drive: POOL/VOLUME
    #[arg(long, value_name = "VOLUME", value_parser = spec::cdrom)]
    pub cdrom: Vec<DiskRequest>,
    /// The pool of new disks that name none
    #[arg(long)]
    pub pool: Option<ResourceName>,
    /// A NIC: NETWORK, bridge:NAME, direct:DEVICE or user, with [,model=,mac=]; none for none
    #[arg(long, value_name = "NIC")]
    pub network: Vec<String>,
    /// The kind of guest, such as linux or windows
    #[arg(long, value_name = "WORD")]
    pub os_type: Option<String>,
    /// The libosinfo id of the guest, such as debian12
    #[arg(long, value_name = "ID")]
    pub variant: Option<String>,
    /// The host's own if absent
    #[arg(long)]
    pub arch: Option<ResourceName>,
    /// libvirt's preferred one if absent
    #[arg(long)]
    pub machine: Option<ResourceName>,
    /// Boot devices in order: hd, cdrom, network, fd
    #[arg(long, value_delimiter = ',', value_parser = spec::boot_device)]
    pub boot: Option<Vec<BootDevice>>,
    /// Boot this kernel directly: POOL/VOLUME
    #[arg(long, value_name = "VOLUME", value_parser = spec::volume)]
    pub kernel: Option<VolumeRef>,
    /// The initial RAM disk for --kernel: POOL/VOLUME
    #[arg(long, value_name = "VOLUME", requires = "kernel", value_parser = spec::volume)]
    pub initrd: Option<VolumeRef>,
    /// The command line for --kernel
    #[arg(long, requires = "kernel", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    /// vnc, spice or none
    #[arg(long, value_parser = spec::word::<GraphicsType>)]
    pub graphics: Option<GraphicsType>,
    /// Free text
    #[arg(long)]
    pub description: Option<String>,
    /// A label; repeat it for several
    #[arg(long, value_name = "KEY=VALUE", value_parser = spec::label)]
    pub label: Vec<(LabelKey, LabelValue)>,
    /// Start with the host
    #[arg(long)]
    pub autostart: bool,
    /// Start it at once
    #[arg(long)]
    pub start: bool,
    /// Read the body from a JSON (or .toml) file, - for stdin; options given besides win
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<String>,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Creates.
pub async fn run(cx: &mut Context, args: &CreateArgs) -> Result<()> {
    let body = spec::overlay(spec::read_body(cx, args.file.as_deref())?, body(args)?);
    let name = body.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let request = Request::new(Method::POST, VMS).json(&body);
    match perform(cx, request, &args.change).await? {
        Ended::Done(data) => {
            let running = data.get("state").is_some_and(|state| state == "running");
            let words = if running { "created and started" } else { "created" };
            show_done(cx, &data, &name, words)
        }
        Ended::Planned | Ended::Accepted => Ok(()),
    }
}

/// The body that the options amount to: the flat form where it can say it, else the full one.
fn body(args: &CreateArgs) -> Result<Value> {
    let mut request = CreateVm {
        name: args.name.clone(),
        description: args.description.clone(),
        memory: args.memory,
        max_memory: args.max_memory,
        vcpus: args.vcpus,
        max_vcpus: args.max_vcpus,
        os_type: args.os_type.clone(),
        graphics: args.graphics.map(|r#type| vec![GraphicsRequest { r#type }]),
        labels: (!args.label.is_empty())
            .then(|| args.label.iter().cloned().collect::<BTreeMap<_, _>>()),
        autostart: args.autostart.then_some(true),
        start: args.start.then_some(true),
        networks: nics(&args.network)?,
        ..CreateVm::default()
    };
    storage(args, &mut request)?;
    let direct_boot = args.kernel.clone().map(|kernel| DirectBoot {
        kernel,
        initrd: args.initrd.clone(),
        cmdline: args.cmdline.clone(),
    });
    let installs = !args.cdrom.is_empty() && direct_boot.is_none();
    let os = OsRequest {
        r#type: None,
        variant: args.variant.clone(),
        architecture: args.arch.clone(),
        machine: args.machine.clone(),
        firmware: None,
        // an empty disk falls through to the CD, an installed one does not
        boot: args
            .boot
            .clone()
            .or_else(|| installs.then(|| vec![BootDevice::Hd, BootDevice::Cdrom])),
        direct_boot,
    };
    let os = without_nulls(serde_json::to_value(os).map_err(Failure::unintelligible)?);
    let mut body = without_nulls(serde_json::to_value(request).map_err(Failure::unintelligible)?);
    if os != json!({}) {
        body["os"] = os;
    }
    Ok(body)
}

fn storage(args: &CreateArgs, request: &mut CreateVm) -> Result<()> {
    // what a guest boots from is more likely new or copied than attached
    let lists = [&args.disk, &args.clone, &args.attach, &args.cdrom];
    let mut disks: Vec<DiskRequest> = lists.into_iter().flatten().cloned().collect();
    // what `disk_size` can say: a size and nothing else
    let plain = |disk: &DiskRequest| {
        disk.action == DiskAction::Create
            && disk.pool.is_none()
            && disk.volume.is_none()
            && disk.format.is_none()
            && disk.bus.is_none()
            && disk.boot_order.is_none()
            && disk.serial.is_none()
    };
    match disks.as_slice() {
        [] if args.pool.is_some() && args.file.is_none() => {
            Err(Failure::new(Exit::Refused, "--pool is given, and no disk that would be in it")
                .with_hint("add --disk SIZE"))
        }
        [] => {
            request.pool = args.pool.clone();
            Ok(())
        }
        [only] if plain(only) => {
            request.disk_size = only.size;
            request.pool = args.pool.clone();
            Ok(())
        }
        _ => {
            let storage = StorageRequest {
                default_pool: args.pool.clone(),
                disks: std::mem::take(&mut disks),
            };
            request.storage = Some(storage);
            Ok(())
        }
    }
}

fn nics(networks: &[String]) -> Result<Option<Vec<NicRequest>>> {
    let refuse = |text: &str, why: String| {
        Failure::new(Exit::Refused, format!("--network {}: {why}", quoted(text)))
    };
    match networks {
        [] => Ok(None),
        [none] if none == "none" => Ok(Some(Vec::new())),
        several => several
            .iter()
            .map(|text| spec::nic(text).map_err(|why| refuse(text, why)))
            .collect::<Result<_>>()
            .map(Some),
    }
}
