//! Downloads into the cache, from servers that behave and servers that do not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where it is surprised"
)]
#![allow(clippy::disallowed_methods, reason = "tests prepare directories and run themselves again")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nvstage::artifact::Artifact;
use nvstage::cache::{Cache, CachedArtifact};
use nvstage::digest::Digest;
use nvstage::error::{Error, ExitCode, Result};
use nvstage::event::{Event, Events, Silent};
use nvstage::fetch::{FetchOptions, Fetcher};
use nvstage::host::cancel::Cancel;

#[path = "support/runfile.rs"]
mod runfile;
#[path = "support/server.rs"]
mod server;

use runfile::{Packing, RunFile};
use server::{Authority, Fault, Server};

const PATH: &str = "/NVIDIA-Linux-x86_64-580.76.05.run";

fn content() -> Vec<u8> {
    (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn artifact(content: &[u8], urls: &[String]) -> Artifact {
    Artifact {
        name: PATH[1..].to_owned(),
        urls: urls.to_vec(),
        size: Some(content.len() as u64),
        digest: Some(Digest::of(content)),
    }
}

struct World {
    directory: tempfile::TempDir,
    cache: Cache,
    fetcher: Fetcher,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path(), &Cancel::never().unwrap()).unwrap();
        Self { directory, cache, fetcher: fetcher() }
    }

    fn obtain(&self, artifact: &Artifact) -> Result<CachedArtifact> {
        self.cache.obtain(artifact, &self.fetcher, &Silent)
    }

    fn names(&self, part: &str) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path().join(part)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn assert_nothing_kept(&self) {
        assert_eq!(self.names("blobs-v1/sha256"), Vec::<String>::new());
        assert_eq!(self.names("partial-v1"), Vec::<String>::new());
    }
}

fn fetcher() -> Fetcher {
    let options =
        FetchOptions { stall: Duration::from_secs(1), attempts: 3, ..FetchOptions::default() };
    Fetcher::new(options, Cancel::never().unwrap()).with_first_wait(Duration::from_millis(10))
}

/// Serves the content with these faults, obtains it, and returns the result and the ranges asked.
fn obtain_with(faults: &[Fault]) -> (Result<CachedArtifact>, Vec<Option<String>>, World) {
    let (server, world, content) = (Server::start(), World::new(), content());
    let url = server.file(PATH, &content);
    server.faults(PATH, faults.iter().cloned());
    let result = world.obtain(&artifact(&content, &[url]));
    let ranges = server.requests().into_iter().map(|request| request.range).collect();
    if let Ok(cached) = &result {
        assert_eq!(fs::read(cached.path()).unwrap(), content);
        assert_eq!(world.names("partial-v1"), Vec::<String>::new());
    }
    (result, ranges, world)
}

fn failure(result: Result<CachedArtifact>) -> String {
    let error: Error = result.unwrap_err();
    assert_eq!(error.code(), ExitCode::Install, "{error}");
    error.to_string()
}

fn range(from: usize) -> Option<String> {
    Some(format!("bytes={from}-"))
}

#[test]
fn a_download_becomes_a_read_only_blob_and_is_not_repeated() {
    let (server, world, content) = (Server::start(), World::new(), content());
    let wanted = artifact(&content, &[server.file(PATH, &content)]);
    let cached = world.obtain(&wanted).unwrap();
    let mode = fs::metadata(cached.path()).unwrap().permissions().mode();
    assert_eq!((mode & 0o777, cached.size()), (0o444, content.len() as u64));
    assert_eq!(world.obtain(&wanted).unwrap(), cached);
    assert_eq!(server.requests().len(), 1);
    assert!(world.directory.path().join("CACHEDIR.TAG").exists());
}

#[test]
fn passing_errors_of_the_server_are_tried_again() {
    let (result, ranges, _world) = obtain_with(&[Fault::Status(503), Fault::Status(502)]);
    result.unwrap();
    assert_eq!(ranges, [None, None, None]);
}

#[test]
fn attempts_end() {
    let (result, ranges, world) = obtain_with(&vec![Fault::Status(503); 9]);
    assert!(failure(result).contains("503"));
    assert_eq!(ranges.len(), 3);
    world.assert_nothing_kept();
}

