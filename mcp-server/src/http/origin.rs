//! Whose requests are taken. A page in somebody's browser can be made to talk to a server on the same machine under a name
//! of the attacker's (DNS rebinding), so the name a request was sent to must be one of ours, and the page it comes from too.
//!
//! An IP address as the host needs no list: rebinding works with names only. That is what probes and a rollout that talks to
//! one replica directly use.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, header, request::Parts};

use super::body::{Payload, json};
use crate::mcp::envelope;

/// The names and pages that are ours.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allowed {
    hosts: Vec<String>,
    origins: Vec<String>,
    /// The host of `PUBLIC_URL`, if that is https: a page of it that came over http is not ours.
    secure_host: Option<String>,
    /// Where clients find `/mcp`, as far as it is known.
    endpoint: String,
    /// The header that names the caller, if a header does.
    principal: Option<HeaderName>,
}

/// Schemes of pages on this machine: browsers, and what desktop and mobile frameworks serve their own pages under.
const LOCAL_SCHEMES: [&str; 5] = ["http", "https", "tauri", "capacitor", "ionic"];

/// The request headers that a page may send. Browsers take a wildcard for no prefix, so those that begin with [`PARAMETER`]
/// are granted by name.
const GRANTED: &str = "authorization, content-type, last-event-id, mcp-method, mcp-name, mcp-protocol-version, mcp-session-id, \
                       traceparent, tracestate, baggage";
/// Arguments that a client repeats as headers (2026-07-28).
const PARAMETER: &str = "mcp-param-";

// === impl Allowed ===

