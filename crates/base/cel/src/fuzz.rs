//! Hostile expressions: compiled, estimated and evaluated.

use sampan_api::{quantity::Quantity, selector::LabelSelector};
use sampan_fuzz::{Counting, Target};
use serde_json::json;

use crate::{Bindings, Declared, Environment, Program, limits::PER_CALL_LIMIT};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SEEDS: &[&str] = &[
    "object.spec.items.all(i, i.size() < 5 && i.matches('^[a-z]+$')) || has(object.metadata.labels)",
    "object.spec.ports.map(p, p.port).filter(x, x > 1).exists_one(y, y == 80) ? 'a' + 'b' : \"c\"",
    "[1, 2u, 3.5, b'x', r'\\d', '''a'''].size() in {1: [1], 'a': {}} == !true",
    "'a,b'.split(',').join('-').replace('a', 'b').substring(0, 1).upperAscii().format([1])",
    "'%s %d %.3f %x %e'.format(['a', 1, 2.5, 255, 1e9])",
    "quantity('1Gi').add(quantity('1Mi')).isGreaterThan(quantity('5')) && url('https://a/b?c=d').getHost() == 'a'",
    "timestamp('2026-01-02T03:04:05Z') + duration('1h30m') < timestamp('2027-01-01T00:00:00+01:00')",
    "ip('::1').isLoopback() && cidr('10.0.0.0/8').containsIP('10.1.2.3') && semver('1.2.3').major() == 1",
    "object.?spec[?'x'].orValue(1) == optional.of(2).hasValue() && type(1) == int && dyn([1])[0] == 1",
    "'abc'.find('[0-9]+').findAll('(a|b)*c', 3) && [3, 1, 2].sort().sum() + [1].min() == lists.range(5).size()",
    "-(-9223372036854775808) + 0x1f * 2 / 0 % 1 - size('ä') + int('7') - uint(3)",
    "cel.bind(a, [1, 2, 3], a.map(b, a.map(c, a.map(d, b * c * d))))",
    "object.spec.items.transformList(i, v, v).flatten().distinct().reverse().slice(0, 1)",
    "JSONPatch{op: 'add', path: '/a', value: Object{spec: Object.spec{replicas: 1}}}",
];

const WORDS: &[&str] = &[
    "object",
    "object.spec",
    ".map(x, ",
    ".all(x, ",
    ".exists(x, ",
    ".filter(x, ",
    "has(",
    "size(",
    "dyn(",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    "!",
    "-",
    "&&",
    "||",
    "?",
    ":",
    "==",
    "in",
    "+",
    "*",
    "/",
    "%",
    ".?",
    "[?",
    "'a'",
    "b'\\xff'",
    "\"\\u00e4\"",
    "1u",
    "1e308",
    "0xffffffffffffffff",
    "null",
    "matches(",
    "'((a*)*)*b'",
    "string(",
    "bytes(",
    "timestamp(",
    "duration('",
    "quantity('",
    ".format(",
    "'%.99999999f'",
    ".repeat(",
    "lists.range(99999999)",
];

#[test]
fn fuzz_expressions() {
    let environment = Environment::new().with("object", Declared::dynamic()).with_patches().share();
    let object = json!({
        "metadata": {"name": "demo", "labels": {"app": "x", "a.b/c": "y"}},
        "spec": {"replicas": 3, "ratio": 0.5, "items": ["a", "b", "c"], "empty": [], "nothing": null,
                 "ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}]},
    });
    let run = |input: &[u8]| {
        let source = String::from_utf8_lossy(input);
        let program = match Program::compile(&environment, &source, &[]) {
            Ok(program) => program,
            Err(error) => {
                assert!(
                    error.message().len() <= (1 << 20) + input.len() * 1000,
                    "{} bytes",
                    error.message().len()
                );
                return;
            }
        };
        let mut bindings = Bindings::new(&environment);
        bindings.json("object", &object);
        let mut budget = PER_CALL_LIMIT;
        if let Ok(value) = program.evaluate(&bindings, &mut budget, None) {
            let _ = value.to_json();
        }
    };
    // An evaluation costs a million at most, and nothing costs less than what it allocates by more than this.
    Target::new("fuzz_expressions")
        .seeds(SEEDS)
        .words(WORDS)
        .inputs(800)
        .allocates(512 << 20, 40_000)
        .run(run);
}

#[test]
fn fuzz_escapes() {
    let run = |input: &[u8]| {
        let name = String::from_utf8_lossy(input);
        let escaped = crate::escape(&name);
        if let Some(escaped) = escaped {
            assert_eq!(crate::unescape(&escaped).as_deref(), Some(&*name));
        }
        let _ = (Quantity::parse(&name), LabelSelector::parse(&name), crate::unescape(&name));
    };
    let seeds = ["a.b", "__x__dot__", "in", "a-b/c", "__underscores__", "namespace"];
    Target::new("fuzz_escapes").seeds(seeds).inputs(1000).run(run);
}
