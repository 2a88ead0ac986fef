//! `opi serve` from start to end: puts everything together, in the order in which it must happen.

mod memory;
mod operations;

use api::Error;
use axum::Router;
use clap::ArgMatches;
use control::Settings;
use control::store::{DiskStore, Store as _, read_key_file};
use engine::{Backend, Latch, Options, Reactors, World};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::calls::Dispatch;
use crate::config::{self, Config, IoEngine, Wish};
use crate::demo::{self, Demo, Host, Place, Site};
use crate::http::{self, host, listen, tls};
use crate::logging;
use crate::service::{Service, Start, Writer};

/// Threads of the control plane: it waits far more than it works, and every thread costs memory.
const CONTROL_THREADS: usize = 2;

/// Runs `opi serve`; `demo_host` is the host that the demo works with.
///
/// Exit status 0 after a wanted end, 1 after a failure, 2 for wrong settings.
pub fn main(matches: &ArgMatches, demo_host: Host) -> ExitCode {
    let usage = |text: String| {
        eprintln!("error: {text}");
        ExitCode::from(2)
    };
    let config = match config::read(matches) {
        Ok(Wish::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Ok(Wish::Serve(config)) => config,
        Err(text) => return usage(text),
    };
    if let Err(text) = config::check_exposure(&config) {
        return usage(text);
    }
    if let Err(text) = logging::start(&config.log, config.log_format) {
        return usage(text);
    }
    match serve(&config, demo_host) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with what caused it, in one line.
fn one_line(error: &Error) -> String {
    let mut text = error.message.clone();
    let mut cause = std::error::Error::source(error);
    while let Some(below) = cause {
        let more = below.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = below.source();
    }
    text.replace('\n', " ")
}

fn failed(what: &str, error: &std::io::Error) -> Error {
    Error::unavailable(format!("{what}: {error}"))
}

fn serve(config: &Config, demo_host: Host) -> Result<(), Error> {
    raise_descriptors();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("opi-control")
        .enable_all()
        .build()
        .map_err(|e| failed("the threads of the control plane cannot be started", &e))?;
    runtime.block_on(serve_async(config, demo_host))
}

/// As many descriptors as this process may have: a host queue is one, a file volume is one.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
    }
}

/// A server that runs.
struct Running {
    service: Service,
    router: Router,
    tls: Option<Arc<rustls::ServerConfig>>,
    listeners: Vec<TcpListener>,
    /// The last handle to the threads that do the I/O.
    _world: World,
}

impl Running {
    fn site(&self) -> Site {
        let addresses = self.listeners.iter().filter_map(|l| l.local_addr().ok());
        Site {
            dispatch: Dispatch::new(Arc::new(self.service.clone())),
            service: self.service.clone(),
            management: addresses.collect(),
        }
    }

    /// Serves until `stop` is ready; once.
    async fn serve(&mut self, names: &host::Names, stop: impl Future<Output = ()>) {
        let listeners = std::mem::take(&mut self.listeners);
        let (tls, router) = (self.tls.clone(), self.router.clone());
        listen::serve(listeners, tls, names, router, stop).await;
    }
}

