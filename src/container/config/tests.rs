//! Tests of the lossless document.

use proptest::prelude::*;

use super::*;

fn proxmox(text: &str) -> LxcConfig {
    LxcConfig::parse(text.as_bytes(), Dialect::Proxmox)
}

fn inserted(text: &str, dialect: Dialect) -> String {
    let mut config = LxcConfig::parse(text.as_bytes(), dialect);
    config.insert_after_lxc_lines(&["lxc.a: 1".to_owned(), "lxc.b: 2".to_owned()]);
    String::from_utf8(config.to_bytes()).unwrap()
}

#[test]
fn the_live_section_ends_at_the_first_header() {
    for header in ["[pve:pending]", "[PVE:Pending] ", "[snap1]", "[Before-Upgrade]\r", "[a_]"] {
        let config = proxmox(&format!("lock: a\n{header}\nlock: b\n"));
        assert_eq!(config.lock().as_deref(), Some("a"), "{header:?}");
    }
    for other in ["[special:x]", " [snap1]", "[a]", "[1a]", "[a b]", "[]", "[snap", "[snäp]"] {
        let config = proxmox(&format!("lock: a\n{other}\nlock: b\n"));
        assert_eq!(config.lock().as_deref(), Some("b"), "{other:?}");
    }
}

#[test]
fn plain_lxc_has_no_sections() {
    let text = b"lxc.x = 1\n[snap1]\n  lxc.idmap = u 0 100000 65536\nlxc.x=2 \n";
    let config = LxcConfig::parse(text, Dialect::Lxc);
    assert_eq!(config.value("lxc.x").as_deref(), Some("2"));
    assert!(config.is_unprivileged());
}

#[test]
fn lines_are_what_proxmox_takes_them_for() {
    let raw = |key: &str, value: &str| LineKind::Raw { key: key.into(), value: value.into() };
    let setting =
        |key: &str, value: &str| LineKind::Setting { key: key.into(), value: value.into() };
    for (text, kind) in [
        ("lxc.mount.entry: /a b none bind 0 0 \r", raw("lxc.mount.entry", "/a b none bind 0 0")),
        ("lxc.cap.drop \t= x", raw("lxc.cap.drop", "x")),
        ("lxc.cap.drop:", raw("lxc.cap.drop", "")),
        ("lxc.cap.drop : x", LineKind::Other),
        ("lxc.Cap: x", LineKind::Other),
        (" lxc.a: x", LineKind::Other),
        ("lxc.: x", LineKind::Other),
        ("mp0: /a,mp=/b", setting("mp0", "/a,mp=/b")),
        ("swap:512", setting("swap", "512")),
        ("nvidia-thing: 1", LineKind::Other),
        ("Arch: amd64", LineKind::Other),
        ("a1b: x", LineKind::Other),
        ("arch:  ", LineKind::Other),
        ("# lxc.a: x", LineKind::Comment),
        (" # x", LineKind::Other),
        (" \t\u{b}\r", LineKind::Blank),
    ] {
        assert_eq!(proxmox_line(text), kind, "{text:?}");
    }
}

#[test]
fn of_a_repeated_key_the_last_one_counts() {
    let config = proxmox("unprivileged: 1\nunprivileged: 0\ntemplate: 0\ntemplate: yes\n");
    assert!(!config.is_unprivileged() && config.is_template());
    assert_eq!(config.value("nothing"), None);
}

#[test]
fn mapped_ids_make_a_container_unprivileged() {
    assert!(proxmox("lxc.idmap: u 0 100000 65536\n").is_unprivileged());
    assert!(!proxmox("[snap]\nunprivileged: 1\n").is_unprivileged());
}

#[test]
fn passed_devices_are_read_with_their_properties() {
    let config = proxmox(
        "dev0: /dev/a\ndev1: mode=0666,path=/dev/b\ndev300: /dev/x\ndevx: /dev/x\n\
        dev0: /dev/c,gid=44,deny-write=1\n",
    );
    let device = |number, key: &str, path: &str, mode: Option<&str>, access| PassedDevice {
        number,
        key: key.to_owned(),
        path: path.to_owned(),
        mode: mode.map(str::to_owned),
        access,
    };
    let expected = [
        device(2, "dev1", "/dev/b", Some("0666"), Access::ReadWrite),
        device(5, "dev0", "/dev/c", None, Access::ReadOnly),
    ];
    assert_eq!(config.devices(), expected);
    assert!(LxcConfig::parse(b"dev0: /dev/a\n", Dialect::Lxc).devices().is_empty());
}

#[test]
fn lines_are_inserted_where_they_belong() {
    for (before, after) in [
        ("", "lxc.a: 1\nlxc.b: 2\n"),
        ("\n", "lxc.a: 1\nlxc.b: 2\n\n"),
        ("arch: x\n", "arch: x\nlxc.a: 1\nlxc.b: 2\n"),
        ("arch: x", "arch: x\nlxc.a: 1\nlxc.b: 2"),
        ("arch: x\n\n[snap]\n", "arch: x\nlxc.a: 1\nlxc.b: 2\n\n[snap]\n"),
        ("[snap]\nlxc.x: 0\n", "lxc.a: 1\nlxc.b: 2\n[snap]\nlxc.x: 0\n"),
        ("lxc.x: 0\narch: x\n", "lxc.x: 0\nlxc.a: 1\nlxc.b: 2\narch: x\n"),
        ("arch: x\r\nswap: 1\r\n", "arch: x\r\nswap: 1\r\nlxc.a: 1\r\nlxc.b: 2\r\n"),
        ("arch: x\r\nswap: 1", "arch: x\r\nswap: 1\r\nlxc.a: 1\r\nlxc.b: 2"),
    ] {
        assert_eq!(inserted(before, Dialect::Proxmox), after, "{before:?}");
    }
}

#[test]
fn a_replaced_line_keeps_its_ending() {
    let mut config = proxmox("a: 1\r\nb: 2\n[snap]\nc: 3\n");
    config.replace_line(1, "x: 9");
    config.replace_line(4, "never");
    config.replace_line(0, "never");
    assert_eq!(config.to_bytes(), b"x: 9\r\nb: 2\n[snap]\nc: 3\n");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn any_bytes_survive_parse_and_print(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for dialect in [Dialect::Proxmox, Dialect::Lxc] {
            prop_assert_eq!(LxcConfig::parse(&bytes, dialect).to_bytes(), bytes.clone());
        }
    }
}
