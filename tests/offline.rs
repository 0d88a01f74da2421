//! Packages without a network: prefetched, locked, shown inside as a partial mirror, installed by
//! the container's own apt, of Debian 12 (apt 2.6, gpgv) and of Debian 13 (apt 3, sqv).

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use support::{Host, Kind, Nodes, Site, VERSION};

fn host() -> Host {
    Host::new(Kind::Pct, Nodes::Answering(VERSION))
}

/// A distribution's suite, and the toolkit that its CUDA repository has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Suite {
    Bookworm,
    Trixie,
}

impl Suite {
    fn packages(self) -> &'static str {
        match self {
            Self::Bookworm => "packages=cuda-toolkit-12-8,nvtop",
            Self::Trixie => "packages=cuda-toolkit-13-0,nvtop",
        }
    }

    fn container(self, host: &Host, site: &Site, privilege: &str) -> String {
        let (name, root) = match self {
            Self::Bookworm => ("bookworm", "root=bookworm"),
            Self::Trixie => ("trixie", "root=trixie"),
        };
        let distribution = site.distribution_of(name);
        let mut options = vec![distribution.as_str()];
        options.extend((self == Self::Trixie).then_some(root));
        let ctid = host.container(privilege, &options);
        host.start(&ctid);
        ctid
    }
}

/// The container has no way out, and nothing else than the cache may serve it.
fn cut_off(host: &Host, ctid: &str) {
    host.inside(ctid, "ip link set eth0 down 2>/dev/null || true; mv /etc/apt/sources.list.d /etc/apt/away; mkdir /etc/apt/sources.list.d; echo 'deb [trusted=yes] http://10.99.0.1:1/ /' > /etc/apt/sources.list")
        .code(0);
}

fn from_prefetched_to_verified(suite: Suite, privilege: &str) {
    let (host, site) = (host(), Site::new());
    let (ctid, recipe) = (suite.container(&host, &site, privilege), site.recipe());
    let set = suite.packages();
    let prefetch =
        host.run(&["prefetch", "--for", &ctid, "--recipe", &recipe, "--set", set]).code(0);
    prefetch.shows(&format!("container {ctid}")).shows("signed");
    let requests = site.server.requests().len();
    cut_off(&host, &ctid);
    let arguments =
        ["provision", &ctid, "--offline", "--gpus", "0", "--recipe", &recipe, "--set", set];
    host.pct_calls();
    host.run(&arguments).code(0).shows("nvtop, from the cache");
    let calls = host.pct_calls();
    assert!(calls.len() <= 8, "{} calls of pct:\n{}", calls.len(), calls.join("\n"));
    assert_eq!(site.server.requests().len(), requests, "something was fetched");
    let look = "dpkg -l nvtop | grep ^ii; /usr/local/cuda-1*/bin/nvcc --version | tail -1; readlink -f /usr/lib/x86_64-linux-gnu/libcuda.so.1; \
        grep ' /var/lib/nvstage' /proc/mounts; ls -A -d /var/lib/nvstage /run/nvstage* /root/.nvstage* /etc/apt/*/nvstage-cuda* /var/cache/apt/archives/*.deb 2>/dev/null; ls /etc/apt/preferences.d";
    let seen = host.inside(&ctid, look).code(0).stdout;
    assert!(seen.contains("ii  nvtop") && seen.contains("Build cuda_1"), "{seen}");
    assert!(seen.contains("libcuda.so.580.76.05\n00-nvstage-gpu\n"), "{seen}");
    let (init, log) = (host.init(&ctid), "stat -c %Y%s /var/log/apt/history.log");
    let before = host.inside(&ctid, log).stdout;
    let run = host.run(&arguments).code(0);
    assert!(!run.stdout.contains(" changed "), "{}", run.stdout);
    assert_eq!(host.init(&ctid), init);
    assert_eq!(host.inside(&ctid, log).stdout, before);
}

#[test]
fn a_privileged_container_of_debian_12() {
    from_prefetched_to_verified(Suite::Bookworm, "privileged");
}

#[test]
fn an_unprivileged_container_of_debian_12() {
    from_prefetched_to_verified(Suite::Bookworm, "unprivileged");
}

#[test]
fn a_privileged_container_of_debian_13() {
    from_prefetched_to_verified(Suite::Trixie, "privileged");
}

#[test]
fn an_unprivileged_container_of_debian_13() {
    from_prefetched_to_verified(Suite::Trixie, "unprivileged");
}
