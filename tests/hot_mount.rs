//! The hot mount: what appears inside cannot be written, not even after a remount.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

use std::process::{Child, Command, Stdio};

use nvstage::host::mount::{self, Programs};

struct Namespace(Child);

impl Namespace {
    /// A process with a mount namespace of its own, standing for a privileged container.
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 1000"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
        Self(child)
    }

    fn shell(&self, script: &str) -> (i32, String) {
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.0.id());
        let output =
            Command::new("nsenter").args([&namespace, "sh", "-c", script]).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code().unwrap(), text)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const TARGET: &str = "/tmp/nvstage-hot-mount-test";

#[test]
fn both_layers_appear_nothing_can_be_written_and_nothing_stays() {
    let directory = tempfile::Builder::new().prefix("a:b\\").tempdir().unwrap();
    let (tree, extra) = (directory.path().join("tree"), directory.path().join("extra"));
    for (layer, file) in [(&tree, "installer"), (&extra, "stand-in")] {
        std::fs::create_dir(layer).unwrap();
        std::fs::write(layer.join(file), file).unwrap();
    }
    let container = Namespace::new();
    mount::attach(container.0.id(), [&tree, &extra], Programs::Run, TARGET).unwrap();
    // A second time, as after a run that was killed: nothing is stacked.
    mount::attach(container.0.id(), [&tree, &extra], Programs::Run, TARGET).unwrap();
    let (code, text) = container.shell(&format!("cat {TARGET}/installer {TARGET}/stand-in"));
    assert_eq!((code, text.as_str()), (0, "installerstand-in"));

    let (code, text) = container.shell(&format!(
        "mount -o remount,bind,rw {TARGET}; mount -o remount,rw {TARGET}; echo x > {TARGET}/installer"
    ));
    assert_ne!(code, 0);
    assert!(text.contains("Read-only file system"), "{text}");
    assert_eq!(std::fs::read_to_string(tree.join("installer")).unwrap(), "installer");

    mount::detach(container.0.id(), TARGET).unwrap();
    let (code, text) = container.shell(&format!("grep {TARGET} /proc/mounts; test -e {TARGET}"));
    assert_eq!((code, text.as_str()), (1, ""));
    mount::detach(container.0.id(), TARGET).unwrap();
    assert!(!std::path::Path::new(TARGET).exists(), "the host saw the mount point");
}

#[test]
fn a_container_that_is_gone_is_an_error_and_no_panic() {
    let directory = tempfile::tempdir().unwrap();
    let error =
        mount::attach(u32::MAX - 1, [directory.path(), directory.path()], Programs::Run, TARGET);
    assert!(error.unwrap_err().to_string().contains("--stage push"));
}
