//! W3C Trace Context: the header `traceparent`, read strictly. What is not one is as if it were
//! not there (<https://www.w3.org/TR/trace-context/>, section 3.2).

use std::{fmt, str::FromStr};

use http::HeaderMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

pub const HEADER: &str = "traceparent";
/// By which programs are told theirs.
pub const VARIABLE: &str = "TRACEPARENT";

/// Bytes of one of version 00; later ones begin with as many.
const LENGTH: usize = 55;

/// What belongs together, over all services: 16 bytes, never all zero; 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId([u8; 16]);

/// Whose doing a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traceparent {
    pub trace: TraceId,
    /// The span that asks, never all zero.
    pub parent: [u8; 8],
    pub flags: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not of the form 00-<32 hex digits>-<16 hex digits>-<2 hex digits>")]
pub struct Invalid;

impl TraceId {
    pub fn bytes(self) -> [u8; 16] {
        self.0
    }

    /// `None`: all are zero, which is no trace.
    pub fn of(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }
}

impl Traceparent {
    /// Of a request; two are none, as nobody can say which.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all(HEADER).iter();
        match (all.next(), all.next()) {
            (Some(one), None) => one.to_str().ok()?.parse().ok(),
            _ => None,
        }
    }
}

impl FromStr for Traceparent {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bytes = text.as_bytes();
        let (head, rest) = bytes.split_at_checked(LENGTH).ok_or(Invalid)?;
        if [2, 35, 52].iter().any(|at| head[*at] != b'-') {
            return Err(Invalid);
        }
        let [version] = hex(&head[..2])?;
        let known = version == 0 && rest.is_empty();
        let later = version > 0 && version < 0xff && rest.first().is_none_or(|next| *next == b'-');
        if !known && !later {
            return Err(Invalid);
        }
        let trace = TraceId::of(hex(&head[3..35])?).ok_or(Invalid)?;
        let parent = hex(&head[36..52])?;
        if parent == [0; 8] {
            return Err(Invalid);
        }
        let [flags] = hex(&head[53..])?;
        Ok(Self { trace, parent, flags })
    }
}

/// As version 00.
impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parent = u64::from_be_bytes(self.parent);
        write!(f, "00-{}-{parent:016x}-{:02x}", self.trace, self.flags)
    }
}

impl FromStr for TraceId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::of(hex(text.as_bytes())?).ok_or(Invalid)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Exactly so many lower-case digits.
fn hex<const N: usize>(digits: &[u8]) -> Result<[u8; N], Invalid> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(Invalid),
    };
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return Err(Invalid);
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_recommendation_is_read() {
        let read: Traceparent = EXAMPLE.parse().unwrap();
        assert_eq!(read.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(
            (read.parent, read.flags),
            ([0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7], 1)
        );
        assert_eq!(read.to_string(), EXAMPLE);
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        let with = |at: std::ops::Range<usize>, text: &str| {
            let mut wrong = EXAMPLE.to_owned();
            wrong.replace_range(at, text);
            wrong
        };
        for wrong in [
            String::new(),
            "00".into(),
            EXAMPLE[..54].into(),
            format!("{EXAMPLE}-00"),
            format!("{EXAMPLE} "),
            format!(" {EXAMPLE}"),
            EXAMPLE.to_uppercase(),
            with(0..2, "ff"),
            with(0..2, "0x"),
            with(2..3, "_"),
            with(35..36, "0"),
            with(3..35, &"0".repeat(32)),
            with(36..52, &"0".repeat(16)),
            with(36..37, "g"),
            with(53..55, "é"),
            format!("{}x", with(0..2, "01")),
        ] {
            assert!(wrong.parse::<Traceparent>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn of_a_later_version_what_is_known_of_it_is_read() {
        for rest in ["", "-", "-more-to-come"] {
            let later = format!("cc{}{rest}", &EXAMPLE[2..]);
            assert_eq!(later.parse::<Traceparent>().unwrap().to_string(), EXAMPLE, "{later}");
        }
    }

    #[test]
    fn a_request_has_one_or_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(Traceparent::of(&headers), None);
        headers.append(HEADER, HeaderValue::from_static(EXAMPLE));
        assert_eq!(Traceparent::of(&headers), EXAMPLE.parse().ok());
        headers.append(HEADER, HeaderValue::from_static(EXAMPLE));
        assert_eq!(Traceparent::of(&headers), None);
        headers.insert(HEADER, HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(Traceparent::of(&headers), None);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(trace: [u8; 16], parent: [u8; 8], flags: u8) {
            prop_assume!(parent != [0; 8]);
            let Some(trace) = TraceId::of(trace) else { return Ok(()) };
            let written = Traceparent { trace, parent, flags };
            prop_assert_eq!(written.to_string().parse::<Traceparent>(), Ok(written));
            let json = serde_json::to_string(&trace).unwrap();
            prop_assert_eq!(serde_json::from_str::<TraceId>(&json).unwrap(), trace);
        }

        #[test]
        fn whatever_is_read_is_written_so(text in "[0-9a-g-]{0,60}|\\PC{0,60}") {
            if let Ok(read) = text.parse::<Traceparent>() {
                prop_assert!(text.ends_with(&read.to_string()[2..]) || text.as_bytes()[0] != b'0'
                    || text.as_bytes()[1] != b'0');
            }
        }
    }
}
