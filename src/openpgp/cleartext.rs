//! The frame of a clear-signed text (RFC 9580, section 7): what is signed, and the signatures.
//!
//! ```text
//! -----BEGIN PGP SIGNED MESSAGE-----
//! Hash: SHA256
//!
//! the text; lines that begin with a dash have `- ` put before them
//! -----BEGIN PGP SIGNATURE-----
//!
//! base64
//! -----END PGP SIGNATURE-----
//! ```
//!
//! A signature covers the lines without the blanks and tabs at their ends. The text handed out
//! lacks them as well, so that it is exactly what was signed. Other control characters are
//! refused: programs disagree on whether a carriage return or a form feed ends a line, and what
//! one reads as a comment another reads as a field.

use super::verify::refused;
use crate::error::Result;

const BEGIN: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";
const END: &str = "-----END PGP SIGNATURE-----";

/// A clear-signed file taken apart; nothing is verified yet.
#[derive(Debug)]
pub struct Frame<'a> {
    /// The signed lines, without dash-escaping and without trailing blanks.
    pub lines: Vec<&'a str>,
    /// The signatures' armour block.
    pub signatures: String,
}

impl<'a> Frame<'a> {
    /// Accepts a file that holds one clear-signed text and nothing else.
    ///
    /// # Errors
    /// Install error saying what is missing or too much.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|_| refused("it is no UTF-8 text"))?;
        let mut lines = Lines { rest: text, number: 0 };
        check_start(text, &mut lines)?;
        check_headers(&mut lines)?;
        let signed = signed_lines(&mut lines)?;
        let signatures = signature_block(&mut lines)?;
        check_end(&mut lines)?;
        Ok(Self { lines: signed, signatures })
    }

    /// The text as it is signed: line ends are CR LF, and the last line has none.
    pub fn canonical(&self) -> String {
        self.lines.join("\r\n")
    }

    /// The text as it is read: every line ends with a newline.
    pub fn text(&self) -> String {
        self.lines.iter().flat_map(|line| [*line, "\n"]).collect()
    }
}

/// The lines of a text that ends with a newline or not.
struct Lines<'a> {
    rest: &'a str,
    number: usize,
}

impl<'a> Lines<'a> {
    /// The next line; `place` says where the file ends if there is none.
    fn next(&mut self, place: &str) -> Result<&'a str> {
        let cut = || refused(format!("it ends {place}; it is cut off or not complete yet"));
        self.advance()?.ok_or_else(cut)
    }

    fn advance(&mut self) -> Result<Option<&'a str>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.rest = rest;
        self.number += 1;
        match line.chars().find(|c| c.is_control() && *c != '\t') {
            None => Ok(Some(line)),
            Some('\r') => Err(refused(format!("line {} has a carriage return", self.number))),
            Some(other) => Err(refused(format!(
                "line {} has the control character U+{:04X}",
                self.number,
                u32::from(other)
            ))),
        }
    }
}

fn check_start(text: &str, lines: &mut Lines<'_>) -> Result<()> {
    if text.is_empty() {
        return Err(refused("it is empty"));
    }
    if lines.next("at once")? == BEGIN {
        return Ok(());
    }
    Err(refused(if text.lines().any(|line| line == BEGIN) {
        "there is text before the signed text"
    } else if BEGIN.starts_with(text) {
        "it ends inside its first line; it is cut off or not complete yet"
    } else {
        "it is not signed"
    }))
}

/// Only `Hash:` may stand here: others have changed what counts as signed (GnuPG's
/// `NotDashEscaped`). Its value is not used, the signature says its hash itself.
fn check_headers(lines: &mut Lines<'_>) -> Result<()> {
    loop {
        let line = lines.next("before the signed text begins")?;
        if line.is_empty() {
            return Ok(());
        }
        if !line.starts_with("Hash: ") {
            return Err(refused(format!("its line {} is no `Hash:` header", lines.number)));
        }
    }
}

fn signed_lines<'a>(lines: &mut Lines<'a>) -> Result<Vec<&'a str>> {
    let mut signed = Vec::new();
    loop {
        let line = lines.next("inside the signed text, before any signature")?;
        match line.strip_prefix('-').map(|rest| rest.strip_prefix(' ')) {
            None => signed.push(line.trim_end_matches([' ', '\t'])),
            Some(Some(escaped)) => signed.push(escaped.trim_end_matches([' ', '\t'])),
            Some(None) if line == SIGNATURE => return Ok(signed),
            Some(None) if line == BEGIN => {
                return Err(refused(format!(
                    "a second signed text begins on line {}",
                    lines.number
                )));
            }
            Some(None) => {
                let text = format!("line {} begins with a dash that is not escaped", lines.number);
                return Err(refused(text));
            }
        }
    }
}

fn signature_block(lines: &mut Lines<'_>) -> Result<String> {
    let mut block = format!("{SIGNATURE}\n");
    loop {
        let line = lines.next("inside the signature")?;
        block.push_str(line);
        block.push('\n');
        if line == END {
            return Ok(block);
        }
        if line.starts_with('-') {
            let text = format!("another block begins on line {}, in the signature", lines.number);
            return Err(refused(text));
        }
    }
}

fn check_end(lines: &mut Lines<'_>) -> Result<()> {
    while let Some(line) = lines.advance()? {
        if line.starts_with("-----BEGIN PGP ") {
            return Err(refused(format!(
                "another block begins on line {}, after the signature",
                lines.number
            )));
        }
        if !line.trim_matches([' ', '\t']).is_empty() {
            return Err(refused("there is text after the signature"));
        }
    }
    Ok(())
}
