//! Drivers that containers share: what is in an image, that it is always whole, and that no
//! container can write to it.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

#[path = "support/runfile.rs"]
mod runfile;
mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nvstage::engine::shared::{self, Switched};
use nvstage::error::ExitCode;
use nvstage::host::cancel::Cancel;
use nvstage::host::mount;
use runfile::{Packing, RunFile};
use support::shared::{Machine, digest_of, parse, shell};
use support::{Host, Kind, Nodes, VERSION, eventually};

const NEXT: &str = "580.95.05";

#[test]
fn an_image_holds_what_the_installer_would_install_and_ldconfig_finds_every_library() {
    let machine = Machine::new();
    let driver = machine.stand_in(VERSION);
    let image = machine.obtain(&driver);
    let at = image.mounted_at.as_path();
    assert_eq!(at, machine.shared(VERSION).join("userland"));
    // What is not below it is seen by no container.
    assert_eq!(machine.names(&machine.shared(VERSION)), ["userland"]);
    let (payload, shown) = (driver.tree.payload(), at.display());
    // Every library, program and small file, byte for byte.
    for (name, place) in [
        (format!("libcuda.so.{VERSION}"), format!("lib/libcuda.so.{VERSION}")),
        (format!("libnvidia-glcore.so.{VERSION}"), format!("lib/libnvidia-glcore.so.{VERSION}")),
        (
            format!("libvdpau_nvidia.so.{VERSION}"),
            format!("lib/vdpau/libvdpau_nvidia.so.{VERSION}"),
        ),
        (format!("32/libcuda.so.{VERSION}"), format!("lib32/libcuda.so.{VERSION}")),
        ("nvidia-smi".to_owned(), "bin/nvidia-smi".to_owned()),
        ("nvidia.icd".to_owned(), "files/etc/OpenCL/vendors/nvidia.icd".to_owned()),
        ("nvoptix.bin".to_owned(), "files/usr/share/nvidia/nvoptix.bin".to_owned()),
    ] {
        assert_eq!(digest_of(&at.join(&place)), digest_of(&payload.join(&name)), "{place}");
    }
    let libraries = shell(&format!("cd '{}'; ls lib*.so.* | LC_ALL=C sort", payload.display()));
    for name in libraries.lines() {
        let stem = name.split(".so").next().unwrap();
        let is_glvnd = ["libGL", "libGLX", "libEGL", "libGLdispatch", "libOpenGL"].contains(&stem);
        let is_there =
            at.join("lib").join(name).exists() || at.join("lib/vdpau").join(name).exists();
        assert_eq!(is_there, !is_glvnd, "{name}");
    }
    // Nothing of the host's, the desktop's or the installer's, nothing set-user-ID, nothing newer
    // than the epoch, nothing of anybody else.
    assert_eq!(shell(&format!("find {shown} -perm /6000 -o -newermt 1970-01-02 -o ! -uid 0")), "");
    let all = shell(&format!("cd {shown}; find . -mindepth 1 | LC_ALL=C sort"));
    for word in
        ["firmware", "gsp_", "installer", "uninstall", ".1.gz", ".desktop", "systemd", "nv.c"]
    {
        assert!(!all.contains(word), "{word} in\n{all}");
    }
    // No link leads nowhere or out.
    assert_eq!(shell(&format!("find {shown} -xtype l; find {shown} -lname '/*'")), "");
    assert_eq!(std::fs::read_link(at.join("lib/libcuda.so")).unwrap(), Path::new("libcuda.so.1"));

    // The real ldconfig comes to the same names.
    let conf = machine.directory.path().join("ld.so.conf");
    let cache = machine.directory.path().join("ld.so.cache");
    let names = |directory: &str| {
        std::fs::write(&conf, format!("{shown}/{directory}\n")).unwrap();
        let (conf, cache) = (conf.display(), cache.display());
        let list = shell(&format!(
            "/sbin/ldconfig -X -C {cache} -f {conf} && /sbin/ldconfig -p -C {cache} | grep {shown} | awk '{{print $1}}'"
        ));
        list.lines().map(str::to_owned).collect::<BTreeSet<String>>()
    };
    let told = |names: &[String]| names.iter().cloned().collect::<BTreeSet<String>>();
    assert_eq!(names("lib"), told(&image.layout.sonames));
    assert_eq!(names("lib32"), told(&image.layout.sonames32));
    assert!(image.layout.sonames.contains(&"libcuda.so.1".to_owned()));
    for binary in &image.layout.binaries {
        let mode = std::fs::metadata(at.join("bin").join(binary)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o755, "{binary}");
    }
    for file in &image.layout.files {
        assert!(at.join(format!("files{file}")).is_file(), "{file}");
    }
    assert!(image.layout.binaries.contains(&"nvidia-smi".to_owned()));
    assert!(image.layout.files.contains(&"/etc/vulkan/icd.d/nvidia_icd.json".to_owned()));
    assert!(machine.heard.has_progress("the shared driver 580.76.05"));
}

