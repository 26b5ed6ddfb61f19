//! Which sandbox and port a request names, by its two routing headers or by its host.

use std::net::Ipv4Addr;

use http::{HeaderMap, HeaderName, Uri, header};

use crate::error::DataPlaneError;

static SANDBOX_ID: HeaderName = HeaderName::from_static("e2b-sandbox-id");
static SANDBOX_PORT: HeaderName = HeaderName::from_static("e2b-sandbox-port");

/// Longest sandbox id looked at; ours have 32 digits, a DNS label 63.
const MAX_ID: usize = 63;

/// A sandbox by name, which need not exist, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub sandbox: String,
    pub port: u16,
}

impl Address {
    /// The address in `E2b-Sandbox-Id` and `E2b-Sandbox-Port`; `None` where neither is sent.
    ///
    /// # Errors
    /// One of them without the other, either of them twice, or a malformed one.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, DataPlaneError> {
        let (mut ids, mut ports) =
            (headers.get_all(&SANDBOX_ID).iter(), headers.get_all(&SANDBOX_PORT).iter());
        let (id, port) = match (ids.next(), ports.next()) {
            (None, None) => return Ok(None),
            (Some(id), Some(port)) if ids.next().is_none() && ports.next().is_none() => (id, port),
            _ => return Err(DataPlaneError::RoutingHeaders),
        };
        let sandbox = id.to_str().ok().and_then(sandbox_id).ok_or(DataPlaneError::SandboxId)?;
        let port = port.to_str().ok().and_then(port_number).ok_or(DataPlaneError::Port)?;
        Ok(Some(Self { sandbox: sandbox.to_owned(), port }))
    }

    /// The address in a host `<port>-<id>[-<client id>].<rest>`, where `rest` is `domain` if there
    /// is one and anything otherwise; `None` for any other host.
    ///
    /// # Errors
    /// A label that begins like an address and is none.
    pub fn from_host(host: &str, domain: Option<&Domain>) -> Result<Option<Self>, DataPlaneError> {
        let name = without_port(host).trim_end_matches('.');
        let Some((label, rest)) = name.split_once('.') else { return Ok(None) };
        let ours = match domain {
            Some(domain) => domain.is(rest),
            None => !rest.is_empty(),
        };
        let Some((port, id)) = label.split_once('-') else { return Ok(None) };
        if !ours || port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(None);
        }
        // `10-0-0-1.nip.io` is a name for an address, of the gateway itself for all we know.
        if domain.is_none() && label.replace('-', ".").parse::<Ipv4Addr>().is_ok() {
            return Ok(None);
        }
        let port = port_number(port).ok_or(DataPlaneError::Port)?;
        let id = id.to_ascii_lowercase();
        let sandbox = match id.split_once('-') {
            None => sandbox_id(&id),
            Some((id, client)) => sandbox_id(client).and_then(|_| sandbox_id(id)),
        };
        let sandbox = sandbox.ok_or(DataPlaneError::SandboxId)?.to_owned();
        Ok(Some(Self { sandbox, port }))
    }
}

/// The host a request was sent to, port included; `None` where it names none.
///
/// # Errors
/// Several hosts, or one that is not text.
pub fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<Option<&'a str>, DataPlaneError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let first = hosts.next();
    if hosts.next().is_some() {
        return Err(DataPlaneError::Host);
    }
    // A target in absolute form, and HTTP/2's `:authority`, count before `Host`.
    if let Some(authority) = uri.authority() {
        return Ok(Some(authority.as_str()));
    }
    first.map(|host| host.to_str().map_err(|_| DataPlaneError::Host)).transpose()
}

/// The domain below which sandboxes have their hosts; may be configured with a port.
#[derive(Clone, Debug)]
pub struct Domain(String);

impl Domain {
    pub fn new(domain: &str) -> Self {
        Self(without_port(domain).trim_matches('.').to_ascii_lowercase())
    }

