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
use super::create_cloud_init::CloudInitArgs;
use super::hardware::HardwareArgs;
use super::{spec, without_nulls};
use crate::model::vm_request::{BootDevice, DirectBoot};
use crate::model::{
    CreateVm, DiskAction, DiskDevice, DiskRequest, Firmware, GraphicsRequest, GraphicsType,
    LabelKey, LabelValue, NicRequest, OsRequest, ResourceName, StorageRequest, TpmRequest, VmName,
    VolumeRef,
};

/// The new VM.
#[derive(Args, Debug, Default)]
pub struct CreateArgs {
    /// Name of the new virtual machine
    #[arg(required_unless_present = "file")]
    pub name: Option<VmName>,
    /// Memory in MiB, or with a unit (2G)
    #[arg(long, value_name = "SIZE", value_parser = parse_mib,
        required_unless_present_any = ["file", "template"])]
    pub memory: Option<u64>,
    /// The most it can have without a restart
    #[arg(long, value_name = "SIZE", value_parser = parse_mib)]
    pub max_memory: Option<u64>,
    /// Virtual CPUs
    #[arg(long, value_name = "N", required_unless_present_any = ["file", "template"])]
    pub vcpus: Option<u32>,
    /// The most it can have without a restart
    #[arg(long, value_name = "N")]
    pub max_vcpus: Option<u32>,
    /// A new disk of so many GiB: SIZE[,pool=,volume=,format=,bus=,cache=,io=,discard=,iothread=,
    /// serial=,target=,boot-order=]
    #[arg(long, value_name = "SIZE", value_parser = spec::new_disk)]
    pub disk: Vec<DiskRequest>,
    /// An existing volume as a disk: POOL/VOLUME[,bus=,serial=,boot-order=,read-only]
    #[arg(long, value_name = "VOLUME", value_parser = spec::attached_disk)]
    pub attach: Vec<DiskRequest>,
    /// A copy of a volume as a disk: POOL/VOLUME[,linked,size=,pool=,volume=,bus=,...]
    #[arg(long, value_name = "VOLUME", value_parser = spec::cloned_disk)]
    pub clone: Vec<DiskRequest>,
    /// A volume in a CD drive: POOL/VOLUME
    #[arg(long, value_name = "VOLUME", value_parser = spec::cdrom)]
    pub cdrom: Vec<DiskRequest>,
    /// An image of the ISO library in a CD drive, by id or name
    #[arg(long, value_name = "IMAGE", value_parser = spec::iso)]
    pub iso: Vec<DiskRequest>,
    /// A drive without a medium: cdrom or floppy
    #[arg(long, value_name = "DRIVE", value_parser = spec::drive)]
    pub drive: Vec<DiskRequest>,
    /// The pool of new disks that name none
    #[arg(long)]
    pub pool: Option<ResourceName>,
    /// A NIC: NETWORK, bridge:NAME, direct:DEVICE or user, with [,model=,mac=,mode=,vlan=,inbound=,
    /// outbound=,isolated,link=,boot-order=]; none for none
    #[arg(long, visible_alias = "nic", value_name = "NIC")]
    pub network: Vec<String>,
    /// The kind of guest, such as linux or windows
    #[arg(long, value_name = "WORD")]
    pub os_type: Option<String>,
    /// The libosinfo id of the guest, such as debian12
    #[arg(long, visible_alias = "os-variant", value_name = "ID")]
    pub variant: Option<String>,
    /// The host's own if absent
    #[arg(long)]
    pub arch: Option<ResourceName>,
    /// libvirt's preferred one if absent
    #[arg(long)]
    pub machine: Option<ResourceName>,
    /// bios or efi
    #[arg(long, value_parser = spec::word::<Firmware>)]
    pub firmware: Option<Firmware>,
    /// UEFI with Secure Boot
    #[arg(long)]
    pub secure_boot: bool,
    /// Whether Secure Boot is in force from the start, with the usual keys: yes (if absent) or no
    #[arg(long, value_name = "YES|NO", requires = "secure_boot", value_parser = spec::yes_no)]
    pub enrolled_keys: Option<bool>,
    /// An emulated TPM 2.0: tpm-crb or tpm-tis, or what suits the machine
    #[arg(long, value_name = "MODEL", num_args = 0..=1, require_equals = true,
        default_missing_value = "yes", value_parser = spec::tpm)]
    pub tpm: Option<TpmRequest>,
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
    /// vnc, spice, egl-headless or none; repeat it for several
    #[arg(long, value_parser = spec::word::<GraphicsType>)]
    pub graphics: Vec<GraphicsType>,
    #[command(flatten)]
    pub hardware: HardwareArgs,
    /// One line for people
    #[arg(long)]
    pub title: Option<String>,
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
    /// Read the body from a YAML, JSON or .toml file, - for stdin; options given besides win
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<String>,
    /// Make it of a template; options given besides win over the template's settings
    #[arg(long, value_name = "TEMPLATE")]
    pub template: Option<String>,
    /// Copy the template's images instead of sharing what is not written
    #[arg(long, requires = "template")]
    pub full: bool,
    /// A file with an Ignition config, - for stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = super::create_cloud_init::OPTIONS)]
    pub ignition: Option<String>,
    #[command(flatten)]
    pub cloud_init: CloudInitArgs,
    #[command(flatten)]
    pub change: ChangeArgs,
}

