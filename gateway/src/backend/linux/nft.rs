//! The packet filter's rules, loaded at start (and by [`super::guard`] when they are lost): no
//! program is run when a sandbox is made.

use std::{net::IpAddr, process::Stdio, time::Duration};

use envd::walls::{self, Wall};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::{
    error::Call,
    fence::Fences,
    slot::{GATEWAY, NETWORK},
};
use crate::{backend::Error, network::closed_list};

const PATIENCE: Duration = Duration::from_secs(20);

pub(super) const TABLE: &str = "coppice";
/// Pairs of a sandbox's address and a range that it may not reach,
pub(super) const DENIED: &str = "denied";
/// and that it may reach nevertheless.
pub(super) const ALLOWED: &str = "allowed";
/// Pairs of a sandbox's address and one that a name it may reach has led to.
pub(super) const NAMED: &str = "named";
/// At which port of this host's the sandboxes that may reach names are told addresses,
pub(super) const ANSWERED: &str = "answered";
/// and taken to web servers.
pub(super) const LED: &str = "led";
/// Of packets that a policy has refused.
pub(super) const REFUSALS: &str = "refusals";
/// How long an address that a name has led to stays open after the last packet to it.
pub(super) const LINGER: Duration = Duration::from_secs(600);
/// Such pairs of all sandboxes of the host together.
const MAX_NAMED: u32 = 1 << 20;

/// Of one sandbox at once: the host's table of connections is for all of them.
const MAX_FLOWS: u32 = 4096;

/// The rules, for `nft -f`: applied as a whole or not at all. The resolvers are a set that other
/// gateways of this host add theirs to.
pub(super) fn rules(dns: &[IpAddr]) -> String {
    let resolvers: Vec<String> =
        dns.iter().filter(|server| server.is_ipv4()).map(IpAddr::to_string).collect();
    let add_resolvers = match resolvers.join(", ") {
        none if none.is_empty() => String::new(),
        all => format!("add element inet coppice resolvers {{ {all} }}\n"),
    };
    let (closed, linger) = (closed_list(), LINGER.as_secs());
    let rules = format!(
        r#"add table inet coppice
add set inet coppice resolvers {{ type ipv4_addr; }}
add set inet coppice {DENIED} {{ type ipv4_addr . ipv4_addr; flags interval; }}
add set inet coppice {ALLOWED} {{ type ipv4_addr . ipv4_addr; flags interval; }}
add set inet coppice {NAMED} {{ type ipv4_addr . ipv4_addr; size {MAX_NAMED}; flags dynamic,timeout; }}
add map inet coppice {ANSWERED} {{ type ipv4_addr : inet_service; }}
add map inet coppice {LED} {{ type ipv4_addr : inet_service; }}
add counter inet coppice {REFUSALS}
add set inet coppice flows {{ type ipv4_addr; size 65535; flags dynamic; }}
add chain inet coppice prerouting {{ type filter hook prerouting priority -300; policy accept; }}
add chain inet coppice detour {{ type nat hook prerouting priority -100; policy accept; }}
add chain inet coppice input {{ type filter hook input priority -10; policy accept; }}
add chain inet coppice forward {{ type filter hook forward priority -10; policy accept; }}
add chain inet coppice postrouting {{ type nat hook postrouting priority 100; policy accept; }}
add chain inet coppice outbound
add chain inet coppice fenced
add chain inet coppice judged
add chain inet coppice refused
flush chain inet coppice prerouting
flush chain inet coppice detour
flush chain inet coppice input
flush chain inet coppice forward
flush chain inet coppice postrouting
flush chain inet coppice outbound
flush chain inet coppice fenced
flush chain inet coppice judged
flush chain inet coppice refused
{add_resolvers}add rule inet coppice prerouting iifname "coppice*" meta nfproto ipv6 drop
add rule inet coppice prerouting iifname "coppice*" fib saddr . iif oif missing drop
add rule inet coppice detour iifname "coppice*" meta l4proto {{ tcp, udp }} th dport 53 redirect to :ip saddr map @{ANSWERED}
add rule inet coppice detour iifname "coppice*" ip saddr . ip daddr @{ALLOWED} accept
add rule inet coppice detour iifname "coppice*" tcp dport {{ 80, 443 }} redirect to :ip saddr map @{LED}
add rule inet coppice input iifname "coppice*" ip daddr @resolvers meta l4proto {{ tcp, udp }} th dport 53 goto judged
add rule inet coppice input iifname "coppice*" ip daddr {GATEWAY} ct status dnat goto outbound
add rule inet coppice input iifname "coppice*" drop
add rule inet coppice input iifname != "coppice*" iifname != "lo" ip daddr {NETWORK} drop
add rule inet coppice forward iifname "coppice*" oifname "coppice*" drop
add rule inet coppice forward iifname "coppice*" ip daddr @resolvers meta l4proto {{ tcp, udp }} th dport 53 goto judged
add rule inet coppice forward iifname "coppice*" ip daddr {{ {closed} }} drop
add rule inet coppice forward iifname "coppice*" goto judged
add rule inet coppice forward oifname "coppice*" ct state established,related accept
add rule inet coppice forward oifname "coppice*" drop
add rule inet coppice postrouting ip saddr {NETWORK} oifname != "coppice*" masquerade
add rule inet coppice judged ip saddr . ip daddr @{DENIED} goto fenced
add rule inet coppice judged goto outbound
add rule inet coppice fenced ip saddr . ip daddr @{ALLOWED} goto outbound
add rule inet coppice fenced meta l4proto {{ tcp, udp }} th dport {{ 53, 80, 443, 853 }} goto refused
add rule inet coppice fenced ip saddr . ip daddr @{NAMED} update @{NAMED} {{ ip saddr . ip daddr timeout {linger}s }} goto outbound
add rule inet coppice fenced goto refused
add rule inet coppice refused counter name "{REFUSALS}"
add rule inet coppice refused meta l4proto tcp reject with tcp reset
add rule inet coppice refused reject with icmpx type admin-prohibited
add rule inet coppice outbound ct state new add @flows {{ ip saddr ct count over {MAX_FLOWS} }} drop
add rule inet coppice outbound accept
"#
    );
    if !walls::is_down(Wall::PacketFilter) {
        return rules;
    }
    let wall = |line: &&str| line.starts_with("add rule ") && line.ends_with(" drop");
    rules.lines().filter(|line| !wall(line)).map(|line| format!("{line}\n")).collect()
}

