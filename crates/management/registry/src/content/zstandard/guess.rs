//! Which sequences a compressor would have chosen for plain bytes, and where it chose others.
//!
//! Compressors of Zstandard go through a block, remember places by hashes of the next bytes, and take what they find there.
//! The guess does the same by the habits of a family, and goes on from what was really chosen: what it remembers follows
//! from the bytes and the sequences before alone, so that it is the same when the block is written again.

use std::cell::Cell;

use super::blocks::{BLOCK, Recent, Sequence, distance};
use crate::content::deflate::guess::{equal, read_number, write_number};

/// Habits of a family of compressors.
#[derive(Clone, Copy, Debug)]
enum Habits {
    /// Two tables, the nearest place of each: long (8 bytes) and short. `go` as the usual encoder of Go programs has it.
    Double { long: u32, short: u32, go: bool },
    /// Chains of places: the longest match within so many, given up for better ones up to `patience` bytes later.
    Chain { hash: u32, attempts: usize, patience: u8, margin: usize },
}

/// The families; a part names its by number, so that none may be changed or removed. In the order in which they are
/// tried, the quick ones first.
const ALL: [Habits; 8] = [
    // libzstd's level 3, and what containers' tools in Go have as their usual level.
    Habits::Double { long: 17, short: 16, go: false },
    Habits::Double { long: 17, short: 15, go: true },
    Habits::Double { long: 18, short: 18, go: false },
    // libzstd's levels 5, 6 and 7, 8 to 12, 13 to 15, and about those above.
    Habits::Chain { hash: 17, attempts: 8, patience: 0, margin: 16 },
    Habits::Chain { hash: 17, attempts: 16, patience: 1, margin: 16 },
    Habits::Chain { hash: 17, attempts: 32, patience: 2, margin: 16 },
    Habits::Chain { hash: 18, attempts: 128, patience: 2, margin: 8 },
    Habits::Double { long: 14, short: 13, go: false },
];

/// How many there are.
pub(crate) const FAMILIES: u8 = ALL.len() as u8;

/// Places that chains remember.
const RING: usize = 1 << 20;
/// Work for one block at most.
const WORK: usize = 64 * BLOCK;
/// Nowhere near.
const NOWHERE: u32 = 1 << 31;

/// What was accepted last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// A block begins.
    Nothing,
    /// A match, after which the offset before the last is looked at first.
    Match,
    /// One after which it is not.
    Other,
}

/// Guesses one sequence after the other.
#[derive(Clone, Debug)]
pub(crate) struct Guesser {
    habits: Habits,
    /// Places by hash; counted from the beginning of the frame, as `base` is, the place of the first byte of a text.
    long: Vec<u32>,
    short: Vec<u32>,
    previous: Vec<u32>,
    base: u32,
    /// Chains know the places before this.
    known: u32,
    recent: Recent,
    /// Farthest match.
    window: usize,
    after: After,
    /// Sequences of this block.
    count: usize,
    /// Where the guess was found, which is not always where it begins.
    found: usize,
    /// What was done for this block: words that were compared, places that were looked at. No more than `most` may be.
    work: Cell<usize>,
    most: usize,
}

fn word(text: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*text.get(at..)?.first_chunk()?))
}

fn half(text: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*text.get(at..)?.first_chunk()?))
}

fn hash5(word: u64, bits: u32) -> usize {
    ((word << 24).wrapping_mul(889_523_592_379) >> (64 - bits)) as usize
}

fn hash8(word: u64, bits: u32) -> usize {
    (word.wrapping_mul(0xcf1b_bcdc_b7a5_6463) >> (64 - bits)) as usize
}

/// Equal bytes before two places, the first not before `anchor`.
fn common_before(text: &[u8], at: usize, place: usize, anchor: usize) -> usize {
    let most = (at - anchor).min(place);
    (0..most).take_while(|n| text[at - n - 1] == text[place - n - 1]).count()
}

