//! `nvstage status`: what every container has, seen by files alone; every kind of drift; a hundred
//! containers within a second.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

#[path = "support/host_tree.rs"]
mod host_tree;
mod support;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use host_tree::{HostTree, make_node};
use jiff::Timestamp;
use nvstage::cmd::status::{Arguments, Status};
use nvstage::cmd::{Context, RuntimeArgument, status};
use nvstage::container::passthrough::{DeviceNode, Method, NodeKind, OwnLine};
use nvstage::ctid::Ctid;
use nvstage::engine::drift::Kind as Drift;
use nvstage::engine::status::{ContainerStatus, Source, State};
use nvstage::error::{ExitCode, Result};
use nvstage::event::Silent;
use nvstage::host::Host as Machine;
use nvstage::host::cancel::Cancel;
use nvstage::host::paths::Paths;
use nvstage::host::process::{Command, Ended, Finished, Processes};
use nvstage::host::runlog::RunLog;
use nvstage::journal::{Journal, LastRun, State as Passing, Unfinished, UnfinishedWork};
use nvstage::printer::status::text;
use nvstage::recipe::{CudaMethod, Userland};
use nvstage::version::DriverVersion;
use support::{Host, Kind, Nodes, Site, VERSION};

/// The loaded kernel module of the tree.
const MODULE: &str = "580.95.05";
const ENTRY: &str = "lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,optional,create=file 0 0";
const UVM: &str =
    "lxc.mount.entry: /dev/nvidia-uvm dev/nvidia-uvm none bind,optional,create=file 0 0";
const CONTROL: &str =
    "lxc.mount.entry: /dev/nvidiactl dev/nvidiactl none bind,optional,create=file 0 0";
const RULES: [&str; 3] = [
    "lxc.cgroup2.devices.allow: c 195:0 rw",
    "lxc.cgroup2.devices.allow: c 195:255 rw",
    "lxc.cgroup2.devices.allow: c 508:0 rw",
];
const TREE: &str = "lxc.mount.entry: /var/lib/nvstage/driver/current usr/lib/nvstage/driver none bind,ro,nosuid,nodev,optional,create=dir 0 0";

