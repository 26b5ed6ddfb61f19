//! `agents`: whose sandboxes are counted together, and what each agent may have and is told of. Ids
//! in a flag or a variable; in the file tables, `[[agents]]`, with all there is to say of each.

use super::{Error, Given};
use crate::agents::{Agent, Agents};

pub(super) const NAME: &str = "agents";
const ALLOWED: &str = "ids separated by commas, or in the file tables [[agents]] of id, name, \
                       sandbox-enabled, max-containers, when-full, cpu-threshold and \
                       memory-threshold";

impl Given {
    pub(super) fn agents(&mut self) -> Result<Agents, Error> {
        self.take(NAME, "", parse)
    }
}

/// Tables as a list in JSON, which no list of ids is.
pub(super) fn text_of(tables: &[toml::Value]) -> Option<String> {
    tables.iter().all(toml::Value::is_table).then(|| serde_json::to_string(tables).ok())?
}

fn parse(text: &str) -> Result<Agents, String> {
    let agents = if text.starts_with('[') {
        let agents: Vec<Agent> =
            serde_json::from_str(text).map_err(|error| format!("{ALLOWED}: {error}"))?;
        Agents::new(agents)
    } else {
        Agents::named(text.split(',').map(str::trim).filter(|id| !id.is_empty()))
    };
    agents.map_err(|why| format!("{ALLOWED}: {why}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::config;
    use crate::agents::WhenFull;

    #[test]
    fn agents_are_ids_or_tables_of_the_file() {
        let given = config(&[("agents", "a, b")], &[]).unwrap().agents;
        assert!(given.get("a").unwrap().sandbox_enabled && given.get("c").is_none());
        assert_eq!(given.get("b").unwrap().max_containers, None);
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let toml = "[[agents]]\nid = \"admin\"\nname = \"Admin Assistant\"\nmax-containers = 3\n\
                    when-full = \"pause\"\ncpu-threshold = 80\nmemory-threshold = 90.5\n\
                    [[agents]]\nid = \"guest\"\nsandbox_enabled = false\n";
        fs::write(file.path(), toml).unwrap();
        let read = config(&[("config", path)], &[]).unwrap().agents;
        let admin = read.get("admin").unwrap();
        assert_eq!((&*admin.name, admin.max_containers), ("Admin Assistant", Some(3)));
        assert_eq!(admin.when_full, WhenFull::Pause);
        assert_eq!((admin.cpu_threshold, admin.memory_threshold), (Some(80.0), Some(90.5)));
        assert!(!read.get("guest").unwrap().sandbox_enabled);
        fs::write(file.path(), "agents = [\"x\"]\n").unwrap();
        assert!(config(&[("config", path)], &[]).unwrap().agents.get("x").is_some());
        for (toml, expected) in [
            ("[[agents]]\nid = \"a\"\nmax = 3\n", "unknown field `max`"),
            ("[[agents]]\nname = \"a\"\n", "missing field `id`"),
            ("[[agents]]\nid = \"a\"\n[[agents]]\nid = \"a\"\n", "it is there twice"),
        ] {
            fs::write(file.path(), toml).unwrap();
            let error = config(&[("config", path)], &[]).err().expect(toml).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
