//! The checks of a running container's system.

use serde::Deserialize;

use super::devices;
use super::evidence::{CLibrary, ContainerEvidence, HostEvidence, Inside};
use super::lines::{self, Passed};
use super::remedy;
use super::{CheckName, InsideCheck, Judged, Problem, Remedy, listed, number, with_more};
use crate::facts::NodeState;
use crate::journal::Journal;
use crate::recipe::Userland;
use crate::version::DriverVersion;

/// In order, each with what it looks at.
pub(super) const CHECKS: &[(CheckName, &str, InsideCheck)] = &[
    (CheckName::DriverVersion, "libcuda, libnvidia-ml, /var/lib/nvidia/log", driver_version),
    (CheckName::Nodes, "the nodes that the configuration passes", nodes),
    (CheckName::ForeignDriver, "files of dpkg's packages, /var/lib/nvidia/log", foreign_driver),
    (CheckName::LeftOverLibraries, "the directory of libraries", left_over_libraries),
    (CheckName::DockerCgroups, RUNTIME_CONFIG, docker_cgroups),
    (CheckName::Musl, "the C library", musl),
];

/// Where NVIDIA's container runtime, which Docker uses, is configured.
const RUNTIME_CONFIG: &str = "/etc/nvidia-container-runtime/config.toml";
/// The libraries that talk to the kernel module.
const LIBRARIES: [&str; 2] = ["libcuda.so", "libnvidia-ml.so"];

fn driver_version(
    host: &HostEvidence<'_>,
    container: &ContainerEvidence,
    inside: &Inside,
) -> Judged {
    let module = host.loaded()?;
    // What is left in a container without GPUs harms nobody, and musl has a finding of its own.
    if !container.passes() || inside.c_library == CLibrary::Musl {
        return Ok(Vec::new());
    }
    let mut versions: Vec<(String, DriverVersion)> = Vec::new();
    let mut unfound = Vec::new();
    for library in LIBRARIES {
        match inside.version_of(library) {
            Some(version) => versions.push((format!("`{library}.1`"), version)),
            None => unfound.push(format!("`{library}.1`")),
        }
    }
    if let Some(recorded) = &inside.recorded {
        versions.push(("the installer's record".to_owned(), recorded.clone()));
    }
    let differing: Vec<String> = versions
        .iter()
        .filter(|(_, version)| version != module)
        .map(|(what, version)| format!("{what} {version}"))
        .collect();
    let text = if versions.is_empty() {
        format!("no driver is installed in it; the kernel module is {module}")
    } else if !differing.is_empty() {
        format!("the kernel module is {module}, {}", listed(&differing))
    } else if !unfound.is_empty() {
        format!("programs do not find {}", listed(&unfound))
    } else {
        return Ok(Vec::new());
    };
    let remedy = match differing.is_empty() {
        true => remedy::provision(host, container),
        false => remedy::follow(host, container),
    };
    Ok(vec![Problem::error(inside.library_directory.as_str(), text).remedy(remedy)])
}

fn nodes(host: &HostEvidence<'_>, container: &ContainerEvidence, inside: &Inside) -> Judged {
    let facts = inside.facts.as_ref().map_err(Clone::clone)?;
    let mut problems = Vec::new();
    for passed in lines::passed(&container.config) {
        let Some(state) = facts.nodes.get(&passed.inside) else { continue };
        let is_on_host = host.nodes.iter().any(|node| passed.covers(&node.path));
        let remedy = match state {
            NodeState::Opens | NodeState::Directory => continue,
            // A node that the host lacks is a finding of the host's.
            NodeState::Missing | NodeState::NotADevice if !is_on_host => continue,
            NodeState::NoDriver if !inside.answering.contains(&passed.path) => continue,
            // So is a mode that keeps everybody out.
            NodeState::NoAccess if is_closed(host, &passed) => continue,
            NodeState::Missing | NodeState::NotADevice | NodeState::NoDriver => {
                remedy::restart(container).into()
            }
            // So are rules that forbid it, of the configuration.
            NodeState::Forbidden if devices::is_forbidden(host, container, &passed.path) => {
                continue;
            }
            NodeState::Forbidden | NodeState::NoAccess | NodeState::Other(_) => {
                remedy::provision(host, container)
            }
        };
        let text = match state {
            NodeState::NoDriver => {
                format!("`{}` has another number inside than on the host (ENXIO)", passed.inside)
            }
            state => format!("`{}` {state}", passed.inside),
        };
        problems.push(Problem::error(passed.inside, text).remedy(remedy));
    }
    Ok(problems)
}

