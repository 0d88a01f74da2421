//! `nvstage cache`: what is in the cache and why, whether it is intact, and what `prune` leaves.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use support::{Host, Kind, Nodes, Run, Site, VERSION};

const CACHE: &str = "/var/cache/nvstage";
const LOCK: &str = "test-debian12-x86_64";
/// What no test may ever lose: somebody else's file.
const NOTES: &str = "blobs-v1/sha256/notes.txt";

/// A host whose cache has a driver, and what `test` needs for a container of Debian 12.
struct Scene {
    host: Host,
    site: Site,
    ctid: String,
}

impl Scene {
    /// With the driver alone.
    fn with_driver() -> Self {
        let (host, site) = (Host::new(Kind::Pct, Nodes::Answering(VERSION)), Site::new());
        host.run(&["prefetch", "--recipe", &site.driver_only()]).code(0);
        Self { host, site, ctid: String::new() }
    }

    fn new() -> Self {
        let (host, site) = (Host::new(Kind::Pct, Nodes::Answering(VERSION)), Site::new());
        let ctid = host.container("unprivileged", &[&site.distribution()]);
        host.start(&ctid);
        let scene = Self { host, site, ctid };
        scene.prefetch(&scene.site.recipe(), &[]).code(0);
        scene
    }

    fn prefetch(&self, recipe: &str, more: &[&str]) -> Run {
        let arguments = ["prefetch", "--for", &self.ctid, "--recipe", recipe];
        self.host.run(&[&arguments, more].concat())
    }

    fn cache(&self, arguments: &[&str]) -> Run {
        self.host.run(&[&["cache"], arguments].concat())
    }

    fn json(&self, arguments: &[&str]) -> Value {
        self.host.run(&[&["--json", "cache"], arguments].concat()).code(0).json()
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.host.path(&format!("{CACHE}/{inside}"))
    }

    fn shell(&self, script: &str) -> String {
        self.host.shell(&format!("cd {CACHE} && {script}")).code(0).stdout
    }

    fn forget(&self, lock: &str) {
        self.shell(&format!("rm locks-v1/{lock}.lock"));
    }

    /// Every file but the locks that processes hold.
    fn listing(&self) -> String {
        self.shell("find . -type f ! -name '.*lock' -printf '%p %s %i\\n' | sort")
    }

    /// Which file each record is: one that was written again is another one.
    fn records(&self) -> String {
        self.shell("find verified-v1 -type f -printf '%f %i\\n' | sort")
    }

    /// The digest of a file by the name that the locks have for it.
    fn digest_of(&self, name: &str) -> String {
        let contents = self.json(&["list"]);
        let blobs = contents["blobs"].as_array().unwrap();
        let named = |blob: &&Value| blob["name"].as_str().is_some_and(|it| it.starts_with(name));
        blobs.iter().find(named).expect(name)["sha256"].as_str().unwrap().to_owned()
    }

    /// The container gets everything from the cache, and nothing is fetched for it.
    #[track_caller]
    fn provision_offline(&self) {
        let requests = self.site.server.requests().len();
        let recipe = self.site.recipe();
        let arguments = ["provision", &self.ctid, "--offline", "--gpus", "0", "--recipe", &recipe];
        self.host.run(&arguments).code(0).shows("nvtop, from the cache");
        assert_eq!(self.site.server.requests().len(), requests, "something was fetched");
    }
}

/// Flips a byte in the middle of a file and sets its mtime back: size and mtime are as before.
fn flip(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let metadata = file.metadata().unwrap();
    let (mut byte, middle) = ([0], metadata.len() / 2);
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
    file.set_modified(metadata.modified().unwrap()).unwrap();
}

/// The ctime of a file as a record has it: with it in the record the damage is that of a disk.
fn ctime(path: &Path) -> Value {
    let metadata = path.metadata().unwrap();
    json!([metadata.ctime(), metadata.ctime_nsec()])
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

#[track_caller]
fn fits_80_columns(run: &Run) {
    for line in run.stdout.lines() {
        assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
    }
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args([name, &id]).status().unwrap().success());
}

