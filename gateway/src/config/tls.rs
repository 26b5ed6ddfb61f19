//! The second listener's settings, which come together or not at all.

use std::{net::SocketAddr, path::PathBuf};

use super::{Error, Given, address};
use crate::tls;

/// A second address, on which TLS is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub listen: SocketAddr,
    pub files: tls::Files,
}

impl Given {
    /// All three or none.
    pub(super) fn tls(&mut self) -> Result<Option<Tls>, Error> {
        let three = ["tls-listen", "tls-cert", "tls-key"];
        if let Some(place) = three.iter().find_map(|name| Some(self.0.get(*name)?.1.clone()))
            && let Some(missing) = three.iter().find(|name| !self.0.contains_key(**name))
        {
            return Err(Error(format!(
                "{place}: TLS takes tls-listen, tls-cert and tls-key, and {missing} is not given; \
                 `coppice tls dev-ca` makes a certificate for development"
            )));
        }
        if !self.0.contains_key(three[0]) {
            return Ok(None);
        }
        let mut path = |name| self.take(name, "", |text| Ok(PathBuf::from(text)));
        let files = tls::Files { cert: path(three[1])?, key: path(three[2])? };
        Ok(Some(Tls { listen: self.take(three[0], "", address)?, files }))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::tests::config;

    #[test]
    fn tls_takes_all_three_settings_and_keys_where_it_is_not_on_loopback() {
        let (cert, key) = (("tls-cert", "c.pem"), ("tls-key", "k.pem"));
        let all =
            config(&[("tls-listen", "127.0.0.1:8443"), cert], &[("COPPICE_TLS_KEY", "k.pem")]);
        let tls = all.unwrap().tls.unwrap();
        assert_eq!((tls.listen.port(), tls.files.key.as_path()), (8443, Path::new("k.pem")));
        assert_eq!(config(&[], &[]).unwrap().tls, None);
        for (given, missing) in [
            (&[cert, key][..], "tls-listen"),
            (&[cert], "tls-listen"),
            (&[("tls-listen", "x"), key], "tls-cert"),
        ] {
            let error = config(given, &[]).err().unwrap().to_string();
            assert!(error.contains(&format!("and {missing} is not given")), "{error}");
        }
        let error = config(&[("tls-listen", "8443"), cert, key], &[]).err().unwrap().to_string();
        assert!(error.starts_with("--tls-listen: \"8443\" is not an IP address"), "{error}");
        let open = config(&[("tls-listen", "0.0.0.0:8443"), cert, key], &[]).unwrap();
        let error = open.check_for_serving().unwrap_err().to_string();
        assert!(error.starts_with("tls-listen: 0.0.0.0:8443"), "{error}");
    }
}
