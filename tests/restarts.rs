//! Nothing restarts by surprise: one question on a terminal, and restarts that are left pending.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::io::Write;
use std::process::Stdio;

use support::{Host, Kind, Nodes, Run, Site, VERSION};

const QUESTION: &str = "[y/N]";

struct Scene {
    host: Host,
    site: Site,
    recipe: String,
}

impl Scene {
    fn new() -> Self {
        let (host, site) = (Host::new(Kind::Pct, Nodes::Answering(VERSION)), Site::new());
        let recipe = site.driver_only();
        Self { host, site, recipe }
    }

    fn running(&self, privilege: &str) -> String {
        let ctid = self.host.container(privilege, &[]);
        self.host.start(&ctid);
        ctid
    }

    fn provision<'a>(&'a self, ctid: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["provision", ctid, "--gpus", "0", "--recipe", &self.recipe], more].concat()
    }

    /// Runs the program on a terminal of its own (`script(1)`), where somebody types; both of its
    /// streams are in `stdout`.
    fn on_terminal(&self, typed: &str, arguments: &[&str]) -> Run {
        let program = env!("CARGO_BIN_EXE_nvstage");
        self.line_on_terminal(typed, &format!("exec {program} {}", arguments.join(" ")))
    }

    fn line_on_terminal(&self, typed: &str, line: &str) -> Run {
        let mut command = self.host.command("script");
        command.args(["--quiet", "--return", "--command", line, "/dev/null"]);
        command.env("TERM", "dumb").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
        child.wait_with_output().unwrap().into()
    }

    fn inits(&self, ctids: &[&str]) -> Vec<u32> {
        ctids.iter().map(|ctid| self.host.init(ctid)).collect()
    }
}

#[track_caller]
fn is_asked(run: &Run, expected: usize) {
    assert_eq!(run.stdout.matches(QUESTION).count(), expected, "{}", run.stdout);
}

#[test]
fn on_a_terminal_one_question_names_every_restart_before_anything_is_changed() {
    let scene = Scene::new();
    let host = &scene.host;
    let (one, two) = (scene.running("privileged"), scene.running("unprivileged"));
    let stopped = host.container("privileged", &[]);
    let pending = host.config(&one) + "\n[pve:pending]\nmemory: 1024\n";
    std::fs::write(host.config_path(&one), pending).unwrap();
    let ctids = [one.as_str(), &two, &stopped];
    let (configs, inits) = (ctids.map(|ctid| host.config(ctid)), scene.inits(&ctids));
    let mut all = scene.provision(&one, &[]);
    all.splice(2..2, [two.as_str(), &stopped]);

    let run = scene.on_terminal("n\n", &all).code(1);
    is_asked(&run, 1);
    let run = run.shows("These 2 running containers are going to be restarted:");
    let run = run.shows(&format!("{one} the configuration changes pending change"));
    let run = run.shows("`memory: 512` becomes `memory: 1024`").shows("is stopped hard");
    let run = run.shows(&format!("{two} the configuration changes What"));
    run.shows("a restart was declined, nothing was changed");
    assert_eq!(ctids.map(|ctid| host.config(ctid)), configs);
    assert_eq!((scene.inits(&ctids), scene.site.requests()), (inits.clone(), 0));

    let run = scene.on_terminal("y\n", &all).code(0);
    is_asked(&run, 1);
    let now = scene.inits(&ctids);
    assert!(now[0] != inits[0] && now[1] != inits[1] && now[0] != 0 && now[1] != 0, "{now:?}");
    assert_eq!(now[2], 0, "a stopped container is stopped again");
    assert!(host.config(&one).contains("memory: 1024"), "{}", host.config(&one));
    // Nothing needs a restart: nothing is asked, also where one is started.
    let run = scene.on_terminal("", &all).code(0);
    is_asked(&run, 0);
    assert_eq!(scene.inits(&ctids)[..2], now[..2]);
    // `--yes` asks nothing; what a terminal's end says is no.
    let more = scene.provision(&one, &["--gpus", "0,1"]);
    let more: Vec<&str> = [&more[..2], &more[4..]].concat();
    is_asked(&scene.on_terminal("", &more).code(1), 1);
    is_asked(&scene.on_terminal("", &[&more[..], &["--yes"]].concat()).code(0), 0);
    assert_ne!(host.init(&one), now[0]);
}

