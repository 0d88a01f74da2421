//! What was not named again holds as it was named before, and nothing is widened.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use serde_json::Value;
use support::{Host, Kind, Nodes, Run, Site, VERSION};

/// A host with a container that runs, and a recipe file of the user's own.
struct Scene {
    host: Host,
    site: Site,
    ctid: String,
    recipe: String,
}

impl Scene {
    fn new() -> Self {
        let (host, site) = (Host::new(Kind::Pct, Nodes::Answering(VERSION)), Site::new());
        let ctid = host.container("privileged", &[]);
        host.start(&ctid);
        let recipe = host.directory.path().join("mine.toml").to_str().unwrap().to_owned();
        std::fs::copy(site.driver_only(), &recipe).unwrap();
        Self { host, site, ctid, recipe }
    }

    fn run(&self, verb: &str, more: &[&str]) -> Run {
        self.host.run(&[&[verb, &self.ctid], more].concat())
    }

    /// The source of a value that `plan` shows, and the value.
    fn value(&self, name: &str, more: &[&str]) -> (String, String) {
        let plan = self.host.run(&[&["--json", "plan", &self.ctid], more].concat()).json();
        let values = plan["containers"][0]["request"].as_array().unwrap();
        let value = values.iter().find(|value| value["name"] == name);
        let value = value.unwrap_or_else(|| panic!("{name}: {plan:#}"));
        let text = |key: &str| value[key].as_str().unwrap().to_owned();
        (text("value"), text("source"))
    }
}

fn of(value: &str, source: &str) -> (String, String) {
    (value.to_owned(), source.to_owned())
}

#[test]
fn a_container_whose_gpus_nobody_has_named_gets_none() {
    let Scene { host, site, ctid, .. } = Scene::new();
    let (before, recipe) = (host.config(&ctid), site.driver_only());
    host.pct_calls();
    for verb in ["provision", "plan", "verify"] {
        let run = host.run(&[verb, &ctid, "--recipe", &recipe]).code(2);
        let said = format!("{}{}", run.stdout, run.stderr);
        assert!(
            said.contains(&format!("container {ctid}: failed to find out which GPUs")),
            "{said}"
        );
        assert!(said.contains("`--gpus all`") && said.contains("`--gpus 0`"), "{said}");
    }
    assert_eq!((host.config(&ctid), host.pct_calls().len()), (before, 0));
    assert_eq!(site.requests(), 0);
    // A recipe may name them; and one container's error is not another's.
    let text = std::fs::read_to_string(&recipe).unwrap() + "[passthrough]\ngpus = \"0\"\n";
    let naming = host.directory.path().join("naming.toml");
    std::fs::write(&naming, text).unwrap();
    let naming = naming.to_str().unwrap();
    let other = host.container("privileged", &[]);
    let run = host.run(&["plan", &other, "--recipe", naming]).code(10);
    run.shows("gpus 0 (recipe)").shows("+lxc.mount.entry: /dev/nvidia0");
    host.run(&["provision", &ctid, "--gpus", "1", "--recipe", &recipe]).code(0);
    let run = host.run(&["--json", "plan", &other, &ctid]).code(2).json();
    assert!(run["containers"][0]["error"].as_str().unwrap().contains("which GPUs"), "{run:#}");
    assert_eq!(run["containers"][1]["changes"], false, "{run:#}");
    // Its own GPUs come before those of a recipe that is named anew.
    let run = host.run(&["plan", &ctid, "--recipe", naming]);
    run.shows("gpus 1 (journal)").shows(&format!("recipe {naming} (command line)"));
}

