//! Reports for people: every step of one container; of many a row each, and the steps of those that
//! need attention. What a real terminal and a real file get of a run.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::time::Duration;

use indicatif::{InMemoryTerm, TermLike};
use nvstage::ctid::Ctid;
use nvstage::error::{Error, ExitCode};
use nvstage::printer::report::text;
use nvstage::report::{ContainerReport, Outcome, Report, Step};
use support::{Host, Kind, Nodes, Site, VERSION};

fn container(name: &str, steps: &[(Step, Outcome)]) -> ContainerReport {
    let mut report = ContainerReport::new(&Ctid::parse(name).unwrap());
    for (step, outcome) in steps {
        report.add(*step, outcome.clone(), Duration::from_millis(1200));
    }
    report.log = Some(format!("/var/log/nvstage/20261128-080000/{name}.log"));
    report
}

fn changed(what: &str) -> Outcome {
    Outcome::Changed(what.to_owned())
}

fn unchanged(what: &str) -> Outcome {
    Outcome::Unchanged(what.to_owned())
}

fn done(name: &str) -> ContainerReport {
    let steps = [
        (Step::Facts, unchanged("running, debian12")),
        (Step::Passthrough, changed("added 4 lines")),
        (Step::Power, changed("restarted")),
        (Step::Driver, changed("driver 580.76.05 installed")),
        (Step::Checks, unchanged("libraries, nodes, nvidia-smi passed")),
    ];
    container(name, &steps)
}

fn failed(name: &str) -> ContainerReport {
    let what = "install driver 580.76.05: no space is left in `/usr/lib/x86_64-linux-gnu`";
    let steps = [
        (Step::Passthrough, unchanged("4 lines")),
        (Step::Driver, Outcome::Failed(what.to_owned())),
    ];
    let mut report = container(name, &steps);
    report.fail(Error::install(what).because("it has 0 B free").hint("enlarge it"));
    report
}

fn of_many_kinds() -> Report {
    let steps = [(Step::Driver, unchanged("580.76.05")), (Step::Checks, unchanged("passed"))];
    let warning = Outcome::Warned("nodes not checkable here: no driver answers".to_owned());
    let no_gpu = [(Step::Passthrough, unchanged("no GPU is assigned, nothing to do"))];
    let skipped = Outcome::Skipped("not begun: container 203 failed".to_owned());
    let mut skipped = container("206", &[(Step::Facts, skipped)]);
    skipped.not_begun = true;
    let containers = vec![
        done("201"),
        container("202", &steps),
        failed("203"),
        container("204", &[(Step::Driver, changed("installed")), (Step::Checks, warning)]),
        container("205", &no_gpu),
        skipped,
    ];
    Report::new("provision", containers)
}

#[test]
fn many_containers_have_a_row_each_and_steps_where_something_is_wrong() {
    let expected = "\x20container  outcome    time   what
 201        done       6.0 s  changed passthrough, power, driver
 202        unchanged  2.4 s
 203        failed     2.4 s  failed to install driver 580.76.05: no space is
                              left in `/usr/lib/x86_64-linux-gnu`
 204        done       2.4 s  changed driver; warning: checks
 205        unchanged  1.2 s  no GPU is assigned, nothing to do
 206        skipped    1.2 s  not begun: container 203 failed

 container  step         outcome    time   detail
 203        passthrough  unchanged  1.2 s  4 lines
 203        driver       failed     1.2 s  install driver 580.76.05: no space
                                           is left in
                                           `/usr/lib/x86_64-linux-gnu`
                                           caused by: it has 0 B free
                                           hint: enlarge it
 204        driver       changed    1.2 s  installed
 204        checks       warning    1.2 s  nodes not checkable here: no driver
                                           answers
203: failed, exit code 5, log /var/log/nvstage/20261128-080000/203.log
204: done, exit code 0, log /var/log/nvstage/20261128-080000/204.log

6 containers: 2 done, 2 unchanged, 1 skipped, 1 failed, exit code 5
";
    assert_eq!(text(&of_many_kinds(), 80), expected);
}