#[test]
fn a_pending_restart_is_finished_by_the_next_run_or_by_its_user() {
    let scene = Scene::new();
    let host = &scene.host;
    let ctid = scene.running("privileged");
    let init = host.init(&ctid);
    let run = host.run(&scene.provision(&ctid, &["--no-restart"])).code(10);
    run.shows("restart pending, the configuration changes").shows("checks skipped");
    assert_eq!(host.init(&ctid), init);
    assert!(host.config(&ctid).contains("dev/nvidia0"), "{}", host.config(&ctid));
    // Everything else is done.
    host.inside(&ctid, "ls /usr/lib/x86_64-linux-gnu/libcuda.so.580.76.05").code(0);
    let status = host.run(&["status", "--check", &ctid]).code(10);
    status.shows("a restart is pending").shows(&format!("`pct reboot {ctid}`"));
    host.run(&["plan", &ctid]).code(10).shows("change: restart it, the configuration changes");
    host.run(&["provision", &ctid, "--no-restart"]).code(10).shows("restart pending");
    host.run(&["provision", &ctid]).code(0).shows("restarted: the configuration changes");
    let again = host.init(&ctid);
    assert_ne!(again, init);
    host.run(&["status", "--check", &ctid]).code(0);

    // Another method, and its user restarts it.
    let device = ["provision", &ctid, "--passthrough", "device", "--no-restart"];
    host.run(&device).code(10).shows("restart pending");
    assert_eq!(host.init(&ctid), again);
    host.shell(&format!("pct reboot {ctid}")).code(0);
    let init = host.init(&ctid);
    host.run(&["status", "--check", &ctid]).code(0);
    host.run(&["provision", &ctid]).code(0).shows("power unchanged").shows("nodes");
    assert_eq!(host.init(&ctid), init);

    // The Phoenix Hypervisor's caller is asked nothing, and its container is left running.
    let url = scene.site.server.url("/installer/NVIDIA-Linux-x86_64-580.76.05.run");
    let line = format!(
        "GPU_ASSIGNMENT=0,1 NVIDIA_DRIVER_VERSION={VERSION} NVIDIA_REPO_URL=http://10.99.0.1/ \
         NVIDIA_RUNFILE_URL={url} exec {} phoenix {ctid}",
        env!("CARGO_BIN_EXE_nvstage")
    );
    host.shell(&format!("pct stop {ctid}")).code(0);
    is_asked(&scene.line_on_terminal("", &line).code(0), 0);
    assert_ne!(host.init(&ctid), 0);
}

#[test]
fn a_restart_that_turns_out_to_be_needed_later_is_left_pending_on_a_terminal() {
    let scene = Scene::new();
    let host = &scene.host;
    let ctid = scene.running("privileged");
    host.run(&scene.provision(&ctid, &[])).code(0);
    // The nodes are mounted, and what the container was started with forbids them.
    let config = host.config(&ctid);
    let lines = config.split_inclusive('\n');
    let without: String = lines.filter(|line| !line.contains("devices.allow")).collect();
    std::fs::write(host.config_path(&ctid), without).unwrap();
    host.shell(&format!("pct stop {ctid}")).code(0);
    host.start(&ctid);
    std::fs::write(host.config_path(&ctid), config).unwrap();
    let init = host.init(&ctid);
    let run = scene.on_terminal("", &["provision", &ctid]).code(10);
    is_asked(&run, 0);
    run.shows("restart pending, it was started without `/dev/nvidia0` as configured");
    assert_eq!(host.init(&ctid), init);
    // The next run knows, and asks.
    let run = scene.on_terminal("y\n", &["provision", &ctid]).code(0);
    is_asked(&run, 1);
    assert_ne!(host.init(&ctid), init);
}

#[test]
fn detach_asks_and_leaves_a_restart_pending() {
    let scene = Scene::new();
    let host = &scene.host;
    let ctid = scene.running("unprivileged");
    let before = host.config(&ctid);
    host.run(&scene.provision(&ctid, &[])).code(0);
    let (config, init) = (host.config(&ctid), host.init(&ctid));
    let run = scene.on_terminal("n\n", &["detach", &ctid]).code(1);
    is_asked(&run, 1);
    assert_eq!((host.config(&ctid), host.init(&ctid)), (config, init));

    let run = host.run(&["detach", &ctid, "--no-restart"]).code(10);
    run.shows("restart pending, it was started with its devices");
    assert_eq!((host.config(&ctid), host.init(&ctid)), (before, init));
    host.run(&["status", "--check", &ctid]).code(10).shows("a restart is pending");
    let run = scene.on_terminal("y\n", &["detach", &ctid]).code(0);
    is_asked(&run, 1);
    assert_ne!(host.init(&ctid), init);
    host.run(&["status", "--check", &ctid]).code(0);
    is_asked(&scene.on_terminal("", &["detach", &ctid]).code(0), 0);
}

#[test]
fn sync_asks_and_leaves_a_restart_pending() {
    let scene = Scene::new();
    let host = &scene.host;
    let ctid = scene.running("privileged");
    host.run(&scene.provision(&ctid, &["--method", "share"])).code(0);
    let init = host.init(&ctid);
    host.load_module("580.95.05");
    let run = scene.on_terminal("n\n", &["sync"]).code(1).shows("to get driver 580.95.05");
    is_asked(&run, 1);
    let run = host.run(&["sync", "--no-restart"]).code(10);
    run.shows("restart pending, to get driver 580.95.05");
    assert_eq!(host.init(&ctid), init);
    is_asked(&scene.on_terminal("", &["sync", "--yes"]).code(0), 0);
    assert_ne!(host.init(&ctid), init);
    is_asked(&scene.on_terminal("", &["sync"]).code(0), 0);
}
