//! One download in progress: the bytes that are there, their running digest, and the limits.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use super::failure::{Attempt, Failure};
use super::{Fetched, Partial};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::host::cancel::Cancel;
use crate::host::files::{free_bytes_at, is_out_of_space};

/// Progress is told at most this often.
const TELL_INTERVAL: Duration = Duration::from_millis(100);

/// What is being downloaded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) size: Option<u64>,
    pub(super) digest: Option<Digest>,
}

/// Where the bytes go.
#[derive(Debug)]
pub(super) enum Store<'a> {
    File(Partial<'a>),
    Memory { bytes: Vec<u8>, limit: usize },
}

/// One download in progress.
pub(super) struct Download<'a> {
    store: Store<'a>,
    wanted: Wanted<'a>,
    hasher: Hasher,
    /// Whether some bytes came in another attempt than the last.
    patched: bool,
    /// The size that the server announced, or the wanted one.
    total: Option<u64>,
    events: &'a dyn Events,
    cancel: &'a Cancel,
    told: Option<Instant>,
}

impl<'a> Download<'a> {
    /// Continues what the store has already: its bytes are hashed first.
    pub(super) fn resume(
        store: Store<'a>,
        wanted: Wanted<'a>,
        context: (&'a dyn Events, &'a Cancel),
    ) -> Result<Self> {
        let (events, cancel) = context;
        let total = wanted.size;
        let hasher = Hasher::new();
        let mut download =
            Self { store, wanted, hasher, patched: false, total, events, cancel, told: None };
        if let Store::File(partial) = download.store {
            let length = download.on_disk(partial.file.metadata())?.len();
            let fits = wanted.size.is_none_or(|size| length <= size);
            // Without a digest nothing tells whether old bytes belong to this file.
            if length > 0 && fits && wanted.digest.is_some() {
                download.hash_what_is_there(partial.file)?;
            } else {
                download.clear()?;
            }
        }
        Ok(download)
    }

    pub(super) fn name(&self) -> &str {
        self.wanted.name
    }

    /// Bytes received so far.
    pub(super) fn length(&self) -> u64 {
        self.hasher.length()
    }

    /// The result, where the bytes of an earlier run were all of it.
    pub(super) fn finished_earlier(&mut self) -> Option<Fetched> {
        let digest = self.hasher.clone().finish();
        let done = self.length() > 0 && Some(digest) == self.wanted.digest;
        done.then_some(Fetched { digest, size: self.length() })
    }

    /// Drops every byte.
    pub(super) fn restart(&mut self) -> Attempt<()> {
        Ok(self.clear()?)
    }

