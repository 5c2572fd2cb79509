//! What `vapor vm update` says of the machine, processors, memory and devices.

use clap::Args;

use super::spec;
use crate::model::firmware::Firmware;
use crate::model::vm_request::{
    ClockRequest, CpuPin, CpuRequest, FilesystemRequest, GraphicsRequest, GraphicsType,
    MemoryRequest, PciAddress, SoundModel, VsockRequest, WatchdogRequest,
};
use crate::model::vm_update::{UpdateDevices, UpdateDirectBoot, UpdateOs};
use crate::model::{ResourceName, TpmRequest, UpdateVm, VolumeRef};

/// Hardware beyond disks and NICs; with the next boot, unless it says otherwise.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Hardware")]
pub struct HardwareChange {
    /// host-passthrough, host-model, maximum or a CPU model, with [,sockets=,dies=,cores=,threads=,
    /// +FEATURE,-FEATURE]
    #[arg(long, value_name = "CPU", value_parser = spec::cpu)]
    pub cpu: Option<CpuRequest>,
    /// Where a virtual CPU runs, at once: VCPU=CPUS, such as 0=2-3; those not named run everywhere
    #[arg(long, value_name = "PIN", value_parser = spec::pin, conflicts_with = "unpin")]
    pub pin: Vec<CpuPin>,
    /// Let all virtual CPUs run everywhere, at once
    #[arg(long)]
    pub unpin: bool,
    /// Keep the memory in huge pages
    #[arg(long, value_name = "yes|no", value_parser = spec::yes_no)]
    pub hugepages: Option<bool>,
    /// Keep the memory where other processes may map it
    #[arg(long, value_name = "yes|no", value_parser = spec::yes_no)]
    pub shared_memory: Option<bool>,
    /// Whether the memory can shrink and grow while the guest runs
    #[arg(long, value_name = "yes|no", value_parser = spec::yes_no)]
    pub balloon: Option<bool>,
    /// Another version of the same machine type
    #[arg(long, value_name = "MACHINE")]
    pub machine: Option<ResourceName>,
    /// efi instead of bios
    #[arg(long, value_name = "FIRMWARE", value_parser = spec::word::<Firmware>)]
    pub firmware: Option<Firmware>,
    /// UEFI with Secure Boot
    #[arg(long, value_name = "yes|no", value_parser = spec::yes_no)]
    pub secure_boot: Option<bool>,
    /// An emulated TPM: yes, or its model
    #[arg(long, value_name = "TPM", value_parser = spec::tpm)]
    pub tpm: Option<TpmRequest>,
    /// What the clock shows: utc, localtime or a time zone
    #[arg(long, value_name = "CLOCK", value_parser = spec::clock)]
    pub clock: Option<ClockRequest>,
    /// All consoles: vnc, spice, egl-headless or none; repeat it for several
    #[arg(long, value_name = "TYPE", value_parser = spec::word::<GraphicsType>)]
    pub graphics: Vec<GraphicsType>,
    /// The model of the video device
    #[arg(long, value_name = "MODEL")]
    pub video: Option<ResourceName>,
    /// A sound device: ich9, ich6, ac97, usb, virtio or none
    #[arg(long, value_name = "MODEL", value_parser = spec::word::<SoundModel>)]
    pub sound: Option<SoundModel>,
    /// A watchdog: default, itco, i6300esb or none, with [,action=]
    #[arg(long, value_name = "MODEL", value_parser = spec::watchdog)]
    pub watchdog: Option<WatchdogRequest>,
    /// A random number generator or none: yes or no
    #[arg(long, value_name = "yes|no", value_parser = spec::yes_no)]
    pub rng: Option<bool>,
    /// A socket between host and guest: auto or a context id
    #[arg(long, value_name = "CID", value_parser = spec::vsock)]
    pub vsock: Option<VsockRequest>,
    /// All directories of the host that are shared: DIRECTORY:TAG[,read-only], or none; repeat it for
    /// several
    #[arg(long, value_name = "SHARE", value_parser = spec::or_none(spec::filesystem))]
    pub filesystem: Vec<spec::OrNone<FilesystemRequest>>,
    /// All PCI devices of the host, such as 0000:03:00.0, or none; repeat it for several
    #[arg(long, value_name = "ADDRESS", value_parser = spec::or_none(spec::pci))]
    pub pci: Vec<spec::OrNone<PciAddress>>,
    /// The system that is installed, as libosinfo calls it; empty to take it away
    #[arg(long, visible_alias = "os-variant", value_name = "ID")]
    pub variant: Option<String>,
    /// Boot this kernel directly: POOL/VOLUME; none for the boot loader
    #[arg(long, value_name = "VOLUME", value_parser = spec::or_none(spec::volume))]
    pub kernel: Option<spec::OrNone<VolumeRef>>,
    /// The initial RAM disk for --kernel: POOL/VOLUME
    #[arg(long, value_name = "VOLUME", requires = "kernel", value_parser = spec::volume)]
    pub initrd: Option<VolumeRef>,
    /// The command line for --kernel
    #[arg(long, requires = "kernel", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
}

/// What replaces a list: nothing if it is not spoken of, and an empty one for `none`.
fn whole<T: Clone>(said: &[spec::OrNone<T>]) -> Option<Vec<T>> {
    (!said.is_empty()).then(|| said.iter().flatten().cloned().collect())
}

impl HardwareChange {
    /// A request with what is said here, and nothing else.
    pub fn request(&self) -> UpdateVm {
        let some = |wanted: bool| wanted.then_some(());
        let pins = some(self.unpin || !self.pin.is_empty()).map(|()| self.pin.clone());
        let cpu = some(self.cpu.is_some() || pins.is_some())
            .map(|()| CpuRequest { pinning: pins, ..self.cpu.clone().unwrap_or_default() });
        let memory = MemoryRequest {
            hugepages: self.hugepages,
            hugepage_size: None,
            shared: self.shared_memory,
            ballooning: self.balloon,
        };
        let os = UpdateOs {
            machine: self.machine.clone(),
            firmware: self.firmware,
            secure_boot: self.secure_boot,
            enrolled_keys: None,
            variant: self.variant.clone(),
            direct_boot: self.kernel.clone().map(|kernel| UpdateDirectBoot {
                kernel,
                initrd: self.initrd.clone(),
                cmdline: self.cmdline.clone(),
            }),
        };
        let said = os != UpdateOs::default();
        let devices = UpdateDevices {
            video: self.video.clone(),
            sound: self.sound,
            watchdog: self.watchdog.clone(),
            rng: self.rng,
            vsock: self.vsock.clone(),
            filesystems: whole(&self.filesystem),
            pci: whole(&self.pci),
        };
        let device = devices != UpdateDevices::default();
        let kinds = self.graphics.iter().map(|kind| GraphicsRequest { r#type: *kind });
        UpdateVm {
            os: some(said).map(|()| os),
            cpu,
            memory_options: some(memory != MemoryRequest::default()).map(|()| memory),
            clock: self.clock.clone(),
            devices: some(device).map(|()| devices),
            graphics: some(!self.graphics.is_empty()).map(|()| kinds.collect()),
            tpm: self.tpm,
            ..UpdateVm::default()
        }
    }
}
