//! What a receiver answers, by OTLP over HTTP and over gRPC, and what it means: taken, to be sent
//! again and when, or never to be.

use std::time::Duration;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::{BufMut, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use http::{HeaderMap, StatusCode, header};
use prost::Message;

/// What a receiver may have us wait at most: its word is not to stop us for good, and is far from what
/// a clock can be added to.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// Of a text that a receiver gives, in the log (bytes).
const LONGEST: usize = 512;
/// Padding or none: both are seen.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// With how many of it were refused, and what was said to that.
    Taken { refused: u64, said: String },
    /// It may be taken later, and not before so long.
    Later { after: Option<Duration>, why: String },
    /// It would not be taken later either.
    Refused(String),
}

impl Answer {
    pub(super) fn later(why: impl Into<String>) -> Self {
        Self::Later { after: None, why: why.into() }
    }
}

/// `google.rpc.Status`, and what of it is looked for.
#[derive(Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

#[derive(Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl Status {
    /// `None` where nothing is said of sending it again.
    fn delay(&self) -> Option<Duration> {
        let info =
            self.details.iter().find(|any| any.type_url.ends_with("google.rpc.RetryInfo"))?;
        let info = RetryInfo::decode(info.value.clone()).ok()?;
        let Delay { seconds, nanos } = info.retry_delay.unwrap_or_default();
        let delay = Duration::new(seconds.try_into().unwrap_or(0), nanos.try_into().unwrap_or(0));
        Some(delay.min(LONGEST_WAIT))
    }
}

/// Of an answer over HTTP that is not 200: the specification's list of what may be sent again.
pub(super) fn of_http(status: StatusCode, headers: &HeaderMap, body: &Bytes, json: bool) -> Answer {
    let said = if json {
        let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        body["message"].as_str().unwrap_or_default().to_owned()
    } else {
        Status::decode(body.clone()).map(|status| status.message).unwrap_or_default()
    };
    let why = match said.as_str() {
        "" => format!("HTTP {status}"),
        said => format!("HTTP {status}: {}", short(said)),
    };
    match status.as_u16() {
        429 | 502 | 503 | 504 => Answer::Later { after: retry_after(headers), why },
        _ => Answer::Refused(why),
    }
}

/// `Retry-After`, in seconds or as a date, of an hour at most.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds).min(LONGEST_WAIT));
    }
    let at = DateTime::parse_from_rfc2822(text).ok()?;
    Some((at.to_utc() - Utc::now()).to_std().unwrap_or_default().min(LONGEST_WAIT))
}

