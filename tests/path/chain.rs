//! Routers in a row, in network namespaces.

use std::net::SocketAddr;

use harness::Netns;
use tcp_probe_exporter::access::Access;
use tcp_probe_exporter::address::Address;
use tcp_probe_exporter::module::Module;
use tcp_probe_exporter::path::Path;
use tcp_probe_exporter::prober::{Probe, Prober};

use crate::TIMEOUT;

/// A monitor, three routers and a target in a row; link `n` is `10.20.n.0/24` and `fd20:n::/64`, the
/// near end of each is .1, the far one .2.
pub(crate) struct Chain {
    pub(crate) hosts: Vec<Netns>,
    pub(crate) devices: Vec<String>,
}

pub(crate) const ROUTERS: usize = 3;

impl Chain {
    pub(crate) fn new() -> Self {
        let hosts: Vec<Netns> =
            (0..ROUTERS + 2).map(|index| Netns::new(&format!("hop{index}"))).collect();
        let mut devices = Vec::new();
        for (link, ends) in hosts.windows(2).enumerate() {
            devices.push(ends[0].link(
                &ends[1],
                &[
                    (&format!("10.20.{link}.1/24"), &format!("10.20.{link}.2/24")),
                    (&format!("fd20:{link}::1/64"), &format!("fd20:{link}::2/64")),
                ],
            ));
        }
        for (index, host) in hosts.iter().enumerate() {
            if (1..=ROUTERS).contains(&index) {
                host.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
                host.run(&["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"]);
            }
            for link in 0..=ROUTERS {
                let (v4, v6) = (format!("10.20.{link}.0/24"), format!("fd20:{link}::/64"));
                if link > index {
                    host.run(&["ip", "route", "add", &v4, "via", &format!("10.20.{index}.2")]);
                    host.run(&["ip", "route", "add", &v6, "via", &format!("fd20:{index}::2")]);
                } else if link + 1 < index {
                    let near = index - 1;
                    host.run(&["ip", "route", "add", &v4, "via", &format!("10.20.{near}.1")]);
                    host.run(&["ip", "route", "add", &v6, "via", &format!("fd20:{near}::1")]);
                }
            }
        }
        Self { hosts, devices }
    }

    pub(crate) fn target(v6: bool) -> SocketAddr {
        let text =
            if v6 { format!("[fd20:{ROUTERS}::2]:443") } else { format!("10.20.{ROUTERS}.2:443") };
        text.parse().unwrap()
    }

    pub(crate) fn trace(&self, peer: SocketAddr) -> Path {
        self.hosts[0].within(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let address = Address::parse(&peer.to_string()).unwrap();
            let (module, access) = (Module::connect("tcp_connect"), Access::default());
            let probe = Probe {
                address: &address,
                module: &module,
                hostname: None,
                timeout: TIMEOUT,
                access: &access,
            };
            runtime.block_on(Prober::default().trace(peer, &probe)).unwrap()
        })
    }
}
