//! What `nvstage doctor` found, for people.

use std::fmt::Write as _;

use super::{Printer, columns};
use crate::cmd::doctor::Examined;
use crate::ctid::Ctid;
use crate::doctor::{Diagnosis, NotMade, Remedy, containers_named};

impl Printer {
    /// Prints what is wrong and what helps.
    pub fn doctor(&self, examined: &Examined) {
        self.result(examined, || text(&examined.diagnosis, columns().min(120)));
    }
}

/// The same as text of so many columns, as far as a command does not need more.
pub fn text(diagnosis: &Diagnosis, columns: u16) -> String {
    let columns = usize::from(columns);
    let mut text = String::new();
    for finding in &diagnosis.findings {
        let whose = whose(finding.container.as_ref());
        let _ = writeln!(text, "{}: {whose}: {}", finding.severity, finding.check);
        text += &wrapped(&finding.finding, columns);
        match &finding.remedy {
            // In one piece, to be copied.
            Some(Remedy::Command(command)) => _ = writeln!(text, "  remedy: {command}"),
            Some(Remedy::Advice(advice)) => text += &wrapped(&format!("remedy: {advice}"), columns),
            None => {}
        }
        text.push('\n');
    }
    text += match (diagnosis.findings.is_empty(), diagnosis.not_made.is_empty()) {
        (true, true) => "nothing is wrong\n",
        (true, false) => "nothing wrong was found\n\n",
        (false, _) => "",
    };
    for (whose, why, checks) in grouped(&diagnosis.not_made) {
        let line = format!("not checked, {whose}: {checks} ({why})");
        text += &wrapped(&line, columns)[2..];
    }
    let (checks, findings) = (diagnosis.checks.len(), diagnosis.findings.len());
    let _ = writeln!(text, "{}, {}", counted(checks, "check"), counted(findings, "finding"));
    text
}

fn whose(container: Option<&Ctid>) -> String {
    container.map_or("host".to_owned(), |ctid| containers_named(std::slice::from_ref(ctid)))
}

