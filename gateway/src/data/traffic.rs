//! Who may reach a port of a sandbox that is not everybody's.

use envd::wire::ENVD_PORT;
use http::{HeaderMap, HeaderName};
use subtle::ConstantTimeEq;

use crate::{error::DataPlaneError, sandbox::Sandbox};

pub(super) const TOKEN: HeaderName = HeaderName::from_static("e2b-traffic-access-token");

/// Whether a request with those headers may go to that port. The sandbox's own has a token of its
/// own, and asks for it itself.
///
/// # Errors
/// What the client is to be told instead.
pub fn admit(sandbox: &Sandbox, port: u16, headers: &HeaderMap) -> Result<(), DataPlaneError> {
    let Some(token) = sandbox.facts().traffic_token.as_deref() else { return Ok(()) };
    if port == ENVD_PORT {
        return Ok(());
    }
    let sandbox_id = || sandbox.id().to_string();
    let mut shown = headers.get_all(&TOKEN).iter();
    match (shown.next(), shown.next()) {
        (Some(one), None) if one.as_bytes().ct_eq(token.as_bytes()).into() => Ok(()),
        (None, _) => Err(DataPlaneError::NoTrafficToken { sandbox_id: sandbox_id() }),
        _ => Err(DataPlaneError::TrafficToken { sandbox_id: sandbox_id() }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::sandbox::{Facts, testing};

    fn check(sandbox: &Sandbox, port: u16, shown: &[&str]) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        for value in shown {
            headers.append(TOKEN, value.parse().unwrap());
        }
        admit(sandbox, port, &headers).map_err(|refused| refused.to_string())
    }

    #[test]
    fn a_port_is_reached_by_who_shows_the_token_once() {
        let facts = Facts { traffic_token: Some("secret".into()), ..testing::facts() };
        let deadline = facts.started_at;
        let sandbox = Sandbox::new(facts, PathBuf::from("/nowhere"), deadline);
        let invalid = "Sandbox is secured with traffic access token. Provided token in header \
                       'e2b-traffic-access-token' is invalid";
        for port in [80, 49999] {
            assert_eq!(check(&sandbox, port, &["secret"]), Ok(()));
            assert!(check(&sandbox, port, &[]).unwrap_err().ends_with("is missing"));
            for wrong in [&["Secret"][..], &[""], &["secret2"], &["secret", "x"], &["x", "secret"]]
            {
                assert_eq!(check(&sandbox, port, wrong).unwrap_err(), invalid);
            }
        }
        assert_eq!(check(&sandbox, ENVD_PORT, &[]), Ok(()));
    }

    #[test]
    fn the_ports_of_others_are_everybodys() {
        let facts = testing::facts();
        let deadline = facts.started_at;
        let sandbox = Sandbox::new(facts, PathBuf::from("/nowhere"), deadline);
        assert_eq!(check(&sandbox, 80, &[]), Ok(()));
    }
}
