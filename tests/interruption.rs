//! SIGINT and SIGTERM during each step, and a kill: staging is undone, the configuration whole, and
//! the next run finishes.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::process::{Child, Stdio};
use std::time::Duration;

use support::{Host, Kind, Nodes, Run, Site, VERSION, eventually};

fn signal(child: &Child, name: &str) {
    let kill =
        std::process::Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
}

struct Scene {
    host: Host,
    site: Site,
    ctid: String,
}

impl Scene {
    fn new() -> Self {
        let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
        let site = Site::new();
        let ctid = host.container("privileged", &[&site.distribution()]);
        host.start(&ctid);
        host.inside(&ctid, "mkdir -p /etc/nvidia-standin").code(0);
        Self { host, site, ctid }
    }

    fn begin(&self, recipe: &str) -> Child {
        self.begin_with(recipe, &[])
    }

    fn begin_with(&self, recipe: &str, more: &[&str]) -> Child {
        let mut command = self.host.nvstage();
        command.args(["provision", &self.ctid, "--gpus", "0", "--recipe", recipe]).args(more);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Nothing staged, no process of ours inside, and the file is one of two.
    #[track_caller]
    fn is_clean(&self, before: &str) {
        let config = self.host.config(&self.ctid);
        let whole = config == before || config.matches("lxc.mount.entry").count() == 5;
        assert!(whole, "a half-written configuration:\n{config}");
        if self.host.init(&self.ctid) != 0 {
            let look = "grep ' /var/lib/nvstage' /proc/mounts; ls -d /var/lib/nvstage /root/.nvstage* 2>/dev/null; true";
            assert_eq!(self.host.inside(&self.ctid, look).stdout, "");
            let processes = self.processes();
            for ours in ["nvidia-installer", "apt-get", "@nvstage"] {
                assert!(!processes.contains(ours), "{ours} goes on inside: {processes}");
            }
        }
    }

    /// The command lines of all processes inside.
    fn processes(&self) -> String {
        self.host.inside(&self.ctid, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    }

    /// Waits until the hook of a stop has written the configuration.
    #[track_caller]
    fn hook_has_ended(&self) {
        let look =
            format!("[ -L /run/systemd/units/invocation:pve-container@{}.service ]", self.ctid);
        eventually("the hook has ended", Duration::from_secs(20), || {
            self.host.shell(&look).code != 0
        });
    }

    #[track_caller]
    fn finishes(&self, recipe: &str) {
        let provision = ["provision", &self.ctid, "--gpus", "0", "--recipe", recipe, "--start"];
        self.host.run(&provision).code(0);
        self.host.run(&["verify", &self.ctid, "--gpus", "0", "--recipe", recipe]).code(0);
    }
}

fn ended(child: Child) -> Run {
    child.wait_with_output().unwrap().into()
}

#[test]
fn while_downloading() {
    let scene = Scene::new();
    scene.site.stall_installer();
    let before = scene.host.config(&scene.ctid);
    for (name, requests) in [("-INT", 1), ("-TERM", 2)] {
        let child = scene.begin(&scene.site.driver_only());
        eventually("the download begins", Duration::from_secs(20), || {
            scene.site.requests() == requests
        });
        std::thread::sleep(Duration::from_millis(300));
        signal(&child, name);
        ended(child).code(130).says("interrupted by a signal");
        scene.is_clean(&before);
        assert_eq!(scene.host.config(&scene.ctid), before);
    }
    scene.finishes(&scene.site.driver_only());
}

#[test]
fn while_restarting() {
    let scene = Scene::new();
    let before = scene.host.config(&scene.ctid);
    scene.host.fault("stop-hangs", true);
    let child = scene.begin(&scene.site.driver_only());
    eventually("it is being stopped", Duration::from_secs(30), || {
        scene.host.config(&scene.ctid) != before
    });
    std::thread::sleep(Duration::from_millis(700));
    signal(&child, "-TERM");
    ended(child).code(130).says("interrupted by a signal");
    scene.host.fault("stop-hangs", false);
    scene.is_clean(&before);
    scene.finishes(&scene.site.driver_only());
}

/// Interrupts while the installer sleeps after three files, with the given signals.
fn while_installing(signals: &[&str], more: &[&str]) {
    let scene = Scene::new();
    let before = scene.host.config(&scene.ctid);
    scene.host.inside(&scene.ctid, "echo 3 60 > /etc/nvidia-standin/sleep-after").code(0);
    let recipe = scene.site.driver_only();
    let mut command = scene.host.nvstage();
    command.args(["provision", &scene.ctid, "--gpus", "0", "--recipe", &recipe]).args(more);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the installer sleeps", Duration::from_secs(60), || {
        scene
            .host
            .inside(&scene.ctid, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
            .stdout
            .contains("sleep 60")
    });
    for name in signals {
        assert!(child.try_wait().unwrap().is_none(), "it ended at the first signal");
        signal(&child, name);
        std::thread::sleep(Duration::from_millis(500));
    }
    let run = ended(child).code(130).says("interrupted by a signal");
    let run = run.says("stays incomplete").says("lines of nvstage's are in its configuration");
    assert!(!run.stderr.contains("put back"), "{}", run.stderr);
    let processes =
        scene.host.inside(&scene.ctid, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout;
    assert!(!processes.contains("sleep 60"), "the installer goes on: {processes}");
    scene.is_clean(&before);
    let incomplete = format!("incomplete: driver {VERSION} is not installed to the end");
    scene.host.run(&["status", "--check"]).code(10).shows(&incomplete);
    scene.host.run(&["sync", "--check"]).code(10).shows(&incomplete);
    scene.host.inside(&scene.ctid, "rm /etc/nvidia-standin/sleep-after").code(0);
    scene.finishes(&recipe);
    scene.host.run(&["status", "--check"]).code(0);
}

#[test]
fn sigint_twice_while_installing() {
    while_installing(&["-INT", "-INT"], &[]);
}

#[test]
fn sighup_while_installing() {
    while_installing(&["-HUP"], &[]);
}

#[test]
fn a_hangup_that_the_caller_has_it_ignore_changes_nothing() {
    let scene = Scene::new();
    scene.host.inside(&scene.ctid, "echo 3 3 > /etc/nvidia-standin/sleep-after").code(0);
    let recipe = scene.site.driver_only();
    let mut nvstage = scene.host.nvstage();
    nvstage.args(["provision", &scene.ctid, "--gpus", "0", "--recipe", &recipe]);
    // As `nohup` does.
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]);
    command.arg(nvstage.get_program()).args(nvstage.get_args());
    for (name, _) in nvstage.get_envs() {
        command.env_remove(name);
    }
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the installer sleeps", Duration::from_secs(60), || {
        scene.processes().contains("sleep 3")
    });
    signal(&child, "-HUP");
    ended(child).code(0).says("driver: changed");
}

