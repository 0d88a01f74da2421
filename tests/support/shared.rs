//! Machines below a root of their own that build and mount shared images, and drivers from the
//! stand-in installers of the test world.

#![allow(dead_code, reason = "each test file uses a part of this")]
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it is surprised"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use nvstage::architecture::Architecture;
use nvstage::artifact::Trust;
use nvstage::cache::Cache;
use nvstage::digest::hash_reader;
use nvstage::engine::shared::{self, DriverImage};
use nvstage::engine::supplies::{Driver, PublishedDigest, Supplies};
use nvstage::error::Error;
use nvstage::event::{Event, Events};
use nvstage::fetch::{FetchOptions, Fetcher};
use nvstage::host::Host;
use nvstage::host::cancel::Cancel;
use nvstage::host::paths::Paths;
use nvstage::host::process::Live;
use nvstage::runfile::header::Installer;
use nvstage::version::DriverVersion;

/// Keeps what is told.
#[derive(Debug, Default)]
pub struct Heard(Mutex<Vec<Event>>);

impl Events for Heard {
    fn emit(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Heard {
    /// The warnings so far.
    pub fn warnings(&self) -> Vec<String> {
        let events = self.0.lock().unwrap();
        let warning = |event: &Event| match event {
            Event::Warning { text } => Some(text.clone()),
            _ => None,
        };
        events.iter().filter_map(warning).collect()
    }

    /// How often a step with such a name began.
    pub fn steps(&self, name: &str) -> usize {
        let events = self.0.lock().unwrap();
        let is_it = |event: &&Event| matches!(event, Event::StepStarted { step, .. } if step.contains(name));
        events.iter().filter(is_it).count()
    }

    /// Whether bytes were told of under such a name, up to the end.
    pub fn has_progress(&self, name: &str) -> bool {
        let is_end = |event: &Event| matches!(event, Event::Progress { name: of, done, total } if of.contains(name) && Some(*done) == *total);
        self.0.lock().unwrap().iter().any(is_end)
    }
}

/// A machine below a directory; its mounts are this namespace's.
pub struct Machine {
    pub directory: tempfile::TempDir,
    pub host: Host,
    pub cache: Cache,
    fetcher: Fetcher,
    pub heard: Heard,
}

impl Machine {
    pub fn new() -> Self {
        Self::with_cancel(Cancel::never().unwrap())
    }

    /// One whose work can be asked to stop.
    pub fn with_cancel(cancel: Cancel) -> Self {
        let directory =
            tempfile::Builder::new().prefix("nvstage-shared-").tempdir_in("/var/tmp").unwrap();
        std::os::unix::fs::symlink("/dev", directory.path().join("dev")).unwrap();
        let paths = Paths::below(directory.path());
        let cache = Cache::open(&paths.cache(), &cancel).unwrap();
        let processes = Box::new(Live::new(cancel.clone()).unwrap());
        let fetcher = Fetcher::new(FetchOptions::default(), cancel.clone());
        let host = Host { paths, processes, cancel };
        Self { directory, host, cache, fetcher, heard: Heard::default() }
    }

    pub fn supplies(&self) -> Supplies<'_> {
        Supplies {
            cache: &self.cache,
            fetcher: &self.fetcher,
            events: &self.heard,
            cancel: &self.host.cancel,
            published: PublishedDigest::Refused,
            images: Mutex::default(),
            keys: Mutex::default(),
            ready: Mutex::default(),
        }
    }

    /// The driver in an installer's file.
    pub fn driver(&self, version: &str, bytes: &[u8]) -> Driver {
        let file = self.cache.store(bytes).unwrap();
        let name = format!("NVIDIA-Linux-x86_64-{version}.run");
        let architecture = Architecture::X86_64;
        let installer = Installer { name: name.clone(), version: parse(version), architecture };
        let tree = self.cache.tree(&file, &installer, &self.heard).unwrap();
        Driver { file, name, trust: Trust::Pinned, tree }
    }

    /// The stand-in driver of the test world.
    pub fn stand_in(&self, version: &str) -> Driver {
        self.driver(version, &std::fs::read(super::installer(version)).unwrap())
    }

    pub fn try_obtain(&self, driver: &Driver) -> Result<DriverImage, Error> {
        shared::obtain_driver(&self.host, &self.supplies(), driver)
    }

    #[track_caller]
    pub fn obtain(&self, driver: &Driver) -> DriverImage {
        self.try_obtain(driver).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Below the directory of shared drivers.
    pub fn shared(&self, name: &str) -> PathBuf {
        self.host.paths.shared_drivers().join(name)
    }

    /// The image of a driver.
    pub fn image(&self, version: &str) -> PathBuf {
        self.shared(&format!("{version}.squashfs"))
    }

    /// What lies in a directory, by name.
    pub fn names(&self, directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let below = self.directory.path().display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        for line in mounts.lines().rev() {
            let place = line.split(' ').nth(1).unwrap();
            if place.starts_with(&below) {
                let _ = Command::new("umount").args(["-l", place]).status();
            }
        }
    }
}

pub fn parse(version: &str) -> DriverVersion {
    DriverVersion::parse(version).unwrap()
}

/// The SHA-256 digest of a file, in digits.
pub fn digest_of(path: &Path) -> String {
    hash_reader(std::fs::File::open(path).unwrap()).unwrap().0.to_string()
}

/// Runs a shell script on this machine; its output.
#[track_caller]
pub fn shell(script: &str) -> String {
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{text}\n{errors}");
    text
}
