//! From when until when a certificate is good: what rustls keeps to itself.

use chrono::{DateTime, NaiveDateTime, Utc};

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: DateTime<Utc>,
    pub(super) not_after: DateTime<Utc>,
}

impl Validity {
    /// Of a certificate in DER (RFC 5280 section 4.1); `None` for what is none.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (signed, _) = element(certificate, SEQUENCE)?;
        let (mut fields, _) = element(signed, SEQUENCE)?;
        if fields.first() == Some(&VERSION) {
            (_, fields) = split(fields)?;
        }
        // Serial number, signature algorithm, issuer.
        for _ in 0..3 {
            (_, fields) = split(fields)?;
        }
        let (validity, _) = element(fields, SEQUENCE)?;
        let (_, not_after) = split(validity)?;
        Some(Self { not_before: time(validity)?, not_after: time(not_after)? })
    }

    /// When two thirds of it are over.
    pub(super) fn renewal(self) -> DateTime<Utc> {
        self.not_before + (self.not_after - self.not_before) / 3 * 2
    }
}

fn time(der: &[u8]) -> Option<DateTime<Utc>> {
    let text = |content: &[u8]| String::from_utf8(content.to_vec()).ok();
    let full = match *der.first()? {
        UTC_TIME => {
            let short = text(element(der, UTC_TIME)?.0)?;
            // Two digits of a year mean 1950 to 2049.
            let century = if short.get(..2)?.parse::<u8>().ok()? < 50 { "20" } else { "19" };
            format!("{century}{short}")
        }
        _ => text(element(der, GENERALIZED_TIME)?.0)?,
    };
    Some(NaiveDateTime::parse_from_str(&full, "%Y%m%d%H%M%SZ").ok()?.and_utc())
}

/// The content of the element `der` begins with, which must be of that kind, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    if der.first() == Some(&tag) { split(der) } else { None }
}

fn split(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.get(1..)?.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = bytes.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
            (usize::try_from(length).ok()?, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn certificate(year: i32) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(year - 9, 11, 5);
        params.not_after = rcgen::date_time_ymd(year, 11, 5);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn both_ways_to_write_a_time_are_read() {
        for year in [1999, 2027, 2049, 2050, 4096] {
            let found = Validity::of(&certificate(year)).unwrap();
            assert_eq!(found.not_before.to_rfc3339(), format!("{}-11-05T00:00:00+00:00", year - 9));
            assert_eq!(found.not_after.to_rfc3339(), format!("{year}-11-05T00:00:00+00:00"));
        }
    }

    #[test]
    fn a_certificate_cut_short_has_no_time() {
        let whole = certificate(2030);
        for length in 0..whole.len() {
            assert_eq!(Validity::of(&whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn a_certificate_is_renewed_when_two_thirds_of_its_time_are_over() {
        let whole = Validity::of(&certificate(2030)).unwrap();
        assert_eq!(whole.renewal().to_rfc3339(), "2027-11-05T08:00:00+00:00");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            Validity::of(&bytes);
        }
    }
}
