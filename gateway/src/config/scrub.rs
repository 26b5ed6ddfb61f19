//! `[events.scrub]`: what is taken out of events.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::events::{Scrub, ScrubRules};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Said {
    /// Of stdout and stderr, each.
    output_bytes: Option<usize>,
    /// By name.
    patterns: BTreeMap<String, String>,
    /// Those that come with the gateway and are not wanted.
    without: BTreeSet<String>,
}

impl Said {
    /// Fails with what is wrong, also with a pattern.
    pub(super) fn rules(self) -> Result<ScrubRules, String> {
        let Self { output_bytes, patterns, without } = self;
        let output = output_bytes.unwrap_or(ScrubRules::default().output);
        let rules = ScrubRules { output, patterns, without };
        Scrub::new(&rules).map_err(|error| format!("scrub: {error}"))?;
        Ok(rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Result<ScrubRules, String> {
        toml::from_str::<Said>(text).map_err(|error| error.message().to_owned())?.rules()
    }

    #[test]
    fn patterns_are_added_and_left_out_by_their_names() {
        assert_eq!(rules(""), Ok(ScrubRules::default()));
        let text = "output_bytes = 100\nwithout = [\"jwt\"]\n[patterns]\nbadge = 'ACME-\\d{8}'";
        let read = rules(text).unwrap();
        assert_eq!((read.output, read.patterns["badge"].as_str()), (100, r"ACME-\d{8}"));
        assert!(read.without.contains("jwt"));
        for (text, why) in [
            ("output_bytes = 4097", "scrub: output_bytes: 4097 is more than 4096 bytes"),
            ("[patterns]\nbadge = '('", "scrub: pattern badge: "),
            ("without = [\"none\"]", "scrub: there is no pattern \"none\""),
            ("with = 1", "unknown field `with`"),
        ] {
            let error = rules(text).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }
}
