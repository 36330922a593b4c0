//! Whose requests are taken. A page in somebody's browser can be made to talk to a server on the same machine under a name
//! of the attacker's (DNS rebinding), so the name a request was sent to must be one of ours, and the page it comes from too.
//!
//! An IP address as the host needs no list: rebinding works with names only. That is what probes and a rollout that talks to
//! one replica directly use.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, header, request::Parts};

use super::body::{Payload, json};
use crate::mcp::envelope;

/// The names and pages that are ours.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allowed {
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl Allowed {
    /// Hosts without a port, origins as `scheme://host[:port]`; both compared without regard to case.
    pub(crate) fn new(public_url: Option<&Uri>, hosts: &[String], origins: &[String]) -> Self {
        let mut allowed = Self { hosts: vec!["localhost".to_owned()], origins: Vec::new() };
        allowed.hosts.extend(hosts.iter().map(|host| host.to_ascii_lowercase()));
        allowed.origins.extend(origins.iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase()));
        if let Some(url) = public_url
            && let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority())
        {
            allowed.hosts.push(authority.host().to_ascii_lowercase());
            allowed.origins.push(format!("{scheme}://{authority}").to_ascii_lowercase());
        }
        allowed
    }

    /// Lets a request in, and gives the origin that may read the answer; or the refusal.
    pub(crate) fn check(&self, parts: &Parts) -> Result<Option<HeaderValue>, Box<Response<Payload>>> {
        let authority = match parts.uri.authority() {
            Some(authority) => authority.as_str(),
            None => match only(&parts.headers, &header::HOST).and_then(|host| host.to_str().ok()) {
                Some(host) => host,
                None => return Err(refuse(StatusCode::BAD_REQUEST, "the request does not name one host")),
            },
        };
        let host = without_port(authority);
        if !is_address(host) && !self.hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host)) {
            return Err(refuse(
                StatusCode::FORBIDDEN,
                &format!("this server is not `{host}`: put the name into PUBLIC_URL or ALLOWED_HOSTS"),
            ));
        }
        if !parts.headers.contains_key(header::ORIGIN) {
            return Ok(None);
        }
        if let Some(origin) = only(&parts.headers, &header::ORIGIN)
            && origin.to_str().is_ok_and(|origin| self.is_ours(origin, authority, host))
        {
            return Ok(Some(origin.clone()));
        }
        Err(refuse(StatusCode::FORBIDDEN, "pages of this origin may not call this server: put it into ALLOWED_ORIGINS"))
    }

    /// A page of ours is one that was named, one we served ourselves, or, on this machine, one of this machine.
    fn is_ours(&self, origin: &str, authority: &str, host: &str) -> bool {
        let Some((_, from)) = origin.split_once("://") else { return false };
        from.eq_ignore_ascii_case(authority)
            || self.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
            || (is_loopback(host) && is_loopback(without_port(from)))
    }
}

/// The value of a header that stands there once. Whoever comes before us may have looked at another one than we would.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

fn without_port(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

fn is_address(host: &str) -> bool {
    host.starts_with(|first: char| first.is_ascii_hexdigit() || first == ':') && host.parse::<IpAddr>().is_ok()
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn refuse(status: StatusCode, words: &str) -> Box<Response<Payload>> {
    Box::new(json(status, envelope::error(None, envelope::INVALID_REQUEST, words, None)))
}

/// Lets the page that asked read the answer.
pub(crate) fn share(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    // A client in a browser has to read where to get a token.
    const EXPOSED: HeaderValue =
        HeaderValue::from_static("mcp-session-id, release-color, release-build, retry-after, www-authenticate");
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
}

/// The answer to a browser that asks before it sends.
pub(crate) fn preflight() -> Response<Payload> {
    const GRANTS: [(HeaderName, HeaderValue); 3] = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE")),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static(
                "authorization, content-type, last-event-id, mcp-method, mcp-name, mcp-protocol-version, mcp-session-id",
            ),
        ),
        (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600")),
    ];
    let mut answer = Response::new(Payload::Bytes(bytes::Bytes::new()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer.headers_mut().extend(GRANTS);
    answer
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn verdict(allowed: &Allowed, host: &str, origin: Option<&str>) -> u16 {
        let mut request = Request::get("/mcp").header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        allowed.check(&request.body(()).unwrap().into_parts().0).map_or_else(|refusal| refusal.status().as_u16(), |_| 200)
    }

    #[test]
    fn only_our_names_and_our_pages_come_in() {
        let url: Uri = "https://mcp.example.com".parse().unwrap();
        let allowed = Allowed::new(Some(&url), &["blue.internal".to_owned()], &["https://inspector.example.org".to_owned()]);
        for (host, origin, expected) in [
            ("localhost:3000", None, 200),
            ("127.0.0.1:3000", None, 200),
            ("[::1]:3000", None, 200),
            ("10.2.3.4:3000", None, 200),
            ("mcp.example.com", None, 200),
            ("MCP.Example.com:443", None, 200),
            ("blue.internal:3000", None, 200),
            ("evil.example.net", None, 403),
            ("mcp.example.com.evil.net", None, 403),
            ("localhost.evil.net", None, 403),
            ("127.0.0.1.evil.net", None, 403),
            ("mcp.example.com", Some("https://mcp.example.com"), 200),
            ("mcp.example.com", Some("http://mcp.example.com.evil.net"), 403),
            ("mcp.example.com", Some("https://inspector.example.org"), 200),
            ("mcp.example.com", Some("http://localhost:6274"), 403),
            ("localhost:3000", Some("http://localhost:6274"), 200),
            ("127.0.0.1:3000", Some("http://localhost:3000"), 200),
            ("localhost:3000", Some("https://evil.example.net"), 403),
            ("localhost:3000", Some("null"), 403),
        ] {
            assert_eq!(verdict(&allowed, host, origin), expected, "{host} {origin:?}");
        }
    }
}
