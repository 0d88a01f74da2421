//! Which containers a command line, a Phoenix file or a fleet file means, and what is wrong with them.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use support::{Host, Kind, Nodes, Run, VERSION};

fn host() -> Host {
    Host::new(Kind::Pct, Nodes::Answering(VERSION))
}

/// Writes a file of this host.
fn write(host: &Host, path: &str, text: &str) {
    std::fs::write(host.path(path), text).unwrap();
}

/// The containers of a JSON document, in order.
#[track_caller]
fn containers(run: &Run) -> Vec<String> {
    let json = run.json();
    let containers = json["containers"].as_array().unwrap();
    containers.iter().map(|one| one["container"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_range_means_each_of_its_containers_and_unknown_ones_are_told_each_by_itself() {
    let host = host();
    let ctid = host.container("privileged", &[]);
    let first: u32 = ctid.parse().unwrap();
    let ids: Vec<String> = (first..first + 3).map(|id| id.to_string()).collect();
    let range = format!("{}-{}", ids[0], ids[2]);
    let arguments = ["--json", "plan", &range, "--gpus", "0", "--recipe", "driver-only"];
    let run = host.run(&arguments).code(3);
    assert_eq!(containers(&run), ids);
    let json = run.json();
    assert_eq!(json["containers"][0]["changes"], true);
    for index in [1, 2] {
        let error = json["containers"][index]["error"].as_str().unwrap();
        let wanted = format!("container {}: failed to find it: it does not exist", ids[index]);
        assert!(error.contains(&wanted), "{error}");
    }
    // The same of the other verbs.
    let run = host.run(&["--json", "provision", "999990-999992"]).code(3);
    assert_eq!(containers(&run), ["999990", "999991", "999992"]);
    for id in 999990..=999992 {
        assert!(run.stderr.contains(&format!("container {id}: failed to find it")));
    }
    let run = host.run(&["--json", "verify", "999990-999991"]).code(3);
    assert_eq!(containers(&run), ["999990", "999991"]);
    let run = host.run(&["--json", "detach", "999990-999991"]).code(3);
    assert_eq!(containers(&run), ["999990", "999991"]);
    host.run(&["doctor", "999990-999991"]).code(3).says("container 999990: failed to find it");
    host.run(&["prefetch", "--for", "999990-999991"]).code(3).says("container 999990");
}

#[test]
fn overlapping_ranges_and_repeated_ids_count_once() {
    let host = host();
    let words = ["999992", "999990-999993", "999991-999994", "999990"];
    let run = host.run(&[&["--json", "verify"][..], &words].concat()).code(3);
    assert_eq!(containers(&run), ["999992", "999990", "999991", "999993", "999994"]);
}

#[test]
fn a_range_that_cannot_be_meant_is_invalid_input_with_its_text() {
    let host = host();
    for range in ["110-105", "105-", "0105-0110", "100-1000000000", "100-99999", "100-999999999"] {
        for verb in ["provision", "plan", "verify", "detach", "doctor"] {
            host.run(&[verb, range]).code(2).says(&format!("`{range}`"));
        }
        host.run(&["prefetch", "--for", range]).code(2).says(&format!("`{range}`"));
    }
    host.run(&["provision", "--", "-105"]).code(2).says("`-105`").says("one end is missing");
    host.run(&["provision", "105-110,112"]).code(2).says("`105-110,112`");
    assert_eq!(host.pct_calls().len(), 0);
}

#[test]
fn a_container_of_plain_lxc_whose_name_looks_like_a_range() {
    let host = Host::new(Kind::Lxc, Nodes::Answering(VERSION));
    host.shell("mkdir /var/lib/lxc/1-3 && touch /var/lib/lxc/1-3/config").code(0);
    let run = host.run(&["--json", "plan", "1-3", "4-5", "--gpus", "none"]).code(3);
    assert_eq!(containers(&run), ["1-3", "4", "5"]);
}

const PHOENIX: &str = r#"{ "nvidia_driver_version": "580.76.05",
  "lxc_configs": { "999990": { "gpu_assignment": "0" }, "999991": { "gpu_assignment": "none" },
                   "999992": {}, "999993": { "gpu_assignment": "0,1" } } }"#;

#[test]
fn every_container_of_a_phoenix_file_that_has_a_gpu_assigned() {
    let host = host();
    write(&host, "/run/phoenix.json", PHOENIX);
    let from = ["--json", "plan", "--from", "/run/phoenix.json"];
    let run = host.run(&from).code(3);
    assert_eq!(containers(&run).len(), 4);
    let run = host.run(&[&from[..], &["--all-assigned"]].concat()).code(3);
    assert_eq!(containers(&run), ["999990", "999993"]);
    host.run(&["plan", "--all-assigned"]).code(2).says("--from");
    host.run(&[&from[..], &["--all-assigned", "999990"]].concat()).code(2).says("--all-assigned");
    write(&host, "/run/none.json", r#"{ "lxc_configs": { "101": {} } }"#);
    host.run(&["plan", "--from", "/run/none.json", "--all-assigned"])
        .code(2)
        .says("find a container with a GPU assigned in `/run/none.json`");
}

#[test]
fn each_container_of_a_fleet_gets_what_the_file_says() {
    let host = host();
    let ids: Vec<String> = (0..3).map(|_| host.container("privileged", &[])).collect();
    host.shell("mkdir -p /run/fleet/recipes").code(0);
    let full = std::fs::read_to_string("recipes/driver-full.toml").unwrap();
    let mine = full.replace("name = \"driver-full\"", "name = \"mine\"");
    write(&host, "/run/fleet/recipes/mine.toml", &mine);
    let fleet = format!(
        "schema = 1\nrecipe = \"driver-only\"\ngpus = 0\nset = [\"driver=host\"]\n\
         [[container]]\nid = {}\n\
         [[container]]\nid = \"{}\"\ngpus = \"1\"\npassthrough = \"device\"\n\
         [[container]]\nid = [{}, 999990]\nrecipe = \"recipes/mine.toml\"\ngpus = [0, 1]\n",
        ids[0], ids[1], ids[2]
    );
    write(&host, "/run/fleet/fleet.toml", &fleet);
    let plan = ["--json", "plan", "--file", "/run/fleet/fleet.toml"];
    let run = host.run(&plan).code(3);
    assert_eq!(containers(&run), [&ids[0], &ids[1], &ids[2], "999990"]);
    let json = run.json();
    let diff = |index: usize| json["containers"][index]["diff"].as_str().unwrap().to_owned();
    assert!(diff(0).contains("dev/nvidia0 ") && !diff(0).contains("dev/nvidia1 "), "{}", diff(0));
    assert!(diff(1).contains("dev0: /dev/nvidia1") && !diff(1).contains("nvidia0"), "{}", diff(1));
    assert!(diff(2).contains("dev/nvidia0 ") && diff(2).contains("dev/nvidia1 "), "{}", diff(2));
    // Named ones alone; and the command line comes before the file.
    let run = host.run(&[&plan[..], &[&ids[2], "--gpus", "1"]].concat()).code(10);
    assert_eq!(containers(&run), [ids[2].as_str()]);
    let diff = run.json()["containers"][0]["diff"].as_str().unwrap().to_owned();
    assert!(diff.contains("dev/nvidia1 ") && !diff.contains("dev/nvidia0 "), "{diff}");
    host.run(&[&plan[..], &["999991"]].concat())
        .code(2)
        .says("container 999991: failed to find it in `/run/fleet/fleet.toml`");
    let settings = ["--set", "driver=570.207", &ids[0]];
    host.run(&[&plan[..], &settings].concat()).code(4).shows("use driver 570.207");
}

#[test]
fn a_fleet_file_that_cannot_be_understood_is_refused_before_anything_is_done() {
    let host = host();
    let container = "[[container]]\nid = 101\n";
    for (text, says) in [
        (format!("{container}gpu = \"all\"\n"), "unknown key `gpu` at line 4, did you mean `gpus`"),
        (format!("{container}recipe = 7\n"), "at line 4"),
        (format!("{container}id = 102\n"), "line 4"),
        (format!("{container}gpus = \"0,0\"\n"), "`0` is there twice"),
        (
            format!("{container}[[container]]\nid = \"100-105\"\nrecipe = \"driver-only\"\n"),
            "container 101 is named at line 3 and at line 5",
        ),
        (format!("{container}recipe = \"nosuch.toml\"\n"), "line 3"),
        (format!("{container}profile = \"nosuch\"\n"), "use profile `nosuch`"),
        (format!("{container}set = [\"packages=cuda-drivers\"]\n"), "cuda-drivers"),
        ("[[container]]\nid = \"110-105\"\n".to_owned(), "`110-105`"),
        (String::new(), "it names no container"),
    ] {
        write(&host, "/run/fleet.toml", &format!("schema = 1\n{text}"));
        for verb in ["provision", "plan", "verify"] {
            let run = host.run(&[verb, "--file", "/run/fleet.toml"]).code(2);
            run.says("/run/fleet.toml").says(says);
        }
    }
    write(&host, "/run/fleet.toml", container);
    host.run(&["plan", "--file", "/run/fleet.toml"]).code(2).says("schema = 1");
    host.run(&["plan", "--file", "/run/nosuch.toml"]).code(2).says("read `/run/nosuch.toml`");
    write(&host, "/run/phoenix.json", PHOENIX);
    host.run(&["plan", "--file", "/run/fleet.toml", "--from", "/run/phoenix.json"])
        .code(2)
        .says("cannot be used with");
    host.run(&["provision", "101", "--jobs", "0"]).code(2).says("--jobs");
    assert_eq!(host.pct_calls().len(), 0);
}