async fn serve_async(config: &Config, demo_host: Host) -> Result<(), Error> {
    // Kept to the end: the directory is removed with it.
    let place = config.demo.map(|_| Place::make()).transpose()?;
    let (state_dir, key_file) = match &place {
        Some(place) => place.of("state"),
        None => (config.state_dir.clone(), config.key_file.clone()),
    };
    let stop = stop_signal()?;
    let mut running = start(config, state_dir, &key_file).await?;
    // The array of the demo that has one: a server beside this one, on ports that are free.
    let mut array = match (config.demo, &place) {
        (Some(Demo::Xpu), Some(place)) => Some(start_array(config, place).await?),
        _ => None,
    };
    let (site, array_site) = (running.site(), array.as_ref().map(Running::site));
    let names = host::Names::new(config.allowed_hosts.clone());
    let serving = running.serve(&names, stop);
    if config.demo.is_some() {
        let array_serving = async {
            if let Some(array) = &mut array {
                array.serve(&names, std::future::pending()).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            // Ctrl-C in the middle of the demo ends it; its own failure ends the program.
            () = serving => {}
            () = array_serving => {}
            failed = demo::run(&site, array_site.as_ref(), demo_host) => failed?,
        }
    } else {
        serving.await;
    }
    tracing::info!("stopping: changes under way are finished first");
    // The threads that do the I/O end with `running` and `array`, after this.
    site.service.close().await;
    if let Some(array) = array_site {
        array.service.close().await;
    }
    Ok(())
}

async fn start_array(config: &Config, place: &Place) -> Result<Running, Error> {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config {
        grpc_addr: free,
        http_addr: free,
        tls: None,
        ..config.clone()
    };
    let (state_dir, key_file) = place.of("array");
    start(&config, state_dir, &key_file).await
}

async fn start(config: &Config, state_dir: PathBuf, key_file: &Path) -> Result<Running, Error> {
    let tls = match &config.tls {
        None => None,
        Some(files) => {
            let ca = files.client_ca.as_deref();
            Some(tls::server_config(&files.cert, &files.key, ca)?)
        }
    };
    // A missing key is made for a new store only: an old one cannot be opened with another.
    let fresh = !state_dir.join("store.redb").exists();
    let keys = Arc::new(control::Keys::derive(&*read_key_file(key_file, fresh)?));
    let mut store = DiskStore::open(&state_dir, keys.clone())?;
    // Before any data listener opens: a port that is taken ends the start without a trace.
    let grpc = listen::bind(config.grpc_addr, "grpc-addr").await?;
    let web = listen::bind(config.http_addr, "http-addr").await?;
    let loaded = store.load()?;
    let writer = Writer::start(Box::new(store), loaded.keep)?;
    let world = World {
        reactors: reactors(config)?,
        keep: Arc::new(writer.clone()),
        restored: Arc::<Latch>::default(),
    };
    memory::set_budget(config.memory_mib_max);
    let handlers = drivers::platform(&config.platform, &world)?;
    let service = Service::start(Start {
        settings: Settings {
            legacy_names: config.legacy_names,
        },
        keys,
        handlers,
        writer,
        stored: loaded.resources,
        restored: world.restored.clone(),
        root: PathBuf::from("/"),
    })?;
    let more = operations::router(&service, &world.reactors);
    let (router, health) = http::app(Dispatch::new(Arc::new(service.clone())), more).await;
    tokio::spawn(operations::tell_health(service.clone(), health));
    let shown = |listener: &TcpListener| {
        listener
            .local_addr()
            .map_or_else(|_| String::new(), |address| address.to_string())
    };
    let io_engine = operations::io_engine(&world.reactors);
    let (grpc_addr, http_addr) = (shown(&grpc), shown(&web));
    let state = state_dir.display().to_string();
    tracing::info!(grpc_addr, http_addr, state, io_engine, "opi serves");
    Ok(Running {
        service,
        router,
        tls,
        listeners: vec![grpc, web],
        _world: world,
    })
}

fn reactors(config: &Config) -> Result<Reactors, Error> {
    let options = Options {
        cores: config.cores.clone(),
        backend: match config.io_engine {
            IoEngine::Auto => Backend::Auto,
            IoEngine::Uring => Backend::Uring,
            IoEngine::Epoll => Backend::Epoll,
        },
        spin_max: blk::Nanos::from_micros(config.spin_us_max),
    };
    Reactors::start(&options).map_err(|e| failed("the threads that do I/O cannot be started", &e))
}

/// Ready at the first SIGINT or SIGTERM.
fn stop_signal() -> Result<impl Future<Output = ()>, Error> {
    let on = |kind| signal(kind).map_err(|e| failed("signals cannot be received", &e));
    let (mut interrupt, mut terminate) =
        (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
