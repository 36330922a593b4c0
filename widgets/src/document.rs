//! What a document asks for that it does not bring along, and what a strict policy would not let it do.
//!
//! Hosts draw widgets where nothing but the document exists: no server, no network, no `eval`. What is found here would fail in
//! front of a user. It is a lint and not a proof: what a script puts together while it runs is for the host's policy to stop.

/// What is wrong with a document that may load from these origins.
pub(crate) fn mistakes(html: &str, origins: &[&str]) -> Vec<String> {
    if html.trim().is_empty() {
        return vec!["its document is empty".to_owned()];
    }
    // Names of tags, attributes and schemes may be written in any case.
    let html = html.to_ascii_lowercase();
    let mut mistakes = Vec::new();
    if !html.trim_start().starts_with("<!doctype html>") {
        mistakes.push("its document does not begin with <!doctype html>".to_owned());
    }
    if html.contains('\0') {
        mistakes.push("its document has a NUL in it".to_owned());
    }
    let mut rest = html.as_str();
    while let Some((_, after)) = rest.split_once('<') {
        if let Some(comment) = after.strip_prefix("!--") {
            rest = comment.split_once("-->").map_or("", |(_, after)| after);
            continue;
        }
        let (tag, after) = after.split_at(after.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(after.len()));
        rest = after;
        if tag.is_empty() {
            continue;
        }
        let (attributes, after) = attributes(rest);
        rest = after;
        for (key, value) in attributes {
            match key {
                "src" | "srcset" | "href" | "xlink:href" | "poster" | "data" | "action" | "formaction" => {
                    mistakes
                        .extend(foreign(value, origins).map(|value| format!("<{tag} {key}> is not in the document: {value}")));
                }
                "style" => mistakes.extend(style_mistakes(value, origins)),
                _ if key.len() > 2 && key.starts_with("on") => {
                    mistakes.push(format!("<{tag} {key}> is a handler in the markup; a script adds listeners"));
                }
                _ => {}
            }
        }
        if tag == "script" || tag == "style" {
            let Some((content, after)) = rest.split_once(&format!("</{tag}")) else {
                mistakes.push(format!("<{tag}> is not closed"));
                break;
            };
            rest = after;
            mistakes.extend(if tag == "style" { style_mistakes(content, origins) } else { script_mistakes(content) });
        }
    }
    mistakes
}

/// The attributes of a tag, and what comes after the tag.
fn attributes(mut rest: &str) -> (Vec<(&str, &str)>, &str) {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches(|letter: char| letter.is_ascii_whitespace() || letter == '/' || letter == '=');
        if rest.is_empty() || rest.starts_with('>') {
            return (found, rest.strip_prefix('>').unwrap_or(rest));
        }
        let end = rest.find(|letter: char| letter.is_ascii_whitespace() || "=>/".contains(letter)).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let mut value = "";
        rest = after.trim_start();
        if let Some(after) = rest.strip_prefix('=') {
            let after = after.trim_start();
            let quoted = ['"', '\''].iter().find_map(|quote| Some((after.strip_prefix(*quote)?, *quote)));
            (value, rest) = match quoted {
                Some((after, quote)) => after.split_once(quote).unwrap_or((after, "")),
                None => after
                    .split_at(after.find(|letter: char| letter.is_ascii_whitespace() || letter == '>').unwrap_or(after.len())),
            };
        }
        found.push((key, value));
    }
}

fn style_mistakes(style: &str, origins: &[&str]) -> Vec<String> {
    let mut mistakes = Vec::new();
    if style.contains("@import") {
        mistakes.push("a style has an @import; put what it imports in its place".to_owned());
    }
    for (at, _) in style.match_indices("url(") {
        let value = style[at + 4..].split(')').next().unwrap_or_default();
        let value = value.trim_matches(|letter: char| letter.is_ascii_whitespace() || letter == '"' || letter == '\'');
        mistakes.extend(foreign(value, origins).map(|value| format!("a style has a url() that is not in the document: {value}")));
    }
    mistakes
}