/// How many rules the kernel then holds.
pub(super) fn number_of(rules: &str) -> usize {
    rules.lines().filter(|line| line.starts_with("add rule ")).count()
}

/// With the fences that are to be in force.
pub(super) async fn load(dns: &[IpAddr], fences: &Fences) -> Result<(), Error> {
    let _turn = fences.turn.lock().await;
    run(&format!("{}{}", rules(dns), fences.text())).await
}

/// A table that is not there is made first, so that removing it succeeds.
pub(super) async fn unload() -> Result<(), Error> {
    run("add table inet coppice\ndelete table inet coppice\n").await
}

async fn run(rules: &str) -> Result<(), Error> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::Unsupported(
                "nft is not installed, and sandboxes reach the network through it: \
                 apt-get install nftables"
                    .into(),
            ),
            _ => Error::Call { call: "exec", target: "nft -f -".into(), source: error },
        })?;
    let finish = async {
        if let Some(mut stdin) = nft.stdin.take() {
            stdin.write_all(rules.as_bytes()).await?;
        }
        nft.wait_with_output().await
    };
    let output = timeout(PATIENCE, finish)
        .await
        .map_err(|_| Error::Timeout("nft -f -", PATIENCE))?
        .call("run", "nft -f -")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Unsupported(format!("nft -f - refused the rules: {}", said.trim())))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Has nft(8) do it.
    pub(in super::super) fn load(rules: &str) {
        use std::{io::Write, process::*};
        let mut nft =
            Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft");
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success());
    }

    #[test]
    fn resolvers_are_open_before_private_ranges_are_closed() {
        let text = rules(&["10.0.0.53".parse().unwrap(), "fd00::1".parse().unwrap()]);
        assert!(text.contains("add element inet coppice resolvers { 10.0.0.53 }\n"));
        let open = text.find("forward iifname \"coppice*\" ip daddr @resolvers").unwrap();
        assert!(open < text.find("169.254.0.0/16").unwrap());
    }

    #[test]
    fn a_cloud_s_platform_is_closed() {
        let text = rules(&[]);
        assert!(text.contains("169.254.0.0/16") && text.contains("168.63.129.16/32"));
    }

    #[test]
    fn nothing_goes_out_uncounted() {
        let text = rules(&[]);
        let of_sandboxes = |line: &&str| line.contains(r#"iifname "coppice*""#);
        let detours = |line: &&str| line.starts_with("add rule inet coppice detour");
        for line in text.lines().filter(of_sandboxes).filter(|line| !detours(line)) {
            let ends = ["drop", "goto judged", "goto outbound"];
            assert!(ends.iter().any(|end| line.ends_with(end)), "{line}");
        }
        let count = text.find("ct count over 4096 } drop").unwrap();
        assert!(count < text.find("outbound accept").unwrap());
    }

    #[test]
    fn without_resolvers_no_empty_set_is_written() {
        assert!(!rules(&[]).contains("add element"));
    }
}
