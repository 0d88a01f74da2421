//! Tests of assignments.

use super::*;
use crate::error::ExitCode;

const FIRST: &str = "GPU-11111111-aaaa-bbbb-cccc-000000000001";
const SECOND: &str = "GPU-22222222-aaaa-bbbb-cccc-000000000002";

fn parse(text: &str) -> GpuAssignment {
    GpuAssignment::parse(text).unwrap()
}

/// Three GPUs whose minors are in another order; the second is divided, the third was never used.
fn gpus() -> Vec<Gpu> {
    let gpu = |index, minor, bus: &str, uuid: Option<&str>| Gpu {
        index,
        minor,
        pci_address: format!("0000:{bus}:00.0"),
        uuid: uuid.map(str::to_owned),
        model: Some("NVIDIA A100-SXM4-80GB".to_owned()),
        mig: Vec::new(),
    };
    let instance = |gpu_instance, first| MigInstance {
        gpu_instance,
        compute_instance: 0,
        minors: [first, first + 1],
    };
    let mut second = gpu(1, 0, "41", Some(SECOND));
    second.mig = vec![instance(1, 12), instance(2, 21)];
    vec![gpu(0, 2, "0a", Some(FIRST)), second, gpu(2, 1, "81", None)]
}

fn pci() -> Vec<PciGpu> {
    let gpu = |bus: &str, driver: Option<&str>, claimed_by: &[u32]| PciGpu {
        address: format!("0000:{bus}:00.0"),
        driver: driver.map(str::to_owned),
        claimed_by: claimed_by.to_vec(),
    };
    vec![
        gpu("0a", Some("nvidia"), &[]),
        gpu("41", Some("nvidia"), &[]),
        gpu("81", Some("nvidia"), &[]),
        gpu("c1", Some("vfio-pci"), &[100, 101]),
        gpu("c2", Some("vfio-pci"), &[]),
        gpu("c3", Some("nouveau"), &[]),
        gpu("c4", None, &[]),
        gpu("c5", Some("nvidia"), &[]),
    ]
}

fn resolve(text: &str) -> Result<Vec<Assigned>> {
    parse(text).resolve(&gpus(), &pci())
}

fn resolved(text: &str) -> Vec<String> {
    resolve(text).unwrap().iter().map(ToString::to_string).collect()
}

#[test]
fn an_assignment_is_read_sorted_and_printed() {
    assert_eq!(parse("none"), GpuAssignment::None);
    assert_eq!(parse(" all "), GpuAssignment::All);
    for (text, normal) in [
        ("none", "none"),
        ("all", "all"),
        ("1, 0", "0,1"),
        ("10,2,00", "0,2,10"),
        ("0A:00.0", "0000:0a:00.0"),
        ("00000000:0A:00.0", "0000:0a:00.0"),
        ("gpu-11111111-AAAA-bbbb-cccc-000000000001", FIRST),
        (
            "mig-gpu-22222222-AAAA-bbbb-cccc-000000000002/1/0",
            "MIG-GPU-22222222-aaaa-bbbb-cccc-000000000002/1/0",
        ),
        ("MIG-22222222-AAAA-bbbb-cccc-000000000002", "MIG-22222222-aaaa-bbbb-cccc-000000000002"),
        (
            "GPU-11111111-aaaa-bbbb-cccc-000000000001 , 41:00.0,\t2",
            "2,0000:41:00.0,GPU-11111111-aaaa-bbbb-cccc-000000000001",
        ),
    ] {
        let read = parse(text);
        assert_eq!(read.to_string(), normal, "{text}");
        assert_eq!(parse(normal), read, "{text}");
    }
}

