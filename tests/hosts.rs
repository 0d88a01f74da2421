//! Hosts as they are found: every directory of `tests/hosts` is the tree of one, with what nvstage
//! says of it in `expected`.
//!
//! `gpus.txt` and `gpus.json` are what `nvstage gpus` prints, `doctor.txt` what `nvstage doctor`
//! does, where no container runs; `plan.txt` is the edit of every
//! container's configuration, for each assignment in `<CTID>.assign` beside it, or `all`. With
//! `UPDATE_GOLDENS=1` the files are written anew; look at each of them then.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

#[path = "support/host_tree.rs"]
mod host_tree;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use host_tree::{HostTree, make_node};
use nvstage::cmd::{Context, RuntimeArgument, doctor, gpus};
use nvstage::container::config::{Dialect, LxcConfig};
use nvstage::container::passthrough::{DeviceNode, DriverLines, Method, Users, Wanted, edit};
use nvstage::ctid::Ctid;
use nvstage::diff;
use nvstage::doctor::{Diagnosis, Remedy};
use nvstage::engine::sharing;
use nvstage::error::{ExitCode, Result};
use nvstage::event::{Event, Events};
use nvstage::gpu::{Assigned, GpuAssignment};
use nvstage::host::Host;
use nvstage::host::cancel::Cancel;
use nvstage::host::devices::{Inventory, nodes_for};
use nvstage::host::paths::Paths;
use nvstage::host::process::{Command, Ended, Finished, Processes};
use nvstage::host::runlog::RunLog;
use nvstage::printer;
use nvstage::runtime::{Choice, choose};

/// Keeps the warnings.
#[derive(Debug, Default)]
struct Heard(Mutex<Vec<String>>);

impl Events for Heard {
    fn emit(&self, event: Event) {
        let Event::Warning { text } = event else { return };
        self.0.lock().unwrap().push(text);
    }
}

/// A machine on which no container runs, and nothing else is asked.
struct NothingRuns;

impl Processes for NothingRuns {
    fn run(&self, command: Command, _: &RunLog) -> Result<Finished> {
        panic!("{command} was run");
    }

    fn run_regardless(&self, command: Command, _: &RunLog) -> Result<Finished> {
        assert_eq!(command.program, Path::new("lxc-info"));
        // As lxc-info answers for a container that is stopped.
        let (stdout, stderr) = (Vec::new(), Vec::new());
        Ok(Finished { ended: Ended::Exited(0), stdout, stderr, took: Duration::ZERO })
    }
}

fn host(paths: &Paths) -> Host {
    let cancel = Cancel::never().unwrap();
    Host { paths: paths.clone(), processes: Box::new(NothingRuns), cancel }
}

/// What `nvstage gpus` does on a host, and the warnings that it gives.
fn looked(paths: &Paths) -> (Result<gpus::Gpus>, Vec<String>) {
    let (host, events) = (host(paths), Heard::default());
    let context = Context {
        host: &host,
        events: &events,
        confirm: &nvstage::cmd::Unasked,
        run: "test".to_owned(),
    };
    let found = gpus::run(&context, &gpus::Arguments { runtime: RuntimeArgument::Auto });
    (found, events.0.into_inner().unwrap())
}

/// What `nvstage doctor` does on a host, and the warnings that it gives.
fn examined(paths: &Paths, containers: &[&str]) -> (Result<doctor::Examined>, Vec<String>) {
    let (host, events) = (host(paths), Heard::default());
    let context = Context {
        host: &host,
        events: &events,
        confirm: &nvstage::cmd::Unasked,
        run: "test".to_owned(),
    };
    let containers = containers.iter().map(|ctid| (*ctid).to_owned()).collect();
    let runtime = RuntimeArgument::Auto;
    let found = doctor::run(&context, &doctor::Arguments { containers, runtime });
    (found, events.0.into_inner().unwrap())
}

