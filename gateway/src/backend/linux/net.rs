//! A sandbox's link to the host: one veth pair, made with two netlink messages.

use std::{io, net::IpAddr};

use rtnetlink::{
    Error as Netlink, Handle, LinkUnspec, LinkVeth,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressMessage},
        link::{InfoData, InfoVeth},
    },
};
use tokio::sync::OnceCell;

use super::slot::{GATEWAY, Slot};
use crate::backend::Error;

const INSIDE: &str = "eth0";

/// The connection to the kernel, opened at first use.
#[derive(Default)]
pub(super) struct Links(OnceCell<Handle>);

impl Links {
    async fn handle(&self) -> Result<&Handle, Error> {
        self.0
            .get_or_try_init(|| async {
                let (connection, handle, _) = rtnetlink::new_connection()?;
                tokio::spawn(connection);
                Ok(handle)
            })
            .await
            .map_err(|source| Error::Call { call: "open", target: "netlink".into(), source })
    }

    /// Links the namespace of process `pid` to the host.
    pub(super) async fn create(&self, slot: Slot, pid: i32) -> Result<(), Error> {
        let handle = self.handle().await?;
        let name = slot.link();
        let inside = LinkUnspec::new_with_name(INSIDE)
            .address(hardware_address(slot, 2))
            .setns_by_pid(pid.unsigned_abs())
            .build();
        let pair = LinkVeth::new(&name, INSIDE)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(inside)))
            .index(slot.link_index())
            .address(hardware_address(slot, 1))
            .up()
            .build();
        let made = handle.link().add(pair).execute().await;
        made.map_err(|error| call("make link", &name, error))?;

        // A peer address brings its route along.
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = 32;
        message.header.index = slot.link_index();
        message.attributes = vec![
            AddressAttribute::Local(IpAddr::V4(GATEWAY)),
            AddressAttribute::Address(IpAddr::V4(slot.address())),
        ];
        let mut request = handle.address().add(slot.link_index(), IpAddr::V4(GATEWAY), 32);
        *request.message_mut() = message;
        request.execute().await.map_err(|error| call("give an address to", &name, error))
    }

    /// A link that is not there is a success.
    pub(super) async fn remove(&self, slot: Slot) -> Result<(), Error> {
        let name = slot.link();
        let message = LinkUnspec::new_with_name(&name).build();
        let handle = self.handle().await?;
        match handle.link().del_with_message(message).execute().await {
            Err(Netlink::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(()),
            result => result.map_err(|error| call("remove link", &name, error)),
        }
    }
}

/// Locally administered; given, so that nothing on the host wants to give a better one.
fn hardware_address(slot: Slot, end: u8) -> Vec<u8> {
    let mut address = vec![0x02, end];
    address.extend(slot.0.to_be_bytes());
    address
}

fn call(call: &'static str, name: &str, error: Netlink) -> Error {
    let source = match error {
        Netlink::NetlinkError(message) => {
            io::Error::from_raw_os_error(message.raw_code().saturating_neg())
        }
        other => io::Error::other(other.to_string()),
    };
    Error::Call { call, target: name.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_have_local_addresses_of_their_own() {
        let (host, inside) = (hardware_address(Slot(7), 1), hardware_address(Slot(7), 2));
        assert_eq!(host, [2, 1, 0, 0, 0, 7]);
        assert_ne!(host, inside);
    }
}