/// A shared object with a soname, or without one.
fn library(soname: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().display();
    let option = if soname.is_empty() { String::new() } else { format!("-soname {soname}") };
    shell(&format!(
        "cd {at} && echo | as --64 -o x.o - && ld -shared -m elf_x86_64 {option} -o x.so x.o"
    ));
    std::fs::read(directory.path().join("x.so")).unwrap()
}

#[test]
fn a_library_without_a_link_in_the_list_gets_one_from_its_soname() {
    let machine = Machine::new();
    let run = RunFile::new(VERSION)
        .library("libodd.so.580.76.05", &library("libodd.so.7"))
        .library("libplain.so.2", &library(""))
        .library("libsame.so.1", &library("libsame.so.1"))
        .library("libhostile.so.1", &library("../../../etc/passwd"))
        .library("libtext.so.1", b"no library at all")
        .build(Packing::Zstd);
    let image = machine.obtain(&machine.driver(VERSION, &run));
    let lib = image.mounted_at.join("lib");
    let names = machine.names(&lib);
    let expected = [
        "libhostile.so.1",
        "libodd.so.580.76.05",
        "libodd.so.7",
        "libplain.so.2",
        "libsame.so.1",
        "libtext.so.1",
    ];
    assert_eq!(names, expected);
    assert_eq!(
        std::fs::read_link(lib.join("libodd.so.7")).unwrap(),
        Path::new("libodd.so.580.76.05")
    );
    assert!(image.layout.sonames.contains(&"libodd.so.7".to_owned()));
    assert!(!image.layout.sonames.contains(&"libodd.so.580.76.05".to_owned()));
}

#[test]
fn the_same_installer_gives_the_same_bytes() {
    let (one, two) = (Machine::new(), Machine::new());
    one.obtain(&one.stand_in(VERSION));
    two.obtain(&two.stand_in(VERSION));
    assert_eq!(digest_of(&one.image(VERSION)), digest_of(&two.image(VERSION)));
}

#[test]
fn an_image_is_built_once_and_found_again_and_mounted_again() {
    let machine = Machine::new();
    let driver = machine.stand_in(VERSION);
    let built = machine.obtain(&driver);
    let inode = std::fs::metadata(machine.image(VERSION)).unwrap().ino();
    assert_eq!(machine.obtain(&driver), built);
    let found = shared::driver_at_hand(&machine.host.paths, &parse(VERSION)).unwrap();
    assert_eq!(found.as_ref(), Some(&built));
    shell(&format!("umount -l {}", machine.shared(VERSION).display()));
    assert_eq!(shared::driver_at_hand(&machine.host.paths, &parse(VERSION)).unwrap(), found);
    machine.obtain(&driver);
    assert!(built.mounted_at.join("bin/nvidia-smi").exists());
    assert_eq!(std::fs::metadata(machine.image(VERSION)).unwrap().ino(), inode);
    assert_eq!(machine.heard.steps("build the shared driver"), 1);
    // Another installer of that version is another driver.
    let run = RunFile::new(VERSION).library("libodd.so.1", &library("libodd.so.1"));
    let other = machine.obtain(&machine.driver(VERSION, &run.build(Packing::Xz)));
    assert!(other.mounted_at.join("lib/libodd.so.1").exists());
    assert_eq!(machine.heard.steps("build the shared driver"), 2);
    assert_eq!(machine.heard.warnings(), Vec::<String>::new());
    let none = shared::driver_at_hand(&machine.host.paths, &parse("1.2.3")).unwrap();
    assert_eq!(none, None);
}

