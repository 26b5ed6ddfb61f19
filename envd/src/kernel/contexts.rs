//! The contexts of the sandbox: those that clients made, and one for each language by default.

use std::{
    collections::BTreeMap,
    mem,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::{
    sync::{OnceCell, Semaphore},
    task::spawn_blocking,
};

use super::{
    HOME,
    context::Context,
    request::random,
    spec::{self, KernelSpec},
};
use crate::{paths, state::Envd, wire::MAX_CONTEXTS};

/// There from the beginning, though their kernels are not.
const AT_FIRST: [&str; 2] = [PYTHON, "javascript"];
pub(super) const PYTHON: &str = "python";

/// Code that waits for its turn, or is being received, takes this much at most (bytes).
const MAX_WAITING: usize = 64 << 20;

/// Empty until it is first asked for something.
#[derive(Default)]
pub(crate) struct Contexts(OnceCell<Box<Table>>);

pub(super) struct Table {
    entries: Mutex<Entries>,
    /// What may wait, in bytes.
    pub(super) room: Arc<Semaphore>,
}

#[derive(Default)]
struct Entries {
    /// In the order they were made.
    contexts: Vec<Arc<Context>>,
    /// By language. One that was deleted stays here and is found no more.
    defaults: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("Context {0} not found")]
    NotFound(String),
    #[error("{0}")]
    Failed(String),
    #[error("there are {MAX_CONTEXTS} contexts already")]
    TooMany,
}

impl Contexts {
    pub(super) async fn table(&self, envd: &Arc<Envd>) -> &Table {
        let table = self.0.get_or_init(|| async {
            let mut entries = Entries::default();
            for language in AT_FIRST {
                // Not every template has both.
                if let Ok(spec) = find(language).await {
                    let _ = entries.add_default(envd, language, spec);
                }
            }
            let room = Arc::new(Semaphore::new(MAX_WAITING));
            Box::new(Table { entries: Mutex::new(entries), room })
        });
        table.await
    }
}

impl Table {
    pub(super) fn all(&self) -> Vec<Arc<Context>> {
        self.entries.lock().contexts.clone()
    }

    pub(super) fn find(&self, id: &str) -> Result<Arc<Context>, Error> {
        let entries = self.entries.lock();
        let context = entries.contexts.iter().find(|context| context.id == id);
        context.cloned().ok_or_else(|| Error::NotFound(id.to_owned()))
    }

    /// The one that all share who name nothing but the language.
    pub(super) async fn default(
        &self,
        envd: &Arc<Envd>,
        language: &str,
    ) -> Result<Arc<Context>, Error> {
        let language = spec::normalize(language);
        let known = || self.entries.lock().defaults.get(&language).cloned();
        if let Some(id) = known() {
            return self.find(&id);
        }
        let spec = find(&language).await?;
        if let Some(id) = known() {
            return self.find(&id);
        }
        self.entries.lock().add_default(envd, &language, spec)
    }

    /// A new one, whose kernel answers.
    pub(super) async fn create(
        &self,
        envd: &Arc<Envd>,
        language: &str,
        cwd: &str,
    ) -> Result<Arc<Context>, Error> {
        let failed = |why: String| Error::Failed(format!("Failed to create context: {why}"));
        let language = spec::normalize(language);
        let cwd = directory(envd, cwd).await.map_err(failed)?;
        let spec = find(&language).await?;
        let context = self.entries.lock().add(envd, &language, cwd, spec)?;
        let unanswered = Unanswered { entries: &self.entries, id: &context.id };
        match context.start().await {
            Ok(Ok(())) => {
                mem::forget(unanswered);
                Ok(context)
            }
            Ok(Err(why)) => Err(failed(why)),
            Err(_) => Err(Error::NotFound(context.id.clone())),
        }
    }

    /// Returns when its kernel has ended.
    pub(super) async fn remove(&self, id: &str) -> Result<(), Error> {
        let context = self.find(id)?;
        self.entries.lock().forget(id);
        context.delete().await;
        Ok(())
    }
}

/// A context that nobody knows of yet. Dropped, it goes, and its kernel with it.
struct Unanswered<'a> {
    entries: &'a Mutex<Entries>,
    id: &'a str,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.entries.lock().forget(self.id);
    }
}

impl Entries {
    fn forget(&mut self, id: &str) {
        self.contexts.retain(|context| context.id != id);
    }

    fn add_default(
        &mut self,
        envd: &Arc<Envd>,
        language: &str,
        spec: KernelSpec,
    ) -> Result<Arc<Context>, Error> {
        let context = self.add(envd, language, HOME.to_owned(), spec)?;
        self.defaults.insert(language.to_owned(), context.id.clone());
        Ok(context)
    }

    fn add(
        &mut self,
        envd: &Arc<Envd>,
        language: &str,
        cwd: String,
        spec: KernelSpec,
    ) -> Result<Arc<Context>, Error> {
        if self.contexts.len() == MAX_CONTEXTS {
            return Err(Error::TooMany);
        }
        let id = uuid().map_err(|error| Error::Failed(error.to_string()))?;
        let context = Context::new(envd.clone(), id, language.to_owned(), cwd, spec);
        self.contexts.push(context.clone());
        Ok(context)
    }
}

async fn find(language: &str) -> Result<KernelSpec, Error> {
    let wanted = language.to_owned();
    let found = spawn_blocking(move || {
        let directories = spec::DIRECTORIES.map(PathBuf::from);
        spec::find(&wanted, &directories)
    });
    found.await.ok().flatten().ok_or_else(|| {
        let language: String = language.chars().take(64).collect();
        Error::Failed(format!("Failed to create context: no such kernel: {language}"))
    })
}

/// The directory that a client means, which has to be there.
async fn directory(envd: &Envd, cwd: &str) -> Result<String, String> {
    let settings = envd.settings();
    let user = envd.user(None).map_err(|error| error.to_string())?;
    let path = paths::resolve(cwd, &user, settings.default_workdir.as_deref())
        .map_err(|error| error.to_string())?;
    let text = path.to_string_lossy().into_owned();
    match tokio::fs::metadata(Path::new(&path)).await {
        Ok(found) if found.is_dir() => Ok(text),
        Ok(_) => Err(format!("cwd '{text}' is not a directory")),
        Err(_) => Err(format!("cwd '{text}' does not exist")),
    }
}

/// Of version 4.
fn uuid() -> std::io::Result<String> {
    let digits = random()?;
    let variant = ["8", "9", "a", "b"][usize::from(digits.as_bytes()[16] & 3)];
    Ok(format!(
        "{}-{}-4{}-{variant}{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[13..16],
        &digits[17..20],
        &digits[20..]
    ))
}
