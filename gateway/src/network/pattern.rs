//! Names of hosts: one, or all below one.

use std::{fmt, str::FromStr};

/// The longest name that DNS has, as text without the last dot (RFC 1035 section 2.3.4).
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

/// `name`, or `*.name`: any name below it, however deep, and not itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Lower case, without a dot at its end.
    name: String,
    below: bool,
}

impl Pattern {
    /// Whether it means that name, whatever its case and with or without a dot at its end.
    pub fn fits(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).as_bytes();
        let own = self.name.as_bytes();
        let Some(at) = name.len().checked_sub(own.len()) else { return false };
        if !name[at..].eq_ignore_ascii_case(own) {
            return false;
        }
        if self.below { at > 1 && name[at - 1] == b'.' } else { at == 0 }
    }
}

impl FromStr for Pattern {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let labels = || name.split('.');
        // What ends in a number is an address, or was to be one.
        let number =
            labels().next_back().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        if name.len() > LONGEST_NAME || number || !labels().all(is_label) {
            return Err(());
        }
        Ok(Self { name: name.to_ascii_lowercase(), below })
    }
}

fn is_label(label: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=LONGEST_LABEL).contains(&label.len())
        && label.bytes().all(plain)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_means_itself_and_a_wildcard_all_that_is_below() {
        let own = pattern("Example.com.");
        assert_eq!(own.to_string(), "example.com");
        for name in ["example.com", "EXAMPLE.com", "example.com."] {
            assert!(own.fits(name), "{name}");
        }
        for name in ["a.example.com", "example.co", "xexample.com", "com", "", "."] {
            assert!(!own.fits(name), "{name}");
        }
        let below = pattern("*.example.com");
        assert_eq!(below.to_string(), "*.example.com");
        for name in ["a.example.com", "a.b.Example.Com.", "*.example.com"] {
            assert!(below.fits(name), "{name}");
        }
        for name in ["example.com", ".example.com", "aexample.com", "a.example.com.evil.test"] {
            assert!(!below.fits(name), "{name}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = format!("{}.com", "a".repeat(64));
        let longer = ["abcdefgh"; 29].join(".");
        for text in [
            "",
            ".",
            "*",
            "*.",
            "*.*.com",
            "a.*.com",
            "a..b",
            "-a.com",
            "a-.com",
            "a b.com",
            "ü.de",
            "10.0.0.300",
            "1.2.3.4",
            "example.com:80",
            "http://a",
            "a/b",
            "[::1]",
            &long,
            &longer,
        ] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
        for text in ["localhost", "xn--bcher-kva.example", "_dmarc.a.b", "1.a", "3com.com"] {
            assert_eq!(pattern(text).to_string(), text);
        }
    }
}