#[test]
fn forty_columns_are_enough_for_many_containers() {
    let expected = "\
201 done, 6.0 s: changed passthrough,
  power, driver
202 unchanged, 2.4 s
203 failed, 2.4 s: failed to install
  driver 580.76.05: no space is left in
  `/usr/lib/x86_64-linux-gnu`
204 done, 2.4 s: changed driver;
  warning: checks
205 unchanged, 1.2 s: no GPU is
  assigned, nothing to do
206 skipped, 1.2 s: not begun: container
  203 failed

203 passthrough: unchanged: 4 lines (1.2
  s)
203 driver: failed: install driver
  580.76.05: no space is left in
  `/usr/lib/x86_64-linux-gnu` (1.2 s)
  caused by: it has 0 B free
  hint: enlarge it
204 driver: changed: installed (1.2 s)
204 checks: warning: nodes not checkable
  here: no driver answers (1.2 s)
203: failed, exit code 5, log /var/log/nvstage/20261128-080000/203.log
204: done, exit code 0, log /var/log/nvstage/20261128-080000/204.log

6 containers: 2 done, 2 unchanged, 1
  skipped, 1 failed, exit code 5
";
    assert_eq!(text(&of_many_kinds(), 40), expected);
}

#[test]
fn a_hundred_containers_have_a_hundred_rows() {
    let containers = (101..201).map(|number| done(&number.to_string())).collect();
    let text = text(&Report::new("provision", containers), 80);
    assert_eq!(text.lines().count(), 103, "{text}");
    assert!(text.ends_with("\n\n100 containers: 100 done, exit code 0\n"), "{text}");
}

#[test]
fn one_container_has_all_its_steps() {
    let report = Report::new("provision", vec![done("201")]);
    let expected = "\x20container  step         outcome    time   detail
 201        facts        unchanged  1.2 s  running, debian12
 201        passthrough  changed    1.2 s  added 4 lines
 201        power        changed    1.2 s  restarted
 201        driver       changed    1.2 s  driver 580.76.05 installed
 201        checks       unchanged  1.2 s  libraries, nodes, nvidia-smi passed
201: done, exit code 0, log /var/log/nvstage/20261128-080000/201.log
";
    assert_eq!(text(&report, 80), expected);
}

#[test]
fn verify_says_which_containers_differ() {
    let mut differs = container("202", &[(Step::Checks, Outcome::Failed("nodes".to_owned()))]);
    differs.error = Some(Error::new(ExitCode::Differs, "find it as it should be: nodes"));
    differs.exit = ExitCode::Differs;
    let checked = container("201", &[(Step::Checks, unchanged("libraries, nodes passed"))]);
    let text = text(&Report::new("verify", vec![checked, differs]), 80);
    for line in [
        "\n 202        differs    1.2 s  failed to find it as it should be: nodes",
        "\n202: differs, exit code 10, log ",
        "\n  failed to find it as it should be: nodes\n",
        "\n2 containers: 1 unchanged, 1 differs, exit code 10\n",
    ] {
        assert!(text.contains(line), "{line:?}\n{text}");
    }
}

#[test]
fn a_failure_outside_of_every_step_has_its_reason_below() {
    let mut report = container("201", &[(Step::Facts, unchanged("running"))]);
    report.fail(Error::host("keep its journal").because("no space is left").hint("make room"));
    let text = text(&Report::new("provision", vec![report]), 80);
    let expected = "\
201: failed, exit code 4, log /var/log/nvstage/20261128-080000/201.log
  failed to keep its journal
  caused by: no space is left
  hint: make room
";
    assert!(text.ends_with(expected), "{text}");
}

/// A terminal of so many columns and rows, as the program writes to it.
struct Terminal {
    code: i32,
    bytes: Vec<u8>,
    /// What it showed, one text for each time that it changed.
    frames: Vec<String>,
}

