//! Bad input from the host and from those who work on it at the same time: a clear error, the right
//! exit code, and the configuration as it was.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use support::{Host, Kind, Nodes, Run, Site, VERSION, eventually, proc_driver};

/// What a killed run may leave beside a configuration, and others must not.
const LEFT: &str = "find /etc/pve/ -name '.nvstage-*'";

/// A host with a stopped container, and where its driver comes from.
struct Scene {
    host: Host,
    site: Site,
    ctid: String,
    recipe: String,
}

impl Scene {
    fn new() -> Self {
        Self::on(Host::new(Kind::Pct, Nodes::Answering(VERSION)))
    }

    fn on(host: Host) -> Self {
        let site = Site::new();
        let ctid = host.container("privileged", &[]);
        let recipe = site.driver_only();
        Self { host, site, ctid, recipe }
    }

    /// It is left running: Proxmox rewrites the file at every stop.
    fn provision(&self) -> [&str; 7] {
        ["provision", &self.ctid, "--gpus", "1", "--recipe", &self.recipe, "--start"]
    }

    fn plan(&self) -> [&str; 6] {
        ["plan", &self.ctid, "--gpus", "1", "--recipe", &self.recipe]
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.host.config_path(&self.ctid)).unwrap()
    }

    fn write(&self, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.host.config_path(&self.ctid), bytes).unwrap();
    }

    /// A file where its configuration would be, which no container has.
    fn write_stray(&self, text: &str) {
        let path = self.host.path(&format!("/etc/pve/lxc/{}.conf", self.ctid));
        std::fs::write(path, text).unwrap();
    }

    /// Its configuration with more at the end.
    fn append(&self, text: &str) {
        self.write(self.host.config(&self.ctid) + text);
    }

    fn journal(&self) -> std::path::PathBuf {
        self.host.path(&format!("/var/lib/nvstage/containers/{}.json", self.ctid))
    }

    /// Edits the configuration and no more: the container cannot be started.
    fn edit(&self) {
        self.host.fault("start-fails", true);
        self.host.run(&self.provision()).code(6);
        self.host.fault("start-fails", false);
    }

    /// Asserts that the configuration is what it was, nothing lies beside it, and nothing is
    /// written down.
    #[track_caller]
    fn is_untouched(&self, before: &[u8]) {
        assert_eq!(String::from_utf8_lossy(&self.bytes()), String::from_utf8_lossy(before));
        assert_eq!(self.host.shell(LEFT).stdout, "");
        assert!(!self.journal().exists(), "a journal was written");
    }

    /// Proxmox's lock on the configuration.
    fn lock(&self) -> String {
        format!("/run/lock/lxc/pve-config-{}.lock", self.ctid)
    }

    fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = self.host.nvstage();
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Starts the program, waits until it waits for the lock on the configuration, and lets it have
    /// the lock after `meanwhile`.
    #[track_caller]
    fn while_it_waits(&self, arguments: &[&str], meanwhile: impl FnOnce()) -> Run {
        let lock = self.lock();
        let script = format!("exec 9>>{lock}; flock 9; echo held; exec sleep 60");
        let mut holder = self.host.command("sh");
        let mut holder = holder.args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
        holder.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
        let child = self.begin(arguments);
        eventually("it waits for the lock", Duration::from_secs(20), || {
            let open = std::fs::read_dir(format!("/proc/{}/fd", child.id())).into_iter().flatten();
            let mut open = open.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
            open.any(|path| path == Path::new(&lock))
        });
        meanwhile();
        holder.kill().unwrap();
        holder.wait().unwrap();
        child.wait_with_output().unwrap().into()
    }
}

