//! Downloads: a wanted file into a partial file, hashed in the same pass.
//!
//! [`Fetcher::fetch`] tries the URLs of an artifact in order. Each one is tried several times where
//! the failure may pass (5xx, 429, resets, stalls, a body cut short), continuing at the byte where
//! the last attempt ended; it is given up at once where it will not (404, a web page, a wrong
//! size or digest). `file://` URLs and absolute paths are read through the same pass.

use std::fs::File;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use reqwest::blocking::Client;

use crate::artifact::Artifact;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::event::{Event, Events, Silent};
use crate::host::cancel::Cancel;
use crate::host::wait::wait;

mod download;
mod failure;
mod http;
mod local;

use download::{Download, Store, Wanted};
use failure::{Attempt, Failure, Place};
use http::Ranges;

/// Whether network connections may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// Yes.
    #[default]
    Allowed,
    /// No: an attempt is [`Error::offline`]. Files of this machine can be read all the same.
    Forbidden,
}

/// How patient downloads are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchOptions {
    /// How long a server may send nothing.
    pub stall: Duration,
    /// How often a URL is tried without any progress, at least once.
    pub attempts: u32,
    /// Whether the network may be used at all.
    pub network: Network,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self { stall: Duration::from_secs(30), attempts: 5, network: Network::Allowed }
    }
}

/// The wait before the second attempt; it doubles from one to the next, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait between attempts, also where a server asks for a longer one.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// More than any list of digests has.
const DIGEST_FILE_LIMIT: usize = 64 * 1024;

/// Downloads files. Making one costs nothing; the client is built when a URL needs it.
#[derive(Debug)]
pub struct Fetcher {
    options: FetchOptions,
    first_wait: Duration,
    cancel: Cancel,
    client: Mutex<Option<Client>>,
}

/// The file that a download grows.
#[derive(Debug, Clone, Copy)]
pub struct Partial<'a> {
    /// Open for reading and writing; what it has already is continued.
    pub file: &'a File,
    /// The directory it lies in, for messages.
    pub directory: &'a Path,
}

/// What a finished download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// The SHA-256 digest of the whole file.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

impl Fetcher {
    /// A fetcher that stops when `cancel` asks it to.
    ///
    /// Proxies come from the environment variables that curl knows; server certificates are
    /// checked against the host's trust store.
    pub fn new(options: FetchOptions, cancel: Cancel) -> Self {
        Self { options, first_wait: FIRST_WAIT, cancel, client: Mutex::new(None) }
    }

    /// Uses another wait before the second attempt than half a second.
    #[must_use]
    pub fn with_first_wait(mut self, first_wait: Duration) -> Self {
        self.first_wait = first_wait;
        self
    }

    /// Downloads an artifact into `partial` and verifies its size and digest where they are known.
    /// On success the file has exactly that content; it is not yet synchronised to the disk.
    ///
    /// # Errors
    /// An installation error that lists why each URL failed; what was received stays in the
    /// partial file for the next time unless it was wrong or the disk is full. The interruption.
    pub fn fetch(
        &self,
        artifact: &Artifact,
        partial: Partial<'_>,
        events: &dyn Events,
    ) -> Result<Fetched> {
        let wanted = Wanted { name: &artifact.name, size: artifact.size, digest: artifact.digest };
        let mut download = Download::resume(Store::File(partial), wanted, (events, &self.cancel))?;
        if let Some(fetched) = download.finished_earlier() {
            return Ok(fetched);
        }
        self.try_all(&artifact.urls, &mut download)
    }

    /// Downloads a small file into memory.
    ///
    /// # Errors
    /// As [`Fetcher::fetch`]; also when it is larger than `limit` bytes.
    pub fn fetch_small(&self, url: &str, limit: usize) -> Result<Vec<u8>> {
        let name = url.rsplit('/').next().unwrap_or(url);
        let wanted = Wanted { name, size: None, digest: None };
        let store = Store::Memory { bytes: Vec::new(), limit };
        let mut download = Download::resume(store, wanted, (&Silent, &self.cancel))?;
        self.try_all(std::slice::from_ref(&url.to_owned()), &mut download)?;
        Ok(download.into_bytes())
    }

    /// Whether the network may be used.
    pub fn network(&self) -> Network {
        self.options.network
    }

    /// The digest that the publisher of `url` has beside it in `<url>.sha256sum`: 64 hexadecimal
    /// digits, blanks and the file's name, as `sha256sum` prints them.
    ///
    /// # Errors
    /// An installation error, also for plain HTTP: nothing would vouch for the digest.
    pub fn published_digest(&self, url: &str) -> Result<Digest> {
        let shown = failure::shown(url);
        if !url.starts_with("https://") && local::path(url).is_none() {
            return Err(Error::install(format!("believe the digest published beside `{shown}`"))
                .because("it would be read without TLS, so anyone on the way could change it")
                .hint("pin the digest in the recipe, or use an https:// URL"));
        }
        let bytes = self.fetch_small(&format!("{url}.sha256sum"), DIGEST_FILE_LIMIT)?;
        let name = url.rsplit('/').next().unwrap_or(url);
        digest_in(&String::from_utf8_lossy(&bytes), name).ok_or_else(|| {
            Error::install(format!("find a digest of `{name}` in `{shown}.sha256sum`"))
                .hint("pin the digest in the recipe")
        })
    }

