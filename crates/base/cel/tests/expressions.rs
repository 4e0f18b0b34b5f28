//! What expressions yield: the table cases of cel-go and of Kubernetes' library.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;

use sampan_cel::{Bindings, Declared, Environment, Program, Type, Value, limits::PER_CALL_LIMIT};
use serde_json::{Value as Json, json};

fn environment() -> Arc<Environment> {
    Environment::new().with("object", Declared::dynamic()).with_patches().share()
}

fn object() -> Json {
    json!({
        "metadata": {"name": "demo", "namespace": "default", "labels": {"app": "x", "a.b/c": "y"}},
        "spec": {"replicas": 3, "ratio": 0.5, "items": ["a", "b", "c"], "empty": [], "nothing": null,
                 "ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}]},
    })
}

/// The value as text, or what went wrong.
fn run(expression: &str) -> String {
    let environment = environment();
    let program = match Program::compile(&environment, expression, &[]) {
        Ok(program) => program,
        Err(error) => return format!("compile: {}", error.message()),
    };
    let object = object();
    let mut bindings = Bindings::new(&environment);
    bindings.json("object", &object);
    let mut budget = PER_CALL_LIMIT;
    match program.evaluate(&bindings, &mut budget, None) {
        Ok(Value::Bool(value)) => value.to_string(),
        Ok(value) => value.to_json().map_or_else(|error| error.to_string(), |json| json.to_string()),
        Err(error) => format!("error: {error}"),
    }
}

fn all_hold(expressions: &[&str]) {
    for expression in expressions {
        assert_eq!(run(expression), "true", "{expression}");
    }
}

fn yields(table: &[(&str, &str)]) {
    for (expression, expected) in table {
        assert_eq!(run(expression), *expected, "{expression}");
    }
}

#[test]
fn the_language_itself() {
    all_hold(&[
        "1 + 2 * 3 == 7 && (1 + 2) * 3 == 9",
        "7 / 2 == 3 && 7 % 2 == 1 && -7 / 2 == -3",
        "1.5 + 1.5 == 3.0 && 2u * 3u == 6u",
        "'a' + 'b' == 'ab' && b'a' + b'b' == b'ab'",
        "[1] + [2] == [1, 2]",
        "1 in [1, 2] && !(3 in [1, 2]) && 'a' in {'a': 1}",
        "dyn(1) == dyn(1u) && dyn(1) == dyn(1.0) && dyn(1) != dyn('1')",
        "1 < 2.5 && 2u > 1 && 1.5 < 2u",
        "true ? true : false",
        "false || true && !false",
        "--1 == 1 && !!true",
        "{'a': 1}.a == 1 && {'a': 1}['a'] == 1",
        "[1, 2, 3][1] == 2",
        "has(object.spec) && !has(object.status) && has(object.spec.replicas)",
        "'\\u00fc\\x41\\101\\n'.size() == 4",
        "r'\\d' == '\\\\d' && '''a'b''' == \"a'b\"",
        "0x1F == 31 && -9223372036854775808 < 0 && 1e3 == 1000.0 && .5 == 0.5",
        "size('héllo') == 5 && size(b'\\xff') == 1 && size([1, 2]) == 2 && size({'a': 1}) == 1",
        "type(1) == int && type('') == string && type([]) == list && type({}) == map && type(null) == null_type",
        "type(type(1)) == type && type(1.0) != int",
        "string(1) == '1' && int('7') == 7 && double('1.5') == 1.5 && uint(3) == 3u && string(b'x') == 'x'",
        "bool('true') && string(1.5) == '1.5' && string(1e100) == '1e+100' && int(3.9) == 3",
        "object.metadata.namespace == 'default'",
        "object.metadata.labels['a.b/c'] == 'y'",
        "object.spec.items.size() == 3 && object.spec.ports[1].port == 443",
        "object.spec.nothing == null",
        "\"abc\".contains('b') && 'abc'.startsWith('ab') && 'abc'.endsWith('bc') && 'abc'.matches('^a.c$')",
        "matches('abc', 'b')",
        "// a comment\n1 == 1",
    ]);
}

#[test]
fn macros() {
    all_hold(&[
        "object.spec.items.all(i, i.size() == 1)",
        "object.spec.ports.exists(p, p.port > 100) && !object.spec.ports.exists(p, p.port > 1000)",
        "object.spec.ports.exists_one(p, p.name == 'http')",
        "[1, 2, 3].map(x, x * 2) == [2, 4, 6]",
        "[1, 2, 3].map(x, x > 1, x * 2) == [4, 6]",
        "[1, 2, 3].filter(x, x != 2) == [1, 3]",
        "{'a': 1, 'b': 2}.all(k, k in ['a', 'b'])",
        "{'a': 1, 'b': 2}.map(k, k) == ['a', 'b']",
        "[].all(x, false) && ![].exists(x, true)",
        "[1, 2].all(i, v, i + 1 == v)",
        "{'a': 1}.exists(k, v, k == 'a' && v == 1)",
        "[3, 4].existsOne(i, v, v == i + 3 && i == 0)",
        "[1, 2].transformList(i, v, i * v) == [0, 2]",
        "[1, 2].transformList(i, v, i > 0, v) == [2]",
        "{'a': 1, 'b': 2}.transformMap(k, v, v + 1) == {'a': 2, 'b': 3}",
        "{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v) == {'b': 2}",
        "{'a': 'x'}.transformMapEntry(k, v, {v: k}) == {'x': 'a'}",
        "cel.bind(x, 5, x * x) == 25",
        "cel.bind(x, [1, 2], x.map(y, y + x[0])) == [2, 3]",
        "[[1, 2], [3]].map(l, l.map(x, x + 1)) == [[2, 3], [4]]",
        "[1, 2, 3].exists(x, 1 / (x - 2) == 1)",
        "![1, 2, 3].all(x, 1 / (x - 2) == 1)",
        "object.spec.items.map(x, {'n': x}).exists(y, y.n == 'c')",
    ]);
    yields(&[
        ("[1].all(1, true)", "compile: argument must be a simple name"),
        ("has(1)", "compile: invalid argument to has() macro"),
        ("[1, 2].all(x, 1 / (x - 2) == -1)", "error: division by zero"),
    ]);
}

#[test]
fn optionals() {
    all_hold(&[
        "optional.of(1).hasValue() && !optional.none().hasValue()",
        "optional.of(1).value() == 1 && optional.none().orValue(3) == 3",
        "optional.ofNonZeroValue('').or(optional.of('x')).value() == 'x'",
        "object.?spec.replicas.orValue(0) == 3 && object.?status.replicas.orValue(7) == 7",
        "object.spec.?items[?0].orValue('') == 'a' && object.spec.items[?9].orValue('none') == 'none'",
        "{'a': 1}[?'b'].optMap(x, x + 1).orValue(9) == 9 && {'a': 1}[?'a'].optMap(x, x + 1).orValue(9) == 2",
        "optional.of(2).optFlatMap(x, optional.of(x * x)).value() == 4",
        "[?optional.of(1), ?optional.none(), 2] == [1, 2]",
        "{?'a': optional.none(), 'b': 1} == {'b': 1}",
        "optional.none().orValue(1 == 1)",
        "has(object.?spec.replicas)",
        "[1, 2].first().value() == 1 && [1, 2].last().value() == 2 && !([].first().hasValue())",
        "[optional.of(1), optional.none()].unwrapOpt() == [1]",
    ]);
    yields(&[("optional.none().value()", "error: optional.none() dereference")]);
}

#[test]
fn text() {
    all_hold(&[
        "'hello'.charAt(4) == 'o' && 'hello'.charAt(5) == ''",
        "'hello mellow'.indexOf('ello') == 1 && 'hello mellow'.indexOf('ello', 2) == 7 && 'x'.indexOf('y') == -1",
        "'hello mellow'.lastIndexOf('ello') == 7 && 'hello mellow'.lastIndexOf('ello', 6) == 1",
        "'TacoCat'.lowerAscii() == 'tacocat' && 'TacoCat'.upperAscii() == 'TACOCAT'",
        "'hello hello'.replace('he', 'we') == 'wello wello' && 'hello hello'.replace('he', 'we', 1) == 'wello hello'",
        "'hello'.replace('', '_') == '_h_e_l_l_o_' && 'hello'.replace('l', '', 0) == 'hello'",
        "'a b c'.split(' ') == ['a', 'b', 'c'] && 'a b c'.split(' ', 2) == ['a', 'b c'] && 'abc'.split('') == ['a', 'b', 'c']",
        "'a b c'.split(' ', 0) == [] && 'a b c'.split(' ', 1) == ['a b c']",
        "'tacocat'.substring(4) == 'cat' && 'tacocat'.substring(0, 4) == 'taco' && 'ta©o'.substring(2, 3) == '©'",
        "'  trim '.trim() == 'trim'",
        "['a', 'b'].join() == 'ab' && ['a', 'b'].join('-') == 'a-b'",
        "strings.quote('a\"b\\n') == '\"a\\\\\"b\\\\n\"'",
        "'%s has %d and %.2f'.format([dyn('x'), 3, 1.5]) == 'x has 3 and 1.50'",
        "'%x %X %b %o %e %%'.format([dyn(255), 255, 5, 8, 1234.5]) == 'ff FF 101 10 1.234500e+03 %'",
        "'%s'.format([[dyn('a'), 1]]) == '[\"a\", 1]' && '%s'.format([{'a': true}]) == '{\"a\":true}'",
        "'abc 123'.find('[0-9]+') == '123' && 'abc'.find('x') == ''",
        "'1 2 3'.findAll('[0-9]') == ['1', '2', '3'] && '1 2 3'.findAll('[0-9]', 1) == ['1']",
        "jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'",
    ]);
    yields(&[
        ("'tacocat'.charAt(30)", "error: index out of range: 30"),
        ("'tacocat'.substring(4, 3)", "error: invalid substring range. start: 4, end: 3"),
        (
            "'%d'.format(['x'])",
            "error: error during formatting: decimal clause can only be used on integers, was given string",
        ),
        ("'%s'.format([])", "error: index 0 out of range"),
        ("'a'.matches('(')", "compile: invalid matches argument"),
    ]);
}

#[test]
fn lists_and_sets() {
    all_hold(&[
        "[1, 2, 3].isSorted() && !['b', 'a'].isSorted() && [].isSorted()",
        "[1, 2].sum() == 3 && [1.5, 1.5].sum() == 3.0 && [1, 2].min() == 1 && ['a', 'b'].max() == 'b'",
        "[1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2 && [1].indexOf(3) == -1",
        "[1, 2, 3, 4].slice(1, 3) == [2, 3] && [[1], [2]].flatten() == [1, 2] && lists.range(3) == [0, 1, 2]",
        "[1, 2].reverse() == [2, 1] && [1, 1, 2].distinct() == [1, 2] && [3, 1].sort() == [1, 3]",
        "[{'n': 2}, {'n': 1}].sortBy(x, x.n) == [{'n': 1}, {'n': 2}]",
        "sets.contains([1, 2], [1]) && sets.equivalent([1, 2], [2, 1, 1]) && sets.intersects([1], [1, 2])",
        "!sets.contains([1], [2]) && !sets.intersects([], [1])",
    ]);
    yields(&[("[].min()", "error: min called on empty list")]);
}

#[test]
fn time() {
    all_hold(&[
        "duration('1h30m').getMinutes() == 90 && duration('1h') < duration('61m') && string(duration('1m1.5s')) == '61.5s'",
        "timestamp('2023-01-02T03:04:05.006Z').getFullYear() == 2023",
        "timestamp('2023-01-02T03:04:05Z').getMonth() == 0 && timestamp('2023-01-02T03:04:05Z').getDate() == 2",
        "timestamp('2023-01-02T03:04:05Z').getDayOfMonth() == 1 && timestamp('2023-01-01T03:04:05Z').getDayOfWeek() == 0",
        "timestamp('2023-01-02T03:04:05Z').getHours('-02:00') == 1",
        "timestamp('2023-01-02T00:00:00Z') + duration('24h') == timestamp('2023-01-03T00:00:00Z')",
        "timestamp('2023-01-02T00:00:00Z') - timestamp('2023-01-01T00:00:00Z') == duration('24h')",
        "int(timestamp('1970-01-01T00:01:00Z')) == 60 && timestamp(60) == timestamp('1970-01-01T00:01:00Z')",
    ]);
    yields(&[
        ("duration('x')", "compile: invalid duration argument"),
        ("timestamp('x')", "compile: invalid timestamp argument"),
        ("timestamp('9999-12-30T00:00:00Z') + duration('48h')", "error: timestamp overflow"),
    ]);
}

#[test]
fn the_library_of_kubernetes() {
    all_hold(&[
        "quantity('50Mi').isGreaterThan(quantity('50k')) && isQuantity('1.3Gi') && !isQuantity('1.3x')",
        "quantity('50k').add(quantity('20k')) == quantity('70k') && quantity('50k').sub(20000) == quantity('30k')",
        "quantity('50').asInteger() == 50 && !quantity('0.5').isInteger() && quantity('-5').sign() == -1",
        "quantity('200M').compareTo(quantity('0.2G')) == 0 && quantity('9.5').asApproximateFloat() == 9.5",
        "isURL('https://example.com:80/path?q=1') && !isURL('../relative') && isURL('/abs')",
        "url('https://user@example.com:80/a b?k=v&k=w').getHost() == 'example.com:80'",
        "url('https://example.com:80/').getPort() == '80' && url('https://[::1]:80/').getHostname() == '::1'",
        "url('https://example.com/with space/').getEscapedPath() == '/with%20space/'",
        "url('https://e.com/?k=a&k=b').getQuery()['k'] == ['a', 'b'] && url('http://x/').getScheme() == 'http'",
        "isIP('127.0.0.1') && isIP('::1') && !isIP('256.0.0.0') && !isIP('::ffff:1.2.3.4')",
        "ip('127.0.0.1').isLoopback() && ip('::1').family() == 6 && ip('0.0.0.0').isUnspecified()",
        "ip('224.0.0.1').isLinkLocalMulticast() && ip('fe80::1').isLinkLocalUnicast() && ip('8.8.8.8').isGlobalUnicast()",
        "ip.isCanonical('127.0.0.1') && !ip.isCanonical('2001:DB8::1') && string(ip('::1')) == '::1'",
        "cidr('192.168.0.0/24').containsIP('192.168.0.1') && !cidr('192.168.0.0/24').containsIP(ip('10.0.0.1'))",
        "cidr('192.168.0.0/16').containsCIDR('192.168.10.0/24') && cidr('192.168.0.1/24').masked() == cidr('192.168.0.0/24')",
        "cidr('192.168.0.0/24').prefixLength() == 24 && cidr('192.168.0.0/24').ip() == ip('192.168.0.0') && !isCIDR('1.2.3.4/33')",
        "!format.dns1123Label().validate('ok').hasValue() && format.named('dns1123Label').value().validate('No').hasValue()",
        "!format.named('unknown').hasValue() && format.uuid().validate('x').value() == ['does not match the UUID format']",
        "!format.dns1123LabelPrefix().validate('ok-').hasValue() && !format.uri().validate('http://x/').hasValue()",
        "semver('1.2.3').isGreaterThan(semver('1.2.3-alpha')) && semver('1.2.3+a') == semver('1.2.3')",
        "isSemver('1.2.3') && !isSemver('v1.2') && isSemver('v1.2', true) && semver('v01.2', true).minor() == 2",
        "semver('1.2.3-alpha.2').compareTo(semver('1.2.3-alpha.10')) == -1",
        "type(ip('::1')) == net.IP",
    ]);
    yields(&[
        (
            "quantity('x')",
            "error: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        ("semver('1.2')", "error: No Major.Minor.Patch elements found"),
        ("ip('::ffff:1.2.3.4')", "error: IPv4-mapped IPv6 address \"::ffff:1.2.3.4\" is not allowed"),
    ]);
}

#[test]
fn mutations() {
    yields(&[
        ("Object{spec: Object.spec{replicas: 1, ?x: optional.none()}}", r#"{"spec":{"replicas":1}}"#),
        (
            "[JSONPatch{op: 'add', path: '/a', value: {'b': [dyn(1), 2.5, null]}}]",
            r#"[{"op":"add","path":"/a","value":{"b":[1,2.5,null]}}]"#,
        ),
        ("JSONPatch{nope: 1}", "compile: undefined field 'nope'"),
        ("JSONPatch{op: 1}", "compile: expected type of field 'op' is 'string' but provided type is 'int'"),
        ("Nope{a: 1}", "compile: undeclared reference to 'Nope' (in container '')"),
    ]);
}

#[test]
fn what_goes_wrong() {
    yields(&[
        ("object.missing", "error: no such key: missing"),
        ("object.spec.items[7]", "error: index out of bounds: 7"),
        ("object.spec.items.x", "error: no such overload"),
        ("1 / 0", "error: division by zero"),
        ("1 % 0", "error: modulus by zero"),
        ("9223372036854775807 + 1", "error: integer overflow"),
        ("0u - 1u", "error: unsigned integer overflow"),
        ("int('x')", "error: type conversion error from 'string' to 'int'"),
        ("x", "compile: undeclared reference to 'x' (in container '')"),
        ("f(1)", "compile: undeclared reference to 'f' (in container '')"),
        ("1 + 'a'", "compile: found no matching overload for '_+_' applied to '(int, string)'"),
        (
            "'a'.startsWith(1)",
            "compile: found no matching overload for 'startsWith' applied to 'string.(int)'",
        ),
        ("[1, 'a']", "compile: expected type 'int' but found 'string'"),
        ("1 ? 2 : 3", "compile: found no matching overload for '_?_:_' applied to '(int, int, int)'"),
        ("1 && true", "compile: expected type 'bool' but found 'int'"),
        (
            "1.all(x, true)",
            "compile: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)",
        ),
        ("1.x", "compile: type 'int' does not support field selection"),
        ("if", "compile: reserved identifier: if"),
        (
            "1 +",
            "compile: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}",
        ),
        ("1 1", "compile: Syntax error: extraneous input '1' expecting <EOF>"),
        ("a @ b", "compile: Syntax error: token recognition error at: '@'"),
    ]);
}

#[test]
fn an_issue_is_shown_with_its_line() {
    let error = Program::compile(&environment(), "1 == 1 &&\n  nope > 1", &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "ERROR: <input>:2:3: undeclared reference to 'nope' (in container '')\n |   nope > 1\n | ..^"
    );
    let error = Program::compile(&environment(), "1 + 1", &[Type::Bool]).unwrap_err();
    assert_eq!(error.to_string(), "must evaluate to bool but got int");
    let error = Program::compile(&environment(), "1", &[Type::String, Type::Null]).unwrap_err();
    assert_eq!(error.to_string(), "must evaluate to one of [string null_type] but got int");
}
