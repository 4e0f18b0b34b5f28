//! Which tokens a compressor would have chosen for plain bytes, and where it chose others.
//!
//! Compressors look for earlier occurrences of the next bytes in the window of 32 KiB and take the longest, or wait for
//! a longer one a byte later. The guess does the same by the habits of a family; what is written down are its errors, as
//! counts of right guesses between them. A guess depends on nothing but the window and what follows, so that the errors
//! of equal data are mostly equal bytes.

use super::blocks::{LITERAL, MAX_MATCH, Token};

/// How far matches reach back.
pub(crate) const WINDOW: usize = 32 << 10;

/// Habits of a family of compressors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// Shortest match.
    least: usize,
    /// Earlier occurrences that are looked at.
    chain: usize,
    /// A match that is this long is taken without looking further.
    nice: usize,
    /// A shorter match gives way to a longer one a byte later.
    lazy: usize,
    /// From this length on only a quarter of the chain is looked at for it.
    good: usize,
    /// Farthest match.
    reach: usize,
}

/// The families; a part names its by number, so that none may be changed or removed. In the order in which they are
/// tried, the quick ones first.
pub(crate) const FAMILIES: [Habits; 5] = [
    // Those that look at few places: klauspost's, in most Go programs around images.
    Habits { least: 4, chain: 2, nice: 258, lazy: 32, good: 258, reach: WINDOW },
    // Go's own and zlib's usual level.
    Habits { least: 4, chain: 128, nice: 128, lazy: 16, good: 8, reach: WINDOW },
    Habits { least: 3, chain: 128, nice: 128, lazy: 16, good: 8, reach: WINDOW - 262 },
    // Their best.
    Habits { least: 4, chain: 1024, nice: 258, lazy: 258, good: 32, reach: WINDOW },
    Habits { least: 3, chain: 1024, nice: 258, lazy: 258, good: 32, reach: WINDOW - 262 },
];

/// Codes of errors. Below [`ELSE`]: the match at the occurrence of this number, as long as it can be.
const NO_MATCH: u8 = 255;
/// The occurrence of a number, with a length.
const SHORTER: u8 = 254;
/// Distance and length.
const ELSE: u8 = 253;

/// Earlier occurrences of the next bytes.
struct Finder<'a> {
    text: &'a [u8],
    habits: Habits,
    heads: Vec<u32>,
    previous: Vec<u32>,
    /// Places before this are known.
    known: usize,
}

const NOWHERE: u32 = u32::MAX;

impl<'a> Finder<'a> {
    fn new(text: &'a [u8], habits: Habits) -> Self {
        Self { text, habits, heads: vec![NOWHERE; 1 << 16], previous: vec![NOWHERE; WINDOW], known: 0 }
    }