#[test]
fn a_damaged_image_is_found_and_built_again() {
    let machine = Machine::new();
    let driver = machine.stand_in(VERSION);
    let image = machine.obtain(&driver);
    let (file, record) = (machine.image(VERSION), machine.shared(&format!("{VERSION}.json")));
    let sound = digest_of(&file);
    let (at, old) = (file.display(), "/tmp/nvstage-shared-old-time");
    let damages = [
        // The same size and time, another content.
        format!(
            "chmod u+w {at}; touch -r {at} {old}; printf X | dd of={at} bs=1 seek=5000 conv=notrunc status=none; touch -r {old} {at}; rm {old}"
        ),
        format!("truncate -s 5000 {at}"),
        format!("truncate -s 0 {at}"),
        format!("rm {at} && mkdir {at} && rmdir {at}"),
        format!("rm {at} && ln -s /etc/passwd {at}"),
        format!("rm {}", record.display()),
        format!("echo '{{' > {}", record.display()),
        format!("sed -i 's/\"schema\": 1/\"schema\": 2/' {}", record.display()),
    ];
    for damage in damages {
        shell(&damage);
        assert_eq!(
            shared::driver_at_hand(&machine.host.paths, &parse(VERSION)).unwrap(),
            None,
            "{damage}"
        );
        machine.obtain(&driver);
        assert_eq!(digest_of(&file), sound, "{damage}");
        let smi = image.mounted_at.join("bin/nvidia-smi");
        assert_eq!(digest_of(&smi), digest_of(&driver.tree.payload().join("nvidia-smi")));
        assert!(shared::switch(&machine.host, &parse(VERSION)).is_ok(), "{damage}");
    }
    let warnings = machine.heard.warnings();
    assert!(
        warnings[0].contains("has another content: the shared driver 580.76.05 is built again"),
        "{warnings:?}"
    );
    assert!(warnings[1].contains("bytes, and had"), "{warnings:?}");
    // A copy that is only newer is as good as the original.
    shell(&format!("cp {at} {at}.copy && mv {at}.copy {at}"));
    assert!(shared::driver_at_hand(&machine.host.paths, &parse(VERSION)).unwrap().is_some());
    // It is not what is mounted, though.
    assert!(shared::switch(&machine.host, &parse(VERSION)).is_err());
    machine.obtain(&driver);
    assert!(shared::switch(&machine.host, &parse(VERSION)).is_ok());
    assert_eq!(machine.heard.warnings().len(), warnings.len());
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let machine = Machine::new();
    let driver = machine.stand_in(VERSION);
    let directory = machine.host.paths.shared_drivers();
    std::fs::create_dir_all(&directory).unwrap();
    let mount = |size: &str| {
        shell(&format!("mount -t tmpfs -o size={size} tmpfs {}", directory.display()));
    };
    let sound = Machine::new();
    sound.obtain(&sound.stand_in(VERSION));
    let bytes = std::fs::metadata(sound.image(VERSION)).unwrap().len();
    for size in [4096, 65_536, bytes / 2, bytes - 4096] {
        mount(&size.to_string());
        let error = machine.try_obtain(&driver).unwrap_err();
        assert_eq!(error.code(), ExitCode::Install, "{error}");
        assert!(error.what().contains("no space is left"), "{error}");
        assert_eq!(machine.names(&directory), Vec::<String>::new(), "{size}");
        shell(&format!("umount -l {}", directory.display()));
    }
    // Just enough for the image, and not for its record.
    mount(&bytes.to_string());
    assert_eq!(machine.try_obtain(&driver).unwrap_err().code(), ExitCode::Host);
    assert_eq!(machine.names(&directory), Vec::<String>::new());
    shell(&format!("umount -l {}", directory.display()));
    mount("64m");
    machine.obtain(&driver);
}

#[test]
fn an_interruption_ends_the_building_and_leaves_nothing() {
    let machine = Machine::with_cancel(Cancel::on_signals().unwrap());
    let mut large = library("liblarge.so.1");
    // Noise: a block that is all the same is built in no time.
    let mut state = 1_u64;
    large.extend((0..120_000_000).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    }));
    let run = RunFile::new(VERSION).library("liblarge.so.1", &large).build(Packing::Zstd);
    let driver = machine.driver(VERSION, &run);
    let directory = machine.host.paths.shared_drivers();
    let temporary = directory.join(format!(".tmp-{VERSION}.squashfs"));
    let error = std::thread::scope(|scope| {
        let build = scope.spawn(|| machine.try_obtain(&driver).unwrap_err());
        let has_begun = || std::fs::metadata(&temporary).is_ok_and(|found| found.len() > 1_000_000);
        eventually("the image grows", Duration::from_secs(20), has_begun);
        nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::SIGINT).unwrap();
        build.join().unwrap()
    });
    assert!(error.is_interrupted(), "{error}");
    assert_eq!(machine.names(&directory), Vec::<String>::new());
}