#[test]
fn a_wish_to_be_asked_later_is_honoured() {
    let began = Instant::now();
    let (result, _, _world) = obtain_with(&[Fault::RetryAfter(429, 1)]);
    result.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[test]
fn a_missing_file_is_not_tried_again() {
    let (result, ranges, world) = obtain_with(&[Fault::Status(404)]);
    assert!(failure(result).contains("404"));
    assert_eq!(ranges.len(), 1);
    world.assert_nothing_kept();
}

#[test]
fn a_reset_connection_continues_at_its_byte() {
    let (result, ranges, _world) = obtain_with(&[Fault::ResetAfter(1_000_000)]);
    result.unwrap();
    assert_eq!(ranges, [None, range(1_000_000)]);
}

#[test]
fn a_truncated_body_continues_at_its_byte() {
    let faults = [Fault::TruncateAfter(700_001), Fault::TruncateAfter(99)];
    let (result, ranges, _world) = obtain_with(&faults);
    result.unwrap();
    assert_eq!(ranges, [None, range(700_001), range(700_100)]);
}

#[test]
fn progress_renews_the_attempts() {
    let (result, ranges, _world) = obtain_with(&vec![Fault::TruncateAfter(500_000); 5]);
    result.unwrap();
    assert_eq!(ranges.len(), 6);
}

#[test]
fn a_silent_server_is_left_and_continued() {
    let began = Instant::now();
    let (result, ranges, _world) = obtain_with(&[Fault::StallAfter(123_456)]);
    result.unwrap();
    assert_eq!(ranges, [None, range(123_456)]);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_server_without_ranges_starts_again() {
    let (server, world, content) = (Server::start(), World::new(), content());
    let url = server.file(PATH, &content);
    server.ignore_ranges();
    server.faults(PATH, [Fault::TruncateAfter(500)]);
    let cached = world.obtain(&artifact(&content, &[url])).unwrap();
    assert_eq!(fs::read(cached.path()).unwrap(), content);
    assert_eq!(server.requests()[1].range, range(500));
}

#[test]
fn a_wrong_range_is_not_believed() {
    let (result, ranges, _world) = obtain_with(&[Fault::TruncateAfter(500), Fault::WrongRange]);
    result.unwrap();
    assert_eq!(ranges, [None, range(500), None]);
}

#[test]
fn a_web_page_is_refused_at_once() {
    let (result, ranges, world) = obtain_with(&[Fault::WebPage]);
    assert!(failure(result).contains("web page"));
    assert_eq!(ranges.len(), 1);
    world.assert_nothing_kept();
}

#[test]
fn more_bytes_than_pinned_are_refused() {
    let (result, ranges, world) = obtain_with(&[Fault::Longer(10_000_000)]);
    assert!(failure(result).contains("bytes or more, wanted are 3000000"));
    assert_eq!(ranges.len(), 1);
    world.assert_nothing_kept();
}

#[test]
fn another_announced_size_is_refused_before_the_body() {
    let (result, _, world) = obtain_with(&[Fault::AnnounceMore(1)]);
    assert!(failure(result).contains("the file has 3000001 bytes, wanted are 3000000"));
    world.assert_nothing_kept();
}

#[test]
fn a_redirect_is_followed() {
    let (other, content) = (Server::start(), content());
    let elsewhere = other.file("/elsewhere", &content);
    let (result, _, _world) = obtain_with(&[Fault::Redirect(elsewhere)]);
    result.unwrap();
    assert_eq!(other.requests().len(), 1);
}

#[test]
fn a_wrong_digest_leaves_nothing() {
    let (server, world, mut content) = (Server::start(), World::new(), content());
    let wanted = artifact(&content, &[server.url(PATH)]);
    content[5] ^= 1;
    server.file(PATH, &content);
    let text = failure(world.obtain(&wanted));
    assert!(text.contains(&Digest::of(&content).to_string()), "{text}");
    world.assert_nothing_kept();
}

#[test]
fn mirrors_are_tried_in_order_and_all_failures_are_told() {
    let (first, second, world, content) =
        (Server::start(), Server::start(), World::new(), content());
    let wanted = artifact(&content, &[first.url(PATH), second.url(PATH)]);
    let text = failure(world.obtain(&wanted));
    assert!(text.contains(&first.url(PATH)) && text.contains(&second.url(PATH)), "{text}");
    second.file(PATH, &content);
    world.obtain(&wanted).unwrap();
    assert_eq!((first.requests().len(), second.requests().len()), (2, 2));
}

#[test]
fn a_mirror_continues_what_another_began() {
    let (first, second, world, content) =
        (Server::start(), Server::start(), World::new(), content());
    let urls = [first.file(PATH, &content), second.file(PATH, &content)];
    first.faults(PATH, [Fault::TruncateAfter(1000), Fault::Status(404)]);
    world.obtain(&artifact(&content, &urls)).unwrap();
    assert_eq!(second.requests()[0].range, range(1000));
}

#[test]
fn bytes_of_a_wrong_mirror_do_not_spoil_the_right_one() {
    let (first, second, world, content) =
        (Server::start(), Server::start(), World::new(), content());
    let wrong = vec![b'?'; content.len()];
    let urls = [first.file(PATH, &wrong), second.file(PATH, &content)];
    first.faults(PATH, [Fault::TruncateAfter(1000), Fault::Status(404)]);
    world.obtain(&artifact(&content, &urls)).unwrap();
    let ranges: Vec<_> = second.requests().into_iter().map(|request| request.range).collect();
    assert_eq!(ranges, [range(1000), None]);
}

#[test]
fn a_run_that_was_killed_is_continued() {
    let (server, world, content) = (Server::start(), World::new(), content());
    let wanted = artifact(&content, &[server.file(PATH, &content)]);
    let partial = world.directory.path().join("partial-v1").join(Digest::of(&content).to_string());
    fs::write(&partial, &content[..2_000_000]).unwrap();
    world.obtain(&wanted).unwrap();
    assert_eq!(server.requests()[0].range, range(2_000_000));
    assert!(server.bytes_sent() <= 1_000_000);
}

#[test]
fn a_finished_partial_file_needs_no_network() {
    let (world, content) = (World::new(), content());
    let partial = world.directory.path().join("partial-v1").join(Digest::of(&content).to_string());
    fs::write(&partial, &content).unwrap();
    world.obtain(&artifact(&content, &[])).unwrap();
}

#[test]
fn a_damaged_partial_file_is_started_again() {
    let (server, world, content) = (Server::start(), World::new(), content());
    let wanted = artifact(&content, &[server.file(PATH, &content)]);
    let partial = world.directory.path().join("partial-v1").join(Digest::of(&content).to_string());
    for damaged in [vec![0; 1000], vec![0; content.len()], vec![0; content.len() + 1]] {
        fs::write(&partial, damaged).unwrap();
        let cached = world.obtain(&wanted).unwrap();
        fs::remove_file(cached.path()).unwrap();
    }
}

#[test]
fn several_that_want_the_same_download_it_once() {
    let (server, content) = (Server::start(), content());
    let directory = tempfile::tempdir().unwrap();
    let wanted = artifact(&content, &[server.file(PATH, &content)]);
    server.faults(PATH, [Fault::StallAfter(500_000)]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let cache = Cache::open(directory.path(), &Cancel::never().unwrap()).unwrap();
                cache.obtain(&wanted, &fetcher(), &Silent).unwrap();
            });
        }
    });
    assert_eq!(server.requests().len(), 2, "one that stalled, one that continued");
    assert_eq!(server.bytes_sent(), content.len() as u64);
}

