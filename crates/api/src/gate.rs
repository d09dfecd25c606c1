//! The gate that each connection passes: counted, tuned, and encrypted as configured at that moment.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum_server::accept::Accept;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use crate::call::Peer;
use crate::config::ApiConfig;
use crate::server::ServeError;
use crate::{listen, tls};

/// How long a client may take for its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What connections and requests look up; replaced as a whole by a reload.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) config: Arc<ApiConfig>,
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

impl Live {
    /// Reads certificates and keys; the work is done off the runtime's threads.
    pub(crate) async fn load(config: ApiConfig) -> Result<Live, ServeError> {
        let config = Arc::new(config);
        let files = Arc::clone(&config);
        let tls = tokio::task::spawn_blocking(move || files.tls.as_ref().map(tls::server_config).transpose());
        let tls = tls.await.map_err(|error| ServeError::Tls(format!("cannot read TLS files: {error}")))?;
        Ok(Live { config, tls: tls.map_err(ServeError::Tls)? })
    }
}

/// The [`Live`] configuration that everybody looks at.
pub(crate) struct LiveCell(RwLock<Live>);

impl LiveCell {
    pub(crate) fn new(live: Live) -> LiveCell {
        LiveCell(RwLock::new(live))
    }

    pub(crate) fn get(&self) -> Live {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn config(&self) -> Arc<ApiConfig> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).config)
    }

    pub(crate) fn set(&self, live: Live) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = live;
    }
}

/// What a connection reads from and writes to.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A place among the connections.
pub(crate) type Permit = Arc<OwnedSemaphorePermit>;

/// Admits connections: counts them, tunes their sockets, and speaks TLS where that is configured at this moment.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) live: Arc<LiveCell>,
    pub(crate) connections: Arc<Semaphore>,
}

type Admission<S> = std::pin::Pin<Box<dyn Future<Output = io::Result<(Box<dyn Io>, Admitted<S>)>> + Send>>;

impl<S: Send + 'static> Accept<TcpStream, S> for Gate {
    type Stream = Box<dyn Io>;
    type Service = Admitted<S>;
    type Future = Admission<S>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let live = self.live.get();
        let permit = Arc::clone(&self.connections).try_acquire_owned();
        Box::pin(async move {
            let permit = permit.map_err(|_| io::Error::other("too many connections"))?;
            listen::tune(&stream)?;
            let ip = stream.peer_addr()?.ip().to_canonical();
            let (stream, peer): (Box<dyn Io>, Peer) = match live.tls {
                None => (Box::new(stream), Peer { ip, certificate: false, tls: false }),
                Some(config) => {
                    let handshake = TlsAcceptor::from(config).accept(stream);
                    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await??;
                    // rustls finishes the handshake only when a certificate that is shown is valid.
                    let certificate = stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty());
                    (Box::new(stream), Peer { ip, certificate, tls: true })
                }
            };
            Ok((stream, Admitted { service, peer, permit: Arc::new(permit) }))
        })
    }
}

/// The service of one connection, which tells handlers who the peer is.
#[derive(Clone)]
pub(crate) struct Admitted<S> {
    service: S,
    peer: Peer,
    /// The place among the connections, given back when the connection and its last request are done.
    permit: Permit,
}

impl<S, B> Service<http::Request<B>> for Admitted<S>
where
    S: Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> S::Future {
        request.extensions_mut().insert(self.peer);
        request.extensions_mut().insert(Arc::clone(&self.permit));
        self.service.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn connections_beyond_the_limit_are_refused_until_one_ends() {
        let section = json!({"listen": "127.0.0.1:0"});
        let config = ApiConfig::from_section(section.as_object().expect("an object")).expect("valid");
        let live = Live::load(config).await.expect("no files to read");
        let gate = Gate { live: Arc::new(LiveCell::new(live)), connections: Arc::new(Semaphore::new(1)) };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let connect = async || {
            let client = TcpStream::connect(address).await.expect("connected");
            (client, listener.accept().await.expect("accepted").0)
        };
        let (_client, stream) = connect().await;
        let first = gate.accept(stream, ()).await.expect("admitted");
        assert_eq!(first.1.peer.ip, address.ip());
        let (_client, stream) = connect().await;
        assert!(gate.accept(stream, ()).await.is_err(), "one too many");
        drop(first);
        let (_client, stream) = connect().await;
        assert!(gate.accept(stream, ()).await.is_ok(), "a place is free again");
    }
}