    fn try_all(&self, urls: &[String], download: &mut Download<'_>) -> Result<Fetched> {
        let name = download.name().to_owned();
        let mut error = Error::install(format!("download `{name}`"));
        if urls.is_empty() {
            return Err(error.because("there is no URL for it"));
        }
        let mut hints: Vec<&str> = Vec::new();
        let mut is_missing = true;
        for url in urls {
            match self.try_url(url, download) {
                Ok(fetched) => return Ok(fetched),
                Err(Failure::Fatal(fatal)) => return Err(*fatal),
                Err(failure) => {
                    let place = match local::path(url) {
                        Some(_) => Place::Machine,
                        None => Place::Network,
                    };
                    hints.push(failure.hint(place));
                    is_missing &= matches!(failure, Failure::Missing(_));
                    error = error.because(format!("{}: {failure}", failure::shown(url)));
                }
            }
        }
        hints.dedup();
        let error = hints.into_iter().fold(error, Error::hint);
        Err(if is_missing { error.of_missing() } else { error })
    }

    /// One URL, until it succeeds, fails for good, or makes no progress any more.
    fn try_url(&self, url: &str, download: &mut Download<'_>) -> Attempt<Fetched> {
        let mut ranges = Ranges::Allowed;
        let (mut waits, mut furthest) = (self.waits(), download.length());
        let mut may_start_over = true;
        loop {
            self.cancel.check()?;
            let result = self.attempt(url, download, &mut ranges);
            let (why, asked) = match result.and_then(|()| download.verify()) {
                Err(Failure::Stale(_)) if may_start_over => {
                    // Bytes of an earlier run or another mirror do not fit: once from the start.
                    may_start_over = false;
                    continue;
                }
                Err(Failure::Passing { why, wait }) => (why, wait),
                other => return other,
            };
            if download.length() > furthest {
                (waits, furthest) = (self.waits(), download.length());
            }
            let Some(pause) = waits.next() else {
                return Err(Failure::Lasting(format!(
                    "{why} (given up after {} attempts)",
                    self.options.attempts.max(1)
                )));
            };
            let pause = pause.max(asked.unwrap_or_default()).min(LONGEST_WAIT);
            download.tell(Event::Note {
                text: format!(
                    "`{}`: {why}; next attempt in {:.1} s",
                    download.name(),
                    pause.as_secs_f64()
                ),
            });
            wait(pause, &self.cancel)?;
        }
    }

    fn attempt(&self, url: &str, download: &mut Download<'_>, ranges: &mut Ranges) -> Attempt<()> {
        match local::path(url) {
            Some(path) => local::copy(&path, download),
            None => {
                // Every connection of this program is made here.
                if self.options.network == Network::Forbidden {
                    return Err(Error::offline(&failure::shown(url)).into());
                }
                let client = self.client()?;
                http::get(http::Request { client, url, cancel: &self.cancel }, download, ranges)
            }
        }
    }

    fn waits(&self) -> impl Iterator<Item = Duration> + use<> {
        ExponentialBuilder::new()
            .with_min_delay(self.first_wait)
            .with_max_delay(LONGEST_WAIT)
            .with_max_times(self.options.attempts.saturating_sub(1) as usize)
            .build()
    }

    fn client(&self) -> Attempt<Client> {
        let mut slot = self.client.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(client) = slot.as_ref() {
            return Ok(client.clone());
        }
        let client = http::client(self.options.stall)?;
        Ok(slot.insert(client).clone())
    }
}

/// The digest of the file `name` in text of the form that `sha256sum` prints.
fn digest_in(text: &str, name: &str) -> Option<Digest> {
    text.lines().find_map(|line| {
        let (digest, file) = line.split_once([' ', '\t'])?;
        let file = file.trim().trim_start_matches('*');
        (file.rsplit('/').next() == Some(name)).then(|| Digest::parse(digest).ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_the_right_file_is_read() {
        let other = "0".repeat(64);
        let text = format!("{other}  other.run\n{HEX}  driver.run\n");
        assert_eq!(digest_in(&text, "driver.run"), Some(Digest::of(b"")));
        assert_eq!(digest_in(&text, "third.run"), None);
        assert_eq!(digest_in("<html>404 driver.run</html>", "driver.run"), None);
    }

    #[test]
    fn a_digest_over_plain_http_is_refused() {
        let fetcher = Fetcher::new(FetchOptions::default(), Cancel::never().unwrap());
        let error = fetcher.published_digest("http://mirror/driver.run").unwrap_err();
        assert!(error.to_string().contains("without TLS"), "{error}");
    }

    #[test]
    fn waits_double_and_end() {
        let options = FetchOptions { attempts: 4, ..FetchOptions::default() };
        let fetcher = Fetcher::new(options, Cancel::never().unwrap());
        let waits: Vec<_> = fetcher.waits().map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000]);
    }
}
