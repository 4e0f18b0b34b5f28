//! Selectors as users write them, good and bad.

use serde_json::json;

use super::*;

fn parse(text: &str) -> LabelSelector {
    LabelSelector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn why(text: &str) -> String {
    LabelSelector::parse(text).map(|s| s.to_string()).unwrap_err().message
}

#[test]
fn texts_match_as_upstream() {
    let labels = json!({"app": "web", "tier": "a", "n": "7", "empty": ""});
    for (text, expected) in [
        ("", true),
        ("app=web", true),
        ("app==web", true),
        ("app = web , tier=a", true),
        ("app!=web", false),
        ("absent!=x", true),
        ("app", true),
        ("!app", false),
        ("! absent", true),
        ("app in (web,db)", true),
        ("app in (db)", false),
        ("app notin (db)", true),
        ("absent notin (a)", true),
        ("absent in (a)", false),
        ("n>6", true),
        ("n>7", false),
        ("n<8", true),
        ("app>1", false),
        ("empty=", true),
        ("app=", false),
        ("empty in (,a)", true),
        ("in in (in)", false),
        ("app=web,", true),
    ] {
        if text == "app=web," {
            assert!(LabelSelector::parse(text).is_err());
        } else {
            assert_eq!(parse(text).matches(&labels), expected, "{text}");
        }
    }
}

#[test]
fn bad_texts_are_told_in_upstreams_words() {
    assert_eq!(why("app in"), "unable to parse requirement: found '', expected: '('");
    assert_eq!(why("app in (a"), "unable to parse requirement: found '', expected: ',' or ')'");
    assert_eq!(why("a b"), "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt");
    assert_eq!(why("a=b c"), "unable to parse requirement: found 'c', expected: ',' or 'end of string'");
    assert_eq!(
        why("=x"),
        "unable to parse requirement: found '=', expected: !, identifier, or 'end of string'"
    );
    assert_eq!(why("a,"), "unable to parse requirement: found '', expected: identifier after ','");
    assert!(
        why("-a=b").starts_with("unable to parse requirement: key: Invalid value: \"-a\": name part must")
    );
    assert!(
        why("a=-b")
            .starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label")
    );
    assert!(why("a/b/c").contains("a qualified name must"));
    assert!(why(&format!("a={}", "x".repeat(64))).ends_with("must be no more than 63 bytes"));
    assert!(why(&vec!["a"; 1002].join(",")).contains("more than 1000 requirements"));
}

#[test]
fn texts_are_shown_again() {
    for text in ["app=web,tier in (a,b),!old,new,n>5,x!=y", ""] {
        assert_eq!(parse(text).to_string(), text);
    }
}

#[test]
fn objects_select() {
    let object = json!({"matchLabels": {"app": "web"}, "matchExpressions": [
        {"key": "tier", "operator": "In", "values": ["b", "a"]}, {"key": "old", "operator": "DoesNotExist"},
    ]});
    let selector = LabelSelector::from_object(&object).unwrap();
    assert!(selector.matches(&json!({"app": "web", "tier": "a"})));
    assert!(!selector.matches(&json!({"app": "web", "tier": "a", "old": ""})));
    assert!(selector.matches_object(&json!({"metadata": {"labels": {"app": "web", "tier": "b"}}})));
    assert!(!selector.matches_object(&json!({"metadata": {}})));
    assert!(!LabelSelector::from_object(&Value::Null).unwrap().matches(&json!({})));
    assert!(LabelSelector::from_object(&json!({})).unwrap().matches(&json!({})));
    for bad in [
        json!({"matchExpressions": [{"key": "a", "operator": "Near"}]}),
        json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
        json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}),
        json!({"matchLabels": {"a b": "x"}}),
        json!([]),
    ] {
        assert!(LabelSelector::from_object(&bad).is_err(), "{bad}");
    }
}

#[test]
fn maps_select() {
    let selector = LabelSelector::from_map(&json!({"app": "web"}));
    let labels: std::collections::BTreeMap<String, String> = [("app".to_owned(), "web".to_owned())].into();
    assert!(selector.matches(&labels));
    assert!(!selector.matches(&json!({"app": "db"})));
}