impl Guesser {
    pub(crate) fn new(family: u8, window: usize) -> Option<Self> {
        let habits = *ALL.get(usize::from(family))?;
        let table = |bits: u32| vec![NOWHERE; 1 << bits];
        let (long, short, previous) = match habits {
            Habits::Double { long, short, .. } => (table(long), table(short), Vec::new()),
            Habits::Chain { hash, .. } => (table(hash), Vec::new(), vec![NOWHERE; RING]),
        };
        Some(Self {
            habits,
            long,
            short,
            previous,
            base: 0,
            known: 0,
            recent: [1, 4, 8],
            window,
            after: After::Nothing,
            count: 0,
            found: 0,
            work: Cell::new(0),
            most: usize::MAX,
        })
    }

    /// For taking apart: a block that takes much more work than any compressor would have done is left as it is. What
    /// passes is as cheap to put together.
    pub(crate) fn bounded(family: u8, window: usize) -> Option<Self> {
        Some(Self { most: WORK, ..Self::new(family, window)? })
    }

    /// So many bytes were dropped from the beginning of the text.
    pub(crate) fn forget(&mut self, count: usize) {
        self.base = self.base.wrapping_add(count as u32);
    }

    /// A block begins.
    fn begin(&mut self) {
        (self.after, self.count) = (After::Nothing, 0);
        self.work.set(0);
    }

    /// A block without sequences: the compressor saw it, and dropped what it had chosen.
    fn pass(&mut self, text: &[u8], mut at: usize, end: usize) {
        let recent = self.recent;
        self.begin();
        while let Some(sequence) = self.guess(text, at, end) {
            let Some(next) = self.accept(text, at, end, &sequence, true) else { break };
            at = next;
            if self.is_spent() {
                break;
            }
        }
        self.recent = recent;
    }

    fn spend(&self, work: usize) {
        self.work.set(self.work.get().saturating_add(work));
    }

    /// The block takes more work than it may.
    fn is_spent(&self) -> bool {
        self.work.get() > self.most
    }

    /// Equal bytes at two places, the first of them before `end`.
    fn common(&self, text: &[u8], at: usize, place: usize, end: usize) -> usize {
        let length = equal(&text[at.min(end)..end], &text[place..]);
        self.spend(length / 8 + 1);
        length
    }

    /// A match that is as long as it can be, both ways.
    fn whole(&self, text: &[u8], at: usize, end: usize, from: usize, place: usize) -> Sequence {
        let back = common_before(text, from, place, at);
        self.spend(back);
        let length = self.common(text, from, place, end) + back;
        Sequence { literals: from - back - at, length, offset: from - place + 3 }
    }

    /// As long as the match can be.
    fn usual_length(&self, text: &[u8], (at, end): (usize, usize), sequence: &Sequence) -> usize {
        let start = at.saturating_add(sequence.literals).min(end);
        let far = distance(&mut self.recent.clone(), sequence);
        far.and_then(|far| start.checked_sub(far)).map_or(0, |place| self.common(text, start, place, end))
    }

    fn place(&self, at: usize) -> u32 {
        self.base.wrapping_add(at as u32)
    }

    /// Where in the text a remembered place is, if matches at `at` may refer to it.
    fn reach(&self, at: usize, end: usize, place: u32) -> Option<usize> {
        let Habits::Double { go, .. } = self.habits else { return self.reach_from(at, self.window, place) };
        // libzstd counts the window from the end of the block.
        let window = if go { self.window } else { self.window.saturating_sub(end - at) };
        self.reach_from(at, window, place)
    }

    fn reach_from(&self, at: usize, window: usize, place: u32) -> Option<usize> {
        let distance = self.place(at).wrapping_sub(place) as usize;
        if distance == 0 || distance > window {
            return None;
        }
        at.checked_sub(distance)
    }

