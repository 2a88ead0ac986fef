//! A time limit for the beginning of a connection.
//!
//! The first bytes say which version of HTTP it is, and before that is known none of hyper's own
//! limits apply: a client that stops within them would keep its place for ever.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use tokio::time::{Sleep, sleep};

/// What HTTP/2 begins with (RFC 9113, 3.4); anything that differs is HTTP/1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream whose reads fail if its version of HTTP does not show in time.
pub(super) struct Greeting<S> {
    stream: S,
    /// How much of the preface has come, and until when the rest may; `None` once it is known.
    left: Option<(usize, Pin<Box<Sleep>>)>,
}

impl<S> Greeting<S> {
    /// Begins to wait, so long.
    pub(super) fn new(stream: S, time_max: Duration) -> Self {
        let left = Some((0, Box::pin(sleep(time_max))));
        Self { stream, left }
    }

    fn came(&mut self, bytes: &[u8]) {
        if let Some((seen, _)) = &mut self.left {
            let expected = &PREFACE[*seen..];
            *seen += bytes.len();
            let shown = bytes.len() >= expected.len() || !expected.starts_with(bytes);
            if shown {
                self.left = None;
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeting<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some((_, limit)) = &mut this.left
            && limit.as_mut().poll(cx).is_ready()
        {
            let text = "the client did not say which version of HTTP it speaks";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, into))?;
        this.came(&into.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeting<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    const TIME: Duration = Duration::from_millis(30);

    /// Whether a read still waits long after the time for the greeting, when these bytes have come.
    async fn goes_on_after(first: &[u8]) -> bool {
        let (mut client, server) = duplex(64);
        let mut server = Greeting::new(server, TIME);
        client.write_all(first).await.unwrap();
        let mut more = [0];
        for byte in first {
            if server.read_exact(&mut more).await.is_err() {
                return false;
            }
            assert_eq!(more[0], *byte);
        }
        tokio::time::timeout(10 * TIME, server.read_u8())
            .await
            .is_err()
    }

    #[tokio::test]
    async fn only_a_client_that_has_not_shown_its_version_is_cut_off() {
        assert!(!goes_on_after(b"").await);
        assert!(!goes_on_after(b"P").await);
        assert!(!goes_on_after(&PREFACE[..PREFACE.len() - 1]).await);
        assert!(goes_on_after(PREFACE).await);
        assert!(goes_on_after(b"G").await);
        assert!(goes_on_after(b"POST / HTTP/1.1\r\n").await);
    }
}
