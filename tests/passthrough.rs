//! The two ways of passing devices, on real containers: what opens inside, what the configuration
//! says, and what Proxmox's own writing between our edits does to it.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use support::{Host, Kind, Nodes, Run, Site, VERSION};

/// What the shell says of a node that a rule forbids (EPERM), and of one that is allowed and has
/// no driver behind it (ENXIO).
const FORBIDDEN: &str = "Operation not permitted";
const NO_DRIVER: &str = "No such device or address";
const MISSING: &str = "missing";

const MOUNT: &[&str] = &["--passthrough", "mount"];
const DEVICE: &[&str] = &["--passthrough", "device"];

/// A container that runs on a host of its own.
struct Scene {
    host: Host,
    site: Site,
    ctid: String,
}

impl Scene {
    /// On a host whose nodes have NVIDIA's numbers and no driver behind them.
    fn silent(privilege: &str) -> Self {
        Self::on(Host::new(Kind::Pct, Nodes::Silent), privilege)
    }

    /// On a host whose nodes open.
    fn answering(privilege: &str) -> Self {
        Self::on(Host::new(Kind::Pct, Nodes::Answering(VERSION)), privilege)
    }

    fn on(host: Host, privilege: &str) -> Self {
        let scene = Self::stopped(host, privilege);
        scene.host.start(&scene.ctid);
        scene
    }

    fn stopped(host: Host, privilege: &str) -> Self {
        let site = Site::new();
        let ctid = host.container(privilege, &[]);
        Self { host, site, ctid }
    }

    fn verb(&self, verb: &str, more: &[&str]) -> Run {
        let recipe = self.site.driver_only();
        let mut arguments = vec![verb, self.ctid.as_str(), "--set", "driver=580.76.05"];
        for (option, value) in [("--gpus", "0"), ("--recipe", recipe.as_str())] {
            if !more.contains(&option) {
                arguments.extend([option, value]);
            }
        }
        arguments.extend(more);
        self.host.run(&arguments)
    }

    #[track_caller]
    fn provision(&self, more: &[&str]) -> Run {
        self.verb("provision", &[more, &["--start"]].concat()).code(0)
    }

    #[track_caller]
    fn plan(&self, more: &[&str]) -> Run {
        self.verb("plan", more).code(10)
    }

    #[track_caller]
    fn has_nothing_to_do(&self, more: &[&str]) {
        let run = self.verb("plan", more).code(0);
        assert!(!run.stdout.contains("change:"), "{}", run.stdout);
    }

    fn config(&self) -> String {
        self.host.config(&self.ctid)
    }

    fn write(&self, config: &str) {
        std::fs::write(self.host.config_path(&self.ctid), config).unwrap();
    }

    /// Adds lines by hand at the end of the live section.
    fn add(&self, lines: &[&str]) {
        let config = self.config();
        assert!(!config.contains("\n["), "the end of the file is a snapshot's");
        self.write(&(config + &lines.join("\n") + "\n"));
    }

    #[track_caller]
    fn pct(&self, arguments: &str) {
        let (verb, rest) = arguments.split_once(' ').unwrap_or((arguments, ""));
        self.host.shell(&format!("pct {verb} {} {rest}", self.ctid)).code(0);
    }

    fn init(&self) -> u32 {
        self.host.init(&self.ctid)
    }

    /// What opening a node inside comes to; empty when it opens.
    #[track_caller]
    fn opening(&self, node: &str) -> String {
        let open = format!("[ -e {node} ] || {{ echo missing; exit; }}; : <>{node}");
        let run = self.host.inside(&self.ctid, &open);
        if run.code == 0 {
            return run.stdout.trim().to_owned();
        }
        run.stderr.trim().rsplit(": ").next().unwrap().to_owned()
    }

    #[track_caller]
    fn opening_is(&self, nodes: &[&str], expected: &str) {
        for node in nodes {
            assert_eq!(self.opening(node), expected, "{node}:\n{}", self.config());
        }
    }
}

const NVIDIA: &[&str] = &["/dev/nvidia0", "/dev/nvidiactl"];

/// The lines of a configuration that are about NVIDIA's devices: nvstage's, in the tests that have
/// no others.
fn device_lines(config: &str) -> Vec<&str> {
    let numbers = ["195:", "511:", "236:", "508:"];
    let is_rule = |line: &str| numbers.iter().any(|n| line.contains(&format!("allow: c {n}")));
    config.lines().filter(|line| line.contains("/dev/nvidia") || is_rule(line)).collect()
}

