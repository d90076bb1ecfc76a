//! Which addresses a customer's URL may lead to: the IANA special-purpose registries as a table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address is to an outgoing request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Public,
    /// This machine: allowed only for development and tests.
    Loopback,
    /// Private, special-purpose, translated or a cloud's metadata service.
    Blocked,
}

/// Special-purpose IPv4 (RFC 6890 and successors) plus metadata services in public ranges.
const V4: [([u8; 4], u32); 19] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 31, 196, 0], 24),
    ([192, 52, 193, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([192, 175, 48, 0], 24),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
    // Azure's WireServer answers from a public range.
    ([168, 63, 129, 16], 32),
];

/// Special-purpose IPv6 inside 2000::/3. Everything outside 2000::/3 is blocked without a row:
/// unspecified, loopback, v4-mapped and -compatible, NAT64, discard, SRv6, ULA, link- and
/// site-local, multicast.
const V6: [([u16; 2], u32); 5] = [
    // IETF protocol assignments: Teredo, benchmarking, ORCHID.
    ([0x2001, 0x0000], 23),
    // Documentation.
    ([0x2001, 0x0db8], 32),
    // 6to4 carries any IPv4 address.
    ([0x2002, 0x0000], 16),
    // AS112.
    ([0x2620, 0x004f], 32),
    // Documentation (RFC 9637).
    ([0x3fff, 0x0000], 20),
];

/// Judges one resolved address.
#[must_use]
pub fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(v4) if v4.is_loopback() => Reach::Loopback,
        IpAddr::V6(v6) if v6 == Ipv6Addr::LOCALHOST => Reach::Loopback,
        IpAddr::V4(v4) if blocked_v4(v4) => Reach::Blocked,
        IpAddr::V6(v6) if blocked_v6(v6) => Reach::Blocked,
        IpAddr::V4(_) | IpAddr::V6(_) => Reach::Public,
    }
}

fn blocked_v4(address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    V4.iter().any(|(net, len)| same_prefix(bits, u32::from_be_bytes(*net), *len))
}

fn blocked_v6(address: Ipv6Addr) -> bool {
    let [first, second, _, _, isatap_flag, isatap, ..] = address.segments();
    let bits = u32::from(first) << 16 | u32::from(second);
    first & 0xe000 != 0x2000
        || V6.iter().any(|([a, b], len)| {
            same_prefix(bits, u32::from(*a) << 16 | u32::from(*b), *len)
        })
        // ISATAP (RFC 5214) carries an IPv4 address in the interface identifier.
        || (isatap == 0x5efe && isatap_flag & !0x0200 == 0)
}

fn same_prefix(a: u32, b: u32, len: u32) -> bool {
    (a ^ b).checked_shr(32 - len).unwrap_or(0) == 0
}