/// A machine on which `lxc-info` says what it is told to, and nothing else may be run.
struct LxcInfo(Option<&'static str>);

impl Processes for LxcInfo {
    fn run(&self, command: Command, _: &RunLog) -> Result<Finished> {
        panic!("{command} was run");
    }

    fn run_regardless(&self, command: Command, _: &RunLog) -> Result<Finished> {
        let Some(answer) = self.0 else { panic!("{command} was run") };
        assert_eq!(command.program, Path::new("lxc-info"));
        let (stdout, stderr) = (answer.as_bytes().to_vec(), Vec::new());
        Ok(Finished { ended: Ended::Exited(0), stdout, stderr, took: Duration::ZERO })
    }
}

/// A host with one GPU, containers that the test makes, and no process.
struct Tree {
    directory: tempfile::TempDir,
    paths: Paths,
}

impl Tree {
    fn new() -> Self {
        let (directory, paths) = HostTree::load("single-proprietary");
        let tree = Self { directory, paths };
        for ctid in [201, 202, 203] {
            std::fs::remove_file(tree.at(&format!("etc/pve/lxc/{ctid}.conf"))).unwrap();
        }
        tree.write("proc/net/unix", "Num       RefCount Protocol Flags    Type St Inode Path\n");
        tree
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.at(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A privileged container with one GPU, as nvstage leaves it.
    fn container(&self, ctid: u32, change: impl FnOnce(&mut Journal)) {
        let mut journal = journal(ctid);
        change(&mut journal);
        let lines = journal.lines.iter().filter_map(|line| line.text.clone());
        let lines: String = lines.map(|line| line + "\n").collect();
        self.config(ctid, &lines);
        self.write(&format!("var/lib/nvstage/containers/{ctid}.json"), &journal.to_text());
    }

    fn config(&self, ctid: u32, lines: &str) {
        let text = format!(
            "arch: amd64\nhostname: ct{ctid}\nrootfs: local:subvol-{ctid},size=8G\n{lines}"
        );
        self.write(&format!("etc/pve/lxc/{ctid}.conf"), &text);
    }

    /// The container runs: its socket, its group, its first process and a root of its own, in which
    /// NVIDIA's installer has a record of that version.
    fn runs(&self, ctid: u32, driver: Option<&str>) {
        use std::io::Write;
        let sockets = std::fs::OpenOptions::new().append(true).open(self.at("proc/net/unix"));
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 4872 @/var/lib/lxc/";
        writeln!(sockets.unwrap(), "{line}{ctid}/command").unwrap();
        let (monitor, init) = (10_000 + ctid, 20_000 + ctid);
        self.write(
            &format!("sys/fs/cgroup/lxc.monitor/{ctid}/cgroup.procs"),
            &format!("{monitor}\n"),
        );
        // A hook that runs beside it is not the first process inside.
        let children = format!("{} {init} ", init + 5000);
        self.write(&format!("proc/{monitor}/task/{monitor}/children"), &children);
        self.write(&format!("proc/{}/status", init + 5000), &format!("NSpid:\t{}\n", init + 5000));
        self.write(&format!("proc/{init}/status"), &format!("Name:\tinit\nNSpid:\t{init}\t1\n"));
        let root = format!("proc/{init}/root");
        std::fs::create_dir_all(self.at(&format!("{root}/usr/local"))).unwrap();
        if let Some(version) = driver {
            let libraries = "usr/lib/x86_64-linux-gnu";
            std::fs::create_dir_all(self.at(&format!("{root}/{libraries}"))).unwrap();
            let file = |n| {
                let path = format!("{libraries}/lib{n}.so");
                std::fs::write(self.at(&format!("{root}/{path}")), "").unwrap();
                format!("1: /{path}\n1 2 3\n")
            };
            let files: String = (0..200).map(file).collect();
            let text = format!("NVIDIA-Linux-x86_64-{version} ({version})\nNVIDIA driver\n{files}");
            self.write(&format!("{root}/var/lib/nvidia/log"), &text);
        }
    }

    fn root(&self, ctid: u32) -> String {
        format!("proc/{}/root", 20_000 + ctid)
    }

    fn seen_by(&self, processes: LxcInfo, arguments: &Arguments) -> Result<Status> {
        let cancel = Cancel::never().unwrap();
        let host = Machine { paths: self.paths.clone(), processes: Box::new(processes), cancel };
        let context = Context {
            host: &host,
            events: &Silent,
            confirm: &nvstage::cmd::Unasked,
            run: "test".to_owned(),
        };
        status::run(&context, arguments)
    }

    fn status(&self) -> Status {
        self.seen_by(LxcInfo(None), &checking(&[])).unwrap()
    }

    /// The one drift of the one container.
    #[track_caller]
    fn drift(&self) -> (Drift, String) {
        let found = self.status();
        assert_eq!(found.exit, ExitCode::Differs);
        let [container] = &found.containers[..] else { panic!("{:#?}", found.containers) };
        let [drift] = &container.drift[..] else { panic!("{:#?}", container.drift) };
        let remedy = drift.remedy.as_deref().unwrap_or_default();
        let words = format!("{}; {remedy}", drift.text);
        (drift.kind, words.replace(self.directory.path().to_str().unwrap(), ""))
    }
}

fn checking(containers: &[&str]) -> Arguments {
    let containers = containers.iter().map(|ctid| (*ctid).to_owned()).collect();
    Arguments { containers, check: true, runtime: RuntimeArgument::Auto }
}

fn journal(ctid: u32) -> Journal {
    let mut journal = Journal::new(&Ctid::parse(&ctid.to_string()).unwrap());
    journal.rootfs = Some(format!("local:subvol-{ctid}"));
    journal.state = Passing::Attached;
    journal.recipe = "cuda-12-8".to_owned();
    journal.gpus = "0".to_owned();
    let node = |path: &str, number| DeviceNode {
        path: path.to_owned(),
        kind: NodeKind::File,
        numbers: vec![number],
    };
    journal.nodes = vec![
        node("/dev/nvidia0", (195, 0)),
        node("/dev/nvidiactl", (195, 255)),
        node("/dev/nvidia-uvm", (508, 0)),
    ];
    journal.lines = lines().into_iter().map(line).collect();
    journal.driver = Some(DriverVersion::parse(MODULE).unwrap());
    journal.packages = vec!["cuda-toolkit-12-8".to_owned(), "nvtop".to_owned()];
    let at: Timestamp = "2026-11-28T12:00:00Z".parse().unwrap();
    journal.last_run = Some(LastRun { at, command: "provision".to_owned(), exit: 0 });
    journal
}

/// The `dev[n]` of a node, and its key.
fn device(node: &str) -> String {
    format!("{}: /dev/{node},mode=0666", key(node))
}

fn key(node: &str) -> &'static str {
    match node {
        "nvidia0" => "dev0",
        "nvidiactl" => "dev1",
        _ => "dev2",
    }
}

/// What nvstage writes into the configuration of a privileged container with one GPU.
fn lines() -> Vec<&'static str> {
    [&[ENTRY, CONTROL, UVM][..], &RULES].concat()
}

fn line(text: &str) -> OwnLine {
    OwnLine { text: Some(text.to_owned()), replaced: None }
}

fn share(journal: &mut Journal) {
    journal.userland = Userland::Share;
    journal.lines.push(line(TREE));
}

fn one(status: &Status) -> &ContainerStatus {
    let [container] = &status.containers[..] else { panic!("{:#?}", status.containers) };
    container
}

#[test]
fn a_container_as_nvstage_left_it_does_not_drift() {
    let tree = Tree::new();
    tree.container(201, |_| {});
    let found = tree.status();
    assert_eq!((found.exit, found.host.len()), (ExitCode::Done, 0));
    let container = one(&found);
    assert!(container.drift.is_empty(), "{:?}", container.drift);
    assert_eq!(container.state, State::Stopped);
    assert_eq!(container.gpus[0].index, 0);
    let driver = container.driver.as_ref().unwrap();
    assert_eq!((driver.version.as_str(), driver.source), (MODULE, Source::Journal));
    assert_eq!((container.cuda[0].version.as_str(), container.cuda.len()), ("12.8", 1));
}

#[test]
fn a_running_container_is_looked_into_without_a_process() {
    let tree = Tree::new();
    tree.container(201, |_| {});
    tree.runs(201, Some(MODULE));
    for version in ["12.8", "13.0"] {
        tree.write(&format!("{}/usr/local/cuda-{version}/bin/nvcc", tree.root(201)), "");
    }
    // What a mount that is gone leaves, a link, and something else.
    for name in ["cuda-12.4", "cuda-12", "cuda-x.y"] {
        std::fs::create_dir_all(tree.at(&format!("{}/usr/local/{name}", tree.root(201)))).unwrap();
    }
    let found = tree.status();
    let container = one(&found);
    assert!(container.drift.is_empty(), "{:?}", container.drift);
    assert_eq!(container.state, State::Running);
    assert_eq!(container.driver.as_ref().unwrap().source, Source::Inside);
    let cuda: Vec<_> = container.cuda.iter().map(|seen| seen.version.as_str()).collect();
    assert_eq!(cuda, ["12.8", "13.0"]);
}

#[test]
fn where_files_do_not_tell_lxc_is_asked() {
    let tree = Tree::new();
    tree.container(201, |_| {});
    tree.runs(201, Some(MODULE));
    std::fs::remove_dir_all(tree.at("sys/fs/cgroup")).unwrap();
    let asked = |answer| tree.seen_by(LxcInfo(Some(answer)), &checking(&[])).unwrap();
    let found = asked("20201\n");
    assert_eq!(one(&found).state, State::Running);
    assert_eq!(one(&found).driver.as_ref().unwrap().source, Source::Inside);
    assert_eq!(one(&asked("")).state, State::Stopped);
    std::fs::remove_file(tree.at("proc/net/unix")).unwrap();
    assert_eq!(one(&asked("20201\n")).state, State::Running);
}

#[test]
fn a_driver_of_another_version_than_the_kernel_module() {
    let tree = Tree::new();
    tree.container(201, |journal| {
        journal.driver = Some(DriverVersion::parse("580.76.05").unwrap());
    });
    let expected = "driver 580.76.05, the kernel module is 580.95.05; `nvstage sync 201`";
    assert_eq!(tree.drift(), (Drift::Driver, expected.to_owned()));
    // A running one is what it is, whatever is written down.
    tree.runs(201, Some("570.207"));
    let expected = "driver 570.207, the kernel module is 580.95.05; `nvstage sync 201`";
    assert_eq!(tree.drift(), (Drift::Driver, expected.to_owned()));
}

#[test]
fn a_driver_that_is_gone_or_never_came() {
    let tree = Tree::new();
    tree.container(201, |_| {});
    tree.runs(201, None);
    let expected = (Drift::Driver, "it has no driver; `nvstage provision 201`".to_owned());
    assert_eq!(tree.drift(), expected);
    let tree = Tree::new();
    tree.container(201, |journal| journal.driver = None);
    assert_eq!(tree.drift(), expected);
}

#[test]
fn a_driver_whose_files_are_gone_drifts_whatever_its_record_says() {
    let tree = Tree::new();
    tree.container(201, |_| {});
    tree.runs(201, Some(MODULE));
    assert_eq!(tree.status().exit, ExitCode::Done);
    std::fs::remove_file(tree.at(&format!("{}/usr/lib/x86_64-linux-gnu/lib7.so", tree.root(201))))
        .unwrap();
    let expected = "incomplete: `/usr/lib/x86_64-linux-gnu/lib7.so` is missing; `nvstage sync 201`";
    assert_eq!(tree.drift(), (Drift::Driver, expected.to_owned()));
    std::fs::remove_dir_all(tree.at(&format!("{}/usr/lib", tree.root(201)))).unwrap();
    let (_, text) = tree.drift();
    assert!(text.contains("lib0.so` is missing, and 199 more"), "{text}");
}

#[test]
fn work_that_is_not_finished_is_told_with_what_finishes_it() {
    for (work, driver, expected) in [
        (
            UnfinishedWork::Provision,
            None,
            "it is not provisioned to the end; `nvstage provision 201`",
        ),
        (
            UnfinishedWork::Provision,
            Some(MODULE),
            "driver 580.95.05 is not installed to the end; `nvstage provision 201`",
        ),
        (UnfinishedWork::Detach, None, "it is not detached to the end; `nvstage detach 201`"),
        (
            UnfinishedWork::Uninstall,
            None,
            "it is not detached to the end; `nvstage detach 201 --uninstall`",
        ),
        (
            UnfinishedWork::Purge,
            None,
            "it is not detached to the end; `nvstage detach 201 --purge`",
        ),
    ] {
        let tree = Tree::new();
        tree.container(201, |journal| {
            let driver = driver.map(|version| DriverVersion::parse(version).unwrap());
            journal.unfinished = Some(Unfinished { work, driver, files: Vec::new() });
        });
        let expected = (Drift::Incomplete, format!("incomplete: {expected}"));
        assert_eq!(tree.drift(), expected);
        // The installer's record names the version from its first file on.
        tree.runs(201, Some(MODULE));
        assert_eq!(tree.drift(), expected);
        assert_eq!(one(&tree.status()).driver.is_none(), driver.is_some());
    }
}

#[test]
fn a_template_with_another_driver_is_a_note_and_no_drift() {
    let tree = Tree::new();
    tree.container(201, |journal| {
        journal.driver = Some(DriverVersion::parse("580.76.05").unwrap());
    });
    tree.config(201, &format!("template: 1\n{}\n", lines().join("\n")));
    let found = tree.status();
    assert_eq!((found.exit, one(&found).drift.len()), (ExitCode::Done, 0));
    let note = "a template with driver 580.76.05, which cannot be changed: its clones are provisioned to 580.95.05";
    assert_eq!(one(&found).notes, [note]);
    let shown = text(&found, 200);
    assert!(shown.contains(&format!("\n201: {note}\n")), "{shown}");
    assert!(shown.ends_with("\n1 container, none drifts\n"), "{shown}");
}

#[test]
fn a_shared_driver_is_the_one_that_is_seen_inside_or_that_the_next_start_brings() {
    let tree = Tree::new();
    tree.container(201, share);
    let text = "it gets no driver at its next start: the host shares none; `nvstage sync 201`";
    assert_eq!(tree.drift(), (Drift::Driver, text.to_owned()));
    let driver = "var/lib/nvstage/driver";
    std::fs::create_dir_all(tree.at(&format!("{driver}/580.76.05"))).unwrap();
    symlink("580.76.05/userland", tree.at(&format!("{driver}/current"))).unwrap();
    // An image that is there and not mounted is none.
    let expected = "the image of the shared driver 580.76.05 is not mounted; `nvstage refresh`";
    assert_eq!(tree.status().host, [expected]);
    assert_eq!(tree.drift(), (Drift::Driver, text.to_owned()));
    std::fs::create_dir(tree.at(&format!("{driver}/580.76.05/userland"))).unwrap();
    assert_eq!(tree.status().host, [""; 0]);
    let text = "it gets driver 580.76.05 at its next start, the kernel module is 580.95.05; `nvstage sync 201`";
    assert_eq!(tree.drift(), (Drift::Driver, text.to_owned()));
    tree.runs(201, None);
    let text = "it does not see the host's driver; `nvstage provision 201`";
    assert_eq!(tree.drift(), (Drift::Driver, text.to_owned()));
    let library = format!("{}/usr/lib/nvstage/driver/lib/libnvidia-ml.so", tree.root(201));
    tree.write(&format!("{library}.1"), "");
    tree.write(&format!("{library}.580.76.05"), "");
    let text = "driver 580.76.05, the kernel module is 580.95.05; `nvstage sync 201`";
    assert_eq!(tree.drift(), (Drift::Driver, text.to_owned()));
    std::fs::rename(
        tree.at(&format!("{library}.580.76.05")),
        tree.at(&format!("{library}.580.95.05")),
    )
    .unwrap();
    assert!(one(&tree.status()).drift.is_empty());
}

#[test]
fn lines_that_are_not_there_any_more() {
    let tree = Tree::new();
    tree.container(201, |_| {});
    let others = lines().into_iter().filter(|line| *line != UVM);
    tree.config(201, &others.map(|line| format!("{line}\n")).collect::<String>());
    let text = format!("its configuration lacks `{UVM}`; `nvstage provision 201`");
    assert_eq!(tree.drift(), (Drift::Lines, text));
    tree.config(201, "");
    let text =
        format!("its configuration lacks 6 lines, the first is `{ENTRY}`; `nvstage provision 201`");
    assert_eq!(tree.drift(), (Drift::Lines, text));
    // Passed by Proxmox's own entries they are not needed.
    tree.container(201, |journal| {
        journal.method = Method::Device;
        journal.lines =
            ["nvidia0", "nvidiactl", "nvidia-uvm"].map(|node| line(&device(node))).to_vec();
    });
    assert!(one(&tree.status()).drift.is_empty());
    tree.config(201, &["nvidia0", "nvidiactl"].map(|node| device(node) + "\n").concat());
    let text = "its configuration lacks `/dev/nvidia-uvm`; `nvstage provision 201`";
    assert_eq!(tree.drift(), (Drift::Lines, text.to_owned()));
}

#[test]
fn a_line_that_goes_at_the_next_start_is_told_as_pending() {
    let tree = Tree::new();
    tree.container(201, |journal| {
        journal.method = Method::Device;
        journal.lines =
            ["nvidia0", "nvidiactl", "nvidia-uvm"].map(|node| line(&device(node))).to_vec();
    });
    let path = "etc/pve/lxc/201.conf";
    let config = std::fs::read_to_string(tree.at(path)).unwrap();
    tree.write(path, &format!("{config}\n[pve:pending]\nmemory: 2048\n"));
    assert!(one(&tree.status()).drift.is_empty());
    let text = "after its next start, by what is pending in `[pve:pending]`, its configuration lacks `/dev/nvidiactl`; `nvstage provision 201`";
    for pending in ["delete: dev-nvidiactl", "dev-nvidiactl: /dev/ttyS0"] {
        let pending = pending.replace("dev-nvidiactl", key("nvidiactl"));
        tree.write(path, &format!("{config}\n[pve:pending]\n{pending}\n"));
        assert_eq!(tree.drift(), (Drift::Lines, text.to_owned()), "{pending}");
    }
}

#[test]
fn what_a_configuration_passes_and_cannot_work() {
    let tree = Tree::new();
    let with = |old: &str, new: &str| {
        let text = lines().join("\n").replace(old, new);
        tree.config(201, &text);
        tree.drift()
    };
    let asked = "; `nvstage doctor 201` tells it";
    let line = lines()[1];
    let found = with(line, "");
    let text = format!("a GPU is passed without `/dev/nvidiactl`: CUDA cannot work{asked}");
    assert_eq!(found, (Drift::Devices, text));
    let found = with(line, &format!("  {line}"));
    let why = "Proxmox VE reads no line that begins with a blank";
    assert_eq!(found, (Drift::Devices, format!("`{line}` is ignored: {why}{asked}")));
    let found = with("/dev/nvidiactl", "/dev/nvidactl");
    let edit = "write `/dev/nvidiactl` for `/dev/nvidactl` in line 5 of its configuration";
    let text = format!("`/dev/nvidactl` is no node of NVIDIA's: `/dev/nvidiactl` is one; {edit}");
    assert_eq!(found, (Drift::Devices, text));
    let found = with(RULES[0], &RULES[0].replace("cgroup2", "cgroup"));
    assert!(found.1.starts_with("no device rule allows `/dev/nvidia0` (195:0): "), "{found:?}");
    assert!(found.1.contains("cgroup version 1"), "{found:?}");
}

#[test]
fn the_line_of_a_shared_driver_counts_too() {
    let tree = Tree::new();
    tree.container(201, share);
    let driver = "var/lib/nvstage/driver";
    std::fs::create_dir_all(tree.at(&format!("{driver}/{MODULE}/userland"))).unwrap();
    symlink(format!("{MODULE}/userland"), tree.at(&format!("{driver}/current"))).unwrap();
    assert!(one(&tree.status()).drift.is_empty());
    tree.config(201, &lines().join("\n"));
    let text = format!("its configuration lacks `{TREE}`; `nvstage provision 201`");
    assert_eq!(tree.drift(), (Drift::Lines, text));
}

#[test]
fn numbers_of_another_boot() {
    let tree = Tree::new();
    tree.container(201, |_| {});
    std::fs::remove_file(tree.at("dev/nvidia-uvm")).unwrap();
    make_node(tree.directory.path(), "nvidia-uvm c 509 0");
    let majors = std::fs::read_to_string(tree.at("proc/devices")).unwrap();
    tree.write("proc/devices", &majors.replace("508 nvidia-uvm", "509 nvidia-uvm"));
    let text = "a device rule is outdated: `lxc.cgroup2.devices.allow: c 508:0 rw` should be `lxc.cgroup2.devices.allow: c 509:0 rw`; `nvstage refresh`";
    assert_eq!(tree.drift(), (Drift::Numbers, text.to_owned()));
}

#[test]
fn a_container_that_is_gone_moved_or_another_one_now() {
    let tree = Tree::new();
    tree.container(201, |_| {});
    std::fs::remove_file(tree.at("etc/pve/lxc/201.conf")).unwrap();
    let remedy = "`rm /var/lib/nvstage/containers/201.json`";
    let text = format!("it does not exist, and has a journal; {remedy}");
    assert_eq!(tree.drift(), (Drift::Gone, text));
    assert_eq!(one(&tree.status()).state, State::Gone);
    tree.write("etc/pve/nodes/other/lxc/201.conf", "arch: amd64\n");
    let text = format!("it is on node `other`, and has a journal; {remedy}");
    assert_eq!(tree.drift(), (Drift::Gone, text));
    std::fs::remove_file(tree.at("etc/pve/nodes/other/lxc/201.conf")).unwrap();
    tree.write("etc/pve/lxc/201.conf", "arch: amd64\nrootfs: local:another,size=8G\n");
    let text = format!("its journal is of a container that had its number before; {remedy}");
    assert_eq!(tree.drift(), (Drift::Gone, text));
    let found = tree.status();
    assert_eq!((one(&found).state, one(&found).driver.is_none()), (State::Stopped, true));
}

#[test]
fn a_journal_that_cannot_be_read_is_a_line_and_the_others_go_on() {
    let tree = Tree::new();
    tree.container(201, |_| {});
    tree.container(202, |_| {});
    tree.write("var/lib/nvstage/containers/201.json", "{");
    // A container of somebody else's, whose configuration is a directory.
    std::fs::create_dir(tree.at("etc/pve/lxc/203.conf")).unwrap();
    let found = tree.status();
    let kinds: Vec<Vec<Drift>> = found
        .containers
        .iter()
        .map(|status| status.drift.iter().map(|drift| drift.kind).collect())
        .collect();
    assert_eq!(kinds, [vec![Drift::Journal], vec![], vec![Drift::Configuration]]);
    let shown = text(&found, 80);
    assert!(shown.contains("201.json"), "{shown}");
    assert!(shown.contains("remedy: move it away"), "{shown}");
}

#[test]
fn a_container_of_somebody_elses_is_shown_for_its_gpu() {
    let tree = Tree::new();
    tree.config(201, &lines().join("\n"));
    tree.config(202, "");
    let found = tree.status();
    let container = one(&found);
    assert_eq!((container.method, container.driver.is_none()), (None, true));
    assert_eq!((container.gpus.len(), container.drift.len()), (1, 0));
    // It does not work, whoever made it.
    tree.runs(201, Some("580.76.05"));
    let text = "driver 580.76.05, the kernel module is 580.95.05; \
                `nvstage provision 201 --gpus 0 --recipe driver-only`";
    assert_eq!(tree.drift(), (Drift::Driver, text.to_owned()));
}

#[test]
fn a_container_without_its_gpus_does_not_drift() {
    let tree = Tree::new();
    tree.container(201, |journal| {
        journal.state = Passing::Detached;
        journal.driver = Some(DriverVersion::parse("570.207").unwrap());
    });
    tree.config(201, "");
    let found = tree.status();
    assert!(one(&found).drift.is_empty(), "{:?}", one(&found).drift);
    assert!(one(&found).gpus.is_empty());
}

#[test]
fn without_a_kernel_module_the_host_drifts() {
    let tree = Tree::new();
    tree.container(201, |_| {});
    std::fs::remove_dir_all(tree.at("proc/driver")).unwrap();
    let found = tree.status();
    assert_eq!(found.exit, ExitCode::Differs);
    assert_eq!(found.host, ["no kernel module of NVIDIA is loaded: no container can use a GPU"]);
    assert!(one(&found).drift.is_empty());
    // One that cannot be read is told of, and the rest all the same.
    let tree = Tree::new();
    tree.container(201, |_| {});
    tree.write("proc/driver/nvidia/version", "nonsense\n");
    let found = tree.status();
    assert_eq!((found.exit, found.host.len()), (ExitCode::Differs, 1));
    assert!(found.host[0].contains("proc/driver/nvidia/version"), "{:?}", found.host);
}

#[test]
fn names_choose_and_unknown_ones_are_refused() {
    let tree = Tree::new();
    tree.container(201, |_| {});
    tree.container(202, |_| {});
    tree.config(203, "");
    let look = |containers: &[&str]| tree.seen_by(LxcInfo(None), &checking(containers));
    let names = |found: Status| -> Vec<String> {
        found.containers.iter().map(|status| status.container.to_string()).collect()
    };
    assert_eq!(names(look(&["203", "201"]).unwrap()), ["201", "203"]);
    assert_eq!(names(look(&[]).unwrap()), ["201", "202"]);
    // One that is not there is told of, and the others are shown.
    let found = look(&["201-203", "999"]).unwrap();
    assert_eq!((found.exit, found.containers.len()), (ExitCode::NotFound, 3));
    for bad in ["../x", "203-201"] {
        assert_eq!(look(&[bad]).unwrap_err().code(), ExitCode::Input, "{bad}");
    }
    // Without the option a drift is no failure.
    std::fs::remove_file(tree.at("etc/pve/lxc/201.conf")).unwrap();
    let arguments = Arguments { check: false, ..checking(&[]) };
    let found = tree.seen_by(LxcInfo(None), &arguments).unwrap();
    assert_eq!((found.exit, found.containers.len()), (ExitCode::Done, 2));
}

/// A tree with containers of every kind.
fn of_every_kind() -> Tree {
    let tree = Tree::new();
    tree.container(201, |_| {});
    tree.runs(201, Some(MODULE));
    tree.write(&format!("{}/usr/local/cuda-12.8/bin/nvcc", tree.root(201)), "");
    tree.container(202, |journal| {
        journal.driver = Some(DriverVersion::parse("580.76.05").unwrap());
        journal.last_run.as_mut().unwrap().exit = 5;
    });
    tree.container(203, share);
    std::fs::create_dir_all(tree.at(&format!("var/lib/nvstage/driver/{MODULE}/userland"))).unwrap();
    symlink(format!("{MODULE}/userland"), tree.at("var/lib/nvstage/driver/current")).unwrap();
    tree.container(204, |journal| {
        share(journal);
        journal.cuda = CudaMethod::Share;
        journal.cuda_image = Some("13.0-0123456789ab".to_owned());
        journal.packages.clear();
    });
    tree.config(204, &format!("template: 1\n{}\n{TREE}\n", lines().join("\n")));
    tree.container(205, |_| {});
    std::fs::remove_file(tree.at("etc/pve/lxc/205.conf")).unwrap();
    tree.config(206, &lines().join("\n"));
    tree
}

#[test]
fn eighty_columns_of_containers_of_every_kind() {
    let tree = of_every_kind();
    let shown = text(&tree.status(), 80).replace(tree.directory.path().to_str().unwrap(), "");
    let expected = "\
kernel module 580.95.05, shared driver 580.95.05

 CT   state     method     driver      CUDA   GPUs    last run     drift
 201  running   installer  580.95.05   12.8   0 (+3)  2026-11-28   -
 202  stopped   installer  580.76.05*  12.8*  0 (+3)  2026-11-28   driver
                                                      exit code 5
 203  stopped   share      580.95.05*  12.8*  0 (+3)  2026-11-28   -
 204  template  share      580.95.05*  13.0*  0       2026-11-28   -
 205  gone      installer  -           -      -       2026-11-28   gone
 206  stopped   -          -           -      0 (+3)  -            -
* not seen inside: as nvstage left it, or as the next start brings it
+ with so many other containers

202: driver 580.76.05, the kernel module is 580.95.05
  remedy: `nvstage sync 202`
205: it does not exist, and has a journal
  remedy: `rm /var/lib/nvstage/containers/205.json`

6 containers, 2 drift
";
    assert_eq!(shown, expected);
}

#[test]
fn forty_columns_of_containers_of_every_kind() {
    let tree = of_every_kind();
    let shown = text(&tree.status(), 40).replace(tree.directory.path().to_str().unwrap(), "");
    for line in shown.lines() {
        // A path is whole, and a command can be pasted.
        let is_whole = line.trim_start().starts_with(['`']) || line.starts_with("  remedy: ");
        assert!(line.len() <= 40 || is_whole, "{line:?}\n{shown}");
    }
    assert!(shown.contains("\n201 running installer 580.95.05 12.8 0"), "{shown}");
}

#[test]
fn a_hundred_running_containers_take_less_than_a_second() {
    let tree = Tree::new();
    for ctid in 101..201 {
        tree.container(ctid, |_| {});
        tree.runs(ctid, Some(if ctid == 150 { "580.76.05" } else { MODULE }));
    }
    // Nanoseconds on a processor (`proc_pid_schedstat(5)`): user and system together.
    let spent = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    };
    let (began, before) = (Instant::now(), spent());
    let found = tree.status();
    let (took, spent) = (began.elapsed(), spent() - before);
    println!("100 running containers: {took:?}, of that {spent:?} of the processor");
    assert_eq!(found.containers.len(), 100);
    let drifting = found.containers.iter().filter(|status| !status.drift.is_empty());
    assert_eq!(drifting.map(|status| status.container.as_str()).collect::<Vec<_>>(), ["150"]);
    assert!(spent < Duration::from_secs(1), "{spent:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(one_of(&found, "101").shared_with.len(), 99);
}

fn one_of<'a>(found: &'a Status, ctid: &str) -> &'a ContainerStatus {
    found.containers.iter().find(|status| status.container.as_str() == ctid).unwrap()
}

