//! Sets of completion indexes in their written form: `0-3,5,7`.

use std::collections::BTreeSet;

/// Reads `0-3,5,7`; what cannot be read is left out, and nothing at or beyond `limit` is taken in.
pub fn parse(text: &str, limit: i32) -> BTreeSet<i32> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            indexes.extend(first.max(0)..=last.min(limit - 1));
        }
    }
    indexes
}

/// Writes a set, consecutive indexes together: two as `3,4`, more as `3-5`.
pub fn format(indexes: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for &index in indexes {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => runs.push((index, index)),
        }
    }
    let written = runs.into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    });
    written.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for text in ["", "0", "0-3,5", "1,2,4-6", "7"] {
            assert_eq!(format(&parse(text, 10)), text);
        }
        assert_eq!(format(&parse("8-20,x,3", 10)), "3,8,9");
    }
}
