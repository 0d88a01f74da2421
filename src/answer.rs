//! What our scripts inside a container answer: lines `@nvstage KEY WORD…` among everything else.

/// The answers of one script, in order.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    lines: Vec<(String, String)>,
}

impl Answer {
    /// Takes the answers out of a script's standard output.
    pub fn parse(stdout: &str) -> Self {
        let lines = stdout
            .lines()
            .filter_map(|line| line.strip_prefix("@nvstage "))
            .map(|line| line.split_once(' ').unwrap_or((line, "")))
            .map(|(key, value)| (key.to_owned(), value.trim_end().to_owned()))
            .collect();
        Self { lines }
    }

    /// Whether a key was answered at all.
    pub fn has(&self, key: &str) -> bool {
        self.lines.iter().any(|(name, _)| name == key)
    }

    /// The last value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.lines.iter().rev().find(|(name, _)| name == key).map(|(_, value)| &**value)
    }

    /// The last value of a key as a number.
    pub fn number(&self, key: &str) -> Option<i32> {
        self.get(key)?.parse().ok()
    }

    /// Every value of a key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter(move |(name, _)| name == key).map(|(_, value)| &**value)
    }

    /// Every value of a key, as lines.
    pub fn text(&self, key: &str) -> String {
        self.all(key).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_among_other_output() {
        let answer = Answer::parse("noise\n@nvstage begin\n@nvstage log a b\nx\n@nvstage log c\n");
        assert!(answer.has("begin") && !answer.has("noise"));
        assert_eq!(answer.get("log"), Some("c"));
        assert_eq!(answer.text("log"), "a b\nc");
    }
}