/// The nodes of an assignment on this host.
fn resolved(paths: &Paths, assignment: &str) -> Result<(Vec<Assigned>, Vec<DeviceNode>)> {
    let inventory = Inventory::read(paths)?;
    let assigned = GpuAssignment::parse(assignment)?.resolve(&inventory.gpus, &inventory.pci)?;
    let nodes = match assigned.is_empty() {
        true => Vec::new(),
        false => nodes_for(paths, &inventory, &assigned)?,
    };
    Ok((assigned, nodes))
}

/// The difference that an assignment makes to a container's configuration, and the report.
fn planned(paths: &Paths, ctid: &Ctid, assignment: &str) -> Result<String> {
    let (assigned, nodes) = resolved(paths, assignment)?;
    let host = host(paths);
    let runtime = choose(&host, Choice::Auto)?;
    let old = std::fs::read(runtime.locate(ctid)?).unwrap();
    let majors = Inventory::read(paths)?.majors.into_values().collect();
    let (method, users) = (Method::Mount, Users::Everybody);
    let driver_lines = DriverLines::default();
    let (trees, own) = (&[], &[]);
    let wanted = Wanted { nodes: &nodes, method, users, majors: &majors, trees, own, driver_lines };
    let edit = edit(&LxcConfig::parse(&old, Dialect::Proxmox), &wanted)?;
    let shares = sharing::shares(&*runtime, &Inventory::read(paths)?)?;
    let mut text = String::new();
    for line in &edit.foreign {
        writeln!(text, "kept {}: {}\n   why: {}", line.number, line.text, line.why).unwrap();
    }
    if let Some(others) = sharing::others(&shares, ctid, &assigned) {
        writeln!(text, "shared: {others}").unwrap();
    }
    match edit.changed() {
        true => text.push_str(&diff::unified(
            &format!("/etc/pve/lxc/{ctid}.conf"),
            &old,
            &edit.config.to_bytes(),
        )),
        false => text.push_str("unchanged\n"),
    }
    Ok(text)
}

fn plans(paths: &Paths) -> String {
    let host = host(paths);
    let Ok(runtime) = choose(&host, Choice::Auto) else { return String::new() };
    let mut text = String::new();
    for ctid in runtime.containers().unwrap() {
        let assignments = runtime.locate(&ctid).unwrap().with_extension("assign");
        let assignments = std::fs::read_to_string(assignments).unwrap_or("all\n".to_owned());
        for assignment in assignments.lines() {
            let plan = planned(paths, &ctid, assignment).unwrap_or_else(|error| {
                let code = error.code().code();
                format!("error: {error}\nexit code {code}\n")
            });
            writeln!(text, "=== {ctid} --gpus {assignment}\n{plan}").unwrap();
        }
    }
    text
}

/// Everything that nvstage says of a host: the names of the files, and their content.
fn said(root: &Path, paths: &Paths) -> Vec<(&'static str, String)> {
    let (found, warnings) = looked(paths);
    let gpus = printed(&found, &warnings, |found| printer::gpus::text(found, 80));
    let json = found.map(|found| serde_json::to_string_pretty(&found).unwrap() + "\n");
    let root = root.to_string_lossy().into_owned();
    let (mut found, warnings) = examined(paths, &[]);
    if let Ok(found) = &mut found {
        without_root(&mut found.diagnosis, &root);
    }
    let doctor = printed(&found, &warnings, |found| printer::doctor::text(&found.diagnosis, 80));
    [
        ("gpus.txt", gpus),
        ("gpus.json", json.unwrap_or_default()),
        ("doctor.txt", doctor),
        ("plan.txt", plans(paths)),
    ]
    .map(|(name, text)| (name, text.replace(&root, "")))
    .into()
}

/// Lines break where they do on a host that lies at `/`.
fn without_root(diagnosis: &mut Diagnosis, root: &str) {
    for finding in &mut diagnosis.findings {
        finding.finding = finding.finding.replace(root, "");
        if let Some(Remedy::Command(text) | Remedy::Advice(text)) = &mut finding.remedy {
            *text = text.replace(root, "");
        }
    }
}

