//! What the container tests share: hosts of their own, containers on them, and the program run
//! there as a user would.
//!
//! Everything runs inside `tests/world/enter` (`make test` does that): a private mount and network
//! namespace with cgroup v2 alone. A [`Host`] is a further mount namespace with its own `/etc/pve`,
//! `/dev`, cache and logs, so that many of them live side by side.

#![allow(dead_code, unused_imports, reason = "each test file uses a part of this")]

pub mod batch;
pub mod seeds;
pub mod server;
pub mod shared;
mod site;
pub mod ways;

pub use site::Site;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The bridge of the test world.
pub const BRIDGE: &str = "10.99.0.1";
/// The version of the stand-in that most tests install.
pub const VERSION: &str = "580.76.05";

/// The version of pve-container on the hosts that do not say another.
pub const PVE_CONTAINER: &str = "6.1.10";

/// The directory of the test world's built parts.
pub fn world() -> PathBuf {
    std::env::var_os("NVSTAGE_WORLD").map_or("/var/tmp/nvstage-world".into(), PathBuf::from)
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/world").join(name)
}

/// Runs a script of `tests/world` to its end, on the machine and not on a [`Host`].
#[track_caller]
pub fn world_script(name: &str, arguments: &[&str]) -> Run {
    Command::new(script(name)).args(arguments).output().unwrap().into()
}

/// A stand-in installer of the test world.
pub fn installer(version: &str) -> PathBuf {
    world().join(format!("installer/NVIDIA-Linux-x86_64-{version}.run"))
}

/// What a command did: tests look at all three together.
#[derive(Debug, Clone)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let signal = output.status.signal().unwrap_or_default();
        Self {
            code: output.status.code().unwrap_or(128 + signal),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Run {
    /// Asserts the exit code, showing everything when it is another one.
    #[track_caller]
    pub fn code(self, expected: i32) -> Self {
        assert_eq!(
            self.code, expected,
            "exit code\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout, self.stderr
        );
        self
    }

    /// Asserts that stderr says something.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "stderr lacks {text:?}:\n{}", self.stderr);
        self
    }

    /// Asserts that stdout shows something; wrapped cells and runs of blanks do not matter.
    #[track_caller]
    pub fn shows(self, text: &str) -> Self {
        // Cells are wrapped anywhere, also within a long path.
        let dense = |text: &str| text.split_whitespace().collect::<String>();
        assert!(
            dense(&self.stdout).contains(&dense(text)),
            "stdout lacks {text:?}:\n{}",
            self.stdout
        );
        self
    }

    /// The JSON document on stdout.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}\n{}\n{}", self.stdout, self.stderr))
    }
}

/// Whether a host has Proxmox's `pct`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Pct,
    Lxc,
}

/// How a host's GPU nodes behave when they are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nodes {
    /// A kernel module is loaded (its version is given), and a driver answers: `/dev/net/tun`'s
    /// number, which LXC does not allow by itself.
    Answering(&'static str),
    /// NVIDIA's own numbers, and no driver behind them: ENXIO where the rules allow it.
    Silent,
    /// No nodes at all.
    None,
}

impl Nodes {
    fn module(self) -> Option<&'static str> {
        match self {
            Self::Answering(version) => Some(version),
            Self::Silent | Self::None => None,
        }
    }
}

/// A host: a mount namespace with its own Proxmox, devices, cache and logs.
pub struct Host {
    pub directory: tempfile::TempDir,
    holder: Child,
    containers: std::sync::Mutex<Vec<String>>,
}

static NEXT_CONTAINER: AtomicU32 = AtomicU32::new(201);

impl Host {
    pub fn new(kind: Kind, nodes: Nodes) -> Self {
        Self::open(kind, &device_list(nodes), nodes.module(), PVE_CONTAINER)
    }

    /// A Proxmox host whose kernel modules and majors are what `prepare` writes into the directory:
    /// `devices`, `proc-driver`, `proc-devices`, `modules` (see `tests/world/README.md`).
    pub fn prepared(prepare: impl FnOnce(&Path)) -> Self {
        let directory = host_directory();
        prepare(directory.path());
        Self::hold(directory, Kind::Pct, PVE_CONTAINER)
    }

    /// A Proxmox host with that version of pve-container, the package that `pct` belongs to: it
    /// says what is known about `devN`, and which changes reach a running container.
    pub fn with_version(nodes: Nodes, version: &str) -> Self {
        Self::open(Kind::Pct, &device_list(nodes), nodes.module(), version)
    }

    /// A host with exactly these nodes below `/dev`, one `NAME TYPE MAJOR MINOR [MODE]` a line,
    /// and with that version of the kernel module, if any.
    pub fn with_devices(kind: Kind, list: &str, proc_driver: Option<&str>) -> Self {
        Self::open(kind, list, proc_driver, PVE_CONTAINER)
    }

