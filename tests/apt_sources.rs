//! A container that has a source of the CUDA repository already, as NVIDIA's own keyring package and
//! a person write it: it serves or is set aside, and its apt is never worse than before. Real apt 2.6
//! (Debian 12) and apt 3 (Debian 13), online and offline.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

mod support;

use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use support::{Host, Kind, Nodes, Run, Site, VERSION, world};

const PARTS: &str = "/etc/apt/sources.list.d";
const KEYS: &str = "/usr/share/keyrings";
/// The source that nvstage writes.
const OURS: &str = "/etc/apt/sources.list.d/nvstage-cuda.list";

/// What becomes of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Becomes {
    /// It is used, and nothing is added.
    Serves,
    /// Ours takes its place, for this reason.
    Replaced(&'static str),
    /// Nothing, and ours is added.
    Passed,
}
use Becomes::{Passed, Replaced, Serves};

/// A form of source: its file, its text, what becomes of it.
struct Form {
    file: &'static str,
    text: String,
    becomes: Becomes,
}

struct Scene {
    host: Host,
    site: Site,
    ctid: String,
    set: &'static str,
    /// The repository's directory in the world.
    repository: &'static str,
    fingerprint: String,
    /// Where apt finds the repository.
    url: String,
    /// The same repository under another name.
    second: String,
}

impl Scene {
    fn new(suite: &str) -> Self {
        let (host, site) = (Host::new(Kind::Pct, Nodes::Answering(VERSION)), Site::new());
        let distribution = site.distribution_of(suite);
        let root = format!("root={suite}");
        let options = [distribution.as_str(), root.as_str()];
        let ctid = host.container("unprivileged", &options[..1 + usize::from(suite == "trixie")]);
        host.start(&ctid);
        let (repository, key, set) = match suite {
            "trixie" => ("cuda-debian13", "cuda13", "packages=cuda-nvcc-13-0"),
            _ => ("cuda", "cuda", "packages=cuda-nvcc-12-8"),
        };
        let copy = site.own_copy("cuda-otherkey");
        symlink(world().join(repository), copy.parent().unwrap().join("second")).unwrap();
        let fingerprint = std::fs::read_to_string(world().join(repository).join("fingerprint"));
        let scene = Self {
            url: site.server.url(&format!("/{repository}/")),
            second: site.server.url("/second/"),
            fingerprint: fingerprint.unwrap().trim().to_owned(),
            host,
            site,
            ctid,
            set,
            repository,
        };
        scene.keys(key);
        scene.run("prefetch", &[]).code(0);
        scene
    }

    /// Key files as they are met: armoured and binary, the right one, another one, both.
    fn keys(&self, key: &str) {
        let armoured =
            |name: &str| std::fs::read(world().join(format!("keys/{name}/public.asc"))).unwrap();
        let (right, other) = (armoured(key), armoured("otherkey"));
        let home = tempfile::tempdir().unwrap();
        let mut dearmour = Command::new("gpg");
        dearmour.args(["--homedir", home.path().to_str().unwrap(), "--dearmor"]);
        let mut child = dearmour
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&right).unwrap();
        let binary = child.wait_with_output().unwrap().stdout;
        self.put(&format!("{KEYS}/cuda.gpg"), &binary);
        self.put(&format!("{KEYS}/cuda.asc"), &right);
        self.put(&format!("{KEYS}/other.asc"), &other);
        self.put(&format!("{KEYS}/both.asc"), &[right, other].concat());
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let mut command = self.host.command("lxc-attach");
        command.args(["-n", &self.ctid, "--", "sh", "-c", &format!("cat > '{path}'")]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        assert!(child.wait().unwrap().success());
    }

    fn inside(&self, script: &str) -> Run {
        self.host.inside(&self.ctid, script)
    }

    fn read(&self, path: &str) -> String {
        self.inside(&format!("cat '{path}' 2>&1; echo .")).stdout
    }

    fn run(&self, verb: &str, more: &[&str]) -> Run {
        let recipe = self.site.recipe();
        let mut arguments = match verb {
            "prefetch" => vec![verb, "--for", &self.ctid],
            _ => vec![verb, &self.ctid, "--gpus", "0"],
        };
        arguments.extend(["--recipe", &recipe, "--set", self.set]);
        arguments.extend(more);
        self.host.run(&arguments)
    }

    /// `apt-get update` as a person runs it: its status with errors counting, and its complaints.
    fn update(&self) -> (i32, String) {
        // A boot clears `/tmp`, where apt's check of signatures keeps its files.
        let update = "systemctl is-system-running --wait >/dev/null 2>&1
            apt-get -q -o APT::Update::Error-Mode=any update 2>&1";
        let run = self.inside(update);
        let complaints = run.stdout.lines().filter(|line| line.starts_with(['W', 'E', 'N']));
        (run.code, complaints.collect::<Vec<_>>().join("\n"))
    }

