//! A repository that the container has a source for already: whether that source serves, and what
//! ours replaces.
//!
//! apt knows a repository by the name of its release file without the scheme, and reads no source at
//! all where two of one repository have another `Signed-By` or `Trusted` (measured with apt 2.6 and
//! 3.0). A source serves where apt accepts nothing for it but the pinned key; every other one of that
//! repository is set aside, so that it can be put back byte for byte.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::sources::{self, Piece};
use super::{KEY_PATH, SOURCES_PATH};
use crate::digest::Digest;
use crate::fingerprint::Fingerprint;
use crate::openpgp;

/// The repository that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Its URL.
    pub url: &'a str,
    /// The fingerprint of its pinned key.
    pub fingerprint: &'a Fingerprint,
    /// The architecture, `amd64`.
    pub architecture: &'a str,
}

/// What apt reads in a container.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    /// The files with sources, by their path.
    pub sources: &'a BTreeMap<String, String>,
    /// The key files that count for sources without a key of their own.
    pub trusted: &'a [String],
    /// Reads a key file.
    pub read: &'a dyn Fn(&str) -> Option<Vec<u8>>,
}

/// Whether our own source is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ours {
    /// It is to be.
    Wanted,
    /// It is, and is not needed now.
    There,
    /// It is not, and is not needed.
    Absent,
}

/// What becomes of the sources of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The file with the container's own source that serves; ours is not needed then.
    pub serving: Option<String>,
    /// What is set aside for ours, or for the one that serves.
    pub set_aside: Vec<SetAside>,
    /// Why, each with the file's path before it.
    pub reasons: Vec<String>,
    /// The files that change.
    pub edits: Vec<FileEdit>,
    /// Files of ours that go.
    pub removed: Vec<&'static str>,
}

impl Change {
    /// What is to be done, in words; `None` where nothing is.
    pub fn text(&self) -> Option<String> {
        match (&self.serving, self.reasons.as_slice()) {
            (None, []) => None,
            (Some(path), []) => {
                (!self.removed.is_empty()).then(|| format!("use the source of `{path}`, not ours"))
            }
            (None, reasons) => Some(format!("replace the source of {}", reasons.join("; of "))),
            (Some(path), reasons) => Some(format!(
                "use the source of `{path}`, and set aside that of {}",
                reasons.join("; of ")
            )),
        }
    }
}

/// A piece of a file that was replaced, and can be put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAside {
    /// The file.
    pub path: String,
    /// The line or stanza as it was.
    pub old: String,
    /// What stands in its place.
    pub new: String,
}

/// A file that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEdit {
    /// Its path.
    pub path: String,
    /// The digest of what was read.
    pub before: Digest,
    /// Its new text.
    pub text: String,
}

/// Why a source does not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    Unchecked(String),
    NoKey(String),
    OtherKey(String),
    MoreKeys(String),
    NoPackages,
    Beside(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchecked(option) => write!(f, "its option `{option}` turns off the signature"),
            Self::NoKey(place) => write!(f, "{place} has no key that can be read"),
            Self::OtherKey(place) => write!(f, "the pinned key is not in {place}"),
            Self::MoreKeys(place) => write!(f, "{place} has other keys than the pinned one"),
            Self::NoPackages => f.write_str("no packages of this architecture come from it"),
            Self::Beside(path) => write!(f, "apt does not read it beside `{path}`"),
        }
    }
}

/// What becomes of the sources of the wanted repository.
pub fn change(wanted: Wanted<'_>, files: Files<'_>, ours: Ours) -> Change {
    if ours == Ours::Absent {
        return Change::default();
    }
    let mut candidates = Vec::new();
    for (path, text) in files.sources.iter().filter(|(path, _)| *path != SOURCES_PATH) {
        for piece in sources::pieces(path, text, wanted.architecture) {
            if combinations(&piece).any(|(url, suite)| is_place(url, suite, wanted.url)) {
                let fault = fault(&piece, wanted, files);
                candidates.push(Candidate { path, text, piece, fault });
            }
        }
    }
    let serving = candidates.iter().position(|candidate| {
        candidate.fault.is_none() && candidate.piece.has_packages(wanted.architecture)
    });
    let anchor = match serving.map(|position| &candidates[position]) {
        Some(candidate) => Anchor::of(candidate),
        None => Anchor::ours(wanted),
    };
    let mut change = Change { serving: None, ..Change::default() };
    let mut replaced: BTreeMap<&str, Vec<(&Piece, String)>> = BTreeMap::new();
    for (position, candidate) in candidates.iter().enumerate() {
        if Some(position) == serving {
            continue;
        }
        let Some(fault) = candidate.fault.clone().or_else(|| anchor.objects_to(candidate)) else {
            continue;
        };
        let new = candidate.set_aside(wanted.url);
        let old = candidate.text[candidate.piece.span.clone()].to_owned();
        let path = candidate.path.to_owned();
        change.reasons.push(format!("`{path}`: {fault}"));
        replaced.entry(candidate.path).or_default().push((&candidate.piece, new.clone()));
        change.set_aside.push(SetAside { path, old, new });
    }
    change.edits = replaced.into_iter().map(|(path, pieces)| edit(path, files, pieces)).collect();
    if let Some(candidate) = serving.map(|position| &candidates[position]) {
        change.serving = Some(candidate.path.to_owned());
        if ours == Ours::There || files.sources.contains_key(SOURCES_PATH) {
            let needs_key = candidate.piece.words("signed-by").contains(&KEY_PATH);
            change.removed.push(SOURCES_PATH);
            change.removed.extend((!needs_key).then_some(KEY_PATH));
        }
    }
    change
}

