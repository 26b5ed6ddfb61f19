//! What a connection to a web server begins with: of whom it asks for what, by the SNI of TLS or the
//! Host of HTTP. Not what becomes of it.

use std::io;

use rustls::server::Acceptor;

/// More headers than these are refused.
const MOST_HEADERS: usize = 100;

/// The server's name; `None` while more is needed.
///
/// # Errors
/// When it is neither, or names no server, or more than one.
pub fn name_of(begun: &[u8]) -> io::Result<Option<String>> {
    match begun.first() {
        None => Ok(None),
        // A record of TLS that is part of a handshake.
        Some(0x16) => sni(begun),
        Some(_) => host(begun),
    }
}

fn sni(mut begun: &[u8]) -> io::Result<Option<String>> {
    let mut acceptor = Acceptor::default();
    while !begun.is_empty() {
        acceptor.read_tls(&mut begun)?;
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_owned);
                return name.map(Some).ok_or_else(|| invalid("TLS without a name"));
            }
            Err((error, _)) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
    Ok(None)
}

fn host(begun: &[u8]) -> io::Result<Option<String>> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(begun).map_err(|error| invalid(&error.to_string()))?;
    if parsed.is_partial() {
        return Ok(None);
    }
    // A server that is asked for another host in the target would not look at the header.
    if !request.path.is_some_and(|path| path.starts_with('/')) {
        return Err(invalid("not a path of the host's own"));
    }
    let mut hosts = request.headers.iter().filter(|it| it.name.eq_ignore_ascii_case("host"));
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(invalid("not one Host"));
    };
    let host = std::str::from_utf8(host.value).map_err(|_| invalid("a Host that is no text"))?;
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    Ok(Some(name.to_owned()))
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::ring};

    use super::*;

    fn hello(name: &str) -> Vec<u8> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_handshake_has_the_name_of_its_server_however_it_comes() {
        let bytes = hello("www.a.test");
        for cut in 0..bytes.len() {
            assert_eq!(name_of(&bytes[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(name_of(&bytes).unwrap().as_deref(), Some("www.a.test"));
        assert!(name_of(&hello("192.0.2.1")).is_err(), "an address is no name");
    }

    #[test]
    fn a_request_has_one_host_and_is_for_it() {
        let read = |text: &str| name_of(text.as_bytes());
        assert_eq!(read("GET / HTTP/1.1\r\nHost: a.te").unwrap(), None);
        for (host, name) in [("a.test", "a.test"), ("A.test:80", "A.test"), ("a.test:", "a.test")] {
            let text = format!("GET /x HTTP/1.1\r\nA: b\r\nhOst: {host}\r\n\r\nbody");
            assert_eq!(read(&text).unwrap().as_deref(), Some(name));
        }
        for wrong in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nX: y\r\n Host: a\r\n\r\n",
            "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "CONNECT b:443 HTTP/1.1\r\nHost: a\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "SSH-2.0-x\r\n",
            "\0\0\0\0",
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
