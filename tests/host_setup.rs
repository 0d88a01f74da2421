//! `nvstage host-setup` on a machine with a real systemd: a privileged container as the host.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use support::{Host, Kind, Nodes, Run};

const PROGRAM: &str = "/usr/local/sbin/nvstage";
const UNIT: &str = "/etc/systemd/system/nvstage-refresh.service";

/// A machine that runs systemd, with the program installed and the unit that Proxmox VE starts
/// its guests with.
struct Machine {
    host: Host,
    ctid: String,
}

impl Machine {
    fn new() -> Self {
        let host = Host::new(Kind::Lxc, Nodes::None);
        let ctid = host.container("privileged", &[]);
        host.start(&ctid);
        let machine = Self { host, ctid };
        machine.install(PROGRAM);
        let guests = "[Unit]\nDescription=guests\n[Service]\nType=oneshot\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";
        machine.shell(&format!(
            "printf '{}' > /etc/systemd/system/pve-guests.service; systemctl daemon-reload",
            guests.replace('\n', "\\n")
        ));
        machine
    }

    fn install(&self, path: &str) {
        self.shell(&format!("mkdir -p \"$(dirname '{path}')\""));
        let init = self.host.init(&self.ctid);
        let to = format!("/proc/{init}/root{path}");
        std::fs::copy(env!("CARGO_BIN_EXE_nvstage"), to).unwrap();
    }

    fn try_shell(&self, script: &str) -> Run {
        self.host.inside(&self.ctid, &format!("PATH=/usr/local/sbin:$PATH; {script}"))
    }

    #[track_caller]
    fn shell(&self, script: &str) -> Run {
        self.try_shell(script).code(0)
    }

    /// Every file below `/etc/systemd`, and the state of the unit.
    fn seen(&self) -> String {
        self.try_shell("find /etc/systemd | LC_ALL=C sort; systemctl list-units --all --no-legend 'nvstage*'; systemctl --failed --no-legend").stdout
    }
}

#[test]
fn the_unit_is_installed_enabled_and_ordered_before_the_guests() {
    let machine = Machine::new();
    let before = machine.seen();
    machine.shell("nvstage host-setup").shows("changed: `/etc/systemd/system/nvstage-refresh.service` is enabled: `/usr/local/sbin/nvstage refresh` at every boot");
    assert_eq!(machine.shell("systemctl is-enabled nvstage-refresh.service").stdout, "enabled\n");
    let verified = machine.shell(&format!("systemd-analyze verify {UNIT}"));
    assert_eq!((verified.stdout.as_str(), verified.stderr.as_str()), ("", ""));
    let shown = machine.shell("systemctl show -p Before,After nvstage-refresh.service").stdout;
    let words = |key: &str| -> Vec<String> {
        let line = shown.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split(' ').map(str::to_owned).collect()
    };
    for unit in ["pve-guests.service", "pve-ha-lrm.service", "lxc.service"] {
        assert!(words("Before=").contains(&unit.to_owned()), "{shown}");
    }
    for unit in ["pve-cluster.service", "systemd-udevd.service", "systemd-modules-load.service"] {
        assert!(words("After=").contains(&unit.to_owned()), "{shown}");
    }

    // Another one comes after them.
    let guests = "nvstage-refresh-guests.service";
    assert_eq!(machine.shell(&format!("systemctl is-enabled {guests}")).stdout, "enabled\n");
    let path = format!("/etc/systemd/system/{guests}");
    let verified = machine.shell(&format!("systemd-analyze verify {path}"));
    assert_eq!((verified.stdout.as_str(), verified.stderr.as_str()), ("", ""));
    let after = machine.shell(&format!("systemctl show -p After {guests}")).stdout;
    assert!(
        after.contains("nvstage-refresh.service") && after.contains("pve-guests.service"),
        "{after}"
    );

    let installed = machine.seen();
    let changes = format!("stat -c '%i %Z' {UNIT}");
    let file = machine.shell(&changes).stdout;
    let again = machine.shell("nvstage host-setup").shows("unchanged");
    assert_eq!(again.stderr, "");
    assert_eq!((machine.seen(), machine.shell(&changes).stdout), (installed, file));

    // There is no driver here, and the unit says so.
    let started = machine.try_shell("systemctl start nvstage-refresh.service");
    assert_eq!(started.code, 1, "{}", started.stderr);
    let shown = machine.shell("systemctl show -p Result,ExecMainStatus nvstage-refresh.service");
    assert_eq!(shown.stdout, "Result=exit-code\nExecMainStatus=4\n");

    machine
        .shell("nvstage host-setup --remove")
        .shows("changed: removed `/etc/systemd/system/nvstage-refresh.service`");
    assert_eq!(machine.seen(), before);
    machine.shell("nvstage host-setup --remove").shows("unchanged");
}