/// A host with a container that runs, one that was stopped, and a template, all provisioned.
struct Provisioned {
    host: Host,
    running: String,
    stopped: String,
    template: String,
}

fn provisioned(kind: Kind) -> Provisioned {
    let (host, site) = (Host::new(kind, Nodes::Answering(VERSION)), Site::new());
    let made = [(); 3].map(|()| host.container("privileged", &[]));
    let recipe = site.driver_only();
    let arguments =
        ["provision", "--start", &made[0], &made[1], &made[2], "--gpus", "0", "--recipe", &recipe];
    host.run(&arguments).code(0);
    let [running, stopped, template] = made;
    for ctid in [&stopped, &template] {
        host.shell(&format!("lxc-stop -k -n {ctid}")).code(0);
    }
    if kind == Kind::Pct {
        host.shell(&format!("pct template {template}")).code(0);
    }
    Provisioned { host, running, stopped, template }
}

fn seen(report: &serde_json::Value, ctid: &str) -> serde_json::Value {
    let containers = report["containers"].as_array().unwrap();
    containers.iter().find(|container| container["container"] == ctid).unwrap().clone()
}

#[test]
fn real_containers_that_run_are_stopped_or_are_templates() {
    let Provisioned { host, running, stopped, template } = provisioned(Kind::Pct);
    host.pct_calls();
    let report = host.run(&["--json", "status", "--check"]).code(0).json();
    for (ctid, state, source) in [
        (&running, "running", "inside"),
        (&stopped, "stopped", "journal"),
        (&template, "template", "journal"),
    ] {
        let seen = seen(&report, ctid);
        assert_eq!(seen["state"], state, "{seen:#}");
        let driver = serde_json::json!({ "version": VERSION, "source": source });
        assert_eq!(seen["driver"], driver, "{seen:#}");
        assert_eq!(seen["drift"], serde_json::json!([]), "{seen:#}");
        assert_eq!(seen["gpus"][0]["index"], 0, "{seen:#}");
    }
    assert_eq!(host.pct_calls(), Vec::<String>::new());
    // The host's driver is another one: all three differ, and a template cannot be changed.
    host.load_module("580.95.05");
    let run = host.run(&["status", "--check"]).code(10);
    let text = "driver 580.76.05, the kernel module is 580.95.05\n  remedy: `nvstage sync";
    for ctid in [&running, &stopped] {
        assert!(run.stdout.contains(&format!("\n{ctid}: {text} {ctid}`\n")), "{}", run.stdout);
    }
    let note = "a template with driver 580.76.05, which cannot be changed:";
    assert!(run.stdout.contains(&format!("\n{template}: {note}")), "{}", run.stdout);
    assert!(run.stdout.ends_with("\n3 containers, 2 drift\n"), "{}", run.stdout);
    host.run(&["status"]).code(0);
    host.run(&["status", "999999"]).code(3).says("failed to find it");
}

