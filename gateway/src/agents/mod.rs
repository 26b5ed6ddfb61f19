//! Agents, whose sandboxes are counted together: who they are says the operator, and which sandboxes
//! are theirs say the clients that make those, by `agent_id` in the metadata.
//!
//! An agent is no tenant: what one tenant says of its sandboxes is nothing to another, and never
//! has any effect on its.

mod room;
mod thresholds;

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::Deserialize;

use crate::sandbox::{AGENT, Sandbox};

pub use room::keep_room;
pub use thresholds::keep_watch;

/// There are no more than so many, and nothing about one is longer (bytes).
const MOST: usize = 10_000;
const LONGEST: usize = 256;

/// As the operator says.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Agent {
    pub id: String,
    /// For people; its id where nothing is said.
    #[serde(default)]
    pub name: String,
    #[serde(default = "yes", alias = "sandbox_enabled")]
    pub sandbox_enabled: bool,
    /// Sandboxes that run at once.
    #[serde(default, alias = "max_containers")]
    pub max_containers: Option<usize>,
    /// What becomes of the one that was used least lately, when there are more.
    #[serde(default, alias = "when_full")]
    pub when_full: WhenFull,
    /// Percent of one core from which on its sandboxes' CPU time is told of.
    #[serde(default, alias = "cpu_threshold")]
    pub cpu_threshold: Option<f64>,
    /// Percent of what a sandbox may have of memory.
    #[serde(default, alias = "memory_threshold")]
    pub memory_threshold: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenFull {
    #[default]
    End,
    Pause,
}

fn yes() -> bool {
    true
}

/// Why that is no list of agents.
#[derive(Debug, PartialEq, Eq)]
pub struct Invalid(String);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Those there are, by their ids; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Agents(Arc<BTreeMap<String, Agent>>);

impl Agents {
    pub fn new(agents: Vec<Agent>) -> Result<Self, Invalid> {
        if agents.len() > MOST {
            return Err(Invalid(format!("at most {MOST} agents")));
        }
        let mut known = BTreeMap::new();
        for mut agent in agents {
            let id = agent.id.clone();
            let wrong = |why: &str| Err(Invalid(format!("agent {id:?}: {why}")));
            let sized = |text: &str| text.len() <= LONGEST && !text.contains(char::is_control);
            if id.is_empty() || !sized(&id) || id.contains('/') {
                return wrong("an id is 1 to 256 bytes without a slash");
            }
            if !sized(&agent.name) {
                return wrong("a name is 256 bytes at most");
            }
            if agent.max_containers == Some(0) {
                return wrong("max-containers is 1 or more");
            }
            let percent = |percent: &f64| percent.is_finite() && *percent > 0.0;
            if !agent.cpu_threshold.as_ref().is_none_or(percent) {
                return wrong("cpu-threshold is a percentage above 0, 100 being one core");
            }
            if !agent.memory_threshold.as_ref().is_none_or(|it| percent(it) && *it <= 100.0) {
                return wrong("memory-threshold is a percentage from 0 to 100");
            }
            if agent.name.is_empty() {
                agent.name.clone_from(&id);
            }
            if known.insert(id.clone(), agent).is_some() {
                return wrong("it is there twice");
            }
        }
        Ok(Self(Arc::new(known)))
    }

    /// Agents of whom nothing is known but their ids.
    pub fn named<'a>(ids: impl Iterator<Item = &'a str>) -> Result<Self, Invalid> {
        let agents = ids.map(|id| Agent {
            id: id.to_owned(),
            name: String::new(),
            sandbox_enabled: true,
            max_containers: None,
            when_full: WhenFull::End,
            cpu_threshold: None,
            memory_threshold: None,
        });
        Self::new(agents.collect())
    }

    pub fn get(&self, id: &str) -> Option<&Agent> {
        self.0.get(id)
    }

    /// Whose a sandbox is, if it is anybody's here.
    fn of(&self, sandbox: &Sandbox) -> Option<&Agent> {
        self.get(sandbox.metadata().get(AGENT)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn agent(id: &str) -> Agent {
        Agents::named([id].into_iter()).unwrap().get(id).unwrap().clone()
    }

    #[test]
    fn an_agent_is_called_as_its_id_unless_it_has_a_name() {
        let named = Agent { name: "The second".into(), ..agent("b") };
        let agents = Agents::new(vec![agent("a"), named]).unwrap();
        assert_eq!((&*agents.get("a").unwrap().name, agents.get("c")), ("a", None));
        assert_eq!(agents.get("b").unwrap().name, "The second");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (wrong, expected) in [
            (Agent { id: String::new(), ..agent("a") }, "an id is"),
            (Agent { id: "a/b".into(), ..agent("a") }, "an id is"),
            (Agent { id: "x".repeat(257), ..agent("a") }, "an id is"),
            (Agent { max_containers: Some(0), ..agent("a") }, "max-containers"),
            (Agent { cpu_threshold: Some(0.0), ..agent("a") }, "cpu-threshold"),
            (Agent { cpu_threshold: Some(f64::NAN), ..agent("a") }, "cpu-threshold"),
            (Agent { memory_threshold: Some(100.5), ..agent("a") }, "memory-threshold"),
            (agent("b"), "twice"),
        ] {
            let error = Agents::new(vec![agent("b"), wrong]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
