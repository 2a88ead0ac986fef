//! Listeners, connections, and an orderly end.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use api::{Code, Error};
use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::greeting::Greeting;
use super::{Peer, host};

/// Connections at once on one listener; each costs a file descriptor and some 50 KiB.
const CONNECTIONS_MAX: usize = 1024;
/// Calls at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// Longest time until a client has shown its version of HTTP, and for a TLS handshake before that.
const GREETING_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest time for the head of an HTTP/1 request, idle time before it included.
const HEAD_TIME_MAX: Duration = Duration::from_secs(60);
/// How often a silent HTTP/2 client is asked whether it still lives.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long it may take to answer.
const PING_TIME_MAX: Duration = Duration::from_secs(20);
/// How long calls may go on once the server was told to stop; a watch never ends by itself.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
/// Pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens a listener. `field` is the setting the address comes from, for the error.
///
/// # Errors
/// The address is taken or not of this machine.
pub async fn bind(address: SocketAddr, field: &str) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|e| {
        let text = format!("{field}: cannot listen on {address}: {e}; choose another address");
        Error::new(Code::FailedPrecondition, text).at(field)
    })
}

/// Serves `router` on all listeners until `stop` is ready, then lets calls end for some seconds.
/// `names` are what clients may call a listener on loopback.
pub async fn serve(
    listeners: Vec<TcpListener>,
    tls: Option<Arc<ServerConfig>>,
    names: &host::Names,
    router: Router,
    stop: impl Future<Output = ()>,
) {
    let (stopper, stopped) = watch::channel(false);
    let acceptor = tls.map(TlsAcceptor::from);
    let mut loops = JoinSet::new();
    for listener in listeners {
        let address = listener.local_addr();
        // One that has lost its address has lost its clients as well.
        let guarded = address.is_ok_and(|a| host::Names::matter(a, acceptor.is_some()));
        let check = axum::middleware::from_fn_with_state(names.clone(), host::check);
        let router = if guarded {
            router.clone().layer(check)
        } else {
            router.clone()
        };
        loops.spawn(accept(listener, acceptor.clone(), router, stopped.clone()));
    }
    stop.await;
    stopper.send_replace(true);
    while loops.join_next().await.is_some() {}
}

/// Takes connections until told to stop, then waits for those that are left.
async fn accept(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    router: Router,
    mut stopped: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = told_to_stop(&mut stopped) => break,
            next = next => next,
            // Reaps what has ended, so that the set does not grow.
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, address)) => {
                let serving = connection(
                    stream,
                    address,
                    acceptor.clone(),
                    router.clone(),
                    stopped.clone(),
                );
                connections.spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Ready once the server is to stop; also if whoever would say so is gone.
async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    let _told = stopped.wait_for(|&stop| stop).await.map(drop);
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    router: Router,
    stopped: watch::Receiver<bool>,
) {
    // Small answers must not wait for each other; a socket that refuses this still works.
    let _unset = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else {
        let peer = Peer {
            address,
            certificate: None,
        };
        return exchange(stream, peer, router, stopped).await;
    };
    match tokio::time::timeout(GREETING_TIME_MAX, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let chain = stream.get_ref().1.peer_certificates();
            let certificate = chain.and_then(|c| c.first()).map(|c| Arc::from(c.as_ref()));
            exchange(
                stream,
                Peer {
                    address,
                    certificate,
                },
                router,
                stopped,
            )
            .await;
        }
        Ok(Err(e)) => tracing::debug!(peer = %address, error = %e, "TLS handshake failed"),
        Err(_) => tracing::debug!(peer = %address, "TLS handshake took too long"),
    }
}

/// Serves the requests of one connection, HTTP/1 or HTTP/2.
async fn exchange<S>(stream: S, peer: Peer, router: Router, mut stopped: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let address = peer.address;
    let service = router.map_request(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        request
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIME_MAX);
    let service = TowerToHyperService::new(service);
    let mut serving = pin!(builder.serve_connection(
        TokioIo::new(Greeting::new(stream, GREETING_TIME_MAX)),
        service
    ));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = told_to_stop(&mut stopped) => {
            serving.as_mut().graceful_shutdown();
            match tokio::time::timeout(DRAIN_TIME_MAX, serving).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(e) = ended {
        tracing::debug!(peer = %address, error = %e, "connection ended");
    }
}
