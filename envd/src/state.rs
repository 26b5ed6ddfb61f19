//! What envd knows of its own sandbox, shared by all its services.

use std::{collections::BTreeMap, os::fd::OwnedFd, sync::Arc};

use parking_lot::RwLock;

use crate::{
    control::Descriptors,
    files::Readers,
    kernel::Contexts,
    os::Affinity,
    process::Processes,
    repeats::Repeats,
    report::Reports,
    rest::Gauges,
    users::{self, UnknownUser, User},
    wire::{self, Descriptor, Init, Spec},
};

/// What `POST /init` can change.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Environment of every process, before a request's own.
    pub env: BTreeMap<String, String>,
    /// `None`: requests need no token.
    pub access_token: Option<String>,
    pub default_user: String,
    /// `None`: the user's home.
    pub default_workdir: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            env: BTreeMap::new(),
            access_token: None,
            default_user: "user".into(),
            default_workdir: None,
        }
    }
}

pub struct Envd {
    pub sandbox_id: String,
    pub template_id: String,
    pub reports: Reports,
    pub(crate) repeats: Repeats,
    pub(crate) processes: Processes,
    pub(crate) readers: Readers,
    pub(crate) contexts: Contexts,
    pub(crate) confines: Confines,
    pub(crate) gauges: Gauges,
    settings: RwLock<Arc<Settings>>,
}

/// What every user process is put into before its program runs.
pub(crate) struct Confines {
    /// `cgroup.procs`, open for writing.
    pub(crate) cgroups: Vec<OwnedFd>,
    pub(crate) affinity: Option<Affinity>,
    pub(crate) open_files: Option<u64>,
}

impl Envd {
    /// In no sandbox, and without one's limits, for tests.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn in_no_sandbox() -> Arc<Self> {
        Self::new(&Spec {
            protocol: wire::PROTOCOL,
            sandbox_id: "sandbox".into(),
            template_id: "base".into(),
            descriptors: Vec::new(),
            attach: wire::Attach::Linux(wire::LinuxAttach {
                hostname: "sandbox".into(),
                memory_bytes: 0,
                shm_bytes: 0,
                cpus: Vec::new(),
                processes: 0,
                open_files: None,
                network: None,
            }),
            init: Init { default_user: Some("root".into()), ..Init::default() },
        })
    }

    /// Outside a sandbox: nothing is confined.
    pub fn new(spec: &Spec) -> Arc<Self> {
        Self::with_descriptors(spec, &mut Descriptors::default())
    }

    /// Takes the descriptors that confine and measure user processes.
    pub fn with_descriptors(spec: &Spec, descriptors: &mut Descriptors) -> Arc<Self> {
        let cgroups = descriptors.take_all(Descriptor::UserCgroup);
        // Without cgroups this is no sandbox, and whose CPUs these are is not ours to say.
        let affinity = if cgroups.is_empty() { None } else { Affinity::new(spec.attach.cpus()) };
        let envd = Self {
            sandbox_id: spec.sandbox_id.clone(),
            template_id: spec.template_id.clone(),
            reports: Reports::default(),
            repeats: Repeats::default(),
            processes: Processes::default(),
            readers: Readers::default(),
            contexts: Contexts::default(),
            confines: Confines { cgroups, affinity, open_files: spec.attach.open_files() },
            gauges: Gauges::new(spec, descriptors),
            settings: RwLock::default(),
        };
        envd.init(Init { env_vars: Some(BTreeMap::new()), ..Init::default() });
        envd.init(spec.init.clone());
        Arc::new(envd)
    }

    pub fn settings(&self) -> Arc<Settings> {
        self.settings.read().clone()
    }

    /// The sandbox becomes somebody's: takes over what `init` names, and what was before is no
    /// part of its story.
    pub fn begin(&self, init: Init) {
        self.init(init);
        self.gauges.begin();
        self.reports.begin();
    }

    /// Takes over what `init` names; the rest stays.
    pub fn init(&self, init: Init) {
        let mut current = self.settings.write();
        let mut next = Settings::clone(&current);
        if let Some(env) = init.env_vars {
            next.env = env;
            next.env.extend(wire::identity(&self.sandbox_id, &self.template_id));
        }
        if init.access_token.is_some() {
            next.access_token = init.access_token;
        }
        if let Some(user) = init.default_user {
            next.default_user = user;
        }
        if init.default_workdir.is_some() {
            next.default_workdir = init.default_workdir;
        }
        *current = Arc::new(next);
    }

    /// The named user, or the sandbox's default one where the name is absent or empty.
    ///
    /// # Errors
    /// [`UnknownUser`].
    pub fn user(&self, name: Option<&str>) -> Result<User, UnknownUser> {
        match name.filter(|name| !name.is_empty()) {
            Some(name) => users::find(name),
            None => users::find(&self.settings().default_user),
        }
    }
}
