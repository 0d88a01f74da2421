//! Tests of the list; that it is LXC's own is for `tests/device_rules.rs` to show.

use super::*;

fn list(text: &str) -> DeviceRules {
    let config = LxcConfig::parse(text.as_bytes(), Dialect::Proxmox);
    DeviceRules::of(&config, &|path| (path == "/dev/nvidia0").then_some((195, 0)))
}

fn effects(text: &str) -> Vec<RuleEffect> {
    list(text).lines().iter().map(|line| line.effect).collect()
}

#[test]
fn every_line_tells_what_it_comes_to() {
    use RuleEffect::{Empties, InForce, Nothing, Rejected, TakenBack, TakesBack, VersionOne};
    let (allow, deny) = ("lxc.cgroup2.devices.allow", "lxc.cgroup2.devices.deny");
    for (text, expected) in [
        (format!("{allow}: c 195:* rw\n{allow}: c 195:* rw"), vec![InForce, InForce]),
        (format!("{allow}: c 195:* rw\n{deny}: c 195:* rw"), vec![TakenBack, TakesBack]),
        (format!("{allow}: c 195:* rw\n{deny}: c 195:* wr"), vec![InForce, Nothing]),
        (format!("{allow}: c 195:* rw\n{deny}: a"), vec![TakenBack, Empties]),
        (format!("{deny}: a\n{allow}: c 195:* rw"), vec![Empties, InForce]),
        (format!("{allow}: c 195:* rw\n{allow}:"), vec![TakenBack, Empties]),
        (
            format!("{deny}: c 195:* rw\n{allow}: a\n{deny}: c 1:3 r"),
            vec![Nothing, Empties, InForce],
        ),
        (format!("unprivileged: 1\n{allow}: c 195:* rw\n{deny}: c 1:3 r"), vec![Nothing, InForce]),
        (format!("{allow}: c 195:* rw # card"), vec![Rejected(Rejection::Access)]),
        (format!("{allow}: c  195:* rw"), vec![Rejected(Rejection::Number)]),
        (format!("{allow}: c 195:*  rw"), vec![Rejected(Rejection::Access)]),
        (format!("{allow}: c 195:*"), vec![Rejected(Rejection::Access)]),
        (format!("{allow}: char 195:* rw"), vec![Rejected(Rejection::Type)]),
        (format!("{allow}: /dev/nvidia0 rw\n{allow}: /dev/nvidia7 rw"), vec![InForce, Nothing]),
        ("lxc.cgroup.devices.allow: c 195:* rwm".to_owned(), vec![VersionOne]),
        ("lxc.cgroup2.memory.high: 1\nlxc.cap.drop: x".to_owned(), vec![]),
    ] {
        assert_eq!(effects(&text), expected, "{text}");
    }
}

#[test]
fn the_line_that_denies_is_told_where_one_does() {
    let (allow, deny) = ("lxc.cgroup2.devices.allow", "lxc.cgroup2.devices.deny");
    let denying = |text: &str| list(text).denial((195, 0)).map(|line| line.number);
    assert_eq!(denying(&format!("unprivileged: 1\n{deny}: c 195:* rwm")), Some(2));
    assert_eq!(denying(&format!("{allow}: a\n{deny}: c 195:0 rw")), Some(2));
    // Opening for both is more than that rule denies.
    assert_eq!(denying(&format!("unprivileged: 1\n{deny}: c 195:* w")), None);
    assert_eq!(denying(&format!("{deny}: c 195:0 rw")), None);
    assert_eq!(denying(&format!("{allow}: c 195:0 rw\n{deny}: c 195:0 rw")), Some(2));
    let still = format!("{allow}: c 195:0 rw\n{deny}: c 195:0 rw\n{allow}: c 195:* rwm");
    assert_eq!(denying(&still), None);
}

#[test]
fn a_rule_that_gives_everything_is_known_in_any_form() {
    let gives = |value: &str| {
        let list = list(&format!("lxc.cgroup2.devices.allow: {value}"));
        list.lines()[0].rule.allows_all()
    };
    for value in ["a", "'a'", "a *:* rwm", "c *:* rw"] {
        assert!(gives(value), "{value}");
    }
    for value in ["c *:* m", "b *:* rwm", "c 195:* rwm", "c *:* rw # all"] {
        assert!(!gives(value), "{value}");
    }
}
