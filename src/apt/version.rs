//! Order of package versions, as dpkg sees it (`deb-version(7)`).

use std::cmp::Ordering;

/// Compares two package versions.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (parts(a), parts(b));
    let epochs = number(a.0).cmp(&number(b.0));
    epochs.then_with(|| part(a.1, b.1)).then_with(|| part(a.2, b.2))
}

/// Epoch, upstream version, revision.
fn parts(version: &str) -> (&str, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

/// The value of a run of digits as something that compares right, however long it is.
fn number(digits: &str) -> (usize, &str) {
    let digits = digits.trim_start_matches('0');
    (digits.len(), digits)
}

/// Runs without digits and runs of digits take turns.
fn part(mut a: &str, mut b: &str) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let (text_a, text_b) = (cut(&mut a, false), cut(&mut b, false));
        let texts = letters(text_a).cmp(letters(text_b));
        let (digits_a, digits_b) = (cut(&mut a, true), cut(&mut b, true));
        let order = texts.then_with(|| number(digits_a).cmp(&number(digits_b)));
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

/// Takes the longest run of digits, or of anything else, from the front.
fn cut<'a>(text: &mut &'a str, digits: bool) -> &'a str {
    let end = text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len());
    let (run, rest) = text.split_at(end);
    *text = rest;
    run
}

/// A tilde sorts before the end, the end before letters, letters before everything else.
fn letters(text: &str) -> impl Iterator<Item = (u8, char)> {
    let rank = |c: char| match c {
        '~' => (0, c),
        c if c.is_ascii_alphabetic() => (2, c),
        c => (3, c),
    };
    text.chars().map(rank).chain([(1, '\0')])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_dpkg() {
        use Ordering::{Equal, Greater, Less};
        for (a, b, order) in [
            ("12.8.93-1", "12.8.93-1", Equal),
            ("12.8.93-1", "12.8.100-1", Less),
            ("1:1.0", "2.0", Greater),
            ("0:1.0", "1.0", Equal),
            ("1.0~rc1", "1.0", Less),
            ("1.0~rc1-1", "1.0~~-1", Greater),
            ("1.0-1+deb12u1", "1.0-1", Greater),
            ("1.0a", "1.0+", Less),
            ("1.0.", "1.0", Greater),
            ("1.00", "1.0", Equal),
            ("1.0-", "1.0", Equal),
            ("7.5-2~", "7.5-2", Less),
            ("2024.6.2.225-1", "2025.1.0.1-1", Less),
        ] {
            assert_eq!(compare(a, b), order, "{a} {b}");
            assert_eq!(compare(b, a), order.reverse(), "{b} {a}");
        }
    }
}
