//! A report for people. Of one container every step; of many a row for each container, and the steps
//! of those alone that need attention. In few columns there are lines instead of tables.

use std::fmt::Write as _;

use super::layout::wrapped;
use super::table_within;
use crate::error::{Error, ExitCode};
use crate::report::{ContainerReport, Outcome, Report, StepReport};

/// In fewer columns a table would break its words.
const TABLE: u16 = 60;

/// The report as text of so many columns.
pub fn text(report: &Report, columns: u16) -> String {
    match &report.containers[..] {
        [container] => {
            format!("{}{}", steps(&[container], columns), last_line(container))
        }
        containers => many(report, containers, columns),
    }
}

/// `container step outcome time detail`.
fn steps(containers: &[&ContainerReport], columns: u16) -> String {
    let mut table = table_within(columns, ["container", "step", "outcome", "time", "detail"]);
    let mut lines = String::new();
    for container in containers {
        let ctid = &container.container;
        for StepReport { step, outcome, seconds } in &container.steps {
            let (name, detail) = outcome.parts();
            let time = format!("{seconds:.1} s");
            let why = match &container.error {
                Some(error) if is_of(error, outcome) => why(error),
                _ => String::new(),
            };
            let indented = why.replace('\n', "\n  ");
            let _ = writeln!(lines, "{ctid} {step}: {outcome} ({time}){indented}");
            let detail = format!("{detail}{why}");
            let cells = [ctid.as_str(), &step.to_string(), name, &time, &detail];
            table.add_row(cells.map(str::to_owned));
        }
    }
    if columns < TABLE { within(&lines, columns) } else { table.trim_fmt() + "\n" }
}

/// Whether an error is what a step came to.
fn is_of(error: &Error, outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed(what) if what == error.what())
}

/// Causes and hints, each on a line of its own after the message.
fn why(error: &Error) -> String {
    let causes = error.causes().iter().map(|cause| format!("\ncaused by: {cause}"));
    causes.chain(error.hints().iter().map(|hint| format!("\nhint: {hint}"))).collect()
}

fn within(lines: &str, columns: u16) -> String {
    wrapped(lines, columns.into()) + "\n"
}

/// `201: done, exit code 0, log /var/log/nvstage/…/201.log`.
fn last_line(container: &ContainerReport) -> String {
    let what = match container.outcome() {
        outcome @ ("failed" | "differs") => outcome,
        _ => "done",
    };
    let mut line = format!("{}: {what}, exit code {}", container.container, container.exit.code());
    if let Some(log) = &container.log {
        let _ = write!(line, ", log {log}");
    }
    let steps = || container.steps.iter().map(|step| &step.outcome);
    // One that failed in no step has its reason here.
    if let Some(error) = container.error.as_ref().filter(|error| !steps().any(|o| is_of(error, o)))
    {
        let _ = write!(line, "\nfailed to {}{}", error.what(), why(error));
        line = line.replace('\n', "\n  ");
    }
    line + "\n"
}

fn many(report: &Report, containers: &[ContainerReport], columns: u16) -> String {
    let mut text = rows(containers, columns);
    let looked_at: Vec<&ContainerReport> =
        containers.iter().filter(|container| needs_attention(container)).collect();
    if !looked_at.is_empty() {
        let _ = write!(text, "\n{}", steps(&looked_at, columns));
        for container in looked_at {
            text.push_str(&last_line(container));
        }
    }
    let last = format!("{}, exit code {}", total(containers), report.exit.code());
    text + "\n" + &within(&last, columns)
}

/// `container outcome time what`.
fn rows(containers: &[ContainerReport], columns: u16) -> String {
    let mut table = table_within(columns, ["container", "outcome", "time", "what"]);
    let mut lines = String::new();
    for container in containers {
        let seconds: f64 = container.steps.iter().map(|step| step.seconds).sum();
        let (ctid, outcome, time) =
            (&container.container, container.outcome(), format!("{seconds:.1} s"));
        let what = what(container);
        let separator = if what.is_empty() { "" } else { ": " };
        let _ = writeln!(lines, "{ctid} {outcome}, {time}{separator}{what}");
        table.add_row([ctid.to_string(), outcome.to_owned(), time, what]);
    }
    if columns < TABLE { within(&lines, columns) } else { table.trim_fmt() + "\n" }
}

/// Of those that were not begun everything is in their row.
fn needs_attention(container: &ContainerReport) -> bool {
    let is_odd = container.exit != ExitCode::Done || warned(container).next().is_some();
    is_odd && !container.not_begun
}

fn warned(container: &ContainerReport) -> impl Iterator<Item = &StepReport> {
    container.steps.iter().filter(|step| matches!(step.outcome, Outcome::Warned(_)))
}

fn changed(container: &ContainerReport) -> impl Iterator<Item = &StepReport> {
    container.steps.iter().filter(|step| matches!(step.outcome, Outcome::Changed(_)))
}

/// What there is to say of it in one cell: the error, or what was changed and what was warned of, or
/// why nothing was done.
fn what(container: &ContainerReport) -> String {
    if let Some(error) = container.error.as_ref().filter(|_| !container.not_begun) {
        return format!("failed to {}", error.what());
    }
    let names = |steps: &mut dyn Iterator<Item = &StepReport>| {
        steps.map(|step| step.step.to_string()).collect::<Vec<_>>().join(", ")
    };
    let (changed, warned) = (names(&mut changed(container)), names(&mut warned(container)));
    match (changed.is_empty(), warned.is_empty()) {
        (false, true) => format!("changed {changed}"),
        (true, false) => format!("warning: {warned}"),
        (false, false) => format!("changed {changed}; warning: {warned}"),
        (true, true) => match &container.steps[..] {
            [step] => step.outcome.parts().1.to_owned(),
            _ => String::new(),
        },
    }
}

/// `12 containers: 9 done, 2 unchanged, 1 failed`.
fn total(containers: &[ContainerReport]) -> String {
    let words = ["done", "unchanged", "differs", "skipped", "interrupted", "failed"];
    let count = |word: &str| {
        let count = containers.iter().filter(|container| container.outcome() == word).count();
        (count > 0).then(|| format!("{count} {word}"))
    };
    let counted: Vec<String> = words.into_iter().filter_map(count).collect();
    match containers.len() {
        0 => "no containers".to_owned(),
        number => format!("{number} containers: {}", counted.join(", ")),
    }
}
