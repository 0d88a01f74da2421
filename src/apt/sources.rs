//! The apt sources of a system: one-line files (`*.list`) and deb822 files (`*.sources`).
//!
//! [`pieces`] takes a file apart into its lines or stanzas, [`parse`] tells where packages come from.
//! Facts from `sources.list(5)`.

use std::collections::BTreeMap;
use std::ops::Range;

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

/// A line or a stanza that apt reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where it stands in the file, in bytes, without the newline at its end.
    pub span: Range<usize>,
    /// `deb`, `deb-src`.
    pub types: Vec<String>,
    /// The URLs as they are written, with the architecture filled in.
    pub urls: Vec<String>,
    /// The suites, likewise.
    pub suites: Vec<String>,
    /// The components, likewise.
    pub components: Vec<String>,
    /// The options by the names that deb822 has for them, in lower case: `signed-by`.
    pub options: BTreeMap<String, String>,
}

impl Piece {
    /// The words of an option.
    pub fn words(&self, name: &str) -> Vec<&str> {
        let value = self.options.get(name).map_or("", String::as_str);
        value
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|word| !word.is_empty())
            .collect()
    }

    /// Whether packages of that architecture come from it.
    pub fn has_packages(&self, architecture: &str) -> bool {
        let lists = |name: &str| self.words(name).contains(&architecture);
        let is_for = !self.options.contains_key("architectures") || lists("architectures");
        self.types.iter().any(|kind| kind == "deb")
            && (is_for || lists("architectures-add"))
            && !lists("architectures-remove")
    }

    /// Whether apt is told to read it.
    fn is_enabled(&self) -> bool {
        let no = ["no", "false", "without", "off", "disable"];
        !self.options.get("enabled").is_some_and(|value| no.contains(&value.trim()))
    }
}

/// The lines or stanzas of a file, by its name, that are not switched off. What apt would not
/// understand is left out: it says so itself.
pub fn pieces(file: &str, text: &str, architecture: &str) -> Vec<Piece> {
    let is_deb822 = file.ends_with(".sources");
    let spans = if is_deb822 { stanzas(text) } else { lines(text) };
    let read = if is_deb822 { of_stanza } else { of_line };
    let fill_all = |words: &mut Vec<String>| {
        words.iter_mut().for_each(|word| *word = word.replace("$(ARCH)", architecture));
    };
    let piece = |span: Range<usize>| {
        let mut piece = read(&text[span.clone()])?;
        piece.span = span;
        [&mut piece.urls, &mut piece.suites, &mut piece.components].into_iter().for_each(fill_all);
        Some(piece)
    };
    spans.into_iter().filter_map(piece).filter(Piece::is_enabled).collect()
}

/// The sources in a file, by its name; `deb-src` and those restricted to other architectures
/// (`amd64`) are left out.
pub fn parse(file: &str, text: &str, architecture: &str) -> Vec<Source> {
    let pieces = pieces(file, text, architecture).into_iter();
    let of_piece = |piece: Piece| {
        let mut sources = Vec::new();
        for url in &piece.urls {
            for suite in &piece.suites {
                sources.extend(source(url, suite, &piece.components));
            }
        }
        sources
    };
    pieces.filter(|piece| piece.has_packages(architecture)).flat_map(of_piece).collect()
}

/// The keys that stand in a deb822 file itself.
pub fn inline_keys(text: &str) -> Vec<String> {
    let stanzas = stanzas(text).into_iter().filter_map(|span| of_stanza(&text[span]));
    stanzas.filter_map(|piece| inline_key(piece.options.get("signed-by")?)).collect()
}

/// The key that a value of `Signed-By` is, where it is one.
pub fn inline_key(value: &str) -> Option<String> {
    // A line with a dot alone stands for an empty one.
    let line = |line: &str| {
        if line.trim() == "." { "\n".to_owned() } else { format!("{}\n", line.trim()) }
    };
    value
        .contains("-----BEGIN PGP PUBLIC KEY BLOCK-----")
        .then(|| value.trim_start().lines().map(line).collect())
}

/// A field of a stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name in lower case.
    pub name: String,
    /// Its value, with the lines that continue it.
    pub value: String,
    /// Where it stands in the stanza, in bytes, without the newline at its end.
    pub span: Range<usize>,
}

/// The fields of a stanza; comments are left out.
pub fn fields(stanza: &str) -> Vec<Field> {
    let mut fields: Vec<Field> = Vec::new();
    for span in lines(stanza) {
        let line = &stanza[span.clone()];
        if line.starts_with('#') {
            continue;
        }
        if line.starts_with([' ', '\t']) {
            if let Some(field) = fields.last_mut() {
                field.value.push('\n');
                field.value.push_str(line);
                field.span.end = span.end;
            }
        } else if let Some((name, value)) = line.split_once(':') {
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
            fields.push(Field { name, value, span });
        }
    }
    fields
}

/// The lines of a text, without their newlines.
fn lines(text: &str) -> Vec<Range<usize>> {
    let mut start = 0;
    let line = |line: &str| {
        let span = start..start + line.trim_end_matches('\n').len();
        start += line.len();
        span
    };
    text.split_inclusive('\n').map(line).collect()
}