/// A result as text, or the error, and the warnings after it.
fn printed<T>(found: &Result<T>, warnings: &[String], text: impl Fn(&T) -> String) -> String {
    let mut shown = match found {
        Ok(found) => text(found),
        Err(error) => format!("error: {error}\nexit code {}\n", error.code().code()),
    };
    for warning in warnings {
        writeln!(shown, "warning: {warning}").unwrap();
    }
    shown
}

#[test]
fn every_host_is_seen_as_expected() {
    let names = HostTree::names();
    assert!(names.len() >= 10, "only {names:?} were found");
    let update = std::env::var_os("UPDATE_GOLDENS").is_some();
    let mut problems = Vec::new();
    for name in names {
        let (root, paths) = HostTree::load(&name);
        let expected = HostTree::directory().join(&name).join("expected");
        for (file, actual) in said(root.path(), &paths) {
            let path = expected.join(file);
            if update {
                std::fs::create_dir_all(&expected).unwrap();
                match actual.is_empty() {
                    true => drop(std::fs::remove_file(&path)),
                    false => std::fs::write(&path, &actual).unwrap(),
                }
            } else if std::fs::read_to_string(&path).unwrap_or_default() != actual {
                problems.push(format!("{name}/{file} is really:\n{actual}"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn what_is_printed_fits_80_columns() {
    for name in HostTree::names() {
        let (_root, paths) = HostTree::load(&name);
        let gpus = looked(&paths).0.map(|found| printer::gpus::text(&found, 80));
        let doctor = examined(&paths, &[]).0;
        let doctor = doctor.map(|found| printer::doctor::text(&found.diagnosis, 80));
        let text = gpus.unwrap_or_default() + &doctor.unwrap_or_default();
        // A command stays in one piece, and what is one word cannot be broken.
        let is_whole = |line: &str| line.starts_with("  remedy: ") || !line.trim().contains(' ');
        for line in text.lines().filter(|line| !is_whole(line)) {
            assert!(line.chars().count() <= 80, "{name}: {line}");
        }
    }
}

#[test]
fn without_a_runtime_the_host_alone_is_examined_and_a_named_container_is_an_error() {
    let (_root, paths) = HostTree::load("no-driver");
    let (found, warnings) = examined(&paths, &[]);
    let diagnosis = found.unwrap().diagnosis;
    assert!(diagnosis.findings.is_empty() && !diagnosis.checks.is_empty());
    assert!(warnings[0].starts_with("no container was looked at: "), "{warnings:?}");
    assert_eq!(examined(&paths, &["201"]).0.unwrap_err().code(), ExitCode::Host);
}

#[test]
fn a_template_is_examined_when_it_is_named() {
    let (_root, paths) = HostTree::load("single-open");
    let looked_at = |ctids: &[&str]| {
        let checks = examined(&paths, ctids).0.unwrap().diagnosis.checks;
        checks.iter().any(|made| made.container.as_ref().is_some_and(|c| c.as_str() == "9000"))
    };
    assert!(!looked_at(&[]));
    assert!(looked_at(&["9000"]));
}

#[test]
fn nodes_are_seen_with_numbers_and_modes() {
    let (_root, paths) = HostTree::load("mig-on");
    let nodes = Inventory::read(&paths).unwrap().nodes;
    let seen = |path: &str| {
        let node = nodes.iter().find(|node| node.path == path).unwrap();
        (node.number, node.mode)
    };
    assert_eq!(seen("/dev/nvidia0"), ((195, 0), 0o666));
    assert_eq!(seen("/dev/nvidia-caps/nvidia-cap1"), ((511, 1), 0o400));
    assert_eq!(seen("/dev/nvidia-caps/nvidia-cap148"), ((511, 148), 0o444));
    assert_eq!(nodes.len(), 13);
}

#[test]
fn without_a_driver_in_proc_devices_no_node_is_out_of_date() {
    let (root, paths) = HostTree::load("stale-node");
    std::fs::write(root.path().join("proc/devices"), "Character devices:\n  1 mem\n").unwrap();
    assert_eq!(resolved(&paths, "all").unwrap().1.len(), 6);
}

#[test]
fn a_uvm_node_without_its_module_is_a_host_error() {
    let (root, paths) = HostTree::load("uvm-missing");
    make_node(root.path(), "nvidia-uvm c 508 0");
    make_node(root.path(), "nvidia-uvm-tools c 508 1");
    let error = resolved(&paths, "all").unwrap_err();
    assert_eq!(error.code(), ExitCode::Host);
    assert!(error.causes()[0].contains("the module `nvidia-uvm` is not loaded"), "{error}");
    assert!(error.hints()[0].contains("nvstage refresh"), "{error}");
}

#[test]
fn a_capability_node_with_an_old_major_is_a_host_error() {
    for assignment in ["all", "MIG-GPU-5c9e2b74-1a6d-4e80-b3f7-9d0c8e5a7101/2/1"] {
        let (root, paths) = HostTree::load("mig-on");
        std::fs::remove_file(root.path().join("dev/nvidia-caps/nvidia-cap158")).unwrap();
        make_node(root.path(), "nvidia-caps/nvidia-cap158 c 236 158");
        let error = resolved(&paths, assignment).unwrap_err();
        assert_eq!(error.code(), ExitCode::Host);
        assert!(error.causes()[0].contains("has major 236, its driver 511"), "{error}");
    }
}

#[test]
fn a_missing_node_of_an_instance_is_a_host_error_that_names_it() {
    let (root, paths) = HostTree::load("mig-on");
    std::fs::remove_file(root.path().join("dev/nvidia-caps/nvidia-cap147")).unwrap();
    let error = resolved(&paths, "MIG-GPU-5c9e2b74-1a6d-4e80-b3f7-9d0c8e5a7101/1/0").unwrap_err();
    assert_eq!(error.code(), ExitCode::Host);
    assert!(error.what().contains("`/dev/nvidia-caps/nvidia-cap147`"), "{error}");
}

#[test]
fn a_gpu_that_falls_off_the_bus_leaves_an_error_that_names_it() {
    let (root, paths) = HostTree::load("four-minors-out-of-order");
    let gpu = root.path().join("proc/driver/nvidia/gpus/0000:81:00.0/information");
    std::fs::write(&gpu, "").unwrap();
    let error = looked(&paths).0.unwrap_err();
    assert_eq!(error.code(), ExitCode::Host);
    assert!(error.what().contains("GPU `0000:81:00.0`"), "{error}");
}

#[test]
fn without_the_cluster_file_system_the_gpus_are_shown_and_a_warning_says_why_no_containers() {
    let (root, paths) = HostTree::load("vfio-bound");
    std::fs::remove_dir_all(root.path().join("etc/pve")).unwrap();
    std::fs::create_dir(root.path().join("etc/pve")).unwrap();
    let (found, warnings) = looked(&paths);
    let found = found.unwrap();
    assert_eq!((found.gpus.len(), found.containers), (2, None));
    assert!(warnings[0].contains("the cluster file system is not mounted"), "{warnings:?}");
}

#[test]
fn a_container_shares_with_those_whose_instances_it_gets() {
    let (_root, paths) = HostTree::load("mig-on");
    let host = host(&paths);
    let runtime = choose(&host, Choice::Auto).unwrap();
    let shares = sharing::shares(&*runtime, &Inventory::read(&paths).unwrap()).unwrap();
    let others = |ctid: &str, assignment: &str| {
        let assigned = resolved(&paths, assignment).unwrap().0;
        sharing::others(&shares, &Ctid::parse(ctid).unwrap(), &assigned)
    };
    let instance = |place: &str| format!("MIG-GPU-5c9e2b74-1a6d-4e80-b3f7-9d0c8e5a7101/{place}");
    assert_eq!(others("201", &instance("1/0")).as_deref(), Some("GPU 0 also with 202, 203"));
    assert_eq!(others("201", &instance("2/0")).as_deref(), Some("GPU 0 also with 203"));
    assert_eq!(others("202", "0").as_deref(), Some("GPU 0 also with 203, 204"));
    assert_eq!(others("201", "1"), None);
}