/// Runs the program on a terminal of its own (`script(1)`).
fn on_terminal(host: &Host, (columns, rows): (u16, u16), arguments: &[&str]) -> Terminal {
    let program = env!("CARGO_BIN_EXE_nvstage");
    let line = format!("stty cols {columns} rows {rows}; exec {program} {}", arguments.join(" "));
    let mut command = host.command("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("TERM", "xterm");
    let output = command.output().unwrap();
    let memory = InMemoryTerm::new(rows, columns);
    let mut frames = Vec::new();
    for byte in &output.stdout {
        // Nothing but ASCII is written; what is not would be a finding.
        assert!(byte.is_ascii(), "{}", String::from_utf8_lossy(&output.stdout));
        memory.write_str(char::from(*byte).to_string().as_str()).unwrap();
        let contents = memory.contents();
        if frames.last() != Some(&contents) {
            frames.push(contents);
        }
    }
    Terminal { code: output.status.code().unwrap(), bytes: output.stdout, frames }
}

impl Terminal {
    /// The lines it showed at any time.
    fn lines(&self) -> Vec<&str> {
        self.frames.iter().flat_map(|frame| frame.lines()).collect()
    }

    /// Nothing is in the bytes but text, ends of lines, and movements that clear lines.
    #[track_caller]
    fn is_plain(&self) {
        let text = String::from_utf8_lossy(&self.bytes);
        for part in text.split('\u{1b}').skip(1) {
            let sequence = part.strip_prefix('[').expect("a control sequence");
            let end = sequence.find(|c: char| c.is_ascii_alphabetic()).unwrap();
            let number = sequence[..end].parse::<u16>().unwrap_or_default();
            let is_known = match sequence.as_bytes()[end] {
                b'A' | b'B' => number > 0,
                b'K' => number == 2,
                _ => false,
            };
            assert!(is_known, "ESC[{}", &sequence[..=end]);
        }
        assert!(!text.contains(|c: char| c.is_control() && !"\u{1b}\r\n".contains(c)), "{text:?}");
    }
}

#[test]
fn a_terminal_shows_the_step_of_one_container_and_is_left_clean() {
    let (host, site) = (Host::new(Kind::Pct, Nodes::Answering(VERSION)), Site::new());
    let ctid = host.container("privileged", &[]);
    let recipe = site.driver_only();
    let arguments = ["provision", &ctid, "--gpus", "0", "--recipe", &recipe];
    let terminal = on_terminal(&host, (80, 24), &arguments);
    assert_eq!(terminal.code, 0, "{}", String::from_utf8_lossy(&terminal.bytes));
    terminal.is_plain();
    let lines = terminal.lines();
    // One that is shorter than a redraw may never be seen.
    let begins = format!("{ctid}  driver  0:0");
    assert!(lines.iter().any(|line| line.starts_with(&begins)), "{begins}\n{lines:#?}");
    let last = terminal.frames.last().unwrap();
    assert!(!last.contains("  0:0"), "a moving line is left:\n{last}");
    assert!(last.contains(&format!("\n{ctid} driver: changed: ")), "{last}");
    assert!(last.contains(&format!("\n{ctid}: done, exit code 0, log ")), "{last}");
    // 40 columns and 3 rows: no line is cut by the terminal, and the report is whole.
    let terminal = on_terminal(&host, (40, 3), &arguments);
    assert_eq!(terminal.code, 0, "{}", String::from_utf8_lossy(&terminal.bytes));
    terminal.is_plain();
    let text = String::from_utf8_lossy(&terminal.bytes).into_owned();
    assert!(text.contains(&format!("{ctid} driver: unchanged:")), "{text}");
    assert!(text.contains(&format!("{ctid}: done, exit code 0, log ")), "{text}");
}

#[test]
fn a_file_gets_neither_control_characters_nor_carriage_returns() {
    let (host, site) = (Host::new(Kind::Pct, Nodes::Answering(VERSION)), Site::new());
    let made = [(); 2].map(|()| host.container("privileged", &[]));
    let recipe = site.driver_only();
    let arguments = ["provision", &made[0], "999999", &made[1], "--gpus", "0", "--recipe", &recipe];
    let run = host.run(&arguments).code(3);
    for text in [&run.stdout, &run.stderr] {
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }
    for ctid in &made {
        assert!(run.stderr.contains(&format!("\n{ctid} driver: changed: ")), "{}", run.stderr);
    }
    let told = run.stderr.matches("failed to find it: it does not exist").count();
    assert_eq!(told, 1, "{}", run.stderr);
    run.says("error: container 999999: failed to find it").shows("3 containers: 2 done, 1 failed");

    // With JSON every event is a line, also on a terminal.
    let json: Vec<&str> = ["--json"].into_iter().chain(arguments).collect();
    let run = host.run(&json).code(3);
    let events: Vec<serde_json::Value> =
        run.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    let counts = ["batch_started", "container_started", "container_ended", "failed"].map(count);
    assert_eq!(counts, [1, 2, 3, 1], "{}", run.stderr);
    assert_eq!(run.json()["containers"].as_array().unwrap().len(), 3);
    let terminal = on_terminal(&host, (40, 3), &json);
    assert!(!terminal.bytes.contains(&0x1b), "{}", String::from_utf8_lossy(&terminal.bytes));
    let text = String::from_utf8_lossy(&terminal.bytes).into_owned();
    let lines = text.lines().filter(|line| line.starts_with("{\"event\""));
    let parsed = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    assert_eq!(parsed.count(), events.len(), "{text}");
}

/// Four containers and one that is not there, on a terminal.
fn batch_on(host: &Host, size: (u16, u16), made: &[String], recipe: &str) -> Terminal {
    let mut arguments =
        vec!["provision", "999999", "--jobs", "4", "--start", "--gpus", "0", "--recipe", recipe];
    arguments.splice(1..1, made.iter().map(String::as_str));
    let terminal = on_terminal(host, size, &arguments);
    assert_eq!(terminal.code, 3, "{}", String::from_utf8_lossy(&terminal.bytes));
    terminal.is_plain();
    terminal
}

#[test]
fn a_terminal_shows_a_batch_and_is_left_clean() {
    let (host, site) = (Host::new(Kind::Pct, Nodes::Answering(VERSION)), Site::new());
    let made = [(); 4].map(|()| host.container("privileged", &[]));
    let recipe = site.driver_only();
    let terminal = batch_on(&host, (80, 40), &made, &recipe);
    let lines = terminal.lines();
    let begins = |text: &str| lines.iter().any(|line| line.starts_with(text));
    for ctid in &made {
        assert!(begins(&format!("{ctid}  driver")), "{ctid}\n{lines:#?}");
    }
    for total in ["0 of 5 done, 1 failed, 4 at work, 0:0", "3 of 5 done, 1 failed, 1 at work, 0:"] {
        assert!(begins(total), "{total}\n{lines:#?}");
    }
    let last = terminal.frames.last().unwrap();
    for ctid in &made {
        assert!(last.contains(&format!("\n{ctid} done, ")), "{last}");
    }
    let failed = "\n999999 failed: find it: it does not exist\n  hint: `pct list` shows";
    assert!(last.contains(failed), "{last}");
    assert!(!last.contains(" at work") && !last.contains("  0:0"), "{last}");
    assert!(last.ends_with("\n5 containers: 4 done, 1 failed, exit code 3"), "{last}");

    // Three rows: what moves is never more than two of them, so that a line that stays is seen.
    let terminal = batch_on(&host, (40, 3), &made, &recipe);
    let is_moving = |line: &&str| line.contains("  0:0") || line.contains(" of 5 done");
    for frame in &terminal.frames {
        assert!(frame.lines().filter(is_moving).count() <= 2, "{frame}");
    }
    let text = String::from_utf8_lossy(&terminal.bytes).into_owned();
    for ctid in &made {
        assert!(text.contains(&format!("{ctid} unchanged, ")), "{text}");
    }
    assert!(text.ends_with("5 containers: 4 unchanged, 1 failed,\r\n  exit code 3\r\n"), "{text}");
}
