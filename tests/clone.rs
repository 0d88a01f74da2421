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
    host.run(&["--json", "provision", ctid, "--gpus", "0", "--recipe", recipe, "--start"])
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

/// A template of a provisioned container, by the recipe of `docs/fastest.md`.
fn template(host: &Host, recipe: &str, privilege: &str, options: &[&str]) -> String {
    let ctid = host.container(privilege, options);
    host.start(&ctid);
    provision(host, recipe, &ctid).code(0);
    host.shell(&format!("pct shutdown {ctid} && pct template {ctid}")).code(0);
    assert!(host.config(&ctid).contains("template: 1\n"), "{}", host.config(&ctid));
    ctid
}

/// What the program downloaded, what apt and the installer logged inside.
fn traces(host: &Host, site: &Site, ctid: &str) -> (usize, String) {
    let logs = "ls -l --time-style=full-iso /var/log/nvidia-installer.log /var/log/nvstage* /var/log/apt /var/log/dpkg.log 2>&1";
    (site.server.requests().len(), host.inside(ctid, logs).stdout)
}

fn a_clone_costs_one_check(privilege: &str, options: &str) {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let source = template(&host, &site.recipe(), privilege, &[&site.distribution()]);
    let (clone, made) = host.clone_of(&source, options);
    made.code(0);
    let config = host.config(&clone);
    assert!(!config.contains("template") && !config.contains("lock"), "{config}");
    assert!(config.contains("lxc.mount.entry: /dev/nvidia0 dev/nvidia0 "), "{config}");
    host.start(&clone);
    let (init, before) = (host.init(&clone), traces(&host, &site, &clone));
    host.pct_calls();

    assert_unchanged(provision(&host, &site.recipe(), &clone));

    let calls = host.pct_calls();
    assert_eq!(calls.len(), 1, "{}", calls.join("\n"));
    assert!(calls[0].starts_with(&format!("exec {clone} ")), "{}", calls[0]);
    assert_eq!(host.init(&clone), init, "it was restarted");
    assert_eq!(traces(&host, &site, &clone), before, "something was downloaded or installed");
    assert_eq!(host.config(&clone), config);
    let journal = host.path(&format!("/var/lib/nvstage/containers/{clone}.json"));
    let journal: serde_json::Value =
        serde_json::from_slice(&std::fs::read(journal).unwrap()).unwrap();
    assert_eq!(journal["state"], "attached");
    assert_eq!(journal["driver"], VERSION);
    assert!(journal["lines"].to_string().contains("/dev/nvidia0 dev/nvidia0"), "{journal}");
    // It was hashed once: what was found right is written down for this container too.
    assert!(record(&host, &clone).unwrap().contains(LIBRARY));
    assert_unchanged(provision(&host, &site.recipe(), &clone));
    // It is a container like any other: what is ours is taken out again. The packages were there
    // before it was seen for the first time.
    host.run(&["detach", "--uninstall", &clone]).code(0);
    assert!(!host.config(&clone).contains("nvidia"), "{}", host.config(&clone));
    assert_eq!(host.inside(&clone, &format!("test -e {LIBRARY}")).code, 1);
    host.inside(&clone, "dpkg -s nvtop cuda-toolkit-12-8").code(0);
}

#[test]
fn a_linked_clone_of_a_provisioned_template_costs_one_check() {
    a_clone_costs_one_check("unprivileged", "");
}

#[test]
fn a_full_clone_of_a_provisioned_template_costs_one_check() {
    a_clone_costs_one_check("privileged", "--full 1");
}

