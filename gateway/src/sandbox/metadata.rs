//! What clients say of sandboxes, changed while those are there.

use std::{collections::BTreeMap, sync::Arc};

use super::{Error, Sandbox, SandboxId, Sandboxes};
use crate::events::{New, What};

/// Keys and values together (bytes), as much as a create can bring.
const MOST: usize = 1 << 20;

impl Sandboxes {
    /// Gives a sandbox's metadata those values, and takes away what has none; all else stays. When
    /// it returns the next gateway would know of it.
    pub async fn change_metadata(
        &self,
        id: SandboxId,
        patch: BTreeMap<String, Option<String>>,
    ) -> Result<Arc<Sandbox>, Error> {
        let sandbox = self.not_ending(id)?;
        if patch.is_empty() {
            return Ok(sandbox);
        }
        sandbox.change_metadata(|before| patched(before, patch))?;
        let facts = sandbox.facts();
        let what = What::SandboxUpdated { changed: "metadata".to_owned(), end_at: None };
        let template = facts.template.id.as_str();
        self.events().emit(New::of(id, facts.tenant.clone(), template, what));
        // This gateway keeps to it all the same.
        if let Err(error) = self.record(&sandbox).await
            && !sandbox.gone().is_cancelled()
        {
            tracing::error!(sandbox = %id, "the next gateway would not know its metadata: {error}");
        }
        Ok(sandbox)
    }
}

/// RFC 7396, of texts.
fn patched(
    before: &BTreeMap<String, String>,
    patch: BTreeMap<String, Option<String>>,
) -> Result<BTreeMap<String, String>, Error> {
    let mut after = before.clone();
    for (key, value) in patch {
        match value {
            Some(value) => after.insert(key, value),
            None => after.remove(&key),
        };
    }
    let size: usize = after.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > MOST { Err(Error::TooMuchMetadata(MOST)) } else { Ok(after) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{
        Wanted,
        record::Record,
        testing::{self, bed},
    };

    fn patch(pairs: &[(&str, Option<&str>)]) -> BTreeMap<String, Option<String>> {
        let owned = pairs.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned)));
        owned.collect()
    }

    #[tokio::test]
    async fn what_is_said_stands_in_the_record_and_stays_after_its_end() {
        let bed = bed(testing::rules());
        let metadata = [("a", "1"), ("b", "2")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let wanted = Wanted { metadata, ..testing::wanted() };
        let sandbox = bed.sandboxes.create(wanted, None).await.unwrap();
        let id = sandbox.id();
        let change = patch(&[("a", None), ("b", Some("3")), ("c", Some("4")), ("none", None)]);
        bed.sandboxes.change_metadata(id, change).await.unwrap();
        let wanted: BTreeMap<_, _> =
            [("b", "3"), ("c", "4")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(*sandbox.metadata(), wanted);
        assert_eq!(Record::read(sandbox.dir()).unwrap().facts.metadata, wanted);
        bed.sandboxes.kill(id).await.unwrap();
        assert_eq!(bed.sandboxes.see(id).unwrap().metadata, wanted);
        let gone = bed.sandboxes.change_metadata(id, patch(&[("a", Some("5"))])).await;
        assert!(matches!(gone, Err(Error::NotFound(_) | Error::NotNow(..))));
    }

    #[test]
    fn more_than_fits_is_refused_however_little_comes_at_a_time() {
        let large = "x".repeat(MOST - 1);
        let full = patched(&BTreeMap::new(), patch(&[("a", Some(&large))])).unwrap();
        assert!(patched(&full, patch(&[("b", Some(""))])).is_err());
        assert!(patched(&full, patch(&[("a", Some(""))])).is_ok());
    }
}
