//! Buffers that a stream's two sides pass to and fro.
//!
//! A piece of a stream is larger than what the C library's allocator keeps at hand: made anew for
//! each, its pages would be mapped, cleared and unmapped some thousand times a second. A stream has
//! as few buffers as it has pieces under way, and each goes back when its reader lets go of it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// A stock of buffers of one size; cheap to clone. It lives as long as one of its buffers.
#[derive(Clone)]
pub(super) struct Buffers {
    capacity: usize,
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Buffers {
    /// An empty stock, of buffers of `capacity` bytes.
    pub(super) fn new(capacity: usize) -> Self {
        Buffers { capacity, idle: Arc::default() }
    }

    /// An empty buffer; a new one if none is idle.
    pub(super) fn take(&self) -> Buffer {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let data = idle.unwrap_or_else(|| Vec::with_capacity(self.capacity));
        Buffer { data, stock: self.clone() }
    }
}

/// A buffer that goes back to its stock.
pub(super) struct Buffer {
    data: Vec<u8>,
    stock: Buffers,
}

impl Buffer {
    pub(super) fn data(&self) -> &[u8] {
        &self.data
    }

    /// How many bytes it has room for.
    pub(super) fn room(&self) -> usize {
        self.stock.capacity - self.data.len()
    }

    /// What is to be filled; no more than [`Buffer::room`].
    pub(super) fn data_mut(&mut self) -> &mut Vec<u8> {
        &mut self.data
    }

    /// Takes as much of `data` as there is room for, and returns how much that is.
    pub(super) fn fill(&mut self, data: &[u8]) -> usize {
        let taken = data.get(..self.room()).unwrap_or(data);
        self.data.extend_from_slice(taken);
        taken.len()
    }

    /// The same bytes, shared; the buffer goes back with the last of them.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut data = std::mem::take(&mut self.data);
        data.clear();
        self.stock.idle.lock().unwrap_or_else(PoisonError::into_inner).push(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_once_its_last_reader_is_gone() {
        let stock = Buffers::new(8);
        let mut buffer = stock.take();
        assert_eq!((buffer.fill(b"0123456789"), buffer.room()), (8, 0));
        let place = buffer.data().as_ptr();
        let shared = buffer.freeze();
        let half = shared.slice(2..4);
        drop(shared);
        assert_ne!(stock.take().data().as_ptr(), place, "it is still being read");
        assert_eq!(half, Bytes::from_static(b"23"));
        drop(half);
        let again = stock.take();
        assert_eq!((again.data().as_ptr(), again.data().len()), (place, 0));
    }
}
