//! LXC's list of device rules as the program foresees it, beside what the kernel grants in real
//! containers that have it.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::fmt::Write as _;
use std::time::Duration;

use nvstage::container::config::{Dialect, LxcConfig};
use nvstage::container::rules::{AccessMask, DeviceRequest, DeviceRules, DeviceType};
use support::{Host, Kind, Run, eventually};

/// Lists of rules: `+` allows, `-` denies, `=` is a line as it stands. Every list is tried in
/// containers of both kinds. `a *:* rwm` in an allow-list is none of them: LXC 5.0.2 does not start
/// with it, because the kernel refuses a program with instructions that nothing reaches.
const LISTS: &[&[&str]] = &[
    &[],
    &["+ c 195:* rwm"],
    &["+ c 195:0 rw"],
    &["+ c 195:0 r"],
    &["+ c 195:* wr"],
    &["+ c 195:0 r", "+ c 195:0 w"],
    &["+ a"],
    &["- a"],
    &["- a", "+ c 195:* rw"],
    &["- a", "- c 10:200 rwm"],
    &["+ c 195:* rw", "- a"],
    &["- a", "+ c 1:3 rwm"],
    &["- a", "+ a"],
    &["+ a", "- c 10:200 rwm"],
    &["+ a", "- c 195:* rw", "+ c 195:* rw"],
    &["+ a", "- c 195:* rw", "+ c 195:0 rw"],
    &["+ c 10:* rwm", "- c 10:200 rw"],
    &["- c 10:200 rw", "+ c 10:* rwm"],
    &["+ c 195:0 rw", "- c 195:0 rw"],
    &["+ c 195:0 rw", "- c 195:0 wr"],
    &["+ c 195:0 rw", "- c 195:0 rw", "+ c 195:0 rw"],
    &["+ c 195:0 rwm", "+ c 195:* rw", "- c 195:* rw"],
    &["- c 10:200 rwm"],
    &["- c 195:* rw"],
    &["- c 195:* w"],
    &["- c 195:* r", "- c 195:* w"],
    &["- c 195:* m"],
    &["- c *:* rwm"],
    &["- c 1:3 rwm"],
    &["- b 195:* rwm"],
    &["- a 195:* rwm"],
    &["+ a 195:* rw"],
    &["+ a", "+ a *:* rwm"],
    &["+ b 195:* rwm"],
    &["+ c 195:* rw # card"],
    &["+ c 195:* rwm # card"],
    &["+ c 195:*  rw"],
    &["+ c  195:* rw"],
    &["+ c 195:*"],
    &["+ c 195 rw"],
    &["+ c\t195:*\trw"],
    &["+ c 0303:0 rw"],
    &["+ c 0195:0 rw"],
    &["+ \"c 195:* rw\""],
    &["+ 'a'"],
    &["+ \"a *:* \""],
    &["+ c 195:* rx"],
    &["+ /dev/nvidia0 rw"],
    &["+ /dev/nvidia0  rw # card"],
    &["+ /dev/nvidia9 rw", "- /dev/nvidia0 rw"],
    &["+"],
    &["-"],
    &["+ c 195:* rw", "+", "+ c 10:200 rw"],
    &["+ c 195:* rw", "-", "- c 10:200 rw"],
    &["=lxc.cgroup2.devices.list KEY c 195:* rw"],
    &["=lxc.cgroup.devices.allow KEY c 195:* rwm"],
    &["=lxc.cgroup.devices.deny KEY a"],
];

/// Lists with what Proxmox VE writes itself, `/dev/nvidia0` being 195:0.
const PROXMOX: &[&[&str]] = &[
    &["=dev0: /dev/nvidia0,mode=0666"],
    &["=dev0: /dev/nvidia0,mode=0666,deny-write=1"],
    &["=dev0: /dev/nvidia0,mode=0666", "- c 195:0 rw"],
    &["=dev0: /dev/nvidia0,mode=0666", "- a"],
    &["=console: 0"],
    &["=console: 0", "- c 10:200 rw"],
];

/// What is asked of the kernel: the numbers behind names below `/dev`, opened in these ways.
const NODES: &[(&str, (u64, u64))] = &[
    ("nvidia0", (195, 0)),
    ("nvidiactl", (195, 255)),
    ("tun", (10, 200)),
    ("null", (1, 3)),
    ("zero", (1, 5)),
];
const WAYS: &[(&str, &str, AccessMask)] = &[
    ("r", "<", AccessMask::READ),
    ("w", ">", AccessMask::WRITE),
    ("rw", "<>", AccessMask::READ_WRITE),
];

/// The lines of a list as the dialect has them, settings apart from raw ones.
fn lines(list: &[&str], dialect: Dialect) -> (Vec<String>, Vec<String>) {
    let separator = if dialect == Dialect::Proxmox { ":" } else { " =" };
    let line = |line: &&str| match line.split_at(1) {
        ("+", value) => format!("lxc.cgroup2.devices.allow{separator}{value}"),
        ("-", value) => format!("lxc.cgroup2.devices.deny{separator}{value}"),
        (_, line) => line.replace(" KEY", separator),
    };
    list.iter().map(line).partition(|line| !line.starts_with("lxc."))
}

/// A container whose first process opens the nodes, writes down what came of it, and ends.
struct Prober {
    host: std::sync::Arc<Host>,
    ctid: String,
    made: String,
    dialect: Dialect,
}

