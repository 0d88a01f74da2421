//! `sync` on real containers: after the host's driver has changed.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use support::{Host, Kind, Nodes, Run, Site, VERSION};

/// The version that the host is upgraded to.
const NEXT: &str = "580.95.05";

/// A host with containers, provisioned for [`VERSION`].
struct Farm {
    host: Host,
    site: Site,
}

impl Farm {
    fn new() -> Self {
        Self { host: Host::new(Kind::Pct, Nodes::Answering(VERSION)), site: Site::new() }
    }

    fn container(&self, method: &str) -> String {
        let ctid = self.host.container("privileged", &[]);
        self.host.start(&ctid);
        let recipe = self.site.driver_only();
        let run = ["provision", &ctid, "--gpus", "0", "--recipe", &recipe, "--method", method];
        self.host.run(&run).code(0);
        ctid
    }

    fn stop(&self, ctid: &str) {
        self.host.shell(&format!("pct stop {ctid}")).code(0);
    }

    /// What a run says of a container: its exit code, and every step's name, outcome and detail.
    fn said(run: &Run, ctid: &str) -> (u64, String) {
        let report = run.json();
        let containers = report["containers"].as_array().unwrap();
        let one = containers.iter().find(|one| one["container"] == ctid).expect("it is not there");
        let steps = one["steps"].as_array().unwrap().iter();
        let text = steps.map(|s| format!("{}: {} {}\n", s["step"], s["outcome"], s["detail"]));
        (one["exit"].as_u64().unwrap(), text.collect())
    }
}

/// The version of the library that programs inside find.
fn version_inside(host: &Host, ctid: &str) -> String {
    let script =
        "ldconfig -p | sed -n 's/.*libcuda.so.1 .* => //p' | head -n 1 | xargs readlink -f";
    let path = host.inside(ctid, script).code(0).stdout;
    path.trim().rsplit_once(".so.").map(|(_, version)| version.to_owned()).unwrap_or(path)
}

#[test]
fn every_kind_of_container_gets_the_version_of_the_loaded_module() {
    let farm = Farm::new();
    let host = &farm.host;
    let (shared, shared_stopped) = (farm.container("share"), farm.container("share"));
    let (own, own_stopped) = (farm.container("installer"), farm.container("installer"));
    let foreign = host.container("privileged", &[]);
    farm.stop(&shared_stopped);
    farm.stop(&own_stopped);
    host.run(&["sync", "--check"]).code(0);
    host.load_module(NEXT);

    let check = host.run(&["--json", "sync", "--check"]).code(10);
    for ctid in [&shared, &shared_stopped, &own, &own_stopped] {
        let (exit, text) = Farm::said(&check, ctid);
        assert_eq!(exit, 10, "{ctid}: {text}");
        assert!(text.contains(VERSION) && text.contains(NEXT), "{ctid}: {text}");
    }
    assert!(!check.stdout.contains(&foreign), "it is not managed:\n{}", check.stdout);
    assert_eq!(version_inside(host, &shared), VERSION, "a check changes nothing");
    host.pct_calls();

    let run = host.run(&["--json", "sync"]).code(0);
    let calls = host.pct_calls();
    let of_shared = calls.iter().filter(|call| call.contains(&shared)).count();
    assert_eq!(of_shared, 2, "a restart and nothing else: {calls:?}");
    assert!(!calls.iter().any(|call| call.contains(&shared_stopped)), "{calls:?}");
    assert!(Farm::said(&run, &shared).1.contains("restarted"), "{}", run.stdout);
    for ctid in [&shared, &own] {
        assert_eq!(version_inside(host, ctid), NEXT, "{ctid}");
    }
    // What was stopped is stopped, and has it when it starts.
    for ctid in [&shared_stopped, &own_stopped] {
        assert_eq!(host.init(ctid), 0, "{ctid} runs");
        host.start(ctid);
        assert_eq!(version_inside(host, ctid), NEXT, "{ctid}");
    }
    host.run(&["sync", "--check"]).code(0);
    host.run(&["status", "--check"]).code(0);
    let again = host.run(&["--json", "sync"]).code(0);
    assert!(!again.stdout.contains("\"changed\""), "{}", again.stdout);
}

#[test]
fn a_container_whose_processes_hold_the_gpu_is_left_alone_until_its_restart_is_asked_for() {
    let farm = Farm::new();
    let host = &farm.host;
    let (shared, own) = (farm.container("share"), farm.container("installer"));
    for ctid in [&shared, &own] {
        let hold =
            "setsid sh -c 'exec 3<>/dev/nvidia0; exec sleep 1000' >/dev/null 2>&1 </dev/null &";
        host.inside(ctid, hold).code(0);
        support::eventually("it holds the GPU", std::time::Duration::from_secs(10), || {
            host.inside(ctid, "ls -l /proc/[0-9]*/fd | grep -q nvidia0").code == 0
        });
    }
    host.load_module(NEXT);
    let inits = [host.init(&shared), host.init(&own)];
    let run = host.run(&["--json", "sync"]).code(10);
    for ctid in [&shared, &own] {
        let (exit, text) = Farm::said(&run, ctid);
        assert_eq!(exit, 10, "{text}");
        assert!(text.contains("sleep (process ") && text.contains("--restart"), "{text}");
        assert_eq!(version_inside(host, ctid), VERSION);
    }
    assert_eq!([host.init(&shared), host.init(&own)], inits, "one was restarted");

    host.run(&["sync", "--restart", &own]).code(0);
    assert_eq!(version_inside(host, &own), NEXT);
    assert_eq!(version_inside(host, &shared), VERSION, "it was not named");
    host.run(&["sync", "--restart"]).code(0);
    assert_eq!(version_inside(host, &shared), NEXT);
}

