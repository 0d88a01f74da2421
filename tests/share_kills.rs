//! From a driver and packages of its own to the host's and back, killed at random moments: the same
//! command ends where an undisturbed run does.
//!
//! Each way is gone once undisturbed, then with kills (SIGKILL to nvstage alone, so that what it has
//! started inside goes on; every second time the container is stopped as well, which ends that too).
//! The moments come from a seed that is printed; `NVSTAGE_SEED` repeats one.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use support::batch::start;
use support::{Host, Kind, Nodes, Site, VERSION};

/// The ways, one after the other; each begins where the one before it ends.
const WAYS: [[&str; 4]; 3] = [
    ["--method", "share", "--cuda", "share"],
    ["--method", "installer", "--cuda", "apt"],
    ["--method", "share", "--cuda", "share"],
];
/// Kills on each way.
const KILLS: u64 = 5;

struct Scene {
    host: Host,
    site: Site,
    ctid: String,
}

impl Scene {
    /// A container that is as the last way leaves it.
    fn new() -> Self {
        let (host, site) = (Host::new(Kind::Pct, Nodes::Answering(VERSION)), Site::new());
        let ctid = host.container("privileged", &[&site.distribution()]);
        host.start(&ctid);
        host.run(&["prefetch", "--recipe", &site.recipe(), "--for", &ctid]).code(0);
        let scene = Self { host, site, ctid };
        scene.host.run(&refs(&scene.arguments(&WAYS[1]))).code(0);
        scene
    }

    fn arguments(&self, way: &[&str]) -> Vec<String> {
        let recipe = self.site.recipe();
        let own = ["--json", "provision", &self.ctid, "--gpus", "0", "--recipe", &recipe];
        own.iter().chain(way).map(|word| (*word).to_owned()).collect()
    }

    /// What of the container a run may change.
    fn state(&self) -> String {
        let inside = "dpkg-query -W -f '${Package} ${Status}\\n' | grep -E 'cuda|nvtop|libcu|libnv' | grep -v ' not-installed'
            dpkg --audit
            ls -d /usr/lib/nvstage /usr/lib/nvstage/* /etc/ld.so.conf.d/nvstage.conf /etc/systemd/system/nvstage-* \
                /etc/systemd/system/sysinit.target.wants/nvstage-* /var/lib/nvstage /root/.nvstage* /var/lib/nvidia/log 2>/dev/null
            for link in /usr/local/cuda /usr/local/cuda-12 /usr/bin/nvidia-smi; do echo $link $(readlink $link); done
            ldconfig -p | grep -E 'libcuda.so|libnvidia-ml|libcudart' | sed 's/^[[:space:]]*//' | sort
            awk '/nvstage|cuda/ {print $2, $3}' /proc/mounts | sort
            cat /etc/ld.so.conf.d/nvstage.conf 2>/dev/null; true";
        let path = self.host.path(&format!("/var/lib/nvstage/containers/{}.json", self.ctid));
        let text = std::fs::read_to_string(path).unwrap();
        let mut journal: serde_json::Value = serde_json::from_str(&text).unwrap();
        journal.as_object_mut().unwrap().remove("last_run");
        let packages = journal["packages"].as_array_mut().unwrap();
        packages.sort_by_key(|name| name.as_str().unwrap().to_owned());
        let seen = self.host.inside(&self.ctid, inside).code(0).stdout;
        format!("{}\n{journal:#}\n{seen}", self.host.config(&self.ctid))
    }
}

/// Numbers that look random (xorshift64*).
fn below(state: &mut u64, limit: u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
}

#[test]
fn a_change_of_ways_that_is_killed_is_finished_by_the_same_command() {
    let asked = std::env::var("NVSTAGE_SEED").ok().and_then(|text| text.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let mut random: u64 = asked.unwrap_or(now);
    println!("NVSTAGE_SEED={random}");
    let scene = Scene::new();
    let (mut wanted, mut took) = (Vec::new(), Vec::new());
    for way in &WAYS {
        let began = std::time::Instant::now();
        scene.host.run(&refs(&scene.arguments(way))).code(0);
        took.push(began.elapsed().as_millis() as u64);
        wanted.push(scene.state());
    }
    // Where the ways begin.
    scene.host.run(&refs(&scene.arguments(&WAYS[1]))).code(0);
    for (index, way) in WAYS.iter().enumerate() {
        for kill in 0..KILLS {
            let mut child = start(&scene.host, &refs(&scene.arguments(way)));
            let moment = below(&mut random, took[index].max(200));
            println!("way {index}, killed after {moment} of {} ms", took[index]);
            std::thread::sleep(Duration::from_millis(moment));
            child.kill().unwrap();
            child.wait().unwrap();
            if kill % 2 == 1 && scene.host.init(&scene.ctid) != 0 {
                scene.host.shell(&format!("lxc-stop -k -n {}", scene.ctid)).code(0);
            }
        }
        scene.host.run(&refs(&scene.arguments(way))).code(0);
        assert_eq!(scene.state(), wanted[index], "way {index}");
        let again = scene.host.run(&refs(&scene.arguments(way))).code(0);
        assert!(!again.stdout.contains("\"changed\""), "{}", again.stdout);
    }
}

fn refs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}
