//! Environment variables of a kernel that runs already: the code that sets them, by language.
//!
//! Sent as a request of its own that shows nothing, before the user's code and after it, so that no
//! line of that moves.

use std::{collections::BTreeMap, fmt::Write};

use super::items::quoted;

/// The variables of one kernel, as far as they were set from here.
pub(super) struct Variables {
    statement: Option<Statement>,
    /// What it has when nothing is set.
    own: BTreeMap<String, String>,
    /// On top of that.
    set: BTreeMap<String, String>,
}

impl Variables {
    /// Of a kernel started with `own` and, on top of that, `set`.
    pub(super) fn inherited(
        language: &str,
        own: BTreeMap<String, String>,
        set: BTreeMap<String, String>,
    ) -> Self {
        let statement = statement(language);
        if language == "java" {
            // Its users look among the system's properties, which come from no environment.
            return Self { statement, own: BTreeMap::new(), set: BTreeMap::new() };
        }
        Self { statement, own, set }
    }

    /// The code after which the kernel has `wanted`, and nothing else that was set before; `None`
    /// where it has so already, or cannot be told.
    pub(super) fn become_code(&mut self, wanted: BTreeMap<String, String>) -> Option<String> {
        let statement = self.statement?;
        let before = std::mem::replace(&mut self.set, wanted);
        let mut code = String::new();
        for name in before.keys().filter(|name| !self.set.contains_key(*name)) {
            statement(&mut code, name, self.own.get(name).map(String::as_str));
        }
        for (name, value) in
            self.set.iter().filter(|(name, value)| before.get(*name) != Some(value))
        {
            statement(&mut code, name, Some(value));
        }
        (!code.is_empty()).then_some(code)
    }
}

/// Whether a kernel of that language can be told of variables while it runs.
pub(super) fn can_be_set(language: &str) -> bool {
    statement(language).is_some()
}

type Statement = fn(&mut String, &str, Option<&str>);

fn statement(language: &str) -> Option<Statement> {
    // A JSON string is a string in all of these but the last.
    Some(match language {
        "python" => |code, name, value| {
            let name = quoted(name);
            let _ = match value {
                Some(value) => {
                    writeln!(code, "__import__('os').environ[{name}] = {}", quoted(value))
                }
                None => writeln!(code, "__import__('os').environ.pop({name}, None) and None"),
            };
        },
        "javascript" | "typescript" => |code, name, value| {
            let name = quoted(name);
            let _ = match value {
                Some(value) => writeln!(code, "process.env[{name}] = {};", quoted(value)),
                None => writeln!(code, "delete process.env[{name}];"),
            };
        },
        "r" => |code, name, value| {
            let name = quoted(name);
            let _ = match value {
                Some(value) => writeln!(
                    code,
                    "invisible(do.call(Sys.setenv, stats::setNames(list({}), {name})))",
                    quoted(value)
                ),
                None => writeln!(code, "invisible(Sys.unsetenv({name}))"),
            };
        },
        "java" => |code, name, value| {
            let name = quoted(name);
            let _ = match value {
                Some(value) => writeln!(code, "System.setProperty({name}, {});", quoted(value)),
                None => writeln!(code, "System.clearProperty({name});"),
            };
        },
        "bash" => |code, name, value| {
            // The shell has no variables of other names, however its environment may.
            let mut chars = name.chars();
            let first = chars.next().is_some_and(|c| c == '_' || c.is_ascii_alphabetic());
            if !first || !chars.all(|c| c == '_' || c.is_ascii_alphanumeric()) {
                return;
            }
            let _ = match value {
                Some(value) => writeln!(code, "export {name}='{}'", value.replace('\'', r"'\''")),
                None => writeln!(code, "unset {name}"),
            };
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn strings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn only_what_differs_is_said_and_what_goes_leaves_the_kernels_own_behind() {
        let own = strings(&[("PATH", "/bin")]);
        let set = strings(&[("SAME", "1"), ("GONE", "1"), ("PATH", "/x")]);
        let mut variables = Variables::inherited("bash", own, set.clone());
        assert_eq!(variables.become_code(set.clone()), None);
        let other = strings(&[("SAME", "1"), ("NEW", "3")]);
        let code = variables.become_code(other).unwrap();
        assert_eq!(code, "unset GONE\nexport PATH='/bin'\nexport NEW='3'\n");
        let code = variables.become_code(set).unwrap();
        assert_eq!(code, "unset NEW\nexport GONE='1'\nexport PATH='/x'\n");
    }

    #[test]
    fn java_inherits_no_properties_and_others_cannot_be_told() {
        let set = strings(&[("A", "1")]);
        let mut java = Variables::inherited("java", set.clone(), set.clone());
        assert_eq!(java.become_code(set.clone()).unwrap(), "System.setProperty(\"A\", \"1\");\n");
        assert_eq!(java.become_code(BTreeMap::new()).unwrap(), "System.clearProperty(\"A\");\n");
        let mut cobol = Variables::inherited("cobol", BTreeMap::new(), BTreeMap::new());
        assert_eq!(cobol.become_code(set), None);
        assert!(!can_be_set("cobol"));
    }

    #[test]
    fn a_shell_gets_every_value_as_it_is() {
        let nasty = "it's \"quoted\" \\ $HOME `id` ${x} %s\n\tline é 😀 #{y} */ // ''' \u{1}";
        let mut variables =
            Variables::inherited("bash", BTreeMap::new(), strings(&[("GONE", "1")]));
        let wanted = strings(&[("A", nasty), ("B;id", "x"), ("1", "x")]);
        let code = variables.become_code(wanted).unwrap() + "printf %s \"$A${GONE-.}\"";
        let output = Command::new("sh").args(["-c", &code]).env("GONE", "1").output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{nasty}."));
    }

    #[test]
    fn every_known_language_quotes() {
        for (language, expect) in [
            (
                "python",
                "__import__('os').environ.pop(\"B\", None) and None\n\
                 __import__('os').environ[\"A\"] = \"\\\"\\n\\\\\"\n",
            ),
            ("typescript", "delete process.env[\"B\"];\nprocess.env[\"A\"] = \"\\\"\\n\\\\\";\n"),
            (
                "r",
                "invisible(Sys.unsetenv(\"B\"))\n\
                 invisible(do.call(Sys.setenv, stats::setNames(list(\"\\\"\\n\\\\\"), \"A\")))\n",
            ),
        ] {
            let mut variables =
                Variables::inherited(language, BTreeMap::new(), strings(&[("B", "1")]));
            assert_eq!(variables.become_code(strings(&[("A", "\"\n\\")])).unwrap(), expect);
        }
    }
}
