//! From a driver and packages of its own to the host's and back, killed at random moments: the same
//! command ends where an undisturbed run does.
//!
//! Each way is gone once undisturbed, then with kills (SIGKILL to nvstage alone, so that what it has
//! started inside goes on; every second time the container is stopped as well, which ends that too).
//! The moments come from seeds: some that have found faults, and a new one each time. They are
//! printed; `NVSTAGE_SEED` repeats one. `tests/checkpoints.rs` kills at points that are named.

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

use support::batch::start;
use support::seeds::{Random, seeds};
use support::ways::{Scene, refs};

/// The ways, one after the other; each begins where the one before it ends.
const WAYS: [[&str; 4]; 3] = [
    ["--method", "share", "--cuda", "share"],
    ["--method", "installer", "--cuda", "apt"],
    ["--method", "share", "--cuda", "share"],
];
/// Kills on each way, for each seed.
const KILLS: u64 = 2;

#[test]
fn a_change_of_ways_that_is_killed_is_finished_by_the_same_command() {
    let scene = Scene::new(&WAYS[1]);
    let (mut wanted, mut took) = (Vec::new(), Vec::new());
    for way in &WAYS {
        let began = Instant::now();
        scene.go(way).code(0);
        took.push(began.elapsed().as_millis() as u64);
        wanted.push(scene.state());
    }
    for seed in seeds(&[1796086957109, 1796087231547, 1796087359108]) {
        let mut random = Random::new(seed);
        // Where the ways begin.
        scene.go(&WAYS[1]).code(0);
        for (index, way) in WAYS.iter().enumerate() {
            for kill in 0..KILLS {
                let mut child = start(&scene.host, &refs(&scene.arguments(way)));
                let moment = random.below(took[index].max(200));
                println!("way {index}, killed after {moment} of {} ms", took[index]);
                std::thread::sleep(Duration::from_millis(moment));
                child.kill().unwrap();
                child.wait().unwrap();
                if kill % 2 == 1 {
                    scene.cut_power();
                }
            }
            scene.ends(way, &wanted[index], &format!("seed {seed}, way {index}"));
        }
    }
}
