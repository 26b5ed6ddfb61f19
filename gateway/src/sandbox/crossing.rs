//! That what a sandbox uses has crossed what its agent is to be told of.

use std::collections::BTreeMap;

use super::{Level, Sandbox, Sandboxes};
use crate::events::{New, What};

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
        let facts = sandbox.facts();
        let what = What::ResourceThreshold {
            agent_id: agent.to_owned(),
            resource: resource.to_owned(),
            above,
            percent: (used * 10.0).round() / 10.0,
            threshold,
        };
        let template = facts.template.id.as_str();
        self.events().emit(New::of(facts.id, facts.tenant.clone(), template, what));
    }
}
