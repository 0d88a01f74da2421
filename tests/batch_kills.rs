//! A batch of four that is killed at random moments ends, by the same command, where an undisturbed
//! one does.
//!
//! Ten kills for each seed (SIGKILL, to nvstage alone: what it has started goes on) over batches on new
//! containers; each batch is killed up to three times before it may finish. The moments come from two
//! seeds, one of them new each time. They are printed; `NVSTAGE_SEED` repeats one.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::time::{Duration, Instant};

use support::batch::{Fleet, start};
use support::seeds::{Random, seeds};
use support::{Host, Kind, Nodes, Site, VERSION};

/// Kills for each seed.
const KILLS: u32 = 10;

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
    let text = journal.as_object_mut().unwrap().remove("recipe_text").unwrap();
    assert_eq!(text, std::fs::read_to_string(&scene.recipe).unwrap());
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
    for seed in seeds(&[1796086957109]) {
        killed(seed, length, &wanted);
    }
}

/// Batches that are killed at moments from a seed, until there were enough kills.
fn killed(seed: u64, length: Duration, wanted: &[String]) {
    let mut random = Random::new(seed);
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
        for (index, (found, wanted)) in states(&scene).iter().zip(wanted).enumerate() {
            if found != wanted {
                let text = similar::TextDiff::from_lines(wanted, found);
                let text = text.unified_diff().header("undisturbed", "killed").to_string();
                panic!("container {} differs:\n{text}", scene.ids[index]);
            }
        }
    }
}
