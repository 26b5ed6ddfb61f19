//! Kernelspecs: which kernels the sandbox has, and how one is started.
//!
//! `<directory>/<name>/kernel.json`, as Jupyter has it. The files are the sandbox's own and may say
//! anything.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// Where they are looked for; the first has a name for itself.
pub(super) const DIRECTORIES: [&str; 2] =
    ["/usr/local/share/jupyter/kernels", "/usr/share/jupyter/kernels"];

/// A longer file is none (bytes).
const MAX_FILE: u64 = 64 << 10;

/// Kernels looked at in one directory.
const MAX_KERNELS: usize = 64;

/// Longer names are nobody's (bytes).
const MAX_NAME: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct KernelSpec {
    #[serde(skip)]
    pub(super) name: String,
    #[serde(skip)]
    directory: PathBuf,
    argv: Vec<String>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) language: String,
    #[serde(default)]
    pub(super) interrupt_mode: InterruptMode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum InterruptMode {
    #[default]
    Signal,
    Message,
}

/// The language as it is known everywhere here, whatever a client calls it.
pub(super) fn normalize(language: &str) -> String {
    let language = language.trim().to_lowercase();
    match &*language {
        "js" => "javascript".to_owned(),
        "ts" => "typescript".to_owned(),
        _ => language,
    }
}

/// The kernel for a language that is [`normalize`]d: one of its name, or one that says it is for
/// it. What is for JavaScript will do for TypeScript.
pub(super) fn find(language: &str, directories: &[PathBuf]) -> Option<KernelSpec> {
    let specs = || directories.iter().flat_map(|directory| list(directory));
    let native = match language {
        "python" => "python3",
        "r" => "ir",
        _ => language,
    };
    let named = |wanted: &str| {
        let is_name = !wanted.is_empty()
            && wanted.len() <= MAX_NAME
            && wanted.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b))
            && !wanted.starts_with('.');
        let mut directories = directories.iter().filter(|_| is_name);
        directories.find_map(|directory| read(&directory.join(wanted)))
    };
    named(native)
        .or_else(|| named(language))
        .or_else(|| specs().find(|spec| spec.language.eq_ignore_ascii_case(language)))
        .or_else(|| (language == "typescript").then(|| find("javascript", directories)).flatten())
}

fn list(directory: &Path) -> Vec<KernelSpec> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<_> = entries.flatten().take(MAX_KERNELS).map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().filter_map(|path| read(path)).collect()
}

fn read(directory: &Path) -> Option<KernelSpec> {
    let mut text = Vec::new();
    // A pipe in its place must not be waited for.
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(directory.join("kernel.json")).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    file.take(MAX_FILE).read_to_end(&mut text).ok()?;
    let mut spec: KernelSpec = serde_json::from_slice(&text)
        .inspect_err(|error| tracing::debug!(?directory, %error, "no kernelspec"))
        .ok()?;
    spec.name = directory.file_name()?.to_str()?.to_owned();
    spec.directory = directory.to_owned();
    (!spec.argv.is_empty()).then_some(spec)
}

impl KernelSpec {
    /// The command that starts it on that connection file.
    pub(super) fn command(&self, connection_file: &str) -> Vec<String> {
        let resources = self.directory.to_string_lossy();
        let fill = |argument: &String| {
            argument
                .replace("{connection_file}", connection_file)
                .replace("{resource_dir}", &resources)
        };
        self.argv.iter().map(fill).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, name: &str, json: &str) {
        fs::create_dir_all(root.join(name)).unwrap();
        fs::write(root.join(name).join("kernel.json"), json).unwrap();
    }

    #[test]
    fn a_kernel_is_found_by_name_then_by_language_and_the_first_directory_wins() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let spec = |program: &str, language: &str| {
            format!(
                r#"{{"argv": ["{program}", "-f", "{{connection_file}}"], "language": "{language}"}}"#
            )
        };
        put(first.path(), "python3", &spec("first", "python"));
        put(second.path(), "python3", &spec("second", "python"));
        put(second.path(), "jslab", &spec("node", "javascript"));
        put(second.path(), "ir", &spec("R", "R"));
        put(second.path(), "broken", "{");
        put(second.path(), "empty", r#"{"argv": []}"#);
        fs::create_dir(second.path().join("nothing")).unwrap();
        let directories = [first.path().to_owned(), second.path().to_owned()];
        for (language, program) in [
            ("python", Some("first")),
            ("python3", Some("first")),
            ("javascript", Some("node")),
            ("typescript", Some("node")),
            ("r", Some("R")),
            ("broken", None),
            ("empty", None),
            ("nothing", None),
            ("../python3", None),
            (".", None),
            ("", None),
        ] {
            let found = find(language, &directories).map(|spec| spec.command("c.json")[0].clone());
            assert_eq!(found.as_deref(), program, "{language}");
        }
    }

    #[test]
    fn a_command_names_the_connection_file_and_the_kernels_own_directory() {
        let directory = tempfile::tempdir().unwrap();
        let json = r#"{"argv": ["{resource_dir}/k", "--at={connection_file}"],
            "env": {"A": "1"}, "interrupt_mode": "message", "metadata": {"debugger": true}}"#;
        put(directory.path(), "k", json);
        let spec = find("k", &[directory.path().to_owned()]).unwrap();
        let program = format!("{}/k/k", directory.path().display());
        assert_eq!(spec.command("/run/c.json"), [program, "--at=/run/c.json".to_owned()]);
        assert_eq!((&*spec.name, spec.interrupt_mode), ("k", InterruptMode::Message));
    }

    #[test]
    fn languages_have_short_names() {
        for (given, expect) in
            [(" Python ", "python"), ("JS", "javascript"), ("ts", "typescript"), ("R", "r")]
        {
            assert_eq!(normalize(given), expect);
        }
    }
}