    /// A match at one of the offsets that were used last, of at least four bytes.
    fn again(&self, text: &[u8], at: usize, end: usize, which: usize) -> Option<usize> {
        let place = at.checked_sub(self.recent[which]).filter(|place| *place < at)?;
        (half(text, at)? == half(text, place)?).then(|| self.common(text, at, place, end))
    }

    /// The next sequence of the block that ends at `end`, `at` being where its literals begin.
    fn guess(&mut self, text: &[u8], at: usize, end: usize) -> Option<Sequence> {
        let guess = match self.habits {
            Habits::Double { go: false, .. } => self.guess_double(text, at, end),
            Habits::Double { go: true, .. } => self.guess_go(text, at, end),
            Habits::Chain { attempts, patience, margin, .. } => {
                self.guess_chain(text, at, end, (attempts, patience, margin))
            }
        };
        guess.filter(|guess| guess.length >= 3 && at + guess.literals + guess.length <= end)
    }

    /// Remember a place in both tables, and give what was there.
    fn visit(&mut self, text: &[u8], at: usize) -> Option<(u32, u32)> {
        let Habits::Double { long, short, .. } = self.habits else { return None };
        self.spend(1);
        let (word, place) = (word(text, at)?, self.place(at));
        let long = std::mem::replace(&mut self.long[hash8(word, long)], place);
        let short = std::mem::replace(&mut self.short[hash5(word, short)], place);
        Some((long, short))
    }

    /// The same for the long one alone.
    fn visit_long(&mut self, text: &[u8], at: usize) -> Option<u32> {
        let Habits::Double { long, .. } = self.habits else { return None };
        let (word, place) = (word(text, at)?, self.place(at));
        Some(std::mem::replace(&mut self.long[hash8(word, long)], place))
    }

    fn visit_short(&mut self, text: &[u8], at: usize) {
        if let (Habits::Double { short, .. }, Some(word)) = (self.habits, word(text, at)) {
            self.short[hash5(word, short)] = self.place(at);
        }
    }

    fn guess_double(&mut self, text: &[u8], at: usize, end: usize) -> Option<Sequence> {
        let limit = end.checked_sub(8)?;
        if self.after == After::Match
            && at <= limit
            && let Some(length) = self.again(text, at, end, 1)
        {
            return Some(Sequence { literals: 0, length, offset: 1 });
        }
        let mut ip = at + usize::from(self.place(at) == 0);
        let (mut step, mut further) = (1, ip + 256);
        let mut next = ip + step;
        while next <= limit {
            let (long, short) = self.visit(text, ip)?;
            self.found = ip;
            if let Some(length) = self.again(text, ip + 1, end, 0) {
                return Some(Sequence { literals: ip + 1 - at, length, offset: 1 });
            }
            let mut taken = None;
            if let Some(place) =
                self.reach(ip, end, long).filter(|place| word(text, *place) == word(text, ip))
            {
                taken = Some((ip, place));
                if step < 4 {
                    self.visit_long(text, next);
                }
            } else if let Some(place) =
                self.reach(ip, end, short).filter(|place| half(text, *place) == half(text, ip))
            {
                taken = Some((ip, place));
                let Habits::Double { long: bits, .. } = self.habits else { return None };
                let later = self.long[hash8(word(text, next)?, bits)];
                if step < 4 {
                    self.visit_long(text, next);
                }
                if let Some(later) =
                    self.reach(next, end, later).filter(|place| word(text, *place) == word(text, next))
                    && self.common(text, next, later, end) > self.common(text, ip, place, end)
                {
                    taken = Some((next, later));
                }
            }
            if let Some((from, place)) = taken {
                return Some(self.whole(text, at, end, from, place));
            }
            if next >= further {
                step += 1;
                further += 256;
            }
            ip = next;
            next += step;
        }
        None
    }

