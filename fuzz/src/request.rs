//! Requests as a fuzzer writes them: a head much as HTTP/1.1 has it, an empty line, a body. Several follow each other in one
//! file behind a line of four `=`.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The method: `POST` when the file names none that is one.
    pub method: Method,
    /// The address: `/mcp` when the file names none that is one.
    pub uri: Uri,
    /// The headers, less those that are none.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Between two requests.
const BETWEEN: &[u8] = b"\n====\n";

/// The requests of a file, at most `most`. `words` are replaced in headers and in bodies: what only this process knows.
pub fn read(file: &[u8], most: usize, words: &[(&str, &str)]) -> Vec<Asked> {
    let mut requests = Vec::new();
    let mut rest = file;
    while requests.len() < most && !rest.is_empty() {
        let end = find(rest, BETWEEN);
        requests.push(Asked::read(&rest[..end.unwrap_or(rest.len())], words));
        rest = end.map_or(&[], |end| &rest[end + BETWEEN.len()..]);
    }
    requests
}

// === impl Asked ===

impl Asked {
    fn read(text: &[u8], words: &[(&str, &str)]) -> Self {
        let (head, body) = match find(text, b"\n\n") {
            Some(end) => (&text[..end], &text[end + 2..]),
            None => (text, &[][..]),
        };
        let mut lines = head.split(|byte| *byte == b'\n');
        let first = lines.next().unwrap_or_default();
        let mut parts = first.splitn(2, |byte| *byte == b' ');
        let method = parts.next().and_then(|method| Method::from_bytes(method).ok()).unwrap_or(Method::POST);
        let uri = parts.next().and_then(|uri| Uri::try_from(uri).ok()).unwrap_or(Uri::from_static("/mcp"));
        let mut headers = HeaderMap::new();
        for line in lines {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = (line[..colon].trim_ascii(), replaced(line[colon + 1..].trim_ascii(), words));
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(&value)) {
                headers.append(name, value);
            }
        }
        Self { method, uri, headers, body: replaced(body, words).into() }
    }

    /// The same with a host, where it names none.
    #[must_use]
    pub fn to_a_host(mut self) -> Self {
        self.headers.entry(header::HOST).or_insert(HeaderValue::from_static("localhost"));
        self
    }

    /// As the server takes it.
    #[must_use]
    pub fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

fn replaced(text: &[u8], words: &[(&str, &str)]) -> Vec<u8> {
    let mut text = text.to_vec();
    for (word, meant) in words {
        if let Some(at) = find(&text, word.as_bytes()) {
            text.splice(at..at + word.len(), meant.bytes());
        }
    }
    text
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}
