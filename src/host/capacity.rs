//! What the machine bears: its cores, the memory that is free, the files that may be open.

use std::path::Path;
use std::thread;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

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

/// How many files this process may have open at once (`RLIMIT_NOFILE`). The limit is raised to
/// `wanted` where it is lower and may be raised, and no further: children inherit it, and some of
/// them go through all numbers up to it.
pub fn open_files(wanted: u64) -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return wanted };
    let raised = wanted.min(hard);
    if soft >= raised || setrlimit(Resource::RLIMIT_NOFILE, raised, hard).is_err() {
        return soft;
    }
    raised
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
    fn the_limit_of_open_files_is_raised_as_far_as_it_may_be() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(open_files(1), soft);
        let wanted = (soft + 1).min(hard);
        assert_eq!(open_files(wanted), wanted);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (wanted, hard));
        assert!(open_files(u64::MAX) <= hard);
    }

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
