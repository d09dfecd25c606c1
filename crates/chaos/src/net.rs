//! Hosts as network namespaces on one bridge. The test itself sits on the bridge, so that clients reach every host
//! whatever is cut between hosts: that is the situation in which a deposed primary does harm.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use testkit::kill_pid;

/// One host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// A database host, from 0.
    Db(usize),
    /// A member of the store, from 0.
    Store(usize),
}

/// Which way packets are dropped at a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What arrives.
    In,
    /// What leaves.
    Out,
    /// Both.
    Both,
}

/// The bridge, its namespaces, and the packets that are dropped in them.
pub struct Net {
    id: u32,
    hosts: Vec<Host>,
    /// Rules by the fault that made them.
    rules: BTreeMap<u32, Vec<(Host, String)>>,
}

impl Net {
    /// Makes a bridge and a namespace for each host.
    ///
    /// # Errors
    /// When this machine does not permit it: not root, no namespaces, no bridge, no `nft`.
    pub fn new(hosts: Vec<Host>) -> Result<Net> {
        let net = Net { id: std::process::id() % 10_000, hosts, rules: BTreeMap::new() };
        let bridge = net.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{}/24", net.address_of_clients()), "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for host in net.hosts.clone() {
            net.add(host)?;
        }
        Ok(net)
    }

    fn add(&self, host: Host) -> Result<()> {
        let (namespace, outside) = (self.namespace(host), self.link(host));
        ip(&["netns", "add", &namespace])?;
        let inside = ["peer", "name", "eth0", "netns", &namespace];
        ip(&[&["link", "add", &outside, "type", "veth"], &inside[..]].concat())?;
        ip(&["link", "set", &outside, "master", &self.bridge(), "up"])?;
        ip(&["-n", &namespace, "addr", "add", &format!("{}/24", self.address(host)), "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])
    }

    fn bridge(&self) -> String {
        format!("pc{}br", self.id)
    }

    fn link(&self, host: Host) -> String {
        match host {
            Host::Db(index) => format!("pc{}db{index}", self.id),
            Host::Store(index) => format!("pc{}st{index}", self.id),
        }
    }

    /// Its network namespace.
    pub fn namespace(&self, host: Host) -> String {
        self.link(host)
    }

    fn address_of_clients(&self) -> String {
        format!("10.231.{}.1", self.id % 250)
    }

    /// All hosts and clients, as a CIDR.
    pub fn subnet(&self) -> String {
        format!("10.231.{}.0/24", self.id % 250)
    }

    /// Its address.
    pub fn address(&self, host: Host) -> String {
        let last = match host {
            Host::Db(index) => 11 + index,
            Host::Store(index) => 21 + index,
        };
        format!("10.231.{}.{last}", self.id % 250)
    }

    /// Drops packets between `host` and `others`, at `host`.
    pub fn cut(&mut self, fault: u32, host: Host, others: &[Host], direction: Direction) -> Result<()> {
        for other in others {
            let address = self.address(*other);
            let rules = self.rules.entry(fault).or_default();
            if direction != Direction::Out {
                rules.push((host, format!("in ip saddr {address} drop")));
            }
            if direction != Direction::In {
                rules.push((host, format!("out ip daddr {address} drop")));
            }
        }
        self.apply(host)
    }

    /// Drops one packet in `hundred / percent` that arrives from another host.
    pub fn lose(&mut self, fault: u32, host: Host, percent: u32) -> Result<()> {
        let clients = self.address_of_clients();
        let rule = format!("in ip saddr != {clients} numgen random mod 100 < {percent} drop");
        self.rules.entry(fault).or_default().push((host, rule));
        self.apply(host)
    }

    /// Makes the host's link slow: `kbit` per second, with a queue that holds packets for up to half a second.
    pub fn slow(&self, host: Host, kbit: u32) -> Result<()> {
        let rate = format!("{kbit}kbit");
        let queue = ["tbf", "rate", &rate, "burst", "8kb", "latency", "500ms"];
        run(Command::new("tc").args(["-n", &self.namespace(host), "qdisc", "add", "dev", "eth0", "root"]).args(queue))
    }

    /// Ends what `fault` did to packets.
    pub fn heal(&mut self, fault: u32) -> Result<()> {
        let hosts: Vec<Host> = self.rules.remove(&fault).into_iter().flatten().map(|(host, _)| host).collect();
        hosts.into_iter().try_for_each(|host| self.apply(host))
    }

    /// Ends [`Net::slow`].
    pub fn fast(&self, host: Host) -> Result<()> {
        run(Command::new("tc").args(["-n", &self.namespace(host), "qdisc", "del", "dev", "eth0", "root"]))
    }

    /// Writes the host's packet filter anew.
    fn apply(&self, host: Host) -> Result<()> {
        let mut script = String::from("table ip chaos\ndelete table ip chaos\ntable ip chaos {\n");
        for (chain, hook) in [("in", "input"), ("out", "output")] {
            let _ = writeln!(script, "chain {chain} {{ type filter hook {hook} priority 0;");
            let rules = self.rules.values().flatten().filter(|(at, _)| *at == host);
            for rule in rules.filter_map(|(_, rule)| rule.strip_prefix(chain)?.strip_prefix(' ')) {
                let _ = writeln!(script, "{rule}");
            }
            script.push_str("}\n");
        }
        script.push_str("}\n");
        let namespace = self.namespace(host);
        let mut nft = Command::new("ip")
            .args(["netns", "exec", &namespace, "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .context("run nft")?;
        nft.stdin.take().context("nft's standard input")?.write_all(script.as_bytes())?;
        ensure!(nft.wait()?.success(), "nft refused:\n{script}");
        Ok(())
    }

    /// Every process of a host.
    pub fn processes(&self, host: Host) -> Vec<u32> {
        let listed = Command::new("ip").args(["netns", "pids", &self.namespace(host)]).output();
        let Ok(listed) = listed else { return Vec::new() };
        String::from_utf8_lossy(&listed.stdout).lines().filter_map(|line| line.trim().parse().ok()).collect()
    }

    /// Sends every process of a host a signal; with SIGKILL until none is left.
    pub fn signal(&self, host: Host, signal: Signal) {
        for _ in 0..50 {
            let processes = self.processes(host);
            for pid in &processes {
                let _ = kill_pid(*pid, signal);
            }
            if signal != Signal::KILL || processes.is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in &self.hosts {
            self.signal(*host, Signal::KILL);
            let _ = ip(&["netns", "del", &self.namespace(*host)]);
            // The other end of a pair goes with its namespace; this one is for a run that stopped half-way.
            let _ = Command::new("ip").args(["link", "del", &self.link(*host)]).stderr(Stdio::null()).status();
        }
        let _ = ip(&["link", "del", &self.bridge()]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(Command::new("ip").args(arguments))
}

/// Runs a command; its complaint is the error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", complaint.trim());
    Ok(())
}