#[test]
fn the_directory_is_printed() {
    let host = Host::new(Kind::Pct, Nodes::None);
    let run = host.run(&["cache", "dir"]).code(0);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("/var/cache/nvstage\n", ""));
    let run = host.run(&["--json", "--cache", "/srv/x", "cache", "dir"]).code(0);
    assert_eq!(run.json(), json!({ "schema": 1, "directory": "/srv/x" }));
    host.run(&["cache"]).code(2).says("Usage: nvstage cache");
    let run = host.run(&["cache", "list"]).code(0);
    assert_eq!(run.stdout, "0 B kept, 0 B that prune would free, in /var/cache/nvstage\n");
}

#[test]
fn the_list_says_what_is_there_and_why() {
    let scene = Scene::new();
    scene.host.run(&["prefetch", "--recipe", &scene.site.driver_only()]).code(0);
    // Blobs that were not used for long, and one of which nothing is known.
    scene.shell("touch -d '2020-02-03 12:00' verified-v1/*");
    let nvtop = scene.digest_of("nvtop:amd64=");
    scene.shell(&format!("rm verified-v1/{nvtop}"));
    let run = scene.cache(&["list"]).code(0);
    fits_80_columns(&run);
    assert_eq!(run.stderr, "");
    for text in [
        "driver 580.76.05",
        "driver 580.76.05, unpacked",
        "key ",
        " packages (11) ",
        " releases and indexes (5) ",
        LOCK,
        "test-driver-only-any-",
        "2020-02-03",
        "0 B that prune would free",
    ] {
        assert!(run.stdout.contains(text), "stdout lacks {text:?}:\n{}", run.stdout);
    }
    assert!(!run.stdout.contains("prune removes it"));
    let contents = scene.json(&["list"]);
    let blobs = contents["blobs"].as_array().unwrap();
    let files = scene.shell("ls blobs-v1/sha256 | wc -l");
    assert_eq!(blobs.len().to_string(), files.trim());
    for blob in blobs {
        let keepers = blob["kept_by"].as_array().unwrap();
        assert!(keepers.contains(&json!(LOCK)), "{blob}");
        match blob["sha256"] == nvtop.as_str() {
            true => assert_eq!(blob["last_used"], Value::Null),
            false => assert_eq!(blob["last_used"].as_str().unwrap()[..10], *"2020-02-03"),
        }
    }
    // A mirror is made of links: its texts alone are added to blobs and trees.
    let sum = "find blobs-v1 trees-v1 apt-v1 -type f -o -type l | xargs stat -c '%i %s' | sort -u | awk '{ sum += $2 } END { print sum }'";
    assert_eq!(contents["kept_bytes"].to_string(), scene.shell(sum).trim());
    // A run that uses them says so in the records.
    scene.provision_offline();
    let contents = scene.json(&["list"]);
    let things = contents["things"].as_array().unwrap();
    let used = |what: &str| {
        let thing = things.iter().find(|thing| thing["what"] == what).expect(what);
        thing["last_used"].as_str().unwrap()[..4].to_owned()
    };
    for what in ["driver 580.76.05", "driver 580.76.05, unpacked", "packages (11)"] {
        assert_ne!(used(what), "2020", "{what}");
    }

    scene.forget(LOCK);
    scene.shell("echo half > partial-v1/$(echo x | sha256sum | cut -c-64)");
    let run = scene.cache(&["list"]).code(0);
    fits_80_columns(&run);
    run.shows("files of no lock").shows("partial downloads").shows("nothing: prune removes it");
    let (contents, pruned) = (scene.json(&["list"]), scene.json(&["prune", "--dry-run"]));
    assert_eq!(contents["prunable_bytes"], pruned["freed_bytes"]);
    assert_eq!(contents["kept_bytes"], pruned["kept_bytes"]);
    assert!(contents["prunable_bytes"].as_u64().unwrap() > 100_000, "{pruned}");
}

