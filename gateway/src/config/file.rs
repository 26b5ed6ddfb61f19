//! What stands in the file of settings, as it would be written on the command line.

use std::{fmt::Display, fs, path::Path};

use super::{Error, LIMITS, agents, cost, events, jail, names, pool};

/// Each setting, by its name.
pub(super) fn read_file(path: &Path, place: &str) -> Result<Vec<(String, String)>, Error> {
    let wrong = |what: &dyn Display| Error(format!("{place}: {}: {what}", path.display()));
    let text = fs::read_to_string(path).map_err(|e| wrong(&e))?;
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| wrong(&e))?;
    let entries = table.into_iter().map(|(name, value)| {
        if name == "config" || !names().any(|known| known == name) {
            let known = names().filter(|known| *known != "config").collect::<Vec<_>>();
            return Err(wrong(&format!("there is no setting {name:?}, only {}", known.join(", "))));
        }
        let text = match &value {
            toml::Value::Table(numbers) if [pool::NAME, LIMITS].contains(&name.as_str()) => {
                pool::text_of(numbers)
            }
            toml::Value::Table(options) if name == jail::NAME => jail::text_of(options),
            toml::Value::Table(rates) if name == cost::NAME => cost::text_of(rates),
            toml::Value::Table(all) if name == events::NAME => Some(all.to_string()),
            toml::Value::Array(tables) if name == agents::NAME => {
                agents::text_of(tables).or_else(|| text_of(&value))
            }
            value => text_of(value),
        };
        match text {
            Some(text) => Ok((name, text)),
            None => Err(wrong(&format!(
                "{name} must be a string, a number, true or false, or a list of strings, or for \
                 pool, limits and cost a table of numbers, and for jail one of numbers and true or false"
            ))),
        }
    });
    entries.collect()
}

fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(yes) => Some(yes.to_string()),
        toml::Value::Array(list) => {
            let texts: Option<Vec<&str>> = list.iter().map(toml::Value::as_str).collect();
            Some(texts?.join(","))
        }
        _ => None,
    }
}
