//! Every command that a message advises, typed as it stands, does what it is advised for and no
//! more.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use nvstage::container::config::Dialect;
use nvstage::ctid::Ctid;
use nvstage::recipe::Recipe;
use nvstage::remedy;
use support::{Host, Kind, Nodes, Run, Site, VERSION, eventually};

struct Scene {
    host: Host,
    site: Site,
    /// The names of those that were run.
    ran: BTreeSet<&'static str>,
}

impl Scene {
    fn new() -> Self {
        let (host, site) = (Host::new(Kind::Pct, Nodes::Answering(VERSION)), Site::new());
        // As the program is found by an administrator.
        let link = format!("ln -sf {} /usr/local/sbin/nvstage", env!("CARGO_BIN_EXE_nvstage"));
        host.shell(&format!("mount -t tmpfs none /usr/local/sbin && {link}")).code(0);
        Self { host, site, ran: BTreeSet::new() }
    }

    fn running(&self, privilege: &str) -> Ctid {
        let ctid = self.host.container(privilege, &[]);
        self.host.start(&ctid);
        Ctid::parse(&ctid).unwrap()
    }

    /// Types a command into a shell, as it stands.
    #[track_caller]
    fn types(&mut self, name: &'static str, command: &str) -> Run {
        self.ran.insert(name);
        let mut shell = self.host.command("sh");
        shell.args(["-c", command]).env("PATH", "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin");
        Run::from(shell.output().unwrap()).code(0)
    }

    /// The commands in backticks that `status` or `doctor` advise for a container.
    fn advised(&self, verb: &str, ctid: &Ctid) -> Vec<String> {
        let report = self.host.run(&["--json", verb, ctid.as_str()]).json();
        let lists = match verb {
            "status" => report["containers"][0]["drift"].as_array(),
            _ => report["findings"].as_array(),
        };
        let of_host = |one: &&serde_json::Value| verb == "doctor" && one["container"].is_null();
        let lists = lists.unwrap().iter().filter(|one| !of_host(one));
        let remedies = lists.filter_map(|one| one["remedy"].as_str());
        remedies.map(|text| text.trim_matches('`').to_owned()).collect()
    }

    /// No GPU came to a container, and none went.
    #[track_caller]
    fn has_gpu(&self, ctid: &Ctid, gpu: u32) {
        let config = self.host.config(ctid.as_str());
        for other in [0, 1] {
            let has = config.contains(&format!("/dev/nvidia{other} "));
            assert_eq!(has, other == gpu, "{config}");
        }
    }
}

/// The functions of `src/remedy.rs`.
fn all() -> BTreeSet<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/remedy.rs");
    let text = std::fs::read_to_string(source).unwrap();
    let names = text.lines().filter_map(|line| line.strip_prefix("pub fn ")?.split('(').next());
    names.map(str::to_owned).collect()
}

#[test]
fn each_one_does_what_it_is_advised_for_and_no_more() {
    let mut scene = Scene::new();
    let recipe = scene.site.driver_only();
    let (one, other) = (scene.running("privileged"), scene.running("privileged"));
    for (ctid, gpu) in [(&one, "1"), (&other, "0")] {
        let named = ["provision", ctid.as_str(), "--gpus", gpu, "--recipe", &recipe];
        scene.host.run(&named).code(0);
    }
    let whole = scene.host.config(one.as_str());

    // Lines that are gone come back, and no others.
    let lines = whole.split_inclusive('\n');
    let without: String = lines.filter(|line| !line.contains("/dev/nvidia1 ")).collect();
    std::fs::write(scene.host.config_path(one.as_str()), without).unwrap();
    assert_eq!(scene.advised("status", &one), [remedy::provision(&one)]);
    assert_eq!(scene.advised("doctor", &one), [remedy::provision(&one)]);
    scene.types("provision", &remedy::provision(&one));
    scene.has_gpu(&one, 1);
    scene.types("verify", &remedy::verify(&one)).shows("nodes");

    // The host's driver changes: one container follows, the other one is left alone.
    scene.host.load_module("580.95.05");
    assert_eq!(scene.advised("status", &one), [remedy::sync(&one)]);
    scene.types("sync", &remedy::sync(&one));
    assert_eq!(scene.advised("status", &one), [""; 0]);
    assert_eq!(scene.advised("status", &other), [remedy::sync(&other)]);
    assert_eq!(scene.advised("doctor", &other), [remedy::provision(&other)]);
    scene.types("provision", &remedy::provision(&other));
    assert_eq!(scene.advised("status", &other), [""; 0]);
    scene.has_gpu(&other, 0);
    scene.types("reinstall", &remedy::reinstall(&other)).shows("driver unchanged");

    // A restart that is left pending.
    let init = scene.host.init(one.as_str());
    let widened = ["provision", one.as_str(), "--gpus", "0,1", "--no-restart"];
    scene.host.run(&widened).code(10);
    let restart = remedy::restart(Dialect::Proxmox, &one);
    assert_eq!(scene.advised("status", &one), [restart.as_str()]);
    scene.types("restart", &restart);
    assert_ne!(scene.host.init(one.as_str()), init);
    assert_eq!(scene.advised("status", &one), [""; 0]);
    scene.host.shell(&format!("pct stop {one}")).code(0);
    scene.types("start", &remedy::start(Dialect::Proxmox, &one));
    assert_ne!(scene.host.init(one.as_str()), 0);

    scene.types("gpus", &remedy::gpus()).shows("RTX 3090");
    scene.types("refresh", &remedy::refresh());
    scene.types("sync_all", &remedy::sync_all());
    scene.has_gpu(&other, 0);
    let text = std::fs::read_to_string(&recipe).unwrap();
    let prefetch = remedy::prefetch(&one, &Recipe::parse(&text, &recipe).unwrap());
    scene.types("prefetch", &prefetch).shows("NVIDIA-Linux-x86_64-580.95.05.run");

    // A container that is gone.
    let gone = Ctid::parse("999999").unwrap();
    let journals = "/var/lib/nvstage/containers";
    let copy =
        format!("sed 's/\"{one}\"/\"{gone}\"/' {journals}/{one}.json > {journals}/{gone}.json");
    scene.host.shell(&copy).code(0);
    let journal = format!("{journals}/{gone}.json");
    assert_eq!(scene.advised("status", &gone), [remedy::forget(Path::new(&journal))]);
    scene.types("forget", &remedy::forget(Path::new(&journal)));
    scene.host.run(&["status", gone.as_str()]).code(3);

    scene.types("detach", &remedy::detach(&other, "")).shows("passthrough changed");

    first(&mut scene);
    plain_lxc();
    // `tests/host_setup.rs` has a systemd to run it with.
    assert_eq!(remedy::host_setup(), "nvstage host-setup");
    scene.ran.insert("host_setup");
    let ran: BTreeSet<String> = scene.ran.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(ran, all(), "a remedy is not run here");
}