#[derive(Debug, Default)]
struct Heard(Mutex<Vec<Event>>);

impl Events for Heard {
    fn emit(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

#[test]
fn a_damaged_blob_is_told_and_fetched_again() {
    let (server, world, content) = (Server::start(), World::new(), content());
    let wanted = artifact(&content, &[server.file(PATH, &content)]);
    let cached = world.obtain(&wanted).unwrap();
    fs::remove_file(cached.path()).unwrap();
    fs::write(cached.path(), b"damaged").unwrap();
    let heard = Heard::default();
    let again = world.cache.obtain(&wanted, &world.fetcher, &heard).unwrap();
    assert_eq!(fs::read(again.path()).unwrap(), content);
    let events = heard.0.into_inner().unwrap();
    assert!(matches!(&events[0], Event::Warning { text } if text.contains("damaged")));
    let last = events.iter().rev().find_map(|event| match event {
        Event::Progress { done, total, .. } => Some((*done, *total)),
        _ => None,
    });
    let size = content.len() as u64;
    assert_eq!(last, Some((size, Some(size))));
}

#[test]
fn a_touched_blob_is_hashed_and_kept() {
    let (server, world, content) = (Server::start(), World::new(), content());
    let wanted = artifact(&content, &[server.file(PATH, &content)]);
    let cached = world.obtain(&wanted).unwrap();
    fs::remove_file(cached.path()).unwrap();
    fs::write(cached.path(), &content).unwrap();
    assert_eq!(world.cache.find(cached.digest(), &Silent).unwrap(), Some(cached));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn files_of_this_machine_serve_as_well() {
    let content = content();
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("driver file.run");
    fs::write(&path, &content).unwrap();
    let plain = path.to_str().unwrap().to_owned();
    let url = format!("file://{}", plain.replace(' ', "%20"));
    for source in [plain, url] {
        let cached = World::new();
        let path = cached.obtain(&artifact(&content, &[source])).unwrap();
        assert_eq!(fs::read(path.path()).unwrap(), content);
    }
    let text = failure(World::new().obtain(&artifact(&content, &["/nowhere/x.run".to_owned()])));
    assert!(text.contains("/nowhere/x.run: No such file"), "{text}");
}

#[test]
fn a_key_is_kept_when_the_check_accepts_it() {
    let (server, world) = (Server::start(), World::new());
    let urls = vec![server.file("/key.pub", b"the key")];
    let key = Artifact { name: "key.pub".to_owned(), urls, size: None, digest: None };
    let refuse = |_: &[u8]| Err(Error::install("not the pinned key"));
    assert!(failure(world.cache.obtain_checked(&key, &world.fetcher, &refuse)).contains("pinned"));
    world.assert_nothing_kept();
    let cached = world.cache.obtain_checked(&key, &world.fetcher, &|_| Ok(())).unwrap();
    assert_eq!(cached.read().unwrap(), b"the key");
    assert!(world.cache.find(&Digest::of(b"the key"), &Silent).unwrap().is_some());
    assert!(failure(world.obtain(&key)).contains("digest"));
}

#[test]
fn a_small_file_that_is_not_small_is_refused() {
    let server = Server::start();
    let url = server.file("/key.pub", &vec![0; 5000]);
    server.faults("/key.pub", [Fault::Normal, Fault::Longer(0)]);
    for _ in 0..2 {
        let error = fetcher().fetch_small(&url, 4999).unwrap_err();
        assert!(error.to_string().contains("larger than 4999 bytes"), "{error}");
    }
    assert_eq!(fetcher().fetch_small(&url, 5000).unwrap().len(), 5000);
}

#[test]
fn the_published_digest_of_a_local_file_is_read() {
    let (world, content) = (World::new(), content());
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("driver.run");
    let line = format!("{}  driver.run\n", Digest::of(&content));
    fs::write(source.path().join("driver.run.sha256sum"), line).unwrap();
    let wanted = artifact(&content, &[path.to_str().unwrap().to_owned()]);
    let digest = world.cache.read_published_digest(&wanted, &world.fetcher).unwrap();
    assert_eq!(digest, Digest::of(&content));
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let (server, content) = (Server::start(), content());
    let mut wanted = artifact(&content, &[server.file(PATH, &content)]);
    let known = on_a_small_disk(&wanted);
    assert!(known.contains("no space is left") && known.contains("3000000 more bytes"), "{known}");
    // Nobody says beforehand how large it is: the disk fills up on the way.
    wanted.size = None;
    server.faults(PATH, [Fault::Longer(0)]);
    assert!(on_a_small_disk(&wanted).contains("no space is left"));
}

/// Obtains something into a cache on a file system of one megabyte, in a mount namespace of its
/// own; returns the error.
fn on_a_small_disk(wanted: &Artifact) -> String {
    use nix::mount::{MsFlags, mount};
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
                .expect("this test needs root: it mounts a small file system");
            let nothing: Option<&str> = None;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(nothing, "/", nothing, private, nothing).unwrap();
            let directory = tempfile::tempdir().unwrap();
            let size = Some("size=1m");
            mount(Some("tmpfs"), directory.path(), Some("tmpfs"), MsFlags::empty(), size).unwrap();
            let cache = Cache::open(directory.path(), &Cancel::never().unwrap()).unwrap();
            let text = failure(cache.obtain(wanted, &fetcher(), &Silent));
            assert_eq!(fs::read_dir(directory.path().join("partial-v1")).unwrap().count(), 0);
            drop(cache);
            nix::mount::umount(directory.path()).unwrap();
            text
        });
        thread.join().unwrap()
    })
}

