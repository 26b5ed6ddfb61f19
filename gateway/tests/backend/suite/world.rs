//! One gateway's data directory with its backend, and whether all is as it was in the end.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use coppice::{
    backend::{Backend, Cell, CellSpec, Host, JailOptions, Layer, NetworkMode, Settings, Usage},
    limits::Limits,
    network::Filter,
    sandbox::SandboxId,
    template::Template,
};
use envd::wire::Init;

use super::{
    inside::{Envd, Stream},
    platform::{self, Picture},
};

pub(crate) const LIMITS: Limits = Limits::of(1, 256 << 20, 64);

pub(crate) const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 53);

/// For whatever is waited for; a case that waits longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) host: Host,
    pub(crate) settings: Settings,
    template: Arc<Template>,
    before: Picture,
}

impl World {
    /// Of an empty data directory.
    pub(crate) async fn new(data_dir: &Path, root: &Path) -> Self {
        Self::with(JailOptions::default(), data_dir, root).await
    }

    pub(crate) async fn with(jail: JailOptions, data_dir: &Path, root: &Path) -> Self {
        let settings = Settings { jail, ..settings(data_dir) };
        let host = Host::new(settings.clone()).expect("a backend");
        host.prepare().await.expect("a host that is ready");
        let before = Picture::take(&settings.data_dir);
        let mut world = Self { host, settings, template: template(root), before };
        platform::warm(&world).await;
        world.before = Picture::take(&world.settings.data_dir);
        world
    }

    /// One below this one's data directory, asked for more.
    pub(crate) async fn another(&self, name: &str, jail: JailOptions) -> Self {
        let elsewhere = self.settings.data_dir.join(name);
        for name in ["sandboxes", "trash"] {
            fs::create_dir_all(elsewhere.join(name)).unwrap();
        }
        Self::with(jail, &elsewhere, self.root()).await
    }

    /// Ends whatever sandboxes a data directory has left.
    pub(crate) async fn clear(data_dir: &Path) {
        let host = Host::new(settings(data_dir)).expect("a backend");
        // Sandboxes can be ended without it.
        if let Err(error) = host.prepare().await {
            println!("prepare: {error}");
        }
        let mut failed = false;
        for id in host.list().await.expect("a list") {
            if let Err(error) = host.destroy(id).await {
                println!("destroy {id}: {error}");
                failed = true;
            }
        }
        host.retire().await.expect("nothing is left");
        assert!(!failed);
    }

    /// Another gateway's backend over the same data directory.
    pub(crate) async fn later(&self) -> Host {
        let later = Host::new(self.settings.clone()).unwrap();
        later.prepare().await.unwrap();
        later
    }

    pub(crate) fn root(&self) -> &Path {
        &self.template.layers[0]
    }

    /// With the directory that it needs.
    pub(crate) fn spec(&self, network: NetworkMode) -> CellSpec {
        let id = SandboxId::random();
        fs::create_dir(self.directory(id)).unwrap();
        self.spec_of(id, network)
    }

    pub(crate) fn spec_of(&self, id: SandboxId, network: NetworkMode) -> CellSpec {
        let template = Arc::clone(&self.template);
        let init = Init { default_user: Some("root".into()), ..Init::default() };
        let filter = Filter::default();
        CellSpec { id, template, limits: LIMITS, network, filter, init, layer: Layer::Fresh }
    }

    pub(crate) async fn create(&self) -> (SandboxId, Cell) {
        self.create_in(NetworkMode::None).await
    }

    pub(crate) async fn create_in(&self, network: NetworkMode) -> (SandboxId, Cell) {
        let spec = self.spec(network);
        let id = spec.id;
        (id, self.host.create(spec).await.expect("a sandbox"))
    }

    /// And its directory.
    pub(crate) async fn destroy(&self, id: SandboxId) {
        self.host.destroy(id).await.unwrap();
        fs::remove_dir_all(self.directory(id)).unwrap();
    }

    pub(crate) fn directory(&self, id: SandboxId) -> PathBuf {
        self.settings.data_dir.join("sandboxes").join(id.to_string())
    }

    pub(crate) fn envd(&self, id: SandboxId) -> Envd {
        Envd::at(&self.directory(id))
    }

    /// What a shell inside says.
    pub(crate) async fn inside(&self, id: SandboxId, script: &str) -> String {
        self.envd(id).run(script).await.text
    }

    /// A shell inside that goes on.
    pub(crate) async fn start(&self, id: SandboxId, script: &str) -> Stream {
        self.envd(id).start(script).await
    }

    pub(crate) async fn usage(&self, id: SandboxId) -> Usage {
        self.host.usage().await.unwrap()[&id]
    }

    /// How long a file of the sandbox's is, which can be asked while it is frozen.
    pub(crate) fn length(&self, id: SandboxId, path: &str) -> u64 {
        let path = platform::host_path(&self.directory(id), path);
        fs::metadata(path).map_or(0, |file| file.len())
    }

    /// Waits until a file of the sandbox's has grown by `more`.
    pub(crate) async fn until_longer(&self, id: SandboxId, path: &str, more: u64) {
        let before = self.length(id, path);
        eventually(&format!("{path} grows"), async || self.length(id, path) >= before + more).await;
    }

    /// Neither by the backend's word nor by the kernel's.
    pub(crate) async fn assert_nothing_is_held(&self, id: SandboxId) {
        assert!(!self.host.list().await.unwrap().contains(&id));
        self.assert_kernel_as_before().await;
    }

    pub(crate) async fn assert_as_before(&self) {
        assert_eq!(self.host.list().await.unwrap(), []);
        self.assert_kernel_as_before().await;
        let directories = fs::read_dir(self.settings.data_dir.join("sandboxes")).unwrap();
        assert_eq!(directories.count(), 0, "the case has not tidied up");
    }

    /// Waits for stragglers the kernel removes in its own time, then insists.
    async fn assert_kernel_as_before(&self) {
        let deadline = Instant::now() + platform::STRAGGLING;
        while Picture::take(&self.settings.data_dir) != self.before && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(Picture::take(&self.settings.data_dir), self.before);
    }

    pub(crate) async fn retire(&self) {
        self.host.retire().await.unwrap();
        self.host.retire().await.expect("retiring twice");
        platform::assert_retired(&self.settings.data_dir);
    }
}

fn settings(data_dir: &Path) -> Settings {
    Settings {
        data_dir: data_dir.to_owned(),
        dns: vec![IpAddr::V4(RESOLVER)],
        jail: JailOptions::default(),
    }
}

fn template(root: &Path) -> Arc<Template> {
    Arc::new(Template {
        id: "test".into(),
        layers: vec![root.to_owned()],
        limits: LIMITS,
        env: BTreeMap::new(),
        user: "user".into(),
        workdir: None,
        kernels: false,
    })
}

/// Waits until `holds`.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
