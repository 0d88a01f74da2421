//! A repository's release file, as it is after its signature was verified: dates, names, and the
//! digests of the indexes.
//!
//! NVIDIA's has neither `Suite` nor `Codename` nor `Valid-Until`
//! (`repo-debian.sh` in `NVIDIA/cuda-repo-management`).

use std::collections::BTreeMap;

use deb822_fast::Deb822;
use jiff::{SignedDuration, Timestamp};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::lock::{LockedIndex, is_inside};

/// How far ahead the date of a release may lie: apt's own `Acquire::Max-FutureTime`.
const FUTURE: SignedDuration = SignedDuration::from_secs(10);

/// Whether it matters that a release has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Yes: it was fetched just now.
    Counts,
    /// No: it was fetched in time and kept. Its age is judged elsewhere.
    Ignored,
}

/// The part of a release file that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// When it was made.
    pub date: Timestamp,
    /// Until when it may be used, where it says so.
    pub valid_until: Option<Timestamp>,
    /// The names it gives itself: suite and codename.
    pub names: Vec<String>,
    /// Whether indexes lie under their digest as well.
    pub by_hash: bool,
    /// Whether there are indexes for packages of architecture `all` alone.
    pub has_index_for_all: bool,
    files: BTreeMap<String, (Digest, u64)>,
}

impl Release {
    /// Reads the signed text.
    ///
    /// # Errors
    /// Install error when a field that is needed is missing or malformed.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |what: &str| Error::install(format!("read a release file: {what}"));
        let parsed: Deb822 = text.parse().map_err(|error| bad("it is malformed").because(error))?;
        let mut paragraphs = parsed.into_iter();
        let (Some(fields), None) = (paragraphs.next(), paragraphs.next()) else {
            return Err(bad("it is not one paragraph"));
        };
        let date = |name: &str| match fields.get(name) {
            None => Ok(None),
            Some(text) => date(text).map(Some).ok_or_else(|| bad(&format!("`{name}: {text}`"))),
        };
        let says = |name: &str| fields.get(name).is_some_and(|value| value.trim() == "yes");
        let lists_all = ["Architectures", "Architecture"].iter().any(|name| {
            fields.get(name).is_some_and(|value| value.split_whitespace().any(|word| word == "all"))
        });
        let without_all = fields.get("No-Support-for-Architecture-all");
        let names = ["Suite", "Codename"].iter().filter_map(|name| fields.get(name));
        let list = fields.get("SHA256").ok_or_else(|| bad("it has no SHA-256 digests"))?;
        Ok(Self {
            date: date("Date")?.ok_or_else(|| bad("it has no date"))?,
            valid_until: date("Valid-Until")?,
            names: names.map(|name| name.trim().to_owned()).collect(),
            by_hash: says("Acquire-By-Hash"),
            has_index_for_all: lists_all
                && without_all.is_none_or(|what| what.trim() != "Packages"),
            files: digests(list).ok_or_else(|| bad("its list of digests is malformed"))?,
        })
    }

    /// Refuses a release from the future, one that has expired, or one of another suite.
    ///
    /// # Errors
    /// Install error with the date.
    pub fn check(&self, suite: &str, now: Timestamp, expiry: Expiry) -> Result<()> {
        if self.date > now + FUTURE {
            return Err(Error::install("use the release: it is not valid yet")
                .because(format!("it is of {}, this host's clock says {now:.0}", self.date))
                .hint("is this host's clock right?"));
        }
        let expired = self.valid_until.filter(|until| *until < now);
        if let Some(until) = expired.filter(|_| expiry == Expiry::Counts) {
            return Err(Error::install("use the release: it has expired")
                .because(format!("it was valid until {until}, this host's clock says {now:.0}"))
                .hint("the mirror is not kept up to date, or an old release is played back"));
        }
        let first = suite.split('/').next().unwrap_or(suite);
        let fits = |name: &String| name == suite || name == first;
        if suite != "/" && !self.names.is_empty() && !self.names.iter().any(fits) {
            let names = self.names.join(", ");
            return Err(Error::install(format!("use the release: it is not of `{suite}`"))
                .because(format!("it calls itself {names}")));
        }
        Ok(())
    }

    /// The package indexes of a component for an architecture: the smallest form of each that
    /// this program reads. `component` is empty for a flat repository.
    ///
    /// # Errors
    /// Install error when there is none.
    pub fn indexes(&self, component: &str, architecture: &str) -> Result<Vec<LockedIndex>> {
        let directory = |architecture: &str| match component {
            "" => String::new(),
            component => format!("{component}/binary-{architecture}/"),
        };
        let own = self.index(&directory(architecture)).ok_or_else(|| {
            let wanted = format!("{}Packages", directory(architecture));
            Error::install(format!("find the index `{wanted}` in the release"))
                .hint("has the repository this component, and packages for this architecture?")
        })?;
        let mut indexes = vec![own];
        if self.has_index_for_all && !component.is_empty() {
            indexes.extend(self.index(&directory("all")));
        }
        Ok(indexes)
    }

    fn index(&self, directory: &str) -> Option<LockedIndex> {
        // An uncompressed index alone is refused by apt 2.6 with a misleading message.
        [".xz", ".gz"].iter().find_map(|suffix| {
            let path = format!("{directory}Packages{suffix}");
            let &(sha256, size) = self.files.get(&path)?;
            Some(LockedIndex { path, sha256, size })
        })
    }

    /// The digest and size that the release names for a file.
    pub fn file(&self, path: &str) -> Option<(Digest, u64)> {
        self.files.get(path).copied()
    }
}

