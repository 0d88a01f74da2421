//! `prefetch` as a user runs it: what reaches the cache, what is refused, what is recorded.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::process::Stdio;

use support::server::{Authority, Fault, Server};
use support::{Host, Kind, Nodes, Run, Site, VERSION, installer};

fn host() -> Host {
    Host::new(Kind::Pct, Nodes::Answering(VERSION))
}

const PATH: &str = "/installer/NVIDIA-Linux-x86_64-580.76.05.run";

/// What lies in the cache, without what every cache has.
fn cached(host: &Host) -> String {
    host.shell("cd /var/cache/nvstage && find blobs-v1 partial-v1 trees-v1 -mindepth 1 -maxdepth 2 ! -name sha256 ! -name '.*.lock'")
        .stdout
}

#[test]
fn the_second_time_nothing_is_fetched() {
    let (host, site) = (host(), Site::new());
    let recipe = site.recipe();
    let arguments = ["prefetch", "--for", "debian12", "--recipe", &recipe];
    host.run(&arguments)
        .code(0)
        .shows("NVIDIA-Linux-x86_64-580.76.05.run")
        .shows("key for debian12");
    let requests = site.server.requests().len();
    assert_eq!(requests, 2, "installer and key");
    let report = host.run(&["--json", "prefetch", "--for", "debian12", "--recipe", &recipe]);
    let report = report.code(0).json();
    assert_eq!(site.server.requests().len(), requests);
    assert_eq!(report["items"][0]["trust"], "pinned");
    assert_eq!(report["items"][1]["trust"], "fingerprint");
    let lock =
        host.shell("cat /var/cache/nvstage/locks-v1/test-debian12-x86_64.lock").code(0).stdout;
    assert!(
        lock.contains("version = \"580.76.05\"") && lock.contains("trust = \"pinned\""),
        "{lock}"
    );
    // Containers are provisioned from it, the repository's key included, without another request.
    let ctid = host.container("unprivileged", &[&site.distribution()]);
    host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &recipe]).code(0);
    let from_host = |request: &&support::server::Request| {
        request.target.contains("/installer/") || request.target.ends_with(".pub")
    };
    assert_eq!(site.server.requests().iter().filter(from_host).count(), requests);
}

#[test]
fn a_server_that_misbehaves_and_recovers() {
    let (host, site) = (host(), Site::new());
    let recipe = site.driver_only();
    site.server.faults(
        PATH,
        [Fault::Status(503), Fault::TruncateAfter(150_000), Fault::ResetAfter(90_000)],
    );
    host.run(&["prefetch", "--recipe", &recipe]).code(0);
    let ranges: Vec<_> = site.server.requests().into_iter().map(|request| request.range).collect();
    assert_eq!(ranges.len(), 4);
    assert!(ranges[2].is_some(), "it starts again instead of continuing: {ranges:?}");
}

#[test]
fn what_is_not_the_pinned_file_never_stays() {
    let (host, site) = (host(), Site::new());
    let recipe = site.driver_only();
    let prefetch = || host.run(&["prefetch", "--recipe", &recipe, "--timeout", "1"]);
    for (fault, says) in [
        (Fault::Status(404), "404"),
        (Fault::WebPage, "web page"),
        (Fault::Longer(1000), "bytes or more, wanted are"),
        (Fault::AnnounceMore(1000), "bytes, wanted are"),
    ] {
        site.server.faults(PATH, vec![fault.clone(); 5]);
        let run = prefetch().code(5);
        assert!(run.stderr.contains(says), "{fault:?}: {}", run.stderr);
        assert_eq!(cached(&host), "", "{fault:?}");
        // Whatever faults are left over are used up by the next attempt.
        while prefetch().code != 0 {}
        host.shell("rm -rf /var/cache/nvstage/*").code(0);
    }
    let mut bytes = std::fs::read(installer(VERSION)).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    site.server.file(PATH, &bytes);
    prefetch().code(5).says("digest");
    assert_eq!(cached(&host), "");
}

#[test]
fn a_file_of_another_version_under_the_right_name() {
    let (host, site) = (host(), Site::new());
    let other = std::fs::read(installer("580.95.05")).unwrap();
    let text = std::fs::read_to_string(site.driver_only()).unwrap();
    let digest = nvstage::digest::Digest::of(&other).to_string();
    let wrong = format!(
        "[[driver.pins]]\nversion = \"580.76.05\"\narchitecture = \"x86_64\"\nsha256 = \"{digest}\"\nsize = {}\n",
        other.len()
    );
    // The pin itself is wrong: everything fits but the version in the file's own header.
    let text = text.replacen("[[driver.pins]]", &format!("{wrong}[[driver.pins]]"), 1);
    std::fs::write(site.driver_only(), text).unwrap();
    site.server.file(PATH, &other);
    host.run(&["prefetch", "--recipe", &site.driver_only()])
        .code(5)
        .says("580.76.05")
        .says("580.95.05");
    assert_eq!(host.shell("ls /var/cache/nvstage/trees-v1").stdout, "");
}