#[test]
fn of_two_at_once_one_builds() {
    let machine = Machine::new();
    let driver = machine.stand_in(VERSION);
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| machine.obtain(&driver))).collect();
        for run in runs {
            assert!(run.join().unwrap().mounted_at.join("bin/nvidia-smi").exists());
        }
    });
    assert_eq!(machine.heard.steps("build the shared driver"), 1);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let at = machine.shared(VERSION).display().to_string();
    assert_eq!(mounts.matches(&at).count(), 1);
}

#[test]
fn current_is_always_one_whole_version() {
    let machine = Machine::new();
    for version in [VERSION, NEXT] {
        machine.obtain(&machine.stand_in(version));
    }
    let (host, current) = (&machine.host, machine.shared("current"));
    assert_eq!(shared::current(&host.paths), None);
    assert_eq!(shared::switch(host, &parse(VERSION)).unwrap(), Switched::From(None));
    assert_eq!(shared::switch(host, &parse(VERSION)).unwrap(), Switched::Already);
    assert_eq!(std::fs::read_link(&current).unwrap(), Path::new("580.76.05/userland"));
    let done = AtomicBool::new(false);
    let reads = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                let version = shared::current(&host.paths).unwrap();
                assert!([VERSION, NEXT].contains(&version.as_str()));
                assert!(std::fs::metadata(current.join("lib/libcuda.so.1")).unwrap().len() > 0);
                reads += 1;
            }
            reads
        });
        for round in 0..10_000 {
            let (to, from) = if round % 2 == 0 { (NEXT, VERSION) } else { (VERSION, NEXT) };
            let switched = shared::switch(host, &parse(to)).unwrap();
            assert_eq!(switched, Switched::From(Some(parse(from))));
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(reads > 1000, "the reader looked {reads} times only");
    assert_eq!(shared::withdraw(host).unwrap(), Some(parse(VERSION)));
    assert_eq!(shared::withdraw(host).unwrap(), None);
    assert!(current.symlink_metadata().is_err());
}

#[test]
fn current_never_leads_to_an_image_that_is_not_mounted() {
    let machine = Machine::new();
    let (host, point) = (&machine.host, machine.shared(VERSION));
    machine.obtain(&machine.stand_in(VERSION));
    let error = shared::switch(host, &parse(NEXT)).unwrap_err();
    assert_eq!(error.code(), ExitCode::Host);
    assert!(error.to_string().contains("hint: `nvstage sync`"), "{error}");
    shell(&format!("umount -l {}", point.display()));
    let error = shared::switch(host, &parse(VERSION)).unwrap_err();
    assert!(error.what().contains("its image is not mounted"), "{error}");
    // Something else that is mounted there is not it.
    shell(&format!("mount -t tmpfs tmpfs {}", point.display()));
    assert!(shared::switch(host, &parse(VERSION)).is_err());
    shell(&format!("umount -l {}", point.display()));
    assert_eq!(shared::current(&host.paths), None);
    std::fs::set_permissions(machine.image(VERSION), PermissionsExt::from_mode(0o644)).unwrap();
    assert!(shared::driver_at_hand(&host.paths, &parse(VERSION)).unwrap().is_some());
}

const TARGET: &str = "/usr/lib/nvstage/driver";