fn edit(path: &str, files: Files<'_>, pieces: Vec<(&Piece, String)>) -> FileEdit {
    let before = files.sources.get(path).map_or("", String::as_str);
    let mut text = before.to_owned();
    // From the end, so that what comes before stays where it is.
    for (piece, new) in pieces.into_iter().rev() {
        text.replace_range(piece.span.clone(), &new);
    }
    FileEdit { path: path.to_owned(), before: Digest::of(before.as_bytes()), text }
}

/// A file's text with what was set aside in it; `None` for a piece that somebody has changed since.
pub fn put_back(text: &str, set_aside: &SetAside) -> Option<String> {
    text.contains(&set_aside.new).then(|| text.replace(&set_aside.new, &set_aside.old))
}

/// A source of the wanted repository.
struct Candidate<'a> {
    path: &'a str,
    text: &'a str,
    piece: Piece,
    fault: Option<Fault>,
}

impl Candidate<'_> {
    /// What stands in its place: a comment, or a stanza that is switched off and what else it had.
    fn set_aside(&self, url: &str) -> String {
        let text = &self.text[self.piece.span.clone()];
        if !self.path.ends_with(".sources") {
            return format!("{MARK}: {text}");
        }
        let mut new = format!("{MARK}\n{}", with_field(text, "Enabled", "no"));
        for other in &self.piece.urls {
            let suites: Vec<&str> = self
                .piece
                .suites
                .iter()
                .filter(|suite| !is_place(other, suite, url))
                .map(String::as_str)
                .collect();
            if !suites.is_empty() {
                let rest = with_field(text, "URIs", other);
                let rest = with_field(&rest, "Suites", &suites.join(" "));
                new.push_str(&format!("\n\n{rest}"));
            }
        }
        new
    }
}

const MARK: &str = "# set aside by nvstage";

/// The stanza with that value of a field.
fn with_field(stanza: &str, name: &str, value: &str) -> String {
    let line = format!("{name}: {value}");
    let known = sources::fields(stanza);
    match known.into_iter().find(|field| field.name == name.to_ascii_lowercase()) {
        Some(field) => {
            let mut stanza = stanza.to_owned();
            stanza.replace_range(field.span, &line);
            stanza
        }
        None => format!("{line}\n{stanza}"),
    }
}

/// What the other sources of the repository have to go with.
struct Anchor {
    path: String,
    signed_by: String,
    names: Vec<String>,
}

impl Anchor {
    fn of(candidate: &Candidate<'_>) -> Self {
        Self {
            path: candidate.path.to_owned(),
            signed_by: signed_by(&candidate.piece),
            names: names(&candidate.piece),
        }
    }

    fn ours(wanted: Wanted<'_>) -> Self {
        Self {
            path: SOURCES_PATH.to_owned(),
            signed_by: format!("{KEY_PATH},{}", wanted.fingerprint),
            names: vec![release_name(wanted.url, "/")],
        }
    }

    /// Whether apt reads neither of the two because of the other.
    fn objects_to(&self, candidate: &Candidate<'_>) -> Option<Fault> {
        let is_same = names(&candidate.piece).iter().any(|name| self.names.contains(name));
        let differs = signed_by(&candidate.piece) != self.signed_by;
        (is_same && differs).then(|| Fault::Beside(self.path.clone()))
    }
}

/// `Signed-By` as apt compares it.
fn signed_by(piece: &Piece) -> String {
    piece.words("signed-by").join(",")
}

