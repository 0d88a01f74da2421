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

use std::time::Duration;

use serde_json::Value;
use support::batch::{Fleet, ended, entry, events, exits, of_kind, signal, start};
use support::{Host, Kind, Nodes, Site};

#[test]
fn four_at_once_and_then_there_is_nothing_to_do() {
    let scene = Fleet::new(4);
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
    let ended = support::batch::events(&again);
    let ended: Vec<&Value> =
        ended.iter().filter(|event| event["event"] == "container_ended").collect();
    assert!(ended.iter().all(|event| event["outcome"] == "unchanged"), "{ended:?}");
    assert_eq!(scene.host.pct_calls().len(), 4, "a finished container costs one look");
}

#[test]
fn five_of_eight_fail_in_different_steps_and_the_others_are_done() {
    let mut scene = Fleet::new(7);
    // One is not there, one is locked, in one the installer fails, one does not start, in one a
    // check fails.
    scene.ids.insert(1, "999999".to_owned());
    let locked = scene.host.config(&scene.ids[2]) + "lock: backup\n";
    std::fs::write(scene.host.config_path(&scene.ids[2]), locked).unwrap();
    scene.steer(3, "fail-after", "5");
    let broken = "dev7: /dev/nosuch\n";
    let config = scene.host.config(&scene.ids[5]);
    std::fs::write(scene.host.config_path(&scene.ids[5]), config.clone() + broken).unwrap();
    scene.steer(7, "kernel-version", "570.207");
    let run = scene.provision(&["--jobs", "3"]).code(1).says("6 of 6 containers share a GPU");
    let report = run.json();
    assert_eq!(exits(&report), [0, 3, 4, 5, 0, 6, 0, 5]);
    assert_eq!(report["exit"], 1);
    for index in [0, 4, 6] {
        scene.is_provisioned(index);
    }
    for (index, text) in [
        (1, "failed to find it: it does not exist"),
        (2, "Proxmox has locked it (backup)"),
        (3, "failed to install driver 580.76.05"),
        (5, "failed to start the container"),
        (7, "failed to pass the checks"),
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
    // The hook of a failed start may still write what it has read.
    std::thread::sleep(Duration::from_secs(3));
    for index in [2, 5] {
        let path = scene.host.config_path(&scene.ids[index]);
        let config = scene.host.config(&scene.ids[index]);
        std::fs::write(path, config.replace("lock: backup\n", "").replace(broken, "")).unwrap();
    }
    scene.ids.remove(1);
    let report = scene.provision(&[]).code(5).json();
    assert_eq!(exits(&report), [0, 0, 5, 0, 0, 0, 5]);
    for (index, file) in [(2, "fail-after"), (6, "kernel-version")] {
        scene.is_clean(index);
        scene.unsteer(index, file);
    }
    assert_eq!(exits(&scene.provision(&[]).code(0).json()), [0; 7]);
}

#[test]
fn an_installer_that_hangs_is_ended_inside_and_the_others_are_unharmed() {
    let scene = Fleet::new(3);
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
    let scene = Fleet::new(4);
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
    let scene = Fleet::new(4);
    scene.steer(0, "sleep-after", "3 4");
    scene.steer(1, "sleep-after", "3 5");
    let child = scene.begin(&["--jobs", "2"]);
    scene.sleeps(0, "4");
    scene.sleeps(1, "5");
    signal(&child, "-INT");
    let run = ended(child).code(130).says("interrupted: nothing new begins");
    let run = run.says("failed to begin with 2 containers: interrupted by a signal");
    let report = run.json();
    assert_eq!(exits(&report), [130, 130, 130, 130]);
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
    let scene = Fleet::new(3);
    for index in 0..3 {
        scene.steer(index, "sleep-after", "3 600");
    }
    let mut arguments = scene.arguments(&["--jobs", "2"]);
    arguments.retain(|argument| *argument != "--start");
    let mut child = start(&scene.host, &arguments);
    scene.sleeps(0, "600");
    scene.sleeps(1, "600");
    signal(&child, "-INT");
    std::thread::sleep(Duration::from_secs(1));
    assert!(child.try_wait().unwrap().is_none(), "the first signal ended it");
    signal(&child, "-INT");
    let run = ended(child).code(130).says("interrupted: what runs is ended");
    assert_eq!(exits(&run.json()), [130, 130, 130]);
    for (index, id) in scene.ids.iter().enumerate() {
        assert_eq!(scene.host.init(id), 0, "it was stopped before");
        scene.unsteer(index, "sleep-after");
    }
    scene.provision(&[]).code(0);
    (0..3).for_each(|index| scene.is_provisioned(index));
}

#[test]
fn two_batches_with_a_container_in_common() {
    let scene = Fleet::new(3);
    scene.steer(1, "sleep-after", "3 7");
    let of = |ids: &[String]| {
        let mut all =
            vec!["--json", "provision", "--start", "--gpus", "0", "--recipe", &scene.recipe];
        all.extend(["--jobs", "1"]);
        all.extend(ids.iter().map(String::as_str));
        start(&scene.host, &all)
    };
    let one = of(&scene.ids[..2]);
    scene.sleeps(1, "7");
    let other = of(&scene.ids[1..]);
    let (first, second) = (one.id(), &scene.ids[1]);
    let run = ended(other).code(0);
    // It says for whom it waits, and does the other one first.
    run.clone()
        .says(&format!("waiting: another nvstage (process {first}) works on container {second}"));
    let events = events(&run);
    let order = of_kind(&events, "container_ended");
    assert_eq!(order, [scene.ids[2].as_str(), second]);
    assert_eq!(exits(&run.json()), [0, 0]);
    let step = |name: &str| {
        let report = run.json();
        let steps = entry(&report, second)["steps"].as_array().unwrap().clone();
        steps.iter().find(|step| step["step"] == name).unwrap()["outcome"].clone()
    };
    assert_eq!(step("driver"), "unchanged", "the first one has installed it");
    ended(one).code(0);
    (0..3).for_each(|index| scene.is_provisioned(index));
    assert_eq!(scene.site.requests(), 1);
}

#[test]
fn the_disk_of_the_cache_runs_full_between_two_recipes() {
    // Without a kernel module each container may get another driver.
    let host = Host::new(Kind::Pct, Nodes::Silent);
    let site = Site::new();
    let ids: Vec<String> = (0..3).map(|_| host.container("privileged", &[])).collect();
    let recipe = site.driver_only();
    let fleet = format!(
        "schema = 1\nrecipe = \"{recipe}\"\ngpus = 0\nset = [\"driver=580.76.05\"]\n\
         [[container]]\nid = {}\n[[container]]\nid = [{}, {}]\nset = [\"driver=580.95.05\"]\n",
        ids[0], ids[1], ids[2]
    );
    std::fs::write(host.path("/run/fleet.toml"), fleet).unwrap();
    // What one driver needs, and half of that.
    let trial = ["--cache", "/run/trial", "prefetch", "--for", "debian12", "--recipe", &recipe];
    host.run(&[&trial[..], &["--set", "driver=580.76.05"]].concat()).code(0);
    let used = host.shell("du -sk /run/trial | cut -f1").code(0).stdout;
    let size = used.trim().parse::<u64>().unwrap() * 3 / 2;
    host.shell(&format!("mkdir /run/small && mount -t tmpfs -o size={size}k tmpfs /run/small"))
        .code(0);
    let all =
        ["--cache", "/run/small", "--json", "provision", "--start", "--file", "/run/fleet.toml"];
    let before: Vec<String> = ids.iter().map(|id| host.config(id)).collect();
    let run = host.run(&all).code(5).says("space");
    assert_eq!(exits(&run.json()), [0, 5, 5]);
    assert_eq!([host.config(&ids[1]), host.config(&ids[2])], before[1..]);
    let left = host.shell("find /run/small -name '.tmp-*'; ls /run/small/trees-v1").stdout;
    assert_eq!(left.lines().count(), 1, "half a tree is left: {left}");
    host.shell("mount -o remount,size=90% /run/small").code(0);
    let report = host.run(&all).code(0).json();
    assert_eq!(exits(&report), [0, 0, 0]);
    let driver = &entry(&report, &ids[0])["steps"];
    let driver = driver.as_array().unwrap().iter().find(|step| step["step"] == "driver").unwrap();
    assert_eq!(driver["outcome"], "unchanged");
    for (id, version) in [(&ids[0], "580.76.05"), (&ids[1], "580.95.05"), (&ids[2], "580.95.05")] {
        let look = "ls -l /usr/lib/x86_64-linux-gnu/libcuda.so.*";
        assert!(host.inside(id, look).stdout.contains(version));
    }
}

#[test]
fn containers_that_somebody_stops_starts_and_removes_meanwhile() {
    let scene = Fleet::new(5);
    let [sleeping, ending, running, stopped, gone] = &scene.ids[..] else { unreachable!() };
    scene.steer(0, "sleep-after", "3 9");
    scene.steer(1, "sleep-after", "3 600");
    scene.host.start(running);
    let child = scene.begin(&["--jobs", "2"]);
    scene.sleeps(0, "9");
    scene.sleeps(1, "600");
    let script = format!(
        "lxc-stop -k -n {running} && pct start {stopped} && mv /etc/pve/lxc/{gone}.conf /run/ && lxc-stop -k -n {ending}"
    );
    scene.host.shell(&script).code(0);
    let run = ended(child).code(1);
    let report = run.json();
    assert_eq!(exits(&report), [0, 5, 0, 0, 3]);
    let causes = entry(&report, ending)["error"]["causes"].to_string();
    assert!(causes.contains("the container stopped while the installer was running"), "{causes}");
    let power = |id: &str| {
        let steps = entry(&report, id)["steps"].as_array().unwrap().clone();
        steps.iter().find(|step| step["step"] == "power").unwrap()["detail"].to_string()
    };
    assert!(power(running).contains("started"), "{}", power(running));
    assert!(power(stopped).contains("restarted"), "{}", power(stopped));
    assert_ne!(scene.host.init(sleeping), 0);
    scene.host.shell(&format!("mv /run/{gone}.conf /etc/pve/lxc/")).code(0);
    scene.unsteer(0, "sleep-after");
    scene.unsteer(1, "sleep-after");
    assert_eq!(exits(&scene.provision(&[]).code(0).json()), [0; 5]);
    (0..5).for_each(|index| scene.is_provisioned(index));
}