/// What root of a container tries, one line each; nothing of it may succeed.
const ATTEMPTS: &str = "cd /usr/lib/nvstage/driver || exit 9
mount -o remount,rw . 2>&1; mount -o remount,bind,rw . 2>&1; mount -o remount,rw /usr/lib/nvstage/driver 2>&1
mount -o remount,bind,rw,suid,dev /usr/lib/nvstage/driver 2>&1
for try in 'echo x > bin/nvidia-smi' 'echo x >> lib/libcuda.so.1' 'rm bin/nvidia-smi' 'touch new' 'mkdir lib/new' \
    'chmod 4777 bin/nvidia-smi' 'ln -sf x lib/libcuda.so.1' 'mv lib away' 'truncate -s 0 bin/nvidia-smi' 'chown 1 bin'; do
    if (eval \"$try\") 2>/tmp/why; then echo \"SUCCEEDED: $try\"; else cat /tmp/why; fi
done";

#[track_caller]
fn cannot_write(host: &Host, ctid: &str) {
    let tried = host.inside(ctid, ATTEMPTS).code(0);
    assert!(!tried.stdout.contains("SUCCEEDED"), "{}", tried.stdout);
    let refusals = tried.stdout.lines().filter(|line| {
        line.contains("Read-only file system") || line.contains("Operation not permitted")
    });
    assert!(refusals.count() >= 10, "{}", tried.stdout);
}

#[test]
fn an_image_is_shown_inside_a_running_container_and_nobody_there_can_write_to_it() {
    let machine = Machine::new();
    let image = machine.obtain(&machine.stand_in(VERSION));
    let before = digest_of(&machine.image(VERSION));
    let host = Host::new(Kind::Lxc, Nodes::None);
    for privilege in ["privileged", "unprivileged"] {
        let ctid = host.container(privilege, &[]);
        host.start(&ctid);
        let init = host.init(&ctid);
        mount::attach_directory(init, &image.mounted_at, TARGET).unwrap();
        // Once more, as after a run that was killed: nothing is stacked.
        mount::attach_directory(init, &image.mounted_at, TARGET).unwrap();
        let seen = host.inside(
            &ctid,
            &format!("grep -c ' {TARGET} ' /proc/mounts; head -c 2 {TARGET}/bin/nvidia-smi"),
        );
        assert_eq!(seen.stdout, "1\n#!", "{}", seen.stderr);
        cannot_write(&host, &ctid);
        mount::detach(init, TARGET).unwrap();
        host.inside(&ctid, &format!("! grep {TARGET} /proc/mounts && ! test -e {TARGET}")).code(0);
        mount::detach(init, TARGET).unwrap();
    }
    assert_eq!(digest_of(&machine.image(VERSION)), before);
    let error = mount::attach_directory(u32::MAX - 1, &image.mounted_at, TARGET).unwrap_err();
    assert!(error.to_string().contains("restart the container"), "{error}");
    assert!(mount::attach_directory(1, Path::new("/nowhere"), TARGET).is_err());
}

#[test]
fn a_mount_of_the_containers_own_is_neither_covered_nor_taken_away() {
    let machine = Machine::new();
    let image = machine.obtain(&machine.stand_in(VERSION));
    let host = Host::new(Kind::Lxc, Nodes::None);
    let ctid = host.container("unprivileged", &[]);
    host.start(&ctid);
    let init = host.init(&ctid);
    let look = format!("grep ' {TARGET} ' /proc/mounts | cut -d' ' -f1");
    let own = format!("mkdir -p {TARGET} && mount -t tmpfs mine {TARGET}");
    // Alone, and over what was shown.
    for _ in 0..2 {
        host.inside(&ctid, &own).code(0);
        let seen = host.inside(&ctid, &look).stdout;
        assert!(seen.ends_with("mine\n"), "{seen}");
        let error = mount::attach_directory(init, &image.mounted_at, TARGET).unwrap_err();
        assert!(error.to_string().contains("`mine` (tmpfs) is mounted there"), "{error}");
        mount::uncover(init, TARGET).unwrap();
        mount::detach(init, TARGET).unwrap_err();
        assert_eq!(host.inside(&ctid, &look).stdout, seen);
        host.inside(&ctid, &format!("umount {TARGET}")).code(0);
        mount::attach_directory(init, &image.mounted_at, TARGET).unwrap();
    }
}

#[test]
fn what_is_not_in_a_mounted_image_is_not_shown() {
    let machine = Machine::new();
    let image = machine.obtain(&machine.stand_in(VERSION));
    let host = Host::new(Kind::Lxc, Nodes::None);
    let ctid = host.container("privileged", &[]);
    host.start(&ctid);
    let init = host.init(&ctid);
    let point = machine.shared(VERSION);
    assert!(mount::is_in_image(&image.mounted_at) && mount::is_in_image(&point));
    shell(&format!("umount -l {}", point.display()));
    assert!(!mount::is_in_image(&image.mounted_at) && !mount::is_in_image(&point));
    let refused = |source: &Path| {
        let error = mount::attach_directory(init, source, TARGET).unwrap_err();
        assert_eq!(error.code(), ExitCode::Host);
        host.inside(&ctid, &format!("! grep {TARGET} /proc/mounts && ! test -e {TARGET}")).code(0);
        error.to_string()
    };
    refused(&image.mounted_at);
    // The mount point itself, and a directory of that name which somebody has made there.
    std::fs::create_dir(&image.mounted_at).unwrap();
    for source in [&point, &image.mounted_at] {
        let error = refused(source);
        assert!(error.contains("it is not in an image that is mounted"), "{error}");
        assert!(error.contains("`nvstage refresh`"), "{error}");
    }
    // It is mounted over that.
    machine.obtain(&machine.stand_in(VERSION));
    mount::attach_directory(init, &image.mounted_at, TARGET).unwrap();
    cannot_write(&host, &ctid);
}
