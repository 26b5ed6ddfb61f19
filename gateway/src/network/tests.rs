//! Policies, from what clients send to what is enforced.

use super::*;

fn texts(entries: &[&str]) -> Vec<String> {
    entries.iter().map(|&entry| entry.to_owned()).collect()
}

fn policy(allow: &[&str], deny: &[&str]) -> Result<NetworkPolicy, InvalidPolicy> {
    NetworkPolicy::new(None, &texts(allow), &texts(deny), None)
}

fn refused(allow: &[&str], deny: &[&str]) -> String {
    policy(allow, deny).unwrap_err().to_string()
}

fn cidrs(entries: &[&str]) -> Vec<Cidr> {
    entries.iter().map(|entry| entry.parse().unwrap()).collect()
}

#[test]
fn refusals_are_those_of_e2b() {
    let domains = "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in \
                   deny out to block all other traffic.";
    for (allow, deny, text) in [
        (&[][..], &["not-a-cidr"][..], "invalid denied CIDR not-a-cidr"),
        (&[], &["::/0"], "invalid denied CIDR ::/0"),
        (&[], &["example.com"], "invalid denied CIDR example.com"),
        (
            &[],
            &["10.0.0.0/8:22"],
            "invalid deny out entry \"10.0.0.0/8:22\": port-specific rules are not supported for \
             egress",
        ),
        (
            &["8.8.8.8:80"],
            &[],
            "invalid allow out entry \"8.8.8.8:80\": port-specific rules are not supported for \
             egress",
        ),
        (&["example.com"], &[], domains),
        (&["example.com"], &["10.0.0.0/8"], domains),
        (&["*.example.com"], &[], domains),
        (&["::1"], &[], "invalid allowed address or domain ::1"),
        (&["a b"], &["0.0.0.0/0"], "invalid allowed address or domain a b"),
    ] {
        assert_eq!(refused(allow, deny), text);
    }
    assert!(policy(&["10.0.0.0/8"], &[]).is_ok());
    let closed = NetworkPolicy::new(Some(false), &texts(&["example.com"]), &[], None);
    assert!(closed.is_ok(), "it denies all as well");
}

#[test]
fn lists_are_bounded() {
    let many = vec!["1.1.1.1".to_owned(); MOST_ENTRIES + 1];
    for (allow, deny) in [(&many[..], &[][..]), (&[], &many)] {
        let refused = NetworkPolicy::new(None, allow, deny, None).unwrap_err();
        assert!(matches!(refused, InvalidPolicy::TooMany(..)));
    }
    let most = &many[..MOST_ENTRIES];
    assert_eq!(NetworkPolicy::new(None, most, &[], None).unwrap().allow_out().count(), 1);
    let servers: Vec<String> = (0..=MOST_SERVERS).map(|n| format!("1.1.1.{n}")).collect();
    assert!(NetworkPolicy::new(None, &[], &[], Some(&servers)).is_err());
}

#[test]
fn a_server_for_names_is_none_that_only_the_host_can_reach() {
    for wrong in ["10.0.0.53", "127.0.0.53", "169.254.169.254", "::1", "dns.google", ""] {
        let refused = NetworkPolicy::new(None, &[], &[], Some(&texts(&[wrong]))).unwrap_err();
        assert!(refused.to_string().contains("invalid DNS server"), "{refused}");
    }
    let some = NetworkPolicy::new(None, &[], &[], Some(&texts(&["1.1.1.1"]))).unwrap();
    assert_eq!(some.dns_servers().unwrap(), [Ipv4Addr::new(1, 1, 1, 1)]);
}

#[test]
fn a_policy_is_read_from_a_record_as_it_was_written() {
    let allow = texts(&["Example.com", "*.a.test", "8.8.8.8/24", "1.1.1.1"]);
    let deny = texts(&["0.0.0.0/0", "9.9.9.9"]);
    let policy = NetworkPolicy::new(Some(true), &allow, &deny, Some(&[])).unwrap();
    let json = serde_json::to_value(&policy).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "allow_internet_access": true, "dns_servers": [], "deny_out": ["0.0.0.0/0", "9.9.9.9"],
            "allow_out": ["Example.com", "*.a.test", "8.8.8.8/24", "1.1.1.1"],
        })
    );
    assert_eq!(serde_json::from_value::<NetworkPolicy>(json).unwrap(), policy);
    let none: NetworkPolicy = serde_json::from_str("{}").unwrap();
    assert_eq!(none, NetworkPolicy::default());
    let broken = serde_json::from_str::<NetworkPolicy>("{\"deny_out\": [\"all\"]}");
    assert!(broken.is_err(), "rather no sandbox than one that may reach more");
}

#[test]
fn what_is_enforced_follows_from_the_lists_and_from_what_others_have() {
    use NetworkMode::{Inherit, Nat, None};
    let lists = policy(&["1.1.1.1", "1.1.1.0/24"], &["0.0.0.0/0", "8.8.8.8"]).unwrap();
    let filter = lists.filter(Nat);
    assert_eq!(filter.denied, [Cidr::ALL]);
    assert_eq!(filter.allowed, cidrs(&["1.1.1.0/24"]));
    let needless = policy(&["1.1.1.1"], &[]).unwrap();
    assert_eq!(needless.filter(Nat), Filter::default());
    assert_eq!(needless.filter(None).allowed, cidrs(&["1.1.1.1"]));

    let access = NetworkPolicy::of_access;
    let named = policy(&["a.test"], &["0.0.0.0/0"]).unwrap();
    let some = policy(&[], &["8.8.8.8"]).unwrap();
    let nothing = policy(&[], &["0.0.0.0/0"]).unwrap();
    for (policy, modes) in [
        (access(Option::None), [Nat, None, Inherit]),
        (access(Some(true)), [Nat, Nat, Inherit]),
        (access(Some(false)), [None, None, None]),
        (nothing, [None, None, None]),
        (named, [Nat, Nat, Nat]),
        (needless, [Nat, Nat, Inherit]),
        (some, [Nat, None, Nat]),
    ] {
        for (default, mode) in [Nat, None, Inherit].into_iter().zip(modes) {
            assert_eq!(policy.mode(default), mode, "{policy:?} where others have {default:?}");
        }
    }
}

#[test]
fn names_are_open_where_all_else_is_closed() {
    let named = policy(&["a.test", "*.b.test"], &["0.0.0.0/0"]).unwrap();
    let filter = named.filter(NetworkMode::Nat);
    assert!(filter.allows_name("A.test") && filter.allows_name("x.b.test"));
    assert!(!filter.allows_name("b.test") && !filter.is_closed());
}
