//! The table of a bundle: path, digest and size of every file in it, in the order of the archive.

use serde::{Deserialize, Serialize};

use super::frame;
use crate::digest::Digest;
use crate::lock::LockedFile;

/// The name of the table's own file.
pub const NAME: &str = "nvstage-bundle.toml";
/// The directory of the locks in a bundle.
pub const LOCKS: &str = "locks-v1";
/// The directory of everything else.
pub const BLOBS: &str = "blobs-v1/sha256";
/// The largest table and the largest lock that are read, in bytes: some 20,000 files.
pub const TEXT_LIMIT: u64 = 4 * 1024 * 1024;

const SCHEMA: u32 = 1;

/// The table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    schema: u32,
    #[serde(rename = "file")]
    entries: Vec<Entry>,
}

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its path in the bundle.
    pub path: String,
    /// Its digest.
    pub sha256: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// What a file of a bundle is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A lock, with its file name.
    Lock(&'a str),
    /// A blob.
    Blob,
}

impl Entry {
    /// A lock with that file name.
    pub fn lock(name: &str, text: &[u8]) -> Self {
        let (path, size) = (format!("{LOCKS}/{name}"), text.len() as u64);
        Self { path, sha256: Digest::of(text), size }
    }

    /// A blob.
    pub fn blob(file: &LockedFile) -> Self {
        let path = format!("{BLOBS}/{}", file.sha256);
        Self { path, sha256: file.sha256, size: file.size }
    }

    /// What it is by its path; `None` where no bundle has such a path.
    pub fn kind(&self) -> Option<Kind<'_>> {
        if self.path == format!("{BLOBS}/{}", self.sha256) {
            return Some(Kind::Blob);
        }
        let name = self.path.strip_prefix(LOCKS)?.strip_prefix('/')?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
        let is_name = name.ends_with(".lock") && !name.starts_with('.') && name.chars().all(plain);
        is_name.then_some(Kind::Lock(name))
    }

    /// Its digest and size.
    pub fn file(&self) -> LockedFile {
        LockedFile { sha256: self.sha256, size: self.size }
    }
}

impl Table {
    /// The table of these files, which are brought into order.
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut entries: Vec<Entry> = entries.into_iter().collect();
        entries.sort_by(|one, other| rank(one).cmp(&rank(other)));
        Self { schema: SCHEMA, entries }
    }

    /// Reads a table, which must be as [`Table::to_text`] writes it, byte by byte.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
        let text = str::from_utf8(bytes).map_err(|_| "its table is no text".to_owned())?;
        let table: Self =
            toml::from_str(text).map_err(|error| format!("its table: {}", error.message()))?;
        if table.schema != SCHEMA {
            return Err(format!("the schema of its table is {}", table.schema));
        }
        let mut entries = table.entries.iter();
        if let Some(entry) = entries.find(|entry| entry.kind().is_none()) {
            return Err(format!("its table has `{}`, which no bundle has", entry.path));
        }
        let pairs = table.entries.windows(2);
        if let Some(pair) = pairs.into_iter().find(|pair| rank(&pair[0]) >= rank(&pair[1])) {
            let (one, other) = (&pair[0].path, &pair[1].path);
            return Err(format!("`{other}` comes after `{one}` in its table"));
        }
        if table.entries.iter().try_fold(0_u64, |sum, e| sum.checked_add(e.size)).is_none() {
            return Err("the sizes in its table are no sizes".to_owned());
        }
        if table.to_text() != text {
            return Err("its table is not in the form in which tables are written".to_owned());
        }
        Ok(table)
    }

    /// The table as text.
    pub fn to_text(&self) -> String {
        // Serialising plain structures of strings and numbers cannot fail.
        toml::to_string(self).unwrap_or_default()
    }

    /// Every file, the locks first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The locks, with their file names.
    pub fn locks(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().filter_map(|entry| match entry.kind() {
            Some(Kind::Lock(name)) => Some((name, entry)),
            _ => None,
        })
    }

    /// The blobs.
    pub fn blobs(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.kind() == Some(Kind::Blob))
    }

    /// The bytes of all files, the table's own not counted.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.size).sum()
    }

    /// The bytes of the archive.
    pub fn archive_bytes(&self) -> u64 {
        let own = frame::member_bytes(self.to_text().len() as u64);
        let files = self.entries.iter().map(|entry| frame::member_bytes(entry.size));
        files.fold(own + frame::END, u64::saturating_add)
    }
}

/// Locks before blobs, each sorted.
fn rank(entry: &Entry) -> (bool, &str) {
    (entry.kind() == Some(Kind::Blob), &entry.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let blob = |bytes: &[u8]| {
            Entry::blob(&LockedFile { sha256: Digest::of(bytes), size: bytes.len() as u64 })
        };
        Table::new([blob(b"one"), blob(b"two"), Entry::lock("a-debian12-x86_64.lock", b"text")])
    }

    #[test]
    fn a_table_survives_print_and_parse() {
        let table = table();
        assert_eq!(Table::parse(table.to_text().as_bytes()).unwrap(), table);
        assert_eq!((table.locks().count(), table.blobs().count(), table.bytes()), (1, 2, 10));
    }

    #[test]
    fn a_table_of_version_1_is_read_for_ever() {
        let text = include_str!("../../../tests/locks/bundle-v1.toml");
        assert_eq!(Table::parse(text.as_bytes()).unwrap(), table());
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let text = table().to_text().into_bytes();
        for position in 0..text.len() {
            for flip in [1, 32, 0x80] {
                let mut changed = text.clone();
                changed[position] ^= flip;
                // What is still a table is another one: its files are looked for in vain.
                assert!(
                    Table::parse(&changed).is_ok_and(|found| found != table())
                        || Table::parse(&changed).is_err()
                );
            }
        }
    }

    #[test]
    fn other_paths_and_orders_are_refused() {
        let text = table().to_text();
        let refused = |text: &str| Table::parse(text.as_bytes()).unwrap_err();
        assert!(refused(&text.replace("locks-v1/a", "locks-v1/../a")).contains("no bundle has"));
        assert!(refused(&text.replace("locks-v1/a", "/locks-v1/a")).contains("no bundle has"));
        assert!(refused(&text.replace("schema = 1", "schema = 2")).contains("schema"));
        assert!(refused(&text.replace("schema = 1", "schema = 1 ")).contains("form"));
        assert!(refused(&text.replace("schema = 1", "schema = 1\nmore = 1")).contains("more"));
        let mut twice = table();
        twice.entries.push(twice.entries[2].clone());
        assert!(refused(&twice.to_text()).contains("comes after"));
        twice.entries.pop();
        twice.entries.swap(1, 2);
        assert!(refused(&twice.to_text()).contains("comes after"));
    }
}
