//! What the machine bears: its cores, and the memory that is free.

use std::path::Path;
use std::thread;

use super::paths::Paths;

/// The processors that this process may use; 1 where nobody says.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// The bytes that new programs can have without swapping (`MemAvailable` of `/proc/meminfo`,
/// `proc_meminfo(5)`); `None` where the kernel does not say.
pub fn available_memory(paths: &Paths) -> Option<u64> {
    available_in(&paths.host_path("/proc/meminfo"))
}

fn available_in(path: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::files::replace;

    #[test]
    fn available_memory_is_read_in_bytes_and_may_be_unknown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("meminfo");
        assert_eq!(available_in(&path), None);
        replace(&path, b"MemTotal: 9 kB\nMemAvailable:    2048 kB\n").unwrap();
        assert_eq!(available_in(&path), Some(2 << 20));
        replace(&path, b"MemAvailable: many kB\n").unwrap();
        assert_eq!(available_in(&path), None);
        assert!(cores() >= 1);
    }
}
