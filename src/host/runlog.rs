//! The log of one run on one container: every command, its output, how it ended, how long it took.
//!
//! `/var/log/nvstage/<UTC time>-<process>/<container>.log`. A log that cannot be written is no
//! reason to fail: the run says so once and goes on.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use jiff::Timestamp;

use super::process::{Command, Finished};

/// An open log, or none.
#[derive(Debug, Default)]
pub struct RunLog {
    file: Option<Mutex<File>>,
    path: Option<PathBuf>,
}

impl RunLog {
    /// A log that keeps nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Opens `<directory>/<name>.log`, readable by root alone.
    ///
    /// # Errors
    /// When the directory or the file cannot be made.
    pub fn open(directory: &Path, name: &str) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
        let path = directory.join(format!("{name}.log"));
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).mode(0o640).open(&path)?;
        Ok(Self { file: Some(Mutex::new(file)), path: Some(path) })
    }

    /// Where the log lies.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Where the whole output of a program can be read, as a hint.
    pub fn whole_output(&self, program: &str) -> String {
        match &self.path {
            Some(path) => format!("`{}` has the whole output of {program}", path.display()),
            None => format!("no log was kept; run the command again to see {program}'s output"),
        }
    }

    /// Adds a line of our own.
    pub fn note(&self, text: &str) {
        self.append(&format!("{} {text}\n", now()));
    }

    /// Adds a command that ended, with all it said.
    pub fn command(&self, command: &Command, finished: &Finished) {
        let mut text = format!("{} $ {command}\n", now());
        for (name, bytes) in [("stdout", &finished.stdout), ("stderr", &finished.stderr)] {
            for line in String::from_utf8_lossy(bytes).lines() {
                text.push_str(&format!("    {name}: {line}\n"));
            }
        }
        let seconds = finished.took.as_secs_f64();
        text.push_str(&format!("  -> {} after {seconds:.3} s\n", finished.ended));
        self.append(&text);
    }

    fn append(&self, text: &str) {
        if let Some(mut file) = self.file.as_ref().and_then(|file| file.lock().ok()) {
            // Best effort: see the head of this file.
            let _ = file.write_all(text.as_bytes());
        }
    }
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The name of a run's log directory: UTC time and process, `20261124T021500Z-4711`.
pub fn run_name() -> String {
    format!("{}-{}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ"), std::process::id())
}
