//! The steps of a plan, carried out; and what a sandbox holds, let go.

use std::{path::Path, sync::Arc};

use envd::wire::JailNetwork;
use rctl_sys::{
    jail::{self, Flags, Jid},
    mount, rctl,
};

use super::{
    copying, cpus, ending, entry,
    error::Kernel,
    furniture,
    holding::{Acts, Holding},
    jails::Inner,
    limits,
    plan::Step,
    spawn::Process,
};
use crate::{
    backend::{CellSpec, Error},
    sandbox::SandboxId,
};

/// A sandbox being made or ended. All of it blocks.
pub(super) struct Making<'a> {
    pub(super) inner: &'a Inner,
    pub(super) id: SandboxId,
    pub(super) directory: &'a Path,
    /// `None` where there is nothing to make.
    pub(super) spec: Option<&'a CellSpec>,
    pub(super) jid: Option<Jid>,
    pub(super) cpus: Vec<u16>,
    pub(super) network: Option<JailNetwork>,
    pub(super) envd: Option<Arc<Process>>,
    /// What it has written is to be there when it has ended.
    pub(super) keeps: bool,
}

impl<'a> Making<'a> {
    pub(super) fn new(inner: &'a Inner, id: SandboxId, directory: &'a Path) -> Self {
        Self {
            inner,
            id,
            directory,
            spec: None,
            jid: None,
            cpus: Vec::new(),
            network: None,
            envd: None,
            keeps: false,
        }
    }

    fn jid(&self) -> Result<Jid, Error> {
        self.jid.ok_or_else(|| Error::Unsupported("a step that needs the jail before it".into()))
    }
}

impl Acts for Making<'_> {
    fn act(&mut self, step: &Step) -> Result<(), Error> {
        match step {
            Step::Directory { path, mode } => furniture::make_directory(path, *mode),
            Step::Place { path, mode } => furniture::make_place(path, *mode),
            Step::Copy { from, to } => copying::copy(from, to),
            Step::CopyInto { from, to } => copying::copy_into(from, to, &|| false),
            Step::Write { path, text } => furniture::write(path, text),
            Step::Clone { layer, id, disk } => match &self.inner.zfs {
                Some(zfs) => zfs.clone_layer(layer, *id, *disk),
                None => Err(Error::Unsupported("a clone, and the data is not on ZFS".into())),
            },
            Step::Mount(mount) => mount::nmount(mount).to("mount", mount),
            Step::Rule(rule) => rctl::add_rule(rule).to("limit", rule),
            Step::Jail(params) => {
                let jid = jail::set(params, Flags::CREATE).to("make jail", self.id.cell_name())?;
                self.jid = Some(jid);
                Ok(())
            }
            Step::Cpus(cpus) => {
                self.cpus.clone_from(cpus);
                cpus::bind(self.jid()?, cpus)
            }
            Step::Network(mode) => {
                let filter = self.spec.map(|spec| spec.filter.clone()).unwrap_or_default();
                let jid = self.jid()?;
                self.network = self.inner.network.up(self.id, jid, *mode, &filter)?;
                Ok(())
            }
            Step::Envd => {
                let jid = self.jid()?;
                let nothing =
                    || Error::Unsupported("an envd of a sandbox that is only ended".into());
                let spec = self.spec.ok_or_else(nothing)?;
                let cpus = std::mem::take(&mut self.cpus);
                let attach = entry::attach(spec, jid, cpus, self.network.take());
                let inner = &self.inner;
                let process = entry::enter(inner.image()?, self.directory, spec, attach, jid)?;
                inner.children.lock().insert(self.id, Arc::clone(&process));
                self.envd = Some(process);
                Ok(())
            }
        }
    }

    fn release(&mut self, holding: Holding) -> Result<(), Error> {
        let id = self.id;
        match holding {
            Holding::Jail => {
                let child = self.inner.children.lock().get(&id).cloned();
                ending::end_processes(id, child.as_deref())?;
                self.inner.children.lock().remove(&id);
                Ok(())
            }
            Holding::Network => self.inner.network.down(id),
            Holding::Mounts => ending::unmount_all(self.directory),
            Holding::Clone => match &self.inner.zfs {
                Some(zfs) if self.keeps => zfs.keep(id).map(drop),
                Some(zfs) => zfs.destroy(id),
                None => Ok(()),
            },
            Holding::Rules => {
                let rules = limits::all_of(id)?;
                rctl::remove_rule(&rules).map(drop).to("remove the limits of", id)
            }
        }
    }
}
