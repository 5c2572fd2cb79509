//! Storage pool calls that the `virt` crate lacks.

use virt::connect::Connect;
use virt::error::Error;
use virt::sys;

use super::{borrowed, free, last_error};

/// `virConnectGetStoragePoolCapabilities`.
pub(in crate::libvirt) fn capabilities(connect: &Connect) -> Result<String, Error> {
    // SAFETY: the connection outlives the call; libvirt returns null or a text for us to free.
    let text = unsafe { sys::virConnectGetStoragePoolCapabilities(connect.as_ptr(), 0) };
    if text.is_null() {
        return Err(last_error());
    }
    // SAFETY: not null, NUL-terminated, and freed once, after it was copied.
    let copied = unsafe { borrowed(text) };
    // SAFETY: libvirt allocated it for its caller, and nobody uses it after this.
    unsafe { free(text.cast()) };
    Ok(copied.unwrap_or_default())
}
