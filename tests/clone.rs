//! What an unchanged container costs, and its clones: looked at, and nothing more.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use support::{Host, Kind, Nodes, Run, Site, VERSION};

const ANSWERING: Nodes = Nodes::Answering(VERSION);
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libcuda.so.580.76.05";
/// Another content of the same size with the same time of its last change.
const DAMAGE: &str = "f=/usr/lib/x86_64-linux-gnu/libcuda.so.580.76.05; touch -r $f /tmp/time \
    && printf X | dd of=$f bs=1 seek=100 conv=notrunc 2>/dev/null && touch -r /tmp/time $f";

fn provision(host: &Host, recipe: &str, ctid: &str) -> Run {
    host.run(&["--json", "provision", ctid, "--gpus", "0", "--recipe", recipe])
}

/// Every step of a run on one container was nothing to do.
#[track_caller]
fn assert_unchanged(run: Run) {
    let report = run.code(0).json();
    for step in report["containers"][0]["steps"].as_array().unwrap() {
        assert_eq!(step["outcome"], "unchanged", "{step}");
    }
}

/// The record of what was found right; `None` where there is none.
fn record(host: &Host, ctid: &str) -> Option<String> {
    std::fs::read_to_string(host.path(&format!("/var/lib/nvstage/verified/{ctid}.json"))).ok()
}

fn write_record(host: &Host, ctid: &str, text: &str) {
    std::fs::write(host.path(&format!("/var/lib/nvstage/verified/{ctid}.json")), text).unwrap();
}

/// A running container that has the driver, and has been looked at since.
fn settled(host: &Host, site: &Site) -> String {
    let ctid = host.container("unprivileged", &[]);
    host.start(&ctid);
    provision(host, &site.driver_only(), &ctid).code(0);
    assert_unchanged(provision(host, &site.driver_only(), &ctid));
    assert!(record(host, &ctid).unwrap().contains(LIBRARY));
    ctid
}

#[test]
fn an_unchanged_container_costs_one_call_and_its_record_stays_as_it_is() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let ctid = settled(&host, &site);
    let before = record(&host, &ctid).unwrap();
    host.pct_calls();
    for _ in 0..2 {
        assert_unchanged(provision(&host, &site.driver_only(), &ctid));
    }
    assert_eq!(host.pct_calls().len(), 2);
    assert_eq!(record(&host, &ctid).unwrap(), before);
    // Restarted, it has the same files.
    host.shell(&format!("pct stop {ctid}")).code(0);
    host.start(&ctid);
    assert_unchanged(provision(&host, &site.driver_only(), &ctid));
    assert_eq!(record(&host, &ctid).unwrap(), before);
}

#[test]
fn a_file_that_was_changed_without_a_trace_in_size_and_time_is_found_and_repaired() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let ctid = settled(&host, &site);
    let stat = format!("stat -c '%s %y' {LIBRARY}");
    let before = host.inside(&ctid, &stat).code(0).stdout;
    host.inside(&ctid, DAMAGE).code(0);
    assert_eq!(host.inside(&ctid, &stat).stdout, before, "the damage shows");
    let recipe = site.driver_only();
    let arguments = [ctid.as_str(), "--gpus", "0", "--recipe", &recipe];
    let what = format!("repair driver {VERSION}: `{LIBRARY}` differs");
    host.run(&[&["plan"], &arguments[..]].concat()).code(10).shows(&what);
    host.run(&[&["provision"], &arguments[..]].concat()).code(0).shows(&what);
    host.run(&[&["verify"], &arguments[..]].concat()).code(0);
    assert_unchanged(provision(&host, &recipe, &ctid));
}

#[test]
fn a_lost_link_and_a_lost_file_are_found() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let ctid = settled(&host, &site);
    for gone in ["/usr/lib/x86_64-linux-gnu/libcuda.so.1", LIBRARY] {
        host.inside(&ctid, &format!("rm {gone}")).code(0);
        let run = provision(&host, &site.driver_only(), &ctid).code(0);
        assert!(run.stdout.contains(&format!("`{gone}` is missing")), "{}", run.stdout);
        assert_unchanged(provision(&host, &site.driver_only(), &ctid));
    }
}

#[test]
fn verify_reads_every_file_whatever_the_record_says() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let ctid = settled(&host, &site);
    let recipe = site.driver_only();
    let verify = ["verify", &ctid, "--gpus", "0", "--recipe", &recipe];
    // A record that knows another content where everything is right.
    let right = record(&host, &ctid).unwrap();
    let mut wrong: serde_json::Value = serde_json::from_str(&right).unwrap();
    wrong["files"][LIBRARY]["sha256"] = "0".repeat(64).into();
    write_record(&host, &ctid, &wrong.to_string());
    let plan = ["plan", &ctid, "--gpus", "0", "--recipe", &recipe];
    host.run(&plan).code(10).shows("libcuda.so.580.76.05` differs");
    host.run(&verify).code(0).shows("libraries passed");
}

#[test]
fn a_record_that_cannot_be_used_is_written_anew() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let ctid = settled(&host, &site);
    let right = record(&host, &ctid).unwrap();
    for text in ["", "{", &right.replace("\"version\":1", "\"version\":9")] {
        write_record(&host, &ctid, text);
        assert_unchanged(provision(&host, &site.driver_only(), &ctid));
        assert_eq!(record(&host, &ctid).unwrap(), right);
    }
    // One that cannot be written is no reason to fail.
    host.shell("rm -r /var/lib/nvstage/verified; echo > /var/lib/nvstage/verified").code(0);
    assert_unchanged(provision(&host, &site.driver_only(), &ctid));
}
