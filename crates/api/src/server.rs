//! The server: its listener, its lifetime, and the way of a request through it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum_server::Handle;
use http::HeaderValue;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::answer::Answer;
use crate::backend::Backend;
use crate::call::{Call, Peer, Query, normal_path};
use crate::config::{ApiConfig, ServerTokens};
use crate::gate::{Gate, Live, LiveCell, Permit};
use crate::routes;

/// Connections beyond this number are closed at once.
const CONNECTIONS_MAX: usize = 1000;
/// How long a client may take to send its request line and headers, and how long a connection may lie idle.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest request line and headers together.
const HEADERS_BYTES_MAX: usize = 64 << 10;
/// How many headers a request may have.
const HEADERS_MAX: usize = 100;
/// How long requests under way may take to finish on shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long to try for a port that our own former listener is about to leave.
const REBIND_TIMEOUT: Duration = Duration::from_secs(5);

/// The server could not be started or changed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("restapi.listen: cannot listen on {address}: {source}{}", hint(.source))]
    Listen {
        /// As configured.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Certificates or keys cannot be used; a sentence that names the setting.
    #[error("{0}")]
    Tls(String),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process uses this port",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need privileges",
        _ => "",
    }
}

struct Shared {
    live: Arc<LiveCell>,
    backend: Arc<dyn Backend>,
    connections: Arc<Semaphore>,
}

/// A running listener.
struct Running {
    address: SocketAddr,
    handle: Handle<SocketAddr>,
    task: JoinHandle<io::Result<()>>,
}

/// The REST API, being served. Dropping it stops the server; [`Server::shutdown`] lets requests finish first.
pub struct Server {
    shared: Arc<Shared>,
    running: Mutex<Option<Running>>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
}

/// Reads TLS files, binds the address and starts answering.
pub async fn serve(config: ApiConfig, backend: Arc<dyn Backend>) -> Result<Server, ServeError> {
    let live = Live::load(config).await?;
    let listener = bind(&live.config).await?;
    let shared = Arc::new(Shared {
        live: Arc::new(LiveCell::new(live)),
        backend,
        connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
    });
    let running = start(&shared, listener)?;
    tracing::info!("REST API listens on {}", running.address);
    Ok(Server { shared, running: Mutex::new(Some(running)), reloading: tokio::sync::Mutex::new(()) })
}

