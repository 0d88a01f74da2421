//! The names under which libraries are found: the soname that each carries, and what `ldconfig`
//! makes of a directory of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use object::elf::{DT_SONAME, FileHeader32, FileHeader64};
use object::read::elf::FileHeader;
use object::{Endianness, FileKind, ReadCache};

/// The soname of a shared library; `None` for one without, and for what is no library.
pub(super) fn soname(path: &Path) -> Option<String> {
    let cache = ReadCache::new(File::open(path).ok()?);
    match FileKind::parse(&cache).ok()? {
        FileKind::Elf32 => of::<FileHeader32<Endianness>>(&cache),
        FileKind::Elf64 => of::<FileHeader64<Endianness>>(&cache),
        _ => None,
    }
}

fn of<Elf: FileHeader>(cache: &ReadCache<File>) -> Option<String> {
    let header = Elf::parse(cache).ok()?;
    let endian = header.endian().ok()?;
    let table = header.sections(endian, cache).ok()?.dynamic_table(endian, cache).ok()?;
    let entry = table.iter().find(|entry| entry.tag == DT_SONAME)?;
    let name = std::str::from_utf8(table.string(entry).ok()?).ok()?;
    (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
}

/// A name in a directory of libraries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    /// A library, with its soname if it has one.
    Library(Option<String>),
    /// A link to that name.
    Link(String),
}

/// The names that `ldconfig` puts into its cache for a directory: the soname of every library, and
/// links that a linker wants (`libcuda.so`).
///
/// Source: `search_dir` in glibc's `elf/ldconfig.c`.
pub(super) fn cached(directory: &BTreeMap<String, Named>) -> BTreeSet<String> {
    let names = directory.iter().filter(|(name, _)| {
        (name.starts_with("lib") || name.starts_with("ld-")) && name.contains(".so")
    });
    names.filter_map(|(name, named)| cached_as(directory, name, named)).collect()
}

fn cached_as(directory: &BTreeMap<String, Named>, name: &str, named: &Named) -> Option<String> {
    match named {
        Named::Library(soname) => Some(soname.clone().unwrap_or_else(|| name.to_owned())),
        Named::Link(target) => {
            let mut target = target;
            // A chain of links ends within as many steps as there are names.
            for _ in 0..directory.len() {
                match directory.get(target)? {
                    Named::Library(soname) => {
                        let soname = soname.as_ref().unwrap_or(target);
                        let is_for_linker = name.ends_with(".so") && soname.starts_with(name);
                        let kept = name == soname || is_for_linker;
                        return Some(if kept { name.to_owned() } else { soname.clone() });
                    }
                    Named::Link(next) => target = next,
                }
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sonames_and_links_for_the_linker_are_cached_and_nothing_else() {
        let library = |soname: &str| Named::Library(Some(soname.to_owned()));
        let link = |target: &str| Named::Link(target.to_owned());
        let directory = BTreeMap::from([
            ("libcuda.so.580.76.05".to_owned(), library("libcuda.so.1")),
            ("libcuda.so.1".to_owned(), link("libcuda.so.580.76.05")),
            ("libcuda.so".to_owned(), link("libcuda.so.1")),
            ("libother.so".to_owned(), link("libcuda.so.580.76.05")),
            ("libnvidia-glcore.so.580.76.05".to_owned(), library("libnvidia-glcore.so.580.76.05")),
            ("libbare.so.2".to_owned(), Named::Library(None)),
            ("liba.so".to_owned(), link("libb.so")),
            ("libb.so".to_owned(), link("liba.so")),
            ("nvidia-drm_gbm.so".to_owned(), link("libcuda.so.1")),
            ("libgone.so".to_owned(), link("libnowhere.so")),
        ]);
        let cached: Vec<String> = cached(&directory).into_iter().collect();
        assert_eq!(
            cached,
            ["libbare.so.2", "libcuda.so", "libcuda.so.1", "libnvidia-glcore.so.580.76.05"]
        );
    }
}
