//! Lists in pages: the filter by metadata and the token of the next page.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, SecondsFormat, Utc};
use percent_encoding::percent_decode_str;
use utoipa::{IntoParams, ToSchema};

use super::extract::Parameters;
use crate::{error::ApiError, sandbox::SandboxId};

/// On one page.
pub(super) const MOST: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
pub(super) enum Order {
    #[schema(rename = "asc")]
    Ascending,
    #[schema(rename = "desc")]
    Descending,
}

/// Which page of a list is asked for.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Paging {
    /// 100 if left out
    #[param(value_type = Option<usize>, minimum = 1, maximum = 100)]
    pub(super) limit: usize,
    /// from the page before
    #[param(rename = "nextToken")]
    pub(super) token: Option<String>,
}

impl Paging {
    pub(super) fn parse(parameters: &Parameters) -> Result<Self, ApiError> {
        let limit = parameters.take("limit").map_or(Some(MOST), |text| text.parse().ok());
        let limit = limit.filter(|limit| (1..=MOST).contains(limit));
        let wrong = || ApiError::bad_request(format!("limit must be between 1 and {MOST}"));
        Ok(Self { limit: limit.ok_or_else(wrong)?, token: parameters.text("nextToken") })
    }
}

/// Of lists in the order of names: the last name of the page before.
pub(super) mod names {
    use super::{ApiError, BASE64_URL_SAFE_NO_PAD, Engine};

    pub(in super::super) fn token(last: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(format!("name__{last}"))
    }

    pub(in super::super) fn parse(token: &str) -> Result<String, ApiError> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).ok();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let name = text.and_then(|text| Some(text.strip_prefix("name__")?.to_owned()));
        name.ok_or_else(|| ApiError::bad_request("Invalid next token"))
    }
}

/// The last sandbox of the page before. To a client its text means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) started_at: DateTime<Utc>,
    pub(super) id: SandboxId,
    pub(super) order: Order,
}

impl Cursor {
    pub(super) fn token(&self) -> String {
        let time = self.started_at.to_rfc3339_opts(SecondsFormat::Nanos, true);
        let order = match self.order {
            Order::Ascending => "__asc",
            Order::Descending => "",
        };
        BASE64_URL_SAFE_NO_PAD.encode(format!("{time}__{}{order}", self.id))
    }

    /// Reads a token of a list in the same order.
    pub(super) fn parse(token: &str, order: Order) -> Result<Self, ApiError> {
        let cursor = Self::read(token.trim_end_matches('='));
        cursor
            .filter(|cursor| cursor.order == order)
            .ok_or_else(|| ApiError::bad_request("Invalid next token"))
    }

    fn read(token: &str) -> Option<Self> {
        let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let mut parts = text.split("__");
        let (time, id, order) = (parts.next()?, parts.next()?, parts.next());
        let order = match (order, parts.next()) {
            (None, _) => Order::Descending,
            (Some("asc"), None) => Order::Ascending,
            _ => return None,
        };
        let started_at = DateTime::parse_from_rfc3339(time).ok()?.with_timezone(&Utc);
        Some(Self { started_at, id: id.parse().ok()?, order })
    }
}

/// Pairs a sandbox's metadata must have, all of them.
///
/// Clients encode three times: each key and value, the `k=v&k=v` form of them, and that as a value
/// of the query. `text` is what the query decodes to.
pub(super) fn metadata_filter(text: &str) -> Result<BTreeMap<String, String>, ApiError> {
    let refused = || ApiError::bad_request(format!("Invalid metadata filter {text:?}"));
    let form = unescape(text).ok_or_else(refused)?;
    let pairs = form.split('&').map(|pair| {
        let (key, value) = pair.split_once('=').filter(|(_, value)| !value.contains('='))?;
        Some((unescape(key)?, unescape(value)?))
    });
    pairs.collect::<Option<_>>().ok_or_else(refused)
}

/// As in a form: `+` is a space, and a `%` that escapes nothing is an error.
fn unescape(text: &str) -> Option<String> {
    let hex = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_hexdigit);
    if text.match_indices('%').any(|(at, _)| !hex(at + 1) || !hex(at + 2)) {
        return None;
    }
    let spaced = text.replace('+', " ");
    Some(percent_decode_str(&spaced).decode_utf8().ok()?.into_owned())
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    fn escape(text: &str) -> String {
        utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
    }

    proptest! {
        #[test]
        fn a_token_is_read_as_it_was_written(seconds in 0..4_000_000_000_i64, nanos in 0..1_000_000_000_u32, ascending: bool) {
            let order = if ascending { Order::Ascending } else { Order::Descending };
            let started_at = DateTime::from_timestamp(seconds, nanos).unwrap();
            let cursor = Cursor { started_at, id: SandboxId::random(), order };
            prop_assert_eq!(Cursor::parse(&cursor.token(), order).unwrap(), cursor);
            let other = if ascending { Order::Descending } else { Order::Ascending };
            prop_assert!(Cursor::parse(&cursor.token(), other).is_err());
        }

        #[test]
        fn no_token_is_misread_or_breaks(token in ".{0,80}", text in ".{0,60}") {
            let _ = Cursor::parse(&token, Order::Ascending);
            let _ = Cursor::parse(&BASE64_URL_SAFE_NO_PAD.encode(text), Order::Descending);
        }

        #[test]
        fn metadata_is_read_as_clients_write_it(pairs in prop::collection::btree_map(".{1,12}", ".{0,12}", 1..5)) {
            let form: Vec<String> = pairs
                .iter()
                .map(|(k, v)| format!("{}={}", escape(&escape(k)), escape(&escape(v))))
                .collect();
            prop_assert_eq!(metadata_filter(&form.join("&")).unwrap(), pairs);
        }

        #[test]
        fn no_metadata_breaks(text in ".{0,60}") {
            let _ = metadata_filter(&text);
        }
    }

    #[test]
    fn metadata_without_exactly_one_equals_sign_is_refused() {
        for wrong in ["a", "a=b=c", "a=b&", "&", "a=b&c", "%", "a=%2", "a=%zz", "a=%25ff"] {
            assert!(metadata_filter(wrong).is_err(), "{wrong}");
        }
        let read = metadata_filter("a=b+c&d=").unwrap();
        assert_eq!(read["a"], "b c");
        assert_eq!(read["d"], "");
    }
}