#[test]
fn all_that_is_intact_is_hashed() {
    let scene = Scene::new();
    let before = scene.listing();
    let run = scene.cache(&["verify"]).code(0).shows("all intact");
    fits_80_columns(&run);
    assert_eq!(run.stderr, "");
    assert_eq!(scene.listing(), before, "a true record was written again");
    // A lost record is made again, and another use of the blob it does not claim.
    let nvtop = scene.digest_of("nvtop:amd64=");
    scene.shell(&format!("rm verified-v1/{nvtop}"));
    let run = scene.host.run(&["--json", "cache", "verify"]).code(0).says("\"event\":\"progress\"");
    let verified = run.json();
    let count = scene.shell("(ls blobs-v1/sha256; find trees-v1/*/payload -type f) | wc -l");
    assert_eq!(verified["files"].to_string(), count.trim());
    let sum = "cat blobs-v1/sha256/* $(find trees-v1/*/payload -type f) | wc -c";
    assert_eq!(verified["bytes"].to_string(), scene.shell(sum).trim());
    assert_eq!((&verified["damaged"], &verified["missing"]), (&json!([]), &json!([])));
    let blobs = scene.json(&["list"])["blobs"].clone();
    let blob = blobs.as_array().unwrap().iter().find(|blob| blob["sha256"] == nvtop.as_str());
    assert_eq!(blob.unwrap()["last_used"], Value::Null);
    let records = scene.records();
    assert!(records.contains(&nvtop), "{records}");
    scene.provision_offline();
    assert_eq!(scene.records(), records, "something was hashed again");
}

#[test]
fn what_a_disk_damaged_is_named_removed_and_fetched_again() {
    let scene = Scene::new();
    let nvtop = scene.digest_of("nvtop:amd64=");
    let installer = scene.digest_of("NVIDIA-Linux-x86_64-");
    for digest in [&nvtop, &installer] {
        let blob = scene.path(&format!("blobs-v1/sha256/{digest}"));
        flip(&blob);
        let record = scene.path(&format!("verified-v1/{digest}"));
        edit_json(&record, |record| record["stamp"]["ctime"] = ctime(&blob));
    }
    let tree = format!("trees-v1/{installer}");
    let file = scene.path(&format!("{tree}/payload/nvidia-smi"));
    flip(&file);
    edit_json(&scene.path(&format!("{tree}/index.json")), |index| {
        index["files"]["nvidia-smi"]["stamp"]["ctime"] = ctime(&file);
    });
    // Nothing but hashing finds that.
    scene.host.run(&["prefetch", "--locked", "--recipe", &scene.site.driver_only()]).code(2);
    let requests = scene.site.server.requests().len();
    scene.prefetch(&scene.site.recipe(), &["--locked"]).code(0);
    assert_eq!(scene.site.server.requests().len(), requests);

    let run = scene.cache(&["verify"]).code(5);
    fits_80_columns(&run);
    let run = run
        .says("warning: `nvtop:amd64=3.0.1-1` is damaged and removed: its content has")
        .says("failed to verify the cache: 4 damaged and removed")
        .says("hint: `nvstage prefetch --locked` fetches")
        .says("import the bundle");
    for text in [&nvtop, &installer, "NVIDIA-Linux-x86_64-580.76.05.run, unpacked", LOCK] {
        assert!(run.stdout.contains(text), "stdout lacks {text:?}:\n{}", run.stdout);
    }
    for digest in [&nvtop, &installer] {
        assert!(!scene.path(&format!("blobs-v1/sha256/{digest}")).exists());
        assert!(!scene.path(&format!("verified-v1/{digest}")).exists());
    }
    assert_eq!(scene.shell("ls trees-v1; ls apt-v1"), "");
    // It is not intact until they are here again.
    let run = scene.cache(&["verify"]).code(5).says("2 missing");
    assert!(run.stdout.contains("missing  nvtop:amd64="), "{}", run.stdout);

    scene.prefetch(&scene.site.recipe(), &["--locked"]).code(0);
    assert_eq!(scene.site.server.requests().len(), requests + 2);
    scene.cache(&["verify"]).code(0).shows("all intact");
    scene.provision_offline();
}

