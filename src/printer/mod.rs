//! The one place that prints: stdout is data, stderr is talk.
//!
//! On a terminal there is a line that moves; elsewhere one line a finished step; with `--json`
//! every event is a JSON line on stderr and the result one JSON document on stdout.

mod bundle;
pub mod doctor;
pub mod gpus;
mod pace;

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use comfy_table::{ContentArrangement, Table};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::cmd::plan::{ContainerPlan, Plans};
use crate::cmd::prefetch::Prefetched;
use crate::error::{Error, ExitCode};
use crate::event::{Event, Events};
use crate::report::Report;
use pace::Pace;

mod cache;
mod refresh;

/// Columns where the terminal does not say how many it has.
const WIDTH: u16 = 80;
/// Between two lines about the same download where there is no terminal.
const SPARSE: Duration = Duration::from_secs(10);

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
    bar: ProgressBar,
    told: Mutex<Instant>,
    pace: Mutex<Pace>,
}

impl Printer {
    /// A printer for this process's standard output and error.
    pub fn new(form: Form) -> Self {
        let target = match form {
            Form::Text => ProgressDrawTarget::stderr(),
            Form::Json => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(ProgressStyle::default_spinner());
        Self { form, bar, told: Mutex::new(Instant::now()), pace: Mutex::default() }
    }

    /// Prints a report: a table, or JSON.
    pub fn report(&self, report: &Report) {
        self.result(report, || {
            let mut table = table(["container", "step", "outcome", "time", "detail"]);
            for container in &report.containers {
                for step in &container.steps {
                    let (name, detail) = step.outcome.parts();
                    table.add_row([
                        container.container.to_string(),
                        step.step.to_string(),
                        name.to_owned(),
                        format!("{:.1} s", step.seconds),
                        detail.to_owned(),
                    ]);
                }
            }
            let mut text = format!("{table}\n");
            for container in &report.containers {
                let what = match (&container.error, container.exit) {
                    (_, ExitCode::Differs) => "differs",
                    (Some(_), _) => "failed",
                    (None, _) => "done",
                };
                let _ = write!(
                    text,
                    "{}: {what}, exit code {}",
                    container.container,
                    container.exit.code()
                );
                if let Some(log) = &container.log {
                    let _ = write!(text, ", log {log}");
                }
                text.push('\n');
            }
            text
        });
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
        self.bar.finish_and_clear();
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
        let text = harmless(text);
        self.bar.suspend(|| {
            let _ = writeln!(io::stderr().lock(), "{text}");
        });
    }

    fn text_event(&self, event: Event) {
        let name = |container: &Option<crate::ctid::Ctid>| {
            container.as_ref().map_or(String::new(), |ctid| format!("{ctid} "))
        };
        match event {
            Event::StepStarted { container, step } => {
                self.bar.set_style(ProgressStyle::default_spinner());
                self.bar.set_message(format!("{}{step}", name(&container)));
                self.bar.enable_steady_tick(Duration::from_millis(100));
            }
            Event::StepEnded { container, step, outcome, took } => {
                self.bar.set_message("");
                let seconds = took.as_secs_f64();
                self.say(&format!("{}{step}: {outcome} ({seconds:.1} s)", name(&container)));
            }
            Event::Progress { name, done, total } => self.progress(&name, done, total),
            Event::Detail { .. }
            | Event::BatchStarted { .. }
            | Event::ContainerStarted { .. }
            | Event::ContainerEnded { .. } => {}
            Event::Note { text } => self.say(&text),
            Event::Warning { text } => self.say(&format!("warning: {text}")),
            Event::Failed { text } => self.say(&format!("error: {text}")),
        }
    }

    fn progress(&self, name: &str, done: u64, total: Option<u64>) {
        let of = total.map_or(String::new(), |total| format!(" of {}", HumanBytes(total)));
        let mut pace = self.pace.lock().unwrap_or_else(|poison| poison.into_inner());
        let rate = pace.told(name, (done, total), Instant::now());
        drop(pace);
        let text = format!("{name}: {}{of}{rate}", HumanBytes(done));
        self.bar.set_message(text.clone());
        let is_told = io::stderr().is_terminal();
        let Ok(mut told) = self.told.lock() else { return };
        if !is_told && told.elapsed() >= SPARSE {
            *told = Instant::now();
            self.say(&text);
        }
    }
}

impl Events for Printer {
    fn emit(&self, event: Event) {
        match self.form {
            Form::Text => self.text_event(event),
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
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\r\n\tc"), "a\u{fffd}[2Jb\u{fffd}\n\tc");
    }
}
