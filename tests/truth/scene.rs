//! The world of one row: the exporter's host, its router, the target's host, another host beyond.
//!
//! ```text
//! near 10.71.0.1 ─ router ─ far   10.72.0.1   the target
//!                        └─ other 10.73.0.1   the name server, a canary, another target
//! ```
//! IPv6 alike: `fd71::1`, `fd72::1`, `fd73::1`; the router is `.254` and `::fe` on each side.

use std::any::Any;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use harness::listener::Visitor;
use harness::name_server::{Question, Reply};
use harness::{ClosedPort, Exporter, Forger, Forgery, Listener, NameServer, Netns};
use tempfile::TempDir;

use crate::EXPORTER;
use crate::situation::SHORT;

/// A name of the target.
pub(crate) const NAME: &str = "target.example";

pub(crate) struct Scene {
    pub(crate) v6: bool,
    pub(crate) near: Netns,
    pub(crate) router: Netns,
    pub(crate) far: Netns,
    pub(crate) other: Netns,
    /// Devices between the router and each host.
    pub(crate) near_link: String,
    pub(crate) far_link: String,
    /// What near sees as `/etc`.
    pub(crate) etc: TempDir,
    pub(crate) names: Option<NameServer>,
    /// Inside `tcp:` of the module.
    pub(crate) module: String,
    pub(crate) timeout: Duration,
    /// Where the target is; a name, or an address in brackets if need be.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Where canaries are.
    pub(crate) canaries: Vec<String>,
    /// Where further monitors look, with the plainest module.
    pub(crate) others: Vec<String>,
    /// Environment of the exporter and of the terminal.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) limit: Option<String>,
    pub(crate) forger: Option<Forger>,
    kept: Vec<Box<dyn Any + Send + Sync>>,
    exporter: Option<Exporter>,
}

