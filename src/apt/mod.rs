//! The CUDA repository as a container's apt sees it: key, source, pins, and the script that
//! installs from it.
//!
//! NVIDIA's repository is flat (`deb URL /`) and carries no `Suite`; its package `cuda-keyring`
//! would put the repository above the distribution for every name and is therefore not used.

pub mod base;
pub mod diagnosis;
pub mod existing;
pub mod index;
pub mod isolated;
pub mod mirror;
pub mod release;
pub mod sources;
pub mod system;
pub mod version;

use crate::digest::Digest;
use crate::fingerprint::Fingerprint;

/// The script; its arguments are listed at its head.
pub const SCRIPT: &str = concat!(include_str!("../prelude.sh"), include_str!("install.sh"));

/// Where the pins lie inside. They stay: without them the next `apt upgrade` may bring a driver.
pub const PINS_PATH: &str = "/etc/apt/preferences.d/00-nvstage-gpu";
/// Where the source lies inside.
pub const SOURCES_PATH: &str = "/etc/apt/sources.list.d/nvstage-cuda.list";
/// Where the repository's key lies inside; apt takes armoured keys by this suffix.
pub const KEY_PATH: &str = "/etc/apt/keyrings/nvstage-cuda.asc";

/// A file inside the container that apt reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AptFile {
    /// Its path inside.
    pub path: &'static str,
    /// Its text, without the final newline.
    pub text: String,
}

impl AptFile {
    fn new(path: &'static str, text: &str) -> Self {
        Self { path, text: text.trim_end_matches('\n').to_owned() }
    }

    /// The digest of the file as it is written.
    pub fn digest(&self) -> Digest {
        Digest::of(format!("{}\n", self.text).as_bytes())
    }
}

/// The repository's key, armoured, as it was verified.
pub fn key(armoured: &str) -> AptFile {
    AptFile::new(KEY_PATH, armoured)
}

/// The source: flat, and trusting exactly one key of the key file by its fingerprint.
pub fn sources(url: &str, fingerprint: &Fingerprint) -> AptFile {
    let url = url.trim_end_matches('/');
    let text = format!("deb [signed-by={KEY_PATH},{fingerprint}] {url}/ /");
    AptFile::new(SOURCES_PATH, &text)
}

/// Pins that keep every package out which would bring a second driver. The first specific record
/// wins, so the exceptions come first. Tested with apt 2.6 and 3.0.
pub fn pins(deny: &[String], allow: &[String]) -> AptFile {
    let record = |names: &[String], priority: i32| {
        format!("Package: {}\nPin: release *\nPin-Priority: {priority}\n", names.join(" "))
    };
    let mut text = String::new();
    if !allow.is_empty() {
        text.push_str(&record(allow, 500));
        text.push('\n');
    }
    text.push_str(&record(deny, -1));
    AptFile::new(PINS_PATH, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_flat_and_names_the_one_key() {
        let fingerprint = Fingerprint::parse("EB693B3035CD5710E231E123A4B469963BF863CC").unwrap();
        let file = sources("https://example.org/debian12/x86_64", &fingerprint);
        let expected = "deb [signed-by=/etc/apt/keyrings/nvstage-cuda.asc,\
            EB693B3035CD5710E231E123A4B469963BF863CC] https://example.org/debian12/x86_64/ /";
        assert_eq!(file.text, expected);
    }

    #[test]
    fn exceptions_come_before_the_denied() {
        let file = pins(&["nvidia-*".to_owned()], &["nvidia-container-toolkit*".to_owned()]);
        let text = file.text;
        let position = |word| text.find(word).unwrap();
        assert!(position("container-toolkit") < position("nvidia-*"));
        assert!(text.ends_with("Pin-Priority: -1"));
    }
}
