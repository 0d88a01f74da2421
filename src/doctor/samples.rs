//! A healthy host and a healthy container, for tests to break.

use std::collections::{BTreeMap, BTreeSet};

use super::evidence::{
    Boot, CLibrary, ContainerEvidence, HostEvidence, Inside, Machine, ModuleFile, State, Unread,
};
use crate::answer::Answer;
use crate::container::config::{Dialect, LxcConfig};
use crate::ctid::Ctid;
use crate::facts::Facts;
use crate::gpu::{Capability, Gpu, HostNode, PciGpu, Source};
use crate::version::DriverVersion;

/// A privileged container with the first GPU.
pub(super) const CONFIG: &str = "arch: amd64
lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,optional,create=file 0 0
lxc.mount.entry: /dev/nvidiactl dev/nvidiactl none bind,optional,create=file 0 0
lxc.mount.entry: /dev/nvidia-uvm dev/nvidia-uvm none bind,optional,create=file 0 0
lxc.mount.entry: /dev/nvidia-caps dev/nvidia-caps none bind,optional,create=dir 0 0
lxc.cgroup2.devices.allow: c 195:* rw
lxc.cgroup2.devices.allow: c 511:0 rw
lxc.cgroup2.devices.allow: c 236:* rw
";

/// Everything that [`HostEvidence`] borrows.
pub(super) struct Sample {
    pub(super) module: Option<DriverVersion>,
    pub(super) module_file: ModuleFile,
    pub(super) gpus: Vec<Gpu>,
    pub(super) pci: Vec<PciGpu>,
    pub(super) nodes: Vec<HostNode>,
    pub(super) majors: BTreeMap<String, u64>,
    pub(super) capabilities: Vec<Capability>,
    pub(super) machines: Vec<Machine>,
    pub(super) boot: Boot,
    pub(super) unread: Vec<Unread>,
    pub(super) lxc: Option<u32>,
}

pub(super) fn version(text: &str) -> DriverVersion {
    DriverVersion::parse(text).unwrap()
}

pub(super) fn node(path: &str, number: (u64, u64), mode: u32) -> HostNode {
    HostNode { path: path.to_owned(), number, mode }
}

pub(super) fn pci(address: &str, driver: &str) -> PciGpu {
    PciGpu { address: address.to_owned(), driver: Some(driver.to_owned()), claimed_by: Vec::new() }
}

/// A host with two GPUs.
pub(super) fn healthy_host() -> Sample {
    let gpu = |index: u32, address: &str| Gpu {
        index,
        minor: index,
        pci_address: address.to_owned(),
        uuid: None,
        model: None,
        mig: Vec::new(),
    };
    let majors = [("mem", 1), ("misc", 10), ("nvidia", 195), ("nvidiactl", 195)];
    let dynamic = [("nvidia-uvm", 511), ("nvidia-caps", 236)];
    let majors = majors.iter().chain(&dynamic);
    Sample {
        module: Some(version("580.76.05")),
        module_file: ModuleFile::Installed,
        gpus: vec![gpu(0, "0000:01:00.0"), gpu(1, "0000:81:00.0")],
        pci: vec![pci("0000:01:00.0", "nvidia"), pci("0000:81:00.0", "nvidia")],
        nodes: vec![
            node("/dev/nvidia0", (195, 0), 0o666),
            node("/dev/nvidiactl", (195, 255), 0o666),
            node("/dev/nvidia-uvm", (511, 0), 0o666),
        ],
        majors: majors.map(|(name, major)| ((*name).to_owned(), *major)).collect(),
        capabilities: Vec::new(),
        machines: Vec::new(),
        boot: Boot {
            refresh_path: "/etc/systemd/system/nvstage-refresh.service".to_owned(),
            refresh_unit: Some("[Unit]\nBefore=pve-guests.service lxc.service\n".to_owned()),
            is_enabled: true,
            ..Boot::default()
        },
        unread: Vec::new(),
        lxc: None,
    }
}

pub(super) fn host_of(sample: &Sample) -> HostEvidence<'_> {
    HostEvidence {
        module: sample.module.as_ref(),
        module_file: sample.module_file,
        gpus: &sample.gpus,
        pci: &sample.pci,
        nodes: &sample.nodes,
        majors: &sample.majors,
        capabilities: &sample.capabilities,
        machines: &sample.machines,
        boot: &sample.boot,
        unread: &sample.unread,
        lxc: sample.lxc,
    }
}

/// What is known of a GPU that does not answer.
pub(super) fn silent_gpu() -> Unread {
    Unread {
        source: Some(Source::Gpus),
        why: "failed to read what GPU `0000:01:00.0` is: it does not answer".to_owned(),
        hint: Some("`dmesg | grep -i xid` says whether it has fallen off the bus".to_owned()),
    }
}

/// A stopped container with this configuration.
pub(super) fn container(text: &str) -> ContainerEvidence {
    let config = LxcConfig::parse(text.as_bytes(), Dialect::Proxmox);
    ContainerEvidence {
        ctid: Ctid::parse("201").unwrap(),
        path: "/etc/pve/lxc/201.conf".to_owned(),
        config: config.at_next_start(),
        pending: config.pending(),
        unread: None,
        journal: Ok(None),
        state: State::Stopped,
    }
}

pub(super) fn running(mut container: ContainerEvidence) -> ContainerEvidence {
    container.state = State::Running(Box::new(healthy_inside()));
    container
}

pub(super) fn healthy_inside() -> Inside {
    let directory = "/usr/lib/x86_64-linux-gnu";
    let answer = format!(
        "@nvstage begin\n@nvstage os debian 12\n@nvstage machine x86_64\n@nvstage glibc yes\n\
         @nvstage node /dev/nvidia0 opens\n@nvstage node /dev/nvidiactl opens\n\
         @nvstage node /dev/nvidia-uvm opens\n@nvstage node /dev/nvidia-caps directory\n\
         @nvstage library libcuda.so.1 {directory}/libcuda.so.580.76.05\n\
         @nvstage library libnvidia-ml.so.1 {directory}/libnvidia-ml.so.580.76.05\n@nvstage end\n"
    );
    let libraries = ["libc.so.6", "libcuda.so.580.76.05", "libnvidia-ml.so.580.76.05"];
    Inside {
        facts: Ok(Facts::parse(&Answer::parse(&answer)).unwrap()),
        answering: BTreeSet::new(),
        recorded: Some(version("580.76.05")),
        library_directory: directory.to_owned(),
        libraries: libraries.map(str::to_owned).to_vec(),
        c_library: CLibrary::Glibc,
        has_docker: false,
        container_runtime: None,
    }
}
