//! A host with several containers, and one command that provisions all of them.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{Host, Kind, Nodes, Run, Site, VERSION, eventually};

/// The host, its containers in the order in which they are named, and where files come from.
pub struct Fleet {
    pub host: Host,
    pub site: Site,
    pub ids: Vec<String>,
    /// The recipe without packages.
    pub recipe: String,
}

impl Fleet {
    /// So many stopped, privileged containers.
    pub fn new(count: usize) -> Self {
        let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
        let site = Site::new();
        let ids = (0..count).map(|_| host.container("privileged", &[])).collect();
        let recipe = site.driver_only();
        Self { host, site, ids, recipe }
    }

    /// Steers the stand-ins in a container, whether it runs or not.
    pub fn steer(&self, index: usize, file: &str, text: &str) {
        let directory = self.root(index).join("etc/nvidia-standin");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(file), format!("{text}\n")).unwrap();
    }

    pub fn unsteer(&self, index: usize, file: &str) {
        std::fs::remove_file(self.root(index).join("etc/nvidia-standin").join(file)).unwrap();
    }

    /// The container's root directory as this host has it mounted.
    pub fn root(&self, index: usize) -> PathBuf {
        self.host.path(&format!("/var/lib/lxc/.storage/subvol-{}-disk-0", self.ids[index]))
    }

    /// The command that provisions all of them, and leaves them running.
    pub fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["--json", "provision"];
        all.extend(self.ids.iter().map(String::as_str));
        all.extend(["--gpus", "0", "--recipe", &self.recipe, "--start"]);
        all.extend(more);
        all
    }

    pub fn provision(&self, more: &[&str]) -> Run {
        self.host.run(&self.arguments(more))
    }

    pub fn begin(&self, more: &[&str]) -> Child {
        start(&self.host, &self.arguments(more))
    }

    /// The command lines of all processes in a running container.
    pub fn processes(&self, index: usize) -> String {
        let look = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '";
        self.host.inside(&self.ids[index], look).stdout
    }

    /// Waits until the installer in a container sleeps so long.
    #[track_caller]
    pub fn sleeps(&self, index: usize, seconds: &str) {
        let sleep = format!("sleep {seconds} ");
        eventually("the installer sleeps", Duration::from_secs(60), || {
            self.host.init(&self.ids[index]) != 0 && self.processes(index).contains(&sleep)
        });
    }

    /// Nothing of a run is left in a container.
    #[track_caller]
    pub fn is_clean(&self, index: usize) {
        if self.host.init(&self.ids[index]) == 0 {
            return;
        }
        let look = "grep ' /var/lib/nvstage' /proc/mounts; ls -d /var/lib/nvstage /root/.nvstage* 2>/dev/null; true";
        assert_eq!(self.host.inside(&self.ids[index], look).stdout, "");
        let processes = self.processes(index);
        for ours in ["nvidia-installer", "apt-get", "@nvstage"] {
            assert!(!processes.contains(ours), "{ours} goes on inside: {processes}");
        }
    }

    #[track_caller]
    pub fn is_provisioned(&self, index: usize) {
        let verify = ["verify", &self.ids[index], "--gpus", "0", "--recipe", &self.recipe];
        self.host.run(&verify).code(0);
        self.is_clean(index);
    }
}

/// Starts the program on a host.
pub fn start(host: &Host, arguments: &[&str]) -> Child {
    let mut command = host.nvstage();
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The entry of a container in a report.
#[track_caller]
pub fn entry<'a>(report: &'a Value, ctid: &str) -> &'a Value {
    let containers = report["containers"].as_array().unwrap();
    containers.iter().find(|one| one["container"] == ctid).unwrap()
}

/// The exit codes of a report's containers, in order.
pub fn exits(report: &Value) -> Vec<u64> {
    let containers = report["containers"].as_array().unwrap();
    containers.iter().map(|one| one["exit"].as_u64().unwrap()).collect()
}

/// The events of a run with `--json`.
pub fn events(run: &Run) -> Vec<Value> {
    run.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The events of one kind, each as the container that it is about.
pub fn of_kind(events: &[Value], kind: &str) -> Vec<String> {
    let these = events.iter().filter(|event| event["event"] == kind);
    these.map(|event| event["container"].as_str().unwrap().to_owned()).collect()
}

pub fn signal(child: &Child, name: &str) {
    let kill =
        std::process::Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
}

pub fn ended(child: Child) -> Run {
    child.wait_with_output().unwrap().into()
}
