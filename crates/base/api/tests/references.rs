//! Selectors and quantities against the obvious way to do what they do.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;

use quickcheck::{Arbitrary, Gen, QuickCheck};
use sampan_api::quantity::Quantity;
use sampan_api::selector::LabelSelector;

const KEYS: &[&str] = &["a", "b", "example.com/c"];
const VALUES: &[&str] = &["", "1", "2", "10", "x"];

/// One requirement: what it is called, on which key, with which values.
#[derive(Clone, Debug)]
struct Term {
    operator: u8,
    key: &'static str,
    values: Vec<&'static str>,
}

impl Arbitrary for Term {
    fn arbitrary(g: &mut Gen) -> Self {
        let count = usize::from(u8::arbitrary(g) % 3) + 1;
        let values = (0..count).map(|_| *g.choose(VALUES).unwrap()).collect();
        Term { operator: u8::arbitrary(g) % 9, key: g.choose(KEYS).unwrap(), values }
    }
}

impl Term {
    fn text(&self) -> String {
        let (key, value, set) = (self.key, self.values[0], self.values.join(","));
        match self.operator {
            0 => format!("{key}={value}"),
            1 => format!("{key} == {value}"),
            2 => format!("{key}!={value}"),
            3 => format!("{key} in ({set})"),
            4 => format!("{key} notin ( {set} )"),
            5 => key.to_owned(),
            6 => format!("!{key}"),
            7 => format!("{key}>{}", value.parse::<i64>().unwrap_or(5)),
            _ => format!("{key} < {}", value.parse::<i64>().unwrap_or(5)),
        }
    }

    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let found = labels.get(self.key).map(String::as_str);
        let bound = self.values[0].parse::<i64>().unwrap_or(5);
        let number = found.and_then(|text| text.parse::<i64>().ok());
        match self.operator {
            0 | 1 => found == Some(self.values[0]),
            2 => found != Some(self.values[0]),
            3 => found.is_some_and(|found| self.values.contains(&found)),
            4 => found.is_none_or(|found| !self.values.contains(&found)),
            5 => found.is_some(),
            6 => found.is_none(),
            7 => number.is_some_and(|number| number > bound),
            _ => number.is_some_and(|number| number < bound),
        }
    }
}

#[test]
fn selectors_select_what_each_of_their_terms_does() {
    fn holds(terms: Vec<Term>, labels: Vec<(u8, u8)>) -> bool {
        let pick = |from: &[&str], at: u8| from[usize::from(at) % from.len()].to_owned();
        let labels: BTreeMap<String, String> =
            labels.into_iter().map(|(key, value)| (pick(KEYS, key), pick(VALUES, value))).collect();
        let text = terms.iter().map(Term::text).collect::<Vec<_>>().join(",");
        let selector = LabelSelector::parse(&text).unwrap_or_else(|why| panic!("{text}: {}", why.message));
        selector.matches(&labels) == terms.iter().all(|term| term.holds(&labels))
    }
    QuickCheck::new().tests(5_000).quickcheck(holds as fn(Vec<Term>, Vec<(u8, u8)>) -> bool);
}

/// A quantity as a fraction: its text, numerator and denominator.
#[derive(Clone, Debug)]
struct Amount {
    text: String,
    over: i128,
    under: i128,
}

impl Arbitrary for Amount {
    fn arbitrary(g: &mut Gen) -> Self {
        const SUFFIXES: &[(&str, i128, i128)] = &[
            ("n", 1, 1_000_000_000),
            ("u", 1, 1_000_000),
            ("m", 1, 1000),
            ("", 1, 1),
            ("k", 1000, 1),
            ("M", 1_000_000, 1),
            ("G", 1_000_000_000, 1),
            ("Ki", 1 << 10, 1),
            ("Mi", 1 << 20, 1),
            ("Gi", 1 << 30, 1),
            ("e3", 1000, 1),
            ("E-2", 1, 100),
            ("e+1", 10, 1),
        ];
        let (suffix, times, by) = *g.choose(SUFFIXES).unwrap();
        let (whole, places) = (i128::from(u16::arbitrary(g)), u32::from(u8::arbitrary(g) % 5));
        let part = i128::from(u32::arbitrary(g)) % 10_i128.pow(places);
        let sign = *g.choose(&["", "+", "-"]).unwrap();
        let width = places as usize;
        let fraction = if places == 0 { String::new() } else { format!(".{part:0width$}") };
        let over = (whole * 10_i128.pow(places) + part) * times * if sign == "-" { -1 } else { 1 };
        Amount { text: format!("{sign}{whole}{fraction}{suffix}"), over, under: by * 10_i128.pow(places) }
    }
}

impl Amount {
    /// In parts of one, away from zero: nothing asked for is lost.
    fn parts(&self, parts: i128) -> i128 {
        let (over, sign) = ((self.over * parts).abs(), self.over.signum());
        sign * ((over + self.under - 1) / self.under)
    }
}

#[test]
fn quantities_are_the_numbers_that_they_say() {
    fn holds(a: Amount, b: Amount) -> bool {
        let read = |amount: &Amount| Quantity::parse(&amount.text).unwrap();
        let (x, y) = (read(&a), read(&b));
        let (nanos, others) = (a.parts(1_000_000_000), b.parts(1_000_000_000));
        let fits = |value: i128| i64::try_from(value).unwrap();
        let total = Amount { text: String::new(), over: nanos + others, under: 1_000_000_000 };
        let exact = Amount { text: String::new(), over: nanos, under: 1_000_000_000 };
        x.cmp(&y) == nanos.cmp(&others)
            && x.to_units() == fits(exact.parts(1))
            && x.to_milli() == fits(exact.parts(1000))
            && (x + y).to_units() == fits(total.parts(1))
            && (x + y - y) == x
            && Quantity::parse(&x.canonical()).unwrap() == x
    }
    QuickCheck::new().tests(20_000).quickcheck(holds as fn(Amount, Amount) -> bool);
}
