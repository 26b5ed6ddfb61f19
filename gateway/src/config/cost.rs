//! `cost`: what sandboxes cost, and `resource-events`: how often it is told what each uses.

use super::{Error, Given};
use crate::events::{Cost, Tariff};

pub(super) const NAME: &str = "cost";
pub(super) const RESOURCE_EVENTS: &str = "resource-events";
const ALLOWED: &str = "core-second, gib-second and paused-gib-hour, each from 0 to 1000 with up to \
                       9 decimals, such as core-second=0.000014,gib-second=0.0000045";

impl Given {
    pub(super) fn tariff(&mut self) -> Result<Tariff, Error> {
        self.take(NAME, "", |text| parse(text).ok_or_else(|| ALLOWED.to_owned()))
    }

    /// Seconds; 0 is never.
    pub(super) fn resource_events(&mut self) -> Result<u32, Error> {
        let seconds = self.number(RESOURCE_EVENTS, "30", 0, 86_400)?;
        Ok(u32::try_from(seconds).unwrap_or_default())
    }
}

/// As it would be written on the command line.
pub(super) fn text_of(rates: &toml::Table) -> Option<String> {
    let parts = rates.iter().map(|(name, rate)| {
        let rate = match rate {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            // The shortest digits that mean it, and no exponent.
            toml::Value::Float(number) => number.to_string(),
            _ => return None,
        };
        Some(format!("{name}={rate}"))
    });
    Some(parts.collect::<Option<Vec<_>>>()?.join(","))
}

fn parse(text: &str) -> Option<Tariff> {
    let mut rates = Tariff::default();
    let mut said = Vec::new();
    for part in text.split([',', ' ']).filter(|part| !part.is_empty()) {
        let (name, rate) = part.split_once('=')?;
        let rate = amount(rate).filter(|rate| *rate <= Tariff::MOST)?;
        match name {
            "core-second" => rates.core_second = rate,
            "gib-second" => rates.gib_second = rate,
            "paused-gib-hour" => rates.paused_gib_hour = rate,
            _ => return None,
        }
        if said.contains(&name) {
            return None;
        }
        said.push(name);
    }
    Some(rates)
}

/// A decimal number, by its digits: what a double would make of it might be another one.
fn amount(text: &str) -> Option<Cost> {
    const DECIMALS: usize = 9;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || fraction.len() > DECIMALS || !digits(whole) || !digits(fraction) {
        return None;
    }
    format!("{whole}{fraction:0<DECIMALS$}").parse().ok().map(Cost::from_nanos)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::config;
    use super::*;

    #[test]
    fn rates_are_given_in_a_flag_or_a_table_to_the_last_digit() {
        let rates = |flags: &[(&'static str, &str)]| config(flags, &[]).unwrap().tariff;
        assert!(rates(&[]).is_free());
        let all = Tariff {
            core_second: Cost::from_nanos(14_000),
            gib_second: Cost::from_nanos(1),
            paused_gib_hour: Cost::from_nanos(2_500_000_000),
        };
        let text = "core-second=0.000014,gib-second=0.000000001, paused-gib-hour=2.5";
        assert_eq!(rates(&[("cost", text)]), all);
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        for toml in [
            "[cost]\ncore-second = 0.000014\ngib-second = 0.000000001\npaused-gib-hour = 2.5\n",
            "[cost]\ncore-second = 1.4e-5\ngib-second = \"0.000000001\"\npaused-gib-hour = 2.5\n",
        ] {
            fs::write(file.path(), toml).unwrap();
            assert_eq!(rates(&[("config", path)]), all, "{toml}");
        }
        let seconds = |text| config(&[("resource-events", text)], &[]).map(|it| it.resource_events);
        assert_eq!(config(&[], &[]).unwrap().resource_events, 30);
        assert_eq!(seconds("0").unwrap(), 0);
        assert!(seconds("86401").is_err());
    }

    #[test]
    fn what_is_no_rate_is_refused_with_an_example() {
        for wrong in [
            "core-second",
            "core-second=",
            "core-second=-1",
            "core-second=1e-5",
            "core-second=.5",
            "core-second=0.0000000001",
            "core-second=1000.1",
            "core-second=1,core-second=2",
            "core-hour=1",
        ] {
            let error = config(&[("cost", wrong)], &[]).err().expect(wrong).to_string();
            assert!(
                error.starts_with("--cost: ") && error.contains("core-second=0.000014"),
                "{error}"
            );
        }
    }
}
