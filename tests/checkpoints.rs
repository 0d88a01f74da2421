//! A change between CUDA of the host and packages of the container's own, killed at each point of a
//! list: the same command, or the one for the other way, ends where an undisturbed run does.
//!
//! The points are inside the container: apt's hooks, programs that dpkg calls, scripts of packages.
//! Whatever reaches the one that is set waits there, and nvstage is killed (SIGKILL to it alone).
//! Then the container loses its power, or what nvstage has begun inside goes on.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use support::batch::{ended, start};
use support::eventually;
use support::ways::{Scene, refs};

const APT: &[&str] = &["--method", "share", "--cuda", "apt"];
const SHARED: &[&str] = &["--method", "share", "--cuda", "share"];

/// What becomes of the container when nvstage was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It loses its power.
    PowerFails,
    /// What was begun inside goes on.
    GoesOn,
}
use Then::{GoesOn, PowerFails};

/// Which command ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The one that was killed.
    Same,
    /// The one for the way back.
    Other,
}
use Next::{Other, Same};

/// Points of an installation, in their order.
const INSTALLATION: &[(&str, Then, Next)] = &[
    ("update", PowerFails, Same),
    ("before dpkg", GoesOn, Other),
    // The first package is unpacked: half of it is there.
    ("unpack cuda-cudart-12-8", PowerFails, Same),
    // Some are unpacked, and dpkg has not yet written that into its status.
    ("between cuda-nvcc-12-8", PowerFails, Same),
    ("between cuda-nvcc-12-8", PowerFails, Other),
    ("between cuda-nvcc-12-8", GoesOn, Other),
    ("unpack cuda-nvcc-12-8", PowerFails, Same),
    ("unpack cuda-nvcc-12-8", PowerFails, Other),
    // All are unpacked, none is configured.
    ("configure", PowerFails, Same),
    ("configure", PowerFails, Other),
    ("postinst cuda-nvcc-12-8", PowerFails, Same),
    ("postinst cuda-nvcc-12-8", GoesOn, Same),
    ("after dpkg", PowerFails, Same),
];

/// Points of a removal, in their order.
const REMOVAL: &[(&str, Then, Next)] = &[
    ("before dpkg", PowerFails, Same),
    ("before dpkg", PowerFails, Other),
    ("prerm cuda-toolkit-12-8", PowerFails, Same),
    ("prerm cuda-compiler-12-8", PowerFails, Same),
    ("prerm cuda-nvcc-12-8", PowerFails, Other),
    ("prerm cuda-nvcc-12-8", GoesOn, Same),
    ("postrm cuda-compiler-12-8", PowerFails, Same),
    ("postrm cuda-nvcc-12-8", PowerFails, Same),
    ("postrm cuda-nvcc-12-8", GoesOn, Other),
    ("after dpkg", PowerFails, Same),
];

/// Waits at the point of this name, if it is the one that is set.
const CHECKPOINT: &str = r#"#!/bin/sh
[ "$(cat /root/checkpoint 2>/dev/null)" = "$*" ] || exit 0
: >/root/reached
while [ -e /root/checkpoint ]; do sleep 0.1; done
"#;

/// Points of dpkg with an archive: before it is looked at, and when its files are to be written.
const ARCHIVE: &str = r#"#!/bin/sh
name=${0##*/}
for archive; do :; done
package=${archive##*/}
# Many at once have numbers before their names.
package=${package#[0-9]*-}
case $name$1 in
  dpkg-split-Qao) /root/at between "${package%%_*}" ;;
  dpkg-deb--fsys-tarfile) /root/at unpack "${package%%_*}" ;;
esac
exec "/usr/bin/$name" "$@"
"#;

/// Before packages are configured one gets a script that is run then.
const CONFIGURE: &str = r#"#!/bin/sh
[ "$DPKG_HOOK_ACTION" = configure ] || exit 0
/root/at configure
set -- $(cat /root/checkpoint 2>/dev/null)
[ "$1" = postinst ] || exit 0
printf '#!/bin/sh\nexec /root/at postinst %s\n' "$2" >"/var/lib/dpkg/info/$2.postinst"
chmod 755 "/var/lib/dpkg/info/$2.postinst"
"#;

const HOOKS: &str = r#"DPkg::Path "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
APT::Update::Pre-Invoke { "/root/at update"; };
DPkg::Pre-Invoke { "/root/at before dpkg"; };
DPkg::Post-Invoke { "/root/at after dpkg"; };
"#;

/// The points, set up in a container.
struct Checkpoints<'a>(&'a Scene);

