//! apt as a resolver for another system: a configuration that nothing of the host's reaches, and
//! what `apt-get --print-uris` answers.

use std::path::Path;

use crate::architecture::Architecture;
use crate::digest::Digest;

/// The text of an `apt.conf` (named by `APT_CONFIG`, which is read before everything else) for an
/// apt that lives in `directory` alone.
pub fn configuration(directory: &Path, architecture: Architecture) -> String {
    let (directory, architecture) = (directory.display(), architecture.dpkg());
    format!(
        "Dir \"{directory}/\";\n\
         Dir::State \"var/lib/apt/\";\n\
         Dir::State::status \"{directory}/var/lib/dpkg/status\";\n\
         Dir::Cache \"var/cache/apt/\";\n\
         Dir::Cache::pkgcache \"\";\n\
         Dir::Cache::srcpkgcache \"\";\n\
         Dir::Etc \"etc/apt/\";\n\
         Dir::Log \"{directory}/log\";\n\
         APT::Architecture \"{architecture}\";\n\
         APT::Architectures {{ \"{architecture}\"; }};\n\
         APT::Get::Always-Include-Phased-Updates \"true\";\n\
         APT::Install-Recommends \"false\";\n\
         APT::Install-Suggests \"false\";\n\
         APT::Sandbox::User \"root\";\n\
         APT::Update::Error-Mode \"any\";\n\
         Acquire::ForceHash \"SHA256\";\n\
         Acquire::GzipIndexes \"true\";\n\
         Acquire::Languages \"none\";\n"
    )
}

/// The directories that such an apt insists on.
pub const DIRECTORIES: [&str; 6] = [
    "etc/apt/apt.conf.d",
    "etc/apt/preferences.d",
    "etc/apt/sources.list.d",
    "var/lib/apt/lists/partial",
    "var/cache/apt/archives/partial",
    "var/lib/dpkg",
];

/// A path as part of a `file:` URL.
pub fn file_url(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut url = "file:".to_owned();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'+' | b'~' => url.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => url.push(char::from(byte)),
            byte => url.push_str(&format!("%{byte:02x}")),
        }
    }
    url
}

/// One line of `apt-get --print-uris`: a package that would be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// The name that the file would get, `NAME_VERSION_ARCHITECTURE.deb`.
    pub file: String,
    /// The digest of the `.deb`.
    pub sha256: Digest,
}

/// The packages that apt would fetch; other lines are talk. `None` when a line names a package
/// without a SHA-256.
pub fn fetches(output: &str) -> Option<Vec<Fetch>> {
    let lines = output.lines().filter(|line| line.starts_with('\''));
    lines
        .map(|line| {
            let (_, rest) = line.strip_prefix('\'')?.rsplit_once("' ")?;
            let mut words = rest.split_whitespace();
            let file = words.next()?.to_owned();
            let hash = words.nth(1)?.strip_prefix("SHA256:")?;
            Some(Fetch { file, sha256: Digest::parse(hash).ok()? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn apts_answer_is_understood() {
        let text = format!(
            "Reading package lists...\n'file:/a%20b/./x.deb' x_1%3a2_amd64.deb 12 SHA256:{HEX}\n"
        );
        let all = fetches(&text).unwrap();
        assert_eq!((all.len(), all[0].file.as_str()), (1, "x_1%3a2_amd64.deb"));
        assert_eq!(fetches(&text.replace("SHA256", "MD5Sum")), None);
        assert_eq!(fetches("Reading package lists...\n"), Some(Vec::new()));
    }

    #[test]
    fn a_path_with_blanks_is_one_word_of_a_source() {
        assert_eq!(file_url(Path::new("/a b/c[1]")), "file:/a%20b/c%5b1%5d");
    }
}