    fn is(&self, rest: &str) -> bool {
        self.0.eq_ignore_ascii_case(rest)
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

fn sandbox_id(text: &str) -> Option<&str> {
    let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (plain && (1..=MAX_ID).contains(&text.len())).then_some(text)
}

fn port_number(text: &str) -> Option<u16> {
    let digits = text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok().filter(|&port| port != 0) } else { None }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn at(sandbox: &str, port: u16) -> Result<Option<Address>, DataPlaneError> {
        Ok(Some(Address { sandbox: sandbox.into(), port }))
    }

    #[test]
    fn hosts_of_any_domain_are_taken_where_none_is_configured() {
        let check = |host, expect| assert_eq!(Address::from_host(host, None), expect, "{host}");
        check("49983-abc.localhost:3000", at("abc", 49983));
        check("80-abc.example.com.", at("abc", 80));
        check("80-ABC.example.com", at("abc", 80));
        check("80-abc-client7.example.com", at("abc", 80));
        for other in
            ["localhost", "127.0.0.1:3000", "[::1]:3000", "api.example.com", "80-abc", "80-abc."]
        {
            check(other, Ok(None));
        }
        check("10-0-0-1.nip.io", Ok(None));
        check("ip-10-0-0-1.ec2.internal", Ok(None));
        check("0-abc.localhost", Err(DataPlaneError::Port));
        check("65536-abc.localhost", Err(DataPlaneError::Port));
        check("999999-abc.localhost", Err(DataPlaneError::Port));
        check("80-a_b.localhost", Err(DataPlaneError::SandboxId));
        check("80-.localhost", Err(DataPlaneError::SandboxId));
        check("80-a-b-c.localhost", Err(DataPlaneError::SandboxId));
    }

    #[test]
    fn only_the_configured_domain_is_taken() {
        let domain = Domain::new("Sbx.Example.test:8443");
        let check = |host, expect| {
            assert_eq!(Address::from_host(host, Some(&domain)), expect, "{host}");
        };
        check("80-abc.sbx.example.test", at("abc", 80));
        check("80-abc.SBX.example.test:8443", at("abc", 80));
        check("80-abc.localhost", Ok(None));
        check("80-abc.evil.sbx.example.test", Ok(None));
        check("80-a_.localhost", Ok(None));
        check("sbx.example.test", Ok(None));
        check("api.sbx.example.test", Ok(None));
    }

    #[test]
    fn routing_headers_come_in_pairs() {
        let check = |pairs: &[(&str, &str)], expect| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(
                    name.parse::<HeaderName>().unwrap(),
                    HeaderValue::from_str(value).unwrap(),
                );
            }
            assert_eq!(Address::from_headers(&headers), expect, "{pairs:?}");
        };
        let (id, port) = ("E2b-Sandbox-Id", "E2b-Sandbox-Port");
        check(&[], Ok(None));
        check(&[(id, "abc"), (port, "49983")], at("abc", 49983));
        for half in [&[(id, "abc")][..], &[(port, "80")], &[(id, "a"), (id, "b"), (port, "80")]] {
            check(half, Err(DataPlaneError::RoutingHeaders));
        }
        for wrong in ["", "0", "65536", "-1", "+80", " 80", "8o", "0x50", "184467440737095516"] {
            check(&[(id, "abc"), (port, wrong)], Err(DataPlaneError::Port));
        }
        for wrong in ["", "ABC", "a/b", "..", "a b", "a-b", &"a".repeat(64)] {
            check(&[(id, wrong), (port, "80")], Err(DataPlaneError::SandboxId));
        }
    }

    proptest! {
        #[test]
        fn every_well_formed_host_is_understood(
            port in 1u16..,
            id in "[a-z0-9]{1,40}",
            client in proptest::option::of("[a-z0-9]{1,10}"),
            rest in "[a-z][a-z0-9]{0,10}(\\.[a-z]{1,5}){0,2}",
            suffix in proptest::option::of(1u16..),
        ) {
            let client = client.map(|client| format!("-{client}")).unwrap_or_default();
            let suffix = suffix.map(|port| format!(":{port}")).unwrap_or_default();
            let host = format!("{port}-{id}{client}.{rest}{suffix}");
            let found = Address::from_host(&host, None);
            let domain = Domain::new(&rest);
            prop_assert_eq!(&found, &Address::from_host(&host, Some(&domain)));
            prop_assert_eq!(found, at(&id, port));
        }

        #[test]
        fn no_host_makes_a_malformed_address(
            host in prop_oneof!["\\PC{0,80}", "[0-9]{0,6}-[a-zA-Z0-9_-]{0,66}[.:a-z0-9]{0,8}"],
            domain in proptest::option::of("[a-z.]{0,5}"),
        ) {
            let domain = domain.as_deref().map(Domain::new);
            if let Ok(Some(address)) = Address::from_host(&host, domain.as_ref()) {
                prop_assert!(address.port != 0);
                prop_assert!(sandbox_id(&address.sandbox).is_some());
            }
        }

        #[test]
        fn headers_make_the_address_they_say_or_none(
            id in prop_oneof![proptest::collection::vec(any::<u8>(), 0..70), "[a-z0-9]{1,64}".prop_map(String::into_bytes)],
            port in prop_oneof![proptest::collection::vec(any::<u8>(), 0..8), "[0-9]{1,6}".prop_map(String::into_bytes)],
        ) {
            let mut headers = HeaderMap::new();
            let values = (HeaderValue::from_bytes(&id), HeaderValue::from_bytes(&port));
            if let (Ok(id), Ok(port)) = values {
                headers.insert(&SANDBOX_ID, id);
                headers.insert(&SANDBOX_PORT, port);
            }
            if let Ok(Some(address)) = Address::from_headers(&headers) {
                prop_assert_eq!(address.sandbox.as_bytes(), &id[..]);
                prop_assert!(sandbox_id(&address.sandbox).is_some());
                let digits = String::from_utf8(port).unwrap();
                prop_assert_eq!(digits.parse::<u16>().ok(), Some(address.port));
            }
        }
    }
}
