//! Rules to classic BPF.

use std::collections::BTreeMap;

/// What happens to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It runs.
    Allow,
    /// It returns this error.
    Errno(u16),
    /// It runs when one of the conditions holds, and else returns `EPERM`.
    When(&'static [Condition]),
}

/// A condition on the low 32 bits of an argument: `(argument & mask) == value`, or its contrary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// Which argument.
    pub(super) argument: u8,
    /// Bits that matter.
    pub(super) mask: u32,
    /// What they must be.
    pub(super) value: u32,
    /// Must differ instead.
    pub(super) negated: bool,
}

/// Verdicts by call number; numbers without one return `EPERM`.
pub(super) type Rules = BTreeMap<u32, Verdict>;

#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u16,
    when_true: u8,
    when_false: u8,
    value: u32,
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_NOT_BELOW: u16 = 0x35;
const RETURN: u16 = 0x06;

const RETURN_ALLOW: u32 = 0x7fff_0000;
const RETURN_ERRNO: u32 = 0x0005_0000;
const RETURN_KILL: u32 = 0x8000_0000;

const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

const DENIED: Verdict = Verdict::Errno(libc::EPERM as u16);

const fn op(code: u16, value: u32) -> Instruction {
    Instruction { code, when_true: 0, when_false: 0, value }
}

/// The program: 8 bytes an instruction, in this machine's byte order.
pub(super) fn program(rules: &Rules) -> Vec<u8> {
    let mut code = vec![
        op(LOAD, ARCHITECTURE),
        // Calls of another architecture have other numbers: the process is killed.
        Instruction { code: JUMP_EQUAL, when_true: 1, when_false: 0, value: NATIVE },
        op(RETURN, RETURN_KILL),
        op(LOAD, NUMBER),
    ];
    code.extend(search(&ranges(rules)));
    let mut bytes = Vec::with_capacity(code.len() * 8);
    for instruction in code {
        bytes.extend(instruction.code.to_ne_bytes());
        bytes.extend([instruction.when_true, instruction.when_false]);
        bytes.extend(instruction.value.to_ne_bytes());
    }
    bytes
}

/// Ranges of numbers with one verdict: first number and verdict, from 0 on, without gaps.
fn ranges(rules: &Rules) -> Vec<(u32, Verdict)> {
    let mut ranges = vec![(0, DENIED)];
    let mut put = |start: u32, verdict: Verdict| match ranges.last_mut() {
        Some((last, old)) if *last == start => *old = verdict,
        Some((_, old)) if *old == verdict => {}
        _ => ranges.push((start, verdict)),
    };
    for (number, verdict) in rules {
        put(*number, *verdict);
        put(number + 1, DENIED);
    }
    // What was overwritten in place may now equal its neighbour.
    ranges.dedup_by(|next, previous| next.1 == previous.1);
    ranges
}

fn search(ranges: &[(u32, Verdict)]) -> Vec<Instruction> {
    let [_, .., _] = ranges else { return ranges.first().map_or_else(Vec::new, |range| leaf(range.1)) };
    let (below, above) = ranges.split_at(ranges.len() / 2);
    let start = above[0].0;
    let (below, above) = (search(below), search(above));
    let mut code = match u8::try_from(below.len()) {
        Ok(length) => {
            vec![Instruction { code: JUMP_NOT_BELOW, when_true: length, when_false: 0, value: start }]
        }
        // Conditional jumps reach 255 instructions; the plain one reaches everywhere.
        Err(_) => vec![
            Instruction { code: JUMP_NOT_BELOW, when_true: 0, when_false: 1, value: start },
            op(JUMP, below.len() as u32),
        ],
    };
    code.extend(below);
    code.extend(above);
    code
}