#[test]
fn sigterm_after_sigint_while_installing() {
    while_installing(&["-INT", "-TERM"], &["--stage", "push"]);
}

#[test]
fn sigint_once_lets_the_installer_finish_and_begins_no_further_step() {
    let scene = Scene::new();
    scene.host.inside(&scene.ctid, "echo 3 3 > /etc/nvidia-standin/sleep-after").code(0);
    let recipe = scene.site.recipe();
    let child = scene.begin(&recipe);
    eventually("the installer sleeps", Duration::from_secs(60), || {
        scene.processes().contains("sleep 3")
    });
    let after = scene.host.config(&scene.ctid);
    signal(&child, "-INT");
    let run =
        ended(child).code(130).says("interrupted by a signal").says("again to end it at once");
    // It is whole, and the packages are not begun.
    run.shows("changed").says("driver: changed: install driver");
    scene.is_clean(&after);
    let packages = "dpkg -l cuda-toolkit-12-8 2>/dev/null | grep -c ^ii";
    assert_eq!(scene.host.inside(&scene.ctid, packages).stdout, "0\n");
    scene.host.inside(&scene.ctid, "rm /etc/nvidia-standin/sleep-after").code(0);
    let again = ["provision", &scene.ctid, "--gpus", "0", "--recipe", &recipe];
    scene.host.run(&again).code(0).says("driver: unchanged").says("packages: changed");
}