    fn guess_go(&mut self, text: &[u8], at: usize, end: usize) -> Option<Sequence> {
        let limit = end.checked_sub(10)?;
        let repeats = self.count > 2;
        if self.after == After::Match
            && at < limit
            && let Some(length) = self.again(text, at, end, 1)
        {
            return Some(Sequence { literals: 0, length, offset: 1 });
        }
        let mut ip = at;
        while ip < limit {
            let (long, short) = self.visit(text, ip)?;
            self.found = ip;
            if repeats && let Some(length) = self.again(text, ip + 1, end, 0) {
                let back = common_before(text, ip + 1, ip + 1 - self.recent[0], at + 1);
                self.spend(back);
                return Some(Sequence { literals: ip + 1 - back - at, length: length + back, offset: 1 });
            }
            // It compares four bytes of either kind.
            if let Some(place) =
                self.reach(ip, end, long).filter(|place| half(text, *place) == half(text, ip))
            {
                return Some(self.whole(text, at, end, ip, place));
            }
            if let Some(place) =
                self.reach(ip, end, short).filter(|place| half(text, *place) == half(text, ip))
            {
                let later = self.visit_long(text, ip + 1)?;
                let later = self.reach(ip + 1, end, later);
                if let Some(later) = later.filter(|place| half(text, *place) == half(text, ip + 1)) {
                    return Some(self.whole(text, at, end, ip + 1, later));
                }
                return Some(self.whole(text, at, end, ip, place));
            }
            ip += 1 + ((ip - at) >> 7);
        }
        None
    }

    fn guess_chain(
        &mut self,
        text: &[u8],
        at: usize,
        end: usize,
        (attempts, patience, margin): (usize, u8, usize),
    ) -> Option<Sequence> {
        let limit = end.checked_sub(margin)?;
        if self.after == After::Match
            && at <= end - 8
            && let Some(length) = self.again(text, at, end, 1)
        {
            return Some(Sequence { literals: 0, length, offset: 1 });
        }
        let mut ip = at + usize::from(self.place(at) == 0);
        while ip < limit {
            // Length, offset as it is written, and where it begins.
            let (mut best, mut offset, mut start) = (0, 1, ip + 1);
            if let Some(length) = self.again(text, ip + 1, end, 0) {
                best = length;
                if patience == 0 {
                    return Some(Sequence { literals: start - at, length: best, offset });
                }
            }
            let (length, distance) = self.longest(text, ip, end, attempts);
            if length > best {
                (best, offset, start) = (length, distance + 3, ip);
            }
            if best < 4 {
                ip += ((ip - at) >> 8) + 1;
                continue;
            }
            let mut waited = 0;
            while waited < patience && ip < limit && !self.is_spent() {
                ip += 1;
                waited += 1;
                let wait: (i64, i64, i64) = [(3, 1, 4), (4, 1, 7)][usize::from(waited > 1)];
                if let Some(length) = self.again(text, ip, end, 0)
                    && length as i64 * wait.0 > best as i64 * wait.0 - i64::from(offset.ilog2()) + wait.1
                {
                    (best, offset, start) = (length, 1, ip);
                }
                let (length, distance) = self.longest(text, ip, end, attempts);
                if length >= 4
                    && length as i64 * 4 - i64::from((distance + 3).ilog2())
                        > best as i64 * 4 - i64::from(offset.ilog2()) + wait.2
                {
                    (best, offset, start, waited) = (length, distance + 3, ip, 0);
                }
            }
            if offset > 3 {
                return Some(self.whole(text, at, end, start, start - (offset - 3)));
            }
            return Some(Sequence { literals: start - at, length: best, offset });
        }
        None
    }