    /// Takes out what a form has led to, without the program under test.
    fn reset(&self, file: &str) {
        let package = self.set.trim_start_matches("packages=");
        self.inside(&format!(
            "dpkg --purge {package} >/dev/null 2>&1; rm -f '{file}' {OURS} /etc/apt/keyrings/nvstage* /etc/apt/preferences.d/*; rm -rf /var/lib/apt/lists/*"
        ))
        .code(0);
    }

    /// One form online and offline.
    #[track_caller]
    fn is_as_good_as_before(&self, form: &Form) {
        let Form { file, text, becomes } = form;
        let shown = format!("{file}\n{text}");
        self.put(file, text.as_bytes());
        let planted = self.read(file);
        let before = self.update();
        // Nothing of its sources is needed offline.
        self.run("provision", &["--offline"]).code(0);
        assert_eq!((self.read(file), self.update()), (planted.clone(), before.clone()), "{shown}");
        assert!(self.read(OURS).contains("No such file"), "{shown}");
        self.reset("/nothing");
        let plan = self.run("plan", &[]).code(10);
        match becomes {
            Serves => plan.shows(&format!("the source of `{file}` serves")),
            Replaced(why) => plan.shows(&format!("replace the source of `{file}`")).shows(why),
            Passed => plan,
        };
        let provision = self.run("provision", &[]).code(0);
        let after = self.update();
        assert!(
            after.0 == 0 && (before.0 != 0 || after.1.len() <= before.1.len()),
            "{shown}\n{after:?}"
        );
        let has_ours = !self.read(OURS).contains("No such file");
        assert_eq!(has_ours, *becomes != Serves, "{shown}");
        match becomes {
            Serves | Passed => assert_eq!(self.read(file), planted, "{shown}"),
            Replaced(why) => {
                assert_ne!(self.read(file), planted, "{shown}");
                provision
                    .says(&format!("set aside the source of the CUDA repository in `{file}`"))
                    .says(why);
            }
        }
        if let Replaced(_) = becomes {
            self.run("plan", &[]).code(0);
        }
        self.reset(file);
    }

    fn forms(&self) -> Vec<Form> {
        [self.forms_that_serve(), self.forms_that_are_passed_over(), self.forms_that_are_replaced()]
            .into_iter()
            .flatten()
            .collect()
    }

    fn forms_that_serve(&self) -> Vec<Form> {
        let Self { url, fingerprint, .. } = self;
        let bare = url.trim_end_matches('/');
        let directory = self.repository;
        let parent = url.trim_end_matches(&format!("{directory}/"));
        let armour = format!("sed 's/^$/./; s/^/ /' {KEYS}/cuda.asc");
        let inline = self.inside(&armour).code(0).stdout;
        let line = |text: String| Form { file: LIST, text, becomes: Serves };
        let stanza =
            |url: &str, more: &str| Form { file: DEB822, text: stanza(url, more), becomes: Serves };
        vec![
            // As the package `cuda-keyring` has it.
            line(format!("deb [signed-by={KEYS}/cuda.gpg] {url} /\n")),
            Form {
                file: "/etc/apt/sources.list",
                ..line(format!(
                    "# mine\ndeb [ arch=amd64 signed-by={KEYS}/cuda.asc ] {bare} / # cuda\n"
                ))
            },
            line(format!("deb [arch+=arm64 signed-by={KEYS}/cuda.gpg,{fingerprint}] {url} ./\n")),
            line(format!("deb [signed-by={KEYS}/cuda.gpg] {parent} {directory}/\n")),
            line(format!(
                "deb [signed-by={KEYS}/cuda.asc] {url} /\ndeb-src [signed-by={KEYS}/cuda.asc] {url} /\n"
            )),
            stanza(url, &format!("Signed-By: {KEYS}/cuda.gpg")),
            stanza(bare, &format!("signed-by: {KEYS}/both.asc {fingerprint}")),
            stanza(url, &format!("Signed-By:\n{}", inline.trim_end_matches('\n'))),
        ]
    }

    fn forms_that_are_passed_over(&self) -> Vec<Form> {
        let url = &self.url;
        let form = |file: &'static str, text: String| Form { file, text, becomes: Passed };
        vec![
            form(DEB822, stanza(url, &format!("Enabled: no\nSigned-By: {KEYS}/cuda.gpg"))),
            form("/etc/apt/sources.list.d/cuda off.list", format!("deb {url} /\n")),
            form(LIST, format!("#deb {url} /\n")),
        ]
    }

