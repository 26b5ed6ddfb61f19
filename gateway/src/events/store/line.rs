//! A line of the file, taken apart as far as it has to be.

use std::borrow::Cow;

use chrono::DateTime;
use serde::Deserialize;
use serde_json::value::RawValue;

/// One event as it stands in the file. Its type need not be one that this gateway knows.
#[derive(Debug, Deserialize)]
pub struct Line<'a> {
    pub timestamp: &'a str,
    pub id: &'a str,
    #[serde(rename = "parentId", default)]
    pub parent: Option<&'a str>,
    #[serde(rename = "sandboxId")]
    pub sandbox: &'a str,
    #[serde(rename = "type")]
    pub kind: &'a str,
    #[serde(borrow)]
    pub data: &'a RawValue,
    #[serde(rename = "traceId", default)]
    pub trace: Option<&'a str>,
    pub tenant: &'a str,
    #[serde(borrow)]
    pub template: Cow<'a, str>,
}

impl<'a> Line<'a> {
    /// `None` of what is no event: the file says how many are missing in lines of its own.
    pub fn read(text: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// Since the epoch.
    pub(super) fn millis(&self) -> Option<i64> {
        Some(DateTime::parse_from_rfc3339(self.timestamp).ok()?.timestamp_millis())
    }
}
