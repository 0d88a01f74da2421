//! Sources on this machine: `file://` URLs and absolute paths.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::download::Download;
use super::failure::{Attempt, Failure};

/// The path that a URL means, or `None` for one of the network.
pub(super) fn path(url: &str) -> Option<PathBuf> {
    if url.starts_with('/') {
        return Some(PathBuf::from(url));
    }
    let rest = url.strip_prefix("file:")?;
    let path = match rest.strip_prefix("//") {
        Some(rest) => rest.strip_prefix("localhost").unwrap_or(rest),
        None => rest,
    };
    path.starts_with('/').then(|| PathBuf::from(OsString::from_vec(percent_decoded(path))))
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

/// Reads a file of this machine into the download, from its start.
pub(super) fn copy(path: &Path, download: &mut Download<'_>) -> Attempt<()> {
    let lasting = |error: std::io::Error| Failure::Lasting(error.to_string());
    let mut file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Failure::Missing(error.to_string()),
        _ => lasting(error),
    })?;
    let metadata = file.metadata().map_err(lasting)?;
    if !metadata.is_file() {
        return Err(Failure::Lasting("it is not a regular file".to_owned()));
    }
    download.restart()?;
    download.announce(Some(metadata.len()))?;
    let mut buffer = vec![0; 512 * 1024];
    loop {
        match file.read(&mut buffer).map_err(lasting)? {
            0 => return download.check_complete(),
            count => download.write(&buffer[..count])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_sources_are_told_from_the_network() {
        assert_eq!(path("/srv/a b.run"), Some(PathBuf::from("/srv/a b.run")));
        assert_eq!(path("file:///srv/a%20b.run"), Some(PathBuf::from("/srv/a b.run")));
        assert_eq!(path("file:/srv/a.run"), Some(PathBuf::from("/srv/a.run")));
        assert_eq!(path("file://localhost/x%"), Some(PathBuf::from("/x%")));
        assert_eq!(path("file://server/x"), None);
        assert_eq!(path("https://server/x"), None);
    }
}
