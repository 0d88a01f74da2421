//! What `nvstage doctor` found, for people.

use std::fmt::Write as _;

use super::{Printer, WIDTH};
use crate::cmd::doctor::Examined;
use crate::ctid::Ctid;
use crate::doctor::{Diagnosis, NotMade};

impl Printer {
    /// Prints what is wrong and what helps.
    pub fn doctor(&self, examined: &Examined) {
        let columns = terminal_size::terminal_size().map_or(WIDTH, |(width, _)| width.0);
        let columns = usize::from(columns.clamp(40, 120));
        self.result(examined, || text(&examined.diagnosis, columns));
    }
}

fn text(diagnosis: &Diagnosis, columns: usize) -> String {
    let mut text = String::new();
    for finding in &diagnosis.findings {
        let whose = whose(finding.container.as_ref());
        let _ = writeln!(text, "{}: {whose}: {}", finding.severity, finding.check);
        text += &wrapped(&finding.finding, columns);
        // A command in one piece can be copied.
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "  remedy: {remedy}");
        }
        text.push('\n');
    }
    if diagnosis.findings.is_empty() {
        text += "nothing is wrong\n";
    }
    for (whose, why, checks) in grouped(&diagnosis.not_made) {
        let line = format!("not checked, {whose}: {} ({why})", checks.join(", "));
        text += &wrapped(&line, columns)[2..];
    }
    let (checks, findings) = (diagnosis.checks.len(), diagnosis.findings.len());
    let _ = writeln!(text, "{}, {}", counted(checks, "check"), counted(findings, "finding"));
    text
}

fn whose(container: Option<&Ctid>) -> String {
    container.map_or("host".to_owned(), |ctid| format!("container {ctid}"))
}

/// The checks that were not made, those of the same container for the same reason together.
fn grouped(not_made: &[NotMade]) -> Vec<(String, &str, Vec<&str>)> {
    let mut groups: Vec<(String, &str, Vec<&str>)> = Vec::new();
    for one in not_made {
        let (whose, name) = (whose(one.container.as_ref()), one.check.name());
        match groups.iter_mut().find(|(other, why, _)| *other == whose && *why == one.why) {
            Some((.., checks)) => checks.push(name),
            None => groups.push((whose, &one.why, vec![name])),
        }
    }
    groups
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Lines of at most this many columns, indented by two, broken at blanks.
fn wrapped(text: &str, columns: usize) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && 2 + line.chars().count() + 1 + word.chars().count() > columns {
            let _ = writeln!(lines, "  {line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(lines, "  {line}");
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{CheckName, Finding, Made, Severity};

    #[test]
    fn findings_are_told_with_their_remedies_in_80_columns() {
        let ctid = Ctid::parse("201").unwrap();
        let container = Some(ctid.clone());
        let mode = "`/dev/nvidia0` has mode 0660: container 201, container 202 and container 203 cannot open it";
        let finding = |check, container, finding: &str, remedy: Option<&str>| Finding {
            severity: Severity::Error,
            check,
            container,
            looked_at: "x".to_owned(),
            finding: finding.to_owned(),
            remedy: remedy.map(str::to_owned),
        };
        let not_made =
            |check| NotMade { check, container: container.clone(), why: "stopped".to_owned() };
        let diagnosis = Diagnosis {
            findings: vec![
                finding(CheckName::NodeMode, None, mode, Some("chmod a+rw /dev/nvidia0")),
                finding(CheckName::Musl, Some(ctid), "musl", None),
            ],
            checks: vec![Made {
                check: CheckName::NodeMode,
                container: None,
                looked_at: "/dev".to_owned(),
            }],
            not_made: vec![not_made(CheckName::DriverVersion), not_made(CheckName::Nodes)],
        };
        assert_eq!(
            text(&diagnosis, 80),
            "error: host: node-mode\n  \
               `/dev/nvidia0` has mode 0660: container 201, container 202 and container 203\n  \
               cannot open it\n  \
               remedy: chmod a+rw /dev/nvidia0\n\n\
             error: container 201: musl\n  \
               musl\n\n\
             not checked, container 201: driver-version, nodes (stopped)\n\
             1 check, 2 findings\n"
        );
    }

    #[test]
    fn a_healthy_system_is_called_that() {
        assert_eq!(text(&Diagnosis::default(), 80), "nothing is wrong\n0 checks, 0 findings\n");
    }
}
