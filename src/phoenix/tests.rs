//! Tests of the Phoenix contract.

use super::*;
use crate::error::ExitCode;
use crate::gpu::GpuName;

const REPOSITORY: &str =
    "https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2404/x86_64/";
const INSTALLER: &str = "https://us.download.nvidia.com/XFree86/Linux-x86_64/580.76.05/\
    NVIDIA-Linux-x86_64-580.76.05.run";

fn call(arguments: &[&str], variables: &[(&str, &str)]) -> Result<PhoenixRequest> {
    let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
    let environment = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    PhoenixRequest::from_environment(&arguments, &environment)
}

fn all() -> [(&'static str, &'static str); 4] {
    [
        ("GPU_ASSIGNMENT", " 0, 1 "),
        ("NVIDIA_DRIVER_VERSION", " 580.76.05\n"),
        ("NVIDIA_REPO_URL", REPOSITORY),
        ("NVIDIA_RUNFILE_URL", INSTALLER),
    ]
}

#[test]
fn a_call_of_the_orchestrator_is_read() {
    let request = call(&["901"], &all()).unwrap();
    assert_eq!(request.ctid.as_str(), "901");
    assert_eq!(request.gpus, GpuAssignment::These(vec![GpuName::Index(0), GpuName::Index(1)]));
    assert_eq!(request.driver.unwrap().as_str(), "580.76.05");
    assert_eq!(request.repository_url.as_deref(), Some(REPOSITORY));
    assert_eq!(request.installer_url.as_deref(), Some(INSTALLER));
}

#[test]
fn a_missing_or_empty_variable_is_invalid_input_that_names_it() {
    for index in 0..4 {
        let mut variables = all().to_vec();
        let (name, _) = variables.remove(index);
        let error = call(&["901"], &variables).unwrap_err();
        assert_eq!(error.code(), ExitCode::Input);
        assert!(error.what().contains(&format!("{name}: not set")), "{error}");
        for empty in ["", " \t"] {
            let mut variables = all();
            variables[index].1 = empty;
            let error = call(&["901"], &variables).unwrap_err();
            assert_eq!(error.code(), ExitCode::Input);
            assert!(error.what().contains(&format!("{name}: it is empty")), "{error}");
        }
    }
}

#[test]
fn every_missing_variable_is_named_at_once() {
    let error = call(&["901"], &[]).unwrap_err();
    assert!(VARIABLES.iter().all(|name| error.what().contains(name)), "{error}");
}

#[test]
fn the_container_must_be_a_positive_integer() {
    for bad in [&[][..], &[""], &["0"], &["-1"], &["abc"], &["9x"], &["1.0"], &["007"]] {
        let error = call(bad, &all()).unwrap_err();
        assert_eq!(error.code(), ExitCode::Input, "{bad:?}");
    }
}

#[test]
fn malformed_values_are_invalid_input() {
    for (name, bad) in [("GPU_ASSIGNMENT", "0,,1"), ("NVIDIA_DRIVER_VERSION", "latest")] {
        let mut variables = all().to_vec();
        variables.retain(|(known, _)| *known != name);
        variables.push((name, bad));
        assert_eq!(call(&["901"], &variables).unwrap_err().code(), ExitCode::Input, "{name}");
    }
}

#[test]
fn arguments_stand_for_variables_that_are_not_set() {
    let old_form = call(&["901", "none", "580.76.05", REPOSITORY], &[]).unwrap();
    assert_eq!((old_form.gpus, old_form.installer_url), (GpuAssignment::None, None));
    let whole = call(&["901", "0", "580.76.05", REPOSITORY, INSTALLER], &[]).unwrap();
    assert_eq!(whole.installer_url.as_deref(), Some(INSTALLER));
    let both = call(&["901", "0, 1"], &all()).unwrap();
    assert_eq!(both.gpus, GpuAssignment::These(vec![GpuName::Index(0), GpuName::Index(1)]));
}

