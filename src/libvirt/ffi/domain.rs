//! Domain calls that the `virt` crate lacks, leaks in, or drops the error of.

use std::ffi::{CString, c_int, c_uint};
use std::ptr;
use std::time::Duration;

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

use super::typed::Params;
use super::{borrowed, free, last_error};

/// `virConnectGetAllDomainStats`: each domain with the statistics of `groups`
/// (`VIR_DOMAIN_STATS_*`), in one call.
pub(in crate::libvirt) fn all_stats(
    connect: &Connect,
    groups: u32,
    flags: u32,
) -> Result<Vec<(Domain, Params)>, Error> {
    let mut records: *mut sys::virDomainStatsRecordPtr = ptr::null_mut();
    // SAFETY: the connection outlives the call; libvirt fills `records` with an array it allocates.
    let count = unsafe {
        sys::virConnectGetAllDomainStats(connect.as_ptr(), groups as c_uint, &mut records, flags)
    };
    if count < 0 {
        return Err(last_error());
    }
    let mut all = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
    for index in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: libvirt returned `count` records, each with a valid domain and `nparams`
        // parameters. The list owns one reference of the domain, which freeing the list drops;
        // virDomainRef takes a second one for the object that leaves here.
        unsafe {
            let record = &**records.add(index);
            let params = Params::read(record.params, record.nparams);
            if sys::virDomainRef(record.dom) == 0 {
                all.push((Domain::from_ptr(record.dom), params));
            }
        }
    }
    // SAFETY: the list came from virConnectGetAllDomainStats and is not used again.
    unsafe { sys::virDomainStatsRecordListFree(records) };
    Ok(all)
}

/// `virDomainGetState`: libvirt's numbers for state and reason.
pub(in crate::libvirt) fn state(domain: &Domain) -> Result<(i32, i32), Error> {
    let (mut state, mut reason): (c_int, c_int) = (0, 0);
    // SAFETY: the domain outlives the call; both out-pointers are valid for it.
    let done = unsafe { sys::virDomainGetState(domain.as_ptr(), &mut state, &mut reason, 0) };
    if done < 0 { Err(last_error()) } else { Ok((state, reason)) }
}

/// `virDomainGetControlInfo`: how long QEMU's monitor has been busy with one command of libvirt's, or
/// `None` if it is idle. Reads libvirt's memory and waits for nothing.
pub(in crate::libvirt) fn monitor_busy(domain: &Domain) -> Result<Option<Duration>, Error> {
    let mut info = sys::virDomainControlInfo { state: 0, details: 0, stateTime: 0 };
    // SAFETY: domain and structure outlive the call.
    let done = unsafe { sys::virDomainGetControlInfo(domain.as_ptr(), &mut info, 0) };
    if done < 0 {
        return Err(last_error());
    }
    let busy = info.state == sys::VIR_DOMAIN_CONTROL_OCCUPIED;
    Ok(busy.then(|| Duration::from_millis(info.stateTime)))
}

/// `virDomainGetBlockInfo`: capacity, allocation and physical size in bytes.
pub(in crate::libvirt) fn block_info(
    domain: &Domain,
    target: &str,
) -> Result<(u64, u64, u64), Error> {
    let target = CString::new(target)?;
    let mut info = sys::virDomainBlockInfo { capacity: 0, allocation: 0, physical: 0 };
    // SAFETY: domain, string and structure outlive the call.
    let done =
        unsafe { sys::virDomainGetBlockInfo(domain.as_ptr(), target.as_ptr(), &mut info, 0) };
    if done < 0 { Err(last_error()) } else { Ok((info.capacity, info.allocation, info.physical)) }
}

/// `virDomainGetJobStats`: the kind of job (`VIR_DOMAIN_JOB_*`) and its numbers.
pub(in crate::libvirt) fn job_stats(domain: &Domain, flags: u32) -> Result<(u32, Params), Error> {
    let (mut kind, mut count): (c_int, c_int) = (0, 0);
    let mut params: sys::virTypedParameterPtr = ptr::null_mut();
    // SAFETY: the domain outlives the call; libvirt allocates the array and sets its length.
    let done = unsafe {
        sys::virDomainGetJobStats(domain.as_ptr(), &mut kind, &mut params, &mut count, flags)
    };
    if done < 0 {
        return Err(last_error());
    }
    // SAFETY: libvirt gave us `count` parameters to own.
    let params = unsafe { Params::take(params, count) };
    Ok((u32::try_from(kind).unwrap_or(0), params))
}

