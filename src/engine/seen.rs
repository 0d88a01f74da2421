//! Which files of a container were hashed and found right, so that they need not be hashed again
//! while nothing has touched them.
//!
//! [`Seen`] is one JSON file a container, `/var/lib/nvstage/verified/<CTID>.json`. It saves work and
//! decides nothing: of each file it has the digest that was computed and the [`Stamp`] that it had
//! then, and a file with another stamp is hashed, as all of them are where the record is missing,
//! damaged, of another version, or of a container that had the number before. Its files' inodes
//! and ctimes are not those of a clone, a restored backup or a moved volume.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ctid::Ctid;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::host::files;
use crate::host::paths::Paths;
use crate::host::rootfs::ContainerRoot;
use crate::host::stamp::{Content, Stamp};

const VERSION: u32 = 1;

/// The files of one container whose content is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    files: BTreeMap<String, File>,
    /// What was found out since it was read.
    is_new: bool,
}

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    sha256: Digest,
    stamp: Stamp,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    container: Ctid,
    /// By their paths inside.
    files: BTreeMap<String, File>,
}

impl Seen {
    /// Nothing is known: every file is hashed.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// What was found out about a container the last time. A record that cannot be used says
    /// nothing.
    pub fn load(paths: &Paths, ctid: &Ctid) -> Self {
        let read = || {
            let bytes = std::fs::read(path(paths, ctid)).ok()?;
            let record: Record = serde_json::from_slice(&bytes).ok()?;
            (record.version == VERSION && record.container == *ctid).then_some(record.files)
        };
        Self { files: read().unwrap_or_default(), is_new: false }
    }