#[test]
fn arguments_that_contradict_or_are_too_many_are_invalid_input() {
    let contradicting = call(&["901", "0"], &all()).unwrap_err();
    assert!(contradicting.what().contains("`0, 1`, the argument `0`"), "{contradicting}");
    let many = call(&["901", "0", "580.76.05", REPOSITORY, INSTALLER, "x"], &[]).unwrap_err();
    assert_eq!(many.code(), ExitCode::Input);
    assert_eq!(call(&["901", "0"], &[]).unwrap_err().code(), ExitCode::Input);
}

#[test]
fn a_line_of_the_log_has_the_scripts_form() {
    assert_eq!(
        log_line("2025-08-30 18:22:26", Level::Info, "text"),
        "2025-08-30 18:22:26 [INFO] phoenix_hypervisor_lxc_common_nvidia.sh: text"
    );
    assert!(log_line("", Level::Error, "").contains("[ERROR]"));
}

const CONFIGS: &str = r#"{
    "$schema": "./phoenix_lxc_configs.schema.json",
    "nvidia_driver_version": "580.76.05",
    "nvidia_repo_url": " https://example.com/ubuntu2404/x86_64/ ",
    "unknown": [1, {}],
    "lxc_configs": {
        "1000": {"name": "old", "gpu_assignment": "0, 1", "features": "nesting=1,keyctl=1"},
        "901": {"name": "new", "gpu_assignment": "0", "features": ["nvidia", "vllm"],
            "unprivileged": true, "lxc_options": ["lxc.cap.drop="], "is_template": false},
        "902": {"name": "none", "gpu_assignment": "none"},
        "903": {"name": "says nothing"},
        "904": {"gpu_assignment": "0,,1"}
    }
}"#;

fn configs() -> PhoenixConfigs {
    PhoenixConfigs::parse(CONFIGS, "x.json").unwrap()
}

fn ctids(names: &[&str]) -> Vec<Ctid> {
    names.iter().map(|name| Ctid::parse(name).unwrap()).collect()
}

#[test]
fn the_file_gives_version_and_urls_and_may_lack_the_installer() {
    let overrides = configs().overrides();
    assert_eq!(overrides.driver.as_deref(), Some("580.76.05"));
    let url = "https://example.com/ubuntu2404/x86_64/";
    assert_eq!(overrides.repository_url.as_deref(), Some(url));
    assert_eq!(overrides.installer_url, None);
}

#[test]
fn named_containers_are_given_in_the_order_of_their_names() {
    let requests = configs().requests(&ctids(&["1000", "901", "902", "903"])).unwrap();
    let shown: Vec<String> =
        requests.iter().map(|(ctid, gpus)| format!("{ctid}: {gpus}")).collect();
    assert_eq!(shown, ["1000: 0,1", "901: 0", "902: none", "903: none"]);
}

#[test]
fn all_containers_are_given_by_number() {
    let text = CONFIGS.replace("0,,1", "all");
    let requests = PhoenixConfigs::parse(&text, "x.json").unwrap().requests(&[]).unwrap();
    let order: Vec<&str> = requests.iter().map(|(ctid, _)| ctid.as_str()).collect();
    assert_eq!(order, ["901", "902", "903", "904", "1000"]);
}

#[test]
fn a_malformed_assignment_names_the_container() {
    let error = configs().requests(&[]).unwrap_err();
    assert_eq!(error.code(), ExitCode::Input);
    assert!(error.headline().starts_with("container 904: "), "{error}");
}

#[test]
fn a_container_that_is_not_in_the_file_is_invalid_input_that_lists_what_is() {
    let error = configs().requests(&ctids(&["950"])).unwrap_err();
    assert_eq!(error.code(), ExitCode::Input);
    assert_eq!(error.hints(), ["there are 1000, 901, 902, 903, 904"]);
}

#[test]
fn a_file_of_another_kind_is_invalid_input() {
    for bad in ["", "[]", "{}", r#"{"lxc_configs": []}"#] {
        let error = PhoenixConfigs::parse(bad, "x.json").unwrap_err();
        assert_eq!(error.code(), ExitCode::Input);
        assert!(error.what().contains("`x.json`"), "{error}");
    }
}
