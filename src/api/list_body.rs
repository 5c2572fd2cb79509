//! The body of a long list, written piece by piece from the bytes that the inventory holds anyway:
//! however slowly a client reads, it costs one chunk and not a copy of the list.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

/// What is copied and handed to the connection at once.
const CHUNK: usize = 256 << 10;

/// `head`, the items with commas between them, `tail`.
pub struct ListBody {
    head: Option<Bytes>,
    items: std::vec::IntoIter<Bytes>,
    is_first: bool,
    tail: Option<Bytes>,
    left: usize,
}

impl ListBody {
    /// A body of known length.
    pub fn new(head: Bytes, items: Vec<Bytes>, tail: Bytes) -> Self {
        let commas = items.len().saturating_sub(1);
        let content: usize = items.iter().map(Bytes::len).sum();
        ListBody {
            left: head.len() + content + commas + tail.len(),
            head: Some(head),
            items: items.into_iter(),
            is_first: true,
            tail: Some(tail),
        }
    }

    fn next_piece(&mut self, chunk: &mut BytesMut) -> bool {
        if let Some(head) = self.head.take() {
            chunk.put(head);
        } else if let Some(item) = self.items.next() {
            if !std::mem::take(&mut self.is_first) {
                chunk.put_u8(b',');
            }
            chunk.put(item);
        } else if let Some(tail) = self.tail.take() {
            chunk.put(tail);
        } else {
            return false;
        }
        true
    }
}

impl Body for ListBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut chunk = BytesMut::with_capacity(self.left.min(CHUNK + CHUNK / 8));
        while chunk.len() < CHUNK && self.next_piece(&mut chunk) {}
        if chunk.is_empty() {
            return Poll::Ready(None);
        }
        self.left -= chunk.len();
        Poll::Ready(Some(Ok(Frame::data(chunk.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn body(items: &[&'static str]) -> ListBody {
        let items = items.iter().map(|item| Bytes::from_static(item.as_bytes())).collect();
        ListBody::new(Bytes::from_static(b"["), items, Bytes::from_static(b"]"))
    }

    #[tokio::test]
    async fn the_pieces_make_the_whole_and_its_length_is_told() {
        for (items, whole) in [(&[][..], "[]"), (&["1"], "[1]"), (&["1", "22", "3"], "[1,22,3]")] {
            let body = body(items);
            assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
            assert_eq!(body.collect().await.unwrap().to_bytes(), whole);
        }
    }

    #[tokio::test]
    async fn a_long_list_comes_in_chunks() {
        let item = Bytes::from(vec![b'x'; 3000]);
        let mut body = ListBody::new(Bytes::new(), vec![item; 1000], Bytes::new());
        let (mut total, mut most) = (0, 0);
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            most = most.max(data.len());
            total += data.len();
        }
        assert_eq!(total, 3000 * 1000 + 999);
        assert!(most <= CHUNK + 3001, "{most}");
        assert!(body.is_end_stream());
    }
}