/// A host whose drivers are all loaded, with the numbers of this boot.
fn complete_host() -> Host {
    Host::prepared(|directory| {
        let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
        write(
            "proc-devices",
            "Character devices:\n  1 mem\n195 nvidia\n195 nvidiactl\n195 nvidia-modeset\n\
             240 nvidia-caps\n508 nvidia-uvm\n\nBlock devices:\n  7 loop\n",
        );
        write(
            "devices",
            "nvidia0 c 195 0\nnvidia1 c 195 1\nnvidiactl c 195 255\nnvidia-modeset c 195 254\n\
             nvidia-uvm c 508 0\nnvidia-uvm-tools c 508 1\n",
        );
        write("modules", "nvidia 195\nnvidia-uvm 508\nnvidia-modeset 195\n");
        proc_driver(&directory.join("proc-driver"), VERSION);
        let mig = directory.join("proc-driver/nvidia/capabilities/mig");
        std::fs::create_dir_all(&mig).unwrap();
        let text = "DeviceFileMinor: 1\nDeviceFileMode: 256\nDeviceFileModify: 1\n";
        std::fs::write(mig.join("config"), text).unwrap();
    })
}

const JOURNAL: &str = include_str!("journals/schema-1.json");

/// A container of a [`complete_host`] with a rule of the last boot.
fn outdated() -> Scene {
    let scene = Scene::on(complete_host());
    std::fs::create_dir_all(scene.journal().parent().unwrap()).unwrap();
    let journal = JOURNAL.replace("508", "511").replace("\"201\"", &format!("\"{}\"", scene.ctid));
    std::fs::write(scene.journal(), journal).unwrap();
    scene.append(
        "lxc.mount.entry: /dev/nvidia-uvm dev/nvidia-uvm none bind,optional,create=file 0 0\n\
         lxc.cgroup2.devices.allow: c 511:0 rw\n",
    );
    scene
}

#[test]
fn files_of_the_kernel_that_nobody_understands_are_named() {
    let scene = Scene::on(complete_host());
    let before = scene.bytes();
    for (path, text) in [
        ("/proc/driver/nvidia/version", "NVRM version: nonsense\n"),
        (
            "/proc/driver/nvidia/gpus/0000:01:00.0/information",
            "Model: \t NVIDIA\nDevice Minor: x\n",
        ),
        ("/proc/driver/nvidia/capabilities/mig/config", "DeviceFileMinor: -\n"),
        ("/proc/devices", "Character devices:\nnvidia 195\n"),
    ] {
        let file = scene.host.path(path);
        let good = std::fs::read(&file).unwrap();
        std::fs::write(&file, text).unwrap();
        let named = format!("failed to read `{path}`");
        scene.host.run(&["gpus"]).code(4).says(&named);
        scene.host.run(&scene.plan()).code(4).shows(&format!("container {}: {named}", scene.ctid));
        scene
            .host
            .run(&scene.provision())
            .code(4)
            .says(&format!("container {}: {named}", scene.ctid));
        std::fs::write(&file, good).unwrap();
    }
    scene.is_untouched(&before);
    assert_eq!(scene.site.requests(), 0);
    scene.host.run(&scene.plan()).code(10);
}

#[test]
fn a_gpu_that_goes_away_after_the_plan_is_not_passed() {
    let scene = Scene::new();
    let before = scene.bytes();
    let run = scene.while_it_waits(&scene.provision(), || {
        scene.host.shell("rm /dev/nvidia1").code(0);
    });
    run.code(4).says(&format!("container {}: failed to find `/dev/nvidia1`", scene.ctid));
    scene.is_untouched(&before);

    scene.host.shell("mknod -m 0666 /dev/nvidia1 c 10 200").code(0);
    let run = scene.while_it_waits(&scene.provision(), || {
        scene.host.shell("rm -r /proc/driver/nvidia/gpus/0000:81:00.0").code(0);
    });
    run.code(4)
        .says("failed to pass the GPUs through: one is gone since the plan")
        .says("hint: run the command again; `nvstage gpus` shows what is there now");
    scene.is_untouched(&before);

    // Another one has its name now.
    proc_driver(&scene.host.path("/proc/driver"), VERSION);
    let first = ["provision", &scene.ctid, "--gpus", "0", "--recipe", &scene.recipe];
    let run = scene.while_it_waits(&first, || {
        scene.host.shell("rm -r /proc/driver/nvidia/gpus/0000:01:00.0").code(0);
    });
    run.code(4).says("their device nodes have changed since the plan");
    scene.is_untouched(&before);
}