fn names(piece: &Piece) -> Vec<String> {
    combinations(piece).map(|(url, suite)| release_name(url, suite)).collect()
}

fn combinations(piece: &Piece) -> impl Iterator<Item = (&str, &str)> {
    let pair = |url| piece.suites.iter().map(move |suite| (url, suite.as_str()));
    piece.urls.iter().map(String::as_str).flat_map(pair)
}

/// What apt tells repositories apart by.
fn release_name(url: &str, suite: &str) -> String {
    let url = without_scheme(url);
    let slash = if url.ends_with('/') { "" } else { "/" };
    let suite = if suite == "/" { "" } else { suite };
    format!("{url}{slash}{suite}")
}

/// Whether URL and suite lead to the wanted repository, however they are written.
fn is_place(url: &str, suite: &str, wanted: &str) -> bool {
    let flat = |url: &str, path: &str| {
        let whole = format!("{}/{path}", without_scheme(url));
        let parts = whole.split('/').filter(|part| !matches!(*part, "" | "."));
        let mut parts: Vec<String> = parts.map(str::to_owned).collect();
        if let Some(host) = parts.first_mut().filter(|_| !url.starts_with("file:")) {
            *host = host.to_ascii_lowercase();
            let port = [":80", ":443"].into_iter().find_map(|port| host.strip_suffix(port));
            *host = port.unwrap_or(host).to_owned();
        }
        (url.starts_with("file:"), parts)
    };
    suite.ends_with('/') && flat(url, suite) == flat(wanted, "/")
}

/// The URL without its scheme, and without a user and password.
fn without_scheme(url: &str) -> &str {
    let Some((scheme, rest)) = url.split_once(':') else { return url };
    if scheme == "file" {
        return rest;
    }
    let rest = rest.trim_start_matches('/');
    let host = rest.split('/').next().unwrap_or_default();
    host.rfind('@').map_or(rest, |at| &rest[at + 1..])
}

/// Why nothing but the pinned key vouches for what comes from it; `None` where that is so.
fn fault(piece: &Piece, wanted: Wanted<'_>, files: Files<'_>) -> Option<Fault> {
    let loosening = ["trusted", "allow-insecure", "allow-weak", "allow-downgrade-to-insecure"];
    let set = loosening.iter().find_map(|name| Some((name, piece.options.get(*name)?)));
    if let Some((name, value)) = set {
        return Some(Fault::Unchecked(format!("{name}={value}")));
    }
    if piece.options.keys().any(|name| name.starts_with("targets")) {
        return Some(Fault::NoPackages);
    }
    let value = piece.options.get("signed-by").map(String::as_str).unwrap_or_default();
    if let Some(key) = sources::inline_key(value) {
        return judge("the key in it", &[Some(key.into_bytes())], wanted, Narrowed::No);
    }
    let words = piece.words("signed-by");
    let (paths, fingerprints): (Vec<&str>, Vec<&str>) =
        words.into_iter().partition(|word| word.starts_with('/'));
    let narrowed = match fingerprints.as_slice() {
        [] => Narrowed::No,
        some if some.iter().all(|word| is_fingerprint(word, wanted.fingerprint)) => {
            Narrowed::ToPinned
        }
        _ => return Some(Fault::OtherKey("its `Signed-By`".to_owned())),
    };
    let read = |path: &str| (files.read)(path);
    if !paths.is_empty() {
        let place = format!("`{}`", paths.join("`, `"));
        let keys: Vec<_> = paths.into_iter().map(read).collect();
        return judge(&place, &keys, wanted, narrowed);
    }
    let keys: Vec<_> = files.trusted.iter().map(|path| read(path)).collect();
    judge("apt's own keyring", &keys, wanted, narrowed)
}

fn is_fingerprint(word: &str, pinned: &Fingerprint) -> bool {
    word.trim_end_matches('!').eq_ignore_ascii_case(pinned.as_str())
}

/// Whether a source names the key of its key files that counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Narrowed {
    No,
    ToPinned,
}

