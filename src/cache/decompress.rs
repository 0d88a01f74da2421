//! The archive inside an installer, decompressed by a thread of its own.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::error::{Error, Result};
use crate::host::cancel::Cancel;
use crate::runfile::header::{Compression, Header, payload_offset};

/// Bytes in one buffer between the threads; four may wait.
const CHUNK: usize = 256 * 1024;
const QUEUE: usize = 4;
/// An xz archive with the greatest usual dictionary (64 MiB) needs a little more than that.
const XZ_MEMORY: u64 = 80 * 1024 * 1024;

/// Opens the archive of an installer that has this header.
pub(super) fn archive(mut file: File, header: &Header) -> Result<Box<dyn Read + Send>> {
    let unreadable = |error: io::Error| Error::install("read the installer").because(error);
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    let offset = payload_offset(BufReader::with_capacity(CHUNK, &file), header.skip)?;
    file.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
    let mut magic = Vec::new();
    (&file).take(8).read_to_end(&mut magic).map_err(unreadable)?;
    let compression = Compression::detect(&magic)?;
    file.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
    let file = BufReader::with_capacity(CHUNK, file);
    let reader: io::Result<Box<dyn Read + Send>> = match compression {
        Compression::Gzip => Ok(Box::new(flate2::bufread::GzDecoder::new(file))),
        Compression::Zstd => {
            zstd::Decoder::with_buffer(file).map(|decoder| Box::new(decoder) as Box<_>)
        }
        Compression::Xz => liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, 0)
            .map(|stream| Box::new(liblzma::bufread::XzDecoder::new_stream(file, stream)) as Box<_>)
            .map_err(io::Error::other),
    };
    reader.map_err(unreadable)
}

/// Reads a file by the suffix of its name: `.xz`, `.gz`, `.zst`, or as it is.
///
/// # Errors
/// Install error when a decompressor cannot be set up.
pub fn decompressed(file: impl Read + 'static, name: &str) -> Result<Box<dyn BufRead>> {
    let file = BufReader::with_capacity(CHUNK, file);
    let reader: io::Result<Box<dyn Read>> = match name.rsplit_once('.').map(|(_, suffix)| suffix) {
        Some("gz") => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(file))),
        Some("xz") => {
            liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)
                .map(|stream| {
                    Box::new(liblzma::bufread::XzDecoder::new_stream(file, stream)) as Box<_>
                })
                .map_err(io::Error::other)
        }
        Some("zst") => zstd::Decoder::with_buffer(file).map(|decoder| Box::new(decoder) as Box<_>),
        _ => return Ok(Box::new(file)),
    };
    let reader =
        reader.map_err(|error| Error::install(format!("decompress `{name}`")).because(error))?;
    Ok(Box::new(BufReader::with_capacity(CHUNK, reader)))
}

type Chunk = io::Result<Vec<u8>>;

/// What a decompressing thread produced, read by another one.
pub(super) struct Piped<'a> {
    chunks: Receiver<Chunk>,
    current: Vec<u8>,
    used: usize,
    cancel: &'a Cancel,
}

/// The thread's end of the pipe, and the reader's.
pub(super) fn pipe(cancel: &Cancel) -> (SyncSender<Chunk>, Piped<'_>) {
    let (send, chunks) = sync_channel(QUEUE);
    (send, Piped { chunks, current: Vec::new(), used: 0, cancel })
}

/// Reads `archive` to its end into the pipe, or until nobody reads there any more.
pub(super) fn pump(mut archive: impl Read, send: &SyncSender<Chunk>) {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let result = archive.by_ref().take(CHUNK as u64).read_to_end(&mut chunk);
        let (last, message) = match result {
            Ok(count) => (count == 0, Ok(chunk)),
            Err(error) => (true, Err(error)),
        };
        if send.send(message).is_err() || last {
            return;
        }
    }
}

impl Read for Piped<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.used == self.current.len() {
            if self.cancel.is_asked() {
                return Err(io::Error::other("interrupted"));
            }
            // A closed pipe is the end: errors come through it as values.
            self.current = self.chunks.recv().unwrap_or_else(|_| Ok(Vec::new()))?;
            self.used = 0;
        }
        let rest = &self.current[self.used..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.used += count;
        Ok(count)
    }
}