/// `virDomainAbortJob`.
pub(in crate::libvirt) fn abort_job(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain outlives the call.
    let done = unsafe { sys::virDomainAbortJob(domain.as_ptr()) };
    if done < 0 { Err(last_error()) } else { Ok(()) }
}

/// `virDomainAgentSetResponseTimeout`: how long libvirt waits for this domain's agent, in seconds.
pub(in crate::libvirt) fn set_agent_timeout(domain: &Domain, seconds: i32) -> Result<(), Error> {
    // SAFETY: the domain outlives the call.
    let done = unsafe { sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), seconds, 0) };
    if done < 0 { Err(last_error()) } else { Ok(()) }
}

/// `virDomainGetGuestInfo` of the groups `VIR_DOMAIN_GUEST_INFO_*`.
pub(in crate::libvirt) fn guest_info(domain: &Domain, groups: u32) -> Result<Params, Error> {
    let mut count: c_int = 0;
    let mut params: sys::virTypedParameterPtr = ptr::null_mut();
    // SAFETY: the domain outlives the call; libvirt allocates the array and sets its length.
    let done =
        unsafe { sys::virDomainGetGuestInfo(domain.as_ptr(), groups, &mut params, &mut count, 0) };
    if done < 0 {
        return Err(last_error());
    }
    // SAFETY: libvirt gave us `count` parameters to own.
    Ok(unsafe { Params::take(params, count) })
}

/// One interface as `virDomainInterfaceAddresses` tells it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::libvirt) struct Interface {
    pub(in crate::libvirt) name: String,
    pub(in crate::libvirt) mac: Option<String>,
    /// Kind (`VIR_IP_ADDR_TYPE_*`), address and prefix.
    pub(in crate::libvirt) addresses: Vec<(i32, String, u32)>,
}

/// `virDomainInterfaceAddresses` from one of `VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_*`.
pub(in crate::libvirt) fn interface_addresses(
    domain: &Domain,
    source: u32,
) -> Result<Vec<Interface>, Error> {
    let mut interfaces: *mut sys::virDomainInterfacePtr = ptr::null_mut();
    // SAFETY: the domain outlives the call; libvirt fills `interfaces` with an array it allocates.
    let count =
        unsafe { sys::virDomainInterfaceAddresses(domain.as_ptr(), &mut interfaces, source, 0) };
    if count < 0 {
        return Err(last_error());
    }
    let mut all = Vec::new();
    for index in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: libvirt returned `count` interfaces, each with `naddrs` addresses; their strings
        // are null or NUL-terminated. Each interface is freed once, after it was copied.
        unsafe {
            let interface = *interfaces.add(index);
            all.push(copy_interface(&*interface));
            sys::virDomainInterfaceFree(interface);
        }
    }
    // SAFETY: the array itself is ours to free, and its elements are freed already.
    unsafe { free(interfaces.cast()) };
    Ok(all)
}

/// # Safety
/// `interface` was filled by libvirt and not freed.
unsafe fn copy_interface(interface: &sys::virDomainInterface) -> Interface {
    let mut addresses = Vec::new();
    if !interface.addrs.is_null() {
        // SAFETY: libvirt set `naddrs` to the number of elements behind `addrs`.
        let all = unsafe { std::slice::from_raw_parts(interface.addrs, interface.naddrs as usize) };
        for address in all {
            // SAFETY: the text is null or NUL-terminated.
            if let Some(text) = unsafe { borrowed(address.addr) } {
                addresses.push((address.type_, text, address.prefix));
            }
        }
    }
    // SAFETY: both texts are null or NUL-terminated.
    let (name, mac) = unsafe { (borrowed(interface.name), borrowed(interface.hwaddr)) };
    Interface { name: name.unwrap_or_default(), mac, addresses }
}