    /// Whether something is known of a file, be it of now or of before.
    pub fn knows(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    /// The digest of a file whose size is `expected`: as it was computed when it had the stamp that
    /// it has now, or computed now. `None` for a file of another size.
    ///
    /// # Errors
    /// As [`ContainerRoot::open`].
    pub fn content(
        &self,
        root: &ContainerRoot,
        path: &str,
        expected: u64,
    ) -> std::io::Result<Option<Content>> {
        if let Some(known) = self.files.get(path) {
            let stamp = root.stamp(path)?;
            if stamp == known.stamp && stamp.size() == expected {
                return Ok(Some(Content { digest: known.sha256, stamp: Some(stamp) }));
            }
        }
        root.content_if_size(path, expected)
    }

    /// Takes note of files that were found right, all that there are.
    pub fn replace(&mut self, found: impl IntoIterator<Item = (String, Content)>) {
        let file = |content: Content| Some(File { sha256: content.digest, stamp: content.stamp? });
        let files = found.into_iter().filter_map(|(path, found)| Some((path, file(found)?)));
        let files: BTreeMap<String, File> = files.collect();
        self.is_new |= files != self.files;
        self.files = files;
    }

    /// Writes it down for the next time, where there is something new.
    ///
    /// # Errors
    /// Host error when it cannot be written.
    pub fn save(&self, paths: &Paths, ctid: &Ctid) -> Result<()> {
        if !self.is_new {
            return Ok(());
        }
        let record =
            Record { version: VERSION, container: ctid.clone(), files: self.files.clone() };
        let text = serde_json::to_vec(&record)
            .map_err(|error| Error::general("write a record").because(error))?;
        files::create_directory(&paths.verified())?;
        let path = path(paths, ctid);
        files::clear_away(&path);
        files::replace(&path, &text).map_err(|error| error.on(ctid))
    }
}

fn path(paths: &Paths, ctid: &Ctid) -> std::path::PathBuf {
    paths.verified().join(format!("{ctid}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{FileTimes, OpenOptions};
    use std::os::unix::fs::FileExt;
    use std::time::Duration;

    use crate::host::wait::pause;

    const RIGHT: &[u8] = b"a library";
    const OTHER: &[u8] = b"b library";

    struct Container {
        directory: tempfile::TempDir,
        root: ContainerRoot,
        paths: Paths,
        ctid: Ctid,
    }

    /// A container with one file, which has been left alone for a while and was found right.
    fn container() -> Container {
        // Not on a tmpfs.
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        files::replace(&directory.path().join("library"), RIGHT).unwrap();
        pause(Duration::from_millis(150));
        let container = Container {
            root: ContainerRoot::of_directory(directory.path()).unwrap(),
            paths: Paths::below(directory.path()),
            ctid: Ctid::parse("201").unwrap(),
            directory,
        };
        container.see().save(&container.paths, &container.ctid).unwrap();
        container
    }

    impl Container {
        /// What the record says.
        fn load(&self) -> Seen {
            Seen::load(&self.paths, &self.ctid)
        }

        /// The digest of the file, with the help of the record.
        fn digest(&self) -> Digest {
            let size = RIGHT.len() as u64;
            self.load().content(&self.root, "/library", size).unwrap().unwrap().digest
        }

        /// The file is hashed and found right.
        fn see(&self) -> Seen {
            let mut seen = self.load();
            let content = seen.content(&self.root, "/library", RIGHT.len() as u64);
            seen.replace([("/library".to_owned(), content.unwrap().unwrap())]);
            seen
        }

        /// Changes the record's text.
        fn edit(&self, change: impl FnOnce(String) -> String) {
            let path = path(&self.paths, &self.ctid);
            let text = std::fs::read_to_string(&path).unwrap();
            let changed = change(text.clone());
            assert_ne!(changed, text);
            files::replace(&path, changed.as_bytes()).unwrap();
        }
    }

    #[test]
    fn a_file_that_nothing_has_touched_is_not_read_again() {
        let container = container();
        assert!(container.load().knows("/library"));
        // Nothing but the record can say so.
        container.edit(|text| {
            text.replace(&Digest::of(RIGHT).to_string(), &Digest::of(OTHER).to_string())
        });
        assert_eq!(container.digest(), Digest::of(OTHER));
        assert!(!container.see().is_new);
    }

    #[test]
    fn a_changed_file_is_found_whatever_its_size_and_mtime_say() {
        let container = container();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(container.directory.path().join("library"))
            .unwrap();
        let before = file.metadata().unwrap();
        file.write_all_at(OTHER, 0).unwrap();
        let times = FileTimes::new().set_modified(before.modified().unwrap());
        file.set_times(times).unwrap();
        let after = file.metadata().unwrap();
        assert_eq!(
            (before.len(), before.modified().unwrap()),
            (after.len(), after.modified().unwrap())
        );
        assert_eq!(container.digest(), Digest::of(OTHER));
        // As fresh as it is, it is not written down; later it is.
        assert!(!container.see().knows("/library"));
        pause(Duration::from_millis(150));
        assert!(container.see().knows("/library"));
    }

    #[test]
    fn another_file_in_its_place_is_read() {
        let container = container();
        let path = container.directory.path().join("library");
        files::replace(&path, OTHER).unwrap();
        assert_eq!(container.digest(), Digest::of(OTHER));
        std::fs::remove_file(&path).unwrap();
        let gone = container.load().content(&container.root, "/library", RIGHT.len() as u64);
        assert_eq!(gone.unwrap_err().kind(), std::io::ErrorKind::NotFound);
        // Wanted of another size, it is not read at all.
        let container = self::container();
        assert_eq!(container.load().content(&container.root, "/library", 1).unwrap(), None);
    }

    #[test]
    fn a_record_that_cannot_be_used_says_nothing() {
        let damage: [fn(String) -> String; 4] = [
            |text| text[..text.len() - 1].to_owned(),
            |text| text.replace("\"version\":1", "\"version\":2"),
            |text| text.replace("\"container\":\"201\"", "\"container\":\"202\""),
            |text| text.replace("\"inode\"", "\"node\""),
        ];
        for change in damage {
            let container = container();
            container.edit(change);
            assert_eq!(container.load(), Seen::nothing());
            assert_eq!(container.digest(), Digest::of(RIGHT));
            assert!(container.see().is_new, "it would stay like that");
        }
    }

    #[test]
    fn a_record_of_version_1_is_read() {
        let container = container();
        let text = format!(
            "{{\"version\":1,\"container\":\"201\",\"files\":{{\"/library\":{{\"sha256\":\"{}\",\"stamp\":{}}}}}}}",
            Digest::of(RIGHT),
            "{\"size\":9,\"mtime\":[1,2],\"ctime\":[3,4],\"inode\":5,\"device\":6}"
        );
        files::replace(&path(&container.paths, &container.ctid), text.as_bytes()).unwrap();
        assert!(container.load().knows("/library"));
        // Of other times and another inode: read.
        assert_eq!(container.digest(), Digest::of(RIGHT));
    }
}
