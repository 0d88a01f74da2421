//! Reports for people: every step of one container; of many a row each, and the steps of those that
//! need attention.

#![allow(clippy::unwrap_used, reason = "tests are the world around the program")]

use std::time::Duration;

use nvstage::ctid::Ctid;
use nvstage::error::{Error, ExitCode};
use nvstage::printer::report::text;
use nvstage::report::{ContainerReport, Outcome, Report, Step};

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
    let skipped = [(Step::Facts, Outcome::Skipped("container 203 failed".to_owned()))];
    let containers = vec![
        done("201"),
        container("202", &steps),
        failed("203"),
        container("204", &[(Step::Driver, changed("installed")), (Step::Checks, warning)]),
        container("205", &no_gpu),
        container("206", &skipped),
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
 206        skipped    1.2 s  container 203 failed

 container  step         outcome    time   detail
 203        passthrough  unchanged  1.2 s  4 lines
 203        driver       failed     1.2 s  install driver 580.76.05: no space
                                           is left in
                                           `/usr/lib/x86_64-linux-gnu`
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
206 skipped, 1.2 s: container 203 failed

203 passthrough: unchanged: 4 lines (1.2
  s)
203 driver: failed: install driver
  580.76.05: no space is left in
  `/usr/lib/x86_64-linux-gnu` (1.2 s)
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
        "\n2 containers: 1 unchanged, 1 differs, exit code 10\n",
    ] {
        assert!(text.contains(line), "{line:?}\n{text}");
    }
}
