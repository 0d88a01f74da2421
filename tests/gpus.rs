//! `nvstage gpus`, and what `plan` says of a GPU that several containers have.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use support::{Host, Kind, Nodes, Site, VERSION};

/// Gives a container the node of a GPU by hand.
fn give(host: &Host, ctid: &str, minor: u32) {
    let line = format!(
        "lxc.mount.entry: /dev/nvidia{minor} dev/nvidia{minor} none bind,optional,create=file 0 0\n"
    );
    std::fs::write(host.config_path(ctid), host.config(ctid) + &line).unwrap();
}

#[test]
fn gpus_and_the_containers_that_have_them_are_shown() {
    let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
    let ctid = host.container("unprivileged", &[]);
    let run = host.run(&["gpus"]).code(0);
    assert_eq!(run.stderr, "");
    let run = run.shows(&format!("kernel module {VERSION}, proprietary"));
    let run = run.shows("1 1 0000:81:00.0 - NVIDIA GeForce RTX 3090");
    run.shows("GPU-00000001-1111-2222-3333-444444444444").shows("no container has a GPU");
    give(&host, &ctid, 1);
    host.run(&["gpus"]).code(0).shows(&format!("container GPUs {ctid} 1"));
    let json = host.run(&["gpus", "--json"]).code(0).json();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["gpus"][1]["uuid"], "GPU-00000001-1111-2222-3333-444444444444");
    assert_eq!(json["containers"][0]["container"], ctid.as_str());
    assert_eq!(json["containers"][0]["gpus"][0]["index"], 1);
}

#[test]
fn without_proxmox_the_gpus_are_shown_and_a_warning_says_what_is_missing() {
    let host = Host::new(Kind::Lxc, Nodes::Answering(VERSION));
    host.run(&["gpus", "--runtime", "pct"])
        .code(0)
        .says("warning: which containers have a GPU is not known: failed to find `pct`")
        .shows("0000:81:00.0");
}

#[test]
fn a_host_without_a_driver_is_no_error() {
    let host = Host::new(Kind::Lxc, Nodes::None);
    let run = host.run(&["gpus"]).code(0).shows("no kernel module of NVIDIA is loaded");
    assert_eq!(run.stderr, "");
    run.shows("this host has no GPU of NVIDIA");
}

#[test]
fn sharing_within_one_run_is_told_by_plan_and_once_by_provision() {
    let site = Site::new();
    let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
    let (first, second) =
        (host.container("unprivileged", &[]), host.container("unprivileged", &[]));
    let recipe = site.driver_only();
    let run = |verb, gpus| host.run(&[verb, &first, &second, "--recipe", &recipe, "--gpus", gpus]);
    let planned = run("plan", "0").code(10).stdout;
    let provisioned = run("provision", "0").code(0).stderr;
    for (ctid, other) in [(&first, &second), (&second, &first)] {
        let line = format!("shared       GPU 0 also with {other}\n");
        assert_eq!(planned.matches(&line).count(), 1, "{planned}");
        let line = format!("container {ctid}: GPU 0 also with {other}\n");
        assert_eq!(provisioned.matches(&line).count(), 1, "{provisioned}");
    }
}

#[test]
fn a_gpu_that_a_container_gives_up_in_this_run_is_not_shared_any_more() {
    let site = Site::new();
    let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
    let (first, second) =
        (host.container("unprivileged", &[]), host.container("unprivileged", &[]));
    let recipe = site.driver_only();
    let options = ["--recipe", recipe.as_str(), "--gpus", "1"];
    host.run(&[&["provision", &second], &options[..]].concat()).code(0);
    let alone = host.run(&[&["plan", &first], &options[..]].concat()).code(10).stdout;
    assert!(alone.contains(&format!("GPU 1 also with {second}\n")), "{alone}");
    let configs = host.directory.path().join("configs.json");
    let text = format!(
        r#"{{"lxc_configs": {{"{first}": {{"gpu_assignment": "1"}}, "{second}": {{"gpu_assignment": "0"}}}}}}"#
    );
    std::fs::write(&configs, text).unwrap();
    let from = ["plan", "--recipe", &recipe, "--from", configs.to_str().unwrap()];
    let both = host.run(&from).code(10).stdout;
    assert!(!both.contains("shared"), "{both}");
}

#[test]
fn plan_says_which_other_containers_have_the_gpu() {
    let site = Site::new();
    let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
    let (first, second) =
        (host.container("unprivileged", &[]), host.container("unprivileged", &[]));
    give(&host, &second, 1);
    let recipe = site.recipe();
    let plan = |gpus| host.run(&["plan", &first, "--recipe", &recipe, "--gpus", gpus]).code(10);
    let shared = format!("shared       GPU 1 also with {second}\n");
    let uuid = "GPU-00000001-1111-2222-3333-444444444444";
    for gpus in ["all", "1", "81:00.0", uuid] {
        let run = plan(gpus);
        assert!(run.stdout.contains(&shared), "{gpus}: {}", run.stdout);
    }
    assert!(!plan("0").stdout.contains("shared"));
}