#[test]
fn what_is_half_installed_is_finished() {
    let machine = Machine::new();
    machine.shell("nvstage host-setup");
    machine.shell("systemctl disable nvstage-refresh.service");
    machine.shell("nvstage host-setup").shows("changed");
    assert_eq!(machine.shell("systemctl is-enabled nvstage-refresh.service").stdout, "enabled\n");
    machine.shell(&format!("echo '# mine' >> {UNIT}"));
    machine.shell("nvstage host-setup").shows("changed");
    let shown = machine.shell(&format!("cat {UNIT}")).stdout;
    assert!(!shown.contains("# mine"), "{shown}");
    machine.shell(&format!("rm {UNIT}"));
    machine.shell("nvstage host-setup --remove").shows("changed");
    let wanted = "/etc/systemd/system/multi-user.target.wants/nvstage-refresh.service";
    assert_eq!(machine.try_shell(&format!("test -L {wanted}")).code, 1);
}

#[test]
fn the_unit_runs_the_program_from_where_it_is_and_warns_of_a_bad_place() {
    let machine = Machine::new();
    let program = "/opt/my tools/100%/nvstage";
    machine.install(program);
    machine.shell("chmod 0777 '/opt/my tools'");
    let run = machine.shell(&format!("'{program}' host-setup"));
    run.says("warning: `/opt/my tools/100%/nvstage` is run by root at every boot: others than root can write to `/opt/my tools`");
    machine.try_shell("systemctl start nvstage-refresh.service");
    let shown = machine.shell("systemctl show -p ExecMainStatus --value nvstage-refresh.service");
    assert_eq!(shown.stdout, "4\n");
    let said = machine.shell("journalctl -u nvstage-refresh.service -o cat").stdout;
    assert!(said.contains("`nvidia` is neither loaded nor installed"), "{said}");
}

#[test]
fn what_the_unit_mounts_is_seen_by_everybody() {
    let machine = Machine::new();
    machine.shell("nvstage host-setup");
    // Instead of the program, in its unit as it is otherwise.
    let change = "[Service]\\nExecStart=\\nExecStart=/bin/mount -t tmpfs seen-by-everybody /mnt\\n";
    machine.shell(&format!(
        "mkdir {UNIT}.d && printf '{change}' > {UNIT}.d/mount.conf && systemctl daemon-reload && systemctl start nvstage-refresh.service"
    ));
    machine.shell("grep '^seen-by-everybody /mnt ' /proc/1/mounts");
    let limit = machine.shell("systemctl show -p TimeoutStartUSec --value nvstage-refresh.service");
    assert_eq!(limit.stdout, "15min\n");
}

#[test]
fn a_masked_unit_stays_masked() {
    let machine = Machine::new();
    machine.shell("systemctl mask nvstage-refresh.service");
    let run = machine.try_shell("nvstage host-setup").code(4);
    run.says("systemctl unmask nvstage-refresh.service");
    let remove = || machine.shell("nvstage host-setup --remove");
    remove().shows(&format!("unchanged: `{UNIT}` is masked, not nvstage's, and stays"));
    machine.shell(&format!("test \"$(readlink {UNIT})\" = /dev/null"));
    let wanted = "/etc/systemd/system/multi-user.target.wants/nvstage-refresh.service";
    machine.shell(&format!("ln -s {UNIT} {wanted}"));
    remove().shows("changed: disabled").shows("is masked, not nvstage's, and stays");
    machine.shell(&format!("test \"$(readlink {UNIT})\" = /dev/null && ! test -L {wanted}"));
}

#[test]
fn a_machine_without_systemd_is_refused() {
    let host = Host::new(Kind::Pct, Nodes::None);
    for arguments in [&["host-setup"][..], &["host-setup", "--remove"]] {
        host.run(arguments).code(4).says("failed to find systemd on this machine");
    }
    assert!(!host.path(UNIT).exists());
}
