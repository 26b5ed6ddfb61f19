//! Which network sandboxes have that do not say.

use super::{Error, Given};
use crate::backend::NetworkMode;

impl Given {
    /// The host's own only for who has said twice that he means it: whatever the host serves to
    /// itself alone is then every sandbox's too.
    pub(super) fn network(&mut self) -> Result<NetworkMode, Error> {
        let allowed = self.take("allow-inherit", "false", |text| {
            text.parse().map_err(|_| "true or false".to_owned())
        })?;
        self.take("network", "nat", |text| parse(text, allowed))
    }
}

fn parse(text: &str, allowed: bool) -> Result<NetworkMode, String> {
    match text {
        "nat" => Ok(NetworkMode::Nat),
        "none" => Ok(NetworkMode::None),
        "inherit" if !NetworkMode::Inherit.is_there() => {
            Err("nat or none, on this system".to_owned())
        }
        "inherit" if !allowed => Err("nat or none, without --allow-inherit: it opens all of the \
                                      host's network, its loopback included, to every sandbox"
            .to_owned()),
        "inherit" => Ok(NetworkMode::Inherit),
        _ => Err("nat, none or inherit".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;

    #[test]
    fn the_host_s_own_network_is_refused_unless_allowed_and_there() {
        let there = NetworkMode::Inherit.is_there();
        let refused = parse("inherit", false).unwrap_err();
        assert!(refused.starts_with("nat or none, "), "{refused}");
        assert_eq!(parse("inherit", true).is_ok(), there);
        let both = config(&[("network", "inherit"), ("allow-inherit", "true")], &[]);
        assert_eq!(both.is_ok(), there);
        assert!(config(&[("network", "inherit")], &[]).is_err());
        // Allowed is not yet chosen.
        let allowed = config(&[("allow-inherit", "true")], &[]).unwrap();
        assert_eq!(allowed.network, NetworkMode::Nat);
    }

    #[test]
    fn an_unknown_network_is_refused_with_those_there_are() {
        for (flag, value, expected) in [
            ("network", "host", "nat, none or inherit"),
            ("allow-inherit", "maybe", "true or false"),
        ] {
            let error = config(&[(flag, value)], &[]).err().expect(value).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