#[test]
fn what_is_made_of_other_files_is_made_again() {
    let scene = Scene::new();
    let listing = scene.shell("find blobs-v1 -type f | sort");
    scene.shell(
        "for f in apt-v1/*/preferences; do echo >> $f; done; rm trees-v1/*/payload/nvidia-smi",
    );
    let run = scene
        .cache(&["verify"])
        .code(5)
        .says("2 damaged and removed")
        .says("its `nvidia-smi` is missing")
        .says("hint: it is made again from intact files");
    fits_80_columns(&run);
    assert_eq!(scene.shell("ls trees-v1; ls apt-v1; find blobs-v1 -type f | sort"), listing);
    let records = scene.records();
    scene.cache(&["verify"]).code(0).shows("all intact");
    // The mirror's links went with it, and nothing has to be hashed again for that.
    assert_eq!(scene.records(), records);
    scene.provision_offline();
    // A link that is no file of the cache any more.
    scene.shell("for f in apt-v1/*/cuda/*.deb; do cp $f x; mv x $f; break; done");
    scene.cache(&["verify"]).code(5).says("is no verified file of the cache");
    // An index that is no index.
    scene.shell("echo x > $(ls -d trees-v1/*)/index.json");
    scene.cache(&["verify"]).code(5).says("failed to use the index");
    let requests = scene.site.server.requests().len();
    scene.prefetch(&scene.site.recipe(), &["--locked"]).code(0);
    assert_eq!(scene.site.server.requests().len(), requests);
    scene.cache(&["verify"]).code(0).shows("all intact");
    // What no repository has.
    let state = scene.digest_of("status of container");
    scene.shell(&format!("rm blobs-v1/sha256/{state}"));
    scene.cache(&["verify"]).code(5).says("1 missing").says("`nvstage prefetch --for` it");
    scene.prefetch(&scene.site.recipe(), &[]).code(0);
    scene.cache(&["verify"]).code(0).shows("all intact");
}

