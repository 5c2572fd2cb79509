//! The host itself.

use virt::enumutil::Enum;
use virt::error::ErrorNumber;

use super::error::What;
use super::session::{Session, without_nul};
use crate::error::Result;
use crate::model::vm_request::PciAddress;

/// Versions, as `11.3.0`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// The libvirt that serves the connection.
    pub libvirt: String,
    /// The hypervisor; `None` if libvirt does not know one.
    pub hypervisor: Option<String>,
    /// The libvirt library in this process.
    pub library: String,
}

/// The host's processors and memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    pub cpu_model: String,
    /// KiB.
    pub memory_kib: u64,
    /// Active processors.
    pub cpus: u32,
    /// 0 if unknown.
    pub mhz: u32,
    pub numa_nodes: u32,
    pub sockets_per_node: u32,
    pub cores_per_socket: u32,
    pub threads_per_core: u32,
    pub hostname: String,
}

/// libvirt packs a version as major * 1,000,000 + minor * 1,000 + release.
pub(super) fn version_text(packed: u32) -> String {
    format!("{}.{}.{}", packed / 1_000_000, packed / 1_000 % 1_000, packed % 1_000)
}

/// The versions that serve this connection.
pub fn versions(session: &Session) -> Result<Versions> {
    Ok(Versions {
        libvirt: version_text(session.libvirt_version()),
        hypervisor: session
            .connect()
            .hyp_version()
            .ok()
            .filter(|packed| *packed > 0)
            .map(version_text),
        library: virt::connect::Connect::version().map(version_text).unwrap_or_default(),
    })
}

/// Whether libvirt knows a PCI device (`virNodeDeviceLookupByName`).
pub fn has_pci_device(session: &Session, address: PciAddress) -> Result<bool> {
    let PciAddress { domain, bus, slot, function } = address;
    let name = format!("pci_{domain:04x}_{bus:02x}_{slot:02x}_{function:x}");
    match session.connect().lookup_node_device_by_name(&name) {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Enum::Known(ErrorNumber::NoNodeDevice) => Ok(false),
        // Drivers without node devices have none.
        Err(error) if error.code() == Enum::Known(ErrorNumber::NoSupport) => Ok(false),
        Err(error) => Err(session.failed("look up a device of", What::Host)(error)),
    }
}

/// `virConnectGetCapabilities`.
pub fn capabilities_xml(session: &Session) -> Result<String> {
    session.connect().capabilities().map_err(session.failed("read the capabilities of", What::Host))
}

/// `virConnectGetDomainCapabilities`; `None` leaves the choice to libvirt.
///
/// # Errors
/// `NotSupported` if the driver has none, `LibvirtRefused` if the combination does not exist.
pub fn domain_capabilities_xml(
    session: &Session,
    emulator: Option<&str>,
    arch: Option<&str>,
    machine: Option<&str>,
    virt_type: Option<&str>,
) -> Result<String> {
    let named =
        [("emulator", emulator), ("arch", arch), ("machine", machine), ("virt_type", virt_type)];
    for (field, text) in named {
        without_nul(field, text.unwrap_or_default())?;
    }
    session
        .connect()
        .domain_capabilities(emulator, arch, machine, virt_type, 0)
        .map_err(session.failed("read the domain capabilities of", What::Host))
}

/// The host's processors, memory and name.
pub fn node_info(session: &Session) -> Result<NodeInfo> {
    let failed = |error| session.failed("read", What::Host)(error);
    let info = session.connect().node_info().map_err(failed)?;
    Ok(NodeInfo {
        cpu_model: info.model,
        memory_kib: info.memory,
        cpus: info.cpus,
        mhz: info.mhz,
        numa_nodes: info.nodes,
        sockets_per_node: info.sockets,
        cores_per_socket: info.cores,
        threads_per_core: info.threads,
        hostname: session.connect().hostname().map_err(failed)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_version_is_unpacked() {
        assert_eq!(version_text(11_003_000), "11.3.0");
        assert_eq!(version_text(9_000_012), "9.0.12");
    }
}
