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
    for arguments in [&["--json", "sync", "--check"][..], &["--json", "sync"]] {
        let (exit, text) = Farm::said(&host.run(arguments).code(0), &own);
        assert!(exit == 0 && text.contains("which cannot be changed"), "{text}");
    }
    // Its clone has that driver, and no journal.
    let (clone, made) = host.clone_of(&own, "--hostname worker");
    made.code(0);
    host.start(&clone);
    for arguments in [&["--json", "sync", "--check"][..], &["--json", "sync"]] {
        let (exit, text) = Farm::said(&host.run(arguments).code(10), &clone);
        assert_eq!(exit, 10, "{text}");
        let expected = "not managed by nvstage: driver 580.76.05, the kernel module is 580.95.05";
        assert!(text.contains(expected) && text.contains("nvstage provision"), "{text}");
    }
    let recipe = farm.site.driver_only();
    host.run(&["provision", &clone, "--gpus", "0", "--recipe", &recipe]).code(0);
    assert_eq!(version_inside(host, &clone), NEXT);
    host.run(&["sync", "--check"]).code(0);
}

/// What programs of NVIDIA's installer copy with: the next library `libcuda` is written to its half, at
/// its whole size as the original does it, and there it sleeps.
const HALF_WRITTEN: &str = r#"cat > /usr/local/bin/install <<'END'
#!/bin/sh
case $4 in
  *libcuda.so.*)
    head -c 1000 "$3" >"$4"
    truncate -s "$(stat -c %s "$3")" "$4"
    exec sleep 600 ;;
esac
exec /usr/bin/install "$@"
END
chmod 755 /usr/local/bin/install"#;

#[test]
fn a_run_that_is_killed_while_it_installs_is_incomplete_until_it_is_repaired_to_the_last_file() {
    let farm = Farm::new();
    let host = &farm.host;
    let own = farm.container("installer");
    let files = "ls /usr/lib/x86_64-linux-gnu /usr/bin | grep -e nvidia -e libcuda; true";
    host.inside(&own, HALF_WRITTEN).code(0);
    host.load_module(NEXT);
    let mut child = host.nvstage().args(["sync"]).spawn().unwrap();
    let sleeps = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -q 'slee[p] 600'";
    support::eventually("a library is half-written", std::time::Duration::from_secs(60), || {
        host.inside(&own, sleeps).code == 0
    });
    child.kill().unwrap();
    child.wait().unwrap();
    // With it goes the installer.
    host.shell(&format!("pct stop {own}")).code(0);
    let expected = format!(
        "{own}: incomplete: driver {NEXT} is not installed to the end\n  remedy: `nvstage provision {own}`"
    );
    for state in ["stopped", "running"] {
        host.run(&["status", "--check"]).code(10).shows(&expected);
        let (_, text) = Farm::said(&host.run(&["--json", "sync", "--check"]).code(10), &own);
        assert!(text.contains("is not installed to the end"), "{state}: {text}");
        if state == "stopped" {
            host.start(&own);
        }
    }
    host.inside(&own, "rm /usr/local/bin/install").code(0);

    host.run(&["sync"]).code(0);
    assert_eq!(version_inside(host, &own), NEXT);
    host.run(&["status", "--check"]).code(0);
    host.run(&["sync", "--check"]).code(0);
    host.run(&["detach", &own, "--uninstall"]).code(0);
    assert_eq!(host.inside(&own, files).stdout, "", "left by the run that was killed");
}

#[test]
fn what_a_killed_installation_left_goes_with_the_driver_also_without_a_repair() {
    let farm = Farm::new();
    let host = &farm.host;
    let ctid = host.container("unprivileged", &[]);
    host.start(&ctid);
    let files = "ls -d /var/lib/nvidia/* /usr/lib/x86_64-linux-gnu/* /usr/bin/* | grep -e nvidia -e libcuda; true";
    // A library of the user's own, in the way.
    let own = "/usr/lib/x86_64-linux-gnu/libcuda.so.1";
    host.inside(&ctid, &format!("{HALF_WRITTEN}; echo own > {own}")).code(0);
    let before = host.inside(&ctid, files).stdout;
    let recipe = farm.site.driver_only();
    let mut command = host.nvstage();
    let mut child =
        command.args(["provision", &ctid, "--gpus", "0", "--recipe", &recipe]).spawn().unwrap();
    let sleeps = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -q 'slee[p] 600'";
    support::eventually("a library is half-written", std::time::Duration::from_secs(60), || {
        host.inside(&ctid, sleeps).code == 0
    });
    child.kill().unwrap();
    child.wait().unwrap();
    host.shell(&format!("pct stop {ctid}")).code(0);
    host.start(&ctid);
    host.run(&["detach", &ctid, "--uninstall"]).code(0);
    let after = host.inside(&ctid, files).stdout;
    let left: Vec<&str> = after.lines().filter(|line| !before.contains(line)).collect();
    assert_eq!(left, [""; 0]);
    assert_eq!(host.inside(&ctid, &format!("cat {own}")).stdout, "own\n");
    host.run(&["status", "--check"]).code(0);
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
