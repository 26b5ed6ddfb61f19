//! `coppice events audit`: every action of an agent, or in a sandbox, in its order.

use std::{collections::HashSet, process::ExitCode};

use anyhow::ensure;
use chrono::{DateTime, SecondsFormat, Utc};

use super::{Asking, Told, about, all, instant, say, shown};

/// What somebody does; what is used and what it costs is nobody's action.
const TYPES: &str = "sandbox.*,exec.*,file.*,tool.*,port.*,network.*,kernel.*,code.*";
/// Of what it is about (characters).
const WORDS: usize = 200;

#[derive(clap::Args)]
pub(crate) struct Asked {
    #[command(flatten)]
    asking: Asking,
    /// Of this agent: what it told of itself, and what came of that
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Since when: 5m, 24h or 7d ago, or a time of RFC 3339
    #[arg(long, value_name = "WHEN", default_value = "24h", value_parser = instant)]
    since: DateTime<Utc>,
}

/// Who did what, as far as it was said.
#[derive(Default)]
struct Agent {
    id: Option<String>,
    /// The ids of what it did.
    did: HashSet<String>,
}

impl Agent {
    fn has_done(&mut self, told: &Told) -> bool {
        let Some(id) = &self.id else { return true };
        let came_of = told.parent_id.as_ref().is_some_and(|parent| self.did.contains(parent));
        let its_own = told.text("agentId") == Some(id) || came_of;
        if its_own {
            self.did.insert(told.id.clone());
        }
        its_own
    }
}

pub(super) async fn run(asked: Asked) -> anyhow::Result<ExitCode> {
    let Asked { asking, agent, since } = asked;
    ensure!(
        agent.is_some() || asking.sandbox.is_some(),
        "whose actions? give --agent or --sandbox"
    );
    let until = asking.until.unwrap_or_else(Utc::now);
    let mut agent = Agent { id: agent, did: HashSet::new() };
    all(&asking, TYPES, since, until, |told| {
        if !agent.has_done(&told) {
            return Ok(());
        }
        if asking.json {
            return Ok(say(&format!("{}\n", serde_json::to_string(&told)?))?);
        }
        Ok(say(&line(&told))?)
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}

fn line(told: &Told) -> String {
    let time = told.timestamp.to_rfc3339_opts(SecondsFormat::Millis, true);
    let sandbox = told.sandbox_id.get(..12).unwrap_or(&told.sandbox_id);
    let agent = told.text("agentId").map(|id| shown(id, 20)).unwrap_or_else(|| "-".to_owned());
    let words = shown(&about(told), WORDS);
    format!("{time}  {sandbox}  {agent:<12}  {:<28}  {words}", told.kind).trim_end().to_owned()
        + "\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::tests::told, *};

    #[test]
    fn an_agents_actions_are_those_it_tells_and_what_comes_of_them() {
        let mut agent = Agent { id: Some("a1".into()), did: HashSet::new() };
        let invoked = told("tool.invoked", "s", 0, json!({"toolName": "x", "agentId": "a1"}));
        let other = told("tool.invoked", "s", 1, json!({"toolName": "x", "agentId": "a2"}));
        let after = |of: &Told, kind: &str, second: u32| Told {
            parent_id: Some(of.id.clone()),
            ..told(kind, "s", second, json!({"toolName": "x"}))
        };
        let done = after(&invoked, "tool.completed", 2);
        let further = after(&done, "tool.invoked", 3);
        for (told, its_own) in [
            (&invoked, true),
            (&other, false),
            (&done, true),
            (&further, true),
            (&after(&other, "tool.failed", 4), false),
        ] {
            assert_eq!(agent.has_done(told), its_own, "{told:?}");
        }
        assert!(Agent::default().has_done(&other));
        let line = line(&invoked);
        assert!(
            line.starts_with("2026-06-15T10:00:00.000Z  s  a1            tool.invoked"),
            "{line}"
        );
    }
}
