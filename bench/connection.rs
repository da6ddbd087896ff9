//! One HTTP/1.1 connection with one request under way at a time. The answer is read into one buffer and nothing is allocated,
//! so that little of the machine is spent on asking.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Room for the longest answers, so that one read takes a whole one.
const ROOM: usize = 64 << 10;

pub(crate) struct Connection {
    stream: TcpStream,
    /// The last answer.
    buffer: Vec<u8>,
    /// Where its head ends.
    head: usize,
}

/// How the end of an answer is known.
#[derive(Clone, Copy)]
enum End {
    /// At so many bytes.
    At(usize),
    /// By an empty chunk.
    Chunk,
}

impl Connection {
    /// `url` has neither a path nor TLS.
    pub(crate) async fn open(url: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(url.trim_start_matches("http://")).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(ROOM), head: 0 })
    }

    /// Sends a request and reads the whole answer, whose status this is.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let mut end = None;
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if end.is_none() {
                let Some(head) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
                self.head = head;
                end = Some(self.end());
            }
            let whole = match end {
                Some(End::At(length)) => self.buffer.len() >= length,
                Some(End::Chunk) => self.buffer.ends_with(b"\r\n0\r\n\r\n"),
                None => false,
            };
            if whole {
                return self.status().ok_or_else(|| io::ErrorKind::InvalidData.into());
            }
        }
    }

    /// A header of the last answer.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.buffer[..self.head].split(|byte| *byte == b'\n').skip(1);
        let value = |line: &'_ [u8]| {
            let (found, _) = line.split_at_checked(name.len())?;
            (found.eq_ignore_ascii_case(name.as_bytes()) && line.get(name.len()) == Some(&b':')).then_some(name.len() + 1)
        };
        let mut values = lines.filter_map(|line| std::str::from_utf8(&line[value(line)?..]).ok());
        values.next().map(str::trim)
    }

    /// The body of the last answer, where it is not in chunks.
    pub(crate) fn body(&self) -> &[u8] {
        &self.buffer[self.head + 4..]
    }

    fn end(&self) -> End {
        match self.header("content-length").and_then(|length| length.parse::<usize>().ok()) {
            Some(length) => End::At(self.head + 4 + length),
            None if self.header("transfer-encoding").is_some() => End::Chunk,
            None => End::At(self.head + 4),
        }
    }

    /// `HTTP/1.1 200 OK`.
    fn status(&self) -> Option<u16> {
        std::str::from_utf8(self.buffer.get(9..12)?).ok()?.parse().ok()
    }
}
