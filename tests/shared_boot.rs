//! Shared drivers over boots, kills and driver upgrades: what `refresh` mounts, what containers
//! that start get, and what `cache` says and removes.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{Host, Run, Site, VERSION, proc_driver};

const NEXT: &str = "580.95.05";
const SHARED: &str = "/var/lib/nvstage/driver";
/// What brings the shared driver into a container.
const LINE: &str = "lxc.mount.entry: /var/lib/nvstage/driver/current usr/lib/nvstage/driver none bind,ro,nosuid,nodev,optional,create=dir 0 0\n";

/// A Proxmox host with all modules of a driver loaded, and a site to fetch from.
struct Scene {
    host: Host,
    site: Site,
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

impl Scene {
    fn new() -> Self {
        let host = Host::prepared(|directory| {
            let majors = "195 nvidia\n195 nvidiactl\n195 nvidia-modeset\n508 nvidia-uvm\n";
            let devices =
                format!("Character devices:\n  1 mem\n{majors}\nBlock devices:\n  7 loop\n");
            write(&directory.join("proc-devices"), &devices);
            write(&directory.join("modules"), "nvidia 195\n");
            write(&directory.join("devices"), "");
            proc_driver(&directory.join("proc-driver"), VERSION);
        });
        Self { host, site: Site::new() }
    }

    /// With the installer of the loaded module in the cache, and sharing in use.
    fn sharing() -> Self {
        let scene = Self::new();
        scene.prefetch();
        scene.host.shell(&format!("mkdir -p {SHARED}")).code(0);
        scene
    }

    fn prefetch(&self) {
        self.host.run(&["prefetch", "--recipe", &self.site.driver_only()]).code(0);
    }

    #[track_caller]
    fn refresh(&self) -> Run {
        self.host.run(&["refresh"]).code(0)
    }

    /// The version in the link's target.
    fn current(&self) -> String {
        let target = self.host.shell(&format!("readlink {SHARED}/current")).stdout;
        match target.trim().strip_suffix("/userland") {
            Some(version) => version.to_owned(),
            None => target,
        }
    }

    /// What lies beside the images, by name.
    fn names(&self) -> Vec<String> {
        let list = self.host.shell(&format!("ls -A {SHARED}")).code(0).stdout;
        list.lines().map(str::to_owned).collect()
    }

    /// As after a boot: nothing is mounted, and locks are gone.
    fn reboot(&self) {
        self.host
            .shell(&format!(
                "for at in {SHARED}/*/; do umount -q $at; done; rm -rf /run/nvstage; true"
            ))
            .code(0);
    }

    fn digest(&self, version: &str) -> String {
        self.host.shell(&format!("sha256sum < {SHARED}/{version}.squashfs")).code(0).stdout
    }

    /// A stopped container with the line.
    fn container(&self, privilege: &str) -> String {
        let ctid = self.host.container(privilege, &[]);
        let path = self.host.config_path(&ctid);
        let config = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, config + LINE).unwrap();
        ctid
    }
}