#[test]
fn no_free_entry_for_a_device() {
    let scene = Scene::new();
    let entries: String = (0..256).map(|number| format!("dev{number}: /dev/null\n")).collect();
    scene.append(&entries);
    let before = scene.bytes();
    let method = ["--passthrough", "device"];
    let run = scene.host.run(&[&scene.provision()[..], &method].concat()).code(4);
    run.says(&format!("container {}: failed to pass another device: all 256", scene.ctid))
        .says("hint: `--passthrough mount` needs none");
    scene.host.run(&[&scene.plan()[..], &method].concat()).code(4).shows("all 256 `dev[n]`");
    scene.is_untouched(&before);
    assert_eq!(scene.site.requests(), 0);
}

/// A configuration of at least so many bytes: notes, and a snapshot with notes.
fn padded(scene: &Scene, length: usize) -> String {
    let config = scene.host.config(&scene.ctid);
    let note = "# a line of notes that somebody keeps in the configuration\n";
    let notes = note.repeat(length / 2 / note.len());
    let rest = note.repeat((length - notes.len() - config.len()) / note.len() + 1);
    format!("{notes}{config}\n[before]\n{rest}arch: amd64\n")
}

#[test]
fn a_large_configuration_is_no_obstacle() {
    let scene = Scene::new();
    let large = padded(&scene, 900 << 10);
    scene.write(&large);
    scene.host.run(&scene.plan()).code(10).shows("+lxc.mount.entry: /dev/nvidia1 dev/nvidia1");
    scene.host.run(&scene.provision()).code(0);
    let after = scene.host.config(&scene.ctid);
    let added = |line: &&str| line.contains("nvidia") || line.contains("devices.allow");
    let (added, kept): (Vec<&str>, Vec<&str>) = after.lines().partition(added);
    assert_eq!(kept.join("\n") + "\n", large);
    assert!(added.len() >= 5, "{added:?}");
}

#[test]
fn a_configuration_that_would_grow_too_large_is_refused_before_anything_is_fetched() {
    let scene = Scene::new();
    let large = padded(&scene, (1 << 20) - 200);
    assert!(large.len() <= 1 << 20);
    scene.write(&large);
    let path = format!("failed to write `/etc/pve/lxc/{}.conf`", scene.ctid);
    let why = "Proxmox's cluster file system takes 1048576";
    let hint = "hint: shorten the container's notes, or delete snapshots";
    scene.host.run(&scene.provision()).code(4).says(&path).says(why).says(hint);
    scene.host.run(&scene.plan()).code(4).shows(&path).shows(why).shows(hint);
    scene.is_untouched(large.as_bytes());
    assert_eq!(scene.site.requests(), 0);
}

#[test]
fn bytes_that_are_not_utf8_are_kept() {
    let scene = Scene::new();
    let notes = b"# caf\xe9 \xff\n#\xc3\n";
    let values = b"description: \xfe\xed\nlxc.environment: NAME=\xe9\xe8\n\xff\xff\nlxc.mount.entry: /srv/\xe4 srv none bind,optional,create=dir 0 0\n";
    let snapshot = b"\n[before]\n#\xfc\nlxc.environment: NAME=\xe9\n";
    let config = scene.bytes();
    let before = [&notes[..], &config, values, snapshot].concat();
    scene.write(&before);
    scene.host.run(&scene.plan()).code(10).shows("lxc.environment: NAME=\\xe9\\xe8");
    scene.host.run(&scene.provision()).code(0);
    let after = scene.bytes();
    let contains = |part: &[u8]| after.windows(part.len()).any(|window| window == part);
    for part in [&[&notes[..], &config, values].concat()[..], snapshot] {
        assert!(contains(part), "{}", String::from_utf8_lossy(&after));
    }
    assert!(contains(b"lxc.mount.entry: /dev/nvidia1 dev/nvidia1 none"));
    // Proxmox itself writes notes in another form when the container stops.
    scene.host.shell(&format!("pct stop {}", scene.ctid)).code(0);
    scene.write(&after);
    scene.host.run(&["detach", &scene.ctid]).code(0);
    assert_eq!(scene.bytes(), before);
}

