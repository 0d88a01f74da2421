//! Bundles as a user carries them from one host to another: whole, cut short, damaged, forged,
//! older, twice at once, onto full media, killed on the way.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

#[path = "support/runfile.rs"]
mod runfile;
mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nvstage::digest::Digest;
use runfile::{Packing, RunFile};
use support::{Host, Kind, Nodes, Run, Site, VERSION, eventually, installer, world, world_script};

const TABLE: &str = "nvstage-bundle.toml";
const LOCK: &str = "locks-v1/test-debian12-x86_64.lock";

fn host() -> Host {
    Host::new(Kind::Pct, Nodes::Answering(VERSION))
}

/// The program with a cache of its own, on no particular host.
fn program(cache: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvstage"));
    command.arg("--cache").arg(cache).stdin(Stdio::null());
    command
}

fn spawned(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn ended(child: Child) -> Run {
    child.wait_with_output().unwrap().into()
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

fn shell(script: &str) -> Run {
    Command::new("sh").args(["-c", script]).output().unwrap().into()
}

/// A host with a filled cache, and a directory for bundles.
struct Sender {
    host: Host,
    site: Site,
    directory: tempfile::TempDir,
}

impl Sender {
    /// One with the packages of a small system of Debian 12.
    fn new() -> Self {
        let sender = Self { host: host(), site: Site::new(), directory: directory() };
        sender.prefetch();
        sender
    }

    /// A root file system with the little that resolving looks at.
    fn root(&self) -> String {
        let root = self.directory.path().join("root");
        let from = world().join("root-privileged");
        for file in ["etc/os-release", "var/lib/dpkg/status", "usr/share/keyrings/distribution.asc"]
        {
            let to = root.join(file);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from.join(file), to).unwrap();
        }
        let source = format!(
            "deb [signed-by=/usr/share/keyrings/distribution.asc] {} /\n",
            self.site.distribution_url()
        );
        fs::create_dir_all(root.join("etc/apt")).unwrap();
        fs::write(root.join("etc/apt/sources.list"), source).unwrap();
        root.to_str().unwrap().to_owned()
    }

    fn prefetch(&self) {
        let (root, recipe) = (self.root(), self.site.recipe());
        self.host.run(&["prefetch", "--for", &root, "--recipe", &recipe]).code(0);
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    /// Exports everything; returns the path.
    #[track_caller]
    fn export(&self, name: &str) -> String {
        let path = self.path(name);
        self.host.run(&["bundle", "export", &path]).code(0).shows("exported:");
        path
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("nvstage-bundle-").tempdir_in("/var/tmp").unwrap()
}

/// A host that a bundle is brought to.
struct Receiver {
    directory: tempfile::TempDir,
    recipe: String,
}

impl Receiver {
    fn new(recipe: &str) -> Self {
        Self { directory: directory(), recipe: recipe.to_owned() }
    }

    fn cache(&self) -> PathBuf {
        self.directory.path().join("cache")
    }

    fn import_command(&self, bundle: &str) -> Command {
        let mut command = program(&self.cache());
        command.args(["bundle", "import", bundle, "--recipe", &self.recipe]);
        command
    }

    fn import(&self, bundle: &str) -> Run {
        self.import_command(bundle).output().unwrap().into()
    }

    fn verify(&self, bundle: &str) -> Run {
        let mut command = program(Path::new("/nowhere"));
        command
            .args(["bundle", "verify", bundle, "--recipe", &self.recipe])
            .output()
            .unwrap()
            .into()
    }

    /// Everything in the cache, with times; the lock of the workspaces alone may come.
    fn listing(&self) -> String {
        let cache = self.cache();
        shell(&format!(
            "cd {} && find . ! -type d ! -name .workspaces.lock -printf '%P %s %m %T@ %C@\\n' | sort; ls -A import-v1 | grep -v workspaces",
            cache.display()
        ))
        .stdout
    }

    /// Refuses a bundle without a trace, and says why; so does `verify`.
    #[track_caller]
    fn refuses(&self, bundle: &str, why: &str) {
        let before = self.listing();
        let run = self.import(bundle).code(5).says(why).says("hint: ");
        assert_eq!(run.stdout, "");
        assert_eq!(self.listing(), before, "{why}: a trace is left");
        let run = self.verify(bundle).code(5).says(why);
        assert_eq!(run.stdout, "");
    }

    /// As the one above, for any reason.
    #[track_caller]
    fn refuses_somehow(&self, bundle: &str, what: &str) {
        let before = self.listing();
        let run = self.import(bundle);
        assert_eq!((run.code, run.stdout.as_str()), (5, ""), "{what}: {}", run.stderr);
        assert!(run.stderr.contains("error: failed to "), "{what}: {}", run.stderr);
        assert_eq!(self.listing(), before, "{what}: a trace is left");
    }

    /// A cache with something else in it already.
    fn prepared(recipe: &str) -> Self {
        let receiver = Self::new(recipe);
        for part in ["blobs-v1/sha256", "locks-v1", "import-v1"] {
            fs::create_dir_all(receiver.cache().join(part)).unwrap();
        }
        fs::write(receiver.cache().join("CACHEDIR.TAG"), "").unwrap();
        fs::write(receiver.cache().join(".lock"), "").unwrap();
        receiver
    }
}

/// The members of a bundle, the table left out.
type Members = Vec<(String, Vec<u8>)>;

fn members(bundle: &str) -> Members {
    let mut archive = tar::Archive::new(fs::File::open(bundle).unwrap());
    let mut members = Members::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        members.push((entry.path().unwrap().to_str().unwrap().to_owned(), bytes));
    }
    assert_eq!(members.remove(0).0, TABLE);
    members
}

fn table(members: &Members) -> String {
    let mut text = "schema = 1\n".to_owned();
    for (path, bytes) in members {
        let digest = Digest::of(bytes);
        text += &format!(
            "\n[[file]]\npath = \"{path}\"\nsha256 = \"{digest}\"\nsize = {}\n",
            bytes.len()
        );
    }
    text
}

fn member(archive: &mut Vec<u8>, path: &str, kind: tar::EntryType, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
        header.set_link_name("/etc/passwd").unwrap();
    }
    header.set_cksum();
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

/// A bundle made by hand, with a table that fits.
fn pack(members: &Members) -> Vec<u8> {
    let mut archive = Vec::new();
    member(&mut archive, TABLE, tar::EntryType::Regular, table(members).as_bytes());
    for (path, content) in members {
        member(&mut archive, path, tar::EntryType::Regular, content);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// An attacker's work: members changed, in the lock as well, with everything brought into order.
struct Forgery {
    members: Members,
}

impl Forgery {
    fn of(bundle: &str) -> Self {
        Self { members: members(bundle) }
    }

    fn lock(&self) -> String {
        let lock = self.members.iter().find(|(path, _)| path == LOCK).unwrap();
        String::from_utf8(lock.1.clone()).unwrap()
    }

    fn set_lock(&mut self, text: &str) {
        self.members.iter_mut().find(|(path, _)| path == LOCK).unwrap().1 = text.into();
    }

    /// Puts another content in the place of a blob, and its digest and size into the lock.
    fn replace(&mut self, old: &str, new: &[u8]) {
        let digest = Digest::of(new).to_string();
        let blob = self.members.iter_mut().find(|(path, _)| path.ends_with(old)).unwrap();
        let size = format!("sha256 = \"{digest}\"\nsize = {}\n", blob.1.len());
        *blob = (format!("blobs-v1/sha256/{digest}"), new.to_vec());
        let lock = self.lock().replace(old, &digest);
        let lock = lock.replace(&size, &format!("sha256 = \"{digest}\"\nsize = {}\n", new.len()));
        self.set_lock(&lock);
    }

    fn content(&self, digest: &str) -> Vec<u8> {
        self.members.iter().find(|(path, _)| path.ends_with(digest)).unwrap().1.clone()
    }

    fn write(mut self, path: &str) {
        self.members.sort_by_key(|(path, _)| (path.starts_with("blobs"), path.clone()));
        self.members.dedup();
        fs::write(path, pack(&self.members)).unwrap();
    }
}

/// The digest that follows something in a lock.
fn digest_after(lock: &str, text: &str) -> String {
    let rest = lock.split_once(text).unwrap().1;
    rest.split_once("sha256 = \"").unwrap().1[..64].to_owned()
}

// ---------------------------------------------------------------------------------------------
// The way of a bundle that nobody touches.

/// From a host with network to a container on one without.
fn carried(suite: &str, form: &str) {
    let (packages, options) = match suite {
        "bookworm" => ("packages=cuda-toolkit-12-8,nvtop", None),
        _ => ("packages=cuda-toolkit-13-0,nvtop", Some("root=trixie")),
    };
    let (here, there, site) = (host(), host(), Site::new());
    let (recipe, carrier) = (site.recipe(), directory());
    let distribution = site.distribution_of(suite);
    let container = |host: &Host| {
        let all: Vec<&str> = [distribution.as_str()].into_iter().chain(options).collect();
        let ctid = host.container("unprivileged", &all);
        host.start(&ctid);
        ctid
    };
    let ctid = container(&here);
    here.run(&["prefetch", "--for", &ctid, "--recipe", &recipe, "--set", packages]).code(0);
    let bundle = format!("{}/{form}", carrier.path().display());
    let run = here.run(&["bundle", "export", &bundle]).code(0);
    run.shows(&format!("to {bundle}")).shows("lock test-debian1");
    let requests = site.server.requests().len();
    let ctid = container(&there);
    there
        .inside(
            &ctid,
            "ip link set eth0 down 2>/dev/null || true; rm -rf /etc/apt/sources.list.d/*",
        )
        .code(0);
    let run = there.run(&["bundle", "import", &bundle, "--recipe", &recipe]).code(0);
    run.shows(": new").shows("already there: 0 files, 0 B").shows("is verified");
    let set = ["--recipe", &recipe, "--set", packages];
    let mut arguments = vec!["provision", &ctid, "--offline", "--gpus", "0"];
    arguments.extend(set);
    there.run(&arguments).code(0).shows("nvtop, from the cache");
    assert_eq!(site.server.requests().len(), requests, "something was fetched");
    there.inside(&ctid, "dpkg -l nvtop | grep ^ii; ls /usr/local/cuda-1*/bin/nvcc").code(0);
}

#[test]
fn debian_12_from_a_file() {
    carried("bookworm", "all.nvstage");
}

#[test]
fn debian_13_from_a_directory() {
    carried("trixie", "stick/");
}

#[test]
fn the_same_locks_give_the_same_bytes_in_both_forms() {
    let sender = Sender::new();
    let (one, two) = (sender.export("one"), sender.export("two"));
    let bytes = fs::read(&one).unwrap();
    assert_eq!(bytes, fs::read(&two).unwrap());
    assert_eq!(bytes, pack(&members(&one)), "it is not the documented form");
    assert!(!Path::new(&format!("{one}.partial")).exists());
    let stick = sender.export("stick/");
    let unpacked = sender.path("unpacked");
    fs::create_dir(&unpacked).unwrap();
    shell(&format!("tar -C {unpacked} -xf {one} && diff -r {unpacked} {stick}")).code(0);
    // Again: nothing is written that is there.
    let run = sender.host.run(&["bundle", "export", &stick]).code(0);
    run.says("bytes of it already").shows("were there from an earlier export");
    shell(&format!("diff -r {unpacked} {stick}")).code(0);
    let receiver = Receiver::new(&sender.site.recipe());
    for form in [&one, &stick, &unpacked] {
        let run = receiver.verify(form).code(0);
        run.shows("lock test-debian12-x86_64: trusted").shows("is complete and verified");
    }
    assert!(!receiver.cache().exists());
    receiver.import(&stick).code(0).shows("lock test-debian12-x86_64: new");
    let listing = receiver.listing();
    let run = receiver.import(&one).code(0);
    run.shows("lock test-debian12-x86_64: unchanged").shows("new: 0 files, 0 B");
    assert_eq!(receiver.listing(), listing);
    let report: Run = receiver.import_command(&one).arg("--json").output().unwrap().into();
    let report = report.code(0).json();
    assert_eq!(report["locks"][0]["became"], "unchanged");
    assert_eq!(report["new"]["files"], 0);
    assert_eq!(report["there"]["files"], members(&one).len() - 1);
}

#[test]
fn one_lock_of_several() {
    let sender = Sender::new();
    let recipe = sender.site.driver_only();
    sender.host.run(&["prefetch", "--recipe", &recipe]).code(0);
    let path = sender.path("one");
    let locks = sender.host.shell("cd /var/cache/nvstage/locks-v1 && ls").stdout;
    let name = locks.lines().find(|name| name.starts_with("test-driver-only")).unwrap();
    let name = name.trim_end_matches(".lock");
    sender.host.run(&["bundle", "export", &path, "--lock", name]).code(0).shows(name);
    assert_eq!(members(&path).iter().filter(|(path, _)| path.contains("lock")).count(), 1);
    // The other recipe has another name: nothing of this bundle is of it.
    let receiver = Receiver::prepared(&sender.site.recipe());
    let before = receiver.listing();
    receiver.import(&path).code(2).says("find recipe `test-driver-only`").says("--recipe PATH");
    assert_eq!(receiver.listing(), before);
    let receiver = Receiver::new(&recipe);
    receiver.import(&path).code(0);
    // Files of the cache serve for those that a bundle leaves out.
    let mut less = Forgery::of(&path);
    less.members.truncate(1);
    let small = sender.path("small");
    less.write(&small);
    receiver.import(&small).code(0).shows("unchanged");
    receiver.verify(&small).code(5).says("it lacks `NVIDIA-Linux-x86_64-580.76.05.run`");
    Receiver::prepared(&recipe).refuses(&small, "it lacks `NVIDIA-Linux-x86_64-580.76.05.run`");
}

#[test]
fn a_lock_without_packages_takes_none_away() {
    let (sender, other) = (Sender::new(), directory());
    let (bundle, recipe) = (sender.export("bundle"), sender.site.recipe());
    let receiver = Receiver::new(&recipe);
    receiver.import(&bundle).code(0);
    let before = receiver.listing();
    let cache = other.path().to_str().unwrap();
    let prefetch = ["--cache", cache, "prefetch", "--for", "debian12", "--recipe", &recipe];
    sender.host.run(&prefetch).code(0);
    let key = sender.path("key");
    sender.host.run(&["--cache", cache, "bundle", "export", &key]).code(0);
    assert!(members(&key).len() < 4);
    receiver.import(&key).code(0).shows("lock test-debian12-x86_64: unchanged");
    assert_eq!(receiver.listing(), before);
}

#[test]
fn what_is_asked_wrongly_is_said() {
    let (host, empty) = (host(), directory());
    let path = empty.path().join("bundle").to_str().unwrap().to_owned();
    host.run(&["bundle", "export", &path])
        .code(2)
        .says("find a lock in the cache")
        .says("prefetch");
    let sender = Sender::new();
    let run = sender.host.run(&["bundle", "export", &path, "--lock", "none"]).code(2);
    run.says("find a lock `none`").says("test-debian12-x86_64");
    fs::create_dir(empty.path().join("full")).unwrap();
    fs::write(empty.path().join("full/letter"), "mine").unwrap();
    let full = empty.path().join("full").to_str().unwrap().to_owned();
    sender.host.run(&["bundle", "export", &full]).code(2).says("`letter`, which is no part");
    // The cache looks much like a bundle, and is none.
    sender
        .host
        .run(&["bundle", "export", "/var/cache/nvstage"])
        .code(2)
        .says("no part of a bundle");
    sender.host.run(&["bundle", "export", "/nowhere/x"]).code(4).says("/nowhere");
    sender.host.run(&["bundle", "export", "/nowhere/x/"]).code(4).says("create `/nowhere/x/`");
    sender.host.run(&["bundle", "export", "/dev/null"]).code(2).says("neither a file nor");
    let receiver = Receiver::prepared(&sender.site.recipe());
    receiver.import("/nowhere/x").code(4).says("read the bundle `/nowhere/x`");
    receiver.import(&full).code(5).says("`nvstage-bundle.toml` is missing");
    receiver.import("/etc/passwd").code(5).says("damaged header");
}

// ---------------------------------------------------------------------------------------------
// Damage.

#[test]
fn cut_short_anywhere() {
    let sender = Sender::new();
    let bundle = sender.export("bundle");
    let bytes = fs::read(&bundle).unwrap();
    let receiver = Receiver::prepared(&sender.site.recipe());
    let all = members(&bundle);
    let mut positions = vec![0, 1, 511, 512, 513, 700];
    let mut border = 512 + table(&all).len().next_multiple_of(512);
    for (_, content) in &all {
        positions.extend([border - 1, border, border + 1, border + 512]);
        border += 512 + content.len().next_multiple_of(512);
    }
    positions.truncate(40);
    positions.extend([border - 1, border, border + 1, border + 511, border + 512, border + 1023]);
    let cut = sender.path("cut");
    for position in positions {
        fs::write(&cut, &bytes[..position]).unwrap();
        receiver.refuses_somehow(&cut, &format!("cut at {position}"));
    }
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    receiver.refuses(&cut, "by its table it would have");
    // A pipe does not tell its length.
    for (position, why) in [(bytes.len() / 2, "it ends after"), (bytes.len() - 1, "within its end")]
    {
        let before = receiver.listing();
        let script = format!("head -c {position} {bundle} | \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_nvstage"), "--cache"]);
        command.arg(receiver.cache()).args(["bundle", "import", "/dev/stdin", "--recipe"]);
        let run: Run = command.arg(&receiver.recipe).output().unwrap().into();
        run.code(5).says(why);
        assert_eq!(receiver.listing(), before);
    }
    receiver.import(&bundle).code(0);
}

#[test]
fn one_byte_flipped_anywhere() {
    let sender = Sender::new();
    let bundle = sender.export("bundle");
    let bytes = fs::read(&bundle).unwrap();
    let receiver = Receiver::prepared(&sender.site.recipe());
    let text = 512 + table(&members(&bundle)).len();
    let lock = text.next_multiple_of(512);
    // Headers (name, mode, size, time, checksum, type, padding), table, its padding, lock, blobs.
    let mut positions: Vec<usize> = [0, 100, 108, 124, 136, 148, 155, 156, 157, 257, 345, 511]
        .into_iter()
        .flat_map(|field| [field, lock + field])
        .collect();
    positions.extend([512, 520, 521, 560, 700, text - 1, text, lock - 1, lock + 512, lock + 700]);
    let step = bytes.len() / 17;
    positions.extend((1..17).map(|index| index * step));
    positions.extend([bytes.len() - 1, bytes.len() - 512, bytes.len() - 1024, bytes.len() - 1025]);
    let flipped = sender.path("flipped");
    for (count, position) in positions.into_iter().enumerate() {
        let mut changed = bytes.clone();
        changed[position] ^= 1 << (count % 8);
        fs::write(&flipped, &changed).unwrap();
        receiver.refuses_somehow(&flipped, &format!("byte {position} of {}", bytes.len()));
    }
    receiver.import(&bundle).code(0);
}

#[test]
fn a_directory_that_was_changed() {
    let sender = Sender::new();
    let stick = sender.export("stick/");
    let receiver = Receiver::prepared(&sender.site.recipe());
    let blob = shell(&format!("cd {stick} && ls -S blobs-v1/sha256/* | head -1")).stdout;
    let blob = format!("{stick}{}", blob.trim());
    let with = |change: &dyn Fn(), why: &str, undo: &dyn Fn()| {
        change();
        receiver.refuses(&stick, why);
        undo();
    };
    for name in ["letter", "locks-v1/x.lock", "blobs-v1/more", "blobs-v1/sha256/ab", ".hidden"] {
        let path = format!("{stick}{name}");
        with(&|| fs::write(&path, "").unwrap(), "is not in its table", &|| {
            fs::remove_file(&path).unwrap();
        });
        with(&|| fs::create_dir(&path).unwrap(), "is not in its table", &|| {
            fs::remove_dir(&path).unwrap();
        });
    }
    let bytes = fs::read(&blob).unwrap();
    let restore = || {
        let _ = fs::remove_file(&blob);
        fs::write(&blob, &bytes).unwrap();
    };
    with(&|| fs::remove_file(&blob).unwrap(), "is missing", &restore);
    with(&|| fs::write(&blob, &bytes[1..]).unwrap(), "bytes, in its table", &restore);
    let mut changed = bytes.clone();
    changed[7] ^= 4;
    with(&|| fs::write(&blob, &changed).unwrap(), "is damaged", &restore);
    let elsewhere = sender.path("elsewhere");
    fs::write(&elsewhere, &bytes).unwrap();
    let link = || {
        fs::remove_file(&blob).unwrap();
        symlink(&elsewhere, &blob).unwrap();
    };
    with(&link, "is a symbolic link", &restore);
    let directories = || {
        fs::rename(format!("{stick}blobs-v1"), sender.path("blobs")).unwrap();
        symlink(sender.path("blobs"), format!("{stick}blobs-v1")).unwrap();
    };
    with(&directories, "`blobs-v1` in it is not in its table", &|| {
        fs::remove_file(format!("{stick}blobs-v1")).unwrap();
        fs::rename(sender.path("blobs"), format!("{stick}blobs-v1")).unwrap();
    });
    receiver.import(&stick).code(0);
}

#[test]
fn members_that_no_bundle_has() {
    let sender = Sender::new();
    let bundle = sender.export("bundle");
    let receiver = Receiver::prepared(&sender.site.recipe());
    let (all, path) = (members(&bundle), sender.path("crafted"));
    // The last member becomes another one; the table keeps the old one.
    let instead = |name: &str, kind: tar::EntryType, content: &[u8]| {
        let mut archive = Vec::new();
        member(&mut archive, TABLE, tar::EntryType::Regular, table(&all).as_bytes());
        for (path, content) in &all[..all.len() - 1] {
            member(&mut archive, path, tar::EntryType::Regular, content);
        }
        member(&mut archive, name, kind, content);
        let wanted = fs::metadata(&bundle).unwrap().len() as usize;
        archive.resize(archive.len().max(wanted), 0);
        archive
    };
    let last = all.last().unwrap().clone();
    for (name, kind, says) in [
        ("../x", tar::EntryType::Regular, "next in it is `../x` with"),
        ("/etc/x", tar::EntryType::Regular, "next in it is `/etc/x` with"),
        ("blobs-v1/x", tar::EntryType::Directory, "a directory"),
    ] {
        fs::write(&path, instead(name, kind, &last.1)).unwrap();
        receiver.refuses(&path, says);
    }
    for (kind, says) in [
        (tar::EntryType::Symlink, "a symbolic link"),
        (tar::EntryType::Link, "a hard link"),
        (tar::EntryType::Char, "which is no file"),
        (tar::EntryType::XHeader, "which is no file"),
        (tar::EntryType::GNULongName, "which is no file"),
    ] {
        fs::write(&path, instead(&last.0, kind, b"")).unwrap();
        receiver.refuses(&path, says);
    }
    receiver.import(&bundle).code(0);
}

#[test]
fn files_that_are_too_many_or_too_few() {
    let sender = Sender::new();
    let bundle = sender.export("bundle");
    let receiver = Receiver::prepared(&sender.site.recipe());
    let (all, path) = (members(&bundle), sender.path("crafted"));
    let last = all.last().unwrap().clone();
    // The table names them all.
    let mut named = all.clone();
    named.push(("blobs-v1/sha256/../../x".to_owned(), b"x".to_vec()));
    fs::write(&path, pack(&named)).unwrap();
    receiver.refuses(&path, "which no bundle has");
    let mut twice = all.clone();
    twice.push(last.clone());
    fs::write(&path, pack(&twice)).unwrap();
    receiver.refuses(&path, "comes after");
    let mut surplus = all.clone();
    surplus.push((format!("blobs-v1/sha256/{}", Digest::of(b"surplus")), b"surplus".to_vec()));
    surplus.sort_by_key(|(path, _)| (path.starts_with("blobs"), path.clone()));
    fs::write(&path, pack(&surplus)).unwrap();
    receiver.refuses(&path, "none of its locks names its file");
    fs::write(&path, pack(&all[1..].to_vec())).unwrap();
    receiver.refuses(&path, "it has no lock");
    // In the archive and not in the table.
    let mut longer = fs::read(&bundle).unwrap();
    longer.truncate(longer.len() - 1024);
    member(&mut longer, &last.0, tar::EntryType::Regular, &last.1);
    longer.resize(longer.len() + 1024, 0);
    fs::write(&path, &longer).unwrap();
    receiver.refuses(&path, "by its table it would have");
    for more in [&b"x"[..], &[0; 512], &[0; 8192]] {
        let mut longer = fs::read(&bundle).unwrap();
        longer.extend_from_slice(more);
        fs::write(&path, &longer).unwrap();
        receiver.refuses(&path, "by its table it would have");
    }
    receiver.import(&bundle).code(0);
}

// ---------------------------------------------------------------------------------------------
// Forgery: table, lock and files agree, and only the pins of the receiving host tell.

#[test]
fn forged_with_everything_in_order() {
    let sender = Sender::new();
    let (bundle, path) = (sender.export("bundle"), sender.path("forged"));
    let receiver = Receiver::prepared(&sender.site.recipe());
    let forge = |change: &dyn Fn(&mut Forgery)| {
        let mut forgery = Forgery::of(&bundle);
        change(&mut forgery);
        forgery.write(&path);
    };
    // The forger's tools alone change nothing.
    forge(&|_| {});
    assert_eq!(fs::read(&path).unwrap(), fs::read(&bundle).unwrap());
    let other_key = world().join("cuda-otherkey");
    let key = fs::read_dir(&other_key).unwrap().flatten().map(|entry| entry.path());
    let key = key.into_iter().find(|path| path.extension().is_some_and(|e| e == "pub")).unwrap();
    let key = fs::read(key).unwrap();
    // Another key for the whole repository, under the pinned fingerprint.
    forge(&|forgery| {
        let old = digest_after(&forgery.lock(), "[key]");
        forgery.replace(&old, &key);
    });
    receiver.refuses(&path, "trust the bundle's lock `test-debian12-x86_64.lock`");
    // The same, with its own fingerprint in the lock.
    let theirs = fs::read_to_string(world().join("cuda-otherkey/fingerprint")).unwrap();
    let ours = fs::read_to_string(world().join("cuda/fingerprint")).unwrap();
    forge(&|forgery| {
        let old = digest_after(&forgery.lock(), "[key]");
        forgery.replace(&old, &key);
        let lock = forgery.lock().replace(ours.trim(), theirs.trim());
        forgery.set_lock(&lock);
    });
    receiver.refuses(&path, theirs.trim());
    // Another package.
    forge(&|forgery| {
        let old = digest_after(&forgery.lock(), "name = \"nvtop\"");
        let mut content = forgery.content(&old);
        content.push(b'\n');
        forgery.replace(&old, &content);
    });
    receiver.refuses(&path, "use package `nvtop:amd64=");
    // Another release, as anyone can sign it.
    forge(&|forgery| {
        let old = digest_after(&forgery.lock(), "[repository.release]");
        forgery.replace(&old, &fs::read(other_key.join("InRelease")).unwrap());
    });
    receiver.refuses(&path, "verify the repository");
    // Another installer.
    forge(&|forgery| {
        let old = digest_after(&forgery.lock(), "[installer]");
        let mut content = forgery.content(&old);
        content.extend_from_slice(b"# more\n");
        forgery.replace(&old, &content);
    });
    receiver.refuses(&path, "the recipe pins the SHA-256 digest");
    // A pinned installer under the version of another one.
    forge(&|forgery| {
        let old = digest_after(&forgery.lock(), "[installer]");
        forgery.replace(&old, &fs::read(installer("580.95.05")).unwrap());
    });
    receiver.refuses(&path, "the recipe pins the SHA-256 digest");
    receiver.import(&bundle).code(0);
}

#[test]
fn a_lock_edited_by_hand() {
    let sender = Sender::new();
    let (bundle, path) = (sender.export("bundle"), sender.path("edited"));
    let receiver = Receiver::prepared(&sender.site.recipe());
    // Without the table.
    let edited = |from: &str, to: &str| {
        let mut forgery = Forgery::of(&bundle);
        let lock = forgery.lock().replacen(from, to, 1);
        assert_ne!(lock, forgery.lock(), "{from:?} is not in it");
        forgery.set_lock(&lock);
        forgery
    };
    let mut archive = fs::read(&bundle).unwrap();
    let at = archive.windows(11).position(|bytes| bytes == b"580.76.05\"\n").unwrap();
    archive[at + 8] = b'6';
    fs::write(&path, &archive).unwrap();
    receiver.refuses(&path, "is damaged");
    for (from, to, why) in [
        ("version = \"580.76.05\"", "version = \"580.95.05\"", "the recipe pins the SHA-256"),
        ("recipe = \"test\"", "recipe = \"test2\"", "is a lock of test2 for debian12"),
        ("distribution = \"debian12\"", "distribution = \"debian13\"", "is a lock of test for"),
        ("schema = 2", "schema = 3", "its schema is 3"),
        ("schema = 2", "schema = 2\nsurplus = 1", "surplus"),
        ("role = \"cuda\"", "role = \"distribution\"", "it is not a pinned one"),
        ("path = \"./nvtop", "path = \"../nvtop", "is no package"),
    ] {
        if !Forgery::of(&bundle).lock().contains(from) {
            panic!("{from:?} is not in it:\n{}", Forgery::of(&bundle).lock());
        }
        edited(from, to).write(&path);
        receiver.refuses(&path, why);
    }
    // A date of tomorrow for the release of today.
    let lock = Forgery::of(&bundle).lock();
    let date = lock.split_once("date = \"").unwrap().1.split_once('"').unwrap().0.to_owned();
    edited(&date, "2096-01-01T00:00:00Z").write(&path);
    receiver.refuses(&path, "the lock has another date");
    let mut junk = Forgery::of(&bundle);
    junk.set_lock("\u{1}\u{2}not a lock");
    junk.write(&path);
    receiver.refuses(&path, "read the lock");
    receiver.import(&bundle).code(0);
}

#[test]
fn an_installer_without_a_pin_needs_the_flag() {
    let sender = Sender { host: host(), site: Site::new(), directory: directory() };
    sender.host.load_module("313.30");
    let name = "NVIDIA-Linux-x86_64-313.30.run";
    let file = sender.path(name);
    fs::copy(installer("313.30"), &file).unwrap();
    let digest = Digest::of(&fs::read(&file).unwrap());
    fs::write(format!("{file}.sha256sum"), format!("{digest}  {name}\n")).unwrap();
    let text = fs::read_to_string(sender.site.driver_only()).unwrap();
    let recipe = sender.path("unpinned.toml");
    fs::write(&recipe, text.split("[[driver.pins]]").next().unwrap()).unwrap();
    let set = format!("installer.url={file}");
    sender.host.run(&["prefetch", "--trust-tls", "--recipe", &recipe, "--set", &set]).code(0);
    let bundle = sender.export("bundle");
    let receiver = Receiver::prepared(&recipe);
    receiver.refuses(&bundle, "the recipe pins no digest");
    let run: Run = receiver.import_command(&bundle).arg("--trust-tls").output().unwrap().into();
    run.code(0).says("its digest is believed as the bundle has it");
    // With a pin that it is not, the flag is of no use.
    let pinned = format!(
        "{}[[driver.pins]]\nversion = \"313.30\"\narchitecture = \"x86_64\"\nsha256 = \"{}\"\nsize = 1\n",
        fs::read_to_string(&recipe).unwrap(),
        Digest::of(b"other")
    );
    fs::write(&recipe, pinned).unwrap();
    let receiver = Receiver::prepared(&recipe);
    let run: Run = receiver.import_command(&bundle).arg("--trust-tls").output().unwrap().into();
    run.code(5).says("the recipe pins the SHA-256 digest");
}

#[test]
fn an_installer_that_is_of_another_version_inside() {
    let sender = Sender { host: host(), site: Site::new(), directory: directory() };
    sender.host.run(&["prefetch", "--recipe", &sender.site.driver_only()]).code(0);
    let (bundle, path) = (sender.export("bundle"), sender.path("other"));
    // Even a wrong pin does not make one version of another.
    let other = fs::read(installer("580.95.05")).unwrap();
    let recipe = sender.path("wrong.toml");
    let text = fs::read_to_string(sender.site.driver_only()).unwrap();
    let (ours, theirs) = (Digest::of(&fs::read(installer(VERSION)).unwrap()), Digest::of(&other));
    fs::write(&recipe, text.replace(&ours.to_string(), &theirs.to_string())).unwrap();
    let mut all = members(&bundle);
    let old = all.iter().position(|(path, _)| path.ends_with(&ours.to_string())).unwrap();
    let size = all[old].1.len();
    all[old] = (format!("blobs-v1/sha256/{theirs}"), other.clone());
    for (path, content) in &mut all {
        if path.starts_with("locks") {
            let lock = String::from_utf8(content.clone()).unwrap();
            let lock = lock.replace(&ours.to_string(), &theirs.to_string());
            *content =
                lock.replace(&format!("size = {size}"), &format!("size = {}", other.len())).into();
        }
    }
    all.sort_by_key(|(path, _)| (path.starts_with("blobs"), path.clone()));
    fs::write(&path, pack(&all)).unwrap();
    Receiver::prepared(&recipe).refuses(&path, "it is not the one that is wanted");
}

#[test]
fn an_older_bundle_is_refused_until_it_is_allowed() {
    let sender = Sender { host: host(), site: Site::new(), directory: directory() };
    let repository = sender.site.own_copy("cuda");
    let repository = repository.to_str().unwrap();
    world_script("resign", &[repository, "cuda", "--date", "2 hours ago"]).code(0);
    sender.prefetch();
    let old = sender.export("old");
    world_script("resign", &[repository, "cuda", "--date", "1 hour ago"]).code(0);
    sender.prefetch();
    let new = sender.export("new");
    let receiver = Receiver::new(&sender.site.recipe());
    receiver.import(&old).code(0);
    receiver.import(&new).code(0).shows("lock test-debian12-x86_64: replaced");
    let before = receiver.listing();
    let run = receiver.import(&old).code(5);
    let run = run.says("was accepted before").says("--allow-older");
    assert_eq!((run.stdout.as_str(), receiver.listing()), ("", before));
    let run: Run = receiver.import_command(&old).arg("--allow-older").output().unwrap().into();
    run.code(0).says("warning: ").says("as was allowed").shows("replaced");
    // Another place in the lock makes it no newer.
    let receiver = Receiver::new(&sender.site.recipe());
    receiver.import(&new).code(0);
    let mut forgery = Forgery::of(&old);
    let url = sender.site.server.url("/cuda/");
    let lock = forgery.lock();
    assert!(lock.contains(&url), "{lock}");
    forgery.set_lock(&lock.replace(&url, "http://elsewhere/"));
    let moved = sender.path("moved");
    forgery.write(&moved);
    receiver.import(&moved).code(5).says("was accepted before");
    // Nothing of it is older by itself.
    receiver.verify(&old).code(0);
}

// ---------------------------------------------------------------------------------------------
// Several at once, full disks, kills.

/// A sender with an installer of 200 MB that no compressor makes smaller.
fn large() -> Sender {
    let sender = Sender { host: host(), site: Site::new(), directory: directory() };
    let mut state = 88_172_645_463_325_252_u64;
    let mut noise = Vec::with_capacity(200 << 20);
    while noise.len() < 200 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    let run = RunFile::new("535.1").library("libcuda.so.535.1", &noise).build(Packing::Zstd);
    let file = sender.path("NVIDIA-Linux-x86_64-535.1.run");
    fs::write(&file, &run).unwrap();
    let text = fs::read_to_string(sender.site.driver_only()).unwrap();
    let text = text.replacen("name = \"test-driver-only\"", "name = \"large\"", 1);
    let pin = format!(
        "[[driver.pins]]\nversion = \"535.1\"\narchitecture = \"x86_64\"\nsha256 = \"{}\"\nsize = {}\nurl = \"{file}\"\n",
        Digest::of(&run),
        run.len()
    );
    fs::write(sender.recipe(), format!("{text}{pin}")).unwrap();
    sender.host.load_module("535.1");
    sender.host.run(&["prefetch", "--for", "debian12", "--recipe", &sender.recipe()]).code(0);
    sender
}

impl Sender {
    /// The recipe of [`large`].
    fn recipe(&self) -> String {
        self.path("large.toml")
    }

    /// An export that is stopped after so many bytes of its partial file.
    #[track_caller]
    fn export_stopped_after(&self, bundle: &str, bytes: u64) -> Child {
        let mut command = self.host.nvstage();
        let child = spawned(command.args(["bundle", "export", bundle]));
        let partial = self.host.path(&format!("{bundle}.partial"));
        let begun = || fs::metadata(&partial).is_ok_and(|found| found.len() >= bytes);
        for _ in 0..100_000 {
            if begun() {
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        // The child is `nsenter`, which became the program.
        signal(&child, "-STOP");
        assert!(begun(), "it did not begin in time, or had ended already");
        child
    }
}

#[test]
fn a_killed_export_is_continued() {
    let sender = large();
    let whole = sender.export("whole");
    let path = sender.path("bundle");
    let mut child = sender.export_stopped_after(&path, 40 << 20);
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.split_once("VmHWM:").unwrap().1.split_whitespace().next().unwrap();
    assert!(peak.parse::<u64>().unwrap() < 64 << 10, "{peak} kB of memory");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!Path::new(&path).exists(), "an incomplete file has the final name");
    // The last bytes never reached the medium.
    let partial = fs::OpenOptions::new().write(true).open(format!("{path}.partial")).unwrap();
    partial.set_len(30 << 20).unwrap();
    let run = sender.host.run(&["bundle", "export", &path]).code(0);
    run.says(&format!("continuing `{path}.partial`")).shows("30.00 MiB were there");
    shell(&format!("cmp {whole} {path}")).code(0);
    // One of another content is not continued, and one that was changed only up to there.
    fs::write(format!("{path}.partial"), vec![b'x'; 70_000]).unwrap();
    let run = sender.host.run(&["bundle", "export", &path]).code(0);
    run.says("is of another export and is written anew");
    let mut begun = fs::read(&whole).unwrap();
    begun.truncate(50 << 20);
    begun[20 << 20] ^= 1;
    fs::write(format!("{path}.partial"), begun).unwrap();
    sender.host.run(&["bundle", "export", &path]).code(0).shows("20.00 MiB were there");
    shell(&format!("cmp {whole} {path}")).code(0);
    // In a directory as well.
    let stick = sender.path("stick/");
    fs::create_dir_all(format!("{stick}blobs-v1/sha256")).unwrap();
    let all = members(&whole);
    let (blob, content) = all.iter().max_by_key(|(_, content)| content.len()).unwrap();
    fs::write(format!("{stick}{blob}.partial"), &content[..80 << 20]).unwrap();
    sender.host.run(&["bundle", "export", &stick]).code(0).shows("80.00 MiB were there");
    Receiver::new(&sender.recipe()).import(&stick).code(0);
}

#[test]
fn what_was_damaged_in_the_cache_is_not_exported() {
    let sender = Sender::new();
    let path = sender.path("bundle");
    let run = "/var/cache/nvstage/blobs-v1/sha256";
    let blob = sender.host.shell(&format!("ls -S {run}/* | head -1")).stdout.trim().to_owned();
    // With the times that the record has.
    let spoil = format!(
        "touch -r {blob} /tmp/times; printf x | dd of={blob} bs=1 seek=5000 conv=notrunc status=none; touch -r /tmp/times {blob}; rm /tmp/times"
    );
    sender.host.shell(&spoil).code(0);
    let run = sender.host.run(&["bundle", "export", &path]).code(5);
    let run = run.says("NVIDIA-Linux-x86_64-580.76.05.run`: it was damaged in the cache");
    assert_eq!(run.says("nvstage cache verify").says("nvstage prefetch").stdout, "");
    assert!(!Path::new(&path).exists());
    sender.host.shell(&format!("rm {blob}")).code(0);
    let run = sender.host.run(&["bundle", "export", &path]).code(5);
    run.says("`NVIDIA-Linux-x86_64-580.76.05.run` is missing").says("nvstage prefetch");
    // The status of a system is not needed where the bundle goes.
    sender.prefetch();
    let lock =
        sender.host.shell("cat /var/cache/nvstage/locks-v1/test-debian12-x86_64.lock").stdout;
    let status = digest_after(&lock, "[target.status]");
    sender.host.shell(&format!("rm /var/cache/nvstage/blobs-v1/sha256/{status}")).code(0);
    sender.host.run(&["bundle", "export", &path]).code(0);
    let receiver = Receiver::new(&sender.site.recipe());
    receiver.verify(&path).code(0);
    receiver.import(&path).code(0);
}

#[test]
fn a_medium_that_is_full() {
    let sender = large();
    let whole = sender.export("whole");
    let mount = |options: &str| {
        sender
            .host
            .shell(&format!("umount -q /mnt; mount -t tmpfs -o {options} tmpfs /mnt"))
            .code(0);
    };
    mount("size=100m");
    let run = sender.host.run(&["bundle", "export", "/mnt/bundle"]).code(4);
    run.says("write `/mnt/bundle`: no space is left").says("bytes more, and").says("larger medium");
    assert_eq!(sender.host.shell("ls -A /mnt").stdout, "");
    sender.host.run(&["bundle", "export", "/mnt/stick/"]).code(4).says("bytes more, and");
    // It fills up on the way.
    mount("size=250m");
    let child = sender.export_stopped_after("/mnt/bundle", 20 << 20);
    sender.host.shell("cat /dev/zero > /mnt/filler").says("No space");
    signal(&child, "-CONT");
    let run = ended(child).code(4).says("write `/mnt/bundle`: no space is left");
    run.says("stay in `/mnt/bundle.partial`, to be continued");
    assert_eq!(sender.host.shell("ls -A /mnt").stdout, "bundle.partial\nfiller\n");
    sender.host.shell("rm /mnt/filler").code(0);
    let run = sender.host.run(&["bundle", "export", "/mnt/bundle"]).code(0);
    run.says("continuing `/mnt/bundle.partial`");
    sender.host.shell(&format!("cmp {whole} /mnt/bundle")).code(0);
    // No room for another file.
    mount("size=250m,nr_inodes=6");
    let run = sender.host.run(&["bundle", "export", "/mnt/stick/"]).code(4);
    run.says("no space is left");
    assert_eq!(sender.host.shell("ls /mnt/stick/*.toml").stdout, "");
    // A file system without large files: the whole is one, the files are none.
    let limited = |bundle: &str| {
        let script = format!(
            "trap '' XFSZ; ulimit -f 204900; exec {} bundle export {bundle}",
            env!("CARGO_BIN_EXE_nvstage")
        );
        sender.host.shell(&script)
    };
    limited(&sender.path("limited")).code(4).says("no files that large").says("ends with `/`");
}

#[test]
fn a_full_cache() {
    let sender = Sender::new();
    let bundle = sender.export("bundle");
    let receiver = Receiver::new(&sender.site.recipe());
    for (options, why) in [
        ("size=1m", "no space is left in the cache"),
        // The directories and locks of a cache, and a few files.
        ("size=100m,nr_inodes=22", "no space is left"),
    ] {
        fs::create_dir_all(receiver.cache()).unwrap();
        shell(&format!("mount -t tmpfs -o {options} tmpfs {}", receiver.cache().display())).code(0);
        receiver.import(&bundle).code(5).says(why).says("make room");
        assert!(!receiver.listing().contains("blobs") && !receiver.listing().contains(".tmp"));
        shell(&format!("umount {}", receiver.cache().display())).code(0);
    }
    receiver.import(&bundle).code(0);
}

#[test]
fn two_imports_at_once() {
    let sender = Sender::new();
    let bundle = sender.export("bundle");
    let receiver = Receiver::new(&sender.site.recipe());
    let start = || spawned(&mut receiver.import_command(&bundle));
    let runs = [start(), start(), start()].map(ended);
    let news: usize = runs
        .into_iter()
        .map(|run| usize::from(run.code(0).stdout.contains("lock test-debian12-x86_64: new")))
        .sum();
    assert_eq!(news, 1);
    assert!(!receiver.listing().contains(".tmp"));
    receiver.import(&bundle).code(0).shows("new: 0 files");
}

#[test]
fn an_import_waits_until_nobody_uses_the_cache() {
    let sender = Sender::new();
    let bundle = sender.export("bundle");
    let receiver = Receiver::prepared(&sender.site.recipe());
    let lock = fs::File::open(receiver.cache().join(".lock")).unwrap();
    lock.lock_shared().unwrap();
    let child = spawned(&mut receiver.import_command(&bundle));
    let staged = || receiver.listing().contains(".tmp");
    eventually("it stages", Duration::from_secs(20), staged);
    std::thread::sleep(Duration::from_secs(1));
    assert!(!receiver.cache().join("locks-v1/test-debian12-x86_64.lock").exists());
    drop(lock);
    ended(child).code(0).says("waiting: another nvstage uses the cache").shows("is verified");
    // An interruption ends the wait, and leaves nothing.
    let receiver = Receiver::prepared(&sender.site.recipe());
    let before = receiver.listing();
    let lock = fs::File::open(receiver.cache().join(".lock")).unwrap();
    lock.lock_shared().unwrap();
    let child = spawned(&mut receiver.import_command(&bundle));
    eventually("it stages", Duration::from_secs(20), || receiver.listing().contains(".tmp"));
    std::thread::sleep(Duration::from_millis(500));
    signal(&child, "-TERM");
    ended(child).code(130).says("interrupted");
    assert_eq!(receiver.listing(), before);
}

#[test]
fn a_killed_import_leaves_nothing_that_stays() {
    let sender = Sender::new();
    let bundle = sender.export("bundle");
    let bytes = fs::read(&bundle).unwrap();
    let receiver = Receiver::prepared(&sender.site.recipe());
    let before = receiver.listing();
    let pipe = sender.path("pipe");
    shell(&format!("mkfifo {pipe}")).code(0);
    // Killed, and asked to stop, with the greater part arrived.
    for name in ["-KILL", "-TERM"] {
        let child = spawned(&mut receiver.import_command(&pipe));
        let mut feed = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
        feed.write_all(&bytes[..bytes.len() * 3 / 4]).unwrap();
        let staged = || receiver.listing().contains(".tmp");
        eventually("it stages", Duration::from_secs(20), staged);
        signal(&child, name);
        let run = ended(child);
        if name == "-TERM" {
            // It has removed what the other one left, and what it had itself.
            run.code(130).says("interrupted");
            assert_eq!(receiver.listing(), before);
        } else {
            assert_ne!(receiver.listing(), before);
        }
    }
    let child = spawned(&mut receiver.import_command(&pipe));
    fs::write(&pipe, &bytes).unwrap();
    ended(child).code(0).shows("lock test-debian12-x86_64: new");
    assert!(!receiver.listing().contains(".tmp"));
    let again = receiver.import(&bundle).code(0);
    again.shows("unchanged").shows("new: 0 files");
}

#[test]
fn killed_at_any_moment_the_cache_has_no_lock_without_its_files() {
    let sender = Sender::new();
    let bundle = sender.export("bundle");
    for step in 0..12 {
        let receiver = Receiver::new(&sender.site.recipe());
        let mut child = spawned(&mut receiver.import_command(&bundle));
        std::thread::sleep(Duration::from_millis(20 * step));
        let _ = child.kill();
        let _ = child.wait();
        let has_lock = receiver.cache().join("locks-v1/test-debian12-x86_64.lock").exists();
        let run = receiver.import(&bundle).code(0);
        if has_lock {
            run.shows("unchanged").shows("new: 0 files");
        }
        assert!(!receiver.listing().contains(".tmp"));
    }
}
