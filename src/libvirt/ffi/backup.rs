//! Backups and frozen guests, which the `virt` crate does not know.

use std::ffi::{CString, c_uint};
use std::ptr;

use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

use super::{borrowed, free, last_error};

/// `virDomainBackupBegin` without a checkpoint.
pub(in crate::libvirt) fn begin(domain: &Domain, xml: &str, flags: u32) -> Result<(), Error> {
    let xml = CString::new(xml)?;
    // SAFETY: domain and text outlive the call; no checkpoint is asked for.
    let done = unsafe {
        sys::virDomainBackupBegin(domain.as_ptr(), xml.as_ptr(), ptr::null(), flags as c_uint)
    };
    if done < 0 { Err(last_error()) } else { Ok(()) }
}

/// `virDomainBackupGetXMLDesc`: the backup under way.
pub(in crate::libvirt) fn describe(domain: &Domain) -> Result<String, Error> {
    // SAFETY: the domain outlives the call.
    let text = unsafe { sys::virDomainBackupGetXMLDesc(domain.as_ptr(), 0) };
    if text.is_null() {
        return Err(last_error());
    }
    // SAFETY: libvirt returned a NUL-terminated text that the caller frees; it is copied first.
    unsafe {
        let copy = borrowed(text).unwrap_or_default();
        free(text.cast());
        Ok(copy)
    }
}

/// `virDomainFSFreeze` of all file systems: how many are frozen.
pub(in crate::libvirt) fn freeze(domain: &Domain) -> Result<u32, Error> {
    // SAFETY: the domain outlives the call; no list of mount points means all of them.
    let count = unsafe { sys::virDomainFSFreeze(domain.as_ptr(), ptr::null_mut(), 0, 0) };
    u32::try_from(count).map_err(|_| last_error())
}

/// `virDomainFSThaw` of all file systems: how many are thawed.
pub(in crate::libvirt) fn thaw(domain: &Domain) -> Result<u32, Error> {
    // SAFETY: the domain outlives the call; no list of mount points means all of them.
    let count = unsafe { sys::virDomainFSThaw(domain.as_ptr(), ptr::null_mut(), 0, 0) };
    u32::try_from(count).map_err(|_| last_error())
}