#[test]
fn what_is_shared_is_mounted_at_boot_and_follows_the_loaded_module() {
    let scene = Scene::new();
    scene.prefetch();
    scene.refresh();
    assert!(!scene.host.path(SHARED).exists(), "nothing is shared here yet");

    scene.host.shell(&format!("mkdir -p {SHARED}")).code(0);
    let requests = scene.site.server.requests().len();
    scene.refresh().shows("containers get driver 580.76.05");
    assert_eq!(scene.current(), VERSION);
    let expected = ["580.76.05", "580.76.05.json", "580.76.05.squashfs", "current"];
    assert_eq!(scene.names(), expected);
    let mounts = scene.host.shell(&format!("grep ' {SHARED}/' /proc/self/mounts")).code(0).stdout;
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    let options = mounts.split(' ').nth(3).unwrap();
    for option in ["ro", "nosuid", "nodev"] {
        assert!(options.split(',').any(|found| found == option), "{mounts}");
    }
    let device = mounts.split(' ').next().unwrap();
    assert_eq!(scene.host.shell(&format!("blockdev --getro {device}")).code(0).stdout, "1\n");
    scene.refresh().shows("nothing to do");

    scene.reboot();
    scene.refresh().shows("mounted the shared driver 580.76.05");
    assert!(scene.host.path(&format!("{SHARED}/current/lib/libcuda.so.1")).exists());

    // The host's driver is upgraded, and nobody has fetched the installer.
    scene.host.load_module(NEXT);
    scene.reboot();
    let run = scene.refresh();
    run.shows("there is no image of 580.95.05, the loaded kernel module's version, and 580.76.05 is taken away")
        .shows("`nvstage sync`");
    assert_eq!(scene.current(), "");
    let again = scene.refresh();
    assert!(!again.stdout.contains("taken away"), "{}", again.stdout);
    assert_eq!(scene.site.server.requests().len(), requests);

    scene.prefetch();
    let requests = scene.site.server.requests().len();
    scene.refresh().shows("containers get driver 580.95.05");
    assert_eq!(scene.current(), NEXT);
    assert_eq!(scene.site.server.requests().len(), requests);
    // The way back needs nothing.
    scene.host.load_module(VERSION);
    scene.refresh().shows("containers get driver 580.76.05, it was 580.95.05");

    // No driver at all: containers get none, and the run says why it fails.
    scene.host.shell("rm -r /proc/driver/nvidia; grep -v nvidia /run/proc-devices > /run/less; cat /run/less > /run/proc-devices; : > /run/modprobe-modules").code(0);
    let run = scene.host.run(&["refresh"]).code(4);
    run.says("580.76.05 is taken away: no kernel module of NVIDIA is loaded")
        .says("`nvidia` is neither loaded nor installed");
    assert_eq!(scene.current(), "");
}

#[test]
fn what_is_wrong_with_one_image_keeps_no_other_from_containers() {
    let scene = Scene::sharing();
    scene.refresh();
    scene.host.load_module(NEXT);
    scene.prefetch();
    scene.refresh();
    scene.reboot();
    scene
        .host
        .shell(&format!(
            "truncate -s 100 {SHARED}/{VERSION}.squashfs; touch {SHARED}/.tmp-1.2.3.squashfs"
        ))
        .code(0);
    scene
        .host
        .shell(&format!("mkdir {SHARED}/.tmp-1.2.4.squashfs.work; echo x > {SHARED}/9.9.squashfs"))
        .code(0);
    let run = scene.refresh();
    run.shows("the shared driver 580.76.05: warning: not mounted").shows("was never finished");
    assert_eq!(scene.current(), NEXT);
    assert!(!scene.names().iter().any(|name| name.starts_with(".tmp")), "{:?}", scene.names());
    // The damaged one is the loaded one: it is built again, because the cache has its installer.
    scene.host.load_module(VERSION);
    scene.prefetch();
    scene.refresh().shows("containers get driver 580.76.05, it was 580.95.05");
    assert!(scene.host.path(&format!("{SHARED}/current/lib/libcuda.so.1")).exists());
}

#[test]
fn a_kill_at_any_moment_is_repaired_by_the_next_run() {
    let sound = Scene::sharing();
    let began = Instant::now();
    sound.refresh();
    let whole = began.elapsed();
    let scene = Scene::sharing();
    let moments = 24;
    for moment in 0..moments {
        let mut child = scene
            .host
            .nvstage()
            .arg("refresh")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole * moment / moments);
        child.kill().unwrap();
        child.wait().unwrap();
        // Whatever there is of `current` is whole.
        let current = scene.current();
        if !current.is_empty() {
            let at = scene.host.path(&format!("{SHARED}/current"));
            assert!(at.join("lib/libcuda.so.1").exists() && at.join("bin/nvidia-smi").exists());
        }
        if moment % 3 == 2 {
            scene.refresh();
            assert_eq!(scene.digest(VERSION), sound.digest(VERSION), "after {moment}");
            assert_eq!((scene.names(), scene.current()), (sound.names(), sound.current()));
            // From the beginning again: with the unpacked installer, or without.
            scene.reboot();
            scene
                .host
                .shell(&format!(
                    "rm -r {SHARED}/*; [ {moment} -lt 12 ] || rm -rf /var/cache/nvstage/trees-v1/*"
                ))
                .code(0);
        }
    }
}

