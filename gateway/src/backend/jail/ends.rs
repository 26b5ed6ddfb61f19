//! Who wants to end a sandbox: what is done to it meanwhile, and takes a while, makes way.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::sandbox::SandboxId;

#[derive(Default)]
pub(super) struct Ends(Mutex<HashMap<SandboxId, usize>>);

impl Ends {
    /// Somebody does, until what is returned is dropped.
    pub(super) fn want(&self, id: SandboxId) -> Wanted<'_> {
        *self.0.lock().entry(id).or_default() += 1;
        Wanted { ends: self, id }
    }

    pub(super) fn are_wanted(&self, id: SandboxId) -> bool {
        self.0.lock().contains_key(&id)
    }
}

pub(super) struct Wanted<'a> {
    ends: &'a Ends,
    id: SandboxId,
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        let mut all = self.ends.0.lock();
        if let Some(count) = all.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_wanted_until_the_last_who_wants_it_is_done() {
        let ends = Ends::default();
        let (one, other) = (SandboxId::random(), SandboxId::random());
        let first = ends.want(one);
        let second = ends.want(one);
        assert!(ends.are_wanted(one) && !ends.are_wanted(other));
        drop(first);
        assert!(ends.are_wanted(one));
        drop(second);
        assert!(!ends.are_wanted(one) && ends.0.lock().is_empty());
    }
}