#[test]
fn a_change_while_provision_waits_for_the_lock_is_kept() {
    let scene = Scene::new();
    let run = scene.while_it_waits(&scene.provision(), || scene.append("# by somebody else\n"));
    run.code(0).says("its configuration was changed meanwhile: planned again");
    let config = scene.host.config(&scene.ctid);
    for line in ["# by somebody else", "lxc.mount.entry: /dev/nvidia1 dev/nvidia1 none"] {
        assert_eq!(config.matches(line).count(), 1, "{line}: {config}");
    }
}

#[test]
fn a_change_while_refresh_waits_for_the_lock_is_kept() {
    let scene = outdated();
    scene.while_it_waits(&["refresh"], || scene.append("# by somebody else\n")).code(0);
    let config = scene.host.config(&scene.ctid);
    assert!(config.contains("# by somebody else\n"), "{config}");
    assert!(config.contains("devices.allow: c 508:0 rw") && !config.contains("511:"), "{config}");
}

#[test]
fn a_change_while_detach_waits_for_the_lock_is_kept() {
    let scene = Scene::new();
    let before = scene.host.config(&scene.ctid);
    scene.edit();
    let detach = ["detach", &scene.ctid];
    scene.while_it_waits(&detach, || scene.append("# by somebody else\n")).code(0);
    assert_eq!(scene.host.config(&scene.ctid), before + "# by somebody else\n");
}

#[test]
fn who_changes_the_configuration_all_the_time_is_not_disturbed() {
    let scene = Scene::new();
    let before = scene.bytes();
    // At every look at the container's state, which comes after that at its configuration.
    let config = format!("/etc/pve/lxc/{}.conf", scene.ctid);
    let script = format!(
        "#!/bin/sh\necho \"# $$\" >>/run/written\n\
         cat /run/before /run/written >{config}.tmp.$$ && mv {config}.tmp.$$ {config}\n\
         exec /usr/bin/lxc-info \"$@\"\n"
    );
    std::fs::write(scene.host.path("/run/before"), &before).unwrap();
    std::fs::write(scene.host.path("/usr/sbin/lxc-info"), script).unwrap();
    scene.host.shell("chmod 0755 /usr/sbin/lxc-info").code(0);
    scene
        .host
        .run(&scene.provision())
        .code(4)
        .says("edit the configuration: somebody else changes it at the same time")
        .says("hint: run the command again when that has ended");
    let written = std::fs::read(scene.host.path("/run/written")).unwrap();
    scene.is_untouched(&[before, written].concat());
    scene.host.shell("rm /usr/sbin/lxc-info").code(0);
    scene.host.run(&scene.provision()).code(0);
}