    /// The longest match of at least four bytes, the nearest of equals: length and distance.
    fn longest(&mut self, text: &[u8], at: usize, end: usize, attempts: usize) -> (usize, usize) {
        let Habits::Chain { hash, .. } = self.habits else { return (0, 0) };
        let far = self.place(at).wrapping_sub(self.known);
        // What was looked at in vain is known already.
        if far < NOWHERE {
            for known in at.saturating_sub(far as usize)..at {
                let Some(word) = word(text, known) else { break };
                let place = self.place(known);
                let head = std::mem::replace(&mut self.long[hash5(word, hash)], place);
                self.previous[place as usize % RING] = head;
            }
            self.known = self.place(at);
        }
        let (mut best, mut distance) = (3, 0);
        let Some(here) = word(text, at) else { return (0, 0) };
        let mut next = self.long[hash5(here, hash)];
        let mut nearest = 0;
        for attempt in 0..attempts {
            // Most of them are refused by one byte.
            self.spend(usize::from(attempt % 4 == 0));
            let (place, far) = (next, self.place(at).wrapping_sub(next));
            next = self.previous[place as usize % RING];
            if far == 0 || far >= NOWHERE {
                continue;
            }
            // The ring holds what is near; what was there before leads forward.
            let reached = self.reach_from(at, self.window.min(RING), place).filter(|_| far > nearest);
            let Some(found) = reached else { break };
            nearest = far;
            if at + best < end && text[found + best] == text[at + best] {
                let length = self.common(text, at, found, end);
                if length > best {
                    (best, distance) = (length, at - found);
                }
            }
        }
        if distance == 0 { (0, 0) } else { (best, distance) }
    }

    /// It was this one, as guessed or not. Gives where the next begins.
    fn accept(
        &mut self,
        text: &[u8],
        at: usize,
        end: usize,
        sequence: &Sequence,
        right: bool,
    ) -> Option<usize> {
        let start = at + sequence.literals;
        let next = start + sequence.length;
        let again = sequence.literals == 0 && sequence.offset == 1;
        if !right && !again {
            // It went on to there.
            (at..start.min(at + 64)).for_each(|place| _ = self.visit(text, place));
            self.found = start;
        }
        distance(&mut self.recent, sequence)?;
        let (margin, go) = match self.habits {
            Habits::Double { go, .. } => (if go { 11 } else { 8 }, go),
            Habits::Chain { .. } => (0, false),
        };
        let inside = next + margin <= end;
        self.after = After::Match;
        if again {
            self.visit(text, at);
        } else if go {
            if sequence.offset <= 3 {
                self.after = After::Other;
            } else {
                if self.count <= 2 {
                    self.after = After::Other;
                }
                if inside {
                    self.remember(text, start + 1, next, 2);
                }
            }
        } else if inside {
            let found = self.found + 2;
            self.visit_long(text, found);
            self.visit_long(text, next.saturating_sub(2));
            self.visit_short(text, found);
            self.visit_short(text, next.saturating_sub(1));
        }
        self.count += 1;
        Some(next)
    }

    /// Places at both ends of a match, as Go's encoder does.
    fn remember(&mut self, text: &[u8], first: usize, next: usize, back: usize) {
        let last = next.saturating_sub(back);
        self.visit_long(text, first);
        self.visit_long(text, last);
        self.visit_short(text, first + 1);
        self.visit_short(text, last + 1);
    }
}

/// Writes down the errors of guessing.
#[derive(Debug, Default)]
pub(crate) struct Errors {
    right: usize,
    pub(crate) out: Vec<u8>,
}

/// What of a sequence is not as guessed.
const LITERALS: u8 = 1;
const OFFSET: u8 = 2;
/// The match is not as long as it could be.
const LENGTH: u8 = 4;

