//! Names of packages: which are well-formed, and which are kept out.

use crate::error::{Error, Result};

/// Refuses names that are no package names (Debian policy 5.6.1), and those that are denied and
/// not excepted.
pub(super) fn check(names: &[String], deny: &[String], allow: &[String]) -> Result<()> {
    for name in names {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
        let starts_well = name.starts_with(|first: char| first.is_ascii_alphanumeric());
        if name.len() < 2 || !starts_well || !name.bytes().all(allowed) {
            return Err(Error::input(format!("install `{name}`: it is not a package name")));
        }
        if is_denied(name, deny, allow) {
            return Err(Error::input(format!("install `{name}`: the recipe denies it")).hint(
                "packages of this name may bring a driver of another version; `cuda-toolkit-12-8` brings none",
            ));
        }
    }
    Ok(())
}

/// Whether a name is denied and not excepted.
pub(super) fn is_denied(name: &str, deny: &[String], allow: &[String]) -> bool {
    let listed =
        |globs: &[String]| globs.iter().any(|glob| matches(glob.as_bytes(), name.as_bytes()));
    listed(deny) && !listed(allow)
}

/// Whether a shell pattern as apt's pins know it (`*`, `?`, `[0-9]`) matches a whole name.
fn matches(glob: &[u8], name: &[u8]) -> bool {
    match (glob, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => {
            matches(rest, name) || name.split_first().is_some_and(|(_, tail)| matches(glob, tail))
        }
        ([b'?', rest @ ..], [_, tail @ ..]) => matches(rest, tail),
        ([b'[', rest @ ..], [first, tail @ ..]) => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            in_set(&rest[..end], *first) && matches(&rest[end + 1..], tail)
        }
        ([byte, rest @ ..], [first, tail @ ..]) => byte == first && matches(rest, tail),
        _ => false,
    }
}

fn in_set(set: &[u8], byte: u8) -> bool {
    match set {
        [low, b'-', high, rest @ ..] => (*low..=*high).contains(&byte) || in_set(rest, byte),
        [single, rest @ ..] => *single == byte || in_set(rest, byte),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_apt() {
        for (glob, name, expected) in [
            ("cuda", "cuda", true),
            ("cuda", "cuda-12-8", false),
            ("cuda-[0-9]*", "cuda-12-8", true),
            ("cuda-[0-9]*", "cuda-toolkit-12-8", false),
            ("nvidia-*", "nvidia-driver", true),
            ("nvidia-*", "libnvidia-ml1", false),
            ("a*c?", "abbcd", true),
            ("[ab", "a", false),
        ] {
            assert_eq!(matches(glob.as_bytes(), name.as_bytes()), expected, "{glob} {name}");
        }
    }
}