#[test]
fn without_the_cluster_file_system_every_verb_that_needs_it_says_so() {
    let scene = outdated();
    scene.host.shell("mount -t tmpfs tmpfs /etc/pve").code(0);
    let recipe = ["--recipe", &scene.recipe];
    let gpus = ["--gpus", "0"];
    let what = "failed to read `/etc/pve`: the cluster file system is not mounted";
    let hint = "hint: `systemctl status pve-cluster` says why";
    for verb in ["provision", "verify"] {
        let run = scene.host.run(&[&[verb, &scene.ctid], &recipe[..], &gpus].concat());
        run.code(4).says(what).says(hint);
    }
    scene.host.run(&scene.plan()).code(4).shows(what).shows(hint);
    for arguments in [
        &["detach", &scene.ctid][..],
        &["refresh"],
        &["phoenix", &scene.ctid, "0", "580.76.05", "http://10.99.0.1/", "http://10.99.0.1/"],
        &["prefetch", "--for", &scene.ctid, "--recipe", &scene.recipe],
    ] {
        let run = scene.host.run(arguments);
        assert_eq!(run.code, 4, "{arguments:?}: {}{}", run.stdout, run.stderr);
        run.says(what).says(hint);
    }
    for arguments in [&["doctor"][..], &["doctor", &scene.ctid]] {
        let run = scene.host.run(arguments).code(10);
        run.shows(what).shows("remedy: `systemctl status pve-cluster` says why");
    }
    let run = scene.host.run(&["gpus"]).code(0).shows("0000:81:00.0");
    run.says("which containers have a GPU is not known").says(what);
    assert_eq!(scene.host.shell("find /etc/pve -mindepth 1").stdout, "");
    assert_eq!(scene.site.requests(), 0);
}

#[test]
fn a_stray_configuration_where_the_cluster_file_system_is_not_mounted_is_not_edited() {
    let scene = outdated();
    let config = scene.host.config(&scene.ctid);
    scene.host.shell("mount -t tmpfs tmpfs /etc/pve && mkdir /etc/pve/lxc").code(0);
    scene.write_stray(&config);
    let journal = std::fs::read(scene.journal()).unwrap();
    for arguments in [&scene.provision()[..], &["detach", &scene.ctid], &["refresh"]] {
        let run = scene.host.run(arguments);
        assert_eq!(run.code, 4, "{arguments:?}: {}{}", run.stdout, run.stderr);
        run.says("failed to read `/etc/pve`: the cluster file system is not mounted");
    }
    assert_eq!(scene.host.config(&scene.ctid), config);
    assert_eq!(std::fs::read(scene.journal()).unwrap(), journal);
    assert_eq!(scene.host.init(&scene.ctid), 0);
    assert_eq!(scene.site.requests(), 0);
}

#[test]
fn detach_leaves_a_read_only_configuration_as_it_is() {
    let scene = Scene::new();
    scene.edit();
    let before = scene.bytes();
    scene.host.shell("mount -o remount,ro,bind /etc/pve").code(0);
    scene
        .host
        .run(&["detach", &scene.ctid])
        .code(4)
        .says(&format!("container {}: failed to write `/etc/pve/lxc/", scene.ctid))
        .says("pvecm status");
    assert_eq!(scene.bytes(), before);
    assert_eq!(scene.host.shell(LEFT).stdout, "");
    scene.host.shell("mount -o remount,rw,bind /etc/pve").code(0);
    scene.host.run(&["detach", &scene.ctid]).code(0).shows("took out");
    assert!(!scene.host.config(&scene.ctid).contains("nvidia"));
}

#[test]
fn a_container_that_moves_to_another_node_meanwhile_takes_its_configuration_along() {
    let scene = Scene::new();
    let before = scene.bytes();
    let name = format!("{}.conf", scene.ctid);
    let run = scene.while_it_waits(&scene.provision(), || {
        scene
            .host
            .shell(&format!("mv /etc/pve/lxc/{name} /etc/pve/nodes/other/lxc/{name}"))
            .code(0);
    });
    run.code(3)
        .says(&format!(
            "container {}: failed to find it on this node: it is on node `other`",
            scene.ctid
        ))
        .says("hint: run nvstage on `other`");
    let found = scene.host.shell("cd /etc/pve/nodes; find * -type f").stdout;
    assert_eq!(found, format!("other/lxc/{name}\n"));
    assert_eq!(
        std::fs::read(scene.host.path(&format!("/etc/pve/nodes/other/lxc/{name}"))).unwrap(),
        before
    );
    assert!(!scene.journal().exists());
}