#[test]
fn a_real_shared_driver_is_the_one_that_the_container_started_with() {
    let (host, site) = (Host::new(Kind::Pct, Nodes::Silent), Site::new());
    host.load_module(VERSION);
    let made = ["privileged", "unprivileged"].map(|privilege| host.container(privilege, &[]));
    let recipe = site.driver_only();
    let arguments =
        ["provision", "--start", &made[0], &made[1], "--gpus", "0", "--recipe", &recipe];
    host.run(&[&arguments[..], &["--method", "share"]].concat()).code(0);
    host.shell(&format!("lxc-stop -k -n {}", made[1])).code(0);
    let drivers = || -> Vec<serde_json::Value> {
        let report = host.run(&["--json", "status"]).code(0).json();
        made.iter().map(|ctid| seen(&report, ctid)["driver"].clone()).collect()
    };
    let driver = |version, source| serde_json::json!({ "version": version, "source": source });
    assert_eq!(drivers(), [driver(VERSION, "inside"), driver(VERSION, "host")]);
    host.run(&["status", "--check"]).code(0);
    // The host's is another one now, and `current` follows; who runs keeps what it has.
    let next = "580.95.05";
    host.load_module(next);
    let prefetch = ["prefetch", "--recipe", &recipe, "--set", &format!("driver={next}")];
    host.run(&prefetch).code(0);
    host.run(&["refresh"]);
    assert_eq!(drivers(), [driver(VERSION, "inside"), driver(next, "host")]);
    let run = host.run(&["status", "--check"]).code(10);
    let text = format!("{}: driver {VERSION}, the kernel module is {next}\n  remedy:", made[0]);
    assert!(run.stdout.contains(&text), "{}", run.stdout);
    assert!(run.stdout.ends_with("\n2 containers, 1 drifts\n"), "{}", run.stdout);
}