impl Prober {
    fn new(host: &std::sync::Arc<Host>, privilege: &str, dialect: Dialect) -> Self {
        let ctid = host.container(privilege, &[]);
        let mut probe = "#!/bin/sh\n".to_owned();
        for (name, _) in NODES {
            for (way, redirection, _) in WAYS {
                let open = format!("(: {redirection} /dev/{name}) 2>/tmp/{name}-{way}");
                writeln!(probe, "{open}").unwrap();
            }
        }
        probe.push_str("echo done > /tmp/done\n");
        let files = host.path(&format!("/var/lib/lxc/.storage/subvol-{ctid}-disk-0"));
        std::fs::write(files.join("probe"), probe).unwrap();
        let host = std::sync::Arc::clone(host);
        host.shell(&format!("chmod 755 /var/lib/lxc/.storage/subvol-{ctid}-disk-0/probe")).code(0);
        let made = host.config(&ctid);
        Self { host, ctid, made, dialect }
    }

    /// The configuration with a list of rules.
    fn config(&self, list: &[&str]) -> String {
        let (settings, mut raw) = lines(list, self.dialect);
        let separator = if self.dialect == Dialect::Proxmox { ":" } else { " =" };
        for (name, _) in NODES.iter().filter(|(name, _)| !matches!(*name, "null" | "zero")) {
            if !settings.iter().any(|line| line.contains(name)) {
                raw.push(format!("lxc.mount.entry{separator} /dev/{name} dev/{name} none bind,optional,create=file 0 0"));
            }
        }
        raw.push(format!("lxc.init.cmd{separator} /probe"));
        [self.made.trim_end(), &settings.join("\n"), &raw.join("\n"), ""].join("\n")
    }

    /// What the kernel grants: a letter for every node and way.
    fn granted(&self, config: &str) -> Result<String, String> {
        let Self { host, ctid, .. } = self;
        let path = host.config_path(ctid);
        let new = path.with_extension("new");
        std::fs::write(&new, config).unwrap();
        std::fs::rename(new, path).unwrap();
        let root = format!("/var/lib/lxc/.storage/subvol-{ctid}-disk-0");
        host.shell(&format!("rm -rf {root}/tmp/*"));
        let start = match self.dialect {
            Dialect::Proxmox => format!("pct start {ctid}"),
            Dialect::Lxc => format!("lxc-start -n {ctid} -o /dev/stderr"),
        };
        let started: Run = host.shell(&start);
        let done = host.path(&format!("{root}/tmp/done"));
        // systemd has it until the hook of the stop has ended.
        let unit = format!("/run/systemd/units/invocation:pve-container@{ctid}.service");
        let stopped = || {
            !std::fs::read_to_string("/proc/net/unix")
                .unwrap()
                .contains(&format!("/lxc/{ctid}/command"))
                && host.path(&unit).symlink_metadata().is_err()
        };
        eventually("the probe has ended", Duration::from_secs(60), stopped);
        if !done.exists() {
            return Err(format!("{}{}", started.stdout, started.stderr));
        }
        let mut granted = String::new();
        for (name, _) in NODES {
            for (way, _, _) in WAYS {
                let said = host.path(&format!("{root}/tmp/{name}-{way}"));
                let said = std::fs::read_to_string(said).map_err(|error| error.to_string())?;
                let said = said.trim().rsplit(": ").next().unwrap().to_owned();
                granted += match said.as_str() {
                    "" | "No such device or address" => "+",
                    "Operation not permitted" => "-",
                    other => return Err(format!("{name} {way}: {other}")),
                };
            }
        }
        Ok(granted)
    }
}

/// What the program foresees.
fn foreseen(config: &str, dialect: Dialect) -> String {
    let config = LxcConfig::parse(config.as_bytes(), dialect);
    let rules = DeviceRules::of(&config, &|path| {
        let name = path.strip_prefix("/dev/")?;
        NODES.iter().find(|(own, _)| *own == name).map(|(_, number)| *number)
    });
    let mut foreseen = String::new();
    for (_, number) in NODES {
        for (_, _, access) in WAYS {
            let request = DeviceRequest {
                device_type: DeviceType::Character,
                number: *number,
                access: *access,
            };
            foreseen += if rules.allows(request) { "+" } else { "-" };
        }
    }
    foreseen
}

/// Every list in containers of both kinds, two of each at once.
fn compare(kind: Kind, dialect: Dialect, lists: &[&[&'static str]]) {
    let nodes = "nvidia0 c 195 0\nnvidiactl c 195 255\ntun c 10 200\n";
    let host = std::sync::Arc::new(Host::with_devices(kind, nodes, None));
    host.shell("mkdir -p /run/pct-front && echo 0 0 > /run/pct-front/post-stop-delays").code(0);
    let mut workers = Vec::new();
    for privilege in ["privileged", "unprivileged"] {
        for lists in lists.chunks(lists.len().div_ceil(2)) {
            let prober = Prober::new(&host, privilege, dialect);
            let lists: Vec<Vec<&'static str>> = lists.iter().map(|list| list.to_vec()).collect();
            workers.push(std::thread::spawn(move || {
                let differs = |list: &Vec<&str>| {
                    let config = prober.config(list);
                    let (granted, foreseen) = (prober.granted(&config), foreseen(&config, dialect));
                    (granted.as_ref() != Ok(&foreseen)).then(|| {
                        format!("{privilege} {list:?}: {granted:?}, foreseen {foreseen:?}")
                    })
                };
                lists.iter().filter_map(differs).collect::<Vec<String>>()
            }));
        }
    }
    let differing: Vec<String> =
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn the_kernel_grants_what_is_foreseen_of_a_proxmox_container() {
    assert!(LISTS.len() >= 30);
    compare(Kind::Pct, Dialect::Proxmox, &[LISTS, PROXMOX].concat());
}

#[test]
fn the_kernel_grants_what_is_foreseen_of_a_plain_container() {
    compare(Kind::Lxc, Dialect::Lxc, &LISTS[..34]);
}
