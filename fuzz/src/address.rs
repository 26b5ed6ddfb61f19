//! Hosts and routing headers: whatever is understood is a well-formed address.

use coppice::{
    data::{Address, Domain},
    sandbox::SandboxId,
};
use http::{HeaderMap, HeaderValue};

use crate::parts;

pub(crate) fn target(bytes: &[u8]) {
    let Some((host, domain, port)) = parts::<(&str, &str, &[u8])>(bytes) else { return };
    let domain = Domain::new(domain);
    for domain in [None, Some(&domain)] {
        if let Ok(Some(found)) = Address::from_host(host, domain) {
            check(&found);
            let again = format!("{}-{}.x", found.port, found.sandbox);
            assert_eq!(Address::from_host(&again, None), Ok(Some(found)));
        }
    }
    let mut headers = HeaderMap::new();
    if let (Ok(id), Ok(port)) = (HeaderValue::from_str(host), HeaderValue::from_bytes(port)) {
        headers.insert("e2b-sandbox-id", id);
        headers.insert("e2b-sandbox-port", port);
    }
    if let Ok(Some(found)) = Address::from_headers(&headers) {
        check(&found);
        assert_eq!(found.sandbox, host);
    }
    if let Ok(id) = host.parse::<SandboxId>() {
        assert_eq!(id.to_string(), host);
        assert!(host.len() == 32 && host.bytes().all(|b| b"0123456789abcdef".contains(&b)));
    }
}

fn check(found: &Address) {
    assert!(found.port > 0 && (1..=63).contains(&found.sandbox.len()));
    assert!(found.sandbox.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
}