/// Runs the program until it would rename its `number`th file, and kills it there.
fn killed_at_rename(scene: &Scene, number: usize, arguments: &[&str]) -> Run {
    let calls = "rename,renameat,renameat2";
    let mut command = scene.host.command("strace");
    command.args(["-o", "/run/trace", "-e", &format!("trace={calls}"), "-e"]);
    command.arg(format!("inject={calls}:signal=KILL:when={number}"));
    command.arg(env!("CARGO_BIN_EXE_nvstage")).args(arguments).output().unwrap().into()
}

/// Kills the program at each of its renames in turn, each time from `old` on, and lets the same
/// command finish. Returns how many kills left the old configuration and how many the new one.
fn killed_everywhere(scene: &Scene, arguments: &[&str], old: &State, new: &[u8]) -> (usize, usize) {
    let (mut before, mut after) = (0, 0);
    for number in 1.. {
        old.put_back(scene);
        let run = killed_at_rename(scene, number, arguments);
        if run.code != 128 + 9 {
            run.code(0);
            break;
        }
        let now = scene.bytes();
        assert!(now == old.config || now == new, "{number}: {}", String::from_utf8_lossy(&now));
        *if now == old.config { &mut before } else { &mut after } += 1;
        scene.host.shell(&format!("flock -n {} true", scene.lock())).code(0);
        scene.host.run(arguments).code(0);
        assert_eq!(scene.bytes(), new, "{number}");
        assert_eq!(scene.host.shell(LEFT).stdout, "", "{number}");
        let journals = "find /var/lib/nvstage/containers -name '.nvstage-*'";
        assert_eq!(scene.host.shell(journals).stdout, "", "{number}");
    }
    (before, after)
}

/// The configuration and the journal of a container that does not run.
struct State {
    config: Vec<u8>,
    journal: Option<Vec<u8>>,
}

impl State {
    fn of(scene: &Scene) -> Self {
        Self { config: scene.bytes(), journal: std::fs::read(scene.journal()).ok() }
    }

    fn put_back(&self, scene: &Scene) {
        if scene.host.init(&scene.ctid) != 0 {
            scene.host.shell(&format!("pct stop {}", scene.ctid)).code(0);
        }
        scene.write(&self.config);
        match &self.journal {
            Some(journal) => std::fs::write(scene.journal(), journal).unwrap(),
            None => drop(std::fs::remove_file(scene.journal())),
        }
    }
}

#[test]
fn provision_killed_at_any_rename_leaves_the_old_configuration_or_the_new_one() {
    let scene = Scene::new();
    let old = State::of(&scene);
    scene.edit();
    let new = scene.bytes();
    let (before, after) = killed_everywhere(&scene, &scene.provision(), &old, &new);
    // At the journal's and the configuration's own, and at least at the journal's after it.
    assert!(before >= 2 && after >= 1, "{before} {after}");
}

#[test]
fn detach_killed_at_any_rename_leaves_the_old_configuration_or_the_new_one() {
    let scene = Scene::new();
    let new = scene.bytes();
    scene.edit();
    let old = State::of(&scene);
    let (before, after) = killed_everywhere(&scene, &["detach", &scene.ctid], &old, &new);
    // The journal has all lines already: at the configuration's own at the latest.
    assert!(before >= 1 && after >= 1, "{before} {after}");
}

