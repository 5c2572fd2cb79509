//! A connection's bytes: which protocol they speak, and an end for those who never read.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How every HTTP/2 connection begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a new connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
    /// It ended before it said anything.
    Nothing,
}

/// A stream whose first bytes have been looked at, and whose writes fail when the other side takes
/// nothing for as long as `stall`.
pub struct Connection<S> {
    seen: Bytes,
    inner: S,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Reads as many bytes as it takes to tell the protocol.
    ///
    /// # Errors
    /// `TimedOut` if that takes longer than `patience`; whatever reading fails with.
    pub async fn open(
        mut inner: S,
        patience: Duration,
        stall: Duration,
    ) -> io::Result<(Self, Protocol)> {
        let mut seen = BytesMut::with_capacity(4096);
        let telling = async {
            loop {
                if inner.read_buf(&mut seen).await? == 0 {
                    let nothing = seen.is_empty();
                    let told = if nothing { Protocol::Nothing } else { Protocol::Http1 };
                    return io::Result::Ok(told);
                }
                let compared = seen.len().min(PREFACE.len());
                if seen[..compared] != PREFACE[..compared] {
                    return Ok(Protocol::Http1);
                }
                if compared == PREFACE.len() {
                    return Ok(Protocol::Http2);
                }
            }
        };
        let protocol = tokio::time::timeout(patience, telling)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        Ok((Self { seen: seen.freeze(), inner, stall, stalled: None }, protocol))
    }
}

impl<S: Unpin> Connection<S> {
    /// Starts the clock while the other side takes nothing; stops it when it does.
    fn watch<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stalled = None;
            return poll;
        }
        let deadline = Instant::now() + self.stall;
        let sleep =
            self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.seen.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let taken = self.seen.len().min(buf.remaining());
        buf.put_slice(&self.seen[..taken]);
        self.seen.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watch(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(200);

    async fn told(bytes: &[u8]) -> (Protocol, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(bytes).await.unwrap();
        drop(client);
        let (mut connection, protocol) =
            Connection::open(server, PATIENCE, PATIENCE).await.unwrap();
        let mut all = Vec::new();
        connection.read_to_end(&mut all).await.unwrap();
        (protocol, all)
    }

    #[tokio::test]
    async fn the_protocol_is_told_and_no_byte_is_lost() {
        assert_eq!(
            told(b"GET / HTTP/1.1\r\n").await,
            (Protocol::Http1, b"GET / HTTP/1.1\r\n".into())
        );
        assert_eq!(told(PREFACE).await, (Protocol::Http2, PREFACE.to_vec()));
        assert_eq!(told(b"PRI * HTTP/1").await.0, Protocol::Http1);
        assert_eq!(told(b"").await.0, Protocol::Nothing);
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_is_not_waited_for_forever() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"PRI").await.unwrap();
        let refused = Connection::open(server, PATIENCE, PATIENCE).await.err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_never_reads_is_given_up() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"GET").await.unwrap();
        let (mut connection, _) = Connection::open(server, PATIENCE, PATIENCE).await.unwrap();
        let error = connection.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
