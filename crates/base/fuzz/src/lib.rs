//! Hostile inputs for decoders, for tests only: mutations of real ones, the same each time.
//!
//! A [`Target`] runs what it tests on a stack as small as a worker's. It fails on a panic and on an input that
//! allocates more than its length warrants, and says how to run that input again. Without coverage to guide it, it
//! relies on good seeds and words.
//!
//! The environment of the tests decides: `SAMPAN_FUZZ_SECONDS` how long each target runs (else a fixed number of
//! inputs), `SAMPAN_FUZZ_SEED` where it begins, `SAMPAN_FUZZ_INPUT` the one input to run, in base64.

mod alloc;
mod mutate;

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};

pub use alloc::Counting;
use mutate::Mutator;

/// The stack of a worker of tokio, in bytes.
const STACK: usize = 2 << 20;

/// What is given hostile inputs.
pub struct Target {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
    longest: usize,
    inputs: u64,
    most: Option<(usize, usize)>,
}

impl Target {
    /// A target of the name of its test, as `cargo test` filters by.
    pub fn new(name: &'static str) -> Target {
        let (seeds, words) = (vec![Vec::new()], Vec::new());
        Target { name, seeds, words, longest: 16 << 10, inputs: 400, most: None }
    }

    /// Real inputs, which all others are made of.
    #[must_use]
    pub fn seeds<S: AsRef<[u8]>>(mut self, seeds: impl IntoIterator<Item = S>) -> Target {
        self.seeds.extend(seeds.into_iter().map(|seed| seed.as_ref().to_vec()));
        self
    }

    /// Words that mean something to what is tested.
    #[must_use]
    pub fn words(mut self, words: &[&str]) -> Target {
        self.words.extend(words.iter().map(|word| word.as_bytes().to_vec()));
        self
    }

    /// Bytes of the longest input. 16 KiB when not said.
    #[must_use]
    pub fn longest(mut self, bytes: usize) -> Target {
        self.longest = bytes;
        self
    }

    /// How many inputs an ordinary run has. 400 when not said.
    #[must_use]
    pub fn inputs(mut self, inputs: u64) -> Target {
        self.inputs = inputs;
        self
    }

    /// What one input may allocate, in bytes in all (also what was freed again): so much, and so much for each of
    /// its bytes. Counts only where [`Counting`] is the allocator of the tests.
    #[must_use]
    pub fn allocates(mut self, at_all: usize, per_byte: usize) -> Target {
        self.most = Some((at_all, per_byte));
        self
    }

    /// Runs all inputs.
    ///
    /// # Panics
    /// As `check` does, or when it allocates too much.
    pub fn run(self, check: impl Fn(&[u8]) + Send + Sync) {
        thread::scope(|scope| {
            let thread = thread::Builder::new().name(self.name.to_owned()).stack_size(STACK);
            match thread.spawn_scoped(scope, || self.run_here(&check)).map(thread::ScopedJoinHandle::join) {
                Ok(Ok(())) => {}
                Ok(Err(panic)) => resume_unwind(panic),
                Err(error) => panic!("no thread for {}: {error}", self.name),
            }
        });
    }

    fn run_here(&self, check: &dyn Fn(&[u8])) {
        if let Ok(text) = env::var("SAMPAN_FUZZ_INPUT") {
            match STANDARD.decode(&text) {
                Ok(input) => return self.one(&input, check),
                Err(error) => panic!("SAMPAN_FUZZ_INPUT is not base64: {error}"),
            }
        }
        self.seeds.iter().for_each(|seed| self.one(seed, check));
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let mut mutator = Mutator::new(number("SAMPAN_FUZZ_SEED").unwrap_or(1), &self.seeds, &self.words);
        let Some(seconds) = number("SAMPAN_FUZZ_SECONDS") else {
            return (0..self.inputs).for_each(|_| self.one(&mutator.next(self.longest), check));
        };
        // An overflow of the stack ends the process: what did it has to lie somewhere by then.
        let last = env::temp_dir().join(format!("sampan-fuzz-{}", self.name));
        let (begun, mut ran) = (Instant::now(), 0_u64);
        while begun.elapsed() < Duration::from_secs(seconds) {
            let input = mutator.next(self.longest);
            let _ = fs::write(&last, STANDARD.encode(&input));
            self.one(&input, check);
            ran += 1;
        }
        let _ = fs::remove_file(&last);
        println!("{}: {ran} inputs", self.name);
    }

    fn one(&self, input: &[u8], check: &dyn Fn(&[u8])) {
        let before = alloc::allocated();
        let outcome = catch_unwind(AssertUnwindSafe(|| check(input)));
        let taken = alloc::allocated() - before;
        let allowed = self.most.map_or(usize::MAX, |(at_all, per_byte)| at_all + per_byte * input.len());
        if outcome.is_ok() && taken <= allowed {
            return;
        }
        let package = env::var("CARGO_PKG_NAME").unwrap_or_default();
        eprintln!(
            "{} fails on {:?}\nagain: SAMPAN_FUZZ_INPUT='{}' cargo test -p {package} --lib {}",
            self.name,
            String::from_utf8_lossy(&input[..input.len().min(500)]),
            STANDARD.encode(input),
            self.name,
        );
        match outcome {
            Err(panic) => resume_unwind(panic),
            Ok(()) => panic!("{} bytes of input allocate {taken} bytes, more than {allowed}", input.len()),
        }
    }
}