#[test]
fn a_malformed_assignment_is_refused_with_the_reason() {
    for (text, why) in [
        ("", "it is empty"),
        (" ", "it is empty"),
        ("0,,1", "nothing before or after a comma"),
        ("0,", "nothing before or after a comma"),
        (",0", "nothing before or after a comma"),
        ("-1", "`-1` is not an index"),
        ("+1", "`+1` is not an index"),
        ("a", "`a` is not an index"),
        ("0 1", "`0 1` is not an index"),
        ("gpu0", "`gpu0` is not an index"),
        ("é", "`é` is not an index"),
        ("0,0", "`0` is there twice"),
        ("0,00", "`00` is there twice"),
        ("0a:00.0,0000:0A:00.0", "`0000:0A:00.0` is there twice"),
        ("all,0", "`all` stands alone"),
        ("0,none", "`none` stands alone"),
        ("256", "`256` is too high"),
        ("99999999999999999999", "is too high"),
        ("01:00", "`01:00` is not a whole PCI address"),
        ("0000:01:00.9", "is not a whole PCI address"),
        ("GPU-11111111", "`GPU-11111111` is not a whole UUID"),
        ("GPU-1111111g-aaaa-bbbb-cccc-000000000001", "is not a whole UUID"),
        ("GPU-", "`GPU-` is not a whole UUID"),
        ("MIG-GPU-11111111-aaaa-bbbb-cccc-000000000001", "is not a whole MIG instance"),
        ("MIG-GPU-11111111-aaaa-bbbb-cccc-000000000001/1", "is not a whole MIG instance"),
        ("MIG-GPU-11111111-aaaa-bbbb-cccc-000000000001/1/0/0", "is not a whole MIG instance"),
        ("MIG-GPU-11111111-aaaa-bbbb-cccc-000000000001/+1/0", "is not a whole MIG instance"),
        ("MIG-GPU-11111111-aaaa-bbbb-cccc-000000000001//0", "is not a whole MIG instance"),
        ("MIG-1", "`MIG-1` is not a whole MIG instance"),
    ] {
        let error = GpuAssignment::parse(text).unwrap_err();
        assert_eq!(error.code(), ExitCode::Input);
        assert!(error.what().contains(why), "{text:?}: {error}");
    }
}

#[test]
fn every_kind_of_name_finds_its_gpu() {
    for (text, expected) in [
        ("0", "nvidia2"),
        ("1", "nvidia0"),
        ("0A:00.0", "nvidia2"),
        ("00000000:81:00.0", "nvidia1"),
        (&FIRST.to_lowercase(), "nvidia2"),
        (&format!("MIG-{SECOND}/2/0"), "nvidia0 MIG 2/0"),
    ] {
        assert_eq!(resolved(text), [expected], "{text}");
    }
}

#[test]
fn what_is_assigned_is_in_the_order_of_indices_however_it_is_named() {
    assert_eq!(resolved(&format!("81:00.0,{FIRST},1")), ["nvidia2", "nvidia0", "nvidia1"]);
    assert_eq!(resolved("all"), ["nvidia2", "nvidia0", "nvidia1"]);
    assert!(parse("none").resolve(&[], &[]).unwrap().is_empty());
}

#[test]
fn instances_of_one_gpu_are_assigned_together() {
    let text = format!("MIG-{SECOND}/2/0,MIG-{SECOND}/1/0,2");
    assert_eq!(resolved(&text), ["nvidia0 MIG 1/0 2/0", "nvidia1"]);
}

#[test]
fn uuids_of_the_kernel_are_compared_in_any_case() {
    let mut gpus = gpus();
    gpus[0].uuid = Some(FIRST.to_uppercase());
    let found = parse(FIRST).resolve(&gpus, &[]).unwrap();
    assert_eq!(found[0].gpu.index, 0);
}

#[test]
fn two_names_of_the_same_gpu_are_invalid_input_that_names_both() {
    for (text, what) in [
        (format!("0,{FIRST}"), "two names mean the same GPU"),
        (format!("0a:00.0,{FIRST}"), "two names mean the same GPU"),
        ("0,0a:00.0".to_owned(), "two names mean the same GPU"),
        (format!("1,MIG-{SECOND}/1/0"), "one name means the whole GPU, one a part of it"),
    ] {
        let error = resolve(&text).unwrap_err();
        assert_eq!(error.code(), ExitCode::Input);
        assert!(error.what().contains(what), "{text}: {error}");
        assert!(error.hints()[0].contains("are both in the assignment"), "{error}");
    }
}