impl Server {
    /// Where the server listens.
    pub fn local_addr(&self) -> SocketAddr {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), |running| running.address)
    }

    /// Takes on a changed configuration. Certificates are read again in any case. Connections that are open stay;
    /// a changed address or backlog moves the listener. On an error the server goes on as before.
    pub async fn reload(&self, config: ApiConfig) -> Result<(), ServeError> {
        let _one_at_a_time = self.reloading.lock().await;
        let live = Live::load(config).await?;
        let old = self.shared.live.config();
        if (&live.config.listen, live.config.backlog) != (&old.listen, old.backlog) {
            self.move_listener(&old, &live.config).await?;
        }
        self.shared.live.set(live);
        Ok(())
    }

    /// Binds the new address before leaving the old one; where the two collide, leaves first, and comes back when
    /// the new one turns out to be unusable.
    async fn move_listener(&self, old: &ApiConfig, new: &ApiConfig) -> Result<(), ServeError> {
        match bind(new).await {
            Ok(listener) => {
                let former = self.replace(Some(start(&self.shared, listener)?));
                if let Some(former) = former {
                    tokio::spawn(stop(former));
                }
            }
            Err(ServeError::Listen { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {
                if let Some(former) = self.replace(None) {
                    stop(former).await;
                }
                let (listener, failure) = match bind_soon(new).await {
                    Ok(listener) => (listener, None),
                    Err(failure) => (bind_soon(old).await?, Some(failure)),
                };
                self.replace(Some(start(&self.shared, listener)?));
                if let Some(failure) = failure {
                    return Err(failure);
                }
            }
            Err(error) => return Err(error),
        }
        tracing::info!("REST API listens on {}", self.local_addr());
        Ok(())
    }

    fn replace(&self, running: Option<Running>) -> Option<Running> {
        std::mem::replace(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner), running)
    }

    /// Stops accepting, lets requests under way finish within a few seconds, and closes what is left.
    pub async fn shutdown(self) {
        if let Some(running) = self.replace(None) {
            stop(running).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = self.replace(None) {
            running.handle.shutdown();
            running.task.abort();
        }
    }
}

async fn bind(config: &ApiConfig) -> Result<std::net::TcpListener, ServeError> {
    config.listen.bind(config.backlog).await.map_err(|source| {
        let host = config.listen.host.as_deref().unwrap_or("*");
        ServeError::Listen { address: format!("{host}:{}", config.listen.port), source }
    })
}

/// [`bind`], again and again while the address is in use, for a bounded time.
async fn bind_soon(config: &ApiConfig) -> Result<std::net::TcpListener, ServeError> {
    let deadline = tokio::time::Instant::now() + REBIND_TIMEOUT;
    loop {
        match bind(config).await {
            Err(ServeError::Listen { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse && tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

fn start(shared: &Arc<Shared>, listener: std::net::TcpListener) -> Result<Running, ServeError> {
    let failed = |source| ServeError::Listen { address: "the bound socket".to_owned(), source };
    let address = listener.local_addr().map_err(failed)?;
    let handle = Handle::new();
    let gate = Gate { live: Arc::clone(&shared.live), connections: Arc::clone(&shared.connections) };
    let mut server =
        axum_server::from_tcp(listener).map_err(failed)?.handle(handle.clone()).acceptor(gate).http1_only();
    server
        .http_builder()
        .http1()
        .header_read_timeout(HEADERS_TIMEOUT)
        .max_buf_size(HEADERS_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .half_close(true);
    let app = Router::new().fallback(respond).with_state(Arc::clone(shared));
    let task = tokio::spawn(server.serve(app.into_make_service()));
    Ok(Running { address, handle, task })
}

async fn stop(mut running: Running) {
    running.handle.graceful_shutdown(Some(DRAIN_TIMEOUT));
    if tokio::time::timeout(DRAIN_TIMEOUT + Duration::from_secs(1), &mut running.task).await.is_err() {
        running.task.abort();
    }
}

/// Answers a request in a task of its own: an operation goes on when its client goes away, and a panic costs only
/// the answer.
async fn respond(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let config = shared.live.config();
    let (parts, body) = request.into_parts();
    let unknown = Peer { ip: Ipv4Addr::UNSPECIFIED.into(), certificate: false, tls: false };
    let call = Call {
        config: Arc::clone(&config),
        backend: Arc::clone(&shared.backend),
        peer: parts.extensions.get::<Peer>().copied().unwrap_or(unknown),
        path: normal_path(&parts.uri),
        query: Query::parse(parts.uri.query().unwrap_or_default()),
        headers: parts.headers,
        body: Mutex::new(body),
    };
    let method = parts.method;
    // The request keeps its connection's place even when the client leaves: so their number stays bounded, too.
    let permit = parts.extensions.get::<Permit>().cloned();
    let answer = tokio::spawn(async move {
        let _permit = permit;
        routes::handle(method.as_str(), call).await
    });
    let answer = answer.await;
    let answer = answer.unwrap_or_else(|error| {
        tracing::error!("REST API handler failed: {error}");
        Answer::page(500, "The request could not be processed because of an internal error")
    });
    answer.into_response(&config.extra_headers, Some(&server_header(config.server_tokens)))
}

fn server_header(tokens: ServerTokens) -> HeaderValue {
    let with_version = || HeaderValue::from_str(&format!("Patroni/{}", model::COMPATIBLE_VERSION)).ok();
    match tokens {
        ServerTokens::Original | ServerTokens::Minimal => with_version(),
        ServerTokens::ProductOnly => None,
    }
    .unwrap_or(HeaderValue::from_static("Patroni"))
}
