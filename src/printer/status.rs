//! What `nvstage status` found, for people.

use std::fmt::Write as _;

use jiff::tz::TimeZone;

use super::layout::wrapped;
use super::{Printer, columns, table_within};
use crate::cmd::status::Status;
use crate::engine::sharing::GpuUse;
use crate::engine::status::{ContainerStatus, Seen, Source, State};
use crate::journal::LastRun;

/// In fewer columns a table would break its words.
const TABLE: u16 = 70;

impl Printer {
    /// Prints what every container has.
    pub fn status(&self, status: &Status) {
        self.result(status, || text(status, columns()));
    }
}

/// The same as text of so many columns.
pub fn text(status: &Status, columns: u16) -> String {
    let module = status.module.as_ref().map(|version| format!("kernel module {version}"));
    let shared = status.shared_driver.as_ref().map(|version| format!("shared driver {version}"));
    let host: Vec<String> = module.into_iter().chain(shared).collect();
    let mut lines = host.join(", ");
    if !lines.is_empty() {
        lines.push('\n');
    }
    for finding in &status.host {
        let _ = writeln!(lines, "host: {finding}");
    }
    let mut text = within(&lines, columns);
    if status.containers.is_empty() {
        return text + "no container is managed by nvstage or has a GPU\n";
    }
    let _ = write!(text, "\n{}", rows(&status.containers, columns));
    if status.containers.iter().any(has_unseen) {
        let note = "* not seen inside: as nvstage left it, or as the next start brings it";
        text += &within(note, columns);
    }
    if status.containers.iter().any(|status| !status.shared_with.is_empty()) {
        text += &within("+ with so many other containers", columns);
    }
    if status.containers.iter().any(has_other_method) {
        let note = "other: lines of its configuration bring a driver of the host's";
        text += &within(note, columns);
    }
    let drifts = drifts(&status.containers, columns) + &notes(&status.containers, columns);
    if !drifts.is_empty() {
        let _ = write!(text, "\n{drifts}");
    }
    let _ = write!(text, "\n{}", within(&total(&status.containers), columns));
    text
}

fn within(lines: &str, columns: u16) -> String {
    match lines.is_empty() {
        true => String::new(),
        false => wrapped(lines, columns.into()) + "\n",
    }
}

/// A row each.
fn rows(containers: &[ContainerStatus], columns: u16) -> String {
    let header = ["CT", "state", "method", "driver", "CUDA", "GPUs", "last run", "drift"];
    let mut table = table_within(columns, header);
    let mut lines = String::new();
    for status in containers {
        let cells = cells(status);
        let _ = writeln!(lines, "{}", cells.join(" ").replace('\n', " "));
        table.add_row(cells);
    }
    if columns < TABLE { within(&lines, columns) } else { table.trim_fmt() + "\n" }
}

fn cells(status: &ContainerStatus) -> [String; 8] {
    let state = match status.state {
        State::Running => "running",
        State::Stopped => "stopped",
        State::Template => "template",
        State::Gone => "gone",
        State::Unknown => "unknown",
    };
    let kinds: Vec<&str> = status.drift.iter().map(|drift| drift.kind.name()).collect();
    let gpus: Vec<String> = status.gpus.iter().map(used).collect();
    let cuda: Vec<String> = status.cuda.iter().map(version).collect();
    [
        status.container.to_string(),
        state.to_owned(),
        match (status.method, status.driver_lines.is_empty()) {
            (Some(method), _) => method.to_string(),
            (None, false) => "other".to_owned(),
            (None, true) => "-".to_owned(),
        },
        status.driver.as_ref().map_or("-".to_owned(), version),
        or_dash(cuda.join(", ")),
        match status.shared_with.len() {
            0 => or_dash(gpus.join(", ")),
            others => format!("{} (+{others})", gpus.join(", ")),
        },
        status.last_run.as_ref().map_or("-".to_owned(), last_run),
        or_dash(kinds.join("\n")),
    ]
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// With a star where it was not seen inside.
fn version<T: std::fmt::Display>(seen: &Seen<T>) -> String {
    let star = if seen.source == Source::Inside { "" } else { "*" };
    format!("{}{star}", seen.version)
}

fn has_other_method(status: &ContainerStatus) -> bool {
    status.method.is_none() && !status.driver_lines.is_empty()
}

fn has_unseen(status: &ContainerStatus) -> bool {
    let of_driver = status.driver.iter().map(|seen| seen.source);
    let mut sources = of_driver.chain(status.cuda.iter().map(|seen| seen.source));
    sources.any(|source| source != Source::Inside)
}

/// `0`, `0 MIG`.
fn used(used: &GpuUse) -> String {
    match used.instances {
        None => used.index.to_string(),
        Some(_) => format!("{} MIG", used.index),
    }
}

/// The day, and how it ended unless that was well.
fn last_run(run: &LastRun) -> String {
    let day = run.at.to_zoned(TimeZone::system()).date();
    match run.exit {
        0 => day.to_string(),
        exit => format!("{day}\nexit code {exit}"),
    }
}

/// What differs, and below it what puts it right: a command is never broken into lines.
fn drifts(containers: &[ContainerStatus], columns: u16) -> String {
    let mut lines = String::new();
    for status in containers {
        for drift in &status.drift {
            lines += &within(&format!("{}: {}\n", status.container, drift.text), columns);
            if let Some(remedy) = &drift.remedy {
                let _ = writeln!(lines, "  remedy: {remedy}");
            }
        }
    }
    lines
}

/// What needs nothing to be done.
fn notes(containers: &[ContainerStatus], columns: u16) -> String {
    let of = |status: &ContainerStatus| -> String {
        let line = |note: &String| within(&format!("{}: {note}\n", status.container), columns);
        status.notes.iter().map(line).collect()
    };
    containers.iter().map(of).collect()
}

/// `5 containers, 2 drift`.
fn total(containers: &[ContainerStatus]) -> String {
    let drifting = containers.iter().filter(|status| !status.drift.is_empty()).count();
    let noun = if containers.len() == 1 { "container" } else { "containers" };
    match drifting {
        0 => format!("{} {noun}, none drifts", containers.len()),
        1 => format!("{} {noun}, 1 drifts", containers.len()),
        _ => format!("{} {noun}, {drifting} drift", containers.len()),
    }
}