#[test]
fn what_a_killed_run_leaves_beside_the_configuration_is_no_container_and_is_cleared_away() {
    let scene = Scene::new();
    let old = State::of(&scene);
    scene.edit();
    let new = State::of(&scene);
    let name = format!(".nvstage-{}.conf.", scene.ctid);
    for (next, config) in [("detach", &old.config), ("provision", &new.config)] {
        old.put_back(&scene);
        killed_at_rename(&scene, 2, &scene.provision()).code(128 + 9);
        let left = scene.host.shell(LEFT).stdout;
        assert!(left.contains(&name) && left.lines().count() == 1, "{left}");
        assert_eq!(scene.host.shell("pct list | wc -l").stdout.trim(), "2");
        match next {
            "detach" => scene.host.run(&["detach", &scene.ctid]).code(0),
            _ => scene.host.run(&scene.provision()).code(0),
        };
        assert_eq!(scene.host.shell(LEFT).stdout, "", "after {next}");
        assert_eq!(scene.bytes(), *config);
    }
    // Also where the configuration is as it should be already.
    let name = format!("/etc/pve/lxc/.nvstage-{}.conf.a1B2c3", scene.ctid);
    scene.host.shell(&format!("touch {name} /etc/pve/lxc/.nvstage-9999.conf.a1B2c3")).code(0);
    scene.host.run(&scene.provision()).code(0);
    let left = scene.host.shell(LEFT).stdout;
    assert!(left.ends_with("/.nvstage-9999.conf.a1B2c3\n") && left.lines().count() == 1, "{left}");
}

#[test]
fn a_damaged_journal_stops_the_work_on_its_container_and_doctor_tells_of_it() {
    let scene = Scene::new();
    scene.edit();
    let before = scene.bytes();
    let journal = std::fs::read_to_string(scene.journal()).unwrap();
    let path = format!("`/var/lib/nvstage/containers/{}.json`", scene.ctid);
    let newer = journal.replace("\"schema\": 2", "\"schema\": 3, \"new\": []");
    for (text, why) in [
        (&journal[..journal.len() / 2], "EOF"),
        (&newer, "its schema is 3; this nvstage reads 1 to 2"),
    ] {
        std::fs::write(scene.journal(), text).unwrap();
        let named = format!("failed to read {path}");
        let hint = "hint: move it away";
        for arguments in [
            &scene.provision()[..],
            &["detach", &scene.ctid],
            &["verify", &scene.ctid, "--gpus", "1", "--recipe", &scene.recipe],
        ] {
            scene.host.run(arguments).code(4).says(&named).says(why).says(hint);
        }
        scene.host.run(&scene.plan()).code(4).shows(&named).shows(why).shows(hint);
        for arguments in [&["doctor", "--json"][..], &["doctor", "--json", &scene.ctid]] {
            let document = scene.host.run(arguments).code(10).json();
            let findings = document["findings"].as_array().unwrap();
            let found = findings.iter().find(|finding| finding["check"] == "config-drift").unwrap();
            let text = found["finding"].as_str().unwrap();
            assert!(text.contains(&path) && text.contains(why), "{text}");
            assert_eq!(found["container"], scene.ctid.as_str());
        }
        assert_eq!(scene.bytes(), before);
        assert_eq!(std::fs::read_to_string(scene.journal()).unwrap(), text);
    }
}

#[test]
fn a_container_that_proxmox_has_locked_is_left_alone() {
    let scene = outdated();
    scene.append("lock: backup\n");
    let before = scene.bytes();
    let journal = std::fs::read(scene.journal()).unwrap();
    for arguments in [
        &["detach", &scene.ctid][..],
        &["detach", &scene.ctid, "--uninstall"],
        &["detach", &scene.ctid, "--purge"],
        &["refresh"],
    ] {
        let what = "failed to work on it: Proxmox has locked it (backup)";
        scene
            .host
            .run(arguments)
            .code(4)
            .says(&format!("container {}: {what}", scene.ctid))
            .says("`pct unlock` only if it died");
        assert_eq!(scene.bytes(), before);
        assert_eq!(std::fs::read(scene.journal()).unwrap(), journal);
        assert_eq!(scene.host.init(&scene.ctid), 0);
    }
    assert_eq!(scene.host.pct_calls(), [""; 0]);
}