    fn forms_that_are_replaced(&self) -> Vec<Form> {
        let Self { url, second, fingerprint, .. } = self;
        let bare = url.trim_end_matches('/');
        let line = |text: String, why| Form { file: LIST, text, becomes: Replaced(why) };
        let both = format!("Signed-By: {KEYS}/both.asc");
        vec![
            line(format!("deb [signed-by={KEYS}/both.asc] {url} /"), "has other keys"),
            line(format!("deb [signed-by={KEYS}/other.asc] {url} /\n"), "the pinned key is not in"),
            line(
                format!("deb [signed-by={KEYS}/gone.gpg] {bare}// /\n"),
                "no key that can be read",
            ),
            line(
                format!("deb [signed-by={fingerprint}] {url} /\n"),
                "the pinned key is not in apt",
            ),
            Form {
                file: "/etc/apt/sources.list",
                ..line(format!("# mine\n  deb {url} /\n# end\n"), "is not in apt's own keyring")
            },
            line(format!("deb [trusted=yes] {url} /\n"), "turns off the signature"),
            line(
                format!("deb [arch=arm64 signed-by={KEYS}/cuda.gpg] {url} /\n"),
                "apt does not read it beside",
            ),
            Form {
                file: DEB822,
                ..line(
                    format!(
                        "# two\n{}\n{}",
                        stanza(&format!("{second} {url}"), &both),
                        stanza(second, &both)
                    ),
                    "has other keys",
                )
            },
        ]
    }
}

const LIST: &str = "/etc/apt/sources.list.d/cuda-debian12-x86_64.list";
const DEB822: &str = "/etc/apt/sources.list.d/cuda.sources";

fn stanza(urls: &str, more: &str) -> String {
    format!("Types: deb\nURIs: {urls}\nSuites: /\n{more}\n")
}

fn every_form(suite: &str) {
    let scene = Scene::new(suite);
    scene.run("provision", &[]).code(0);
    scene.reset("/nothing");
    for form in scene.forms() {
        scene.is_as_good_as_before(&form);
    }
}

#[test]
fn apt_2_6_is_as_good_as_before_whatever_source_it_has() {
    every_form("bookworm");
}

#[test]
fn apt_3_is_as_good_as_before_whatever_source_it_has() {
    every_form("trixie");
}

#[test]
fn what_was_set_aside_is_put_back_byte_for_byte_and_somebodys_change_is_kept() {
    let scene = Scene::new("bookworm");
    let Scene { host, ctid, url, second, .. } = &scene;
    let one = format!("{PARTS}/cuda.list");
    let two = format!("{PARTS}/more.sources");
    let lines = format!("# first\ndeb [signed-by={KEYS}/both.asc] {url} /\n#last");
    scene.put(&one, lines.as_bytes());
    let stanza = format!(
        "Types: deb deb-src\nURIs: {second}\n  {url}\nSuites: ./\nEnabled: yes\nSigned-By: {KEYS}/both.asc\n\n# end\n"
    );
    scene.put(&two, stanza.as_bytes());
    let mode = scene.inside(&format!(
        "chmod 0640 {one}; ln -s more.sources {PARTS}/link.sources; stat -c '%a %u' {one} {two}"
    ));
    let before = (scene.read(&one), scene.read(&two), scene.update());
    scene.run("provision", &[]).code(0);
    assert_eq!(scene.update().0, 0);
    // Killed before ours came, or after: the next run has the same end.
    scene.inside(&format!("rm {OURS}")).code(0);
    scene.run("provision", &[]).code(0);
    let detach = host.run(&["detach", ctid, "--uninstall", "--purge"]).code(0);
    detach.shows("put back the source of");
    assert_eq!((scene.read(&one), scene.read(&two), scene.update()), before);
    assert_eq!(scene.inside(&format!("stat -c '%a %u' {one} {two}")).stdout, mode.stdout);
    assert!(scene.read(OURS).contains("No such file"));

    // Somebody adds a line meanwhile, or takes the whole away.
    scene.run("provision", &[]).code(0);
    scene.inside(&format!("echo '# added' >> {one}; echo '# all mine' > {two}")).code(0);
    let detach = host.run(&["detach", ctid, "--uninstall", "--purge"]).code(0);
    detach.shows(&format!("kept the source of `{PARTS}/link.sources`, `{two}`"));
    assert_eq!(scene.read(&one), format!("{lines}# added\n.\n"), "{lines}");
    assert_eq!(scene.read(&two), "# all mine\n.\n");
}

#[test]
fn a_source_that_comes_after_ours_is_used_in_its_place() {
    let scene = Scene::new("trixie");
    scene.run("provision", &[]).code(0);
    let list = format!("{PARTS}/cuda-debian13-x86_64.list");
    scene.put(&list, format!("deb [signed-by={KEYS}/cuda.gpg] {} /\n", scene.url).as_bytes());
    let (status, complaints) = scene.update();
    assert!(status != 0 && complaints.contains("Conflicting values"), "{complaints}");
    scene
        .run("plan", &["--offline"])
        .code(10)
        .shows(&format!("use the source of `{list}`, not ours"));
    scene.run("provision", &["--offline"]).code(0);
    assert_eq!(scene.update(), (0, String::new()));
    assert!(scene.read(OURS).contains("No such file"));
    scene.run("plan", &[]).code(0);
    // One that does not serve is set aside for ours.
    scene.reset(&list);
    scene.run("provision", &[]).code(0);
    scene.put(&list, format!("deb [signed-by={KEYS}/other.asc] {} /\n", scene.url).as_bytes());
    scene.run("provision", &["--offline"]).code(0);
    assert_eq!(scene.update(), (0, String::new()));
}