#[test]
fn a_mirror_serves_when_the_first_url_does_not() {
    let (host, site) = (host(), Site::new());
    let text = std::fs::read_to_string(site.driver_only()).unwrap();
    let good = site.server.url("/installer/NVIDIA-Linux-{arch}-{version}.run");
    let local = installer(VERSION);
    let urls = format!("[\"{}\", \"{good}\"]", site.server.url("/gone/{version}.run"));
    std::fs::write(site.driver_only(), text.replace(&format!("[\"{good}\"]"), &urls)).unwrap();
    host.run(&["prefetch", "--recipe", &site.driver_only()]).code(0);
    assert_eq!(site.requests(), 1);
    // A path of this machine is as good as a URL: the digest decides.
    host.shell("rm -rf /var/cache/nvstage/*").code(0);
    for source in [local.display().to_string(), format!("file://{}", local.display())] {
        let set = format!("installer.url={source}");
        host.run(&["prefetch", "--recipe", &site.driver_only(), "--set", &set]).code(0);
        host.shell("rm -rf /var/cache/nvstage/*").code(0);
    }
    assert_eq!(site.requests(), 1);
}

#[test]
fn two_at_once_download_once() {
    let (host, site) = (host(), Site::new());
    let recipe = site.driver_only();
    let start = || {
        let mut command = host.nvstage();
        command
            .args(["prefetch", "--recipe", &recipe])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let children = [start(), start(), start()];
    for child in children {
        let run: Run = child.wait_with_output().unwrap().into();
        run.code(0);
    }
    assert_eq!(site.requests(), 1);
}

#[test]
fn without_a_pin_the_published_digest_needs_tls_and_a_flag() {
    let (host, site) = (host(), Site::new());
    host.load_module("313.30");
    let authority = Authority::new();
    let tls = Server::with_tls(&authority);
    let pem = host.directory.path().join("authority.pem");
    std::fs::write(&pem, authority.pem()).unwrap();
    let bytes = std::fs::read(installer("313.30")).unwrap();
    let (name, digest) = ("NVIDIA-Linux-x86_64-313.30.run", nvstage::digest::Digest::of(&bytes));
    let published = format!("{digest}  {name}\n");
    for server in [&tls, &site.server] {
        server.file(&format!("/{name}"), &bytes);
        server.file(&format!("/{name}.sha256sum"), published.as_bytes());
    }
    let prefetch = |server: &Server, more: &[&str]| -> Run {
        let set = format!("installer.url={}", server.url(&format!("/{name}")));
        let mut command = host.nvstage();
        command.env("SSL_CERT_FILE", &pem).args(["--json", "prefetch", "--set", &set]);
        command.args(["--recipe", &site.driver_only()]).args(more).output().unwrap().into()
    };
    prefetch(&tls, &[]).code(5).says("no digest of it is pinned").says("--trust-tls");
    // Without TLS the digest proves nothing, whatever the flag says.
    prefetch(&site.server, &["--trust-tls"]).code(5).says("TLS");
    assert_eq!(cached(&host), "");
    // A digest that is not the file's is worse than none.
    tls.file(&format!("/{name}.sha256sum"), published.replacen(&published[..1], "x", 1).as_bytes());
    prefetch(&tls, &["--trust-tls"]).code(5);
    tls.file(&format!("/{name}.sha256sum"), published.as_bytes());
    let report = prefetch(&tls, &["--trust-tls"]).code(0).json();
    assert_eq!(report["items"][0]["trust"], "tls");
    // It is recorded: from now on that file and no other, without the flag.
    let requests = tls.requests().len();
    let report = prefetch(&tls, &[]).code(0).json();
    assert_eq!(report["items"][0]["trust"], "tls");
    assert_eq!(tls.requests().len(), requests);
    // Also after another version took its place in the lock, and the file is gone.
    host.load_module(VERSION);
    host.run(&["prefetch", "--recipe", &site.driver_only()]).code(0);
    host.run(&["cache", "prune"]).code(0);
    host.load_module("313.30");
    tls.file(&format!("/{name}"), b"another file");
    prefetch(&tls, &[]).code(5);
    tls.file(&format!("/{name}"), &bytes);
    let report = prefetch(&tls, &[]).code(0).json();
    assert_eq!(report["items"][0]["trust"], "tls");
}
