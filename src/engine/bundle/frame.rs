//! What surrounds the files of a bundle in its archive: headers, padding, the end.
//!
//! A header follows from path and size alone (regular file, mode 0644, owner 0, time 0), so that
//! reading one is comparing it.

use tar::{EntryType, Header};

/// The size of a header, and what files are padded to, in bytes.
pub const BLOCK: u64 = 512;
/// The zero bytes at the end of the archive.
pub const END: u64 = 2 * BLOCK;

/// The header of a file; `None` for a path that is too long for one.
pub fn header(path: &str, size: u64) -> Option<[u8; BLOCK as usize]> {
    let mut header = Header::new_ustar();
    header.set_path(path).ok()?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Some(*header.as_bytes())
}

/// How many zero bytes follow a file of that size.
pub fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK) - size
}

/// The bytes that a file of that size takes in the archive.
pub fn member_bytes(size: u64) -> u64 {
    size.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX).saturating_add(BLOCK)
}

/// The size that a header gives.
pub fn size(header: &[u8; BLOCK as usize]) -> Option<u64> {
    Header::from_byte_slice(header).entry_size().ok()
}

/// What a header is about, in words.
pub fn describe(header: &[u8; BLOCK as usize]) -> String {
    if header.iter().all(|byte| *byte == 0) {
        return "its end".to_owned();
    }
    let parsed = Header::from_byte_slice(header);
    let sum: u32 = header[..148].iter().chain(&header[156..]).map(|byte| u32::from(*byte)).sum();
    if parsed.cksum().ok() != Some(sum + 8 * u32::from(b' ')) {
        return "a damaged header".to_owned();
    }
    let name = String::from_utf8_lossy(&parsed.path_bytes()).escape_debug().to_string();
    match parsed.entry_type() {
        EntryType::Regular => {
            let size = parsed.entry_size().map_or("?".to_owned(), |size| size.to_string());
            format!("`{name}` with {size} bytes")
        }
        EntryType::Symlink => format!("`{name}`, a symbolic link"),
        EntryType::Link => format!("`{name}`, a hard link"),
        EntryType::Directory => format!("`{name}`, a directory"),
        _ => format!("`{name}`, which is no file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_what_tar_reads() {
        for (path, wanted) in [("blobs-v1/sha256/ab", 5), ("locks-v1/x.lock", 9_000_000_000)] {
            let header = header(path, wanted).unwrap();
            assert_eq!(size(&header), Some(wanted));
            assert_eq!(describe(&header), format!("`{path}` with {wanted} bytes"));
        }
        let long = format!("locks-v1/{}.lock", "n".repeat(95));
        assert!(describe(&header(&long, 1).unwrap()).contains(&long));
        assert!(header(&format!("locks-v1/{}.lock", "n".repeat(96)), 1).is_none());
    }

    #[test]
    fn other_members_are_named() {
        let mut link = Header::new_ustar();
        link.set_path("a").unwrap();
        link.set_entry_type(EntryType::Symlink);
        link.set_size(0);
        link.set_cksum();
        assert_eq!(describe(link.as_bytes()), "`a`, a symbolic link");
        assert_eq!(describe(&[0; 512]), "its end");
        assert_eq!(describe(&[1; 512]), "a damaged header");
    }

    #[test]
    fn files_are_padded_to_blocks() {
        assert_eq!((padding(0), padding(1), padding(512), padding(513)), (0, 511, 0, 511));
        assert_eq!((member_bytes(0), member_bytes(1)), (512, 1024));
        assert_eq!(member_bytes(u64::MAX), u64::MAX);
    }
}
