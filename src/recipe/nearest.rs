//! What somebody meant who wrote a word that is not known.

/// `did you mean …?` with the nearest known word, or all of them where none is near.
pub(super) fn did_you_mean(word: &str, known: &[&str]) -> String {
    let distance = |known: &&&str| strsim::damerau_levenshtein(word, known);
    let nearest = known.iter().min_by_key(distance);
    let limit = (word.chars().count() / 2).clamp(1, 3);
    match nearest.filter(|nearest| distance(nearest) <= limit) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None if known.is_empty() => "nothing is known here".to_owned(),
        None => {
            let known: Vec<String> = known.iter().map(|known| format!("`{known}`")).collect();
            format!("known are {}", known.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::did_you_mean;

    #[test]
    fn a_near_word_is_offered_and_otherwise_all() {
        assert_eq!(did_you_mean("drvier", &["name", "driver"]), "did you mean `driver`?");
        assert_eq!(did_you_mean("zebra", &["name", "driver"]), "known are `name`, `driver`");
        assert_eq!(did_you_mean("x", &[]), "nothing is known here");
    }
}