/// A container with lines that somebody wrote by hand, as the replaced script did.
fn first(scene: &mut Scene) {
    let ctid = scene.running("privileged");
    let config = scene.host.config(ctid.as_str());
    let line = "lxc.mount.entry: /dev/nvidia1 /dev/nvidia1 none bind,optional,create=file\n";
    std::fs::write(scene.host.config_path(ctid.as_str()), config + line).unwrap();
    let advised = scene.advised("doctor", &ctid);
    assert!(advised.contains(&remedy::provision_first(&ctid, "1")), "{advised:?}");
    // The shipped recipe, with the files of this site.
    let own = "/etc/nvstage/recipes/driver-only.toml";
    let install = format!(
        "mkdir -p /etc/nvstage && mount -t tmpfs none /etc/nvstage && mkdir /etc/nvstage/recipes && cp {} {own}",
        scene.site.driver_only()
    );
    scene.host.shell(&install).code(0);
    scene.types("provision_first", &remedy::provision_first(&ctid, "1"));
    scene.has_gpu(&ctid, 1);
    scene.host.inside(ctid.as_str(), "! command -v nvcc").code(0);
    assert_eq!(scene.advised("doctor", &ctid), [""; 0]);

    // A driver of the host's by another way.
    let config = scene.host.config(ctid.as_str());
    let line = "lxc.mount.entry: /usr/bin/nvidia-smi usr/bin/nvidia-smi none bind,optional,create=file 0 0\n";
    std::fs::write(scene.host.config_path(ctid.as_str()), config + line).unwrap();
    assert!(scene.advised("status", &ctid).contains(&remedy::adopt(&ctid)));
    scene.types("adopt", &remedy::adopt(&ctid));
    scene.has_gpu(&ctid, 1);
    assert!(!scene.host.config(ctid.as_str()).contains("usr/bin/nvidia-smi"));
}

/// What is typed for containers of plain LXC.
fn plain_lxc() {
    let host = Host::new(Kind::Lxc, Nodes::Answering(VERSION));
    let ctid = Ctid::parse(&host.container("privileged", &[])).unwrap();
    host.shell(&remedy::start(Dialect::Lxc, &ctid)).code(0);
    eventually("it runs", Duration::from_secs(20), || host.init(ctid.as_str()) != 0);
    let init = host.init(ctid.as_str());
    host.shell(&remedy::restart(Dialect::Lxc, &ctid)).code(0);
    eventually("it runs", Duration::from_secs(20), || host.init(ctid.as_str()) != 0);
    assert_ne!(host.init(ctid.as_str()), init);
}

/// Remedies for containers are made in one place; a message that writes one itself is a second one.
#[test]
fn no_other_source_writes_such_a_command() {
    let verbs = ["provision", "sync", "verify", "refresh", "host-setup", "gpus"];
    let mut found = Vec::new();
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let is_source = path.extension().is_some_and(|extension| extension == "rs");
            if !is_source || path.ends_with("src/remedy.rs") || path.ends_with("tests.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
                let is_one = |verb: &&str| {
                    let at_a_container = |after: &str| after.starts_with([' ', '`', '"']);
                    let command = format!("nvstage {verb}");
                    line.split(&command).skip(1).any(at_a_container)
                };
                if verbs.iter().any(is_one) {
                    found.push(format!("{}: {}", path.display(), line.trim()));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