#[test]
fn a_clone_of_a_template_that_shares_the_hosts_driver_follows_the_host_and_installs_nothing() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let recipe = site.driver_only();
    let share = |ctid: &str| {
        let gpus = ["--gpus", "0", "--recipe", &recipe, "--method", "share"];
        host.run(&[&["--json", "provision", "--start", ctid], &gpus[..]].concat())
    };
    let source = host.container("unprivileged", &[]);
    host.start(&source);
    share(&source).code(0);
    host.shell(&format!("pct shutdown {source} && pct template {source}")).code(0);
    let clone = host.clone_of(&source, "").0;
    host.start(&clone);
    let init = host.init(&clone);
    host.pct_calls();
    assert_unchanged(share(&clone));
    assert_eq!(host.pct_calls().len(), 1);
    assert_eq!(host.init(&clone), init, "it was restarted");

    host.load_module("580.95.05");
    let run = share(&clone).code(0);
    assert!(!run.stdout.contains("install driver"), "{}", run.stdout);
    let smi = host.inside(&clone, "nvidia-smi").code(0).stdout;
    assert!(smi.contains("580.95.05"), "{smi}");
}

#[test]
fn a_stopped_clone_is_started_and_looked_at() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let source = template(&host, &site.driver_only(), "unprivileged", &[]);
    let (clone, made) = host.clone_of(&source, "");
    made.code(0);
    host.pct_calls();
    let run = provision(&host, &site.driver_only(), &clone).code(0);
    assert!(run.stdout.contains("libraries, nodes, nvidia-smi passed"), "{}", run.stdout);
    let calls = host.pct_calls();
    assert!(calls[0].starts_with("start "), "{}", calls.join("\n"));
    assert_eq!(calls.len(), 2, "{}", calls.join("\n"));
}

#[test]
fn a_damaged_clone_is_repaired_and_the_template_and_its_other_clones_are_not_touched() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let source = template(&host, &site.driver_only(), "unprivileged", &[]);
    let clones = [(); 2].map(|()| host.clone_of(&source, "").0);
    for clone in &clones {
        host.start(clone);
    }
    host.inside(&clones[0], DAMAGE).code(0);
    let run = provision(&host, &site.driver_only(), &clones[0]).code(0);
    assert!(run.stdout.contains("libcuda.so.580.76.05` differs"), "{}", run.stdout);
    assert_unchanged(provision(&host, &site.driver_only(), &clones[1]));
}

#[test]
fn a_clone_made_before_the_host_was_upgraded_gets_the_new_driver() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let source = template(&host, &site.driver_only(), "privileged", &[]);
    host.load_module("580.95.05");
    let (clone, made) = host.clone_of(&source, "");
    made.code(0);
    host.start(&clone);
    let run = provision(&host, &site.driver_only(), &clone).code(0);
    assert!(run.stdout.contains("replace driver 580.76.05 by 580.95.05"), "{}", run.stdout);
    assert_unchanged(provision(&host, &site.driver_only(), &clone));
}

#[test]
fn the_template_itself_is_refused_and_left_alone() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let source = template(&host, &site.driver_only(), "unprivileged", &[]);
    let config = host.config(&source);
    host.pct_calls();
    let recipe = site.driver_only();
    host.run(&["provision", &source, "--gpus", "0", "--recipe", &recipe])
        .code(2)
        .says("it is a template, which can never run")
        .says("clone it, and provision the clone");
    assert_eq!(host.config(&source), config);
    assert_eq!(host.pct_calls().len(), 0);
}

#[test]
fn a_container_that_is_being_cloned_is_refused_until_that_has_ended() {
    let host = Host::new(Kind::Pct, ANSWERING);
    let site = Site::new();
    let ctid = settled(&host, &site);
    let config = host.config(&ctid);
    std::fs::write(host.config_path(&ctid), format!("lock: disk\n{config}")).unwrap();
    let (_, refused) = host.clone_of(&ctid, "");
    refused.code(255).says("CT is locked (disk)");
    let run = provision(&host, &site.driver_only(), &ctid).code(4);
    assert!(run.stderr.contains("Proxmox has locked it (disk)"), "{}", run.stderr);
    host.shell(&format!("pct unlock {ctid}")).code(0);
    assert_unchanged(provision(&host, &site.driver_only(), &ctid));
}