impl Allowed {
    /// Hosts without a port, origins as `scheme://host[:port]`; both compared without regard to case.
    pub(crate) fn new(public_url: Option<&Uri>, hosts: &[String], origins: &[String]) -> Self {
        let mut allowed = Self { hosts: vec!["localhost".to_owned()], endpoint: "/mcp".to_owned(), ..Self::default() };
        allowed.hosts.extend(hosts.iter().map(|host| host.to_ascii_lowercase()));
        allowed.origins.extend(origins.iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase()));
        if let Some(url) = public_url
            && let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority())
        {
            let host = authority.host().to_ascii_lowercase();
            allowed.origins.push(format!("{scheme}://{authority}").to_ascii_lowercase());
            allowed.secure_host = (scheme == "https").then(|| host.clone());
            allowed.hosts.push(host);
            allowed.endpoint = format!("{}/mcp", url.to_string().trim_end_matches('/'));
        }
        allowed
    }

    /// Lets pages send the header that names the caller.
    pub(crate) fn principal_header(mut self, name: Option<HeaderName>) -> Self {
        self.principal = name;
        self
    }

    /// Returns the host names that are ours.
    pub(crate) fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Returns the address of `/mcp`: a URL if `PUBLIC_URL` says it, and the path otherwise.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns whether clients reach this server over https.
    pub(crate) fn is_secure(&self) -> bool {
        self.secure_host.is_some()
    }

    /// Lets a request in, and gives the origin that may read the answer; or the refusal.
    pub(crate) fn check(&self, parts: &Parts) -> Result<Option<HeaderValue>, Box<Response<Payload>>> {
        self.check_head(&parts.uri, &parts.headers)
    }

    fn check_head(&self, uri: &Uri, headers: &HeaderMap) -> Result<Option<HeaderValue>, Box<Response<Payload>>> {
        let authority = match uri.authority() {
            Some(authority) => authority.as_str(),
            None => match only(headers, &header::HOST).and_then(|host| host.to_str().ok()) {
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
        if !headers.contains_key(header::ORIGIN) {
            return Ok(None);
        }
        if let Some(origin) = only(headers, &header::ORIGIN)
            && origin.to_str().is_ok_and(|origin| self.is_ours(origin, authority, host))
        {
            return Ok(Some(origin.clone()));
        }
        Err(refuse(StatusCode::FORBIDDEN, "pages of this origin may not call this server: put it into ALLOWED_ORIGINS"))
    }

    /// Returns the origin that may read the response to this request, whatever the response is.
    pub(crate) fn reader(&self, uri: &Uri, headers: &HeaderMap) -> Option<HeaderValue> {
        if !headers.contains_key(header::ORIGIN) {
            return None;
        }
        self.check_head(uri, headers).ok().flatten()
    }

    /// Answers a browser that asks before it sends.
    pub(crate) fn preflight(&self, uri: &Uri, headers: &HeaderMap) -> Response<Payload> {
        match self.check_head(uri, headers) {
            Ok(origin) => self.grant(origin, headers),
            Err(refusal) => *refusal,
        }
    }

    /// Answers a browser that asks before it reads what every page may read.
    pub(crate) fn open_preflight(&self, headers: &HeaderMap) -> Response<Payload> {
        let origin = only(headers, &header::ORIGIN).cloned();
        self.grant(Some(origin.unwrap_or(HeaderValue::from_static("*"))), headers)
    }

    fn grant(&self, origin: Option<HeaderValue>, headers: &HeaderMap) -> Response<Payload> {
        let mut answer = Response::new(Payload::Bytes(Bytes::new()));
        *answer.status_mut() = StatusCode::NO_CONTENT;
        let granted = answer.headers_mut();
        granted.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE"));
        granted.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, self.granted(headers));
        granted.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        if let Some(origin) = origin {
            share(granted, origin);
        }
        answer
    }

    /// Returns the request headers that a page may send, with those of its own question that begin with [`PARAMETER`].
    fn granted(&self, headers: &HeaderMap) -> HeaderValue {
        let mut granted = GRANTED.to_owned();
        let asked = headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).iter();
        let asked = asked.filter_map(|names| names.to_str().ok()).flat_map(|names| names.split(','));
        let parameters = asked.map(|name| name.trim().to_ascii_lowercase()).filter(|name| name.starts_with(PARAMETER));
        // What is no name of a header is not repeated.
        let parameters = parameters.filter(|name| HeaderName::from_bytes(name.as_bytes()).is_ok());
        for name in self.principal.iter().map(|name| name.as_str().to_owned()).chain(parameters) {
            granted.push_str(", ");
            granted.push_str(&name);
        }
        HeaderValue::try_from(granted).unwrap_or(HeaderValue::from_static(GRANTED))
    }

    /// A page of ours is one that was named, one we served ourselves, or, on this machine, one of this machine.
    fn is_ours(&self, origin: &str, authority: &str, host: &str) -> bool {
        let Some((scheme, from)) = origin.split_once("://") else { return false };
        let is = |expected: &str| scheme.eq_ignore_ascii_case(expected);
        // Who is between a person and a balancer can make a page of any name that came over http.
        let may_be_http = self.secure_host.as_ref().is_none_or(|secure| !secure.eq_ignore_ascii_case(host));
        let is_served_here = from.eq_ignore_ascii_case(authority) && (is("https") || (is("http") && may_be_http));
        is_served_here
            || self.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
            || (is_loopback(host) && LOCAL_SCHEMES.into_iter().any(is) && is_local_page(without_port(from)))
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

/// Returns whether a page of this host is one of this machine. Browsers ask no name server for `*.localhost` (RFC 6761, 6.3);
/// desktop frameworks on Windows serve their pages under `http://tauri.localhost`.
fn is_local_page(host: &str) -> bool {
    let is_name =
        |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let is_below = |name: &str| {
        let (labels, top) = name.rsplit_once('.').unwrap_or(("", ""));
        top.eq_ignore_ascii_case("localhost") && labels.split('.').all(is_name)
    };
    is_loopback(host) || is_below(host)
}

fn refuse(status: StatusCode, words: &str) -> Box<Response<Payload>> {
    Box::new(json(status, envelope::error(None, envelope::INVALID_REQUEST, words, None)))
}

/// Lets the page that asked read the response, unless somebody has decided that already: a layer of the application's.
pub(crate) fn share(headers: &mut HeaderMap, origin: HeaderValue) {
    if headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        return;
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    // A client in a browser has to read where to get a token.
    const EXPOSED: HeaderValue =
        HeaderValue::from_static("mcp-session-id, release-color, release-build, retry-after, www-authenticate, accept-encoding");
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
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
            // The same name over another scheme is another origin.
            ("mcp.example.com", Some("http://mcp.example.com"), 403),
            ("mcp.example.com:443", Some("http://mcp.example.com:443"), 403),
            ("mcp.example.com:8443", Some("https://mcp.example.com:8443"), 200),
            ("MCP.example.com", Some("HTTPS://mcp.Example.com"), 200),
            ("mcp.example.com", Some("ftp://mcp.example.com"), 403),
            ("mcp.example.com", Some("chrome-extension://mcp.example.com"), 403),
            ("mcp.example.com", Some("ws://mcp.example.com"), 403),
            ("mcp.example.com", Some("http://inspector.example.org"), 403),
            ("10.2.3.4:3000", Some("http://10.2.3.4:3000"), 200),
            ("10.2.3.4:3000", Some("ftp://10.2.3.4:3000"), 403),
            ("localhost:3000", Some("chrome-extension://localhost:3000"), 403),
            ("localhost:3000", Some("ftp://localhost"), 403),
            ("127.0.0.1:3000", Some("tauri://localhost"), 200),
            ("127.0.0.1:3000", Some("http://tauri.localhost"), 200),
            ("127.0.0.1:3000", Some("https://tauri.localhost"), 200),
            ("localhost:3000", Some("http://app.dev.LOCALHOST:5173"), 200),
            ("localhost:3000", Some("http://.localhost"), 403),
            ("localhost:3000", Some("http://a..localhost"), 403),
            ("localhost:3000", Some("http://evil.example.net#.localhost"), 403),
            ("localhost:3000", Some("http://evil.example.net/.localhost"), 403),
            ("localhost:3000", Some("http://evil@a.localhost"), 403),
            ("localhost:3000", Some("http://evillocalhost"), 403),
            ("localhost:3000", Some("http://localhost.evil.net"), 403),
            ("localhost:3000", Some("http://tauri.localhost.evil.net"), 403),
            ("mcp.example.com", Some("http://tauri.localhost"), 403),
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

    #[test]
    fn a_page_may_send_what_the_protocol_has_and_nothing_else() {
        let allowed = Allowed::new(None, &[], &[]).principal_header(Some(HeaderName::from_static("x-user")));
        let asked =
            "content-type,MCP-Param-Region, mcp-param-a_b,x-evil,mcp-params,x-user,mcp-param-\u{e9},mcp-param-a b, cookie";
        let request = Request::options("/mcp").header("host", "localhost").header("origin", "http://localhost:6274");
        let request = request.header("access-control-request-headers", asked.as_bytes()).body(()).unwrap();
        let answer = allowed.preflight(request.uri(), request.headers());
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["access-control-allow-origin"]),
            (204, &HeaderValue::from_static("http://localhost:6274"))
        );
        let granted = answer.headers()["access-control-allow-headers"].to_str().unwrap().to_owned();
        let granted: Vec<_> = granted.split(", ").collect();
        for name in ["authorization", "mcp-session-id", "traceparent", "tracestate", "baggage", "x-user", "content-type"] {
            assert!(granted.contains(&name), "{name}: {granted:?}");
        }
        for name in ["x-evil", "mcp-params", "cookie", "mcp-param-a b", "*"] {
            assert!(!granted.contains(&name), "{name}: {granted:?}");
        }
    }

    #[test]
    fn a_page_may_send_each_parameter_that_it_asks_for() {
        let allowed = Allowed::new(None, &[], &[]);
        let request = Request::options("/mcp").header("host", "localhost").header("origin", "http://localhost:6274");
        let request = request.header("access-control-request-headers", "MCP-Param-Region, mcp-param-a_b");
        let request = request.header("access-control-request-headers", "mcp-param-third").body(()).unwrap();
        let granted = allowed.preflight(request.uri(), request.headers()).headers()["access-control-allow-headers"].clone();
        assert!(granted.to_str().unwrap().ends_with(", mcp-param-region, mcp-param-a_b, mcp-param-third"), "{granted:?}");
    }

    #[test]
    fn a_layer_that_shared_a_response_keeps_its_word() {
        let mut headers = HeaderMap::from_iter([(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"))]);
        share(&mut headers, HeaderValue::from_static("http://localhost:6274"));
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    }
}
