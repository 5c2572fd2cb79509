//! Data of streams, whose functions in the `virt` crate take "would block" for a length.

use std::ffi::c_char;

use virt::error::Error;
use virt::stream::Stream;
use virt::sys;

use super::last_error;

/// `virStreamSend` until all of `data` is taken.
pub(in crate::libvirt) fn send_all(stream: &Stream, mut data: &[u8]) -> Result<(), Error> {
    while !data.is_empty() {
        // SAFETY: the stream outlives the call, and libvirt reads at most `len` bytes of the slice.
        let sent = unsafe {
            sys::virStreamSend(stream.as_ptr(), data.as_ptr().cast::<c_char>(), data.len())
        };
        match usize::try_from(sent) {
            // A blocking stream that takes nothing would be asked forever.
            Ok(0) | Err(_) => return Err(last_error()),
            Ok(sent) => data = data.get(sent..).unwrap_or_default(),
        }
    }
    Ok(())
}

/// `virStreamRecv` until `data` has `wanted` more bytes, or the stream ends; returns how many came. A
/// message of libvirtd's may carry next to nothing.
pub(in crate::libvirt) fn receive(
    stream: &Stream,
    data: &mut Vec<u8>,
    wanted: usize,
) -> Result<usize, Error> {
    data.reserve(wanted);
    let mut received = 0;
    while received < wanted {
        let room = data.spare_capacity_mut();
        let most = room.len().min(wanted - received);
        // SAFETY: the stream outlives the call, and libvirt writes at most `most` bytes into the
        // vector's memory, which has room for as many.
        let got = unsafe {
            sys::virStreamRecv(stream.as_ptr(), room.as_mut_ptr().cast::<c_char>(), most)
        };
        // -1 is a failure, -2 "would block", which a blocking stream never says.
        let Ok(got) = usize::try_from(got) else { return Err(last_error()) };
        if got == 0 {
            break;
        }
        // SAFETY: libvirt has written that many bytes, and no more than the vector has room for.
        unsafe { data.set_len(data.len() + got.min(most)) };
        received += got.min(most);
    }
    Ok(received)
}
