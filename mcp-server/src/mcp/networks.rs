//! To which addresses calls may be handed.
//!
//! What must stay true: an address that a platform's metadata service has is never one of them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;

/// `FORWARD_NETWORKS`: where the other replicas are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardNetworks(Vec<IpNet>);

/// Where replicas are on the platforms we know: private addresses, and the shared ones that pods have on EKS.
const PRIVATE: &str = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,fc00::/7";
const LOOPBACK: &str = "127.0.0.0/8,::1/128";

/// Metadata services outside of the link-local networks: of AWS and Google by IPv6, of Alibaba, of Azure.
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

// === impl ForwardNetworks ===

impl ForwardNetworks {
    /// What is allowed unless it is configured. A replica on loopback has others on loopback alone, and one that is reached
    /// from elsewhere has none there.
    pub(crate) fn around(advertised: Option<&str>) -> Self {
        let address = advertised.and_then(|address| address.parse::<SocketAddr>().ok());
        let is_loopback = address.is_some_and(|address| address.ip().to_canonical().is_loopback());
        let networks = if is_loopback { LOOPBACK } else { PRIVATE };
        networks.parse().expect("the networks are written as such")
    }

    /// Whether a call may be handed to this address.
    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let never = match address {
            IpAddr::V4(four) => four.is_link_local() || four.is_unspecified() || four.is_multicast() || four.is_broadcast(),
            IpAddr::V6(six) => six.is_unicast_link_local() || six.is_unspecified() || six.is_multicast(),
        };
        !never && !METADATA.contains(&address) && self.0.iter().any(|network| network.contains(&address))
    }
}

impl FromStr for ForwardNetworks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = |word: &str| {
            let network = word.parse::<IpNet>().ok().or_else(|| Some(IpNet::from(word.parse::<IpAddr>().ok()?)));
            network.ok_or_else(|| format!("`{word}` is neither a network, such as 10.0.0.0/8 or fd00::/8, nor an address"))
        };
        text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(network).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for ForwardNetworks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(IpNet::to_string).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(networks: &ForwardNetworks, addresses: &[&str]) -> Vec<bool> {
        addresses.iter().map(|address| networks.contain(address.parse().unwrap())).collect()
    }

    #[test]
    fn calls_stay_on_loopback_or_on_private_networks() {
        let addresses =
            ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.1.2.3", "100.64.1.1", "fd00::1", "203.0.113.9", "2001:db8::1"];
        let here = ForwardNetworks::around(Some("127.0.0.1:3000"));
        assert_eq!(allowed(&here, &addresses), [true, true, true, false, false, false, false, false]);
        for elsewhere in [Some("10.0.0.1:3000"), Some("blue:3000"), None] {
            let elsewhere = ForwardNetworks::around(elsewhere);
            assert_eq!(allowed(&elsewhere, &addresses), [false, false, false, true, true, true, false, false]);
        }
    }

    #[test]
    fn no_network_contains_a_metadata_service() {
        let everywhere: ForwardNetworks = "0.0.0.0/0, ::/0".parse().unwrap();
        let metadata = [
            "169.254.169.254",
            "169.254.170.2",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "100.100.100.200",
            "168.63.129.16",
            "0.0.0.0",
            "255.255.255.255",
            "::",
            "ff02::1",
        ];
        assert!(allowed(&everywhere, &metadata).iter().all(|allowed| !allowed));
        assert_eq!(allowed(&everywhere, &["203.0.113.9", "10.0.0.1"]), [true, true]);
    }
}