impl Errors {
    /// A block whose plain bytes are `text[at..end]`. Nothing when the sequences do not fit it, or take too much work.
    pub(crate) fn block(
        &mut self,
        guesser: &mut Guesser,
        text: &[u8],
        (mut at, end): (usize, usize),
        sequences: Option<&[Sequence]>,
    ) -> Option<()> {
        let Some(sequences) = sequences else {
            guesser.pass(text, at, end);
            return (!guesser.is_spent()).then_some(());
        };
        guesser.begin();
        for sequence in sequences {
            let guess = guesser.guess(text, at, end);
            let right = guess == Some(*sequence);
            if right {
                self.right += 1;
            } else {
                write_number(&mut self.out, self.right);
                self.right = 0;
                self.say(guesser, text, (at, end), &guess.unwrap_or_default(), sequence);
            }
            at = guesser.accept(text, at, end, sequence, right)?;
            if guesser.is_spent() {
                return None;
            }
        }
        // What follows are literals, through which it went too.
        guesser.guess(text, at, end);
        (!guesser.is_spent()).then_some(())
    }

    fn say(
        &mut self,
        guesser: &Guesser,
        text: &[u8],
        (at, end): (usize, usize),
        guess: &Sequence,
        sequence: &Sequence,
    ) {
        let usual = guesser.usual_length(text, (at, end), sequence);
        let flags = if guess.literals == sequence.literals { 0 } else { LITERALS }
            | if guess.offset == sequence.offset { 0 } else { OFFSET }
            | if usual == sequence.length { 0 } else { LENGTH };
        self.out.push(flags);
        if flags & LITERALS != 0 {
            write_number(&mut self.out, sequence.literals);
        }
        if flags & OFFSET != 0 {
            write_number(&mut self.out, sequence.offset);
        }
        if flags & LENGTH != 0 {
            write_number(&mut self.out, sequence.length);
        }
    }

    pub(crate) fn end(&mut self) -> Vec<u8> {
        write_number(&mut self.out, std::mem::take(&mut self.right));
        std::mem::take(&mut self.out)
    }
}

/// Reads sequences from what [`Errors`] wrote.
pub(crate) struct Corrected<'a> {
    right: usize,
    input: &'a [u8],
}

impl<'a> Corrected<'a> {
    pub(crate) fn new(mut input: &'a [u8]) -> Option<Self> {
        let right = read_number(&mut input)?;
        Some(Self { right, input })
    }

    /// The sequences of a block with so many. Nothing when something is damaged.
    pub(crate) fn block(
        &mut self,
        guesser: &mut Guesser,
        text: &[u8],
        (mut at, end): (usize, usize),
        count: Option<usize>,
    ) -> Option<Vec<Sequence>> {
        let Some(count) = count else {
            guesser.pass(text, at, end);
            return Some(Vec::new());
        };
        guesser.begin();
        let mut sequences = Vec::with_capacity(count);
        for _ in 0..count {
            let guess = guesser.guess(text, at, end);
            let right = self.right > 0;
            let sequence = if right {
                self.right -= 1;
                guess?
            } else {
                let sequence = self.read(guesser, text, (at, end), &guess.unwrap_or_default())?;
                self.right = read_number(&mut self.input)?;
                sequence
            };
            if at.checked_add(sequence.literals)?.checked_add(sequence.length)? > end {
                return None;
            }
            at = guesser.accept(text, at, end, &sequence, right)?;
            sequences.push(sequence);
        }
        guesser.guess(text, at, end);
        Some(sequences)
    }

    fn read(
        &mut self,
        guesser: &Guesser,
        text: &[u8],
        (at, end): (usize, usize),
        guess: &Sequence,
    ) -> Option<Sequence> {
        let (flags, rest) = self.input.split_first()?;
        self.input = rest;
        let mut sequence = *guess;
        if flags & LITERALS != 0 {
            sequence.literals = read_number(&mut self.input)?;
        }
        if flags & OFFSET != 0 {
            sequence.offset = read_number(&mut self.input).filter(|offset| *offset <= u32::MAX as usize)?;
        }
        sequence.length = if flags & LENGTH == 0 {
            guesser.usual_length(text, (at, end), &sequence)
        } else {
            read_number(&mut self.input)?
        };
        Some(sequence)
    }
}
