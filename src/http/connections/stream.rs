//! A TCP stream that its connection can close, that reads no more from a client which takes no answers, and that speaks for the
//! HTTP server where it refuses a request by itself.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Connection;
use crate::http::error::ApiError;
use crate::http::request::REQUEST_ID;

/// The most bytes that are read between two flushes. The server decodes all requests that it has read, and each takes memory: so
/// less is read of an unproven client, and a little more while a body is being read.
const UNPROVEN_READ: usize = 1 << 8;
const UNPROVEN_BODY_READ: usize = 4 << 10;
const PROVEN_READ: usize = 32 << 10;

/// A stream of a connection.
pub struct Stream {
    tcp: TcpStream,
    connection: Arc<Connection>,
    /// Bytes read since the last flush.
    read: usize,
    /// Whether bytes wait for the client to take some.
    is_stalled: bool,
    /// Whether a read was put off until the next flush.
    read_is_due: bool,
    /// What is sent in place of the server's own refusal, and how much of it is sent.
    refusal: Option<(Vec<u8>, usize)>,
}

impl Stream {
    /// A stream that was accepted.
    pub fn new(tcp: TcpStream, connection: Arc<Connection>) -> Self {
        Self { tcp, connection, read: 0, is_stalled: false, read_is_due: false, refusal: None }
    }

    /// The connection, for its requests.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    fn check_open(&self, context: &Context<'_>) -> io::Result<()> {
        self.connection.closing.register(context.waker());
        if self.connection.is_closed.load(Ordering::Relaxed) { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    /// How many bytes may be read now.
    fn allowance(&self) -> usize {
        let most = if self.connection.is_proven.load(Ordering::Relaxed) {
            PROVEN_READ
        } else if self.connection.requests.load(Ordering::Relaxed) > 0 {
            UNPROVEN_BODY_READ
        } else {
            UNPROVEN_READ
        };
        most.saturating_sub(self.read)
    }

    fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(context, bytes);
        match &written {
            Poll::Pending => {
                self.connection.note_stall(!self.is_stalled);
                self.is_stalled = true;
            }
            Poll::Ready(_) => self.is_stalled = false,
        }
        written
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        stream.check_open(context)?;
        let allowance = stream.allowance();
        if stream.is_stalled || !stream.connection.is_reading() {
            // Nothing is taken, but the end of a connection cancels its request.
            let bytes = ready!(stream.tcp.poll_peek(context, &mut ReadBuf::new(&mut [0])))?;
            if bytes > 0 {
                stream.read_is_due = true;
                return Poll::Pending;
            }
        }
        if allowance == 0 {
            stream.read = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = if allowance >= buffer.remaining() {
            Pin::new(&mut stream.tcp).poll_read(context, buffer)
        } else {
            let mut part = ReadBuf::new(buffer.initialize_unfilled_to(allowance));
            let read = Pin::new(&mut stream.tcp).poll_read(context, &mut part);
            let length = part.filled().len();
            buffer.advance(length);
            read
        };
        stream.read += buffer.filled().len() - before;
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        stream.check_open(context)?;
        if stream.refusal.is_none()
            && let Some(error) = refusal(bytes)
        {
            stream.refusal = Some((error.bare_response(), 0));
        }
        let Some((refusal, sent)) = stream.refusal.take() else { return stream.poll_send(context, bytes) };
        let written = stream.poll_send(context, refusal.get(sent..).unwrap_or_default())?;
        match written {
            Poll::Ready(length) if sent + length >= refusal.len() => Poll::Ready(Ok(bytes.len())),
            Poll::Ready(length) => {
                stream.refusal = Some((refusal, sent + length));
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => {
                stream.refusal = Some((refusal, sent));
                Poll::Pending
            }
        }
    }

    /// Called by the server whenever all that it has to send is written.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let flushed = Pin::new(&mut stream.tcp).poll_flush(context)?;
        if flushed.is_ready() {
            stream.connection.note_flush();
            stream.read = 0;
            if std::mem::take(&mut stream.read_is_due) {
                context.waker().wake_by_ref();
            }
        }
        flushed.map(Ok)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(context)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.connections.forget(&self.connection);
    }
}

/// The server's own refusal of a request: a head without a body, and without the id that each answer of a route has.
fn refusal(bytes: &[u8]) -> Option<ApiError> {
    let status = bytes.strip_prefix(b"HTTP/1.1 ").or_else(|| bytes.strip_prefix(b"HTTP/1.0 "))?.get(..3)?;
    let error = match status {
        b"400" => ApiError::MalformedRequest,
        b"408" => ApiError::RequestTimeout,
        b"431" => ApiError::HeadTooLarge,
        _ => return None,
    };
    let head = std::str::from_utf8(bytes).ok()?.strip_suffix("\r\n\r\n")?;
    let has_id = head.lines().any(|line| line.split_once(':').is_some_and(|(name, _)| name.eq_ignore_ascii_case(REQUEST_ID.as_str())));
    (!has_id && !head.contains("\r\n\r\n")).then_some(error)
}
