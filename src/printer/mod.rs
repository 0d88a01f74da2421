//! The one place that prints: stdout is data, stderr is talk.
//!
//! On a terminal there are lines that move ([`board`], [`screen`]); elsewhere one line a finished step
//! ([`talk`]); with `--json` every event is a JSON line on stderr and the result one JSON document
//! on stdout.

mod board;
mod bundle;
mod cache;
pub mod doctor;
pub mod gpus;
mod layout;
mod pace;
mod question;
mod refresh;
pub mod report;
mod screen;
pub mod status;
mod talk;
mod ticker;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use comfy_table::{ContentArrangement, Table};
use indicatif::HumanBytes;
use serde::Serialize;

use crate::cmd::RequestValue;
use crate::cmd::plan::{ContainerPlan, Plans};
use crate::cmd::prefetch::Prefetched;
use crate::error::Error;
use crate::event::{Event, Events};
use crate::report::Report;
use screen::Screen;
use talk::Talk;
use ticker::Ticker;

/// Columns where the terminal does not say how many it has.
const WIDTH: u16 = 80;

/// How results and events are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The printer.
#[derive(Debug)]
pub struct Printer {
    form: Form,
    talk: Arc<Mutex<Talk>>,
    /// Begins with the first event: most verbs have none.
    ticker: Mutex<Option<Ticker>>,
}

impl Printer {
    /// A printer for this process's standard output and error.
    pub fn new(form: Form) -> Self {
        let screen = match form {
            Form::Text => Screen::on_stderr(),
            Form::Json => Screen::plain(),
        };
        let talk = Arc::new(Mutex::new(Talk::new(screen)));
        Self { form, talk, ticker: Mutex::default() }
    }

    /// Prints a report: a table, or JSON.
    pub fn report(&self, report: &Report) {
        self.result(report, || report::text(report, columns()));
    }

    /// Prints plans: what would happen, the difference, the bytes.
    pub fn plans(&self, plans: &Plans) {
        self.result(plans, || {
            plans.containers.iter().map(plan_text).collect::<Vec<_>>().join("\n")
        });
    }

    /// Prints what is in the cache after `prefetch`.
    pub fn prefetched(&self, prefetched: &Prefetched) {
        self.result(prefetched, || {
            let mut table = table(["for", "size", "trust", "time", "file"]);
            for item in &prefetched.items {
                table.add_row([
                    item.purpose.clone(),
                    HumanBytes(item.bytes).to_string(),
                    item.trust.to_string(),
                    format!("{:.1} s", item.seconds),
                    item.name.clone(),
                ]);
            }
            format!("{table}\nverified, in {}\n", prefetched.cache)
        });
    }

    /// Prints an error that ended everything.
    pub fn error(&self, error: &Error) {
        self.close();
        match self.form {
            Form::Text => self.say(&format!("error: {error}")),
            Form::Json => {
                let (message, causes, hints) = (error.headline(), error.causes(), error.hints());
                let exit = error.code().code();
                let told = serde_json::json!({ "error": message, "causes": causes, "hints": hints, "exit": exit });
                self.say(&told.to_string());
            }
        }
    }

    fn result<T: Serialize>(&self, value: &T, text: impl FnOnce() -> String) {
        self.close();
        let text = match self.form {
            Form::Text => text(),
            Form::Json => match serde_json::to_string_pretty(value) {
                Ok(json) => json + "\n",
                Err(error) => format!("{{\"error\": \"{error}\"}}\n"),
            },
        };
        // A reader that went away is no error of ours.
        let _ = io::stdout().lock().write_all(harmless(&text).as_bytes());
    }

    fn say(&self, text: &str) {
        self.talk().say(text, Instant::now());
    }

    /// Takes the lines that move away.
    fn close(&self) {
        let ticker = self.ticker.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(ticker);
        self.talk().close();
    }

    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text_event(&self, event: &Event) {
        self.talk().hear(event, Instant::now());
        let mut ticker = self.ticker.lock().unwrap_or_else(PoisonError::into_inner);
        ticker.get_or_insert_with(|| Ticker::start(&self.talk));
    }
}

impl Drop for Printer {
    fn drop(&mut self) {
        self.close();
    }
}

impl Events for Printer {
    fn emit(&self, event: Event) {
        match self.form {
            Form::Text => self.text_event(&event),
            Form::Json => {
                if let Ok(line) = serde_json::to_string(&event) {
                    self.say(&line);
                }
            }
        }
    }
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    table_within(columns(), header)
}

/// The width of the terminal.
fn columns() -> u16 {
    terminal_size::terminal_size().map_or(WIDTH, |(width, _)| width.0).clamp(40, 200)
}

fn table_within<const N: usize>(columns: u16, header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(columns);
    table.set_header(header);
    table
}

fn plan_text(plan: &ContainerPlan) -> String {
    let mut text = format!("container {}\n", plan.container);
    for RequestValue { name, value, source } in &plan.request {
        let _ = writeln!(text, "  {name:<12} {value} ({source})");
    }
    for (part, what) in &plan.parts {
        let _ = writeln!(text, "  {part:<12} {what}");
    }
    for line in &plan.kept {
        let _ = writeln!(text, "  kept         {line}");
    }
    for download in &plan.downloads {
        let size = download.bytes.map_or("size unknown".to_owned(), |n| HumanBytes(n).to_string());
        let _ = writeln!(text, "  download     {} ({size})", download.name);
    }
    match plan.bytes_to_write {
        Some(0) => {}
        Some(bytes) => {
            let _ = writeln!(
                text,
                "  write        {} of the driver, and what apt installs",
                HumanBytes(bytes)
            );
        }
        None => text.push_str("  write        known when the installer is in the cache\n"),
    }
    if let Some(error) = &plan.error {
        let _ = writeln!(text, "  error: {error}");
    }
    if !plan.diff.is_empty() {
        let _ = write!(text, "\n{}", plan.diff);
    }
    text
}

/// The text without control characters: words of a container's programs are part of messages, and
/// must not steer the terminal of whoever reads them.
pub fn harmless(text: &str) -> String {
    let replaced =
        |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c };
    text.chars().map(replaced).collect()
}

#[cfg(test)]
mod tests;
