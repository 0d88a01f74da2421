//! URLs in recipes: which are accepted, and their placeholders.

use crate::error::{Error, Result};

/// Refuses what could not be fetched, or would mean something else in an apt source line.
pub(super) fn check(url: &str, schemes: &[&str]) -> Result<()> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || "[]<>\"'`\\#".contains(c);
    let known = schemes.iter().any(|scheme| url.len() > scheme.len() && url.starts_with(scheme));
    if known && !url.contains(bad) {
        return Ok(());
    }
    Err(Error::input(format!("use `{}` as a URL", url.escape_debug()))
        .hint(format!("it starts with {} and has no blanks", schemes.join(" or "))))
}

/// Fills in placeholders such as `{version}`.
pub(super) fn fill(template: &str, values: &[(&str, &str)]) -> Result<String> {
    let mut url = template.to_owned();
    for (name, value) in values {
        url = url.replace(&format!("{{{name}}}"), value);
    }
    if url.contains(['{', '}']) {
        let known: Vec<String> = values.iter().map(|(name, _)| format!("{{{name}}}")).collect();
        return Err(Error::input(format!("fill in the placeholders of `{template}`"))
            .hint(format!("known are {}", known.join(" and "))));
    }
    Ok(url)
}

/// The last part of the path.
pub(super) fn file_name(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_would_break_a_source_line_is_refused() {
        let schemes = ["https://", "file:"];
        for good in ["https://a/b", "file:/srv/cuda"] {
            assert!(check(good, &schemes).is_ok(), "{good}");
        }
        for bad in ["", "https://", "ftp://a", "https://a b", "https://a\n", "https://a/[x=y]"] {
            assert!(check(bad, &schemes).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn placeholders_are_filled_in_and_unknown_ones_refused() {
        assert_eq!(fill("a/{v}/{v}.run", &[("v", "1")]).unwrap(), "a/1/1.run");
        assert!(fill("a/{w}", &[("v", "1")]).is_err());
    }

    #[test]
    fn a_query_is_not_part_of_the_file_name() {
        assert_eq!(file_name("https://a/b.run?x=/y"), "b.run");
    }
}