#[test]
fn sigint_once_while_restarting_leaves_no_container_stopped() {
    let scene = Scene::new();
    let before = scene.host.config(&scene.ctid);
    let child = scene.begin(&scene.site.driver_only());
    eventually("it is being stopped", Duration::from_secs(30), || {
        scene.host.pct_calls().iter().any(|call| call.starts_with("shutdown "))
    });
    signal(&child, "-INT");
    ended(child).code(130).says("interrupted by a signal").says("power: changed: restarted");
    assert_ne!(scene.host.init(&scene.ctid), 0, "it was left stopped");
    scene.is_clean(&before);
    scene.finishes(&scene.site.driver_only());
}

#[test]
fn sigterm_while_installing() {
    while_installing(&["-TERM"], &[]);
}

#[test]
fn sigterm_while_installing_a_pushed_installer() {
    while_installing(&["-TERM"], &["--stage", "push"]);
}

/// The installer waits for a child that ignores SIGTERM, as any program may.
fn with_a_stubborn_child(how: &str, more: &[&str], code: i32) -> Scene {
    let scene = Scene::new();
    let sleep =
        "printf '#!/bin/sh\\ntrap \"\" TERM\\nexec /bin/sleep \"$@\"\\n' > /usr/local/bin/sleep
        chmod 755 /usr/local/bin/sleep; echo 3 600 > /etc/nvidia-standin/sleep-after";
    scene.host.inside(&scene.ctid, sleep).code(0);
    let child = scene.begin_with(&scene.site.driver_only(), more);
    eventually("the installer sleeps", Duration::from_secs(60), || {
        scene.processes().contains("/bin/sleep 600")
    });
    if !how.is_empty() {
        signal(&child, how);
    }
    ended(child).code(code);
    let processes = scene.processes();
    assert!(!processes.contains("sleep 600"), "it goes on inside: {processes}");
    scene
}

#[test]
fn what_ignores_sigterm_inside_does_not_outlive_an_interruption() {
    let scene = with_a_stubborn_child("-TERM", &[], 130);
    scene.host.inside(&scene.ctid, "rm /etc/nvidia-standin/sleep-after").code(0);
    scene.finishes(&scene.site.driver_only());
}

#[test]
fn what_ignores_sigterm_inside_does_not_outlive_the_time_limit() {
    with_a_stubborn_child("", &["--installer-timeout", "6"], 5);
}

