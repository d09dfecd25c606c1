//! Listening sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpStream, lookup_host};

/// How long resolving the name in `listen` may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A client that takes nothing of an answer for this long is cut.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// `restapi.listen`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenAddress {
    /// Name or address; `None` for all addresses.
    pub(crate) host: Option<String>,
    pub(crate) port: u16,
}

impl ListenAddress {
    /// Parses `host:port`; the host may be `*` or empty for all addresses, the port 0 for any free one.
    pub(crate) fn parse(text: &str) -> Result<ListenAddress, String> {
        let fail = || format!("restapi.listen: cannot read {text:?}: expected host:port");
        let (host, port) = text.trim().rsplit_once(':').ok_or_else(fail)?;
        let port = port.parse().map_err(|_| fail())?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.contains(|c: char| c.is_whitespace() || c == '/' || c == '[' || c == ']') {
            return Err(fail());
        }
        Ok(ListenAddress { host: (!host.is_empty() && host != "*").then(|| host.to_owned()), port })
    }

    /// Binds the first of the addresses that the host stands for and that can be bound.
    pub(crate) async fn bind(&self, backlog: i32) -> io::Result<TcpListener> {
        let addresses: Vec<SocketAddr> = match &self.host {
            // IPv6 first: where the kernel allows it, one socket serves both families.
            None => [IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(Ipv4Addr::UNSPECIFIED)]
                .map(|ip| SocketAddr::new(ip, self.port))
                .to_vec(),
            Some(host) => tokio::time::timeout(RESOLVE_TIMEOUT, lookup_host((host.as_str(), self.port)))
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the host name was not resolved in time"))??
                .collect(),
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
        for address in addresses {
            match bind_one(address, backlog, self.host.is_none()) {
                Ok(listener) => return Ok(listener),
                // Another server on the port is no reason to serve half of the addresses.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn bind_one(address: SocketAddr, backlog: i32, dual_stack: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual_stack)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Prepares an accepted connection: answers leave at once, and dead or stuck clients do not hold it forever.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10)),
    )?;
    socket.set_tcp_user_timeout(Some(SEND_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, host, port) in [
            ("127.0.0.1:8008", Some("127.0.0.1"), 8008),
            ("[::1]:0", Some("::1"), 0),
            ("::1:8008", Some("::1"), 8008),
            ("*:8008", None, 8008),
            (":8008", None, 8008),
            ("db.example:8008", Some("db.example"), 8008),
        ] {
            assert_eq!(ListenAddress::parse(text), Ok(ListenAddress { host: host.map(str::to_owned), port }), "{text}");
        }
        for text in ["", "db", "a:b", "a:70000", "a:-1", "a b:1", "http://a:1", "[::1:1"] {
            assert!(ListenAddress::parse(text).is_err(), "{text}");
        }
    }
}