fn leaf(verdict: Verdict) -> Vec<Instruction> {
    let conditions = match verdict {
        Verdict::Allow => return vec![op(RETURN, RETURN_ALLOW)],
        Verdict::Errno(number) => return vec![op(RETURN, RETURN_ERRNO | u32::from(number))],
        Verdict::When(conditions) => conditions,
    };
    let mut code = Vec::new();
    for condition in conditions {
        // Little endian: the low half of the 64-bit argument comes first.
        code.push(op(LOAD, ARGUMENTS + 8 * u32::from(condition.argument)));
        code.push(op(AND, condition.mask));
        let (when_true, when_false) = if condition.negated { (1, 0) } else { (0, 1) };
        code.push(Instruction { code: JUMP_EQUAL, when_true, when_false, value: condition.value });
        code.push(op(RETURN, RETURN_ALLOW));
    }
    code.push(op(RETURN, RETURN_ERRNO | libc::EPERM as u32));
    code
}

#[cfg(test)]
mod tests {
    use super::{Condition, DENIED, Instruction, NATIVE, Rules, Verdict, program, ranges};

    /// Runs a program as the kernel would.
    fn run(bytes: &[u8], architecture: u32, number: u32, arguments: [u32; 6]) -> u32 {
        let code: Vec<Instruction> = bytes
            .chunks(8)
            .map(|chunk| Instruction {
                code: u16::from_ne_bytes([chunk[0], chunk[1]]),
                when_true: chunk[2],
                when_false: chunk[3],
                value: u32::from_ne_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
            })
            .collect();
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let Instruction { code, when_true, when_false, value } = code[at];
            at += 1;
            let mut jump = |holds: bool| at += usize::from(if holds { when_true } else { when_false });
            match code {
                super::LOAD => {
                    accumulator = match value {
                        0 => number,
                        4 => architecture,
                        offset => arguments[(offset as usize - 16) / 8],
                    }
                }
                super::AND => accumulator &= value,
                super::JUMP => at += value as usize,
                super::JUMP_EQUAL => jump(accumulator == value),
                super::JUMP_NOT_BELOW => jump(accumulator >= value),
                _ => return value,
            }
        }
    }

    fn expected(rules: &Rules, number: u32, arguments: [u32; 6]) -> u32 {
        match rules.get(&number).copied().unwrap_or(DENIED) {
            Verdict::Allow => 0x7fff_0000,
            Verdict::Errno(error) => 0x5_0000 | u32::from(error),
            Verdict::When(conditions) => {
                let holds =
                    |c: &Condition| ((arguments[usize::from(c.argument)] & c.mask) == c.value) != c.negated;
                if conditions.iter().any(holds) { 0x7fff_0000 } else { 0x5_0001 }
            }
        }
    }

    #[test]
    fn the_program_decides_every_number_as_the_rules_do() {
        for capabilities in [0, crate::init::caps::DEFAULT, u64::MAX >> 20] {
            let rules = super::super::profile::rules(capabilities);
            let program = program(&rules);
            assert!(program.len() / 8 < 1000, "{} instructions", program.len() / 8);
            for number in (0..700).chain([0x4000_0000, 0x4000_0001, u32::MAX]) {
                for argument in [0, 8, 40, 0x2_0008, 0x1000_0000, 0x0200_0000, u32::MAX] {
                    let arguments = [argument; 6];
                    let want = expected(&rules, number, arguments);
                    assert_eq!(
                        run(&program, NATIVE, number, arguments),
                        want,
                        "call {number} argument {argument:#x}"
                    );
                }
            }
            assert_eq!(run(&program, 0x4000_0003, 1, [0; 6]), 0x8000_0000);
        }
    }

    #[test]
    fn neighbours_with_one_verdict_are_one_range() {
        let rules: Rules =
            [(0, Verdict::Allow), (1, Verdict::Allow), (2, Verdict::Allow), (5, Verdict::Allow)].into();
        let starts: Vec<u32> = ranges(&rules).iter().map(|range| range.0).collect();
        assert_eq!(starts, [0, 3, 5, 6]);
    }
}
