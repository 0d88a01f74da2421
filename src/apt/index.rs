//! Package indexes (`Packages`): read as a stream, because Debian's has fifty megabytes.

use std::io::BufRead;

use deb822_fast::{Paragraph, ParagraphReader};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::lock::is_inside;

/// A package as an index lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture, `amd64` or `all`.
    pub architecture: String,
    /// The path of the `.deb` below the repository's URL.
    pub path: String,
    /// The size of the `.deb` in bytes.
    pub size: u64,
    /// The digest of the `.deb`.
    pub sha256: Digest,
}

/// The packages of an index, one after the other.
pub struct Packages<R: BufRead>(ParagraphReader<R>);

impl<R: BufRead> Packages<R> {
    /// Reads an index that is already decompressed.
    pub fn new(reader: R) -> Self {
        Self(ParagraphReader::new(reader))
    }
}

impl<R: BufRead> Iterator for Packages<R> {
    type Item = Result<Listed>;

    fn next(&mut self) -> Option<Self::Item> {
        let bad = |cause: String| Error::install("read a package index").because(cause);
        let stanza = match self.0.next()? {
            Ok(stanza) => stanza,
            Err(error) => return Some(Err(bad(error.to_string()))),
        };
        Some(listed(&stanza).ok_or_else(|| {
            let name = stanza.get("Package").unwrap_or("without a name");
            bad(format!("the entry of package `{name}` is incomplete or malformed"))
        }))
    }
}

fn listed(stanza: &Paragraph) -> Option<Listed> {
    let text = |name: &str| stanza.get(name).map(|value| value.trim().to_owned());
    let path = text("Filename")?;
    is_inside(&path).then_some(())?;
    Some(Listed {
        name: text("Package")?,
        version: text("Version")?,
        architecture: text("Architecture")?,
        path,
        size: text("Size")?.parse().ok()?,
        sha256: Digest::parse(&text("SHA256")?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZA: &str = "Package: cuda-nvcc-12-8\nVersion: 12.8.93-1\nArchitecture: amd64\n\
        Description: a\n b\n .\n c\nFilename: ./cuda-nvcc-12-8_12.8.93-1_amd64.deb\nSize: 5\n\
        SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n";

    #[test]
    fn entries_are_read_one_by_one() {
        let text = format!("{STANZA}\n{}", STANZA.replace("nvcc", "gdb"));
        let all: Vec<_> = Packages::new(text.as_bytes()).collect::<Result<_>>().unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].path, "./cuda-nvcc-12-8_12.8.93-1_amd64.deb");
        assert_eq!((all[1].name.as_str(), all[1].size), ("cuda-gdb-12-8", 5));
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_refused() {
        for path in ["../x.deb", "/x.deb", "a/../../x.deb", "a b.deb", "a//b.deb", ""] {
            let text = STANZA.replace("./cuda-nvcc-12-8_12.8.93-1_amd64.deb", path);
            assert!(Packages::new(text.as_bytes()).next().unwrap().is_err(), "{path:?}");
        }
    }
}