fn judge(
    place: &str,
    keys: &[Option<Vec<u8>>],
    wanted: Wanted<'_>,
    narrowed: Narrowed,
) -> Option<Fault> {
    let place = || place.to_owned();
    let pinned = |bytes: &Vec<u8>| {
        let all = openpgp::certificates(bytes).unwrap_or_default();
        all.iter().any(|certificate| certificate.fingerprint() == wanted.fingerprint)
    };
    // One that this program cannot parse may be one that apt can.
    let is_alone = |bytes: &Vec<u8>| openpgp::check_key(bytes, wanted.fingerprint).is_ok();
    let read: Vec<&Vec<u8>> = keys.iter().flatten().collect();
    if read.is_empty() || read.len() < keys.len() && narrowed == Narrowed::No {
        return Some(Fault::NoKey(place()));
    }
    match (read.iter().any(|bytes| pinned(bytes)), narrowed) {
        (false, _) => Some(Fault::OtherKey(place())),
        (true, Narrowed::ToPinned) => None,
        (true, Narrowed::No) => {
            (!read.iter().all(|bytes| is_alone(bytes))).then(|| Fault::MoreKeys(place()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://repo.invalid/cuda/x86_64/";

    /// A change for a file `/etc/apt/sources.list.d/<name>`; no key can be read.
    fn of(name: &str, text: &str, ours: Ours) -> Change {
        let fingerprint = Fingerprint::parse("EB693B3035CD5710E231E123A4B469963BF863CC").unwrap();
        let path = format!("/etc/apt/sources.list.d/{name}");
        let sources = BTreeMap::from([(path, text.to_owned())]);
        let wanted = Wanted { url: URL, fingerprint: &fingerprint, architecture: "amd64" };
        let files = Files { sources: &sources, trusted: &[], read: &|_| None };
        change(wanted, files, ours)
    }

    #[test]
    fn the_same_place_is_known_however_it_is_written() {
        for (url, suite) in [
            ("https://repo.invalid/cuda/x86_64", "/"),
            ("http://Repo.Invalid:80/cuda//x86_64//", "./"),
            ("https://user:word@repo.invalid/cuda/", "x86_64/"),
            ("https://repo.invalid/", "./cuda/x86_64/"),
        ] {
            assert!(is_place(url, suite, URL), "{url} {suite}");
        }
        for (url, suite) in [
            ("https://repo.invalid/cuda/x86_64", "stable"),
            ("https://repo.invalid/cuda/sbsa", "/"),
            ("https://mirror.invalid/cuda/x86_64", "/"),
            ("file:/repo.invalid/cuda/x86_64", "/"),
        ] {
            assert!(!is_place(url, suite, URL), "{url} {suite}");
        }
    }

    #[test]
    fn what_is_set_aside_is_put_back_as_it_was() {
        for (name, text) in [
            (
                "a.list",
                "# first\ndeb [signed-by=/k] https://repo.invalid/cuda/x86_64 /\ndeb http://a b c\n",
            ),
            ("a.list", "deb-src https://repo.invalid/cuda/x86_64 /"),
            (
                "a.sources",
                "# of NVIDIA\nTypes: deb\nURIs: https://repo.invalid/cuda/x86_64/\nSuites: /\nSigned-By: /k\n\nTypes: deb\nURIs: http://a\nSuites: b\nComponents: c\n",
            ),
            (
                "a.sources",
                "Enabled: yes\nTypes: deb\nURIs: http://a/x/\n  https://repo.invalid/cuda/x86_64\nSuites: ./\nTrusted: yes\n",
            ),
        ] {
            let change = of(name, text, Ours::Wanted);
            let [edit] = change.edits.as_slice() else { panic!("{change:?}") };
            assert_ne!(edit.text, text);
            // It is not found a second time.
            assert_eq!(of(name, &edit.text, Ours::Wanted), Change::default(), "{}", edit.text);
            let back = change
                .set_aside
                .iter()
                .fold(edit.text.clone(), |text, one| put_back(&text, one).unwrap());
            assert_eq!(back, text);
            assert_eq!(of(name, text, Ours::Absent), Change::default());
        }
    }

    #[test]
    fn other_urls_of_a_stanza_stay() {
        let text =
            "Types: deb\nURIs: http://a/x/ https://repo.invalid/cuda/x86_64\nSuites: ./ y/\n";
        let change = of("a.sources", text, Ours::There);
        let left = sources::parse("a.sources", &change.edits[0].text, "amd64");
        let urls: Vec<&str> = left.iter().map(|source| source.url.as_str()).collect();
        assert_eq!(urls, ["http://a/x/", "http://a/x/y/", "https://repo.invalid/cuda/x86_64/y/"]);
    }

    #[test]
    fn what_somebody_changed_since_is_kept() {
        let change = of("a.list", "deb https://repo.invalid/cuda/x86_64/ /\n", Ours::Wanted);
        assert_eq!(put_back("deb http://b c d\n", &change.set_aside[0]), None);
        let more = format!("deb http://b c d\n{}", change.edits[0].text);
        let back = put_back(&more, &change.set_aside[0]).unwrap();
        assert_eq!(back, "deb http://b c d\ndeb https://repo.invalid/cuda/x86_64/ /\n");
    }
}