/// `Fri, 21 Feb 2025 20:23:50 UTC`, also with `+0000` or `GMT`.
fn date(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let text = match text.strip_suffix("UTC") {
        Some(rest) => format!("{rest}+0000"),
        None => text.to_owned(),
    };
    jiff::fmt::rfc2822::parse(&text).ok().map(|date| date.timestamp())
}

fn digests(list: &str) -> Option<BTreeMap<String, (Digest, u64)>> {
    let mut files = BTreeMap::new();
    for line in list.lines().filter(|line| !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let (digest, size, path) = (words.next()?, words.next()?, words.next()?);
        let entry = (Digest::parse(digest).ok()?, size.parse().ok()?);
        let path = path.strip_prefix("./").unwrap_or(path);
        // What could lead elsewhere is not looked at; no index is called so.
        if is_inside(path) && files.insert(path.to_owned(), entry).is_some_and(|old| old != entry) {
            return None;
        }
    }
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn nvidia() -> String {
        format!(
            "Origin: NVIDIA\nLabel: NVIDIA CUDA\nArchitecture: x86_64\n\
             Date: Fri, 21 Feb 2025 20:23:50 +0000\nMD5Sum:\n 0 1 Packages\nSHA256:\n \
             {HEX} 10 Packages\n {HEX} 5 Packages.gz\nAcquire-By-Hash: no\n"
        )
    }

    #[test]
    fn the_form_of_nvidias_repository_is_understood() {
        let release = Release::parse(&nvidia()).unwrap();
        assert_eq!(release.date.to_string(), "2025-02-21T20:23:50Z");
        let indexes = release.indexes("", "amd64").unwrap();
        assert_eq!((indexes[0].path.as_str(), indexes[0].size), ("Packages.gz", 5));
        assert!(!release.by_hash && release.valid_until.is_none());
    }

    #[test]
    fn the_form_of_debians_repository_is_understood() {
        let text = format!(
            "Suite: oldstable-security\nCodename: bookworm-security\nDate: Sat, 11 Jul 2026 10:16:37 UTC\n\
             Valid-Until: Sat, 18 Jul 2026 10:16:37 UTC\nAcquire-By-Hash: yes\n\
             No-Support-for-Architecture-all: Packages\nArchitectures: all amd64\nSHA256:\n \
             {HEX} 5 main/binary-amd64/Packages.gz\n {HEX} 4 main/binary-amd64/Packages.xz\n {HEX} 4 main/binary-all/Packages.xz\n"
        );
        let release = Release::parse(&text).unwrap();
        let indexes = release.indexes("main", "amd64").unwrap();
        assert_eq!(indexes.len(), 1);
        assert_eq!(indexes[0].path, "main/binary-amd64/Packages.xz");
        assert!(release.indexes("contrib", "amd64").is_err());
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(
            release.check("bookworm-security", at("2026-07-12T00:00:00Z"), Expiry::Counts).is_ok()
        );
        let expired = release
            .check("bookworm-security", at("2026-08-01T00:00:00Z"), Expiry::Counts)
            .unwrap_err();
        assert!(expired.what().contains("expired"));
        let early = release
            .check("bookworm-security", at("2026-07-01T00:00:00Z"), Expiry::Counts)
            .unwrap_err();
        assert!(early.what().contains("not valid yet"));
        let other =
            release.check("bookworm", at("2026-07-12T00:00:00Z"), Expiry::Counts).unwrap_err();
        assert!(other.what().contains("not of `bookworm`"));
        let with_all = Release::parse(&text.replace("No-Support", "X")).unwrap();
        assert_eq!(with_all.indexes("main", "amd64").unwrap().len(), 2);
    }

    #[test]
    fn what_is_missing_or_contradicts_itself_is_refused() {
        for (from, to) in [
            ("Date: Fri, 21 Feb 2025 20:23:50 +0000\n", ""),
            ("Date: Fri, 21 Feb 2025", "Date: yesterday"),
            ("SHA256:", "SHA512:"),
            (" 10 Packages\n", " ten Packages\n"),
            ("Origin: NVIDIA\n", "Origin: NVIDIA\n\nOrigin: other\n"),
        ] {
            assert!(Release::parse(&nvidia().replace(from, to)).is_err(), "{to}");
        }
        let twice = nvidia().replace("SHA256:\n", &format!("SHA256:\n {HEX} 7 Packages.gz\n"));
        assert!(Release::parse(&twice).is_err());
    }
}