    fn clear(&mut self) -> Result<()> {
        self.hasher = Hasher::new();
        self.patched = false;
        match &mut self.store {
            Store::Memory { bytes, .. } => bytes.clear(),
            Store::File(partial) => {
                let mut file = partial.file;
                let cleared = file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0)));
                self.on_disk(cleared)?;
            }
        }
        Ok(())
    }

    /// Takes note of the size that a source announces for the whole file, refuses a wrong one,
    /// and makes sure that there is room.
    pub(super) fn announce(&mut self, total: Option<u64>) -> Attempt<()> {
        if let (Some(total), Some(size)) = (total, self.wanted.size)
            && total != size
        {
            return Err(Failure::Wrong(format!("the file has {total} bytes, wanted are {size}")));
        }
        self.patched |= self.length() > 0;
        self.total = total.or(self.wanted.size);
        let needed = self.total.unwrap_or_default().saturating_sub(self.length());
        match &self.store {
            Store::Memory { limit, .. } => match self.total {
                Some(total) if total > *limit as u64 => Err(too_large(*limit)),
                _ => Ok(()),
            },
            Store::File(partial) => match free_bytes_at(partial.file) {
                Ok(free) if free < needed => Err(self.no_space(needed).into()),
                _ => Ok(()),
            },
        }
    }

    /// Adds bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Attempt<()> {
        self.cancel.check()?;
        let length = self.length() + bytes.len() as u64;
        if let Some(total) = self.total.filter(|total| length > *total) {
            self.clear()?;
            let limit = if self.wanted.size.is_some() { "wanted" } else { "announced" };
            let why = format!("the file has {length} bytes or more, {limit} are {total}");
            return Err(Failure::Wrong(why));
        }
        let written = match &mut self.store {
            Store::Memory { limit, .. } if length > *limit as u64 => return Err(too_large(*limit)),
            Store::Memory { bytes: kept, .. } => kept.write_all(bytes),
            Store::File(partial) => {
                let mut file = partial.file;
                file.write_all(bytes)
            }
        };
        if let Err(error) = written {
            let needed = self.total.unwrap_or(length).saturating_sub(self.length());
            // Nobody can use the rest of a full disk: give it back.
            self.clear()?;
            let full = is_out_of_space(&error);
            let fatal = if full { self.no_space(needed) } else { self.unwritable(&error) };
            return Err(fatal.into());
        }
        self.hasher.update(bytes);
        self.tell_progress(TELL_INTERVAL);
        Ok(())
    }

    /// Whether all bytes are there that were announced.
    pub(super) fn check_complete(&self) -> Attempt<()> {
        match self.total {
            Some(total) if self.length() < total => Err(Failure::passing(format!(
                "the transfer ended after {} of {total} bytes",
                self.length()
            ))),
            _ => Ok(()),
        }
    }

    /// Compares size and digest; wrong bytes are dropped.
    pub(super) fn verify(&mut self) -> Attempt<Fetched> {
        let fetched = Fetched { digest: self.hasher.clone().finish(), size: self.length() };
        self.tell_progress(Duration::ZERO);
        let size_fits = self.wanted.size.is_none_or(|size| size == fetched.size);
        let digest_fits = self.wanted.digest.is_none_or(|digest| digest == fetched.digest);
        if size_fits && digest_fits {
            return Ok(fetched);
        }
        let why = match (self.wanted.size, self.wanted.digest) {
            (Some(size), _) if !size_fits => {
                format!("the file has {} bytes, wanted are {size}", fetched.size)
            }
            (_, digest) => {
                let digest = digest.map_or_else(String::new, |digest| digest.to_string());
                format!("the file has the SHA-256 digest {}, wanted is {digest}", fetched.digest)
            }
        };
        let patched = self.patched;
        self.clear()?;
        Err(if patched { Failure::Stale(why) } else { Failure::Wrong(why) })
    }

    pub(super) fn tell(&self, event: Event) {
        self.events.emit(event);
    }

    /// The bytes of a download into memory.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        match self.store {
            Store::Memory { bytes, .. } => bytes,
            Store::File(_) => Vec::new(),
        }
    }

    fn tell_progress(&mut self, interval: Duration) {
        if self.told.is_none_or(|told| told.elapsed() >= interval) {
            self.told = Some(Instant::now());
            let (done, total) = (self.length(), self.total);
            self.tell(Event::Progress { name: self.wanted.name.to_owned(), done, total });
        }
    }

    fn hash_what_is_there(&mut self, mut file: &File) -> Result<()> {
        let start = file.seek(SeekFrom::Start(0));
        self.on_disk(start)?;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            self.cancel.check()?;
            match self.on_disk(file.read(&mut buffer))? {
                0 => break,
                count => self.hasher.update(&buffer[..count]),
            }
        }
        self.patched = true;
        Ok(())
    }

    fn on_disk<T>(&self, result: io::Result<T>) -> Result<T> {
        result.map_err(|error| self.unwritable(&error))
    }

    fn directory(&self) -> String {
        match &self.store {
            Store::File(partial) => partial.directory.display().to_string(),
            Store::Memory { .. } => "memory".to_owned(),
        }
    }

    fn unwritable(&self, error: &io::Error) -> Error {
        Error::install(format!("keep `{}` in `{}`", self.name(), self.directory())).because(error)
    }

    fn no_space(&self, needed: u64) -> Error {
        let directory = self.directory();
        Error::install(format!("keep `{}` in `{directory}`: no space is left", self.name()))
            .because(format!("{needed} more bytes are needed there"))
            .hint("make room, or use a cache on another file system")
    }
}

fn too_large(limit: usize) -> Failure {
    Failure::Lasting(format!("it is larger than {limit} bytes"))
}