#[test]
fn of_several_runs_at_once_one_builds() {
    let scene = Scene::sharing();
    let spawn = || {
        let mut command = scene.host.nvstage();
        command.args(["--json", "refresh"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let runs: Vec<_> = (0..3).map(|_| spawn()).collect();
    let runs: Vec<Run> =
        runs.into_iter().map(|run| run.wait_with_output().unwrap().into()).collect();
    let builds = runs.iter().map(|run| {
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.stderr
            .lines()
            .filter(|line| {
                line.contains("step_started") && line.contains("build the shared driver")
            })
            .count()
    });
    assert_eq!(builds.sum::<usize>(), 1);
    let mounts = scene.host.shell(&format!("grep -c ' {SHARED}/' /proc/self/mounts")).stdout;
    assert_eq!(mounts, "1\n");
}

/// What root of a container tries; nothing of it may succeed.
const ATTEMPTS: &str = "at=/usr/lib/nvstage/driver; [ -e $at/bin/nvidia-smi ] || exit 9
for options in remount,rw remount,bind,rw remount,bind,rw,suid,dev,exec; do mount -o $options $at 2>&1; done
mount --bind $at /mnt && mount -o remount,bind,rw /mnt 2>&1
for place in $at /mnt; do
    for try in 'echo x > bin/nvidia-smi' 'echo x >> lib/libcuda.so.1' 'rm bin/nvidia-smi' 'touch new' \
        'chmod 4777 bin/nvidia-smi' 'ln -sf x lib/libcuda.so.1' 'mv lib away' 'truncate -s 0 bin/nvidia-smi' 'chown 1 bin'; do
        if (cd $place && eval \"$try\") 2>/tmp/why; then echo \"SUCCEEDED: $try\"; else cat /tmp/why; fi
    done
done
for minor in $(seq 0 63); do
    mknod /tmp/loop$minor b 7 $minor 2>/dev/null && (: >> /tmp/loop$minor) 2>/dev/null && echo \"SUCCEEDED: loop$minor\"
done
ls /var/lib/nvstage 2>/dev/null; true";

#[test]
fn no_container_can_write_to_what_it_is_shown() {
    let scene = Scene::sharing();
    scene.refresh();
    let files =
        format!("cd {SHARED}/{VERSION} && find . -type f -exec sha256sum {{}} + | LC_ALL=C sort");
    let before = (scene.digest(VERSION), scene.host.shell(&files).code(0).stdout);
    for privilege in ["privileged", "unprivileged"] {
        let ctid = scene.container(privilege);
        scene.host.start(&ctid);
        let tried = scene.host.inside(&ctid, ATTEMPTS).code(0).stdout;
        assert!(!tried.contains("SUCCEEDED"), "{privilege}: {tried}");
        let refused =
            |line: &&str| line.contains("Read-only file system") || line.contains("not permitted");
        assert!(tried.lines().filter(refused).count() >= 9, "{privilege}: {tried}");
    }
    assert_eq!((scene.digest(VERSION), scene.host.shell(&files).code(0).stdout), before);
    assert!(scene.refresh().stdout.contains("nothing to do"));
}

/// What root of a container tries where nothing is mounted.
const GROPING: &str = "at=/usr/lib/nvstage/driver; mkdir -p $at
for options in remount,rw remount,bind,rw remount,bind,rw,suid,dev,exec; do mount -o $options $at 2>/dev/null; done
cd $at && mkdir -p bin lib && echo x > bin/nvidia-smi && chmod 4777 bin/nvidia-smi && ln -sf /bin/sh lib/libcuda.so.1
chmod 777 . .. && cd .. && echo x > x; true";

#[test]
fn a_container_that_starts_before_anything_is_mounted_gets_no_directory_of_the_host() {
    let scene = Scene::sharing();
    scene.refresh();
    let ctid = scene.container("privileged");
    scene.reboot();
    assert_eq!(scene.current(), VERSION);
    let everything =
        "cd /var/lib/nvstage && find . -printf '%p %y %m %U %s %T@ %C@ %l\\n' | LC_ALL=C sort";
    let before = scene.host.shell(everything).code(0).stdout;
    scene.host.start(&ctid);
    assert_eq!(scene.host.inside(&ctid, "grep lib/nvstage/ /proc/self/mountinfo").stdout, "");
    scene.host.inside(&ctid, GROPING).code(0);
    assert_eq!(scene.host.shell(everything).code(0).stdout, before);

    scene.refresh().shows("mounted the shared driver 580.76.05");
    scene.host.shell(&format!("pct stop {ctid}")).code(0);
    scene.host.start(&ctid);
    assert_eq!(seen(&scene, &ctid), [VERSION]);
}

/// The versions of a program, a library and a library's own name, which must be one.
const SEEN: &str = "cd /usr/lib/nvstage/driver 2>/dev/null || exit 9
sed -n 's/.*v\\([0-9][0-9.]*[0-9]\\).*/\\1/p' bin/nvidia-smi | head -1
readlink lib/libcuda.so.1 | sed 's/libcuda.so.//'; ls lib | sed -n 's/^libnvidia-glcore.so.//p'";

fn seen(scene: &Scene, ctid: &str) -> Vec<String> {
    let lines = scene.host.inside(ctid, SEEN).code(0).stdout;
    let mut versions: Vec<String> = lines.lines().map(str::to_owned).collect();
    assert!(versions.len() >= 2, "{lines}");
    versions.dedup();
    versions
}

#[test]
fn a_container_keeps_what_it_began_with_and_gets_the_new_driver_at_its_next_start() {
    let scene = Scene::sharing();
    scene.refresh();
    let ctid = scene.container("privileged");
    scene.host.start(&ctid);
    assert_eq!(seen(&scene, &ctid), [VERSION]);
    scene.host.load_module(NEXT);
    scene.prefetch();
    scene.refresh();
    assert_eq!(seen(&scene, &ctid), [VERSION]);
    // It keeps it even when the image is removed.
    scene.host.run(&["cache", "prune"]).code(0);
    assert!(!scene.host.path(&format!("{SHARED}/{VERSION}.squashfs")).exists());
    assert_eq!(seen(&scene, &ctid), [VERSION]);
    scene.host.shell(&format!("pct stop {ctid}")).code(0);
    scene.host.start(&ctid);
    assert_eq!(seen(&scene, &ctid), [NEXT]);
    // Without an image it starts all the same.
    scene.host.shell(&format!("pct stop {ctid}; rm {SHARED}/current")).code(0);
    scene.host.start(&ctid);
    assert_eq!(scene.host.inside(&ctid, SEEN).stdout, "");
}

#[test]
fn containers_that_start_while_current_is_switched_see_one_whole_driver() {
    let scene = Scene::sharing();
    scene.refresh();
    scene.host.load_module(NEXT);
    scene.prefetch();
    scene.refresh();
    let ctids = [scene.container("privileged"), scene.container("unprivileged")];
    let done = AtomicBool::new(false);
    let mut met: Vec<String> = std::thread::scope(|scope| {
        let switching = scope.spawn(|| {
            let mut switches = 0;
            while !done.load(Ordering::Relaxed) {
                scene.host.load_module(if switches % 2 == 0 { VERSION } else { NEXT });
                scene.refresh().shows("containers get driver");
                switches += 1;
            }
            switches
        });
        let starts: Vec<_> = ctids
            .iter()
            .map(|ctid| {
                let scene = &scene;
                scope.spawn(move || {
                    let mut met = Vec::new();
                    for _ in 0..5 {
                        scene.host.start(ctid);
                        let versions = seen(scene, ctid);
                        assert_eq!(versions.len(), 1, "a mixture: {versions:?}");
                        met.extend(versions);
                        scene.host.shell(&format!("pct stop {ctid}")).code(0);
                    }
                    met
                })
            })
            .collect();
        let met: Vec<_> = starts.into_iter().map(|start| start.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(switching.join().unwrap() >= 5);
        met.into_iter().flat_map(|met| met.unwrap()).collect()
    });
    met.sort();
    met.dedup();
    assert!(met.iter().all(|version| [VERSION, NEXT].contains(&version.as_str())), "{met:?}");
}

/// A container that was given a shared driver, as its journal tells.
fn journal(scene: &Scene, ctid: &str, change: &[(&str, &str)]) {
    let mut text =
        include_str!("journals/schema-1.json").replace("\"201\"", &format!("\"{ctid}\""));
    let end = text.rfind('}').unwrap();
    let more: String =
        change.iter().map(|(key, value)| format!(",\n  \"{key}\": {value}")).collect();
    text.insert_str(end, &more);
    write(&scene.host.path(&format!("/var/lib/nvstage/containers/{ctid}.json")), &text);
}

/// The driver was upgraded: there are two images, and the newer one is used.
fn two_versions() -> Scene {
    let scene = Scene::sharing();
    scene.refresh();
    scene.host.load_module(NEXT);
    scene.prefetch();
    scene.refresh();
    scene
}

#[test]
fn images_are_listed_and_kept_as_long_as_they_are_needed() {
    let scene = two_versions();
    let list = || scene.host.run(&["--json", "cache", "list"]).code(0).json();
    let kept_by = |name: &str| {
        let things = list()["things"].as_array().unwrap().clone();
        let thing = things.into_iter().find(|thing| thing["what"] == name);
        thing.unwrap_or_else(|| panic!("{name} is not listed"))["kept_by"].clone()
    };
    let empty = serde_json::json!([]);
    assert_eq!(kept_by("shared driver 580.76.05"), empty);
    let needed =
        serde_json::json!(["the loaded kernel module", "containers that start (`current`)"]);
    assert_eq!(kept_by("shared driver 580.95.05"), needed);
    scene
        .host
        .run(&["cache", "list"])
        .code(0)
        .shows("shared driver 580.76.05")
        .shows("nothing: prune removes it");

    // A container that was given it keeps what it sees while it runs, and then gets `current`; its
    // image of CUDA has no such follower.
    let toolkit = "/var/lib/nvstage/cuda/12.8-0123456789ab.squashfs";
    write(&scene.host.path(toolkit), "x");
    journal(&scene, "900", &[("userland", "\"share\""), ("cuda_image", "\"12.8-0123456789ab\"")]);
    assert_eq!(kept_by("shared driver 580.76.05"), empty);
    let toolkits = "shared CUDA 12.8-0123456789ab, unfinished";
    assert_eq!(kept_by(toolkits), serde_json::json!(["container 900"]));
    let prune = |more: &[&str]| scene.host.run(&[&["cache", "prune"], more].concat());
    prune(&["--driver", NEXT])
        .code(4)
        .says("the shared driver 580.95.05: it is needed")
        .says("by the loaded kernel module, containers that start (`current`)")
        .says("`nvstage refresh` gives containers its driver");
    prune(&["--driver", "1.2.3"]).code(2).says("there is none").says("nvstage cache list");
    prune(&["--driver", "../current"]).code(2).says("as an NVIDIA driver version");
    prune(&[]).code(0);
    let expected = ["580.95.05", "580.95.05.json", "580.95.05.squashfs", "current"];
    assert_eq!(scene.names(), expected);
    assert!(scene.host.path(toolkit).exists());
}

#[test]
fn what_nobody_knows_or_somebody_uses_is_not_removed() {
    let scene = two_versions();
    let prune = |more: &[&str]| scene.host.run(&[&["cache", "prune"], more].concat());
    // The container of a journal that nobody understands may need any toolkit, and no driver.
    let toolkit = "/var/lib/nvstage/cuda/12.8-0123456789ab.squashfs";
    write(&scene.host.path(toolkit), "x");
    write(&scene.host.path("/var/lib/nvstage/containers/901.json"), "{");
    scene.host.run(&["cache", "list"]).code(0).says("nobody knows which shared CUDA is needed");
    let (names, refused) = (scene.names(), prune(&[]).code(4));
    refused.says("remove any shared CUDA: nobody knows what is needed").says("901.json");
    assert!(scene.host.path(toolkit).exists());
    assert_eq!(scene.names(), names);
    prune(&["--driver", VERSION, "--dry-run"]).code(0).shows("shared driver 1");
    scene.host.shell("rm /var/lib/nvstage/containers/901.json").code(0);

    let dry = prune(&["--dry-run"]).code(0);
    dry.shows("shared driver");
    assert!(scene.names().contains(&format!("{VERSION}.squashfs")));
    // A process of the host that is at work there keeps it.
    let holder = scene
        .host
        .command("sh")
        .args(["-c", &format!("cd {SHARED}/{VERSION}; exec sleep 100")])
        .spawn();
    let mut holder = holder.unwrap();
    std::thread::sleep(Duration::from_millis(300));
    prune(&[]).code(4).says("unmount the shared driver 580.76.05").says("fuser -vm");
    holder.kill().unwrap();
    holder.wait().unwrap();
    let pruned = scene.host.run(&["--json", "cache", "prune"]).code(0).json();
    let removed = pruned["removed"].as_array().unwrap();
    assert!(
        removed.iter().any(|one| one["path"] == format!("{SHARED}/{VERSION}.squashfs")),
        "{pruned}"
    );
    let expected = ["580.95.05", "580.95.05.json", "580.95.05.squashfs", "current"];
    assert_eq!(scene.names(), expected);
    assert_eq!(scene.host.shell(&format!("grep -c ' {SHARED}/' /proc/self/mounts")).stdout, "1\n");
}

#[test]
fn verify_finds_what_no_stamp_tells_and_containers_get_nothing_damaged() {
    let scene = Scene::sharing();
    scene.refresh();
    let image = format!("{SHARED}/{VERSION}.squashfs");
    let whole = scene.host.run(&["--json", "cache", "verify"]).code(0).json();
    // The disk gives other bytes, and the file's times stay: the record is made to say so.
    scene
        .host
        .shell(&format!(
            "chmod u+w {image}; printf XXXX | dd of={image} bs=1 seek=6000 conv=notrunc status=none"
        ))
        .code(0);
    let found = std::fs::metadata(scene.host.path(&image)).unwrap();
    let path = scene.host.path(&format!("{SHARED}/{VERSION}.json"));
    let mut record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let stamp = &mut record["image"]["stamp"];
    stamp["mtime"] = serde_json::json!([found.mtime(), found.mtime_nsec()]);
    stamp["ctime"] = serde_json::json!([found.ctime(), found.ctime_nsec()]);
    std::fs::write(&path, record.to_string()).unwrap();
    assert!(scene.refresh().stdout.contains("nothing to do"));
    let run = scene.host.run(&["cache", "verify"]).code(5);
    run.shows("damaged shared driver 580.76.05").says("`nvstage refresh`");
    assert_eq!(scene.current(), "");
    assert_eq!(scene.names(), Vec::<String>::new());
    scene.refresh().shows("containers get driver 580.76.05");
    let again = scene.host.run(&["--json", "cache", "verify"]).code(0).json();
    assert_eq!((&again["files"], &again["bytes"]), (&whole["files"], &whole["bytes"]));
}
