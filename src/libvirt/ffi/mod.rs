//! Everything `unsafe` of the house: the libvirt calls that the `virt` crate lacks or gets wrong.
//!
//! Called by the other modules of the libvirt room. Each function takes the crate's safe objects by
//! reference, copies what libvirt returns into owned Rust values, frees libvirt's memory and reads
//! the error of the calling thread before anything else can overwrite it.
//!
//! Only symbols of libvirt 9.0 and older may be named here: a newer one would make the binary refuse
//! to start where it is missing.

pub(super) mod backup;
pub(super) mod domain;
pub(super) mod event_loop;
pub(super) mod events;
mod init;
pub(super) mod memory;
pub(super) mod network;
pub(super) mod pool;
pub(super) mod stream;
pub(super) mod typed;

pub(super) use init::{event_loop_silence, initialise};

use std::ffi::{CStr, c_char, c_void};

use nix::libc;

/// Copies a C string that libvirt keeps.
///
/// # Safety
/// `text` is null or points to a NUL-terminated string that stays valid during the call.
unsafe fn borrowed(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, and the caller promises a valid NUL-terminated string.
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// Frees memory that libvirt allocated for its caller.
///
/// # Safety
/// `memory` is null or was allocated by libvirt for the caller to free, and is not used again.
unsafe fn free(memory: *mut c_void) {
    // SAFETY: libvirt documents such memory as "to be freed by the caller" with free(3), and the
    // caller of this function promises that nobody uses it again.
    unsafe { libc::free(memory) }
}

/// The last error of this thread, to be read right after the call that failed.
fn last_error() -> virt::error::Error {
    virt::error::Error::last_error()
}
