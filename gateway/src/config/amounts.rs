//! Amounts of which one is no number.

use std::time::Duration;

/// In MiB, made bytes; `auto` is whatever suits.
pub(super) fn headroom(text: &str) -> Result<Option<u64>, String> {
    if text == "auto" {
        return Ok(None);
    }
    let mib = text.parse::<u64>().ok().filter(|mib| *mib <= 1 << 32);
    mib.map(|mib| Some(mib << 20)).ok_or_else(|| "auto, or a whole number of MiB".to_owned())
}

pub(super) fn hours(text: &str) -> Result<Option<Duration>, String> {
    if text == "none" {
        return Ok(None);
    }
    let hours = text.parse().ok().filter(|hours| (1..=8760).contains(hours));
    let hours: u64 = hours.ok_or("none, or a whole number of hours from 1 to 8760")?;
    Ok(Some(Duration::from_secs(hours * 3600)))
}
