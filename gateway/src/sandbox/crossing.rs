//! That what a sandbox uses has crossed what its agent is to be told of.

use std::collections::BTreeMap;

use super::{Level, Sandbox, Sandboxes};

impl Sandboxes {
    /// Takes note of it. `used` and `threshold` are in percent.
    pub(crate) fn crossed(
        &self,
        sandbox: &Sandbox,
        agent: &str,
        resource: &'static str,
        above: bool,
        used: f64,
        threshold: f64,
    ) {
        let (level, message) = match above {
            true => (Level::Warn, "above its agent's threshold"),
            false => (Level::Info, "below its agent's threshold again"),
        };
        let fields = [
            ("agent", agent.to_owned()),
            ("percent", format!("{used:.1}")),
            ("resource", resource.to_owned()),
            ("threshold", threshold.to_string()),
        ];
        let fields: BTreeMap<_, _> =
            fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        sandbox.journal().note_with(level, message, fields);
    }
}
