//! The media types a client accepts (RFC 9110, 12.5.1) and the encodings of a request body.

use http::{HeaderMap, header};

/// Returns whether a client that sends these headers accepts an event stream. A client without `Accept`, or with an empty one,
/// accepts everything.
pub(crate) fn accepts_stream(headers: &HeaderMap) -> bool {
    weight_of_stream(headers).is_none_or(|(_, weight)| weight > 0.0)
}

/// Returns whether a client asks for an event stream by its name. A wildcard does not ask for one: curl sends `*/*` and cannot
/// read a stream.
pub(crate) fn asks_for_stream(headers: &HeaderMap) -> bool {
    weight_of_stream(headers).is_some_and(|(range, weight)| range == Range::Type && weight > 0.0)
}

/// Returns whether a client asks for JSON by its name.
pub(crate) fn asks_for_json(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|item| item.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json"))
}

/// Returns whether the body is sent as it is, without a compression.
pub(crate) fn is_identity(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    encodings.all(|value| {
        let words = value.to_str().unwrap_or("unreadable").split(',').map(str::trim);
        words.into_iter().all(|word| word.is_empty() || word.eq_ignore_ascii_case("identity"))
    })
}

/// A media range that matches an event stream, the most specific last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Range {
    /// `*/*`
    Any,
    /// `text/*`
    Text,
    /// `text/event-stream`
    Type,
}

/// Returns the most specific range of `Accept` that matches an event stream, with its weight; `None` if there is no `Accept`.
/// A header that names other types only has the weight 0.
fn weight_of_stream(headers: &HeaderMap) -> Option<(Range, f32)> {
    let mut is_empty = true;
    let mut found: Option<(Range, f32)> = None;
    let values = headers.get_all(header::ACCEPT).iter();
    for item in values.flat_map(|value| value.to_str().unwrap_or("unreadable/unreadable").split(',')) {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        if name.is_empty() {
            continue;
        }
        is_empty = false;
        let range = match name {
            // `*` alone is no media range, and old Java clients send it for `*/*`.
            "*/*" | "*" => Range::Any,
            name if name.eq_ignore_ascii_case("text/*") => Range::Text,
            name if name.eq_ignore_ascii_case("text/event-stream") => Range::Type,
            _ => continue,
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        // A weight that cannot be read refuses nothing.
        let weight = weight.map_or(1.0, |weight| weight.trim().parse().unwrap_or(1.0));
        if found.is_none_or(|(best, _)| range >= best) {
            found = Some((range, weight));
        }
    }
    if is_empty { None } else { Some(found.unwrap_or((Range::Any, 0.0))) }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(name: HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_stream_is_accepted_by_name_by_wildcard_and_by_silence() {
        for (accept, accepted, asked) in [
            (&[][..], true, false),
            (&[""], true, false),
            (&["*/*"], true, false),
            (&["*"], true, false),
            (&["text/*"], true, false),
            (&["TEXT/*;q=0.1"], true, false),
            (&["text/event-stream"], true, true),
            (&["Text/Event-Stream; charset=utf-8"], true, true),
            (&["application/json, text/event-stream"], true, true),
            (&["application/json", "text/event-stream"], true, true),
            (&["application/json, */*"], true, false),
            (&["application/json", "*/*;q=0.8"], true, false),
            (&["*/*;q=0.001"], true, false),
            (&["text/event-stream;q=0.5, */*;q=0"], true, true),
            (&["text/html, text/*;q=0, */*;q=0.1"], false, false),
            (&["text/event-stream;q=0, */*"], false, false),
            (&["*/*, text/event-stream; q=0.0"], false, false),
            (&["*/*;q=0"], false, false),
            (&["application/json"], false, false),
            (&["application/*"], false, false),
            (&["text/plain", "application/json"], false, false),
            (&["text/event-streams"], false, false),
        ] {
            let headers = headers(header::ACCEPT, accept);
            assert_eq!((accepts_stream(&headers), asks_for_stream(&headers)), (accepted, asked), "{accept:?}");
        }
    }

    #[test]
    fn any_encoding_but_identity_is_a_compression() {
        for plain in [&[][..], &[""], &["identity"], &["Identity, identity"]] {
            assert!(is_identity(&headers(header::CONTENT_ENCODING, plain)), "{plain:?}");
        }
        for packed in [&["gzip"][..], &["GZIP"], &["br"], &["deflate, identity"], &["identity", "zstd"], &["x-gzip"]] {
            assert!(!is_identity(&headers(header::CONTENT_ENCODING, packed)), "{packed:?}");
        }
    }
}
