//! The contract of the Phoenix Hypervisor's script: variables, exit codes, log lines.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::process::Command;

use support::{Host, Kind, Nodes, Run, Site, VERSION};

const NAME: &str = "phoenix_hypervisor_lxc_common_nvidia.sh";

/// The program under the script's name, as the orchestrator calls it.
fn script(host: &Host) -> Command {
    let link = host.directory.path().join(NAME);
    if !link.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_nvstage"), &link).unwrap();
    }
    let mut command = host.command(&link);
    for name in ["GPU_ASSIGNMENT", "NVIDIA_DRIVER_VERSION", "NVIDIA_REPO_URL", "NVIDIA_RUNFILE_URL"]
    {
        command.env_remove(name);
    }
    command
}

fn variables(gpus: &str) -> [(&'static str, &str); 4] {
    [
        ("GPU_ASSIGNMENT", gpus),
        ("NVIDIA_DRIVER_VERSION", VERSION),
        ("NVIDIA_REPO_URL", "http://10.99.0.1:1/cuda/repos/debian12/x86_64/"),
        ("NVIDIA_RUNFILE_URL", "http://10.99.0.1:1/NVIDIA-Linux-x86_64-580.76.05.run"),
    ]
}

fn is_log_line(line: &str) -> bool {
    let bytes = line.as_bytes();
    let shape = b"dddd-dd-dd dd:dd:dd [";
    line.len() > shape.len()
        && shape
            .iter()
            .zip(bytes)
            .all(|(s, b)| if *s == b'd' { b.is_ascii_digit() } else { s == b })
        && (line[20..].starts_with("[INFO] ") || line[20..].starts_with("[ERROR] "))
        && line.contains(&format!("] {NAME}: "))
}

#[test]
fn no_gpu_is_success_and_every_line_is_in_the_log() {
    let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
    let ctid = host.container("privileged", &[]);
    let run: Run = script(&host).arg(&ctid).envs(variables("none")).output().unwrap().into();
    let run = run.code(0);
    assert!(run.stdout.lines().all(is_log_line), "{}", run.stdout);
    assert!(run.stdout.trim_end().ends_with("completed successfully"), "{}", run.stdout);
    assert_eq!(host.shell("cat /var/log/phoenix_hypervisor.log").stdout, run.stdout);
}

#[test]
fn invalid_input_is_two() {
    let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
    let ctid = host.container("privileged", &[]);
    for arguments in [&[][..], &["0"], &["-5"], &["abc"], &["2.5"]] {
        let run: Run = script(&host).args(arguments).envs(variables("0")).output().unwrap().into();
        let run = run.code(2);
        assert!(run.stderr.lines().all(is_log_line), "{}", run.stderr);
        assert!(run.stderr.trim_end().ends_with("failed with exit code 2"), "{}", run.stderr);
    }
    for (name, _) in variables("0") {
        let run: Run =
            script(&host).arg(&ctid).envs(variables("0")).env_remove(name).output().unwrap().into();
        run.code(2).says(name);
        let run: Run =
            script(&host).arg(&ctid).envs(variables("0")).env(name, "").output().unwrap().into();
        run.code(2).says(name);
    }
    for gpus in ["0,,1", "x", "-1"] {
        let run: Run = script(&host).arg(&ctid).envs(variables(gpus)).output().unwrap().into();
        run.code(2);
    }
}

#[test]
fn the_other_exit_codes() {
    let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
    let ctid = host.container("privileged", &[]);
    let run: Run = script(&host).arg("999999").envs(variables("0")).output().unwrap().into();
    run.code(3);
    let mut other = script(&host);
    other.arg(&ctid).envs(variables("0")).env("NVIDIA_DRIVER_VERSION", "580.95.05");
    other.env("NVIDIA_RUNFILE_URL", "http://10.99.0.1:1/NVIDIA-Linux-x86_64-580.95.05.run");
    let run: Run = other.output().unwrap().into();
    run.code(4).says("kernel module is 580.76.05");
    // Nothing listens there: the download fails. The shipped recipe pins NVIDIA's own digest.
    let run: Run = script(&host).arg(&ctid).envs(variables("0")).output().unwrap().into();
    run.code(5).says("NVIDIA-Linux-x86_64-580.76.05.run");
}

#[test]
fn a_whole_installation_and_the_same_again() {
    let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
    let site = Site::new();
    let ctid = host.container("unprivileged", &[&site.distribution()]);
    // The administrator's own recipe under the default's name pins the stand-ins.
    host.shell("mkdir -p /etc/nvstage/recipes").code(0);
    let own = host.path("/etc/nvstage/recipes/cuda-12-8.toml");
    std::fs::copy(site.recipe(), own).unwrap();
    let call = || -> Run {
        let mut command = script(&host);
        command.arg(&ctid).envs(variables("0")).env("NVIDIA_REPO_URL", site.server.url("/cuda/"));
        let run = site.server.url("/installer/NVIDIA-Linux-x86_64-580.76.05.run");
        command.env("NVIDIA_RUNFILE_URL", run).output().unwrap().into()
    };
    let run = call().code(0);
    assert!(run.stdout.lines().all(is_log_line), "{}", run.stdout);
    for text in [
        "added `lxc.mount.entry: /dev/nvidia0 dev/nvidia0",
        "running NVIDIA-Linux-x86_64-580.76.05.run inside",
        "nvidia-smi: status 0",
        "Driver Version: 580.76.05",
    ] {
        assert!(run.stdout.contains(text), "the log lacks {text:?}:\n{}", run.stdout);
    }
    assert!(run.stdout.trim_end().ends_with("completed successfully"), "{}", run.stdout);
    let init = host.init(&ctid);
    call().code(0).shows("driver: unchanged");
    assert_eq!(host.init(&ctid), init);
}

#[test]
fn the_verb_is_the_same_as_the_name() {
    let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
    let ctid = host.container("privileged", &[]);
    let run: Run =
        host.nvstage().args(["phoenix", &ctid]).envs(variables("none")).output().unwrap().into();
    run.code(0).shows("completed successfully");
}

#[test]
fn the_configuration_file_gives_containers_versions_and_assignments() {
    let host = Host::new(Kind::Pct, Nodes::Answering(VERSION));
    let site = Site::new();
    let one = host.container("unprivileged", &[]);
    let two = host.container("privileged", &[]);
    let three = host.container("privileged", &[]);
    let configs = host.directory.path().join("phoenix_lxc_configs.json");
    let text = format!(
        r#"{{"$schema": "x", "nvidia_driver_version": "580.76.05", "unknown": [1],
            "nvidia_repo_url": "http://10.99.0.1:1/cuda/repos/debian12/x86_64/",
            "lxc_configs": {{
              "{one}": {{"name": "a", "gpu_assignment": "0, 1", "unprivileged": true, "features": "nesting=1,keyctl=1"}},
              "{two}": {{"name": "b", "gpu_assignment": "1", "features": ["nvidia", "vllm"], "is_template": false}},
              "{three}": {{"name": "c", "gpu_assignment": "none", "lxc_options": []}}
            }}}}"#
    );
    std::fs::write(&configs, text).unwrap();
    let (configs, recipe) = (configs.to_str().unwrap(), site.driver_only());
    let arguments = ["provision", "--from", configs, "--recipe", &recipe];
    host.run(&arguments).code(0).shows("no GPU is assigned");
    assert!(
        host.config(&one).contains("dev/nvidia0 ") && host.config(&one).contains("dev/nvidia1 ")
    );
    assert!(
        !host.config(&two).contains("dev/nvidia0 ") && host.config(&two).contains("dev/nvidia1 ")
    );
    assert!(!host.config(&three).contains("nvidia"));
    let run = host.run(&["provision", "--from", configs, "777", "--recipe", &recipe]).code(2);
    run.says("777").says(&one);
    let broken = host.directory.path().join("broken.json");
    std::fs::write(&broken, "{").unwrap();
    host.run(&["provision", "--from", broken.to_str().unwrap()]).code(2).says("broken.json");
}