impl CreateArgs {
    /// Whether something besides disks may be made in a pool.
    fn may_need_a_pool(&self) -> bool {
        self.file.is_some()
            || self.template.is_some()
            || self.ignition.is_some()
            || self.cloud_init.is_given()
    }
}

/// Creates.
pub async fn run(cx: &mut Context, args: &CreateArgs) -> Result<()> {
    let given = spec::read_body(cx, args.file.as_deref())?;
    let mut options = body(cx, args)?;
    if let Some(cloud_init) = args.cloud_init.body(cx)? {
        options["cloud_init"] = cloud_init;
    }
    if let Some(file) = &args.ignition {
        options["ignition"] = spec::read_file(cx, file)?.into();
    }
    let mut body = spec::overlay(given, options);
    let name = body.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let request = match &args.template {
        Some(template) => {
            body["template"] = template.as_str().into();
            body["linked"] = (!args.full).into();
            Request::new(Method::POST, format!("{VMS}/from-template"))
        }
        None => Request::new(Method::POST, VMS),
    };
    let request = request.json(&body);
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
fn body(cx: &mut Context, args: &CreateArgs) -> Result<Value> {
    let mut request = CreateVm {
        name: args.name.clone(),
        title: args.title.clone(),
        description: args.description.clone(),
        memory: args.memory,
        max_memory: args.max_memory,
        vcpus: args.vcpus,
        max_vcpus: args.max_vcpus,
        os_type: args.os_type.clone(),
        graphics: (!args.graphics.is_empty()).then(|| {
            args.graphics.iter().map(|r#type| GraphicsRequest { r#type: *r#type }).collect()
        }),
        labels: (!args.label.is_empty())
            .then(|| args.label.iter().cloned().collect::<BTreeMap<_, _>>()),
        autostart: args.autostart.then_some(true),
        start: args.start.then_some(true),
        networks: nics(&args.network)?,
        tpm: args.tpm,
        ..CreateVm::default()
    };
    storage(args, &mut request)?;
    args.hardware.add(cx, &mut request)?;
    let direct_boot = args.kernel.clone().map(|kernel| DirectBoot {
        kernel,
        initrd: args.initrd.clone(),
        cmdline: args.cmdline.clone(),
    });
    let installs = !(args.cdrom.is_empty() && args.iso.is_empty()) && direct_boot.is_none();
    let os = OsRequest {
        r#type: None,
        variant: args.variant.clone(),
        architecture: args.arch.clone(),
        machine: args.machine.clone(),
        firmware: args.firmware,
        secure_boot: args.secure_boot.then_some(true),
        enrolled_keys: args.enrolled_keys,
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
    let lists = [&args.disk, &args.clone, &args.attach, &args.cdrom, &args.iso, &args.drive];
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
            && disk.target.is_none()
            && disk.cache.is_none()
            && disk.io.is_none()
            && disk.discard.is_none()
            && disk.iothread.is_none()
            && disk.device == DiskDevice::Disk
    };
    match disks.as_slice() {
        [] if args.pool.is_some() && !args.may_need_a_pool() => {
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
