//! Where the bytes come from: a file or standard input, gzip or not, and never without a bound.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use flate2::read::MultiGzDecoder;

/// The longest line that is taken. A quote that is never closed ends here, not with the machine's memory.
const LONGEST: usize = 4 << 20;
const TOO_LONG: &str = "it is longer than 4 MiB (a quote that is not closed?)";

const GZIP: [u8; 2] = [0x1f, 0x8b];
const BOM: [u8; 3] = [0xef, 0xbb, 0xbf];
const UTF_16: [[u8; 2]; 2] = [[0xff, 0xfe], [0xfe, 0xff]];

/// What is read, unzipped.
pub(super) struct Source {
    inner: Box<dyn Read + Send>,
    since_line: usize,
    length: u64,
    last: u8,
}

/// How far it is read.
#[derive(Clone)]
pub(super) struct Extent {
    /// Bytes in all, as far as that can be known.
    pub(super) length: Option<u64>,
    done: Arc<AtomicU64>,
}

impl Extent {
    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

impl Source {
    /// Opens a file; `-` is standard input.
    pub(super) fn open(path: &Path) -> anyhow::Result<(Self, Extent)> {
        let opened = || -> io::Result<(Box<dyn Read + Send>, Option<u64>)> {
            if path == Path::new("-") {
                return Ok((Box::new(io::stdin()), None));
            }
            let file = File::open(path)?;
            let about = file.metadata()?;
            Ok((Box::new(file), about.is_file().then_some(about.len())))
        };
        let (raw, length) = opened().with_context(|| format!("read {}", path.display()))?;
        let extent = Extent { length, done: Arc::default() };
        let raw = Box::new(Counted { inner: raw, done: Arc::clone(&extent.done) });
        let begin = || -> io::Result<_> {
            let (head, raw) = peek(raw, GZIP.len())?;
            peek(if head == GZIP { Box::new(MultiGzDecoder::new(raw)) } else { raw }, BOM.len())
        };
        let (head, mut inner) = begin().with_context(|| format!("read {}", path.display()))?;
        if UTF_16.iter().any(|mark| head.starts_with(mark)) {
            bail!("{} is UTF-16: save it as UTF-8", path.display());
        }
        if head == BOM {
            inner.read_exact(&mut [0; BOM.len()])?;
        }
        Ok((Self { inner, since_line: 0, length: 0, last: 0 }, extent))
    }

    /// What is read from here on belongs to a new line.
    pub(super) fn begin_line(&mut self) {
        self.since_line = 0;
    }

    /// Whether the text up to this byte is all that there was, and no end of a line stands behind it.
    pub(super) fn breaks_off_at(&self, byte: u64) -> bool {
        byte == self.length && self.last != b'\n'
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.since_line > LONGEST {
            return Err(io::Error::other(TOO_LONG));
        }
        let read = self.inner.read(buffer)?;
        self.since_line += read;
        self.length += read as u64;
        self.last = buffer[..read].last().copied().unwrap_or(self.last);
        Ok(read)
    }
}

/// The first bytes, and the whole.
fn peek(mut whole: Box<dyn Read + Send>, length: usize) -> io::Result<(Vec<u8>, Box<dyn Read + Send>)> {
    let mut head = Vec::with_capacity(length);
    whole.by_ref().take(length as u64).read_to_end(&mut head)?;
    Ok((head.clone(), Box::new(Cursor::new(head).chain(whole))))
}

struct Counted {
    inner: Box<dyn Read + Send>,
    done: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.done.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