/// A message as it goes over gRPC.
pub(super) fn framed(message: &[u8], gzip: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(gzip.into());
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// The one message of an answer over gRPC; none where there is none, or it is broken off. Nobody
/// was told that we read compressed ones.
pub(super) fn unframed(mut body: Bytes) -> Option<Bytes> {
    if body.len() < 5 || body[0] != 0 {
        return None;
    }
    let head = body.split_to(5);
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    (body.len() == length as usize).then_some(body)
}

/// Of an answer over gRPC, by its trailers, which may have come as headers: `None` is success.
pub(super) fn of_grpc(status: StatusCode, trailers: &HeaderMap) -> Option<Answer> {
    let Some(code) = trailers.get("grpc-status").and_then(|it| it.to_str().ok()?.parse().ok())
    else {
        // By gRPC's own table: what comes from a proxy on the way may be over soon.
        let why = format!("HTTP {status} without a grpc-status");
        return Some(match status.as_u16() {
            200 | 429 | 502 | 503 | 504 => Answer::later(why),
            _ => Answer::Refused(why),
        });
    };
    let code: u8 = code;
    if code == 0 {
        return None;
    }
    let detail = trailers.get("grpc-status-details-bin");
    let detail = detail.and_then(|it| BASE64.decode(it.as_bytes()).ok());
    let after = detail.and_then(|it| Status::decode(it.as_slice()).ok()).and_then(|it| it.delay());
    let said = trailers.get("grpc-message").map_or(&b""[..], |it| it.as_bytes());
    let said = percent_encoding::percent_decode(said).decode_utf8_lossy();
    let why = format!("gRPC {} {}", name_of(code), short(&said));
    Some(match code {
        // Cancelled, deadline exceeded, aborted, out of range, unavailable, data loss.
        1 | 4 | 10 | 11 | 14 | 15 => Answer::Later { after, why },
        // Resource exhausted: by the specification only where it is said that it may recover.
        8 if after.is_some() => Answer::Later { after, why },
        _ => Answer::Refused(why),
    })
}

fn name_of(code: u8) -> String {
    let names = [
        (1, "CANCELLED"),
        (3, "INVALID_ARGUMENT"),
        (4, "DEADLINE_EXCEEDED"),
        (7, "PERMISSION_DENIED"),
        (8, "RESOURCE_EXHAUSTED"),
        (12, "UNIMPLEMENTED"),
        (14, "UNAVAILABLE"),
        (16, "UNAUTHENTICATED"),
    ];
    let name = names.iter().find(|(known, _)| *known == code);
    name.map_or_else(|| code.to_string(), |(_, name)| (*name).to_owned())
}

/// Of one line, as much as is worth having in a log.
pub(crate) fn short(text: &str) -> String {
    let end = text.floor_char_boundary(LONGEST);
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn exhausted(delay: Option<Delay>) -> HeaderMap {
        let details = delay.map(|delay| Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".into(),
            value: RetryInfo { retry_delay: Some(delay) }.encode_to_vec().into(),
        });
        let status = Status { code: 8, message: "full".into(), details: Vec::from_iter(details) };
        let detail = BASE64.encode(status.encode_to_vec());
        headers(&[
            ("grpc-status", "8"),
            ("grpc-message", "too%20much"),
            ("grpc-status-details-bin", detail.trim_end_matches('=')),
        ])
    }

    #[test]
    fn over_http_four_statuses_are_sent_again_and_no_other() {
        let none = HeaderMap::new();
        for status in 300..600_u16 {
            let code = StatusCode::from_u16(status).unwrap();
            let later = matches!(
                of_http(code, &none, &Bytes::new(), false),
                Answer::Later { after: None, .. }
            );
            assert_eq!(later, [429, 502, 503, 504].contains(&status), "{status}");
        }
        let after = headers(&[("retry-after", "7")]);
        let body = Bytes::from(r#"{"code": 14, "message": "so\nbusy"}"#);
        let answer = of_http(StatusCode::TOO_MANY_REQUESTS, &after, &body, true);
        let why = "HTTP 429 Too Many Requests: so busy".to_owned();
        assert_eq!(answer, Answer::Later { after: Some(Duration::from_secs(7)), why });
        let at = Utc::now() + Duration::from_secs(60);
        let date = headers(&[("retry-after", &at.format("%a, %d %b %Y %H:%M:%S GMT").to_string())]);
        let after = retry_after(&date).unwrap();
        assert!((57..=60).contains(&after.as_secs()), "{after:?}");
        assert_eq!(retry_after(&headers(&[("retry-after", "soon")])), None);
    }

    #[test]
    fn no_receiver_has_us_wait_for_longer_than_an_hour() {
        for far in ["18446744073709551615", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            assert_eq!(retry_after(&headers(&[("retry-after", far)])), Some(LONGEST_WAIT), "{far}");
        }
        let delay = Delay { seconds: i64::MAX, nanos: i32::MAX };
        let answer = of_grpc(StatusCode::OK, &exhausted(Some(delay))).unwrap();
        assert!(matches!(answer, Answer::Later { after: Some(LONGEST_WAIT), .. }), "{answer:?}");
    }

    #[test]
    fn over_grpc_exhausted_is_sent_again_only_where_it_says_when() {
        let delay = Delay { seconds: 2, nanos: 500_000_000 };
        let answer = of_grpc(StatusCode::OK, &exhausted(Some(delay))).unwrap();
        let why = "gRPC RESOURCE_EXHAUSTED too much".to_owned();
        assert_eq!(answer, Answer::Later { after: Some(Duration::from_millis(2500)), why });
        let answer = of_grpc(StatusCode::OK, &exhausted(None)).unwrap();
        assert!(matches!(answer, Answer::Refused(_)), "{answer:?}");
        assert_eq!(of_grpc(StatusCode::OK, &headers(&[("grpc-status", "0")])), None);
        for code in 1..=16_u8 {
            let answer = of_grpc(StatusCode::OK, &headers(&[("grpc-status", &code.to_string())]));
            let later = matches!(answer, Some(Answer::Later { .. }));
            assert_eq!(later, [1, 4, 10, 11, 14, 15].contains(&code), "{code}");
        }
        let proxy = of_grpc(StatusCode::BAD_GATEWAY, &HeaderMap::new());
        assert!(matches!(proxy, Some(Answer::Later { .. })), "{proxy:?}");
        let wrong = of_grpc(StatusCode::from_u16(404).unwrap(), &HeaderMap::new());
        assert!(matches!(wrong, Some(Answer::Refused(_))), "{wrong:?}");
    }

    #[test]
    fn a_frame_is_read_as_it_was_written_and_nothing_else_is() {
        let frame = framed(b"abc", false);
        assert_eq!(frame[..], [0, 0, 0, 0, 3, b'a', b'b', b'c']);
        assert_eq!(unframed(frame.clone()).unwrap(), &b"abc"[..]);
        for broken in [&frame[..7], &frame[..4], &framed(b"abc", true), &[]] {
            assert_eq!(unframed(Bytes::copy_from_slice(broken)), None);
        }
    }
}
