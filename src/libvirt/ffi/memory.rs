//! The C library's allocator, which libvirt's replies and everything made of them come from.
//!
//! By default each thread gets an arena of its own, and what one thread frees no other uses: with
//! the daemon's many threads a few large lists leave tens of MiB behind. Two arenas are enough for
//! what runs at once, and what a bulk reply has left is given back.

use nix::libc;

/// Arenas for all threads together.
const ARENAS: i32 = 2;

/// Limits the arenas; to be called before the first thread is started.
pub(in crate::libvirt) fn few_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers and changes only the allocator's own settings.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

/// Gives memory that is free back to the system; takes some milliseconds.
pub(in crate::libvirt) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time from any thread; it touches only free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}
