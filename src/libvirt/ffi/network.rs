//! Network calls that the `virt` crate lacks.

use std::ffi::{CString, c_uint};
use std::ptr;

use virt::connect::Connect;
use virt::error::Error;
use virt::network::Network;
use virt::sys;

use super::{borrowed, free, last_error};

/// One DHCP lease as libvirt tells it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::libvirt) struct RawLease {
    pub(in crate::libvirt) mac: Option<String>,
    pub(in crate::libvirt) address: Option<String>,
    pub(in crate::libvirt) prefix: u32,
    pub(in crate::libvirt) hostname: Option<String>,
    pub(in crate::libvirt) client_id: Option<String>,
    pub(in crate::libvirt) iaid: Option<String>,
    /// Seconds since 1970; 0 or less for a lease that does not expire.
    pub(in crate::libvirt) expires: i64,
}

/// `virNetworkGetDHCPLeases` of every MAC address.
pub(in crate::libvirt) fn leases(network: &Network) -> Result<Vec<RawLease>, Error> {
    let mut leases: *mut sys::virNetworkDHCPLeasePtr = ptr::null_mut();
    // SAFETY: the network outlives the call; a null MAC means all; libvirt allocates the array.
    let count =
        unsafe { sys::virNetworkGetDHCPLeases(network.as_ptr(), ptr::null(), &mut leases, 0) };
    if count < 0 {
        return Err(last_error());
    }
    let mut all = Vec::new();
    for index in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: libvirt returned `count` leases whose texts are null or NUL-terminated; each is
        // freed once, after it was copied.
        unsafe {
            let pointer = *leases.add(index);
            let lease = &*pointer;
            all.push(RawLease {
                mac: borrowed(lease.mac),
                address: borrowed(lease.ipaddr),
                prefix: lease.prefix,
                hostname: borrowed(lease.hostname),
                client_id: borrowed(lease.clientid),
                iaid: borrowed(lease.iaid),
                expires: lease.expirytime,
            });
            sys::virNetworkDHCPLeaseFree(pointer);
        }
    }
    // SAFETY: the array itself is ours to free, and its elements are freed already.
    unsafe { free(leases.cast()) };
    Ok(all)
}

/// `virNetworkDefineXMLFlags`.
pub(in crate::libvirt) fn define(
    connect: &Connect,
    xml: &str,
    flags: c_uint,
) -> Result<Network, Error> {
    let xml = CString::new(xml)?;
    // SAFETY: connection and text outlive the call.
    let network = unsafe { sys::virNetworkDefineXMLFlags(connect.as_ptr(), xml.as_ptr(), flags) };
    if network.is_null() {
        return Err(last_error());
    }
    // SAFETY: not null, and the reference that libvirt returned is given to the object.
    Ok(unsafe { Network::from_ptr(network) })
}

/// `virNetworkListAllPorts`: the XML of every port.
pub(in crate::libvirt) fn ports(network: &Network) -> Result<Vec<String>, Error> {
    let mut ports: *mut sys::virNetworkPortPtr = ptr::null_mut();
    // SAFETY: the network outlives the call; libvirt allocates the array.
    let count = unsafe { sys::virNetworkListAllPorts(network.as_ptr(), &mut ports, 0) };
    if count < 0 {
        return Err(last_error());
    }
    let mut all = Vec::new();
    for index in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: libvirt returned `count` ports, each with a reference of ours, which is dropped
        // once. The text is ours to free after it was copied; a port that has gone meanwhile has
        // none.
        unsafe {
            let port = *ports.add(index);
            let xml = sys::virNetworkPortGetXMLDesc(port, 0);
            all.extend(borrowed(xml));
            free(xml.cast());
            sys::virNetworkPortFree(port);
        }
    }
    // SAFETY: the array itself is ours to free, and its elements are freed already.
    unsafe { free(ports.cast()) };
    Ok(all)
}