/// What is nobody's business but the user's: everything else, without what a snapshot adds.
fn others(config: &str) -> String {
    let ours = device_lines(config);
    let is_kept = |line: &&str| !ours.contains(line) && !line.starts_with("parent:");
    config.lines().filter(is_kept).map(|line| format!("{line}\n")).collect()
}

/// From closed to allowed, by one way of passing devices.
fn opens_after(privilege: &str, method: &[&str]) {
    let scene = Scene::stopped(Host::new(Kind::Pct, Nodes::Silent), privilege);
    // A privileged container sees the node, and no rule allows it.
    let visible = "lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,optional,create=file 0 0";
    if privilege == "privileged" {
        scene.add(&[visible]);
    }
    scene.host.start(&scene.ctid);
    let before = if privilege == "privileged" { FORBIDDEN } else { MISSING };
    assert_eq!(scene.opening("/dev/nvidia0"), before);
    assert_eq!(scene.opening("/dev/nvidiactl"), MISSING);

    scene.provision(method);
    scene.opening_is(NVIDIA, NO_DRIVER);
    scene.opening_is(&["/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"], NO_DRIVER);
    assert_eq!(scene.opening("/dev/nvidia1"), MISSING, "a GPU that was not asked for");
    let config = scene.config();
    let has_rules = privilege == "privileged" && method == MOUNT;
    assert_eq!(config.contains("cgroup"), has_rules, "{config}");
}

#[test]
fn mount_entries_open_the_nodes_of_a_privileged_container() {
    opens_after("privileged", MOUNT);
}

#[test]
fn mount_entries_open_the_nodes_of_an_unprivileged_container() {
    opens_after("unprivileged", MOUNT);
}

#[test]
fn devices_open_the_nodes_of_a_privileged_container() {
    opens_after("privileged", DEVICE);
}

#[test]
fn devices_open_the_nodes_of_an_unprivileged_container() {
    opens_after("unprivileged", DEVICE);
}

/// The `dev[n]` of GPU 0.
const DEVICES: [&str; 4] = [
    "dev0: /dev/nvidia0,mode=0666",
    "dev1: /dev/nvidiactl,mode=0666",
    "dev2: /dev/nvidia-uvm,mode=0666",
    "dev3: /dev/nvidia-uvm-tools,mode=0666",
];

#[test]
fn devices_are_for_everybody_and_a_second_run_changes_nothing() {
    let scene = Scene::answering("unprivileged");
    scene.provision(DEVICE);
    let config = scene.config();
    assert_eq!(device_lines(&config), DEVICES, "{config}");
    let stat = scene.host.inside(&scene.ctid, "stat -c '%a %u:%g' /dev/nvidia0 /dev/nvidia-uvm");
    assert_eq!(stat.stdout, "666 0:0\n666 0:0\n");

    let init = scene.init();
    let again = scene.verb("provision", &[DEVICE, &["--json"]].concat()).code(0);
    for step in again.json()["containers"][0]["steps"].as_array().unwrap() {
        assert_eq!(step["outcome"], "unchanged", "{step}");
    }
    assert_eq!((scene.init(), scene.config()), (init, config));
    scene.has_nothing_to_do(&[]);
}

