//! Tests of `negotiate`.

use super::*;

fn read(text: &'static str, asked: Asked) -> Option<(Media, Shape)> {
    let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(text))]);
    Accepted::read(&headers, &Query::default(), asked).map(|accepted| (accepted.media, accepted.shape))
}

#[test]
fn the_best_clause_that_can_be_met_counts() {
    let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
    let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
    let cases = [
        ("", Some((Media::Json, Shape::Object))),
        ("*/*", Some((Media::Json, Shape::Object))),
        ("*", Some((Media::Json, Shape::Object))),
        ("application/*", Some((Media::Json, Shape::Object))),
        (kubectl, Some((Media::Json, Shape::Table))),
        (metadata, Some((Media::Protobuf, Shape::Partial))),
        ("application/vnd.kubernetes.protobuf, application/json", Some((Media::Protobuf, Shape::Object))),
        ("application/vnd.kubernetes.protobuf,*/*", Some((Media::Protobuf, Shape::Object))),
        ("application/json;q=0.5, application/yaml;q=0.9", Some((Media::Yaml, Shape::Object))),
        ("*/*, application/yaml", Some((Media::Yaml, Shape::Object))),
        ("application/json;stream=watch", Some((Media::Json, Shape::Object))),
        ("application/vnd.kubernetes.protobuf;stream=watch", Some((Media::Protobuf, Shape::Object))),
        ("application/yaml;stream=watch", None),
        ("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", None),
        (
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io, */*",
            Some((Media::Json, Shape::Object)),
        ),
        ("application/yaml;as=Table;v=v1;g=meta.k8s.io", Some((Media::Yaml, Shape::Table))),
        ("application/json;as=Nonsense;v=v1;g=meta.k8s.io", None),
        ("application/json;v=v1", None),
        ("application/cbor", None),
        ("application/cbor, application/json", Some((Media::Json, Shape::Object))),
        ("text/html", None),
        ("text/html, */*;q=0.1", Some((Media::Json, Shape::Object))),
    ];
    for (text, expected) in cases {
        assert_eq!(read(text, Asked::Object), expected, "{text}");
    }
}

#[test]
fn custom_objects_have_no_protobuf_but_their_metadata_has() {
    assert_eq!(read("application/vnd.kubernetes.protobuf", Asked::Custom), None);
    let both = "application/vnd.kubernetes.protobuf,application/json";
    assert_eq!(read(both, Asked::Custom), Some((Media::Json, Shape::Object)));
    let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    assert_eq!(read(metadata, Asked::Custom), Some((Media::Protobuf, Shape::Partial)));
    assert_eq!(read(metadata, Asked::Other), None);
    assert!(refusal(Asked::Custom).message.ends_with("accepted: application/json, application/yaml"));
}

#[test]
fn pretty_is_for_people_or_who_asks() {
    let agent = |name: &'static str, query: Option<&str>| {
        let headers = HeaderMap::from_iter([(header::USER_AGENT, HeaderValue::from_static(name))]);
        Accepted::read(&headers, &Query::parse(query), Asked::Object).unwrap().pretty
    };
    assert!(agent("curl/8", None) && agent("other", Some("pretty=true")) && agent("other", Some("pretty=1")));
    assert!(
        !agent("kubectl", None) && !agent("curl/8", Some("pretty=false")) && !agent("x", Some("pretty=x"))
    );
}

#[test]
fn pretty_is_as_go_indents() {
    let compact = br#"{"a":[],"b":{},"c":[1,"x,\"{]\\"],"d":{"e":null}}"#;
    let expected = "{\n  \"a\": [],\n  \"b\": {},\n  \"c\": [\n    1,\n    \"x,\\\"{]\\\\\"\n  ],\n  \"d\": {\n    \"e\": null\n  }\n}";
    assert_eq!(String::from_utf8(pretty(compact)).unwrap(), expected);
}

#[test]
fn aggregated_discovery_goes_by_the_clause() {
    let of = |text: &'static str| {
        aggregated(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(text))]))
    };
    let both = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    assert_eq!(of(both), Some("v2"));
    assert_eq!(of("application/json"), None);
    assert_eq!(
        of(
            "application/json;q=0.1, application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
        ),
        Some("v2beta1")
    );
    assert_eq!(of("*/*"), None);
}
