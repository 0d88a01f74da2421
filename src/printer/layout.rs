//! Text that fits into so many columns: cut, wrapped, a bar, a time.

use std::time::Duration;

/// How large a terminal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Characters in a line.
    pub columns: usize,
    /// Lines.
    pub rows: usize,
}

/// The columns that a text takes at most: everything beyond ASCII may be two wide.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum()
}

/// The text within so many columns; where something was cut off, it ends in `...`.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let dots = columns.min(3);
    let mut left = columns - dots;
    let fits = |c: &char| {
        let wide = if c.is_ascii() { 1 } else { 2 };
        let is_fitting = wide <= left;
        left = left.saturating_sub(wide);
        is_fitting
    };
    let kept: String = text.chars().take_while(fits).collect();
    kept + &"...".chars().take(dots).collect::<String>()
}

/// The text and blanks up to so many columns.
pub(super) fn padded(text: &str, columns: usize) -> String {
    let text = cut(text, columns);
    let blanks = " ".repeat(columns.saturating_sub(width(&text)));
    text + &blanks
}

/// Every line within so many columns, wrapped between words, with the indentation that it has and
/// two blanks more. A word alone may be wider: a path or a command stays in one piece.
pub(super) fn wrapped(text: &str, columns: usize) -> String {
    text.lines().map(|line| wrapped_line(line, columns)).collect::<Vec<_>>().join("\n")
}

fn wrapped_line(line: &str, columns: usize) -> String {
    if width(line) <= columns {
        return line.to_owned();
    }
    let indentation = line.len() - line.trim_start_matches(' ').len();
    let more = format!("\n{}", " ".repeat((indentation + 2).min(columns / 2)));
    let mut wrapped = line[..indentation].to_owned();
    let (mut column, mut is_first) = (indentation, true);
    for word in line[indentation..].split(' ') {
        let wide = width(word);
        if !is_first && column + 1 + wide > columns {
            wrapped.push_str(&more);
            column = more.len() - 1;
        } else if !is_first {
            wrapped.push(' ');
            column += 1;
        }
        wrapped.push_str(word);
        column += wide;
        is_first = false;
    }
    wrapped
}

/// `[#####-----]`, so many columns wide.
pub(super) fn bar((done, total): (u64, u64), columns: usize) -> String {
    let inner = columns.saturating_sub(2);
    let share = if total == 0 { 1.0 } else { (done as f64 / total as f64).min(1.0) };
    let filled = (share * inner as f64) as usize;
    format!("[{}{}]", "#".repeat(filled), "-".repeat(inner - filled))
}

/// `0:07`, `12:30`, `1:02:03`.
pub(super) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_says_so_and_fits() {
        assert_eq!(cut("driver", 6), "driver");
        assert_eq!(cut("passthrough", 8), "passt...");
        assert_eq!(cut("ätherisch", 6), "ät...");
        assert_eq!(cut("éäö", 5), "é...");
        assert_eq!(cut("driver", 2), "..");
        assert_eq!(cut("driver", 0), "");
        assert_eq!(padded("abc", 5), "abc  ");
    }

    #[test]
    fn lines_are_wrapped_between_words() {
        let text =
            "203 failed: install the driver\n  caused by: no space left in `/usr/lib/x86_64`";
        let expected = "203 failed: install\n  the driver\n  caused by: no space\n    left in\n    `/usr/lib/x86_64`";
        assert_eq!(wrapped(text, 22), expected);
        assert_eq!(wrapped("short\n\nlines", 22), "short\n\nlines");
        assert_eq!(wrapped("`/a/path/that/is/longer`", 10), "`/a/path/that/is/longer`");
    }

    #[test]
    fn bars_are_empty_at_first_and_full_at_last() {
        assert_eq!(bar((0, 10), 7), "[-----]");
        assert_eq!(bar((9, 10), 7), "[####-]");
        assert_eq!(bar((10, 10), 7), "[#####]");
        assert_eq!(bar((11, 10), 7), "[#####]");
        assert_eq!(bar((0, 0), 4), "[##]");
    }

    #[test]
    fn times_are_those_of_a_clock() {
        let clock = |seconds| clock(Duration::from_secs(seconds));
        assert_eq!([clock(7), clock(750), clock(3723)], ["0:07", "12:30", "1:02:03"]);
    }
}