fn foreign_driver(
    host: &HostEvidence<'_>,
    container: &ContainerEvidence,
    inside: &Inside,
) -> Judged {
    let facts = inside.facts.as_ref().map_err(Clone::clone)?;
    let shares = |journal: &Journal| journal.userland == Userland::Share;
    let is_shared =
        container.journal.as_ref().is_ok_and(|known| known.as_ref().is_some_and(shares));
    // The distribution's driver alone is the only one.
    let is_second = inside.recorded.is_some() || is_shared;
    let Some(finding) = facts.second_driver().filter(|_| is_second) else {
        return Ok(Vec::new());
    };
    let purge = remedy::inside(container, &facts.second_driver_removal());
    let remedy = match remedy::provision(host, container) {
        Remedy::Command(again) => Remedy::Command(format!("{purge}; {again}")),
        choice @ Remedy::Advice(_) => remedy::then(&format!("`{purge}`"), &choice),
    };
    Ok(vec![Problem::error("files of dpkg's packages", finding).remedy(remedy)])
}

/// Whether the host's own node is one that others may not open, and the container sees that node.
fn is_closed(host: &HostEvidence<'_>, passed: &Passed) -> bool {
    let mut nodes =
        host.nodes.iter().filter(|node| passed.is_mounted() && passed.path == node.path);
    nodes.any(|node| node.mode & 0o6 != 0o6)
}

fn left_over_libraries(
    _: &HostEvidence<'_>,
    container: &ContainerEvidence,
    inside: &Inside,
) -> Judged {
    let installed = inside.recorded.clone().or_else(|| inside.version_of(LIBRARIES[0]));
    let Some(installed) = installed else { return Ok(Vec::new()) };
    let is_left_over = |name: &&String| file_version(name).is_some_and(|v| v != installed);
    let left: Vec<&String> = inside.libraries.iter().filter(is_left_over).collect();
    let Some(first) = left.first() else { return Ok(Vec::new()) };
    let text = format!(
        "{} {} of another version than the installed {installed}",
        with_more(first, left.len()),
        number(left.len(), "is", "are"),
    );
    let mut versions: Vec<String> =
        left.iter().filter_map(|name| file_version(name)).map(|v| v.to_string()).collect();
    versions.dedup();
    let directory = &inside.library_directory;
    let globs: Vec<String> =
        versions.iter().map(|version| format!("{directory}/lib*.so.{version}")).collect();
    let script = format!("rm {} && ldconfig", globs.join(" "));
    let looked_at = format!("{directory}/{first}");
    let remedy = remedy::inside(container, &["sh", "-c", &script]);
    Ok(vec![Problem::warning(looked_at, text).remedy(remedy)])
}

/// The part of the runtime's configuration that matters here; the rest is not ours.
#[derive(Deserialize)]
struct RuntimeConfig {
    #[serde(rename = "nvidia-container-cli", default)]
    cli: ContainerCli,
}

#[derive(Default, Deserialize)]
struct ContainerCli {
    #[serde(rename = "no-cgroups", default)]
    no_cgroups: bool,
}

fn docker_cgroups(_: &HostEvidence<'_>, container: &ContainerEvidence, inside: &Inside) -> Judged {
    let Some(text) = &inside.container_runtime else { return Ok(Vec::new()) };
    if !container.config.is_unprivileged() || !inside.has_docker {
        return Ok(Vec::new());
    }
    let problem = match toml::from_str::<RuntimeConfig>(text) {
        Ok(config) if config.cli.no_cgroups => return Ok(Vec::new()),
        Ok(_) => "`no-cgroups` is not true: Docker's containers cannot get the GPU".to_owned(),
        Err(error) => format!("it cannot be understood: {}", error.message()),
    };
    let command =
        ["nvidia-ctk", "config", "--set", "nvidia-container-cli.no-cgroups", "--in-place"];
    let problem = Problem::error(RUNTIME_CONFIG, problem);
    Ok(vec![problem.remedy(remedy::inside(container, &command))])
}

fn musl(_: &HostEvidence<'_>, container: &ContainerEvidence, inside: &Inside) -> Judged {
    if inside.c_library != CLibrary::Musl || !container.passes() {
        return Ok(Vec::new());
    }
    let text = "the container's C library is musl: NVIDIA's libraries need glibc";
    Ok(vec![Problem::error("/lib", text).advice("use a container of Debian or Ubuntu")])
}

