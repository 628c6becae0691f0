//! The nearest of some known words to a mistyped one, for error messages.
//!
//! In: a word and the known ones. Out: the nearest, when it is near enough to be meant.

/// The known word with the fewest edits from `word`; none when more than a third of it would have to change.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    known
        .iter()
        .map(|candidate| (distance(&word, candidate), *candidate))
        .filter(|(edits, candidate)| *edits <= candidate.chars().count().div_ceil(3).min(4))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance of the first 64 characters; cases and `-` for `_` cost nothing.
fn distance(left: &str, right: &str) -> usize {
    let fold = |text: &str| -> Vec<char> {
        text.chars()
            .take(64)
            .map(|c| {
                if c == '-' {
                    '_'
                } else {
                    c.to_ascii_lowercase()
                }
            })
            .collect()
    };
    let (left, right) = (fold(left), fold(right));
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut diagonal = i;
        let mut previous = i + 1;
        for (j, b) in right.iter().enumerate() {
            let above = row.get(j + 1).copied().unwrap_or(usize::MAX);
            let cost = (diagonal + usize::from(a != b))
                .min(previous + 1)
                .min(above.saturating_add(1));
            if let Some(cell) = row.get_mut(j) {
                *cell = previous;
            }
            diagonal = above;
            previous = cost;
        }
        if let Some(cell) = row.last_mut() {
            *cell = previous;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    #[test]
    fn distances() {
        for (a, b, edits) in [
            ("", "", 0),
            ("a", "", 1),
            ("", "ab", 2),
            ("kitten", "sitting", 3),
            ("wait-seconds", "wait_seconds", 0),
            ("taskid", "task_id", 1),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }

    #[test]
    fn only_what_can_be_meant() {
        let known = ["task_id", "message", "message_type"];
        assert_eq!(nearest("taskId", &known), Some("task_id"));
        assert_eq!(nearest("mesage", &known), Some("message"));
        assert_eq!(nearest("quantum", &known), None);
    }
}
