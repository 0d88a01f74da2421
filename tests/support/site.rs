//! A site of NVIDIA's form on the test world's bridge, and recipes that point there.

use std::fmt::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nvstage::digest::hash_reader;

use super::server::{Fault, Server};
use super::{BRIDGE, installer, world};

/// The versions that the recipes pin.
const PINNED: [&str; 3] = [super::VERSION, "580.95.05", "470.256.02"];

/// A server with installers and repositories, and the recipes for it.
pub struct Site {
    pub server: Server,
    recipes: tempfile::TempDir,
    repository: &'static str,
}

impl Site {
    pub fn new() -> Self {
        Self::with_repository("cuda")
    }

    /// A site whose CUDA repository is that directory of the test world.
    pub fn with_repository(repository: &'static str) -> Self {
        let server = Server::at(&format!("{BRIDGE}:0"));
        server.directory(world());
        let recipes =
            tempfile::Builder::new().prefix("nvstage-site-").tempdir_in("/var/tmp").unwrap();
        let site = Self { server, recipes, repository };
        std::fs::write(site.path("test.toml"), site.text("[\"cuda-toolkit-12-8\", \"nvtop\"]"))
            .unwrap();
        std::fs::write(site.path("test-driver-only.toml"), site.text("[]")).unwrap();
        site
    }

    /// Whether its repository for Debian 12 has a key that SHA-1 binds.
    pub fn is_sha1(&self) -> bool {
        self.repository == "cuda-sha1"
    }

    fn path(&self, name: &str) -> String {
        self.recipes.path().join(name).to_str().unwrap().to_owned()
    }

    /// The recipe with CUDA packages.
    pub fn recipe(&self) -> String {
        self.path("test.toml")
    }

    /// The recipe without packages.
    pub fn driver_only(&self) -> String {
        self.path("test-driver-only.toml")
    }

    fn text(&self, packages: &str) -> String {
        let name = if packages == "[]" { "test-driver-only" } else { "test" };
        let checks = if packages == "[]" { "" } else { ", \"packages\"" };
        // Repositories of Debian 12 have one key; one that is signed by another is to be refused.
        let keyholder = match self.repository {
            "cuda-debian13" | "cuda-sha1" => self.repository,
            _ => "cuda",
        };
        let fingerprint = std::fs::read_to_string(world().join("keys/distribution/fingerprint"));
        let fingerprint = fingerprint.unwrap();
        let distribution = fingerprint.trim();
        let mut text = format!(
            "schema = 1\nname = \"{name}\"\ndescription = \"stand-ins\"\n\
             [driver.urls]\nx86_64 = [\"{}\"]\n\
             {}{}older = \"debian12\"\n\
             [distribution.debian12]\nkeys = [\"{distribution}\"]\n\
             [distribution.debian13]\nkeys = [\"{distribution}\"]\n\
             [packages]\ninstall = {packages}\n\
             [checks]\nrun = [\"libraries\", \"nodes\", \"nvidia-smi\"{checks}]\n",
            self.server.url("/installer/NVIDIA-Linux-{arch}-{version}.run"),
            self.repository_text("debian12", self.repository, keyholder),
            self.repository_text("debian13", "cuda-debian13", "cuda-debian13"),
        );
        for version in PINNED {
            let file = std::fs::File::open(installer(version)).unwrap();
            let (digest, size) = hash_reader(file).unwrap();
            let _ = write!(
                text,
                "[[driver.pins]]\nversion = \"{version}\"\narchitecture = \"x86_64\"\nsha256 = \"{digest}\"\nsize = {size}\n"
            );
        }
        text
    }

    /// A repository in a recipe, trusted by the key of `keyholder`.
    fn repository_text(&self, distribution: &str, repository: &str, keyholder: &str) -> String {
        let directory = world().join(keyholder);
        let key = std::fs::read_dir(&directory)
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name().into_string().unwrap())
            .find(|name| name.ends_with(".pub"))
            .unwrap();
        let fingerprint = std::fs::read_to_string(directory.join("fingerprint")).unwrap();
        format!(
            "[repository.{distribution}]\nurl = \"{}\"\nkey = \"{key}\"\nfingerprint = \"{}\"\narchitectures = [\"x86_64\"]\n",
            self.server.url(&format!("/{repository}/")),
            fingerprint.trim(),
        )
    }

    /// A copy of a repository of the test world, served in its place from now on: for
    /// [`super::world_script`] with `resign`, `reindex` and `package`.
    pub fn own_copy(&self, repository: &str) -> PathBuf {
        let served = self.recipes.path().join("served");
        if !served.exists() {
            std::fs::create_dir(&served).unwrap();
            for entry in std::fs::read_dir(world()).unwrap().flatten() {
                symlink(entry.path(), served.join(entry.file_name())).unwrap();
            }
        }
        let copy = served.join(repository);
        std::fs::remove_file(&copy).unwrap();
        copy_files(&world().join(repository), &copy);
        self.server.directory(served);
        copy
    }

    /// The repository of a suite of Debian, for `Host::container`.
    pub fn distribution_of(&self, suite: &str) -> String {
        let suffix = if suite == "bookworm" { String::new() } else { format!("-{suite}") };
        format!("distribution-url={}", self.server.url(&format!("/distribution{suffix}/")))
    }

    /// The distribution's repository, for `Host::container`.
    pub fn distribution(&self) -> String {
        format!("distribution-url={}", self.distribution_url())
    }

    /// The URL of the distribution's repository.
    pub fn distribution_url(&self) -> String {
        self.server.url("/distribution/")
    }

    /// How often an installer was asked for.
    pub fn requests(&self) -> usize {
        let requests = self.server.requests();
        requests.iter().filter(|request| request.target.contains("/installer/")).count()
    }

    /// The installer stalls after its first half, many times.
    pub fn stall_installer(&self) {
        let path = format!("/installer/NVIDIA-Linux-x86_64-{}.run", super::VERSION);
        self.server.faults(&path, vec![Fault::StallAfter(100_000); 2]);
    }
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