/// The checks that were not made: whose, why, and which. Those of one container for one reason
/// are together, and so are the containers that have the same.
fn grouped(not_made: &[NotMade]) -> Vec<(String, &str, String)> {
    let mut reasons: Vec<(Option<&Ctid>, &str, Vec<&str>)> = Vec::new();
    for one in not_made {
        let (whose, name) = (one.container.as_ref(), one.check.name());
        match reasons.iter_mut().find(|(other, why, _)| *other == whose && *why == one.why) {
            Some((.., checks)) => checks.push(name),
            None => reasons.push((whose, &one.why, vec![name])),
        }
    }
    let mut groups: Vec<(Vec<Ctid>, &str, Vec<&str>)> = Vec::new();
    for (whose, why, checks) in reasons {
        let is_same = |group: &&mut (Vec<Ctid>, &str, Vec<&str>)| {
            whose.is_some() && !group.0.is_empty() && (group.1, &group.2) == (why, &checks)
        };
        match groups.iter_mut().find(is_same) {
            Some((ctids, ..)) => ctids.extend(whose.cloned()),
            None => groups.push((whose.cloned().into_iter().collect(), why, checks)),
        }
    }
    let shown = |(ctids, why, checks): (Vec<Ctid>, _, Vec<&str>)| {
        let whose = if ctids.is_empty() { whose(None) } else { containers_named(&ctids) };
        (whose, why, checks.join(", "))
    };
    groups.into_iter().map(shown).collect()
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Lines of at most this many columns, indented by two, broken at blanks.
fn wrapped(text: &str, columns: usize) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in words(text, columns.saturating_sub(2)) {
        if !line.is_empty() && 2 + line.chars().count() + 1 + word.chars().count() > columns {
            let _ = writeln!(lines, "  {line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    let _ = writeln!(lines, "  {line}");
    lines
}

/// The pieces between which a line may break: words, and what is quoted, unless that is wider than
/// a line.
fn words(text: &str, columns: usize) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match pieces.last_mut().filter(|piece| piece.matches('`').count() % 2 == 1) {
            Some(quoted) => *quoted += &format!(" {word}"),
            None => pieces.push(word.to_owned()),
        }
    }
    let broken = |piece: String| match piece.chars().count() > columns {
        true => piece.split(' ').map(str::to_owned).collect(),
        false => vec![piece],
    };
    pieces.into_iter().flat_map(broken).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{CheckName, Finding, Made, Severity};

    #[test]
    fn findings_are_told_with_their_remedies_in_80_columns() {
        let ctid = Ctid::parse("201").unwrap();
        let mode =
            "`/dev/nvidia0` has mode 0660: containers 201, 202, 203, 204 and 205 cannot open it";
        let finding = |check, container, finding: &str, remedy: Option<Remedy>| Finding {
            severity: Severity::Error,
            check,
            container,
            looked_at: "x".to_owned(),
            finding: finding.to_owned(),
            remedy,
        };
        let command = format!("sh -c 'rm {}'", "/usr/lib/libcuda.so.570.207 ".repeat(3));
        let advice = "write `blacklist nouveau` into /etc/modprobe.d/blacklist-nouveau.conf, and start again";
        let diagnosis = Diagnosis {
            findings: vec![
                finding(CheckName::NodeMode, None, mode, Some(command.as_str().into())),
                finding(CheckName::Nouveau, None, "held", Some(Remedy::Advice(advice.to_owned()))),
                finding(CheckName::Musl, Some(ctid), "musl", None),
            ],
            checks: vec![Made {
                check: CheckName::NodeMode,
                container: None,
                looked_at: "/dev".to_owned(),
            }],
            not_made: Vec::new(),
        };
        assert_eq!(
            text(&diagnosis, 80),
            format!(
                "error: host: node-mode\n  \
                   `/dev/nvidia0` has mode 0660: containers 201, 202, 203, 204 and 205 cannot\n  \
                   open it\n  \
                   remedy: {command}\n\n\
                 error: host: nouveau\n  \
                   held\n  \
                   remedy: write `blacklist nouveau` into /etc/modprobe.d/blacklist-nouveau.conf,\n  \
                   and start again\n\n\
                 error: container 201: musl\n  \
                   musl\n\n\
                 1 check, 3 findings\n"
            )
        );
    }

    #[test]
    fn containers_that_were_not_looked_into_for_one_reason_are_told_together() {
        let not_made = |ctid: &str, check, why: &str| NotMade {
            check,
            container: Ctid::parse(ctid).ok(),
            why: why.to_owned(),
        };
        let mut all = vec![not_made("", CheckName::UvmMissing, "no module")];
        for ctid in ["201", "202", "203"] {
            let why = if ctid == "202" { "unseen" } else { "stopped" };
            all.extend([CheckName::Nodes, CheckName::Musl].map(|check| not_made(ctid, check, why)));
        }
        let diagnosis = Diagnosis { not_made: all, ..Diagnosis::default() };
        assert_eq!(
            text(&diagnosis, 80),
            "nothing wrong was found\n\n\
             not checked, host: uvm-missing (no module)\n\
             not checked, containers 201 and 203: nodes, musl (stopped)\n\
             not checked, container 202: nodes, musl (unseen)\n\
             0 checks, 0 findings\n"
        );
    }

    #[test]
    fn a_line_breaks_inside_of_what_is_quoted_only_where_that_is_wider() {
        let broken = |text: &str| wrapped(text, 22);
        assert_eq!(
            broken("a line `of two words`, no more"),
            "  a line\n  `of two words`, no\n  more\n"
        );
        assert_eq!(broken("`one that is too wide for it`"), "  `one that is too\n  wide for it`\n");
    }

    #[test]
    fn a_healthy_system_is_called_that() {
        assert_eq!(text(&Diagnosis::default(), 80), "nothing is wrong\n0 checks, 0 findings\n");
    }
}