/// The stanzas of a text: empty lines part them.
fn stanzas(text: &str) -> Vec<Range<usize>> {
    let mut stanzas: Vec<Range<usize>> = Vec::new();
    let mut is_open = false;
    for span in lines(text) {
        let is_empty = text[span.clone()].trim_end_matches('\r').is_empty();
        match stanzas.last_mut().filter(|_| is_open) {
            Some(stanza) if !is_empty => stanza.end = span.end,
            _ if !is_empty => stanzas.push(span),
            _ => {}
        }
        is_open = !is_empty;
    }
    stanzas
}

fn of_stanza(stanza: &str) -> Option<Piece> {
    let mut options: BTreeMap<String, String> =
        fields(stanza).into_iter().map(|field| (field.name, field.value)).collect();
    let mut words = |name: &str| -> Vec<String> {
        let value = options.remove(name).unwrap_or_default();
        value.split_whitespace().map(str::to_owned).collect()
    };
    let (types, urls, suites) = (words("types"), words("uris"), words("suites"));
    let components = words("components");
    let is_whole = !types.is_empty() && !urls.is_empty() && !suites.is_empty();
    is_whole.then_some(Piece { span: 0..0, types, urls, suites, components, options })
}

fn of_line(line: &str) -> Option<Piece> {
    let line = without_comment(line).trim();
    let (kind, rest) = line.split_once([' ', '\t'])?;
    if !["deb", "deb-src"].contains(&kind) {
        return None;
    }
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        None => (BTreeMap::new(), rest),
        Some(rest) => {
            let (options, rest) = rest.split_once(']')?;
            (options.split_whitespace().filter_map(option).collect(), rest)
        }
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    let (url, suite) = (words.next()?, words.next()?);
    Some(Piece {
        span: 0..0,
        types: vec![kind.to_owned()],
        urls: vec![url],
        suites: vec![suite],
        components: words.collect(),
        options,
    })
}

/// apt takes a `#` for the beginning of a comment except between brackets.
fn without_comment(line: &str) -> &str {
    let from = match line.find(['[', '#']) {
        Some(position) if line[position..].starts_with('[') => {
            line[position..].find(']').map_or(line.len(), |end| position + end)
        }
        _ => 0,
    };
    line[from..].find('#').map_or(line, |position| &line[..from + position])
}

/// `arch+=amd64` under the name that deb822 has for it.
fn option(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    let (name, suffix) = match (name.strip_suffix('+'), name.strip_suffix('-')) {
        (Some(name), _) => (name, "-add"),
        (_, Some(name)) => (name, "-remove"),
        _ => (name, ""),
    };
    let name = match name.to_ascii_lowercase().as_str() {
        "arch" => "architectures".to_owned(),
        "lang" => "languages".to_owned(),
        "target" => "targets".to_owned(),
        other => other.to_owned(),
    };
    Some((format!("{name}{suffix}"), value.trim_matches('"').to_owned()))
}

/// A suite that ends with a slash is the path of a flat repository.
fn source(url: &str, suite: &str, components: &[String]) -> Option<Source> {
    let known = ["http://", "https://", "file:/"].iter().any(|scheme| url.starts_with(scheme));
    let mut url = known.then(|| format!("{}/", url.trim_end_matches('/')))?;
    if suite.ends_with('/') {
        let path = suite.trim_matches('/').trim_start_matches("./");
        if !matches!(path, "" | ".") {
            url.push_str(&format!("{path}/"));
        }
        return Some(Source { url, suite: "/".to_owned(), components: Vec::new() });
    }
    let (suite, components) = (suite.to_owned(), components.to_vec());
    (!components.is_empty()).then_some(Source { url, suite, components })
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

    #[test]
    fn what_restricts_a_source_is_read_in_every_form() {
        let has = |file: &str, text: &str| {
            pieces(file, text, "amd64").iter().map(|piece| piece.has_packages("amd64")).collect()
        };
        let lists: Vec<bool> = has(
            "x.list",
            "deb [arch+=arm64] http://a /\ndeb [ arch-=amd64 ] http://a /\ndeb [arch=arm64 arch+=amd64] http://a /\n\
             deb [arch=arm64] http://a /\ndeb-src http://a /\n",
        );
        assert_eq!(lists, [true, false, true, false, false]);
        let stanzas: Vec<bool> = has(
            "x.sources",
            "types: deb\nURIs: http://a\n http://b\nSuites: /\nArchitectures-Add: arm64\n\n\
             # of somebody\nTypes: deb\nURIs: http://a\nSuites: /\nArchitectures-Remove: amd64\n\n\
             Types: deb\nURIs: http://a\nSuites: /\nEnabled: no\n",
        );
        assert_eq!(stanzas, [true, false]);
    }

    #[test]
    fn a_piece_knows_where_it_stands() {
        let text = "# first\n\nTypes: deb\n# between\nURIs: http://a\nSuites: /\n\n\n";
        let piece = &pieces("x.sources", text, "amd64")[0];
        let stanza = "Types: deb\n# between\nURIs: http://a\nSuites: /";
        assert_eq!(&text[piece.span.clone()], stanza);
        let spans: Vec<&str> =
            fields(stanza).iter().map(|field| &stanza[field.span.clone()]).collect();
        assert_eq!(spans, ["Types: deb", "URIs: http://a", "Suites: /"]);
        let text = "\ndeb [signed-by=/k#1] http://a / # more";
        let piece = &pieces("x.list", text, "amd64")[0];
        assert_eq!(
            (&text[piece.span.clone()], piece.words("signed-by")),
            (&text[1..], vec!["/k#1"])
        );
    }
}
