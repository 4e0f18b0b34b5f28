//! Links of a page that begin at the server's root, made to lead through the proxy.

/// Attributes that hold links.
const ATTRIBUTES: [&str; 15] = [
    "action",
    "background",
    "cite",
    "classid",
    "codebase",
    "data",
    "formaction",
    "href",
    "icon",
    "longdesc",
    "manifest",
    "poster",
    "profile",
    "src",
    "usemap",
];

/// The link as it leads through the proxy; none when it is fine as it is.
pub(super) fn through(link: &str, prefix: &str) -> Option<String> {
    let own = link.starts_with('/') && !link.starts_with("//") && !link.starts_with(prefix);
    own.then(|| format!("{prefix}{link}"))
}

/// The page with such links in its tags.
pub(super) fn rewrite(page: &[u8], prefix: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(page.len() + 256);
    let mut rest = page;
    while let Some(at) = rest.iter().position(|byte| *byte == b'<') {
        let (before, tag) = rest.split_at(at);
        out.extend_from_slice(before);
        let end = end_of(tag);
        tag_through(&mut out, &tag[..end], prefix);
        rest = &tag[end..];
    }
    out.extend_from_slice(rest);
    out
}

/// Where a tag ends: after its `>`, those within quotes aside.
fn end_of(tag: &[u8]) -> usize {
    let mut quote = None;
    for (i, byte) in tag.iter().enumerate() {
        match (quote, *byte) {
            (None, b'>') => return i + 1,
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), byte) if open == byte => quote = None,
            _ => {}
        }
    }
    tag.len()
}

/// One tag, its quoted links rewritten.
fn tag_through(out: &mut Vec<u8>, tag: &[u8], prefix: &str) {
    let mut at = 0;
    while at < tag.len() {
        let byte = tag[at];
        let end = matches!(byte, b'"' | b'\'')
            .then(|| tag[at + 1..].iter().position(|other| *other == byte))
            .flatten()
            .map(|length| at + 1 + length);
        let Some(end) = end else {
            out.push(byte);
            at += 1;
            continue;
        };
        let value = std::str::from_utf8(&tag[at + 1..end]).ok().filter(|_| holds_link(&tag[..at]));
        out.push(byte);
        match value.and_then(|value| through(value, prefix)) {
            Some(link) => out.extend_from_slice(link.as_bytes()),
            None => out.extend_from_slice(&tag[at + 1..end]),
        }
        out.push(byte);
        at = end + 1;
    }
}

/// Whether what stands before a quote is `name=` of an attribute with a link.
fn holds_link(before: &[u8]) -> bool {
    let Some(before) = before.trim_ascii_end().strip_suffix(b"=") else { return false };
    let before = before.trim_ascii_end();
    let start = before.iter().rposition(|byte| !byte.is_ascii_alphabetic()).map_or(0, |i| i + 1);
    let spaced = start > 0 && before[start - 1].is_ascii_whitespace();
    spaced && ATTRIBUTES.iter().any(|name| before[start..].eq_ignore_ascii_case(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_the_root_lead_through_the_proxy() {
        let cases = [
            (r#"<a href="/x">t</a>"#, r#"<a href="/p/x">t</a>"#),
            (r#"<img alt="/x" SRC='/x'>"#, r#"<img alt="/x" SRC='/p/x'>"#),
            (r#"<a href="x"> /y <a href="//host/z">"#, r#"<a href="x"> /y <a href="//host/z">"#),
            (r#"<a href="/p/x">"#, r#"<a href="/p/x">"#),
            (r#"<a data-href="/x" href = "/y"#, r#"<a data-href="/x" href = "/y"#),
            (r#"a < b"#, r#"a < b"#),
        ];
        for (page, wanted) in cases {
            assert_eq!(String::from_utf8(rewrite(page.as_bytes(), "/p")).unwrap(), wanted);
        }
    }
}