#[test]
fn no_lxc_info_is_needed_for_real_containers() {
    for kind in [Kind::Pct, Kind::Lxc] {
        let Provisioned { host, running, stopped, template: _ } = provisioned(kind);
        let marks = host.path("/run/lxc-info-calls");
        std::fs::write(&marks, "").unwrap();
        let front = host.directory.path().join("lxc-info");
        std::fs::write(&front, "#!/bin/sh\necho \"$@\" >> /run/lxc-info-calls\nexit 1\n").unwrap();
        std::fs::set_permissions(&front, std::fs::Permissions::from_mode(0o755)).unwrap();
        host.shell(&format!("mount --bind {} /usr/bin/lxc-info", front.display())).code(0);
        let report = host.run(&["--json", "status"]).code(0).json();
        host.shell("umount /usr/bin/lxc-info").code(0);
        assert_eq!(seen(&report, &running)["state"], "running", "{kind:?}");
        assert_eq!(seen(&report, &running)["driver"]["source"], "inside", "{kind:?}");
        assert_eq!(seen(&report, &stopped)["state"], "stopped", "{kind:?}");
        assert_eq!(std::fs::read_to_string(&marks).unwrap(), "", "{kind:?}");
    }
}

#[test]
fn the_program_takes_less_than_a_second_for_a_hundred_containers() {
    let host = Host::new(Kind::Pct, Nodes::Silent);
    std::fs::create_dir_all(host.path("/var/lib/nvstage/containers")).unwrap();
    for ctid in 101..201_u32 {
        let journal = journal(ctid);
        let lines = lines().join("\n");
        let text = format!("arch: amd64\nrootfs: local:subvol-{ctid},size=8G\n{lines}\n");
        std::fs::write(host.path(&format!("/etc/pve/lxc/{ctid}.conf")), text).unwrap();
        let path = host.path(&format!("/var/lib/nvstage/containers/{ctid}.json"));
        std::fs::write(path, journal.to_text()).unwrap();
    }
    let usage = host.directory.path().join("usage");
    let mut command = host.command("bash");
    let script = "TIMEFORMAT='%R %U %S'; { time \"$1\" status > /dev/null 2>&1 ; } 2> \"$2\"";
    command.args(["-c", script, "bash", env!("CARGO_BIN_EXE_nvstage")]).arg(&usage);
    let best = (0..3)
        .map(|_| {
            assert!(command.status().unwrap().success());
            let text = std::fs::read_to_string(&usage).unwrap();
            let times: Vec<f64> =
                text.split_whitespace().map(|number| number.parse().unwrap()).collect();
            println!(
                "100 stopped containers: {} s, user {} s, system {} s",
                times[0], times[1], times[2]
            );
            times[1] + times[2]
        })
        .fold(f64::INFINITY, f64::min);
    assert!(best < 1.0, "{best} s of the processor");
    assert_eq!(
        host.run(&["--json", "status"]).code(0).json()["containers"].as_array().unwrap().len(),
        100
    );
}
