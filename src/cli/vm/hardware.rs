//! What `vapor vm create` says of processors, memory and devices.

use clap::Args;

use super::super::context::Context;
use super::super::failure::Result;
use super::spec;
use crate::model::CreateVm;
use crate::model::ResourceName;
use crate::model::vm_request::{
    ClockRequest, CpuPin, CpuRequest, FilesystemRequest, NumaRequest, PciAddress, SoundModel,
    VsockRequest, WatchdogRequest,
};

/// Hardware beyond disks, NICs and consoles.
#[derive(Args, Debug, Default)]
pub struct HardwareArgs {
    /// host-passthrough, host-model, maximum or a CPU model, with [,sockets=,dies=,cores=,threads=,
    /// +FEATURE,-FEATURE]
    #[arg(long, value_name = "CPU", value_parser = spec::cpu)]
    pub cpu: Option<CpuRequest>,
    /// Where a virtual CPU runs: VCPU=CPUS, such as 0=2-3; repeat it for several
    #[arg(long, value_name = "PIN", value_parser = spec::pin)]
    pub pin: Vec<CpuPin>,
    /// A NUMA cell of the guest: CPUS:MEMORY, such as 0-1:2G; repeat it for several
    #[arg(long, value_name = "CELL", value_parser = spec::numa)]
    pub numa: Vec<NumaRequest>,
    /// Keep the memory in huge pages
    #[arg(long)]
    pub hugepages: bool,
    /// Keep the memory where other processes may map it
    #[arg(long)]
    pub shared_memory: bool,
    /// No balloon: the memory keeps its size
    #[arg(long)]
    pub no_balloon: bool,
    /// The model of the video device
    #[arg(long, value_name = "MODEL")]
    pub video: Option<ResourceName>,
    /// A sound device: ich9, ich6, ac97, usb or virtio
    #[arg(long, value_name = "MODEL", value_parser = spec::word::<SoundModel>)]
    pub sound: Option<SoundModel>,
    /// A watchdog: default, itco or i6300esb, with [,action=]
    #[arg(long, value_name = "MODEL", value_parser = spec::watchdog)]
    pub watchdog: Option<WatchdogRequest>,
    /// A random number generator or none: yes or no
    #[arg(long, value_name = "YES", value_parser = spec::yes_no)]
    pub rng: Option<bool>,
    /// A socket between host and guest: auto or a context id
    #[arg(long, value_name = "CID", value_parser = spec::vsock)]
    pub vsock: Option<VsockRequest>,
    /// A directory of the host shared with the guest: DIRECTORY:TAG[,read-only]
    #[arg(long, value_name = "SHARE", value_parser = spec::filesystem)]
    pub filesystem: Vec<FilesystemRequest>,
    /// A PCI device of the host, such as 0000:03:00.0
    #[arg(long, value_name = "ADDRESS", value_parser = spec::pci)]
    pub pci: Vec<PciAddress>,
    /// What the clock shows: utc, localtime or a time zone
    #[arg(long, value_name = "CLOCK", value_parser = spec::clock)]
    pub clock: Option<ClockRequest>,
    /// A file with a <domain> that is merged into the definition, - for stdin
    #[arg(long, value_name = "FILE")]
    pub custom_xml: Option<String>,
}

impl HardwareArgs {
    /// Adds to a request what is said here, and nothing else.
    pub fn add(&self, cx: &mut Context, request: &mut CreateVm) -> Result<()> {
        let some = |list: bool| list.then_some(());
        if self.cpu.is_some() || !self.pin.is_empty() || !self.numa.is_empty() {
            let cpu = request.cpu.insert(self.cpu.clone().unwrap_or_default());
            cpu.pinning = some(!self.pin.is_empty()).map(|()| self.pin.clone());
            cpu.numa = some(!self.numa.is_empty()).map(|()| self.numa.clone());
        }
        if self.hugepages || self.shared_memory || self.no_balloon {
            let memory = request.memory_options.get_or_insert_default();
            memory.hugepages = self.hugepages.then_some(true);
            memory.shared = self.shared_memory.then_some(true);
            memory.ballooning = self.no_balloon.then_some(false);
        }
        let wants_devices = self.video.is_some()
            || self.sound.is_some()
            || self.watchdog.is_some()
            || self.rng.is_some()
            || self.vsock.is_some()
            || !self.filesystem.is_empty()
            || !self.pci.is_empty();
        if wants_devices {
            let devices = request.devices.get_or_insert_default();
            devices.video = self.video.clone();
            devices.sound = self.sound;
            devices.watchdog = self.watchdog.clone();
            devices.rng = self.rng;
            devices.vsock = self.vsock.clone();
            devices.filesystems =
                some(!self.filesystem.is_empty()).map(|()| self.filesystem.clone());
            devices.pci = some(!self.pci.is_empty()).map(|()| self.pci.clone());
        }
        request.clock = self.clock.clone();
        if let Some(file) = &self.custom_xml {
            request.custom_xml = Some(spec::read_file(cx, file)?);
        }
        Ok(())
    }
}