    fn hash(&self, at: usize) -> Option<usize> {
        let word = if self.habits.least == 3 {
            let bytes = self.text.get(at..at + 3)?;
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0])
        } else {
            u32::from_le_bytes(*self.text.get(at..)?.first_chunk()?)
        };
        Some((word.wrapping_mul(0x9e37_79b1) >> 16) as usize)
    }

    /// Know all places before `at`, as far as they can be referred to.
    fn learn(&mut self, at: usize) {
        self.known = self.known.max(at.saturating_sub(WINDOW));
        while self.known < at {
            let Some(hash) = self.hash(self.known) else {
                self.known = at;
                return;
            };
            self.previous[self.known % WINDOW] = self.heads[hash];
            self.heads[hash] = self.known as u32;
            self.known += 1;
        }
    }

    /// The places before `at` with the same next bytes, the nearest first.
    fn places(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        let least = self.habits.least;
        let mut next = self.hash(at).map_or(NOWHERE, |hash| self.heads[hash]);
        let floor = at.saturating_sub(self.habits.reach);
        let here = self.text.get(at..at + least).unwrap_or_default();
        std::iter::from_fn(move || {
            loop {
                let place = next as usize;
                if next == NOWHERE || place < floor {
                    return None;
                }
                next = self.previous[place % WINDOW];
                if place >= at {
                    continue;
                }
                // The ring holds what is near; what was there before leads forward.
                if next != NOWHERE && next as usize >= place {
                    next = NOWHERE;
                }
                if self.text[place..place + least] == *here {
                    return Some(place);
                }
            }
        })
    }

    fn common(&self, at: usize, place: usize) -> usize {
        let most = (self.text.len() - at).min(MAX_MATCH);
        equal(&self.text[at..at + most], &self.text[place..place + most])
    }

    /// The longest match of more than `more` bytes, the nearest of equals.
    fn longest(&self, at: usize, chain: usize, more: usize) -> Option<Token> {
        let (mut best, mut found) = (more, None);
        let most = (self.text.len() - at).min(MAX_MATCH);
        for place in self.places(at).take(chain) {
            // Longer than the best means that it goes on where that one ended.
            if best >= most || self.text[place + best] != self.text[at + best] {
                continue;
            }
            let length = self.common(at, place);
            if length > best {
                (best, found) = (length, Some(Token::found(length, at - place)));
                if length >= self.habits.nice {
                    break;
                }
            }
        }
        // zlib's: three bytes from far away cost more than they save.
        found.filter(|found| found.length() > 3 || found.distance() <= 4096)
    }
}

/// Equal bytes at two beginnings; `there` has at least as many as `here`.
#[inline]
pub(crate) fn equal(here: &[u8], there: &[u8]) -> usize {
    let mut length = 0;
    while let (Some(a), Some(b)) = (here[length..].first_chunk::<8>(), there[length..].first_chunk::<8>()) {
        let differ = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differ != 0 {
            return length + differ.trailing_zeros() as usize / 8;
        }
        length += 8;
    }
    while length < here.len() && here[length] == there[length] {
        length += 1;
    }
    length
}

/// A guess at a place.
struct Guess {
    token: Token,
    /// What was found a byte later, when that is why.
    later: Option<Token>,
}

/// Guesses one token after the other.
struct Guesser<'a> {
    finder: Finder<'a>,
    at: usize,
    /// Already looked for at this place.
    carried: Option<Token>,
}

impl<'a> Guesser<'a> {
    fn new(text: &'a [u8], start: usize, habits: Habits) -> Self {
        Self { finder: Finder::new(text, habits), at: start, carried: None }
    }

    fn guess(&mut self) -> Guess {
        let habits = self.finder.habits;
        self.finder.learn(self.at);
        let here = self.carried.take();
        let Some(here) = here.or_else(|| self.finder.longest(self.at, habits.chain, habits.least - 1)) else {
            return Guess { token: LITERAL, later: None };
        };
        if here.length() < habits.lazy && self.at + 1 < self.finder.text.len() {
            let chain = if here.length() >= habits.good { habits.chain / 4 } else { habits.chain };
            self.finder.learn(self.at + 1);
            let later = self.finder.longest(self.at + 1, chain, here.length());
            if later.is_some() {
                return Guess { token: LITERAL, later };
            }
        }
        Guess { token: here, later: None }
    }

    /// It was this one.
    fn accept(&mut self, token: Token, guess: &Guess) {
        self.carried = if token == LITERAL { guess.later } else { None };
        self.at += token.length().max(1);
    }

    fn skip(&mut self, count: usize) {
        self.carried = None;
        self.at += count;
    }
}

/// Writes down the errors of guessing the tokens of bytes, after those that they may refer to.
pub(crate) struct Errors<'a> {
    guesser: Guesser<'a>,
    right: usize,
    out: &'a mut Vec<u8>,
}

impl<'a> Errors<'a> {
    pub(crate) fn new(text: &'a [u8], start: usize, family: u8, out: &'a mut Vec<u8>) -> Option<Self> {
        let habits = *FAMILIES.get(usize::from(family))?;
        Some(Self { guesser: Guesser::new(text, start, habits), right: 0, out })
    }

