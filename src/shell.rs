//! Words of a command line, as a shell takes them.

/// A word, with quotes around it where a shell would otherwise read something else.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Words of a command line, each quoted as it needs.
pub fn line<T: AsRef<str>>(words: impl IntoIterator<Item = T>) -> String {
    words.into_iter().map(|word| quoted(word.as_ref())).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_shell_would_read_otherwise_is_quoted() {
        assert_eq!(quoted("libcuda1:amd64"), "libcuda1:amd64");
        assert_eq!(quoted("/dev/nvidia0,mode=0666"), "/dev/nvidia0,mode=0666");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("a; reboot"), "'a; reboot'");
        assert_eq!(quoted("$(reboot)"), "'$(reboot)'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(line(["pct", "exec", "201", "--", "a b"]), "pct exec 201 -- 'a b'");
    }
}