impl Inside {
    /// The version that the file name of a library has: of the one that programs find, or of the
    /// one that lies there.
    fn version_of(&self, library: &str) -> Option<DriverVersion> {
        match &self.facts {
            Ok(facts) => facts.library_version(&format!("{library}.1")),
            Err(_) => {
                let names = self.libraries.iter();
                let mut own = names.filter(|name| name.starts_with(library));
                own.find_map(|name| file_version(name))
            }
        }
    }
}

/// The driver's version in the name of one of its libraries. Libraries of NVIDIA's with a version
/// of their own (`libnvidia-egl-wayland.so.1.1.13`) are no part of a driver's numbers: those
/// begin at 100.
fn file_version(name: &str) -> Option<DriverVersion> {
    let (stem, version) = name.split_once(".so.")?;
    let is_drivers = stem == "libcuda" || stem.starts_with("libnvidia-");
    let major: u32 = version.split('.').next()?.parse().ok()?;
    (is_drivers && major >= 100).then(|| DriverVersion::parse(version).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::super::samples::{
        CONFIG, container, healthy_host, healthy_inside, host_of, version,
    };
    use super::*;
    use crate::doctor::Severity;
    use crate::facts::Package;

    fn found(check: InsideCheck, text: &str, inside: &Inside) -> Vec<Problem> {
        check(&host_of(&healthy_host()), &container(text), inside).unwrap()
    }

    #[test]
    fn another_version_than_the_modules_is_found_in_all_its_parts() {
        let mut inside = healthy_inside();
        assert_eq!(found(driver_version, CONFIG, &inside), []);
        inside.recorded = Some(version("580.76.06"));
        let problems = found(driver_version, CONFIG, &inside);
        assert_eq!(
            problems[0].finding,
            "the kernel module is 580.76.05, the installer's record 580.76.06"
        );
        assert_eq!(
            problems[0].remedy.as_deref(),
            Some("nvstage provision 201 --gpus 0 --recipe driver-only")
        );
        assert_eq!(found(driver_version, "arch: amd64\n", &inside), []);
        let mut host = healthy_host();
        host.module = None;
        assert!(driver_version(&host_of(&host), &container(CONFIG), &inside).is_err());
    }

    #[test]
    fn a_missing_driver_or_library_is_found() {
        let mut inside = healthy_inside();
        inside.facts.as_mut().unwrap().libraries.remove("libnvidia-ml.so.1");
        let problems = found(driver_version, CONFIG, &inside);
        assert_eq!(problems[0].finding, "programs do not find `libnvidia-ml.so.1`");
        inside.facts.as_mut().unwrap().libraries.clear();
        inside.recorded = None;
        let problems = found(driver_version, CONFIG, &inside);
        assert!(problems[0].finding.starts_with("no driver is installed"), "{problems:?}");
        inside.c_library = CLibrary::Musl;
        assert_eq!(found(driver_version, CONFIG, &inside), []);
    }

    #[test]
    fn names_of_files_tell_the_version_where_nothing_can_be_run() {
        let mut inside = healthy_inside();
        inside.facts = Err("no `sh` in it".to_owned());
        assert_eq!(found(driver_version, CONFIG, &inside), []);
        inside.libraries.iter_mut().for_each(|name| *name = name.replace("580.76", "570.76"));
        assert!(found(driver_version, CONFIG, &inside)[0].finding.contains("570.76.05"));
        let host = healthy_host();
        assert_eq!(
            nodes(&host_of(&host), &container(CONFIG), &inside).unwrap_err(),
            "no `sh` in it"
        );
    }

    #[test]
    fn nodes_that_do_not_open_are_found_with_what_helps() {
        let mut inside = healthy_inside();
        assert_eq!(found(nodes, CONFIG, &inside), []);
        for (state, remedy) in [
            (NodeState::Forbidden, "nvstage provision 201 --gpus 0 --recipe driver-only"),
            (NodeState::NoAccess, "nvstage provision 201 --gpus 0 --recipe driver-only"),
            (NodeState::Missing, "pct reboot 201"),
            (NodeState::NotADevice, "pct reboot 201"),
        ] {
            let nodes_of = &mut inside.facts.as_mut().unwrap().nodes;
            nodes_of.insert("/dev/nvidia0".to_owned(), state);
            let problems = found(nodes, CONFIG, &inside);
            assert_eq!((problems.len(), problems[0].remedy.as_deref()), (1, Some(remedy)));
        }
    }

    #[test]
    fn a_mode_that_the_hosts_node_has_is_told_of_the_host_alone() {
        let (mut host, mut inside) = (healthy_host(), healthy_inside());
        let nodes_of = &mut inside.facts.as_mut().unwrap().nodes;
        nodes_of.insert("/dev/nvidia0".to_owned(), NodeState::NoAccess);
        assert_eq!(nodes(&host_of(&host), &container(CONFIG), &inside).unwrap().len(), 1);
        host.nodes[0].mode = 0o660;
        assert_eq!(nodes(&host_of(&host), &container(CONFIG), &inside).unwrap(), []);
    }

    #[test]
    fn silence_is_a_finding_only_where_the_hosts_own_node_answers() {
        let mut inside = healthy_inside();
        let nodes_of = &mut inside.facts.as_mut().unwrap().nodes;
        nodes_of.insert("/dev/nvidia0".to_owned(), NodeState::NoDriver);
        assert_eq!(found(nodes, CONFIG, &inside), []);
        inside.answering.insert("/dev/nvidia0".to_owned());
        assert!(found(nodes, CONFIG, &inside)[0].finding.contains("another number"));
    }

    #[test]
    fn packages_with_a_driver_beside_the_installers_are_found() {
        let mut inside = healthy_inside();
        let package = |name: &str| Package {
            name: name.to_owned(),
            version: "1".to_owned(),
            status: "ii ".to_owned(),
        };
        assert_eq!(found(foreign_driver, CONFIG, &inside), []);
        inside.facts.as_mut().unwrap().driver_packages.push(package("libcuda1"));
        let problems = found(foreign_driver, CONFIG, &inside);
        let remedy = problems[0].remedy.as_deref().unwrap();
        assert!(remedy.starts_with("pct exec 201 -- apt-get purge libcuda1; "), "{remedy}");
        inside.recorded = None;
        assert_eq!(found(foreign_driver, CONFIG, &inside), []);
    }

    #[test]
    fn libraries_of_another_version_are_left_over() {
        let mut inside = healthy_inside();
        for own in ["libnvidia-egl-wayland.so.1.1.13", "libnvidia-nvvm.so.4.0.0", "libcuda.so.1"] {
            inside.libraries.push(own.to_owned());
        }
        assert_eq!(found(left_over_libraries, CONFIG, &inside), []);
        inside.libraries.push("libnvidia-ml.so.570.207".to_owned());
        let problems = found(left_over_libraries, CONFIG, &inside);
        assert_eq!((problems.len(), problems[0].severity), (1, Severity::Warning));
        assert!(problems[0].remedy.as_deref().unwrap().contains("/lib*.so.570.207 && ldconfig"));
        inside.recorded = None;
        inside.facts.as_mut().unwrap().libraries.clear();
        assert_eq!(found(left_over_libraries, CONFIG, &inside), []);
    }

    #[test]
    fn docker_in_an_unprivileged_container_must_leave_cgroups_alone() {
        let mut inside = healthy_inside();
        let text = format!("{CONFIG}unprivileged: 1\n");
        inside.has_docker = true;
        assert_eq!(found(docker_cgroups, &text, &inside), []);
        for (config, expected) in [
            ("disable-require = false\n[nvidia-container-cli]\nno-cgroups = true\n", 0),
            ("[nvidia-container-cli]\n#no-cgroups = true\n", 1),
            ("[nvidia-container-cli]\nno-cgroups = false\n", 1),
            ("no-cgroups = true\n[nvidia-container-cli]\n", 1),
            ("", 1),
            ("[nvidia-container-cli", 1),
        ] {
            inside.container_runtime = Some(config.to_owned());
            assert_eq!(found(docker_cgroups, &text, &inside).len(), expected, "{config}");
            assert_eq!(found(docker_cgroups, CONFIG, &inside), [], "{config}");
        }
        inside.has_docker = false;
        assert_eq!(found(docker_cgroups, &text, &inside), []);
    }

    #[test]
    fn musl_is_a_finding_in_containers_with_gpus() {
        let mut inside = healthy_inside();
        inside.c_library = CLibrary::Unknown;
        assert_eq!(found(musl, CONFIG, &inside), []);
        inside.c_library = CLibrary::Musl;
        assert_eq!(found(musl, CONFIG, &inside)[0].severity, Severity::Error);
        assert_eq!(found(musl, "arch: amd64\n", &inside), []);
    }
}
