//! What a scrape looks up where others keep it, in one go, so that its figures fit each other. The
//! room it takes is kept for the next one: however many sandboxes there are, nothing is allocated
//! for a scrape but its text.

use std::{collections::BTreeMap, fmt, ops::ControlFlow, sync::Arc};

use super::samples::Latest;
use crate::sandbox::{Phase, PoolCount, Sandbox, Sandboxes, Shelf};

/// Sandboxes that have series, the longest there first: more would cost a scraper more than they
/// tell.
pub(super) const MOST: usize = 1000;

#[derive(Default)]
pub(super) struct View {
    /// Those that have series, with what was last found of each, if it was looked at.
    pub(super) shown: Vec<(Arc<Sandbox>, Option<Latest>)>,
    /// How many have none.
    pub(super) dropped: usize,
    pub(super) running: usize,
    pub(super) alive: usize,
    /// By template.
    pub(super) pool: BTreeMap<String, PoolCount>,
    /// How long the text was.
    pub(super) length: usize,
}

impl View {
    pub(super) fn look(&mut self, sandboxes: &Sandboxes) {
        (self.running, self.alive) = (0, 0);
        let Self { shown, running, alive, .. } = self;
        sandboxes.registry().visit(&Shelf::All, false, None, |sandbox| {
            *alive += 1;
            *running += usize::from(sandbox.phase() == Phase::Running);
            if shown.len() < MOST {
                shown.push((sandbox.clone(), None));
            }
            ControlFlow::Continue(())
        });
        self.dropped = self.alive - self.shown.len();
        // Not meanwhile: whoever writes samples asks the registry.
        let shown = self.shown.iter_mut().map(|(sandbox, latest)| (sandbox.id(), latest));
        sandboxes.samples().latest_of(shown, |latest, found| *latest = Some(*found));
        sandboxes.count_pool(&mut self.pool);
    }

    /// Lets go of all that is another's.
    pub(super) fn forget(&mut self) {
        self.shown.clear();
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("alive", &self.alive).finish_non_exhaustive()
    }
}
