//! The log of the Phoenix Hypervisor: events as its lines, on stdout (errors on stderr) and
//! appended to `/var/log/phoenix_hypervisor.log`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

use jiff::Zoned;

use crate::error::ExitCode;
use crate::event::{Event, Events};
use crate::phoenix::{Level, log_line};
use crate::printer::harmless;

/// The open log.
#[derive(Debug)]
pub struct PhoenixLog {
    file: Option<Mutex<File>>,
}

impl PhoenixLog {
    /// Opens the log; where it cannot be written, lines go to the standard streams alone.
    pub fn open(path: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Self { file: file.ok().map(Mutex::new) }
    }

    /// The line that the caller looks for: completed, or failed with which exit code.
    pub fn last_line(&self, code: ExitCode) {
        match code {
            ExitCode::Done => self.write(Level::Info, "completed successfully"),
            code => self.write(Level::Error, &format!("failed with exit code {}", code.code())),
        }
    }

    fn write(&self, level: Level, text: &str) {
        for part in text.lines().filter(|part| !part.trim().is_empty()) {
            let now = Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
            let line = log_line(&now, level, &harmless(part.trim()));
            // Nobody is left to tell of a stream that is gone.
            let _ = match level {
                Level::Info => writeln!(io::stdout().lock(), "{line}"),
                Level::Error => writeln!(io::stderr().lock(), "{line}"),
            };
            if let Some(mut file) = self.file.as_ref().and_then(|file| file.lock().ok()) {
                let _ = writeln!(file, "{line}");
            }
        }
    }
}

impl Events for PhoenixLog {
    fn emit(&self, event: Event) {
        match event {
            Event::StepEnded { step, outcome, .. } => {
                let level = match outcome.starts_with("failed") {
                    true => Level::Error,
                    false => Level::Info,
                };
                self.write(level, &format!("{step}: {outcome}"));
            }
            Event::StepStarted { .. } | Event::Progress { .. } => {}
            Event::Detail { text } | Event::Note { text } => self.write(Level::Info, &text),
            Event::Warning { text } => self.write(Level::Info, &format!("warning: {text}")),
            Event::Failed { text } => self.write(Level::Error, &text),
            Event::BatchStarted { .. }
            | Event::ContainerStarted { .. }
            | Event::ContainerEnded { .. } => {}
        }
    }
}