    fn open(kind: Kind, list: &str, module: Option<&str>, version: &str) -> Self {
        let directory = host_directory();
        std::fs::write(directory.path().join("devices"), list).unwrap();
        if let Some(module) = module {
            proc_driver(&directory.path().join("proc-driver"), module);
        }
        Self::hold(directory, kind, version)
    }

    fn hold(directory: tempfile::TempDir, kind: Kind, version: &str) -> Self {
        assert!(
            world().join("root-privileged").exists(),
            "the test world is not built: run `make test`, or `tests/world/prepare`"
        );
        let holder = Command::new(script("host"))
            .arg(directory.path())
            .args(["sh", "-c", "echo ready; exec sleep 100000"])
            .env("HOST_KIND", if kind == Kind::Pct { "pve" } else { "lxc" })
            .env("PVE_CONTAINER", version)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/world/host");
        let mut host = Self { directory, holder, containers: Default::default() };
        host.wait_until_ready();
        host
    }

    fn wait_until_ready(&mut self) {
        use std::io::{BufRead, BufReader};
        let mut line = String::new();
        BufReader::new(self.holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "tests/world/host failed; is this inside tests/world/enter?");
    }

    /// A command inside this host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()));
        command.args(["--wdns=/", "--"]).arg(program).stdin(Stdio::null());
        command
    }

    /// The program under test, inside this host.
    pub fn nvstage(&self) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_nvstage"));
        for name in
            ["GPU_ASSIGNMENT", "NVIDIA_DRIVER_VERSION", "NVIDIA_REPO_URL", "NVIDIA_RUNFILE_URL"]
        {
            command.env_remove(name);
        }
        command
    }

    /// Runs the program under test to its end.
    pub fn run(&self, arguments: &[&str]) -> Run {
        self.nvstage().args(arguments).output().unwrap().into()
    }

    /// Runs a shell script on this host.
    #[track_caller]
    pub fn shell(&self, script: &str) -> Run {
        self.command("sh").args(["-c", script]).output().unwrap().into()
    }

    /// Makes a container; it is not started.
    #[track_caller]
    pub fn container(&self, privilege: &str, options: &[&str]) -> String {
        let ctid = NEXT_CONTAINER.fetch_add(1, Ordering::Relaxed).to_string();
        let made: Run = self
            .command(script("new-container"))
            .arg(self.directory.path())
            .args([ctid.as_str(), privilege])
            .args(options)
            .output()
            .unwrap()
            .into();
        made.code(0);
        self.containers.lock().unwrap().push(ctid.clone());
        ctid
    }

    /// Clones a container by `pct clone`, and says how that went; the clone is not started.
    #[track_caller]
    pub fn clone_of(&self, source: &str, options: &str) -> (String, Run) {
        let ctid = NEXT_CONTAINER.fetch_add(1, Ordering::Relaxed).to_string();
        self.containers.lock().unwrap().push(ctid.clone());
        let run = self.shell(&format!("pct clone {source} {ctid} {options}"));
        (ctid, run)
    }

    /// Runs a shell script inside a running container.
    #[track_caller]
    pub fn inside(&self, ctid: &str, script: &str) -> Run {
        let path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
        let mut command = self.command("lxc-attach");
        command.args(["-n", ctid, "--clear-env", "--", "env", path, "sh", "-c", script]);
        command.output().unwrap().into()
    }

    /// Starts a container without the program under test.
    #[track_caller]
    pub fn start(&self, ctid: &str) {
        let script = format!(
            "if [ -x /usr/sbin/pct ]; then pct start {ctid}; else lxc-start -d -n {ctid}; fi"
        );
        self.shell(&script).code(0);
        let up = "for i in $(seq 100); do case $(systemctl is-system-running) in running|degraded) exit 0;; esac; sleep 0.1; done; exit 1";
        self.inside(ctid, up).code(0);
    }

    /// The number of a container's first process on this machine; 0 when it is stopped.
    pub fn init(&self, ctid: &str) -> u32 {
        self.shell(&format!("lxc-info -n {ctid} -p -H")).stdout.trim().parse().unwrap_or(0)
    }

    /// The path of a file of this host as seen from the tests.
    pub fn path(&self, absolute: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{absolute}", self.holder.id()))
    }

    /// A container's configuration file.
    pub fn config(&self, ctid: &str) -> String {
        std::fs::read_to_string(self.config_path(ctid)).unwrap()
    }

    /// Where a container's configuration file lies, as seen from the tests.
    pub fn config_path(&self, ctid: &str) -> PathBuf {
        let proxmox = self.path(&format!("/etc/pve/lxc/{ctid}.conf"));
        if proxmox.exists() { proxmox } else { self.path(&format!("/var/lib/lxc/{ctid}/config")) }
    }

    /// Another version of the kernel module is loaded.
    pub fn load_module(&self, version: &str) {
        proc_driver(&self.path("/proc/driver"), version);
    }

    /// The calls of `pct` since the last time this was asked.
    pub fn pct_calls(&self) -> Vec<String> {
        let path = self.path("/run/pct-front/calls");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(&path, "").unwrap();
        // A script among the arguments spreads a call over many lines.
        let verbs =
            ["exec", "push", "start", "stop", "shutdown", "reboot", "status", "config", "set"];
        let is_call = |line: &&str| {
            let mut words = line.split(' ');
            let is_verb = words.next().is_some_and(|word| verbs.contains(&word));
            let is_number = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
            *line == "list" || (is_verb && words.next().is_some_and(is_number))
        };
        text.lines().filter(is_call).map(str::to_owned).collect()
    }

    /// Ends whatever holds a lock: the worker of a `pct` that was told to hang is a session of its
    /// own, and may not even have begun when its caller is killed.
    #[track_caller]
    pub fn release(&self, lock: &str) {
        let kill = format!(
            "for fd in /proc/[0-9]*/fd/*; do [ \"$(readlink $fd)\" = {lock} ] && kill -9 $(echo $fd | cut -d/ -f3); done; \
             flock -w 0.2 {lock} true"
        );
        eventually("the lock is free", Duration::from_secs(10), || self.shell(&kill).code == 0);
    }

    /// A package of the user's own, installed inside.
    #[track_caller]
    pub fn install_package(&self, ctid: &str, name: &str, depends: &str) {
        self.install_package_with(ctid, (name, depends), &[]);
    }

    /// The same with these files in it.
    #[track_caller]
    pub fn install_package_with(&self, ctid: &str, (name, depends): (&str, &str), paths: &[&str]) {
        let directory = self.directory.path().to_str().unwrap();
        let arguments = [&[directory, name, "1.0", depends, ""][..], paths].concat();
        world_script("package", &arguments).code(0);
        let script = format!(
            "for deb in {directory}/{name}_*.deb; do cat $deb; done | lxc-attach -n {ctid} -- sh -c 'cat > /root/x.deb && dpkg -i /root/x.deb'"
        );
        self.shell(&script).code(0);
    }

    /// Plants a fault in the `pct` front, or takes it away.
    pub fn fault(&self, name: &str, planted: bool) {
        let path = self.path(&format!("/run/pct-front/{name}"));
        if planted {
            std::fs::write(path, "").unwrap()
        } else {
            std::fs::remove_file(path).unwrap()
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for ctid in self.containers.lock().unwrap().iter() {
            let _ = self.command("lxc-stop").args(["-k", "-n", ctid]).output();
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn host_directory() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("nvstage-host-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir_in("/var/tmp")
        .unwrap()
}

fn device_list(nodes: Nodes) -> String {
    const NAMES: [(&str, u32, u32); 6] = [
        ("nvidia0", 195, 0),
        ("nvidia1", 195, 1),
        ("nvidiactl", 195, 255),
        ("nvidia-uvm", 511, 0),
        ("nvidia-uvm-tools", 511, 1),
        ("nvidia-caps/nvidia-cap1", 236, 1),
    ];
    let line = |(name, major, minor): &(&str, u32, u32)| match nodes {
        Nodes::Answering(_) => format!("{name} c 10 200\n"),
        Nodes::Silent => format!("{name} c {major} {minor}\n"),
        Nodes::None => String::new(),
    };
    NAMES.iter().map(line).collect()
}

/// What a loaded kernel module with two GPUs shows below `/proc/driver`.
pub fn proc_driver(directory: &Path, version: &str) {
    let nvidia = directory.join("nvidia");
    for (minor, bus) in [(0, "0000:01:00.0"), (1, "0000:81:00.0")] {
        let gpu = nvidia.join("gpus").join(bus);
        std::fs::create_dir_all(&gpu).unwrap();
        let text = format!(
            "Model: \t\t NVIDIA GeForce RTX 3090\nIRQ:   \t\t 130\nGPU UUID: \t GPU-0000000{minor}-1111-2222-3333-444444444444\nVideo BIOS: \t 94.02.42.00.a9\nBus Type: \t PCIe\nDMA Size: \t 47 bits\nDMA Mask: \t 0x7fffffffffff\nBus Location: \t {bus}\nDevice Minor: \t {minor}\nGPU Firmware: \t {version}\nGPU Excluded:\t No\n"
        );
        std::fs::write(gpu.join("information"), text).unwrap();
    }
    let text = format!(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Thu Jul 24 00:04:00 UTC 2026\nGCC version:  gcc version 12.2.0 (Debian 12.2.0-14+deb12u1)\n"
    );
    std::fs::write(nvidia.join("version"), text).unwrap();
}

/// Waits until something holds, at most this long.
#[track_caller]
pub fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < until, "waited {limit:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
