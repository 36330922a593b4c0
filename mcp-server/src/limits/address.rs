//! Where a request comes from, as far as anybody is believed about that.
//!
//! What must stay true: a header counts only when whoever we are connected to is trusted, and nothing in it is believed beyond
//! the last hop that is.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use http::HeaderMap;
use ipnet::IpNet;

/// The proxies whose `X-Forwarded-For` is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

const FORWARDED_FOR: &str = "x-forwarded-for";

/// What counts as one place: an address, and of IPv6 a network, because whoever has one address there has all of them.
pub(crate) fn place(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() & (u128::MAX << 64))),
        four => four,
    }
}

// === impl TrustedProxies ===

impl TrustedProxies {
    /// Whether this address is one of theirs.
    pub(crate) fn are(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Who asks: the right-most address that is no trusted proxy's. What stands left of it anybody may have written.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut nearest = peer.to_canonical();
        if !self.are(nearest) {
            return nearest;
        }
        let values: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
        for hop in values.into_iter().rev().flat_map(|value| value.to_str().unwrap_or_default().rsplit(',')) {
            // A proxy that says nonsense is itself whom we know last.
            let Some(hop) = address(hop.trim()) else { return nearest };
            nearest = hop;
            if !self.are(hop) {
                break;
            }
        }
        nearest
    }
}

impl FromStr for TrustedProxies {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = |word: &str| {
            let network = word.parse::<IpNet>().ok().or_else(|| Some(IpNet::from(word.parse::<IpAddr>().ok()?)));
            match network {
                // Whoever connects could then claim any address.
                Some(network) if network.prefix_len() == 0 => {
                    Err(format!("`{word}` trusts every client: name the proxies' networks"))
                }
                Some(network) => Ok(network),
                None => Err(format!(
                    "`{word}` is neither a network, such as 10.0.0.0/8 or fd00::/8, nor an address; `none` trusts no proxy"
                )),
            }
        };
        if text.trim() == "none" {
            return Ok(Self::default());
        }
        text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(network).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(IpNet::to_string).collect::<Vec<_>>().join(","))
    }
}

/// An address as proxies write it: bare, in brackets, with a port.
fn address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    let address = bare.parse().ok().or_else(|| Some(hop.parse::<SocketAddr>().ok()?.ip()))?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn client(peer: &str, headers: &[&str]) -> String {
        let proxies: TrustedProxies = "10.0.0.0/8, 192.168.7.7, fd00::/8".parse().unwrap();
        let mut map = HeaderMap::new();
        for value in headers {
            map.append(FORWARDED_FOR, HeaderValue::from_str(value).unwrap());
        }
        proxies.client(peer.parse().unwrap(), &map).to_string()
    }

    #[test]
    fn no_proxy_can_be_named_and_every_client_cannot_be_trusted() {
        assert_eq!("none".parse::<TrustedProxies>().unwrap(), TrustedProxies::default());
        for trusts_everybody in ["0.0.0.0/0", "::/0", "10.0.0.0/8, 0.0.0.0/0"] {
            let refused = trusts_everybody.parse::<TrustedProxies>().unwrap_err();
            assert!(refused.contains("trusts every client"), "{refused}");
        }
        // What the production overlay has until somebody chooses.
        assert!("choose".parse::<TrustedProxies>().unwrap_err().contains("neither a network"));
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_its_last_word() {
        for (what, peer, headers, client_is) in [
            ("nobody says anything", "203.0.113.9", &[][..], "203.0.113.9"),
            ("a stranger's header", "203.0.113.9", &["198.51.100.1"], "203.0.113.9"),
            ("a proxy's header", "10.1.2.3", &["198.51.100.1"], "198.51.100.1"),
            ("a proxy without a header", "10.1.2.3", &[], "10.1.2.3"),
            ("a client that wrote one before", "10.1.2.3", &["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
            ("a client that names a proxy of ours", "10.1.2.3", &["1.1.1.1, 10.9.9.9, 198.51.100.1"], "198.51.100.1"),
            ("two proxies of ours", "10.1.2.3", &["1.1.1.1, 198.51.100.1, 10.4.4.4"], "198.51.100.1"),
            ("two headers are one list", "10.1.2.3", &["198.51.100.1", "10.4.4.4"], "198.51.100.1"),
            ("two headers, the first one made up", "10.1.2.3", &["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
            ("only proxies of ours", "10.1.2.3", &["10.5.5.5, 10.4.4.4"], "10.5.5.5"),
            ("nonsense at the end", "10.1.2.3", &["198.51.100.1, nonsense"], "10.1.2.3"),
            ("nonsense behind a proxy of ours", "10.1.2.3", &["1.1.1.1, nonsense, 10.4.4.4"], "10.4.4.4"),
            ("nothing at the end", "10.1.2.3", &["198.51.100.1,"], "10.1.2.3"),
            ("an empty header", "10.1.2.3", &[""], "10.1.2.3"),
            ("bytes that are no text", "10.1.2.3", &["198.51.100.1, \u{fc}"], "10.1.2.3"),
            ("a port", "10.1.2.3", &["198.51.100.1:4711"], "198.51.100.1"),
            ("IPv6", "fd00::1", &["2001:db8::1"], "2001:db8::1"),
            ("IPv6 in brackets, with a port", "fd00::1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("IPv6 in brackets", "fd00::1", &["[2001:db8::1]"], "2001:db8::1"),
            ("IPv4 in IPv6 as a proxy", "::ffff:10.1.2.3", &["198.51.100.1"], "198.51.100.1"),
            ("IPv4 in IPv6 as a client", "10.1.2.3", &["::ffff:198.51.100.1"], "198.51.100.1"),
            ("IPv4 in IPv6 as a further proxy", "10.1.2.3", &["198.51.100.1, ::ffff:10.4.4.4"], "198.51.100.1"),
            ("a single address", "192.168.7.7", &["198.51.100.1"], "198.51.100.1"),
            ("its neighbor", "192.168.7.8", &["198.51.100.1"], "192.168.7.8"),
        ] {
            assert_eq!(client(peer, headers), client_is, "{what}");
        }
    }

    #[test]
    fn a_network_of_ipv6_is_one_place_and_every_address_of_ipv4_is() {
        let at = |text: &str| place(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_ne!(at("198.51.100.1"), at("198.51.100.2"));
        assert_eq!(at("::ffff:198.51.100.1"), at("198.51.100.1"));
    }

    #[test]
    fn what_is_no_network_is_named() {
        let wrong = "10.0.0.0/8, 10.0.0.0/33".parse::<TrustedProxies>().unwrap_err();
        assert!(wrong.contains("`10.0.0.0/33`"), "{wrong}");
        assert!("example.com".parse::<TrustedProxies>().is_err());
        assert_eq!("10.0.0.1,fd00::/8".parse::<TrustedProxies>().unwrap().to_string(), "10.0.0.1/32,fd00::/8");
    }
}