    /// Bytes without tokens.
    pub(crate) fn skip(&mut self, count: usize) {
        self.guesser.skip(count);
    }

    pub(crate) fn push(&mut self, token: Token) {
        let guess = self.guesser.guess();
        if guess.token == token {
            self.right += 1;
        } else {
            write_number(self.out, self.right);
            self.right = 0;
            self.say(token);
        }
        self.guesser.accept(token, &guess);
    }

    fn say(&mut self, token: Token) {
        if token == LITERAL {
            return self.out.push(NO_MATCH);
        }
        let (at, finder) = (self.guesser.at, &self.guesser.finder);
        let place = at - token.distance();
        let length = (token.length() - 3) as u8;
        match finder.places(at).take(usize::from(ELSE)).position(|found| found == place) {
            Some(number) if finder.common(at, place) == token.length() => self.out.push(number as u8),
            Some(number) => self.out.extend_from_slice(&[SHORTER, number as u8, length]),
            None => {
                let [high, low] = ((token.distance() - 1) as u16).to_be_bytes();
                self.out.extend_from_slice(&[ELSE, high, low, length]);
            }
        }
    }

    pub(crate) fn end(self) {
        write_number(self.out, self.right);
    }
}

/// Reads tokens from what [`Errors`] wrote.
pub(crate) struct Corrected<'a> {
    guesser: Guesser<'a>,
    right: usize,
    input: &'a [u8],
}

impl<'a> Corrected<'a> {
    pub(crate) fn new(text: &'a [u8], start: usize, family: u8, mut input: &'a [u8]) -> Option<Self> {
        let habits = *FAMILIES.get(usize::from(family))?;
        let right = read_number(&mut input)?;
        Some(Self { guesser: Guesser::new(text, start, habits), right, input })
    }

    /// Where the next token begins.
    pub(crate) fn at(&self) -> usize {
        self.guesser.at
    }

    pub(crate) fn skip(&mut self, count: usize) {
        self.guesser.skip(count);
    }

    /// Nothing when it is damaged.
    pub(crate) fn next(&mut self) -> Option<Token> {
        let guess = self.guesser.guess();
        let token = if self.right > 0 {
            self.right -= 1;
            guess.token
        } else {
            let token = self.read()?;
            self.right = read_number(&mut self.input)?;
            token
        };
        self.guesser.accept(token, &guess);
        (self.guesser.at <= self.guesser.finder.text.len()).then_some(token)
    }

    fn read(&mut self) -> Option<Token> {
        let (at, finder) = (self.guesser.at, &self.guesser.finder);
        let mut byte = || {
            let (byte, rest) = self.input.split_first()?;
            self.input = rest;
            Some(*byte)
        };
        match byte()? {
            NO_MATCH => Some(LITERAL),
            ELSE => {
                let distance = usize::from(u16::from_be_bytes([byte()?, byte()?])) + 1;
                Some(Token::found(usize::from(byte()?) + 3, distance.min(WINDOW)))
            }
            SHORTER => {
                let (number, length) = (byte()?, usize::from(byte()?) + 3);
                let place = finder.places(at).nth(usize::from(number))?;
                Some(Token::found(length, at - place))
            }
            number => {
                let place = finder.places(at).nth(usize::from(number))?;
                Some(Token::found(finder.common(at, place), at - place))
            }
        }
    }
}

/// Seven bits a byte, the lowest first.
pub(crate) fn write_number(out: &mut Vec<u8>, mut number: usize) {
    while number >= 128 {
        out.push(number as u8 | 128);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(crate) fn read_number(input: &mut &[u8]) -> Option<usize> {
    let mut number = 0;
    for shift in (0..35).step_by(7) {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        number |= usize::from(byte & 127) << shift;
        if byte & 128 == 0 {
            return Some(number);
        }
    }
    None
}
