//! Which containers somebody means: names, and ranges of numbers such as `105-110`.
//!
//! A word is a range when it is two numbers with a hyphen between, and no container has that name:
//! on Proxmox VE none can, plain LXC allows it. A range means each of its numbers, whether there is
//! such a container or not. What is named several times counts once, where it is named first.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use crate::ctid::Ctid;
use crate::error::{Error, Result};

/// More containers than this are taken for a slip of the keyboard.
pub const LARGEST: usize = 10_000;

/// The containers that `words` name, each once; `is_container` tells whether there is one of a name
/// that looks like a range.
///
/// # Errors
/// Invalid input, with the word, for what is neither a name nor a range, for a range that is
/// reversed or lacks an end, and for too many.
pub fn select<T: AsRef<str>>(
    words: &[T],
    is_container: &dyn Fn(&Ctid) -> bool,
) -> Result<Vec<Ctid>> {
    let (mut selected, mut seen) = (Vec::new(), HashSet::new());
    for word in words.iter().map(AsRef::as_ref) {
        for ctid in one(word, is_container)? {
            if seen.insert(ctid.clone()) {
                selected.push(ctid);
            }
        }
        if selected.len() > LARGEST {
            return Err(too_many(word));
        }
    }
    Ok(selected)
}

fn one(word: &str, is_container: &dyn Fn(&Ctid) -> bool) -> Result<Vec<Ctid>> {
    if Ctid::parse(word).is_ok_and(|ctid| is_container(&ctid)) {
        return Ok(vec![Ctid::parse(word)?]);
    }
    match range(word)? {
        Some(numbers) => numbers.map(|number| Ctid::parse(&number.to_string())).collect(),
        None => Ok(vec![Ctid::parse(word)?]),
    }
}

/// The numbers of a range; `None` for a word that is none.
///
/// # Errors
/// Invalid input, with the word, for a range that cannot be meant.
pub fn range(word: &str) -> Result<Option<RangeInclusive<u32>>> {
    let Some((first, last)) = word.split_once('-') else { return Ok(None) };
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(first) || !is_number(last) || word == "-" {
        return Ok(None);
    }
    let fail = |why: &str| {
        Err(Error::input(format!("read `{word}` as a range of containers: {why}"))
            .hint("a range looks like `105-110`"))
    };
    if first.is_empty() || last.is_empty() {
        return fail("one end is missing");
    }
    if first.starts_with('0') || last.starts_with('0') {
        return fail("a container ID does not begin with a zero");
    }
    // As many digits as Proxmox VE has at most; they fit.
    if first.len() > 9 || last.len() > 9 {
        return fail("a container ID has at most 9 digits");
    }
    let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else {
        return fail("a container ID has at most 9 digits");
    };
    if first > last {
        return fail("its end comes before its beginning");
    }
    if (last - first) as usize >= LARGEST {
        return Err(too_many(word));
    }
    Ok(Some(first..=last))
}

fn too_many(word: &str) -> Error {
    Error::input(format!("take `{word}`: more than {LARGEST} containers"))
        .hint("name those that are meant")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &[&str]) -> Result<Vec<String>> {
        let selected = select(words, &|_| false)?;
        Ok(selected.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn names_and_ranges_stay_in_order_and_count_once() {
        let found = names(&["103", "101-104", "web", "104-105", "101", "web"]).unwrap();
        assert_eq!(found, ["103", "101", "102", "104", "web", "105"]);
        assert_eq!(names(&["105-105"]).unwrap(), ["105"]);
        assert_eq!(names(&[]).unwrap().len(), 0);
    }

    #[test]
    fn a_container_whose_name_looks_like_a_range_is_meant_by_it() {
        let selected = select(&["1-3", "4-5"], &|ctid| ctid.as_str() == "1-3").unwrap();
        let names: Vec<&str> = selected.iter().map(Ctid::as_str).collect();
        assert_eq!(names, ["1-3", "4", "5"]);
    }

    #[test]
    fn names_with_hyphens_are_no_ranges() {
        assert_eq!(names(&["web-1", "2026-11-28"]).unwrap(), ["web-1", "2026-11-28"]);
    }

    #[test]
    fn a_range_that_cannot_be_meant_is_refused_with_its_text() {
        for (word, why) in [
            ("110-105", "its end comes before"),
            ("105-", "one end is missing"),
            ("-105", "one end is missing"),
            ("0105-0110", "does not begin with a zero"),
            ("100-1000000000", "at most 9 digits"),
            ("100-99999999999999999999", "at most 9 digits"),
            ("100-10100", "more than 10000 containers"),
            ("100-999999999", "more than 10000 containers"),
        ] {
            let error = names(&[word]).unwrap_err();
            assert_eq!(error.code(), crate::error::ExitCode::Input);
            let text = error.to_string();
            assert!(text.contains(word) && text.contains(why), "{word}: {text}");
        }
        assert_eq!(names(&["100-10099"]).unwrap().len(), LARGEST);
    }

    #[test]
    fn several_ranges_together_are_not_more_than_one_may_be() {
        let error = names(&["1000-9999", "20000-21000"]).unwrap_err();
        assert!(error.what().contains("`20000-21000`"), "{error}");
        for word in ["-", "", "101,102", "101 102"] {
            assert!(names(&[word]).is_err(), "{word:?}");
        }
    }
}
