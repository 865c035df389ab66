//! What the kernel's routes say of an address, asked without a packet and without privilege.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

use ipnet::Ipv6Net;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::files::{self, MIB};

/// Any port: a datagram socket sends nothing when it connects.
const DISCARD: u16 = 9;
/// `RTF_LOCAL` (`linux/ipv6_route.h`).
const RTF_LOCAL: u32 = 0x8000_0000;

/// Whether this machine has a way to an address. What cannot be asked is believed to have one.
pub(super) fn is_routable(ip: IpAddr) -> bool {
    match source_for(ip) {
        Ok(_) => true,
        // EINVAL is what a blackhole route answers.
        Err(err) => !matches!(
            err.raw_os_error(),
            Some(
                libc::ENETUNREACH
                    | libc::EHOSTUNREACH
                    | libc::EADDRNOTAVAIL
                    | libc::EAFNOSUPPORT
                    | libc::EACCES
                    | libc::EINVAL
            )
        ),
    }
}

/// Whether packets to an address stay on this machine: it has the address, or a route of the type
/// `local` covers it.
pub(super) fn stays_here(ip: IpAddr) -> bool {
    ip.is_loopback()
        || source_for(ip).is_ok_and(|source| source == ip || source.is_loopback())
        || can_bind(ip)
        || matches!(ip, IpAddr::V6(ip) if has_local_route(ip))
}

/// Whether an address belongs to this machine or to a network that it is connected to. If that
/// cannot be asked, it does.
pub(super) fn is_on_link(ip: IpAddr) -> bool {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return true };
    let mut networks = interfaces.filter_map(|own| own.address.zip(own.netmask));
    stays_here(ip)
        || networks.any(|(own, mask)| match ip {
            IpAddr::V4(ip) => {
                let network = own.as_sockaddr_in().zip(mask.as_sockaddr_in());
                network.is_some_and(|(own, mask)| {
                    (own.ip().to_bits() ^ ip.to_bits()) & mask.ip().to_bits() == 0
                })
            }
            IpAddr::V6(ip) => {
                let network = own.as_sockaddr_in6().zip(mask.as_sockaddr_in6());
                network.is_some_and(|(own, mask)| {
                    (own.ip().to_bits() ^ ip.to_bits()) & mask.ip().to_bits() == 0
                })
            }
        })
}

/// The address that this machine would use towards another.
fn source_for(ip: IpAddr) -> io::Result<IpAddr> {
    let peer = SocketAddr::new(ip, DISCARD);
    let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, None)?;
    socket.connect(&SockAddr::from(peer))?;
    let source = socket.local_addr()?.as_socket().map(|source| source.ip());
    source.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// For IPv4 the kernel lets a socket have every address that a `local` route covers.
fn can_bind(ip: IpAddr) -> bool {
    let own = SocketAddr::new(ip, 0);
    let socket = Socket::new(Domain::for_address(own), Type::DGRAM, None);
    socket.is_ok_and(|socket| socket.bind(&SockAddr::from(own)).is_ok())
}

/// For IPv6 only the table of routes tells.
fn has_local_route(ip: Ipv6Addr) -> bool {
    let table = files::read(Path::new("/proc/net/ipv6_route"), 64 * MIB).unwrap_or_default();
    let table = String::from_utf8_lossy(&table);
    table.lines().filter_map(local_route).any(|network| network.contains(&ip))
}

/// The destination of a line of `/proc/net/ipv6_route`, if it is of the type `local`.
fn local_route(line: &str) -> Option<Ipv6Net> {
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    let [destination, prefix, .., flags, _interface] = words[..] else { return None };
    let destination = u128::from_str_radix(destination, 16).ok()?;
    let prefix = u8::from_str_radix(prefix, 16).ok()?;
    let is_local = u32::from_str_radix(flags, 16).ok()? & RTF_LOCAL != 0;
    let network = Ipv6Net::new(Ipv6Addr::from_bits(destination), prefix).ok()?;
    is_local.then_some(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_ours_and_the_network_for_examples_is_not() {
        let loopback = IpAddr::from([127, 0, 0, 9]);
        assert!(is_routable(loopback));
        assert!(stays_here(loopback) && is_on_link(loopback));
        let example = IpAddr::from([198, 51, 100, 9]);
        assert!(!stays_here(example) && !is_on_link(example));
    }

    #[test]
    fn a_line_of_the_table_of_routes() {
        let zeros = "00000000000000000000000000000000";
        let line = |flags: &str| {
            format!(
                "20010db8000100000000000000000000 40 {zeros} 00 {zeros} 00000400 1 0 {flags} lo"
            )
        };
        let network = "2001:db8:1::/64".parse().unwrap();
        assert_eq!(local_route(&line("80200001")), Some(network));
        assert_eq!(local_route(&line("00200001")), None);
        assert_eq!(local_route("nonsense"), None);
    }
}
