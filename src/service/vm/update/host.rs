//! What this host can do for the VM that is changed, as far as libvirt told it of such a machine.

use std::path::PathBuf;

use super::super::draft::host::is_machine;
use crate::model::Vm;
use crate::model::host::{Capabilities, DomainCapabilities, GuestCapabilities};
use crate::service::inventory::Picture;

/// Capabilities, where they are known and are of the VM's architecture.
pub(super) struct Host<'a> {
    pub(super) picture: &'a Picture,
    /// In which directories lies what guests may share.
    pub(super) shareable: &'a [PathBuf],
    pub(super) capabilities: Option<&'a Capabilities>,
    pub(super) guest: Option<&'a GuestCapabilities>,
    /// Of the machine that new VMs get.
    pub(super) preferred: Option<&'a DomainCapabilities>,
    /// The same, if this VM is such a machine.
    pub(super) same_machine: Option<&'a DomainCapabilities>,
}

impl<'a> Host<'a> {
    pub(super) fn of(picture: &'a Picture, shareable: &'a [PathBuf], vm: &Vm) -> Host<'a> {
        let capabilities = picture.capabilities.as_deref();
        let architecture = &vm.os.architecture;
        let guest = capabilities.and_then(|known| {
            known.guests.iter().find(|guest| guest.architecture == *architecture)
        });
        let preferred = capabilities
            .map(|known| &known.preferred)
            .filter(|known| known.architecture == *architecture);
        let same_machine = preferred.filter(|known| {
            guest.is_some_and(|guest| is_machine(guest, &vm.os.machine, &known.machine))
        });
        Host { picture, shareable, capabilities, guest, preferred, same_machine }
    }

    /// The buses that disks can sit on.
    pub(super) fn buses(&self) -> Option<&'a [String]> {
        self.same_machine.map(|known| known.disk_buses.as_slice())
    }
}
