//! systemd's readiness protocol (`sd_notify(3)`); silent where nobody listens.

use std::os::unix::net::UnixDatagram;

/// Sends a state such as `READY=1` to the socket that `NOTIFY_SOCKET` names, if it names one.
pub fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
        return;
    };
    // Whoever does not read its socket loses messages, and holds nobody up.
    let socket = UnixDatagram::unbound().and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
    let sent = socket.and_then(|socket| match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            socket.send_to_addr(state.as_bytes(), &address)
        }
        None => socket.send_to(state.as_bytes(), &path),
    });
    if let Err(error) = sent {
        tracing::debug!("cannot notify systemd: {error}");
    }
}
