//! The control plane: the bodies of a create and of a change of the network, and the queries of
//! lists, logs and pages.

use coppice::{backend::NetworkMode, fuzzing, network::Cidr};

use crate::parts;

pub(crate) fn target(bytes: &[u8]) {
    match parts::<(u8, &[u8])>(bytes) {
        Some((kind, body)) if kind % 3 == 1 => create(body),
        Some((kind, body)) if kind % 3 == 2 => network(body),
        Some((_, query)) => list(&String::from_utf8_lossy(query)),
        None => {}
    }
}

fn create(body: &[u8]) {
    if let Some((template, seconds)) = fuzzing::create(body) {
        let (name, tag) = template.split_once(':').unwrap_or((&template, "a"));
        let word = |word: &str, more: &[u8]| {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            !word.is_empty() && word.bytes().all(|b| plain(b) || more.contains(&b))
        };
        assert!(word(name, b"-_") && word(tag, b"-_."), "{template}");
        assert!((1..=fuzzing::LONGEST.as_secs()).contains(&seconds));
    }
}

/// What is understood can be kept in a record, and what is enforced of it has no overlaps.
fn network(body: &[u8]) {
    let Some(policy) = fuzzing::policy(body) else { return };
    let record = serde_json::to_string(&policy).expect("JSON");
    assert_eq!(serde_json::from_str(&record).ok().as_ref(), Some(&policy));
    for default in [NetworkMode::Nat, NetworkMode::None] {
        let filter = policy.filter(default);
        for list in [&filter.allowed, &filter.denied] {
            assert!(list.windows(2).all(|pair| pair[0].last() < pair[1].first()));
            assert!(list.iter().all(|range| range.to_string().parse() == Ok(*range)));
        }
        assert!(filter.names.is_empty() || filter.denied == [Cidr::ALL]);
        for pattern in &filter.names {
            let text = pattern.to_string();
            assert_eq!(text.parse().as_ref(), Ok(pattern));
            let name = text.strip_prefix("*.").unwrap_or(&text);
            assert_eq!(pattern.fits(name), name == text);
            assert!(name != text || filter.allows_name(&name.to_ascii_uppercase()));
            assert!(name == text || filter.allows_name(&format!("a.{name}")));
        }
    }
}

fn list(query: &str) {
    let [page, log] = fuzzing::asked(query);
    assert!(page.is_none_or(|limit| (1..=100).contains(&limit)));
    assert!(log.is_none_or(|limit| (1..=1000).contains(&limit)));
}
