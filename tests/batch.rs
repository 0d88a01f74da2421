//! Several containers at once: each comes to its own end, whatever happens to the others, and the
//! same command continues what was cut short.

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

use serde_json::Value;
use support::{Host, Kind, Nodes, Run, Site, VERSION, eventually};

struct Scene {
    host: Host,
    site: Site,
    ids: Vec<String>,
    recipe: String,
}

impl Scene {
    /// A host with so many stopped containers.
    fn new(count: usize) -> Self {
        Self::with(count, &[])
    }

    fn with(count: usize, options: &[&str]) -> Self {
        let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
        let site = Site::new();
        let ids = (0..count).map(|_| host.container("privileged", options)).collect();
        let recipe = site.driver_only();
        Self { host, site, ids, recipe }
    }

    /// Steers the stand-ins in a container, whether it runs or not.
    fn steer(&self, index: usize, file: &str, text: &str) {
        let directory = self.root(index).join("etc/nvidia-standin");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(file), format!("{text}\n")).unwrap();
    }

    fn unsteer(&self, index: usize, file: &str) {
        std::fs::remove_file(self.root(index).join("etc/nvidia-standin").join(file)).unwrap();
    }

    /// The container's root directory as this host has it mounted.
    fn root(&self, index: usize) -> std::path::PathBuf {
        self.host.path(&format!("/var/lib/lxc/.storage/subvol-{}-disk-0", self.ids[index]))
    }

    fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["--json", "provision"];
        all.extend(self.ids.iter().map(String::as_str));
        all.extend(["--gpus", "0", "--recipe", &self.recipe]);
        all.extend(more);
        all
    }

    fn provision(&self, more: &[&str]) -> Run {
        self.host.run(&self.arguments(more))
    }

    fn begin(&self, more: &[&str]) -> Child {
        let mut command = self.host.nvstage();
        command.args(self.arguments(more)).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// The command lines of all processes in a running container.
    fn processes(&self, index: usize) -> String {
        let look = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '";
        self.host.inside(&self.ids[index], look).stdout
    }

    #[track_caller]
    fn sleeps(&self, index: usize, seconds: &str) {
        let sleep = format!("sleep {seconds}");
        eventually("the installer sleeps", Duration::from_secs(60), || {
            self.host.init(&self.ids[index]) != 0 && self.processes(index).contains(&sleep)
        });
    }

    /// Nothing of a run is left in a container.
    #[track_caller]
    fn is_clean(&self, index: usize) {
        if self.host.init(&self.ids[index]) == 0 {
            return;
        }
        let look = "grep ' /var/lib/nvstage' /proc/mounts; ls -d /var/lib/nvstage /root/.nvstage* 2>/dev/null; true";
        assert_eq!(self.host.inside(&self.ids[index], look).stdout, "");
        let processes = self.processes(index);
        for ours in ["nvidia-installer", "apt-get", "@nvstage"] {
            assert!(!processes.contains(ours), "{ours} goes on inside: {processes}");
        }
    }

    #[track_caller]
    fn is_provisioned(&self, index: usize) {
        let verify = ["verify", &self.ids[index], "--gpus", "0", "--recipe", &self.recipe];
        self.host.run(&verify).code(0);
        self.is_clean(index);
    }
}

/// The entry of a container in a report.
#[track_caller]
fn entry<'a>(report: &'a Value, ctid: &str) -> &'a Value {
    let containers = report["containers"].as_array().unwrap();
    containers.iter().find(|one| one["container"] == ctid).unwrap()
}

/// The exit codes of a report's containers, in order.
fn exits(report: &Value) -> Vec<u64> {
    let containers = report["containers"].as_array().unwrap();
    containers.iter().map(|one| one["exit"].as_u64().unwrap()).collect()
}

