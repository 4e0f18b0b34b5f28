//! Patterns of `${x#…}` and its kin: `*`, `?` and `[…]`, where `*` also stands for a slash.

/// Steps that one variable may cost.
const MAX_STEPS: usize = 50_000_000;

/// One place of a pattern.
enum Part {
    Any,
    One,
    Literal(char),
    Set(Vec<(char, char)>, bool),
}

impl Part {
    fn fits(&self, c: char) -> bool {
        match self {
            Part::Any | Part::One => true,
            Part::Literal(literal) => *literal == c,
            Part::Set(ranges, negated) => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *negated
            }
        }
    }
}

fn parse(pattern: &str) -> Vec<Part> {
    let characters: Vec<char> = pattern.chars().collect();
    let (mut parts, mut at) = (Vec::new(), 0);
    while let Some(&character) = characters.get(at) {
        at += 1;
        match character {
            '*' if matches!(parts.last(), Some(Part::Any)) => {}
            '*' => parts.push(Part::Any),
            '?' => parts.push(Part::One),
            '\\' if at < characters.len() => {
                parts.push(Part::Literal(characters[at]));
                at += 1;
            }
            '[' => match set(&characters[at..]) {
                Some((part, length)) => {
                    parts.push(part);
                    at += length;
                }
                None => parts.push(Part::Literal('[')),
            },
            literal => parts.push(Part::Literal(literal)),
        }
    }
    parts
}

/// What stands behind `[`, and how long it is with its `]`.
fn set(characters: &[char]) -> Option<(Part, usize)> {
    let negated = matches!(characters.first(), Some('!' | '^'));
    let start = usize::from(negated);
    let end = start + characters.get(start..)?.iter().skip(1).position(|c| *c == ']')? + 1;
    let (mut ranges, mut at) = (Vec::new(), start);
    while at < end {
        if characters[at + 1] == '-' && at + 2 < end {
            ranges.push((characters[at], characters[at + 2]));
            at += 3;
        } else {
            ranges.push((characters[at], characters[at]));
            at += 1;
        }
    }
    Some((Part::Set(ranges, negated), end + 1))
}

/// Lengths of the beginnings of `text` that match: the shortest and the longest.
fn ends<'a>(
    parts: &[&Part],
    text: impl Iterator<Item = &'a char>,
    steps: &mut usize,
) -> Result<Option<(usize, usize)>, String> {
    // Places of the pattern that are reached; a star may be skipped.
    let mut states = vec![false; parts.len() + 1];
    let close = |states: &mut Vec<bool>| {
        for at in 0..parts.len() {
            if states[at] && matches!(parts[at], Part::Any) {
                states[at + 1] = true;
            }
        }
    };
    states[0] = true;
    close(&mut states);
    let mut found = states[parts.len()].then_some((0, 0));
    for (read, &character) in text.enumerate() {
        *steps += parts.len() + 1;
        if *steps > MAX_STEPS {
            return Err("a pattern on a text that is too large".into());
        }
        let mut next = vec![false; parts.len() + 1];
        for at in 0..parts.len() {
            if states[at] && parts[at].fits(character) {
                next[if matches!(parts[at], Part::Any) { at } else { at + 1 }] = true;
            }
        }
        close(&mut next);
        states = next;
        if states[parts.len()] {
            found = Some((found.map_or(read + 1, |(short, _)| short), read + 1));
        }
        if !states.contains(&true) {
            break;
        }
    }
    Ok(found)
}

/// Apply an operator.
pub(super) fn change(
    pattern: &str,
    text: &[char],
    operator: char,
    twice: bool,
    with: &str,
) -> Result<String, String> {
    let parsed = parse(pattern);
    let mut parts: Vec<&Part> = parsed.iter().collect();
    let mut steps = 0;
    match operator {
        '#' => {
            let found = ends(&parts, text.iter(), &mut steps)?;
            let cut = found.map_or(0, |(short, long)| if twice { long } else { short });
            Ok(text[cut..].iter().collect())
        }
        '%' => {
            parts.reverse();
            let found = ends(&parts, text.iter().rev(), &mut steps)?;
            let cut = found.map_or(0, |(short, long)| if twice { long } else { short });
            Ok(text[..text.len() - cut].iter().collect())
        }
        _ => {
            let (mut out, mut at, mut done) = (String::new(), 0, parts.is_empty());
            while at < text.len() {
                let length = if done { None } else { ends(&parts, text[at..].iter(), &mut steps)? };
                match length {
                    Some((_, length)) if length > 0 => {
                        out.push_str(with);
                        at += length;
                        done = !twice;
                    }
                    _ => {
                        out.push(text[at]);
                        at += 1;
                    }
                }
            }
            Ok(out)
        }
    }
}