/// The program itself, with an environment of its own, fetching a small installer from `url`.
fn prefetch(cache: &Path, url: &str, environment: &[(&str, &str)]) -> std::process::Output {
    let (content, recipe) = (installer(), cache.with_extension("toml"));
    let text = format!(
        "schema = 1\nname = \"one\"\ndescription = \"one\"\n\
         [driver]\nversion = \"580.76.05\"\nurls.x86_64 = [\"{url}\"]\n\
         [[driver.pins]]\nversion = \"580.76.05\"\narchitecture = \"x86_64\"\n\
         sha256 = \"{}\"\nsize = {}\n",
        Digest::of(&content),
        content.len()
    );
    fs::write(&recipe, text).unwrap();
    Command::new(env!("CARGO_BIN_EXE_nvstage"))
        .args(["prefetch", "--timeout", "1", "--recipe"])
        .arg(&recipe)
        .arg("--cache")
        .arg(cache)
        .env_remove("no_proxy")
        .env_remove("NO_PROXY")
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn installer() -> Vec<u8> {
    RunFile::new("580.76.05").library("libcuda.so.580.76.05", &content()).build(Packing::Zstd)
}

#[test]
fn a_proxy_of_the_environment_is_used() {
    let (proxy, directory) = (Server::start(), tempfile::tempdir().unwrap());
    proxy.file(PATH, &installer());
    let url = format!("http://nvidia.invalid{PATH}");
    let ran = prefetch(&directory.path().join("cache"), &url, &[("http_proxy", &proxy.url(""))]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(proxy.requests()[0].target, url);
}

#[test]
fn https_needs_an_authority_that_the_host_trusts() {
    let authority = Authority::new();
    let server = Server::with_tls(&authority);
    let url = server.file(PATH, &installer());
    let directory = tempfile::tempdir().unwrap();
    let pem = directory.path().join("ca.pem");
    fs::write(&pem, authority.pem()).unwrap();
    let cache = directory.path().join("cache");
    let trusted = ("SSL_CERT_FILE", pem.to_str().unwrap());
    let ran = prefetch(&cache, &url, &[trusted]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let other = directory.path().join("other");
    let ran = prefetch(&other, &url, &[]);
    let text = String::from_utf8_lossy(&ran.stderr);
    assert!(!ran.status.success() && text.contains("certificate"), "{text}");
}

#[test]
fn https_is_not_left_by_a_redirect() {
    let (authority, plain, content) = (Authority::new(), Server::start(), installer());
    let server = Server::with_tls(&authority);
    let url = server.url(PATH);
    server.faults(PATH, [Fault::Redirect(plain.file(PATH, &content))]);
    let directory = tempfile::tempdir().unwrap();
    let pem = directory.path().join("ca.pem");
    fs::write(&pem, authority.pem()).unwrap();
    let trusted = ("SSL_CERT_FILE", pem.to_str().unwrap());
    let ran = prefetch(&directory.path().join("cache"), &url, &[trusted]);
    let text = String::from_utf8_lossy(&ran.stderr);
    assert!(!ran.status.success() && text.contains("https to plain http"), "{text}");
    assert_eq!(plain.requests().len(), 0);
}

#[test]
fn another_process_is_waited_for() {
    let (server, content) = (Server::start(), installer());
    let url = server.file(PATH, &content);
    server.faults(PATH, [Fault::StallAfter(500_000)]);
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let run = prefetch(&cache, &url, &[]);
                assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
            });
        }
    });
    assert_eq!(server.bytes_sent(), content.len() as u64);
}
