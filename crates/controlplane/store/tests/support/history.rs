//! Histories of concurrent clients, and the check that some order of single steps explains them.
//!
//! The check is Wing and Gong's with Lowe's memory of configurations already tried ("Testing for linearizability",
//! 2017), which Porcupine uses too. Keys are independent of each other, so each is checked alone.

use std::collections::{BTreeMap, HashSet};

/// What a client asked of one key.
#[derive(Clone, Debug)]
pub enum Ask {
    Read,
    /// Put whatever is there.
    Put(u64),
    /// Put when the key's mod revision is this one (0: absent).
    Swap(i64, u64),
    /// Remove when the key's mod revision is this one.
    Remove(i64),
}

/// What it was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// Value and mod revision; none when absent.
    Value(Option<(u64, i64)>),
    /// Done, at this revision.
    Done(i64),
    /// Not done: this is there instead.
    Other(Option<(u64, i64)>),
    /// Not done: what is there is not what was expected.
    Refused,
    /// The answer never came.
    Nothing,
}

/// One call: times are of one clock.
#[derive(Clone, Debug)]
pub struct Call {
    pub key: u8,
    pub ask: Ask,
    pub told: Told,
    pub from: u64,
    /// `u64::MAX` when the answer never came: it may take effect at any time later, or never.
    pub to: u64,
}

type State = Option<(u64, i64)>;

/// The state after the call, when the answer is possible there. Several when the revision is unknown.
fn step(state: State, call: &Call) -> Option<State> {
    let put = |value: u64| match &call.told {
        Told::Done(revision) => {
            (state.is_none_or(|(_, at)| at < *revision)).then_some(Some((value, *revision)))
        }
        // Later than what was there; nobody has been told when.
        Told::Nothing => Some(Some((value, i64::MIN))),
        _ => None,
    };
    let is = |revision: i64| match state {
        Some((_, at)) => at == revision || at == i64::MIN,
        None => revision == 0,
    };
    match (&call.ask, &call.told) {
        (Ask::Read, Told::Value(seen)) | (_, Told::Other(seen)) => {
            let refused = match call.ask {
                Ask::Swap(revision, _) | Ask::Remove(revision) => seen.map_or(0, |(_, at)| at) != revision,
                _ => true,
            };
            match (state, *seen) {
                (None, None) if refused => Some(None),
                (Some((value, at)), Some((seen, seen_at))) if refused && value == seen => {
                    // A revision that nobody was told is learned by the first who sees it.
                    (at == seen_at || at == i64::MIN).then_some(Some((value, seen_at)))
                }
                _ => None,
            }
        }
        (Ask::Swap(revision, _) | Ask::Remove(revision), Told::Refused) => {
            let unknown = state.is_some_and(|(_, at)| at == i64::MIN);
            (unknown || !is(*revision)).then_some(state)
        }
        (Ask::Put(value), _) => put(*value),
        (Ask::Swap(revision, value), _) if is(*revision) => put(*value),
        (Ask::Remove(revision), Told::Done(_) | Told::Nothing) if is(*revision) => Some(None),
        // It never happened, or had nothing to do.
        (_, Told::Nothing) => Some(state),
        _ => None,
    }
}

/// Whether one order of the calls explains all answers.
pub fn linearizable(calls: &[Call]) -> Result<(), String> {
    let mut keys: BTreeMap<u8, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        keys.entry(call.key).or_default().push(call);
    }
    for (key, mut calls) in keys {
        calls.sort_by_key(|call| call.from);
        if !explain(&calls) {
            let all: Vec<String> = calls.iter().map(|call| format!("{call:?}")).collect();
            return Err(format!("no order explains key {key}:\n{}", all.join("\n")));
        }
    }
    Ok(())
}

/// Depth first: any call that began before every open call ended may be next. Calls without an answer need not happen.
fn explain(calls: &[&Call]) -> bool {
    let words = calls.len().div_ceil(64);
    let mut tried: HashSet<(Vec<u64>, State)> = HashSet::new();
    let mut stack = vec![(vec![0_u64; words], None as State)];
    let done = |set: &[u64], i: usize| set[i / 64] & (1 << (i % 64)) != 0;
    while let Some((set, state)) = stack.pop() {
        if !tried.insert((set.clone(), state)) {
            continue;
        }
        let open = || (0..calls.len()).filter(|i| !done(&set, *i));
        if open().all(|i| calls[i].told == Told::Nothing) {
            return true;
        }
        let first_end = open().map(|i| calls[i].to).min().unwrap_or(u64::MAX);
        for i in open().take_while(|i| calls[*i].from <= first_end) {
            if let Some(after) = step(state, calls[i]) {
                let mut with = set.clone();
                with[i / 64] |= 1 << (i % 64);
                stack.push((with, after));
            }
        }
    }
    false
}
