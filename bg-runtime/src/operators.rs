//! Who may ask an operations listener. It has no password: whoever reaches its port is an operator, except a page in a browser
//! on the same machine or in the same network.
//!
//! What must stay true: no page reads anything there and no page changes anything, under whatever name it found the listener.

use std::net::IpAddr;

use http::{HeaderMap, Method, Uri, header, uri::Authority};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnOperator {
    /// A page in a browser sent it.
    #[error("this listener is for operators, and the request comes from a page in a browser")]
    Page,
    /// It is sent to a name, which a page can have made lead here (DNS rebinding).
    #[error("ask this listener by its IP address or as localhost, not by another name")]
    Name,
}

/// Returns why a request is refused, if it is.
///
/// `names` are host names by which operators may ask, besides `localhost` and IP addresses.
///
/// # Errors
/// A request of a page, or one to another name.
pub fn check(method: &Method, uri: &Uri, headers: &HeaderMap, names: &[String]) -> Result<(), NotAnOperator> {
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    // `none` is a person who wrote the address into the browser. No page can send that.
    let is_typed = site.is_none_or(|site| site == b"none" && (method == Method::GET || method == Method::HEAD));
    if headers.contains_key(header::ORIGIN) || !is_typed {
        return Err(NotAnOperator::Page);
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (uri.authority(), hosts.next(), hosts.next()) {
        (Some(authority), _, None) => Some(authority.clone()),
        (None, Some(host), None) => host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()),
        _ => None,
    };
    let is_known = |host: &str| {
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        address.parse::<IpAddr>().is_ok()
            || host.eq_ignore_ascii_case("localhost")
            || names.iter().any(|name| name.eq_ignore_ascii_case(host))
    };
    let is_known = host.is_some_and(|host| !host.as_str().contains('@') && is_known(host.host()));
    if is_known { Ok(()) } else { Err(NotAnOperator::Name) }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn no_page_and_no_other_name_is_an_operator() {
        let page = Err(NotAnOperator::Page);
        let name = Err(NotAnOperator::Name);
        for (method, headers, expected) in [
            ("GET", &[("host", "127.0.0.1:9464")][..], Ok(())),
            ("POST", &[("host", "127.0.0.1:9464")], Ok(())),
            ("POST", &[("host", "[::1]:9464")], Ok(())),
            ("GET", &[("host", "10.0.3.7:9464")], Ok(())),
            ("GET", &[("host", "LocalHost")], Ok(())),
            ("GET", &[("host", "blue.internal:9464")], Ok(())),
            ("GET", &[], name),
            ("GET", &[("host", "")], name),
            ("GET", &[("host", "evil.example.net:9464")], name),
            ("GET", &[("host", "127.0.0.1.evil.example.net")], name),
            ("GET", &[("host", "localhost.evil.example.net")], name),
            ("GET", &[("host", "127.0.0.1@evil.example.net")], name),
            ("GET", &[("host", "evil.example.net@127.0.0.1")], name),
            ("GET", &[("host", "127.0.0.1"), ("host", "evil.example.net")], name),
            ("GET", &[("host", "evil.example.net"), ("host", "127.0.0.1")], name),
            ("GET", &[("host", "127.0.0.1"), ("origin", "https://evil.example.net")], page),
            ("GET", &[("host", "127.0.0.1"), ("origin", "null")], page),
            ("POST", &[("host", "127.0.0.1"), ("origin", "http://127.0.0.1:9464")], page),
            ("GET", &[("host", "127.0.0.1"), ("sec-fetch-site", "cross-site")], page),
            ("GET", &[("host", "127.0.0.1"), ("sec-fetch-site", "same-site")], page),
            ("GET", &[("host", "127.0.0.1"), ("sec-fetch-site", "same-origin")], page),
            ("GET", &[("host", "127.0.0.1"), ("sec-fetch-site", "none")], Ok(())),
            ("POST", &[("host", "127.0.0.1"), ("sec-fetch-site", "none")], page),
            ("GET", &[("host", "evil.example.net"), ("sec-fetch-site", "none")], name),
        ] {
            let mut request = Request::builder().method(method).uri("/leave");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(()).unwrap();
            let names = ["blue.internal".to_owned()];
            assert_eq!(check(request.method(), request.uri(), request.headers(), &names), expected, "{method} {headers:?}");
        }
        let other = Request::get("http://evil.example.net/metrics").header("host", "127.0.0.1").body(()).unwrap();
        assert_eq!(check(other.method(), other.uri(), other.headers(), &[]), name, "an absolute address goes before Host");
    }
}
