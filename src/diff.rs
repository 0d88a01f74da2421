//! The difference of two files as unified text, for people to read before anything is changed.

use similar::TextDiff;

/// The unified difference of two contents of the file `name`, with three lines of context; empty
/// when they are equal.
///
/// Bytes that are not UTF-8 and control characters are shown as `\xNN`, so that the text can be
/// printed on a terminal.
pub fn unified(name: &str, old: &[u8], new: &[u8]) -> String {
    if old == new {
        return String::new();
    }
    let (old, new) = (printable(old), printable(new));
    TextDiff::from_lines(&old, &new)
        .unified_diff()
        .context_radius(3)
        .header(name, name)
        .missing_newline_hint(true)
        .to_string()
}

fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let mut characters = chunk.valid().chars().peekable();
        while let Some(character) = characters.next() {
            let is_ending = character == '\r' && characters.peek() == Some(&'\n');
            if character.is_control() && !is_ending && !matches!(character, '\n' | '\t') {
                text.push_str(&format!("\\x{:02x}", u32::from(character)));
            } else {
                text.push(character);
            }
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_contents_have_no_difference() {
        assert_eq!(unified("x", b"a\n", b"a\n"), "");
    }

    #[test]
    fn three_lines_of_context_surround_a_change() {
        let text = unified("/etc/x.conf", b"1\n2\n3\n4\n5\n", b"1\n2\n3\n4\nnew\n5\n");
        let expected = "--- /etc/x.conf\n+++ /etc/x.conf\n@@ -2,4 +2,5 @@\n 2\n 3\n 4\n+new\n 5\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn bytes_that_would_disturb_a_terminal_are_escaped() {
        let text = unified("x", b"\x1b[2J\xff\r\n", b"\x1b[2J\xfe\r\n");
        assert!(text.contains("-\\x1b[2J\\xff\r\n+\\x1b[2J\\xfe\r\n"), "{text:?}");
    }

    #[test]
    fn a_missing_final_newline_is_said() {
        assert!(unified("x", b"a", b"a\n").contains("No newline at end of file"));
    }
}