#[test]
fn a_kill_while_installing() {
    let scene = Scene::new();
    scene.host.inside(&scene.ctid, "echo 3 6 > /etc/nvidia-standin/sleep-after").code(0);
    let recipe = scene.site.driver_only();
    let mut child = scene.begin(&recipe);
    eventually("the installer sleeps", Duration::from_secs(60), || {
        scene
            .host
            .inside(&scene.ctid, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
            .stdout
            .contains("sleep 6")
    });
    signal(&child, "-KILL");
    child.wait().unwrap();
    scene.host.inside(&scene.ctid, "rm /etc/nvidia-standin/sleep-after").code(0);
    // The installer goes on inside, without anybody who waits for it. The next run waits for its
    // end, and takes over what was staged.
    assert!(scene.processes().contains("nvidia-installer"));
    scene.finishes(&recipe);
    assert_eq!(
        scene
            .host
            .inside(&scene.ctid, "grep ' /var/lib/nvstage' /proc/mounts; ls -d /var/lib/nvstage")
            .stdout,
        ""
    );
}

#[test]
fn sigterm_while_apt_runs() {
    let scene = Scene::new();
    let before = scene.host.config(&scene.ctid);
    let hook = "echo 'DPkg::Pre-Invoke {\"sleep 60\";};' > /etc/apt/apt.conf.d/99slow";
    scene.host.inside(&scene.ctid, hook).code(0);
    let recipe = scene.site.recipe();
    let child = scene.begin(&recipe);
    eventually("apt runs", Duration::from_secs(90), || {
        scene
            .host
            .inside(&scene.ctid, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
            .stdout
            .contains("sleep 60")
    });
    signal(&child, "-TERM");
    ended(child).code(130).says("interrupted by a signal");
    scene.is_clean(&before);
    scene.host.inside(&scene.ctid, "rm /etc/apt/apt.conf.d/99slow").code(0);
    scene.finishes(&recipe);
}

/// Whatever it is doing at that moment: looking, editing, starting, copying, installing, checking.
fn at_any_moment(stage: &'static str) {
    for (index, delay) in [40, 120, 250, 500, 900, 1500, 2300].into_iter().enumerate() {
        let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
        let site = Site::new();
        let ctid = host.container("unprivileged", &[&site.distribution()]);
        let scene = Scene { host, site, ctid };
        let before = scene.host.config(&scene.ctid);
        let recipe = scene.site.recipe();
        let child = scene.begin_with(&recipe, &["--stage", stage]);
        std::thread::sleep(Duration::from_millis(delay));
        signal(&child, if index % 2 == 0 { "-TERM" } else { "-INT" });
        let run = ended(child);
        // One that had not yet begun to listen ends by the signal itself.
        let has_begun = run.code != 143 || !run.stderr.is_empty();
        let is_known = [0, 130].contains(&run.code) || !has_begun;
        assert!(is_known, "after {delay} ms: {} {}", run.code, run.stderr);
        if run.code == 130 {
            run.says("interrupted by a signal");
        }
        scene.is_clean(&before);
        scene.finishes(&recipe);
    }
}

#[test]
fn at_any_moment_of_a_mounted_installation() {
    at_any_moment("mount");
}

#[test]
fn at_any_moment_of_a_pushed_installation() {
    at_any_moment("push");
}

#[test]
fn a_kill_after_the_start_leaves_it_to_the_next_run_to_stop_the_container_again() {
    let scene = Scene::new();
    scene.host.inside(&scene.ctid, "echo 3 2 > /etc/nvidia-standin/sleep-after").code(0);
    scene.host.shell(&format!("pct stop {}", scene.ctid)).code(0);
    let recipe = scene.site.driver_only();
    let mut child = scene.begin(&recipe);
    eventually("the installer sleeps", Duration::from_secs(60), || {
        scene.processes().contains("sleep 2")
    });
    signal(&child, "-KILL");
    child.wait().unwrap();
    assert_ne!(scene.host.init(&scene.ctid), 0);
    let again = ["provision", &scene.ctid, "--gpus", "0", "--recipe", &recipe];
    // The first step of the next run fails: it is stopped all the same.
    scene.host.inside(&scene.ctid, "mv /usr/bin/timeout /usr/bin/timeout.away").code(0);
    scene.host.run(&again).code(5).says("facts: failed").says("restore: changed: stopped again");
    assert_eq!(scene.host.init(&scene.ctid), 0);
    scene.host.start(&scene.ctid);
    scene.host.inside(&scene.ctid, "mv /usr/bin/timeout.away /usr/bin/timeout").code(0);
    scene.host.shell(&format!("pct stop {}", scene.ctid)).code(0);
    scene.host.run(&again).code(0).shows("stopped again");
    assert_eq!(scene.host.init(&scene.ctid), 0);
    // Once it is over, a container that somebody starts runs on.
    scene.host.start(&scene.ctid);
    scene.host.run(&again).code(0);
    assert_ne!(scene.host.init(&scene.ctid), 0);
}

#[test]
fn a_kill_while_restarting_leaves_it_to_the_next_run_to_start_the_container_again() {
    let scene = Scene::new();
    scene.host.fault("stop-hangs", true);
    let recipe = scene.site.driver_only();
    let mut child = scene.begin(&recipe);
    eventually("it is being stopped", Duration::from_secs(30), || {
        scene.host.pct_calls().iter().any(|call| call.starts_with("shutdown "))
    });
    signal(&child, "-KILL");
    child.wait().unwrap();
    scene.host.shell(&format!("lxc-stop -k -n {}", scene.ctid));
    scene.host.release(&format!("/run/lock/lxc/pve-config-{}.lock", scene.ctid));
    scene.host.fault("stop-hangs", false);
    assert_eq!(scene.host.init(&scene.ctid), 0);
    // It is started also by a run that cannot begin: the cache has no installer of that version.
    scene.host.load_module("580.95.05");
    let again = ["provision", &scene.ctid, "--gpus", "0", "--recipe", &recipe];
    let offline = [&again[..], &["--offline"]].concat();
    scene.host.run(&offline).code(5).says("restore: changed: started again");
    assert_ne!(scene.host.init(&scene.ctid), 0, "it was left stopped");
    scene.host.load_module(VERSION);
    scene.host.run(&again).code(0);
    assert_ne!(scene.host.init(&scene.ctid), 0, "it was stopped again");
}

/// Until Proxmox's hook has ended, `pct start` fails.
#[test]
fn a_container_that_another_run_still_stops_is_started_after_that() {
    let scene = Scene::new();
    // With its lines in place already the run does not have to wait for the configuration's lock.
    scene.finishes(&scene.site.driver_only());
    scene.host.fault("post-stop-waits", true);
    let mut stop = scene.host.command("pct").args(["shutdown", &scene.ctid]).spawn().unwrap();
    eventually("its first process has ended", Duration::from_secs(30), || {
        scene.host.init(&scene.ctid) == 0
    });
    scene.host.pct_calls();
    let child = scene.begin(&scene.site.driver_only());
    std::thread::sleep(Duration::from_secs(3));
    assert!(scene.host.pct_calls().is_empty(), "it was started while the hook was at work");
    scene.host.fault("post-stop-waits", false);
    ended(child).code(0).says("power: changed: started");
    assert!(stop.wait().unwrap().success());
    let calls = scene.host.pct_calls();
    let starts = calls.iter().filter(|call| call.starts_with("start ")).count();
    assert_eq!(starts, 1, "{calls:?}");
}

/// The hook writes what it has read before, and takes no lock.
#[test]
fn what_is_written_around_a_stop_that_somebody_else_began_is_never_lost() {
    let scene = Scene::new();
    let recipe = scene.site.driver_only();
    scene.finishes(&recipe);
    scene.host.shell("echo 0.3 1.5 > /run/pct-front/post-stop-delays").code(0);
    let stop = format!("lxc-stop -k -n {}", scene.ctid);
    // Before the hook reads, and at several moments from there until it has written.
    for pause in [0, 500, 1000, 1700, 2100] {
        scene.host.shell(&stop).code(0);
        std::thread::sleep(Duration::from_millis(pause));
        scene.host.run(&["detach", &scene.ctid]).code(0).shows("took out");
        scene.hook_has_ended();
        let config = scene.host.config(&scene.ctid);
        assert!(!config.contains("nvidia"), "after {pause} ms: {config}");
        scene.host.start(&scene.ctid);

        scene.host.shell(&stop).code(0);
        std::thread::sleep(Duration::from_millis(pause));
        let again = ["provision", &scene.ctid, "--start", "--gpus", "0", "--recipe", &recipe];
        scene.host.run(&again).code(0).says("power: changed: started");
        let config = scene.host.config(&scene.ctid);
        assert_eq!(config.matches("lxc.mount.entry").count(), 5, "after {pause} ms: {config}");
    }
}

#[test]
fn a_container_that_powers_itself_off_is_started() {
    let scene = Scene::new();
    let recipe = scene.site.driver_only();
    scene.finishes(&recipe);
    scene.host.inside(&scene.ctid, "systemctl poweroff");
    eventually("its first process has ended", Duration::from_secs(30), || {
        scene.host.init(&scene.ctid) == 0
    });
    scene.host.pct_calls();
    scene
        .host
        .run(&["provision", &scene.ctid, "--gpus", "0", "--recipe", &recipe])
        .code(0)
        .says("power: changed: started");
    let calls = scene.host.pct_calls();
    let starts = calls.iter().filter(|call| call.starts_with("start ")).count();
    assert_eq!(starts, 1, "{calls:?}");
}

#[test]
fn lines_that_somebody_takes_out_while_the_container_starts_are_written_once_more() {
    let scene = Scene::new();
    let recipe = scene.site.driver_only();
    scene.host.pct_calls();
    let undo = format!(
        "cd /etc/pve/lxc && cp {0}.conf /run/before && until grep -q '^start' /run/pct-front/calls; do sleep 0.02; done
        cp /run/before {0}.conf.tmp && mv {0}.conf.tmp {0}.conf",
        scene.ctid
    );
    let mut undo = scene.host.command("sh").args(["-c", &undo]).spawn().unwrap();
    eventually("it is watched", Duration::from_secs(10), || {
        scene.host.path("/run/before").exists()
    });
    let run = scene.host.run(&["provision", &scene.ctid, "--gpus", "0", "--recipe", &recipe]);
    run.code(0).says("somebody has undone the edit of its configuration: written once more");
    assert!(undo.wait().unwrap().success());
    let config = scene.host.config(&scene.ctid);
    assert_eq!(config.matches("lxc.mount.entry").count(), 5, "{config}");
    scene.finishes(&recipe);
}

#[test]
fn a_container_whose_state_lxc_does_not_tell_is_not_taken_for_a_stopped_one() {
    let scene = Scene::new();
    let before = scene.host.config(&scene.ctid);
    let break_it = |how: &str| {
        let script = format!(
            "printf '#!/bin/sh\n{how}\n' > /run/lxc-info; chmod 755 /run/lxc-info; mount --bind /run/lxc-info /usr/bin/lxc-info"
        );
        scene.host.shell(&script).code(0);
        scene.host.pct_calls();
        scene
            .host
            .run(&["provision", &scene.ctid, "--gpus", "0", "--recipe", &scene.site.driver_only()])
            .code(4)
            .says("failed to ask LXC for the container's state");
        let calls = scene.host.pct_calls();
        assert!(calls.is_empty(), "{how}: {calls:?}");
        assert_eq!(scene.host.config(&scene.ctid), before);
        scene.host.shell("umount /usr/bin/lxc-info").code(0);
    };
    for how in ["kill -9 $$", "echo no answer >&2; exit 1", "echo Killed", "exit 127"] {
        break_it(how);
    }
}

#[test]
fn containers_that_were_not_reached_are_not_touched() {
    let scene = Scene::new();
    scene.host.inside(&scene.ctid, "echo 3 60 > /etc/nvidia-standin/sleep-after").code(0);
    let second = scene.host.container("privileged", &[]);
    let before = scene.host.config(&second);
    let child = scene.begin_with(&scene.site.driver_only(), &[&second, "--jobs", "1"]);
    eventually("the installer sleeps", Duration::from_secs(60), || {
        scene.processes().contains("sleep 60")
    });
    signal(&child, "-TERM");
    ended(child).code(130).says("interrupted by a signal");
    assert_eq!(scene.host.config(&second), before);
    assert_eq!(scene.host.init(&second), 0);
}

#[test]
fn a_container_that_was_stopped_is_stopped_again_also_when_interrupted() {
    let scene = Scene::new();
    scene.host.inside(&scene.ctid, "echo 3 60 > /etc/nvidia-standin/sleep-after").code(0);
    scene.host.shell(&format!("pct stop {}", scene.ctid)).code(0);
    let child = scene.begin(&scene.site.driver_only());
    eventually("the installer sleeps", Duration::from_secs(60), || {
        scene.processes().contains("sleep 60")
    });
    signal(&child, "-TERM");
    ended(child).code(130).says("interrupted by a signal").shows("stopped again");
    assert_eq!(scene.host.init(&scene.ctid), 0);
}
