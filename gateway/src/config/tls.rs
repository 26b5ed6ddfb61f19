//! The second listener's settings: where it listens, and the certificate's files or the authority to
//! get them from.

use std::{net::SocketAddr, path::PathBuf};

use super::{Error, Given, address, domain};
use crate::tls::{AcmeSettings, Files};

/// A second address, on which TLS is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub listen: SocketAddr,
    pub certificate: Certificate,
}

/// Where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    Files(Files),
    Acme(AcmeSettings),
}

const LISTENER: [&str; 1] = ["tls-listen"];
const FILES: [&str; 2] = ["tls-cert", "tls-key"];
const AUTHORITY: [&str; 2] = ["acme-directory", "acme-hook"];
const MORE: [&str; 2] = ["acme-contact", "acme-ca"];

impl Given {
    /// All that one way to a certificate takes, or nothing of any.
    pub(super) fn tls(&mut self) -> Result<Option<Tls>, Error> {
        let is_given = |name: &&&str| self.0.contains_key(**name);
        let mut all = LISTENER.iter().chain(&FILES).chain(&AUTHORITY).chain(&MORE);
        let Some(some) = all.find(is_given) else { return Ok(None) };
        let place = self.place(some);
        let of_files = FILES.iter().find(is_given);
        let of_authority = AUTHORITY.iter().chain(&MORE).find(is_given);
        if let (Some(one), Some(other)) = (of_files, of_authority) {
            let (one, other) = (self.place(one), self.place(other));
            return Err(Error(format!(
                "{one} and {other}: the certificate is either in files or got from an authority"
            )));
        }
        let wanted = if of_authority.is_some() { AUTHORITY } else { FILES };
        if let Some(missing) = LISTENER.iter().chain(&wanted).find(|name| !is_given(name)) {
            let takes = wanted.join(" and ");
            return Err(Error(format!(
                "{place}: TLS takes tls-listen with {takes}, and {missing} is not given; \
                 `coppice tls dev-ca` makes a certificate for development, and acme-directory with \
                 acme-hook gets one from an authority"
            )));
        }
        let certificate = match of_authority {
            None => {
                let mut path = |name| self.take(name, "", |text| Ok(PathBuf::from(text)));
                Certificate::Files(Files { cert: path(FILES[0])?, key: path(FILES[1])? })
            }
            Some(_) => Certificate::Acme(self.acme(&place)?),
        };
        Ok(Some(Tls { listen: self.take(LISTENER[0], "", address)?, certificate }))
    }

    fn acme(&mut self, place: &str) -> Result<AcmeSettings, Error> {
        let domain = self.0.get("domain").map_or("", |(text, _)| text.as_str());
        // What is wrong with it is said where it is read.
        let domain = domain::parse(domain).ok().flatten().unwrap_or_default();
        let name = domain.split_once(':').map_or(&*domain, |(name, _)| name).to_owned();
        if !name.contains('.') {
            return Err(Error(format!(
                "{place}: a certificate is got for --domain and all names below it, so that takes \
                 one, such as sandboxes.example.org"
            )));
        }
        let path = |text: &str| match text {
            "" => Ok(None),
            text if text.starts_with('/') => Ok(Some(PathBuf::from(text))),
            _ => Err("an absolute path".to_owned()),
        };
        Ok(AcmeSettings {
            directory: self.take(AUTHORITY[0], "", |url| match url.parse::<http::Uri>() {
                Ok(uri) if uri.scheme_str() == Some("https") => Ok(url.to_owned()),
                _ => Err("the https:// URL of an authority's ACME directory".to_owned()),
            })?,
            hook: self.take(AUTHORITY[1], "", path)?.unwrap_or_default(),
            contact: self.take(MORE[0], "", |mail| match mail {
                "" => Ok(None),
                mail if mail.contains('@') && mail.is_ascii() && !mail.contains([':', ' ']) => {
                    Ok(Some(mail.to_owned()))
                }
                _ => Err("an address for mail".to_owned()),
            })?,
            ca: self.take(MORE[1], "", path)?,
            domain: name,
        })
    }

    /// Where a setting that was given was.
    fn place(&self, name: &str) -> String {
        self.0.get(name).map_or_else(|| name.to_owned(), |(_, place)| place.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{super::tests::config, *};

    #[test]
    fn tls_takes_all_three_settings_and_keys_where_it_is_not_on_loopback() {
        let (cert, key) = (("tls-cert", "c.pem"), ("tls-key", "k.pem"));
        let all =
            config(&[("tls-listen", "127.0.0.1:8443"), cert], &[("COPPICE_TLS_KEY", "k.pem")]);
        let tls = all.unwrap().tls.unwrap();
        let Certificate::Files(files) = &tls.certificate else { panic!("{tls:?}") };
        assert_eq!((tls.listen.port(), files.key.as_path()), (8443, Path::new("k.pem")));
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

    #[test]
    fn an_authority_takes_a_domain_and_a_program_and_no_files() {
        let listen = ("tls-listen", "127.0.0.1:8443");
        let directory = ("acme-directory", "https://acme.example/directory");
        let (hook, domain) = (("acme-hook", "/etc/hook"), ("domain", "Sbx.test:8443"));
        let contact = ("acme-contact", "a@b.test");
        let all = config(&[listen, directory, hook, domain, contact], &[]).unwrap();
        let Certificate::Acme(acme) = all.tls.unwrap().certificate else { panic!("files") };
        assert_eq!((&*acme.domain, acme.contact.as_deref()), ("sbx.test", Some("a@b.test")));
        assert_eq!((&*acme.hook, acme.ca), (Path::new("/etc/hook"), None));
        for (given, said) in [
            (&[directory, hook, domain][..], "and tls-listen is not given"),
            (&[listen, directory, domain], "and acme-hook is not given"),
            (&[listen, hook, domain], "and acme-directory is not given"),
            (&[listen, ("acme-ca", "/ca.pem"), domain], "and acme-directory is not given"),
            (&[listen, directory, hook], "so that takes one"),
            (&[listen, directory, hook, ("domain", "localhost")], "so that takes one"),
            (&[listen, directory, hook, ("tls-key", "k")], "--tls-key and --acme-directory"),
            (&[listen, directory, ("acme-hook", "hook"), domain], "an absolute path"),
            (&[listen, ("acme-directory", "http://a.test/"), hook, domain], "https://"),
            (&[listen, directory, hook, domain, ("acme-contact", "me")], "an address for mail"),
        ] {
            let error = config(given, &[]).err().expect(said).to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
