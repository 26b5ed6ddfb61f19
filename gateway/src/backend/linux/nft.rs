//! The packet filter's rules, loaded at start (and by [`super::guard`] when they are lost): no
//! program is run when a sandbox is made.

use std::{net::IpAddr, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::{error::Call, slot::NETWORK};
use crate::backend::Error;

const PATIENCE: Duration = Duration::from_secs(20);

pub(super) const TABLE: &str = "coppice";

/// Of one sandbox at once: the host's table of connections is for all of them.
const MAX_FLOWS: u32 = 4096;

/// What is not the public internet: this network, private, shared, loopback, link-local (with the
/// metadata services of clouds), benchmarks (the sandboxes themselves), multicast and reserved;
/// and one public address at which a cloud's platform answers its machines.
const CLOSED: &str = "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, \
                      172.16.0.0/12, 192.0.0.0/24, 192.168.0.0/16, 198.18.0.0/15, 224.0.0.0/3, \
                      168.63.129.16/32";

/// The rules, for `nft -f`: applied as a whole or not at all. The resolvers are a set that other
/// gateways of this host add theirs to.
pub(super) fn rules(dns: &[IpAddr]) -> String {
    let resolvers: Vec<String> =
        dns.iter().filter(|server| server.is_ipv4()).map(IpAddr::to_string).collect();
    let add_resolvers = match resolvers.join(", ") {
        none if none.is_empty() => String::new(),
        all => format!("add element inet coppice resolvers {{ {all} }}\n"),
    };
    format!(
        r#"add table inet coppice
add set inet coppice resolvers {{ type ipv4_addr; }}
add set inet coppice flows {{ type ipv4_addr; size 65535; flags dynamic; }}
add chain inet coppice prerouting {{ type filter hook prerouting priority -300; policy accept; }}
add chain inet coppice input {{ type filter hook input priority -10; policy accept; }}
add chain inet coppice forward {{ type filter hook forward priority -10; policy accept; }}
add chain inet coppice postrouting {{ type nat hook postrouting priority 100; policy accept; }}
add chain inet coppice outbound
flush chain inet coppice prerouting
flush chain inet coppice input
flush chain inet coppice forward
flush chain inet coppice postrouting
flush chain inet coppice outbound
{add_resolvers}add rule inet coppice prerouting iifname "coppice*" meta nfproto ipv6 drop
add rule inet coppice prerouting iifname "coppice*" fib saddr . iif oif missing drop
add rule inet coppice input iifname "coppice*" ip daddr @resolvers meta l4proto {{ tcp, udp }} th dport 53 goto outbound
add rule inet coppice input iifname "coppice*" drop
add rule inet coppice forward iifname "coppice*" oifname "coppice*" drop
add rule inet coppice forward iifname "coppice*" ip daddr @resolvers meta l4proto {{ tcp, udp }} th dport 53 goto outbound
add rule inet coppice forward iifname "coppice*" ip daddr {{ {CLOSED} }} drop
add rule inet coppice forward iifname "coppice*" goto outbound
add rule inet coppice forward oifname "coppice*" ct state established,related accept
add rule inet coppice forward oifname "coppice*" drop
add rule inet coppice postrouting ip saddr {NETWORK} oifname != "coppice*" masquerade
add rule inet coppice outbound ct state new add @flows {{ ip saddr ct count over {MAX_FLOWS} }} drop
add rule inet coppice outbound accept
"#
    )
}

/// How many rules the kernel then holds.
pub(super) fn number_of(rules: &str) -> usize {
    rules.lines().filter(|line| line.starts_with("add rule ")).count()
}

pub(super) async fn load(dns: &[IpAddr]) -> Result<(), Error> {
    run(&rules(dns)).await
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
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_open_before_private_ranges_are_closed() {
        let text = rules(&["10.0.0.53".parse().unwrap(), "fd00::1".parse().unwrap()]);
        assert!(text.contains("add element inet coppice resolvers { 10.0.0.53 }\n"));
        let open = text.find("forward iifname \"coppice*\" ip daddr @resolvers").unwrap();
        assert!(open < text.find("169.254.0.0/16").unwrap());
    }

    #[test]
    fn a_cloud_s_platform_is_closed() {
        assert!(CLOSED.contains("169.254.0.0/16") && CLOSED.contains("168.63.129.16/32"));
    }

    #[test]
    fn nothing_goes_out_uncounted() {
        let text = rules(&[]);
        for line in text.lines().filter(|line| line.contains(r#"iifname "coppice*""#)) {
            assert!(line.ends_with("drop") || line.ends_with("goto outbound"), "{line}");
        }
        let count = text.find("ct count over 4096 } drop").unwrap();
        assert!(count < text.find("outbound accept").unwrap());
    }

    #[test]
    fn without_resolvers_no_empty_set_is_written() {
        assert!(!rules(&[]).contains("add element"));
    }
}