#[test]
fn an_interrupted_verification_ends_at_once() {
    let scene = Scene::with_driver();
    let digest = "0".repeat(64);
    // Reading 200 GB takes a while, even where there are none.
    scene.shell(&format!("truncate -s 200G blobs-v1/sha256/{digest}"));
    let mut command = scene.host.nvstage();
    command.args(["--json", "cache", "verify"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let asked = std::time::Instant::now();
    signal(&child, "-INT");
    let run: Run = child.wait_with_output().unwrap().into();
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    let run = run.code(130).says("interrupted by a signal").says("\"event\":\"progress\"");
    assert_eq!(run.stdout, "");
    assert!(scene.path(&format!("blobs-v1/sha256/{digest}")).exists());
}

#[test]
fn prune_keeps_what_locks_reach() {
    let scene = Scene::new();
    // Another recipe with some of the packages, and so a mirror with links to the same blobs.
    let other = scene.host.directory.path().join("other.toml");
    let text = std::fs::read_to_string(scene.site.recipe()).unwrap();
    std::fs::write(&other, text.replace("name = \"test\"", "name = \"other\"")).unwrap();
    let set = ["--set", "packages=nvtop"];
    scene.prefetch(other.to_str().unwrap(), &set).code(0);
    assert_eq!(scene.shell("ls apt-v1 | wc -l"), "2\n");
    scene.shell(&format!("echo mine > {NOTES}"));
    let kept = scene.json(&["prune", "--dry-run"]);
    let waste = |entry: &&Value| entry["what"] != "unused lock files";
    let waste: Vec<&Value> = kept["removed"].as_array().unwrap().iter().filter(waste).collect();
    assert_eq!(waste, [&json!(null); 0]);
    scene.forget("other-debian12-x86_64");
    let hex = "1".repeat(64);
    let leftovers = format!(
        "mkdir -p trees-v1/.tmp-{hex}/payload apt-v1/.work-x1/a apt-v1/.tmp-{hex}/cuda
        echo 12345 > trees-v1/.tmp-{hex}/payload/x
        for blob in blobs-v1/sha256/[0-9a-f]*; do ln $blob apt-v1/.tmp-{hex}/cuda/; break; done
        echo partial > partial-v1/{hex}
        touch trees-v1/.{hex}.lock apt-v1/.{hex}.lock locks-v1/.nvstage-a1 blobs-v1/sha256/.nvstage-b2
        echo '{{}}' > verified-v1/{hex}"
    );
    scene.shell(&leftovers);
    // The link above has changed a blob's ctime, as a killed run would have done.
    scene.prefetch(&scene.site.recipe(), &["--locked"]).code(0);
    let (before, listing) = (scene.records(), scene.listing());

    let rehearsed = scene.json(&["prune", "--dry-run"]);
    let run = scene.cache(&["prune", "--dry-run"]).code(0).shows("would be removed");
    fits_80_columns(&run);
    assert_eq!(run.stderr, "");
    assert_eq!((scene.listing(), scene.records()), (listing, before));
    let pruned = scene.json(&["prune"]);
    for name in ["removed", "freed_bytes", "kept_bytes"] {
        assert_eq!(pruned[name], rehearsed[name], "{name}");
    }
    assert_eq!((&pruned["mode"], &rehearsed["mode"]), (&json!("remove"), &json!("rehearse")));
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for removed in pruned["removed"].as_array().unwrap() {
        *counts.entry(removed["what"].as_str().unwrap()).or_default() += 1;
    }
    assert_eq!(counts["partial mirrors"], 1);
    assert_eq!(counts["partial downloads"], 1);
    assert_eq!(counts["records without a file"], 1);
    assert_eq!(counts["leftovers of ended runs"], 5);
    assert!(counts["unused lock files"] >= 2, "{counts:?}");
    let rest = "ls apt-v1 | wc -l; find . -name '.*' ! -name . ! -path ./.lock ! -path '*/.nothing' ! -path '*/payload/*' ! -path '*/.nvstage*'; ls partial-v1";
    assert_eq!(scene.shell(rest), "1\n");
    assert_eq!(scene.shell(&format!("cat {NOTES}")), "mine\n");

    let run = scene.cache(&["prune"]).code(0);
    assert!(run.stdout.starts_with("nothing to remove, "), "{}", run.stdout);
    // Links went, and with them the ctime of blobs: the records know that.
    let records = scene.records();
    scene.provision_offline();
    scene.prefetch(&scene.site.recipe(), &["--locked"]).code(0);
    assert_eq!(scene.records(), records, "something was hashed again");
    scene.cache(&["verify"]).code(0).shows("all intact");
}

#[test]
fn prune_removes_what_no_lock_reaches() {
    let scene = Scene::with_driver();
    scene.host.load_module("580.95.05");
    scene.host.run(&["prefetch", "--recipe", &scene.site.driver_only()]).code(0);
    assert_eq!(scene.shell("ls trees-v1 | wc -l"), "2\n");
    // The lock has the newer driver now.
    let run = scene.cache(&["prune"]).code(0).shows("driver 580.76.05, unpacked").shows(" freed,");
    fits_80_columns(&run);
    let digest = scene.digest_of("NVIDIA-Linux-x86_64-580.95.05.run");
    let expected = format!("{digest}\n").repeat(3);
    assert_eq!(
        scene.shell("ls blobs-v1/sha256; ls trees-v1; ls verified-v1 | grep -v 000"),
        expected
    );
}

#[test]
fn prune_keeps_the_driver_that_a_container_has() {
    let scene = Scene::with_driver();
    let ctid = scene.host.container("unprivileged", &[]);
    let recipe = scene.site.driver_only();
    scene.host.run(&["provision", &ctid, "--gpus", "0", "--recipe", &recipe]).code(0);
    scene.host.load_module("580.95.05");
    scene.host.run(&["prefetch", "--recipe", &recipe]).code(0);
    scene.cache(&["list"]).code(0).shows(&format!("container {ctid}"));
    scene.cache(&["prune"]).code(0);
    assert_eq!(scene.shell("ls trees-v1 | wc -l"), "2\n");
    // The host goes back to it, without network.
    scene.host.load_module(VERSION);
    scene.host.run(&["provision", &ctid, "--offline"]).code(0);
    scene.host.load_module("580.95.05");
    scene.host.run(&["provision", &ctid, "--offline"]).code(0);
    scene.cache(&["prune"]).code(0).shows("driver 580.76.05, unpacked");
}

/// Images lie beside the cache, and are judged by other files.
#[test]
fn what_prune_has_removed_is_told_also_where_it_fails_then() {
    let scene = Scene::with_driver();
    scene.host.load_module("580.95.05");
    scene.host.run(&["prefetch", "--recipe", &scene.site.driver_only()]).code(0);
    scene.shell(&format!("echo x > partial-v1/{}", "1".repeat(64)));
    let images = "mkdir -p /var/lib/nvstage/cuda /var/lib/nvstage/containers && \
        : > /var/lib/nvstage/cuda/12.8-0123456789ab.squashfs && \
        echo broken > /var/lib/nvstage/containers/999.json";
    scene.host.shell(images).code(0);
    let run = scene.cache(&["prune"]).code(4).says("nobody knows what is needed");
    run.says("before that").says("removed from the cache");
    // What a container has whose journal cannot be read nobody knows either.
    assert_eq!(scene.shell("ls trees-v1 | wc -l"), "2\n");
}

#[test]
fn a_lock_that_cannot_be_read_stops_prune() {
    let scene = Scene::with_driver();
    let lock = scene.shell("ls locks-v1").lines().next().unwrap().to_owned();
    let path = format!("{CACHE}/locks-v1/{lock}");
    scene.shell(&format!("echo 'schema = 99' > locks-v1/{lock}"));
    let before = scene.listing();
    for arguments in [&["prune"] as &[&str], &["prune", "--dry-run"]] {
        let run = scene.cache(arguments).code(5).says(&path).says("hint: `nvstage prefetch`");
        assert_eq!(run.stdout, "");
    }
    let run = scene.cache(&["verify"]).code(5).says(&path).says("1 of the locks unreadable");
    assert!(run.stdout.ends_with(": all intact\n"), "{}", run.stdout);
    scene.cache(&["list"]).code(0).says(&path).says("warning: ").shows("no lock that can be read");
    assert_eq!(scene.listing(), before);
    scene.shell(&format!("rm locks-v1/{lock}"));
    scene.cache(&["prune"]).code(0);
    assert_eq!(
        scene.shell("ls blobs-v1/sha256 trees-v1 verified-v1 partial-v1 | grep -v :"),
        "\n\n\n"
    );
}

#[test]
fn prune_waits_for_others() {
    let scene = Scene::with_driver();
    let start = || {
        let mut command = scene.host.nvstage();
        command.args(["cache", "prune"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let hold = || {
        let mut holder = scene.host.command("flock");
        holder.args(["--shared", &format!("{CACHE}/.lock"), "sh", "-c", "echo held; read x"]);
        let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut byte).unwrap();
        holder
    };
    let says = "waiting: another nvstage uses the cache\n";
    let mut holder = hold();
    let mut child = start();
    let mut line = String::new();
    let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    std::io::BufRead::read_line(&mut stderr, &mut line).unwrap();
    assert_eq!(line, says);
    // Looking does not wait for those who look.
    scene.cache(&["list"]).code(0);
    assert!(child.try_wait().unwrap().is_none(), "it does not wait");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    let run: Run = child.wait_with_output().unwrap().into();
    run.code(0).shows("kept");

    let mut holder = hold();
    let child = start();
    std::thread::sleep(Duration::from_millis(500));
    signal(&child, "-TERM");
    let run: Run = child.wait_with_output().unwrap().into();
    let run = run.code(130).says(says).says("interrupted by a signal");
    assert_eq!(run.stdout, "");
    drop(holder.stdin.take());
    holder.wait().unwrap();
}

#[test]
fn a_killed_prune_leaves_nothing_harmful() {
    let scene = Scene::new();
    scene.forget(LOCK);
    for delay in [1, 3, 5, 8, 12] {
        let mut command = scene.host.nvstage();
        let child =
            command.args(["cache", "prune"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child = child.unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        // It may have ended already.
        let _ = child.kill();
        child.wait().unwrap();
        scene.prefetch(&scene.site.recipe(), &[]).code(0);
        scene.cache(&["verify"]).code(0).shows("all intact");
        scene.forget(LOCK);
    }
    scene.prefetch(&scene.site.recipe(), &[]).code(0);
    scene.provision_offline();
    scene.cache(&["prune"]).code(0);
    scene.cache(&["verify"]).code(0).shows("all intact");
}