#[test]
fn a_name_that_the_host_lacks_is_invalid_input_and_lists_what_it_has() {
    let missing = "GPU-33333333-aaaa-bbbb-cccc-000000000003";
    for (text, what, has) in [
        ("7", "GPU 7", "0 (NVIDIA A100-SXM4-80GB, 0000:0a:00.0), 1 ("),
        ("0,7", "GPU 7", "2 (NVIDIA A100-SXM4-80GB, 0000:81:00.0)"),
        ("11:00.0", "GPU `0000:11:00.0`", "0000:41:00.0"),
        (missing, missing, "2 (its UUID is unknown until it is first used)"),
        (&format!("MIG-{missing}/1/0"), missing, FIRST),
    ] {
        let error = resolve(text).unwrap_err();
        assert_eq!(error.code(), ExitCode::Input);
        assert!(error.what().contains(what), "{error}");
        assert!(error.what().contains("this host has no such GPU"), "{error}");
        assert!(error.hints()[0].contains(has), "{error}");
        let other = "0000:c1:00.0 is bound to `vfio-pci`, and virtual machines 100, 101 claim it";
        assert!(error.causes().contains(&other.to_owned()), "{error}");
    }
}

#[test]
fn an_instance_that_is_not_there_is_invalid_input_and_lists_those_that_are() {
    for text in [
        format!("MIG-{SECOND}/3/0"),
        format!("MIG-{FIRST}/1/0"),
        "MIG-44444444-aaaa-bbbb-cccc-000000000004".to_owned(),
    ] {
        let error = resolve(&text).unwrap_err();
        assert_eq!(error.code(), ExitCode::Input);
        assert!(error.what().contains(&format!("assign `{text}`")), "{error}");
        let hint = format!("this host has\nMIG-{SECOND}/1/0\nMIG-{SECOND}/2/0");
        assert_eq!(error.hints(), [hint], "{error}");
    }
    let mut whole = gpus();
    whole[1].mig.clear();
    let error = parse(&format!("MIG-{SECOND}/1/0")).resolve(&whole, &[]).unwrap_err();
    assert_eq!(error.hints(), ["this host has no MIG instances"]);
}

#[test]
fn a_gpu_of_another_driver_is_a_host_error_that_says_whose_it_is() {
    for (text, cause, hint) in [
        (
            "c1:00.0",
            "is bound to `vfio-pci`, and virtual machines 100, 101 claim it",
            "qm config 100",
        ),
        ("c2:00.0", "is bound to `vfio-pci`", "options vfio-pci ids="),
        ("c3:00.0", "is bound to `nouveau`", "blacklist nouveau"),
        ("c4:00.0", "is bound to no driver", "modprobe nvidia"),
        ("c5:00.0", "is bound to `nvidia`", "dmesg"),
    ] {
        let error = resolve(text).unwrap_err();
        assert_eq!(error.code(), ExitCode::Host, "{error}");
        assert!(error.what().contains(&format!("GPU `0000:{text}`")), "{error}");
        assert!(error.causes()[0].contains(cause), "{error}");
        assert!(error.hints()[0].contains(hint), "{error}");
    }
}

#[test]
fn a_host_without_gpus_is_a_host_error_that_tells_of_those_of_other_drivers() {
    for text in ["all", "0", FIRST, "11:00.0"] {
        let error = parse(text).resolve(&[], &pci()[3..]).unwrap_err();
        assert_eq!(error.code(), ExitCode::Host, "{error}");
        assert!(error.what().contains("this host has none"), "{error}");
        assert_eq!(error.causes().len(), 5, "{error}");
    }
}
