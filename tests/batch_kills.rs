//! A batch of four that is killed at random moments ends, by the same command, where an undisturbed
//! one does.
//!
//! Twenty kills (SIGKILL, to nvstage alone: what it has started goes on) over batches on new
//! containers; each batch is killed up to three times before it may finish. The moments come from a
//! seed that is printed; `NVSTAGE_SEED` repeats one.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use support::batch::{Fleet, start};
use support::{Host, Kind, Nodes, Site, VERSION};

const KILLS: u32 = 20;

/// Numbers that look random (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// The seed that is asked for, or another one each time.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let asked = std::env::var("NVSTAGE_SEED").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(now.as_millis() as u64)
}

/// Four new containers on a host: privileged or not, running or stopped.
fn scene() -> Fleet {
    let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
    let site = Site::new();
    let distribution = site.distribution();
    let kinds = ["privileged", "unprivileged", "privileged", "unprivileged"];
    let ids: Vec<String> =
        kinds.iter().map(|kind| host.container(kind, &[&distribution])).collect();
    std::thread::scope(|scope| {
        ids[..2].iter().for_each(|id| drop(scope.spawn(|| host.start(id))));
    });
    let recipe = site.recipe();
    Fleet { host, site, ids, recipe }
}

/// Everything about a container that a run may change, in the words of any container.
fn state(scene: &Fleet, index: usize) -> String {
    let id = &scene.ids[index];
    // What a boot, apt's own bookkeeping and logs write is not compared.
    let files = format!(
        "cd /var/lib/lxc/.storage/subvol-{id}-disk-0 && \
         find usr etc root opt var/lib -type f -newer /run/marker \
         ! -path 'var/lib/systemd/*' ! -path 'var/lib/apt/*' ! -path 'var/lib/dpkg/*' \
         ! -name ld.so.cache ! -name machine-id ! -name nvstage-cuda.list -exec sha256sum {{}} + \
         | sort -k 2; find usr etc -type l -newer /run/marker -printf '%p -> %l\\n' | sort"
    );
    // The brackets keep the search from finding itself.
    let inside = "dpkg-query -W -f '${Package} ${Version} ${Status}\\n'; dpkg --audit; \
                  awk '/nvidia|nvstage/ {print $2, $3}' /proc/mounts | sort; \
                  ls -d /var/lib/nvstage /root/.nvstage* /root/.nvidia* 2>/dev/null; \
                  cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -E '[n]vidia-installer|[a]pt-get|[@]nvstage'; true";
    let source = scene.root(index).join("etc/apt/sources.list.d/nvstage-cuda.list");
    let journal = scene.host.path(&format!("/var/lib/nvstage/containers/{id}.json"));
    let mut journal: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(journal).unwrap()).unwrap();
    journal.as_object_mut().unwrap().remove("last_run");
    let journal = serde_json::to_string_pretty(&journal).unwrap();
    let number: u32 = id.parse().unwrap();
    let address = format!("10.99.{}.{}/", number / 250 % 250, 2 + number % 250);
    let own = [scene.host.config(id), journal]
        .join("\n")
        .replace(&address, "ADDRESS/")
        .replace(id.as_str(), "CTID")
        .replace(scene.recipe.rsplit_once('/').unwrap().0, "RECIPES");
    let source = std::fs::read_to_string(source).unwrap();
    let source = source.replace(&scene.site.server.url(""), "SITE");
    let files = scene.host.shell(&files).code(0).stdout;
    [own, source, files, scene.host.inside(id, inside).code(0).stdout].join("\n----\n")
}

/// What may lie around on a host after a run: nothing.
#[track_caller]
fn is_swept(scene: &Fleet) {
    let look = "find /etc/pve/ /var/lib/nvstage -name '.nvstage-*'; find /var/cache/nvstage -name '.tmp-*' -o -name '.work-*'; ls /var/cache/nvstage/partial-v1";
    assert_eq!(scene.host.shell(look).stdout, "");
}

fn states(scene: &Fleet) -> Vec<String> {
    (0..4).map(|index| state(scene, index)).collect()
}

/// The command of all runs.
fn arguments(scene: &Fleet) -> Vec<&str> {
    scene.arguments(&["--jobs", "4"])
}

#[test]
fn a_killed_batch_is_continued_to_where_an_undisturbed_one_ends() {
    let seed = seed();
    println!("NVSTAGE_SEED={seed}");
    // Zero would stay zero.
    let mut random = Random(seed | 1);
    let (wanted, length) = {
        let scene = scene();
        scene.host.shell("touch /run/marker").code(0);
        let began = Instant::now();
        scene.host.run(&arguments(&scene)).code(0);
        let length = began.elapsed();
        let requests = scene.site.server.requests();
        let keys = requests.iter().filter(|request| request.target.ends_with(".pub")).count();
        assert_eq!((keys, scene.site.requests()), (1, 1), "what is fetched once is fetched once");
        (states(&scene), length)
    };
    println!("undisturbed: {length:?}");
    let mut kills = 0;
    while kills < KILLS {
        let scene = scene();
        scene.host.shell("touch /run/marker").code(0);
        let mut left = (length.as_millis() as u64).min(7000);
        for _ in 0..=random.below(3) {
            let moment = random.below(left * 4 / 5);
            left -= moment;
            let moment = Duration::from_millis(20 + moment);
            let mut child = start(&scene.host, &arguments(&scene));
            std::thread::sleep(moment);
            if child.try_wait().unwrap().is_some() {
                println!("it had ended within {moment:?}");
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            println!("kill {kills} after {moment:?}");
        }
        let began = Instant::now();
        let run = scene.host.run(&arguments(&scene)).code(0);
        println!("continued in {:?}", began.elapsed());
        let report = run.json();
        assert_eq!(report["exit"], 0);
        is_swept(&scene);
        for (index, (found, wanted)) in states(&scene).iter().zip(&wanted).enumerate() {
            if found != wanted {
                let text = similar::TextDiff::from_lines(wanted, found);
                let text = text.unified_diff().header("undisturbed", "killed").to_string();
                panic!("container {} differs:\n{text}", scene.ids[index]);
            }
        }
    }
}