fn script_mistakes(script: &str) -> Vec<String> {
    let is_called = |call: &str| {
        let stands_alone = |before: char| !(before.is_ascii_alphanumeric() || before == '_' || before == '$');
        script.match_indices(call).any(|(at, _)| script[..at].chars().next_back().is_none_or(stands_alone))
    };
    let makes_code = ["eval(", "new function("].into_iter().filter(|call| is_called(call));
    makes_code.map(|call| format!("a script makes code of text, which hosts forbid: {call}…)")).collect()
}

/// A reference, if it leads out of the document to where it may not.
fn foreign<'a>(value: &'a str, origins: &[&str]) -> Option<&'a str> {
    let value = value.trim();
    let is_inside = ["#", "data:", "blob:", "about:", "mailto:", "tel:"].iter().any(|inside| value.starts_with(inside));
    let is_allowed = || origins.iter().any(|origin| is_from(value, origin));
    (!value.is_empty() && !is_inside && !is_allowed()).then_some(value)
}

fn is_from(value: &str, origin: &str) -> bool {
    let host = value.find("://").map_or(0, |at| at + 3);
    let own = &value[..value[host..].find(['/', '?', '#']).map_or(value.len(), |at| host + at)];
    match origin.split_once('*') {
        None => own == origin,
        Some((scheme, suffix)) => own.starts_with(scheme) && own.len() > scheme.len() + suffix.len() && own.ends_with(suffix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: &str) -> Vec<String> {
        mistakes(&format!("<!doctype html>{body}"), &["https://cdn.example.com", "https://*.example.org"])
    }

    #[test]
    fn what_the_document_brings_along_is_no_mistake() {
        for sound in [
            "<svg><use href='#icon'/></svg><img src=\"data:image/png;base64,AA==\"><a href=mailto:ada@example.com>Ada</a>",
            "<style>p { background: url(data:image/gif;base64,AA==) } p::before { content: '<b onclick=x>' }</style>",
            "<script>if (a < b) { retrieval(); medieval (); } // <img src=\"http://example.com\">\n</script>",
            "<!-- <img src='http://example.com/a.png'> --><p>1 < 2, and an image=\"src\"</p>",
            "<img src=https://cdn.example.com/a.png><img src='https://a.example.org/'>",
            "<style>p { background: url('https://a.b.example.org/x.png') }</style>",
        ] {
            assert_eq!(of(sound), Vec::<String>::new(), "{sound}");
        }
    }

    #[test]
    fn what_would_fail_in_a_host_is_a_mistake() {
        for (body, mistake) in [
            ("<SCRIPT SRC = 'app.js'></SCRIPT>", "<script src> is not in the document: app.js"),
            ("<img alt='>' src=\"http://example.com/a.png\">", "<img src> is not in the document: http://example.com/a.png"),
            ("<link rel=stylesheet href=//example.com/a.css>", "<link href> is not in the document: //example.com/a.css"),
            ("<a href='https://example.com'>", "<a href> is not in the document: https://example.com"),
            (
                "<img src='https://cdn.example.com.evil.net/'>",
                "<img src> is not in the document: https://cdn.example.com.evil.net/",
            ),
            ("<img src='https://example.org/'>", "<img src> is not in the document: https://example.org/"),
            ("<p style='background:url( \"a.png\" )'>", "a style has a url() that is not in the document: a.png"),
            ("<style>@import 'a.css'</style>", "a style has an @import; put what it imports in its place"),
            ("<b onClick='go()'>", "<b onclick> is a handler in the markup; a script adds listeners"),
            ("<script>(0, eval(text))</script>", "a script makes code of text, which hosts forbid: eval(…)"),
            ("<script>new Function('return 1')</script>", "a script makes code of text, which hosts forbid: new function(…)"),
            ("<script>1", "<script> is not closed"),
        ] {
            assert_eq!(of(body), [mistake], "{body}");
        }
        assert_eq!(mistakes("<p>Hello</p>", &[]), ["its document does not begin with <!doctype html>"]);
    }
}