#[test]
fn a_template_is_told_and_its_clone_is_brought_there() {
    let farm = Farm::new();
    let host = &farm.host;
    let own = farm.container("installer");
    farm.stop(&own);
    host.shell(&format!("pct template {own}")).code(0);
    host.load_module(NEXT);
    let run = host.run(&["--json", "sync"]).code(10);
    let (_, text) = Farm::said(&run, &own);
    assert!(text.contains("a template cannot be changed"), "{text}");
}

#[test]
fn what_is_missing_offline_is_named_and_nothing_is_changed() {
    let farm = Farm::new();
    let host = &farm.host;
    let (shared, own) = (farm.container("share"), farm.container("installer"));
    host.load_module(NEXT);
    let inits = [host.init(&shared), host.init(&own)];
    host.run(&["sync", "--offline"]).code(5).says(&format!("NVIDIA-Linux-x86_64-{NEXT}.run"));
    host.run(&["sync", "--offline", &own]).code(5).says(&format!("NVIDIA-Linux-x86_64-{NEXT}.run"));
    assert_eq!([host.init(&shared), host.init(&own)], inits, "one was restarted");
    assert_eq!(version_inside(host, &own), VERSION);
}

#[test]
fn without_a_kernel_module_there_is_nothing_to_follow() {
    let host = Host::new(Kind::Pct, Nodes::None);
    host.run(&["sync"]).code(4).says("no NVIDIA kernel module is loaded");
}

#[test]
fn a_container_that_does_not_exist_is_not_found() {
    let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
    host.run(&["sync", "999"]).code(3);
}

#[test]
fn a_template_that_shares_has_nothing_to_be_done() {
    let farm = Farm::new();
    let host = &farm.host;
    let shared = farm.container("share");
    farm.stop(&shared);
    host.shell(&format!("pct template {shared}")).code(0);
    host.load_module(NEXT);
    let run = host.run(&["--json", "sync"]).code(0);
    assert!(Farm::said(&run, &shared).1.contains("its clones get driver"), "{}", run.stdout);
    let (clone, made) = host.clone_of(&shared, "--hostname worker");
    made.code(0);
    host.start(&clone);
    assert_eq!(version_inside(host, &clone), NEXT);
}

#[test]
fn two_at_once_restart_a_container_once_and_what_is_detached_meanwhile_stays_so() {
    let farm = Farm::new();
    let host = &farm.host;
    let shared = farm.container("share");
    host.load_module(NEXT);
    host.pct_calls();
    let mut first = host.nvstage().args(["sync"]).spawn().unwrap();
    let mut second = host.nvstage().args(["sync"]).spawn().unwrap();
    assert!(first.wait().unwrap().success() && second.wait().unwrap().success());
    let calls = host.pct_calls();
    let starts = calls.iter().filter(|call| call.starts_with("start ")).count();
    assert_eq!(starts, 1, "{calls:?}");
    assert_eq!(version_inside(host, &shared), NEXT);
}

#[test]
fn what_was_set_for_a_container_is_set_again() {
    let farm = Farm::new();
    let host = &farm.host;
    let ctid = host.container("privileged", &[&farm.site.distribution()]);
    host.start(&ctid);
    let recipe = farm.site.recipe();
    // Without the recipe's packages.
    let set = ["provision", &ctid, "--gpus", "0", "--recipe", &recipe, "--set", "packages="];
    host.run(&set).code(0);
    host.load_module(NEXT);
    host.run(&["sync"]).code(0);
    assert_eq!(version_inside(host, &ctid), NEXT);
    assert_ne!(host.inside(&ctid, "dpkg -l cuda-toolkit-12-8 | grep ^ii").code, 0);
}

#[test]
fn a_run_that_is_killed_between_stop_and_start_is_finished_by_the_next_one() {
    let farm = Farm::new();
    let host = &farm.host;
    let shared = farm.container("share");
    host.load_module(NEXT);
    host.fault("start-hangs", true);
    let mut child = host.nvstage().args(["sync"]).spawn().unwrap();
    support::eventually("it is stopped", std::time::Duration::from_secs(30), || {
        host.init(&shared) == 0 && host.pct_calls().iter().any(|call| call.starts_with("start "))
    });
    child.kill().unwrap();
    child.wait().unwrap();
    host.fault("start-hangs", false);
    host.release(&format!("/run/lock/lxc/pve-config-{shared}.lock"));
    assert_eq!(host.init(&shared), 0);
    host.run(&["sync"]).code(0);
    assert_eq!(version_inside(host, &shared), NEXT);
    let again = host.run(&["--json", "sync"]).code(0);
    assert!(!again.stdout.contains("\"changed\""), "{}", again.stdout);
}