#[test]
fn what_was_named_once_holds_until_something_else_is_named() {
    let scene = Scene::new();
    let Scene { host, site, ctid, recipe } = &scene;
    let url = site.server.url("/installer/NVIDIA-Linux-{arch}-{version}.run");
    let set = format!("installer.url={url}");
    let named = ["--gpus", "1", "--recipe", recipe, "--passthrough", "device", "--set", &set];
    scene.run("provision", &named).code(0);
    let (config, init) = (host.config(ctid), host.init(ctid));
    assert!(config.contains("dev0: /dev/nvidia1,"), "{config}");

    for verb in ["plan", "provision", "verify"] {
        scene.run(verb, &[]).code(0);
    }
    assert_eq!((host.config(ctid), host.init(ctid)), (config, init));
    assert_eq!(scene.value("gpus", &[]), of("1", "journal"));
    assert_eq!(scene.value("recipe", &[]), of(recipe, "journal"));
    assert_eq!(scene.value("profile", &[]), of("full", "journal"));
    assert_eq!(scene.value("passthrough", &[]), of("device", "journal"));
    assert_eq!(scene.value("method", &[]), of("installer", "journal"));
    assert_eq!(scene.value("installer.url", &[]), of(&url, "journal"));
    let shown = scene.run("plan", &[]);
    shown.shows("gpus 1 (journal)").shows("passthrough device (journal)");

    let fetched = host.run(&["--json", "prefetch", "--for", ctid]).code(0).json();
    assert_eq!(fetched["recipe"], "test-driver-only");

    // What is named now comes before it, the command line before the environment.
    let environment = |more: &[&str]| {
        let mut command = host.nvstage();
        command.env("GPU_ASSIGNMENT", "0").args(["plan", ctid]).args(more);
        Run::from(command.output().unwrap())
    };
    environment(&[]).code(10).shows("gpus 0 (environment)");
    environment(&["--gpus", "0,1"]).code(10).shows("gpus 0,1 (command line)");
    assert_eq!(scene.value("passthrough", &["--passthrough", "mount"]).1, "command-line");
    let fleet = format!("schema = 1\n[[container]]\nid = {ctid}\ngpus = [0, 1]\n");
    std::fs::write(host.path("/run/fleet.toml"), fleet).unwrap();
    let run = host.run(&["plan", "--file", "/run/fleet.toml"]).code(10);
    run.shows("gpus 0,1 (file)").shows(&format!("recipe {recipe} (journal)"));
    // Settings belong to a recipe; an empty URL is the recipe's own again.
    let run = scene.run("plan", &["--recipe", "driver-only"]).shows("recipe driver-only (command");
    assert!(!run.stdout.contains("installer.url"), "{}", run.stdout);
    let run = scene.run("provision", &["--set", "installer.url="]).code(0);
    assert!(!run.stdout.contains(" changed"), "{}", run.stdout);
    let run = scene.run("plan", &[]).code(0);
    assert!(!run.stdout.contains("installer.url"), "{}", run.stdout);

    // A number that another container has now has nothing of the journal.
    scene.run("detach", &[]).code(0);
    scene.run("plan", &[]).code(10).shows("gpus 1 (journal)");
    let another = host.config(ctid).replace("rootfs: ", "rootfs: another-");
    std::fs::write(host.config_path(ctid), another).unwrap();
    scene.run("plan", &["--recipe", recipe]).code(2).shows("nobody has named any yet");
}

#[test]
fn a_recipe_file_that_has_changed_or_gone_is_told_and_the_container_is_looked_after() {
    let scene = Scene::new();
    let Scene { host, ctid, recipe, .. } = &scene;
    scene.run("provision", &["--gpus", "0", "--recipe", recipe]).code(0);
    let journal = format!("/var/lib/nvstage/containers/{ctid}.json");
    let journal = || -> Value {
        serde_json::from_str(&std::fs::read_to_string(host.path(&journal)).unwrap()).unwrap()
    };
    let kept = std::fs::read_to_string(recipe).unwrap();
    assert_eq!(journal()["recipe_text"], kept.as_str());

    // A changed file counts for what plans and checks; `sync` changes the driver and no more.
    std::fs::write(recipe, kept.replace("\"nodes\", ", "")).unwrap();
    let changed = format!("its recipe `{recipe}` has changed since");
    scene.run("plan", &[]).code(0).says(&changed);
    let run = scene.run("verify", &[]).code(0).says(&changed);
    assert!(!run.stdout.contains("nodes"), "{}", run.stdout);
    host.load_module("580.95.05");
    let run = scene.run("sync", &[]).code(0).says(&changed);
    run.shows("replace driver 580.76.05 by 580.95.05").shows("nodes, nvidia-smi passed");
    assert_eq!(journal()["recipe_text"], kept.as_str());

    std::fs::remove_file(recipe).unwrap();
    let gone = format!("container {ctid}: its recipe `{recipe}` is gone");
    host.run(&["status", "--check", ctid]).code(0);
    host.run(&["sync", "--check", ctid]).code(0);
    for verb in ["plan", "provision", "verify"] {
        scene.run(verb, &[]).code(0).says(&gone);
    }
    host.load_module(VERSION);
    scene.run("sync", &[]).code(0).says(&gone).shows("replace driver 580.95.05 by 580.76.05");
    // Named again it has to be there.
    scene.run("plan", &["--recipe", recipe]).code(2).says("there is no such recipe");
    scene.run("detach", &["--uninstall"]).code(0);
}