/// A recipe that gives the nodes to a group.
fn recipe_for_group(scene: &Scene, group: &str) -> String {
    let text = std::fs::read_to_string(scene.site.driver_only()).unwrap();
    let path = scene.host.directory.path().join(format!("{group}.toml"));
    let section = format!("[passthrough]\nmethod = \"device\"\ngroup = \"{group}\"\n");
    std::fs::write(&path, text + &section).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_group_is_looked_up_inside() {
    let scene = Scene::answering("unprivileged");
    scene
        .host
        .inside(&scene.ctid, "sed -i '/^video:/d' /etc/group; echo video:x:1044: >> /etc/group");
    let recipe = recipe_for_group(&scene, "video");
    scene.provision(&["--recipe", &recipe]);
    assert!(
        scene.config().contains("dev0: /dev/nvidia0,gid=1044,mode=0660\n"),
        "{}",
        scene.config()
    );
    let stat = scene.host.inside(&scene.ctid, "stat -c '%a %u:%g %G' /dev/nvidia0");
    assert_eq!(stat.stdout, "660 0:1044 video\n");
    scene.has_nothing_to_do(&["--recipe", &recipe]);

    let none = recipe_for_group(&scene, "gamers");
    scene
        .verb("provision", &["--recipe", &none])
        .code(2)
        .says("failed to look up the group `gamers` inside: there is none");
}

#[test]
fn a_group_of_a_stopped_container_cannot_be_looked_up() {
    let scene = Scene::stopped(Host::new(Kind::Pct, Nodes::Answering(VERSION)), "unprivileged");
    let before = scene.config();
    let recipe = recipe_for_group(&scene, "video");
    scene
        .verb("provision", &["--recipe", &recipe])
        .code(2)
        .says("failed to look up the group `video` inside: the container is stopped")
        .says(&format!("hint: start it: `pct start {}`", scene.ctid));
    assert_eq!((scene.config(), scene.init()), (before, 0));
}

/// From one way to the other and back.
fn converts(privilege: &str) {
    let scene = Scene::silent(privilege);
    scene.provision(MOUNT);
    let mounted = scene.config();
    let entries = device_lines(&mounted).len();
    scene.has_nothing_to_do(&[]);

    let plan = scene.plan(DEVICE);
    let plan = plan.shows(&format!("change: add 4 lines, take out {entries} lines"));
    let plan = plan.shows("change: restart it, the configuration changes");
    assert!(plan.stdout.contains("\n+dev0: /dev/nvidia0,mode=0666\n"), "{}", plan.stdout);
    let gone = "\n-lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,optional,create=file 0 0\n";
    assert!(plan.stdout.contains(gone), "{}", plan.stdout);
    assert_eq!(scene.config(), mounted, "a plan changed something");

    scene.host.pct_calls();
    scene.provision(DEVICE).shows("restarted");
    assert_eq!(starts(&scene), 1);
    let config = scene.config();
    assert_eq!(device_lines(&config), DEVICES, "{config}");
    scene.opening_is(NVIDIA, NO_DRIVER);
    // What the journal says holds until something else is said.
    scene.has_nothing_to_do(&[]);
    scene.provision(&[]);
    assert_eq!(scene.config(), config);

    let plan = scene.plan(MOUNT);
    plan.shows(&format!("change: add {entries} lines, take out 4 lines")).shows("restart it");
    scene.host.pct_calls();
    scene.provision(MOUNT).shows("restarted");
    assert_eq!(starts(&scene), 1);
    assert_eq!(scene.config(), mounted);
    scene.opening_is(NVIDIA, NO_DRIVER);
}

/// How often the container was started since `pct_calls` was asked last.
fn starts(scene: &Scene) -> usize {
    let calls = scene.host.pct_calls();
    calls.iter().filter(|call| call.starts_with("start ") || call.starts_with("reboot ")).count()
}

#[test]
fn a_privileged_container_is_converted_and_converted_back() {
    converts("privileged");
}

#[test]
fn an_unprivileged_container_is_converted_and_converted_back() {
    converts("unprivileged");
}

/// Devices that reach a running container.
fn attaches_while_it_runs(privilege: &str) {
    let scene = Scene::answering(privilege);
    let init = scene.init();
    let plan = scene.plan(DEVICE);
    plan.shows("change: add 4 lines, while it runs").shows("power unchanged: no restart needed");
    scene.provision(DEVICE).shows("power unchanged");
    assert_eq!(scene.init(), init, "it was restarted");
    scene.opening_is(NVIDIA, "");
    assert_eq!(device_lines(&scene.config()), DEVICES, "{}", scene.config());
    scene.has_nothing_to_do(&[]);
    // A start makes the same of it.
    scene.pct("reboot");
    scene.opening_is(NVIDIA, "");
}

#[test]
fn devices_reach_a_running_privileged_container() {
    attaches_while_it_runs("privileged");
}

#[test]
fn devices_reach_a_running_unprivileged_container() {
    attaches_while_it_runs("unprivileged");
}

#[test]
fn another_gpu_reaches_a_running_container_too() {
    let scene = Scene::silent("privileged");
    scene.provision(DEVICE);
    let init = scene.init();
    scene.plan(&["--gpus", "0,1"]).shows("change: add 1 line, while it runs");
    scene.provision(&["--gpus", "0,1"]);
    assert_eq!(scene.init(), init, "it was restarted");
    scene.opening_is(&["/dev/nvidia0", "/dev/nvidia1"], NO_DRIVER);
}

#[test]
fn devices_that_cannot_be_plugged_in_are_an_error_and_its_hint_helps() {
    let scene = Scene::answering("unprivileged");
    let before = scene.config();
    // The others are plugged in when the second is not.
    scene.host.inside(&scene.ctid, "mkdir /dev/nvidiactl").code(0);
    let reboot = format!("`pct reboot {}` takes them out; then run the command again", scene.ctid);
    let fails = |why: &str| {
        let run = scene.verb("provision", DEVICE).code(4);
        run.says("failed to add the devices to the running container")
            .says(why)
            .says("those that were plugged in before it failed can be used inside until a stop")
            .says(&reboot);
        assert_eq!(scene.config(), before);
        let opens = "for node in nvidia0 nvidia-uvm; do : <>/dev/$node || exit 1; done";
        scene.host.inside(&scene.ctid, opens).code(0);
    };
    fails("unable to hotplug dev1");
    scene.host.inside(&scene.ctid, "rmdir /dev/nvidiactl").code(0);
    fails("File exists");
    scene.pct("reboot");
    scene.provision(DEVICE);
    scene.opening_is(NVIDIA, "");
    assert_eq!(device_lines(&scene.config()), DEVICES, "{}", scene.config());
}

#[test]
fn an_older_proxmox_takes_devices_at_the_next_start() {
    let host = Host::with_version(Nodes::Answering(VERSION), "5.3.0");
    let scene = Scene::on(host, "unprivileged");
    let init = scene.init();
    let plan = scene.plan(DEVICE).shows("change: restart it, the configuration changes");
    assert!(!plan.stdout.contains("while it runs"), "{}", plan.stdout);
    scene.provision(DEVICE).shows("restarted");
    assert_ne!(scene.init(), init);
    scene.opening_is(NVIDIA, "");
}

#[test]
fn a_proxmox_without_devices_is_refused() {
    let host = Host::with_version(Nodes::Answering(VERSION), "5.0.3");
    let scene = Scene::stopped(host, "unprivileged");
    let before = scene.config();
    for verb in ["plan", "provision"] {
        let run = scene.verb(verb, DEVICE).code(4);
        let said = run.stdout + &run.stderr;
        for text in ["pve-container 5.0.3 has none", "`--passthrough mount` works everywhere"] {
            assert!(said.contains(text), "{verb}: {said}");
        }
    }
    assert_eq!((scene.config(), scene.init()), (before, 0));
}

#[test]
fn plain_lxc_has_no_devices() {
    let host = Host::new(Kind::Lxc, Nodes::Answering(VERSION));
    let scene = Scene::stopped(host, "privileged");
    let before = scene.config();
    scene.verb("provision", DEVICE).code(4).says("plain LXC has none");
    assert_eq!((scene.config(), scene.init()), (before, 0));
}

/// From two GPUs to one; GPU 1 has lines of somebody else's too.
fn narrows(method: &[&str], foreign: &[&str]) {
    let scene = Scene::silent("privileged");
    scene.provision(&[method, &["--gpus", "0,1"]].concat());
    let both = scene.config();
    scene.add(foreign);
    scene.provision(&["--gpus", "0"]);
    let config = scene.config();
    let of_gpu_1 = |line: &&str| line.contains("/dev/nvidia1") || line.contains("c 195:1 ");
    let expected: Vec<&str> = both.lines().filter(|line| !of_gpu_1(line)).collect();
    assert!(expected.len() < both.lines().count(), "{both}");
    let kept: Vec<&str> = config.lines().filter(|line| !foreign.contains(line)).collect();
    assert_eq!(kept, expected);
    for line in foreign {
        assert!(config.contains(line), "{line} is gone:\n{config}");
    }
    assert_eq!(scene.opening("/dev/nvidia1"), MISSING);
    scene.opening_is(NVIDIA, NO_DRIVER);
    scene.has_nothing_to_do(&["--gpus", "0"]);
}

#[test]
fn a_gpu_that_is_mounted_no_longer_goes_and_the_lines_of_others_stay() {
    narrows(
        MOUNT,
        &[
            "lxc.mount.entry: /dev/nvidia1 dev/mine none bind,optional,create=file 0 0",
            "lxc.cgroup2.devices.allow: c 195:1 rwm",
        ],
    );
}

#[test]
fn a_gpu_that_is_a_device_no_longer_goes_and_the_lines_of_others_stay() {
    narrows(DEVICE, &["lxc.cgroup2.devices.allow: c 195:* rwm"]);
}

#[test]
fn a_gpu_that_other_containers_have_is_told_whichever_way_they_have_it() {
    let scene = Scene::stopped(Host::new(Kind::Pct, Nodes::Answering(VERSION)), "unprivileged");
    let first = scene.ctid.clone();
    scene.provision(DEVICE);
    let scene = Scene { ctid: scene.host.container("unprivileged", &[]), ..scene };
    scene.provision(MOUNT);
    let second = scene.ctid.clone();
    let third = scene.host.container("privileged", &[]);
    let scene = Scene { ctid: third, ..scene };
    let shared = format!("shared       GPU 0 also with {first}, {second}\n");
    let run = scene.plan(DEVICE);
    assert!(run.stdout.contains(&shared), "{}", run.stdout);
    let run = scene.plan(&["--gpus", "1"]);
    assert!(!run.stdout.contains("shared"), "{}", run.stdout);
}

/// What a user's configuration may have, in the form that Proxmox itself writes.
const MINE: &str = "#my container%3A 50%25 mine\n\
    arch: amd64\n\
    cores: 1\n\
    hostname: web\n\
    memory: 512\n\
    NETWORK\n\
    onboot: 1\n\
    ostype: debian\n\
    ROOTFS\n\
    swap: 512\n\
    PRIVILEGE\n\
    lxc.environment: A=b c\n\
    lxc.cgroup2.devices.allow: c 226:* rwm\n\
    lxc.mount.entry: /srv srv none bind,optional,create=dir 0 0\n";

/// Gives the container that configuration.
fn with_lines_of_mine(scene: &Scene) -> String {
    let made = scene.config();
    let line = |key: &str| made.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    let text = MINE.replace("NETWORK", line("net0:")).replace("ROOTFS", line("rootfs:"));
    let text = text.replace(
        "PRIVILEGE\n",
        &match line("unprivileged:") {
            "" => String::new(),
            line => format!("{line}\n"),
        },
    );
    scene.write(&text);
    text
}

/// A section of a snapshot.
fn snapshot(config: &str, name: &str) -> String {
    let (_, after) = config.split_once(&format!("\n[{name}]\n")).unwrap();
    after.split("\n[").next().unwrap().to_owned()
}

/// The live section.
fn live(config: &str) -> &str {
    config.split("\n[").next().unwrap()
}

/// Proxmox writes the file in between, and nothing is lost: neither ours nor anybody else's.
fn survives_proxmox(privilege: &str, method: &[&str]) {
    let scene = Scene::stopped(Host::new(Kind::Pct, Nodes::Silent), privilege);
    let mine = with_lines_of_mine(&scene);
    let stays = |what: &str, tags: &str| {
        let expected = match tags {
            "" => mine.clone(),
            tags => mine.replace("swap: 512\n", &format!("swap: 512\ntags: {tags}\n")),
        };
        assert_eq!(others(live(&scene.config())).trim(), expected.trim(), "after {what}");
    };
    scene.pct("snapshot bare");
    stays("a snapshot", "");
    scene.provision(method);
    stays("provision", "");
    let provisioned = device_lines(live(&scene.config())).len();

    scene.pct("set --tags gpu");
    stays("pct set", "gpu");
    scene.has_nothing_to_do(&[]);
    scene.pct("snapshot with");
    let (bare, with) = (snapshot(&scene.config(), "bare"), snapshot(&scene.config(), "with"));
    assert_eq!(device_lines(&bare), [""; 0]);
    assert_eq!(device_lines(&with).len(), provisioned, "{with}");
    scene.pct("stop");
    stays("pct stop", "gpu");
    let settled = scene.config();

    // The snapshot has none of our lines, and no tags.
    scene.pct("rollback bare");
    stays("a rollback", "");
    assert_eq!(device_lines(live(&scene.config())), [""; 0]);
    scene.plan(&[]).shows("passthrough change: add");
    scene.provision(&[]);
    stays("provision after a rollback", "");
    assert_eq!(device_lines(live(&scene.config())).len(), provisioned);
    scene.opening_is(NVIDIA, NO_DRIVER);

    // This one has them: they are ours as before.
    scene.pct("rollback with");
    stays("a rollback to ours", "gpu");
    scene.host.start(&scene.ctid);
    scene.has_nothing_to_do(&[]);
    scene.pct("set --tags other --memory 640");
    scene.pct("set --delete tags --memory 512");
    scene.pct("shutdown");
    stays("pct shutdown", "");
    scene.host.start(&scene.ctid);
    scene.has_nothing_to_do(&[]);
    for (name, text) in [("bare", bare), ("with", with)] {
        assert_eq!(snapshot(&scene.config(), name).trim(), text.trim(), "snapshot {name}");
    }
    assert_eq!(device_lines(&settled), device_lines(&scene.config()));
}

#[test]
fn mount_entries_survive_what_proxmox_writes() {
    survives_proxmox("privileged", MOUNT);
}

#[test]
fn devices_survive_what_proxmox_writes() {
    survives_proxmox("unprivileged", DEVICE);
}

#[test]
fn a_change_of_the_users_that_waits_for_a_restart_comes_with_ours() {
    let scene = Scene::silent("privileged");
    scene.pct("set --searchdomain example.org");
    let waiting = "\n[pve:pending]\nsearchdomain: example.org\n";
    assert!(scene.config().ends_with(waiting), "{}", scene.config());
    let plan = scene.plan(MOUNT);
    for sign in ["\n+searchdomain", "\n-searchdomain"] {
        assert!(!plan.stdout.contains(sign), "{}", plan.stdout);
    }
    scene.provision(MOUNT);
    let config = scene.config();
    assert!(config.contains("\nsearchdomain: example.org\n"), "{config}");
    assert!(!config.contains("pve:pending"), "{config}");
    scene.opening_is(NVIDIA, NO_DRIVER);
}

#[test]
fn a_change_of_the_users_that_waits_goes_on_waiting_while_devices_are_plugged_in() {
    let scene = Scene::silent("unprivileged");
    scene.pct("set --searchdomain example.org");
    let init = scene.init();
    scene.provision(DEVICE);
    assert_eq!(scene.init(), init, "it was restarted");
    let config = scene.config();
    assert!(config.ends_with("\n[pve:pending]\nsearchdomain: example.org\n"), "{config}");
    assert_eq!(device_lines(live(&config)), DEVICES, "{config}");
}

#[test]
fn a_rollback_to_the_other_way_is_converted_again() {
    let scene = Scene::stopped(Host::new(Kind::Pct, Nodes::Silent), "privileged");
    let bare = scene.config();
    scene.provision(MOUNT);
    scene.pct("snapshot mounted");
    scene.provision(DEVICE);
    scene.pct("rollback mounted");
    scene.plan(&[]).shows("passthrough change: add 4 lines, take out");
    scene.provision(&[]);
    assert_eq!(device_lines(live(&scene.config())), DEVICES);
    scene.opening_is(NVIDIA, NO_DRIVER);
    scene.host.run(&["detach", &scene.ctid]).code(0);
    assert_eq!(others(live(&scene.config())), bare);
    assert_eq!(device_lines(live(&scene.config())), [""; 0]);
}

#[test]
fn nothing_is_added_to_a_list_of_rules_that_is_empty() {
    let scene = Scene::stopped(Host::new(Kind::Pct, Nodes::Silent), "privileged");
    scene.add(&["lxc.cgroup2.devices.deny: a"]);
    scene.plan(MOUNT).shows("every device opens, and a rule would forbid the others");
    scene.provision(MOUNT);
    assert!(!scene.config().contains("devices.allow"), "{}", scene.config());
    scene.opening_is(NVIDIA, NO_DRIVER);
    scene.opening_is(&["/dev/null", "/dev/zero"], "");
    scene.has_nothing_to_do(&[]);
}

#[test]
fn a_rule_that_denies_a_device_is_told_before_anything_changes() {
    let scene = Scene::stopped(Host::new(Kind::Pct, Nodes::Silent), "unprivileged");
    scene.add(&["lxc.cgroup2.devices.deny: c 195:0 rwm"]);
    let before = scene.config();
    let line = before.lines().count();
    for verb in ["plan", "provision"] {
        let run = scene.verb(verb, MOUNT).code(4);
        let said = run.stdout + &run.stderr;
        for text in ["its configuration denies it", &format!("take line {line} out")] {
            assert!(said.contains(text), "{verb}: {said}");
        }
    }
    assert_eq!((scene.config(), scene.init()), (before.clone(), 0));
    // It is the line that does it.
    scene.write(&before.replace("lxc.cgroup2.devices.deny: c 195:0 rwm\n", ""));
    scene.provision(MOUNT);
    scene.opening_is(NVIDIA, NO_DRIVER);
    scene.add(&["lxc.cgroup2.devices.deny: c 195:0 rwm"]);
    let finding = "`lxc.cgroup2.devices.deny: c 195:0 rwm` denies `/dev/nvidia0` (195:0)";
    scene.host.run(&["status", "--check", &scene.ctid]).code(10).shows(finding);
    scene.host.run(&["doctor", &scene.ctid]).code(10).shows(finding);
    scene.pct("reboot");
    assert_eq!(scene.opening("/dev/nvidia0"), FORBIDDEN);
}

#[test]
fn a_rule_that_lxc_drops_is_none() {
    let scene = Scene::stopped(Host::new(Kind::Pct, Nodes::Silent), "privileged");
    let dropped = "lxc.cgroup2.devices.allow: c 195:* rw # card";
    let mount = |node: &str| {
        format!("lxc.mount.entry: /dev/{node} dev/{node} none bind,optional,create=file 0 0")
    };
    let [gpu, ctl, uvm] = ["nvidia0", "nvidiactl", "nvidia-uvm"].map(mount);
    scene.add(&[dropped, &gpu, &ctl, &uvm]);
    let nodes = "`/dev/nvidia0` (195:0), `/dev/nvidiactl` (195:255)";
    let finding = format!("no device rule allows {nodes}: `{dropped}`: LXC drops it");
    for verb in ["doctor", "status"] {
        scene.host.run(&[verb, &scene.ctid]).shows(&finding);
    }
    scene.host.start(&scene.ctid);
    assert_eq!(scene.opening("/dev/nvidia0"), FORBIDDEN);
    scene.provision(MOUNT);
    scene.opening_is(NVIDIA, NO_DRIVER);
    scene.has_nothing_to_do(&[]);
    let run = scene.host.run(&["status", "--check", &scene.ctid]);
    assert!(!run.stdout.contains("no device rule"), "{}", run.stdout);
}

#[test]
fn a_device_that_goes_at_the_next_start_is_missing_now() {
    let scene = Scene::answering("unprivileged");
    scene.provision(DEVICE);
    scene.pct("set --delete dev1");
    assert!(scene.config().ends_with("\n[pve:pending]\ndelete: dev1\n"), "{}", scene.config());
    scene.opening_is(NVIDIA, "");
    let pending = "by what is pending in `[pve:pending]`, its configuration lacks `/dev/nvidiactl`";
    scene.host.run(&["status", "--check", &scene.ctid]).code(10).shows(pending);
    let run = scene.host.run(&["doctor", &scene.ctid]).code(10);
    run.shows("`dev1: /dev/nvidiactl,mode=0666`, of 4 lines that nvstage wrote, is gone");
    let plan =
        scene.plan(&[]).shows("at the next start `dev1: /dev/nvidiactl,mode=0666` is deleted");
    plan.shows("change: add 1 line").shows("restart it");
    scene.provision(&[]).shows("restarted");
    scene.opening_is(NVIDIA, "");
    let devices: Vec<&str> = DEVICES.into_iter().filter(|line| !line.contains("ctl")).collect();
    let config = scene.config();
    let mut kept = device_lines(&config);
    kept.retain(|line| !line.contains("nvidiactl"));
    assert_eq!(kept, devices, "{config}");
    scene.has_nothing_to_do(&[]);
}

/// A host after a boot: its drivers' majors, and their nodes.
fn majors(uvm: u32) -> String {
    format!(
        "Character devices:\n  1 mem\n195 nvidia\n195 nvidiactl\n195 nvidia-modeset\n236 nvidia-caps\n{uvm} nvidia-uvm\n\nBlock devices:\n  7 loop\n"
    )
}

#[test]
fn a_major_of_the_last_boot_is_forbidden_until_refresh_mends_it() {
    let host = Host::prepared(|directory| {
        std::fs::write(directory.join("proc-devices"), majors(511)).unwrap();
        std::fs::write(directory.join("modules"), "").unwrap();
        let nodes = "nvidia0 c 195 0\nnvidiactl c 195 255\nnvidia-modeset c 195 254\nnvidia-uvm c 511 0\nnvidia-uvm-tools c 511 1\n";
        std::fs::write(directory.join("devices"), nodes).unwrap();
        support::proc_driver(&directory.join("proc-driver"), VERSION);
    });
    let scene = Scene::on(host, "privileged");
    let uvm = ["/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"];
    scene.provision(MOUNT);
    scene.opening_is(&uvm, NO_DRIVER);

    // The machine boots: the driver is given another major, and makes its nodes with it.
    scene.pct("stop");
    std::fs::write(scene.host.path("/proc/devices"), majors(508)).unwrap();
    scene.host.shell("rm /dev/nvidia-uvm*; mknod -m 666 /dev/nvidia-uvm c 508 0; mknod -m 666 /dev/nvidia-uvm-tools c 508 1").code(0);
    scene.host.start(&scene.ctid);
    scene.opening_is(&uvm, FORBIDDEN);
    scene.opening_is(NVIDIA, NO_DRIVER);

    scene.host.run(&["refresh"]).code(0).shows(&format!("container {}: changed", scene.ctid));
    scene.pct("reboot");
    scene.opening_is(&uvm, NO_DRIVER);
    assert!(!scene.config().contains("511:"), "{}", scene.config());
    scene.has_nothing_to_do(&[]);
}

/// A node of capabilities that somebody gives to one user, by Proxmox VE's own entry or by a mount.
fn a_capability_of_others_stays(privilege: &str, line: &str, look: &str, seen: &str) {
    let scene = Scene::stopped(Host::new(Kind::Pct, Nodes::Silent), privilege);
    scene.add(&[line]);
    scene.host.start(&scene.ctid);
    assert_eq!(scene.host.inside(&scene.ctid, look).stdout, seen);
    let why = "`/dev/nvidia-caps` is not mounted, which would hide it";
    scene.plan(MOUNT).shows(line).shows(why);
    scene.provision(MOUNT).says(why);
    assert_eq!(scene.host.inside(&scene.ctid, look).stdout, seen, "{}", scene.config());
    scene.opening_is(NVIDIA, NO_DRIVER);
    assert!(!scene.config().contains(" dev/nvidia-caps none"), "{}", scene.config());
    scene.has_nothing_to_do(MOUNT);
}

#[test]
fn a_device_of_others_below_the_directory_of_capabilities_is_not_hidden() {
    let line = "dev6: /dev/nvidia-caps/nvidia-cap1,uid=999,mode=0660";
    let look = "stat -c '%a %u' /dev/nvidia-caps/nvidia-cap1";
    for privilege in ["privileged", "unprivileged"] {
        a_capability_of_others_stays(privilege, line, look, "660 999\n");
    }
}

#[test]
fn a_mount_of_others_below_the_directory_of_capabilities_is_not_hidden() {
    let line = "lxc.mount.entry: /dev/null dev/nvidia-caps/nvidia-cap1 none bind,create=file 0 0";
    let look = "stat -c '%t:%T' /dev/nvidia-caps/nvidia-cap1";
    a_capability_of_others_stays("unprivileged", line, look, "1:3\n");
}

#[test]
fn a_mount_of_something_else_at_the_place_of_a_node_is_told_and_not_hidden() {
    let scene = Scene::stopped(Host::new(Kind::Pct, Nodes::Silent), "privileged");
    let line = "lxc.mount.entry: /dev/nvidia1 dev/nvidia0 none bind,optional,create=file 0 0";
    scene.add(&[line]);
    let before = scene.config();
    for method in [MOUNT, DEVICE] {
        scene.verb("plan", method).code(4).shows("its configuration has another mount there");
        scene.verb("provision", method).code(4).says(line);
    }
    assert_eq!((scene.config(), scene.init()), (before, 0));
}

/// Lines by which a driver of the host's gets into a container.
const DRIVER_LINES: [&str; 4] = [
    "lxc.environment: NVIDIA_VISIBLE_DEVICES=1",
    "lxc.environment: NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    "lxc.hook.mount: /usr/share/lxc/hooks/nvidia",
    "lxc.mount.entry: /usr/bin/nvidia-smi usr/bin/nvidia-smi none bind,optional,create=file 0 0",
];

#[test]
fn a_driver_that_comes_from_the_host_by_other_lines_is_refused_or_taken_over() {
    let scene = Scene::stopped(Host::new(Kind::Pct, Nodes::Answering(VERSION)), "unprivileged");
    scene.add(&DRIVER_LINES);
    let (before, ctid) = (scene.config(), scene.ctid.as_str());
    // It is known as one that has a GPU, by its configuration alone.
    let gpus = scene.host.run(&["--json", "gpus"]).code(0).json();
    assert_eq!(gpus["containers"][0]["container"], ctid);
    assert_eq!(gpus["containers"][0]["gpus"][0]["index"], 1);
    let status = scene.host.run(&["--json", "status"]).code(0).json();
    assert_eq!(status["containers"][0]["driver_lines"].as_array().unwrap().len(), 4);
    scene.host.run(&["status"]).code(0).shows("stopped").shows("other");
    let other = scene.host.container("unprivileged", &[]);
    let recipe = scene.site.driver_only();
    let plan = ["plan", &other, "--gpus", "1", "--recipe", &recipe];
    scene.host.run(&plan).shows(&format!("GPU 1 also with {ctid}"));

    for verb in ["plan", "provision"] {
        let run = scene.verb(verb, &[]).code(4);
        let text = run.stdout + &run.stderr;
        let dense = |text: &str| text.split_whitespace().collect::<String>();
        for line in DRIVER_LINES.iter().chain(&["--adopt"]) {
            assert!(dense(&text).contains(&dense(line)), "{line} in {text}");
        }
    }
    assert_eq!((scene.config(), scene.init()), (before.clone(), 0));

    scene.verb("plan", &["--adopt"]).code(10).shows("take out 4 lines");
    scene.provision(&["--adopt"]);
    let config = scene.config();
    assert!(DRIVER_LINES.iter().all(|line| !config.contains(line)), "{config}");
    scene.host.inside(ctid, "nvidia-smi | grep 'Driver Version: 580.76.05'").code(0);
    scene.has_nothing_to_do(&[]);
    // What was taken over once is, whoever puts it in again.
    scene.add(&DRIVER_LINES[2..3]);
    let drift = scene.host.run(&["status", "--check"]).code(10);
    drift.shows("its configuration brings another driver").shows("--adopt");
    scene.provision(&[]);
    scene.has_nothing_to_do(&[]);

    scene.pct("stop");
    scene.host.run(&["detach", ctid]).code(0);
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&scene.config()), sorted(&before));
}