impl Scene {
    pub(crate) fn new(v6: bool) -> Self {
        let near = Netns::new("truth-near");
        let router = Netns::new("truth-router");
        let (far, other) = (Netns::new("truth-far"), Netns::new("truth-other"));
        for host in [&near, &router, &far, &other] {
            // A neighbour is asked for with an address that is in use: at once, not after a second.
            host.run(&["sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"]);
        }
        let near_link = near.link(&router, &[]);
        let far_link = far.link(&router, &[]);
        let other_link = other.link(&router, &[]);
        let mut rules = String::new();
        for (device, network) in [(&near_link, 71), (&far_link, 72), (&other_link, 73)] {
            let host = format!(
                "address add 10.{network}.0.1/24 dev {device}\n\
                 address add fd{network}::1/64 dev {device} nodad\n\
                 route add default via 10.{network}.0.254\n\
                 route add default via fd{network}::fe\n"
            );
            [&near, &far, &other][network - 71].ip(&host);
            let _ = write!(
                rules,
                "address add 10.{network}.0.254/24 dev {device}\n\
                 address add fd{network}::fe/64 dev {device} nodad\n"
            );
        }
        router.ip(&rules);
        router.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]);
        for host in [&router, &far] {
            let rates = ["net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"];
            host.run(&["sysctl", "-qw", rates[0], rates[1]]);
        }
        let etc = TempDir::with_prefix("etc-").expect("temporary directory");
        let hosts = "127.0.0.1 localhost\n::1 localhost\n";
        std::fs::write(etc.path().join("hosts"), hosts).expect("a file");
        std::fs::write(etc.path().join("nsswitch.conf"), "hosts: files dns\n").expect("a file");
        let mut scene = Self {
            v6,
            near,
            router,
            far,
            other,
            near_link,
            far_link,
            etc,
            names: None,
            module: String::new(),
            timeout: SHORT,
            host: String::new(),
            port: 1,
            canaries: Vec::new(),
            others: Vec::new(),
            environment: Vec::new(),
            limit: None,
            forger: None,
            kept: Vec::new(),
            exporter: None,
        };
        scene.host = literal(scene.far_ip());
        scene
    }

    /// The router, on the side of near.
    pub(crate) fn gateway(&self) -> IpAddr {
        self.ip(71, 254)
    }

    pub(crate) fn far_ip(&self) -> IpAddr {
        self.ip(72, 1)
    }

    pub(crate) fn other_ip(&self) -> IpAddr {
        self.ip(73, 1)
    }

    /// The host of this number in a network.
    pub(crate) fn ip(&self, network: u8, host: u8) -> IpAddr {
        if !self.v6 {
            return IpAddr::from([10, network, 0, host]);
        }
        let host = if host == 254 { "fe".to_owned() } else { host.to_string() };
        format!("fd{network}::{host}").parse().expect("an address")
    }

    /// As a probe's target.
    pub(crate) fn target(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    pub(crate) fn exporter(&self) -> &Exporter {
        self.exporter.as_ref().expect("started")
    }

    /// Holds something until the world ends.
    pub(crate) fn keep(&mut self, thing: impl Any + Send + Sync) {
        self.kept.push(Box::new(thing));
    }

    // What there is.

    /// The module of the target, inside `tcp:`.
    pub(crate) fn speak(&mut self, module: &str) {
        module.clone_into(&mut self.module);
    }

    /// The target's port accepts and reads.
    pub(crate) fn open(&mut self) {
        self.serve(Visitor::read_to_end);
    }

    /// The target's port accepts and behaves so.
    pub(crate) fn serve(&mut self, behaviour: impl Fn(&mut Visitor) + Send + Sync + 'static) {
        let address = SocketAddr::new(self.far_ip(), 0);
        let listener = self.far.within(|| Listener::serve(address, behaviour));
        self.port = listener.port();
        self.keep(listener);
    }

    /// Nothing listens on the target's port.
    pub(crate) fn closed(&mut self) {
        let address = SocketAddr::new(self.far_ip(), 0);
        let port = self.far.within(|| ClosedPort::at(address));
        self.port = port.address().port();
        self.keep(port);
    }

    /// An open port on the other host.
    pub(crate) fn other_port(&mut self) -> String {
        let address = SocketAddr::new(self.other_ip(), 0);
        let listener = self.other.within(|| Listener::serve(address, Visitor::read_to_end));
        let target = listener.target();
        self.keep(listener);
        target
    }

    /// A canary that is well as long as the way to it is.
    pub(crate) fn canary(&mut self) {
        let target = self.other_port();
        self.canaries.push(target);
    }

    /// A canary that never answers.
    pub(crate) fn dead_canary(&mut self) {
        let ip = literal(self.ip(73, 1));
        self.other.nft(
            "table inet dead { chain c { type filter hook input priority 0; tcp dport 9 drop; }; }",
        );
        self.canaries.push(format!("{ip}:9"));
    }

    /// Another target, well as long as the way to it is.
    pub(crate) fn witness(&mut self) {
        let target = self.other_port();
        self.others.push(target);
    }

    /// The target is asked for by name; this server answers.
    pub(crate) fn named(&mut self, behaviour: impl Fn(&Question) -> Reply + Send + 'static) {
        let address = SocketAddr::new(self.other_ip(), 53);
        let server = self.other.within(|| NameServer::at(address, behaviour));
        self.resolv_conf(&format!("nameserver {}\n", address.ip()));
        self.names = Some(server);
        NAME.clone_into(&mut self.host);
    }

    /// The target's name is known, and no other.
    pub(crate) fn well_named(&mut self) {
        let ip = self.far_ip();
        self.named(move |question| well(question, ip));
    }

    pub(crate) fn resolv_conf(&self, text: &str) {
        std::fs::write(self.etc.path().join("resolv.conf"), text).expect("a file");
    }

    // What breaks.

    /// Rules for what goes out of near over the link, but not within it.
    #[track_caller]
    pub(crate) fn near_output(&self, rule: &str) {
        let rules = format!("oifname \"{}\" {rule}", self.near_link);
        filter(&self.near, "output", &rules);
    }

    /// The router answers packets for the target with an ICMP error.
    #[track_caller]
    pub(crate) fn forge(&mut self, on: &str, kind: u8, code: u8, most: u32) {
        let (device, v6, port) = (self.near_link.as_str(), self.v6, self.port);
        let forgery = Forgery { device, v6, port, on, kind, code, most };
        self.forger = Some(Forger::start(&self.router, forgery));
    }

    /// The router takes everything and passes nothing on, whatever it is.
    #[track_caller]
    pub(crate) fn cut_off(&self) {
        filter(&self.router, "forward", "drop");
    }

    /// The router's interface hears and says nothing any more; the cable stays.
    #[track_caller]
    pub(crate) fn deafen_gateway(&self) {
        self.router.nft(&format!(
            "table netdev deaf {{ chain c {{ type filter hook ingress device \"{0}\" priority 0; drop; }}; \
             chain d {{ type filter hook egress device \"{0}\" priority 0; drop; }}; }}",
            self.near_link
        ));
    }

    // The exporter.

    /// The configuration: the target, the others, the canaries.
    fn config(&self) -> String {
        let millis = self.timeout.as_millis();
        let mut text = format!(
            "modules:\n  m: {{prober: tcp, timeout: {millis}ms, tcp: {{{}}}}}\n  \
             plain: {{prober: tcp, timeout: 1s}}\n\
             defaults: {{interval: {}ms, timeout: {millis}ms, confirm: {{failures: 2, retry_interval: 200ms}}}}\n",
            self.module,
            millis + 300
        );
        if !self.canaries.is_empty() {
            text.push_str("canaries:\n");
            for canary in &self.canaries {
                let _ = writeln!(text, "  - {{target: \"{canary}\", module: plain}}");
            }
        }
        let _ = write!(
            text,
            "monitors:\n  - {{name: target, host: \"{}\", port: {}, module: m}}\n",
            self.host.trim_matches(['[', ']']),
            self.port
        );
        for (index, other) in self.others.iter().enumerate() {
            let (host, port) = other.rsplit_once(':').expect("a port");
            let host = host.trim_matches(['[', ']']);
            let _ = writeln!(
                text,
                "  - {{name: other{index}, host: \"{host}\", port: {port}, module: plain, timeout: 1s, interval: 1100ms}}"
            );
        }
        text
    }

    pub(crate) fn start(&mut self) {
        let mut builder =
            Exporter::new(EXPORTER).config(&self.config()).netns(&self.near).etc(self.etc.path());
        for (key, value) in &self.environment {
            builder = builder.env(key, value);
        }
        if let Some(limit) = &self.limit {
            builder = builder.limit(limit);
        }
        self.exporter = Some(builder.start());
    }

    /// Where its configuration is.
    pub(crate) fn config_file(&self) -> std::path::PathBuf {
        self.exporter().directory().join("config.yml")
    }

    pub(crate) fn etc(&self) -> &Path {
        self.etc.path()
    }
}

/// An address as the host of a target.
pub(crate) fn literal(ip: IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
}

/// A name server that is well: the target's name has this address, others do not exist.
pub(crate) fn well(question: &Question, ip: IpAddr) -> Reply {
    if question.name == NAME { Reply::address(ip) } else { Reply::Code(3) }
}

/// Rules of a chain on `host`, at a hook, in a table of its own.
#[track_caller]
pub(crate) fn filter(host: &Netns, hook: &str, rules: &str) {
    host.nft(&format!(
        "table inet broken {{ set seen {{ type inet_service; size 4096; flags dynamic; }}; \
         chain c {{ type filter hook {hook} priority 0; {rules}; }}; }}"
    ));
}
