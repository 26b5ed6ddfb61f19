//! What the packet filter holds of ours, asked of the kernel without running a program.

use std::io;

use super::{
    netfilter::{ask, attribute, attributes, encode, text},
    nft::TABLE,
};

const GET_TABLE: u16 = libc::NFT_MSG_GETTABLE as u16;
const GET_RULE: u16 = libc::NFT_MSG_GETRULE as u16;
const GET_GENERATION: u16 = libc::NFT_MSG_GETGEN as u16;

// Attributes of <linux/netfilter/nf_tables.h>, each of its own enumeration.
const GENERATION_ID: u16 = 1;
const TABLE_NAME: u16 = 1;
const TABLE_HANDLE: u16 = 4;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

/// Our table, such that loading the same rules once more gives an equal one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// Another one once the table has been removed and made again, and its sets with it.
    handle: Vec<u8>,
    pub(super) rules: Vec<Vec<u8>>,
}

/// A number that changes with every change of anybody's rules.
pub(super) fn generation() -> io::Result<u32> {
    let messages = ask(GET_GENERATION, libc::AF_UNSPEC, 0, &[])?;
    let first = messages.first().map(Vec::as_slice).unwrap_or_default();
    attribute(first, GENERATION_ID)
        .and_then(|id| Some(u32::from_be_bytes(id.try_into().ok()?)))
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// `None` when it is not there.
pub(super) fn table() -> io::Result<Option<Table>> {
    let name = text(TABLE);
    let found = match ask(GET_TABLE, libc::NFPROTO_INET, 0, &encode(TABLE_NAME, &name)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        found => found?,
    };
    let handle = found.first().and_then(|table| attribute(table, TABLE_HANDLE));
    let handle = handle.unwrap_or_default().to_vec();
    let filter = encode(RULE_TABLE, &name);
    let mut rules = ask(GET_RULE, libc::NFPROTO_INET, libc::NLM_F_DUMP, &filter)?;
    // Older kernels show the rules of all tables.
    rules.retain(|rule| attribute(rule, RULE_TABLE) == Some(&name));
    Ok(Some(Table { handle, rules: rules.iter().map(|rule| gist(rule)).collect() }))
}

/// What a rule says, without the numbers and the names of anonymous sets that the kernel gave it.
fn gist(rule: &[u8]) -> Vec<u8> {
    let mut gist = attribute(rule, RULE_CHAIN).unwrap_or_default().to_vec();
    for (_, expression) in attributes(attribute(rule, RULE_EXPRESSIONS).unwrap_or_default()) {
        let name = attribute(expression, EXPRESSION_NAME).unwrap_or_default();
        gist.extend(name);
        if name != b"lookup\0" {
            gist.extend(attribute(expression, EXPRESSION_DATA).unwrap_or_default());
        }
    }
    gist
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::{
        super::nft::{self, tests::load},
        *,
    };
    use crate::backend::host::require_root;

    #[test]
    fn our_table_is_told_from_one_that_is_gone_or_changed() {
        require_root!();
        let in_a_network_of_its_own = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            assert_eq!(table().unwrap(), None);
            let rules = nft::rules(&["10.0.0.53".parse().unwrap()]);
            load(&rules);
            let (before, loaded) = (generation().unwrap(), table().unwrap().unwrap());
            assert_eq!(loaded.rules.len(), nft::number_of(&rules), "{loaded:?}");
            // Another gateway loads the same; somebody else has rules of his own.
            load(&rules);
            load("add table inet other\nadd chain inet other c\nadd rule inet other c accept\n");
            assert_eq!(table().unwrap().as_ref(), Some(&loaded));
            assert_ne!(generation().unwrap(), before);

            load("insert rule inet coppice forward accept\n");
            assert_ne!(table().unwrap().as_ref(), Some(&loaded));
            load(&rules);
            assert_eq!(table().unwrap().as_ref(), Some(&loaded));
            load("flush table inet coppice\n");
            assert_eq!(table().unwrap().unwrap().rules, Vec::<Vec<u8>>::new());
            load("flush ruleset\n");
            assert_eq!(table().unwrap(), None);
            load(&rules);
            let again = table().unwrap().unwrap();
            assert_eq!(again.rules, loaded.rules);
            assert_ne!(again, loaded, "the resolvers of other gateways are lost");
        };
        std::thread::spawn(in_a_network_of_its_own).join().unwrap();
    }
}