/// The events of a run with `--json`.
fn events(run: &Run) -> Vec<Value> {
    run.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The events of one kind, each as the container that it is about.
fn of_kind(events: &[Value], kind: &str) -> Vec<String> {
    let these = events.iter().filter(|event| event["event"] == kind);
    these.map(|event| event["container"].as_str().unwrap().to_owned()).collect()
}

fn signal(child: &Child, name: &str) {
    let kill =
        std::process::Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
}

fn ended(child: Child) -> Run {
    child.wait_with_output().unwrap().into()
}

#[test]
fn four_at_once_and_then_there_is_nothing_to_do() {
    let scene = Scene::new(4);
    for index in 0..4 {
        scene.steer(index, "sleep-after", "3 4");
    }
    let run = scene.provision(&["--jobs", "4"]).code(0);
    let report = run.json();
    let order: Vec<&str> = report["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["container"].as_str().unwrap())
        .collect();
    assert_eq!(order, scene.ids);
    let events = events(&run);
    let first = events.iter().find(|event| event["event"] == "batch_started").unwrap();
    assert_eq!((&first["containers"], &first["jobs"]), (&4.into(), &4.into()));
    let mut ended = of_kind(&events, "container_ended");
    let started = of_kind(&events, "container_started");
    // All had begun before the first one ended.
    let position = |kind| events.iter().position(|event| event["event"] == kind).unwrap();
    let before = &events[..position("container_ended")];
    assert_eq!(of_kind(before, "container_started").len(), 4);
    ended.sort();
    assert_eq!(ended, scene.ids);
    assert_eq!(started.len(), 4);
    assert_eq!(scene.site.requests(), 1, "one download serves all");
    for index in 0..4 {
        scene.unsteer(index, "sleep-after");
        scene.is_provisioned(index);
    }
    // Each has its own log.
    for id in &scene.ids {
        let log = entry(&report, id)["log"].as_str().unwrap();
        let text = std::fs::read_to_string(scene.host.path(log)).unwrap();
        assert!(text.contains(&format!("pct exec {id}")), "{text}");
        assert!(log.ends_with(&format!("{id}.log")));
    }
    scene.host.pct_calls();
    let again = scene.provision(&[]).code(0);
    let ended = self::events(&again);
    let ended: Vec<&Value> =
        ended.iter().filter(|event| event["event"] == "container_ended").collect();
    assert!(ended.iter().all(|event| event["outcome"] == "unchanged"), "{ended:?}");
    assert_eq!(scene.host.pct_calls().len(), 4, "a finished container costs one look");
}

#[test]
fn some_of_eight_fail_in_different_steps_and_the_others_are_done() {
    let mut scene = Scene::new(6);
    // One is not there, one is locked, one has no room, one whose installer fails, one that does
    // not start.
    scene.ids.insert(1, "999999".to_owned());
    let locked = scene.host.config(&scene.ids[2]) + "lock: backup\n";
    std::fs::write(scene.host.config_path(&scene.ids[2]), locked).unwrap();
    scene.steer(3, "fail-after", "5");
    scene.steer(5, "sanity-fails", "");
    let run = scene.provision(&["--jobs", "3"]).code(1);
    let report = run.json();
    assert_eq!(exits(&report), [0, 3, 4, 5, 0, 5, 0]);
    assert_eq!(report["exit"], 1);
    for index in [0, 4, 6] {
        scene.is_provisioned(index);
    }
    for (index, text) in [
        (1, "failed to find it: it does not exist"),
        (2, "Proxmox has locked it (backup)"),
        (3, "failed to install driver 580.76.05"),
        (5, "failed to install driver 580.76.05"),
    ] {
        let id = &scene.ids[index];
        let message = entry(&report, id)["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(text) && message.contains(id.as_str()), "{message}");
        assert!(run.stderr.contains(&format!("container {id}: failed to")));
    }
    let log = entry(&report, &scene.ids[3])["log"].as_str().unwrap().to_owned();
    let log = std::fs::read_to_string(scene.host.path(&log)).unwrap();
    assert!(log.contains("failed: container"), "{log}");
    // What failed alike has one exit code.
    let unlocked = scene.host.config(&scene.ids[2]).replace("lock: backup\n", "");
    std::fs::write(scene.host.config_path(&scene.ids[2]), unlocked).unwrap();
    scene.ids.remove(1);
    scene.steer(4, "kernel-version", "570.207");
    scene.unsteer(4, "sanity-fails");
    let report = scene.provision(&[]).code(5).json();
    assert_eq!(exits(&report), [0, 0, 5, 0, 5, 0]);
    for (index, file) in [(2, "fail-after"), (4, "kernel-version")] {
        scene.is_clean(index);
        scene.unsteer(index, file);
    }
    assert_eq!(exits(&scene.provision(&[]).code(0).json()), [0; 6]);
}

#[test]
fn an_installer_that_hangs_is_ended_inside_and_the_others_are_unharmed() {
    let scene = Scene::new(3);
    scene.steer(1, "sleep-after", "3 600");
    let child = scene.begin(&["--jobs", "3", "--installer-timeout", "8"]);
    scene.sleeps(1, "600");
    let run = ended(child).code(5);
    let report = run.json();
    assert_eq!(exits(&report), [0, 5, 0]);
    let causes = entry(&report, &scene.ids[1])["error"]["causes"].to_string();
    assert!(causes.contains("the installer did not end within 8 s"), "{causes}");
    let processes = scene.processes(1);
    assert!(!processes.contains("sleep 600"), "it goes on inside: {processes}");
    scene.is_clean(1);
    scene.is_provisioned(0);
    scene.is_provisioned(2);
    scene.unsteer(1, "sleep-after");
    scene.provision(&[]).code(0);
    scene.is_provisioned(1);
}

#[test]
fn after_the_first_failure_no_further_container_is_begun_if_so_asked() {
    let scene = Scene::new(4);
    scene.steer(1, "fail-after", "5");
    // At work when the other one fails.
    scene.steer(0, "sleep-after", "3 6");
    let run = scene.provision(&["--jobs", "2", "--fail-fast"]).code(5);
    let report = run.json();
    assert_eq!(exits(&report), [0, 5, 0, 0]);
    scene.is_provisioned(0);
    for id in &scene.ids[2..] {
        let one = entry(&report, id);
        assert_eq!((&one["not_begun"], one.get("log")), (&true.into(), None), "{one}");
        let step = &one["steps"][0];
        assert_eq!(step["outcome"], "skipped");
        let why = format!("not begun: container {} failed", scene.ids[1]);
        assert_eq!(step["detail"], why.as_str());
        assert!(!scene.host.config(id).contains("nvidia"));
        assert_eq!(scene.host.init(id), 0);
    }
    let events = events(&run);
    assert_eq!(of_kind(&events, "container_started").len(), 2);
    assert_eq!(of_kind(&events, "container_ended").len(), 4);
}

#[test]
fn sigint_once_finishes_what_runs_and_the_same_command_continues() {
    let scene = Scene::new(4);
    scene.steer(0, "sleep-after", "3 4");
    scene.steer(1, "sleep-after", "3 5");
    let child = scene.begin(&["--jobs", "2"]);
    scene.sleeps(0, "4");
    scene.sleeps(1, "5");
    signal(&child, "-INT");
    let run = ended(child).code(1).says("interrupted: nothing new begins");
    let run = run.says("failed to begin with 2 containers: interrupted by a signal");
    let report = run.json();
    assert_eq!(exits(&report), [1, 1, 1, 1]);
    for (index, id) in scene.ids.iter().enumerate() {
        scene.is_clean(index);
        let one = entry(&report, id);
        if index < 2 {
            // The installer came to its end, the checks were not begun.
            let last = one["steps"].as_array().unwrap().last().unwrap();
            assert_eq!((&last["step"], &last["outcome"]), (&"driver".into(), &"changed".into()));
            scene.unsteer(index, "sleep-after");
            scene.is_provisioned(index);
        } else {
            assert_eq!(one["not_begun"], true);
            assert_eq!(scene.host.init(id), 0);
            assert!(!scene.host.config(id).contains("nvidia"));
        }
    }
    let report = scene.provision(&[]).code(0).json();
    let driver = |id: &str| {
        let steps = entry(&report, id)["steps"].as_array().unwrap().clone();
        steps.iter().find(|step| step["step"] == "driver").unwrap()["outcome"].clone()
    };
    let outcomes: Vec<Value> = scene.ids.iter().map(|id| driver(id)).collect();
    assert_eq!(outcomes, ["unchanged", "unchanged", "changed", "changed"]);
}

#[test]
fn sigint_twice_ends_what_runs_and_puts_it_back() {
    let scene = Scene::new(3);
    for index in 0..3 {
        scene.steer(index, "sleep-after", "3 600");
    }
    let mut child = scene.begin(&["--jobs", "2", "--restore-state"]);
    scene.sleeps(0, "600");
    scene.sleeps(1, "600");
    signal(&child, "-INT");
    std::thread::sleep(Duration::from_secs(1));
    assert!(child.try_wait().unwrap().is_none(), "the first signal ended it");
    signal(&child, "-INT");
    let run = ended(child).code(1).says("interrupted: what runs is ended");
    assert_eq!(exits(&run.json()), [1, 1, 1]);
    for (index, id) in scene.ids.iter().enumerate() {
        assert_eq!(scene.host.init(id), 0, "it was stopped before");
        scene.unsteer(index, "sleep-after");
    }
    scene.provision(&[]).code(0);
    (0..3).for_each(|index| scene.is_provisioned(index));
}
