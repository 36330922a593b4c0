//! `/widget-test`: a page that hosts this server's widgets as ChatGPT does, and the frame that it puts them into.
//!
//! What must stay true: nothing runs on the page but what is in it, and it speaks to nobody but this server. A widget runs
//! where there is no origin, held to what it declares and to nothing else. That is why the frame is a door of its own: what a
//! page itself writes into a frame (`srcdoc`, `blob:`) is held to the page's policy, too, and no widget would run.

use std::sync::LazyLock;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, header};
use sha2::{Digest, Sha256};

/// Each part of the script uses those before it; the last one begins.
const PAGE: &str = concat!(
    "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Widget test</title>\n",
    "<link rel=\"icon\" href=\"data:,\">\n<style>\n",
    include_str!("../../assets/widget-test.css"),
    "</style>\n</head>\n<body>\n",
    include_str!("../../assets/widget-test.html"),
    "<script>\n",
    include_str!("../../assets/widget-test/server.js"),
    include_str!("../../assets/widget-test/log.js"),
    include_str!("../../assets/widget-test/document.js"),
    include_str!("../../assets/widget-test/host.js"),
    include_str!("../../assets/widget-test/view.js"),
    include_str!("../../assets/widget-test/panes.js"),
    include_str!("../../assets/widget-test/stage.js"),
    include_str!("../../assets/widget-test.js"),
    "</script>\n</body>\n</html>\n",
);
const FRAME: &str = include_str!("../../assets/widget-test/frame.html");

/// Names the page's script and style by their hashes; both are the same for as long as the process lives.
static PAGE_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let [script, style] = ["script", "style"].map(|tag| hash(content(PAGE, tag)));
    let policy = format!(
        "default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; frame-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'"
    );
    HeaderValue::try_from(policy).expect("a policy is visible ASCII")
});

/// Without an origin even when somebody opens it by itself. What is written into it brings a policy of its own.
const FRAME_POLICY: HeaderValue = HeaderValue::from_static("sandbox allow-scripts allow-forms; frame-ancestors 'self'");

/// What a page may use of a machine. A widget that asks for more (`_meta.ui.permissions`) gets it from the frame, so what
/// widgets may ask for stays with this origin.
const PERMISSIONS: HeaderValue = HeaderValue::from_static(
    "accelerometer=(), autoplay=(), bluetooth=(), browsing-topics=(), display-capture=(), encrypted-media=(), gyroscope=(), \
     hid=(), idle-detection=(), local-fonts=(), magnetometer=(), midi=(), payment=(), publickey-credentials-get=(), \
     screen-wake-lock=(), serial=(), usb=(), xr-spatial-tracking=()",
);

pub(crate) async fn page() -> Response {
    const ALONE: [(HeaderName, HeaderValue); 1] =
        [(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"))];
    (ALONE, document(PAGE, PAGE_POLICY.clone())).into_response()
}

pub(crate) async fn frame() -> Response {
    document(FRAME, FRAME_POLICY)
}

fn document(html: &'static str, policy: HeaderValue) -> Response {
    const HEADERS: [(HeaderName, HeaderValue); 6] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (HeaderName::from_static("permissions-policy"), PERMISSIONS),
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
        // Another color may answer next, with a page of its own.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (HEADERS, [(header::CONTENT_SECURITY_POLICY, policy)], Body::from(html)).into_response()
}

/// What stands between a tag that has no attributes and its end.
fn content<'a>(html: &'a str, tag: &str) -> &'a str {
    let after = html.split_once(&format!("<{tag}>")).map(|(_, after)| after);
    after.and_then(|after| after.split_once(&format!("</{tag}>"))).map(|(content, _)| content).expect("the page has this tag")
}

/// A source of a policy that lets this text run, and nothing else.
fn hash(text: &str) -> String {
    format!("'sha256-{}'", base64(&Sha256::digest(text)))
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().zip([16, 8, 0]).fold(0, |bits, (byte, shift)| bits | (usize::from(*byte) << shift));
        let letters = [18, 12, 6, 0].map(|shift| char::from(LETTERS[(bits >> shift) & 63]));
        out.extend(&letters[..=three.len()]);
        out.extend(std::iter::repeat_n('=', 3 - three.len()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_policy_names_what_is_in_the_page_and_nothing_else() {
        let answer = page().await;
        let policy = answer.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        for tag in ["script", "style"] {
            assert!(policy.contains(&format!("{tag}-src {}", hash(content(PAGE, tag)))), "{policy}");
            // A second one, or an end inside of the first, would not be what was hashed.
            assert_eq!(PAGE.matches(&format!("</{tag}")).count(), 1, "{tag}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
    }

    #[test]
    fn nothing_in_the_markup_needs_a_weaker_policy() {
        let markup = include_str!("../../assets/widget-test.html");
        for attribute in [" style=", " onclick=", " onload=", " src=", "javascript:"] {
            assert!(!markup.contains(attribute), "{attribute}");
        }
    }

    #[test]
    fn what_somebody_wrote_is_only_ever_text() {
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!PAGE.contains(way), "{way}");
        }
    }

    #[test]
    fn every_name_is_given_once() {
        let mut names: Vec<_> = PAGE.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn bytes_are_written_as_browsers_read_them() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(hash(""), "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='");
    }
}