impl<'a> Checkpoints<'a> {
    fn new(scene: &'a Scene) -> Self {
        let checkpoints = Self(scene);
        checkpoints.program("root/at", CHECKPOINT);
        checkpoints.program("usr/local/bin/dpkg-deb", ARCHIVE);
        checkpoints.program("usr/local/bin/dpkg-split", ARCHIVE);
        checkpoints.program("root/configure", CONFIGURE);
        checkpoints.file("etc/apt/apt.conf.d/99checkpoints", HOOKS);
        checkpoints.file("etc/dpkg/dpkg.cfg.d/checkpoints", "pre-invoke=/root/configure\n");
        checkpoints
    }

    fn path(&self, name: &str) -> PathBuf {
        let root = format!("/var/lib/lxc/.storage/subvol-{}-disk-0", self.0.ctid);
        self.0.host.path(&root).join(name)
    }

    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn program(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        self.file(name, text);
        std::fs::set_permissions(self.path(name), PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// Starts the command for a way, and kills it at a point.
    #[track_caller]
    fn kill(&self, way: &[&str], point: &str, then: Then) {
        let words: Vec<&str> = point.split(' ').collect();
        if let ["prerm" | "postrm", package] = words[..] {
            let script = format!("var/lib/dpkg/info/{package}.{}", words[0]);
            self.program(&script, &format!("#!/bin/sh\nexec /root/at {point}\n"));
        }
        self.file("root/checkpoint", point);
        let mut child = start(&self.0.host, &refs(&self.0.arguments(way)));
        let is_reached = || self.path("root/reached").exists();
        eventually(point, Duration::from_secs(60), || {
            child.try_wait().unwrap().is_some() || is_reached()
        });
        assert!(is_reached(), "{way:?} ended before `{point}`: {:?}", ended(child));
        child.kill().unwrap();
        child.wait().unwrap();
        if then == PowerFails {
            self.0.cut_power();
        }
        std::fs::remove_file(self.path("root/reached")).unwrap();
        std::fs::remove_file(self.path("root/checkpoint")).unwrap();
    }
}

#[test]
fn a_change_that_is_killed_at_a_checkpoint_is_finished_by_the_same_command_or_taken_back() {
    let scene = Scene::new(APT);
    let checkpoints = Checkpoints::new(&scene);
    scene.go(SHARED).code(0);
    let shared = scene.state();
    scene.go(APT).code(0);
    let apt = scene.state();
    // Each begins where the one before it ends, and goes through them in their order.
    let (mut is_shared, mut installation, mut removal) = (false, INSTALLATION, REMOVAL);
    while !(installation.is_empty() && removal.is_empty()) {
        let points = if is_shared { &mut installation } else { &mut removal };
        let Some((&(point, then, next), rest)) = points.split_first() else {
            scene.go(if is_shared { APT } else { SHARED }).code(0);
            is_shared = !is_shared;
            continue;
        };
        *points = rest;
        let began = Instant::now();
        checkpoints.kill(if is_shared { APT } else { SHARED }, point, then);
        is_shared ^= next == Same;
        let (way, wanted) = if is_shared { (SHARED, &shared) } else { (APT, &apt) };
        scene.ends(way, wanted, &format!("killed at `{point}`, {then:?}, {next:?}"));
        println!("`{point}`, {then:?}, {next:?}: {:.1} s", began.elapsed().as_secs_f64());
    }
}
