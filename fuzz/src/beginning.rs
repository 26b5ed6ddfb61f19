//! What a connection to a web server begins with: the same name is read of it however it is cut, or
//! none at all.

use coppice::network::name_of;

pub(crate) fn target(bytes: &[u8]) {
    let whole = name_of(bytes);
    // A server that decides by fewer bytes than the gateway has read could see another name.
    for cut in 0..bytes.len().min(2048) {
        match name_of(&bytes[..cut]) {
            Ok(None) => {}
            Ok(Some(name)) => {
                assert_eq!(whole.as_ref().ok(), Some(&Some(name)));
                return;
            }
            Err(_) => return assert!(whole.is_err()),
        }
    }
}
