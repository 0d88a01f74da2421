//! The apt sources of a system: one-line files (`*.list`) and deb822 files (`*.sources`).
//!
//! Facts from `sources.list(5)`.

use deb822_fast::{Deb822, Paragraph};

/// One repository that packages can come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Its URL, with a slash at the end.
    pub url: String,
    /// The suite, `bookworm`; `/` for a flat repository, whose path is part of the URL.
    pub suite: String,
    /// The components; none for a flat repository.
    pub components: Vec<String>,
}

impl Source {
    /// The URL of the directory with `InRelease`, with a slash at the end.
    pub fn place(&self) -> String {
        match self.suite.as_str() {
            "/" => self.url.clone(),
            suite => format!("{}dists/{suite}/", self.url),
        }
    }
}

/// The sources in a file, by its name; disabled ones, `deb-src`, and those restricted to other
/// architectures (`amd64`) are left out. What apt would not understand is left out too: it says so
/// itself.
pub fn parse(file: &str, text: &str, architecture: &str) -> Vec<Source> {
    if file.ends_with(".sources") {
        let Ok(parsed) = text.parse::<Deb822>() else { return Vec::new() };
        return parsed.iter().flat_map(|stanza| of_stanza(stanza, architecture)).collect();
    }
    text.lines().filter_map(|line| of_line(line, architecture)).collect()
}

/// The keys that stand in a deb822 file itself.
pub fn inline_keys(text: &str) -> Vec<String> {
    let Ok(parsed) = text.parse::<Deb822>() else { return Vec::new() };
    let keys = parsed.iter().filter_map(|stanza| stanza.get("Signed-By"));
    let keys = keys.filter(|value| value.contains("-----BEGIN PGP PUBLIC KEY BLOCK-----"));
    // A line with a dot alone stands for an empty one.
    let line = |line: &str| {
        if line.trim() == "." { "\n".to_owned() } else { format!("{}\n", line.trim()) }
    };
    keys.map(|value| value.trim_start().lines().map(line).collect()).collect()
}

fn of_stanza(stanza: &Paragraph, architecture: &str) -> Vec<Source> {
    let words = |name: &str| -> Vec<&str> {
        stanza.get(name).unwrap_or_default().split_whitespace().collect()
    };
    let architectures = words("Architectures");
    let no = ["no", "false", "without", "off", "disable"];
    let is_off = stanza.get("Enabled").is_some_and(|value| no.contains(&value.trim()));
    let is_other = !architectures.is_empty() && !architectures.contains(&architecture);
    if is_off || is_other || !words("Types").contains(&"deb") {
        return Vec::new();
    }
    let components: Vec<String> =
        words("Components").into_iter().map(|word| fill(word, architecture)).collect();
    let mut sources = Vec::new();
    for url in words("URIs") {
        for suite in words("Suites") {
            sources.extend(source((url, suite), components.clone(), architecture));
        }
    }
    sources
}

fn of_line(line: &str, architecture: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    let rest = match rest.strip_prefix('[') {
        None => rest,
        Some(options) => {
            let (options, rest) = options.split_once(']')?;
            let mut values =
                options.split_whitespace().filter_map(|option| option.strip_prefix("arch="));
            if values.any(|list| !list.split(',').any(|name| name == architecture)) {
                return None;
            }
            rest
        }
    };
    let mut words = rest.split_whitespace();
    let (url, suite) = (words.next()?, words.next()?);
    source((url, suite), words.map(|word| fill(word, architecture)).collect(), architecture)
}

/// A suite that ends with a slash is the path of a flat repository.
fn source(place: (&str, &str), components: Vec<String>, architecture: &str) -> Option<Source> {
    let url = fill(place.0, architecture);
    let suite = fill(place.1, architecture);
    let known = ["http://", "https://", "file:/"].iter().any(|scheme| url.starts_with(scheme));
    let mut url = known.then(|| format!("{}/", url.trim_end_matches('/')))?;
    if suite.ends_with('/') {
        let path = suite.trim_matches('/').trim_start_matches("./");
        if !matches!(path, "" | ".") {
            url.push_str(&format!("{path}/"));
        }
        return Some(Source { url, suite: "/".to_owned(), components: Vec::new() });
    }
    (!components.is_empty()).then_some(Source { url, suite, components })
}

fn fill(text: &str, architecture: &str) -> String {
    text.replace("$(ARCH)", architecture)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(url: &str, suite: &str, components: &[&str]) -> Source {
        let components = components.iter().map(|&name| name.to_owned()).collect();
        Source { url: url.to_owned(), suite: suite.to_owned(), components }
    }

    #[test]
    fn one_line_sources() {
        let text = "# comment\ndeb http://a/debian bookworm main contrib # more\n\
            deb-src http://a/debian bookworm main\n deb [arch=amd64 signed-by=/k] https://b/x/ /\n\
            deb [arch=arm64] http://c/ bookworm main\ndeb http://d ./sub/\ndeb cdrom:[x]/ a b\ndebx y z\n";
        let expected = [
            source("http://a/debian/", "bookworm", &["main", "contrib"]),
            source("https://b/x/", "/", &[]),
            source("http://d/sub/", "/", &[]),
        ];
        assert_eq!(parse("sources.list", text, "amd64"), expected);
    }

    #[test]
    fn keys_in_a_deb822_file() {
        let text = "Types: deb\nURIs: http://a\nSuites: ./\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ==\n -----END PGP PUBLIC KEY BLOCK-----\n";
        let key =
            "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQ==\n-----END PGP PUBLIC KEY BLOCK-----\n";
        assert_eq!(inline_keys(text), [key]);
    }

    #[test]
    fn deb822_sources() {
        let text = "Types: deb deb-src\nURIs: http://a/debian/\nSuites: trixie trixie-updates\n\
            Components: main\nSigned-By: /k\n\nEnabled: no\nTypes: deb\nURIs: http://b\nSuites: x\nComponents: y\n\n\
            Types: deb\nURIs: http://c/$(ARCH)\nSuites: ./\n";
        let expected = [
            source("http://a/debian/", "trixie", &["main"]),
            source("http://a/debian/", "trixie-updates", &["main"]),
            source("http://c/amd64/", "/", &[]),
        ];
        assert_eq!(parse("debian.sources", text, "amd64"), expected);
    }
}
