//! What the server is told: flags over environment over a TOML file over defaults.

mod exposure;

use crate::demo::Demo;
use clap::parser::ValueSource;
use clap::{Args, FromArgMatches, ValueEnum};
use serde::Deserialize;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use exposure::check as check_exposure;

/// How log lines look.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

/// How reactors wait and do file I/O.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum IoEngine {
    /// io_uring where it is allowed, else epoll.
    Auto,
    /// io_uring, or refuse to start.
    Uring,
    /// epoll and a few threads for files.
    Epoll,
}

/// Every setting, as a flag, as `OPI_*` in the environment and as a key of the TOML file. Each is
/// absent unless somebody set it.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Settings {
    /// Where gRPC listens
    #[arg(long, env = "OPI_GRPC_ADDR", value_name = "ADDR:PORT")]
    pub grpc_addr: Option<SocketAddr>,
    /// Where REST, /openapi.json, /docs, /metrics, /healthz and /readyz listen
    #[arg(long, env = "OPI_HTTP_ADDR", value_name = "ADDR:PORT")]
    pub http_addr: Option<SocketAddr>,
    /// Directory of the store and the sealed keys
    #[arg(long, env = "OPI_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// File with the key that seals secrets; made on first use. Keep it off the state directory's
    /// disk if that disk may get lost
    #[arg(long, env = "OPI_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// CPUs to run a reactor on each, such as 0,2-3; without it one for each usable CPU, unpinned
    #[arg(long, env = "OPI_CORES", value_name = "LIST")]
    pub cores: Option<String>,
    /// How reactors wait and do file I/O
    #[arg(long, env = "OPI_IO_ENGINE", value_enum)]
    pub io_engine: Option<IoEngine>,
    /// Longest time in microseconds that an idle reactor spins before it sleeps; 0 never spins
    #[arg(long, env = "OPI_SPIN_US_MAX", value_name = "US")]
    pub spin_us_max: Option<u64>,
    /// Most memory in MiB that malloc volumes may hold together; 0 takes three quarters of what is
    /// available at the start
    #[arg(long, env = "OPI_MEMORY_MIB_MAX", value_name = "MIB")]
    pub memory_mib_max: Option<u64>,
    /// What makes the resources real
    #[arg(long, env = "OPI_PLATFORM", value_name = "NAME")]
    pub platform: Option<String>,
    /// Return names as the reference bridge does (volumes/x), and admit its ids
    #[arg(long, env = "OPI_LEGACY_NAMES", num_args = 0..=1, default_missing_value = "true")]
    pub legacy_names: Option<bool>,
    /// Certificate chain (PEM) of the management listeners
    #[arg(long, env = "OPI_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key (PEM) of the certificate
    #[arg(long, env = "OPI_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// CA (PEM) that client certificates must come from; needed beyond loopback
    #[arg(long, env = "OPI_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Allow management beyond loopback in the clear, or without client certificates
    #[arg(long, env = "OPI_INSECURE", num_args = 0..=1, default_missing_value = "true")]
    pub insecure: Option<bool>,
    /// More names, apart by commas, that clients may call a loopback listener without TLS, beside
    /// localhost and its addresses
    #[arg(long, env = "OPI_ALLOWED_HOSTS", value_name = "NAMES")]
    pub allowed_hosts: Option<String>,
    /// What to log, as error, warn, info, debug, trace, or per module
    #[arg(long, env = "OPI_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// How log lines look
    #[arg(long, env = "OPI_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

/// What only the command line can say.
#[derive(Args, Clone, Debug, Default)]
pub struct Flags {
    #[command(flatten)]
    settings: Settings,
    /// TOML file with any of the settings above (grpc-addr = "...")
    #[arg(long, env = "OPI_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the settings that would be used, with where each comes from, and exit
    #[arg(long)]
    print_config: bool,
    /// Build a demo from nothing, with a throw-away state directory, check it, and serve it
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "disk"
    )]
    demo: Option<Demo>,
}

/// The settings that a server runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where gRPC listens.
    pub grpc_addr: SocketAddr,
    /// Where HTTP listens.
    pub http_addr: SocketAddr,
    /// Directory of the store and the sealed keys.
    pub state_dir: PathBuf,
    /// File with the key that seals secrets.
    pub key_file: PathBuf,
    /// CPUs for reactors; empty for all usable ones.
    pub cores: Vec<usize>,
    /// How reactors wait.
    pub io_engine: IoEngine,
    /// Longest spin in microseconds.
    pub spin_us_max: u64,
    /// Most memory in MiB that malloc volumes may hold; 0 for a share of what is available.
    pub memory_mib_max: u64,
    /// What makes the resources real.
    pub platform: String,
    /// Names as the reference bridge has them.
    pub legacy_names: bool,
    /// Certificate and key of the management listeners.
    pub tls: Option<Tls>,
    /// Management by unknown clients beyond loopback is wanted.
    pub insecure: bool,
    /// More names for a loopback listener without TLS.
    pub allowed_hosts: Vec<String>,
    /// The log filter.
    pub log: String,
    /// The log format.
    pub log_format: LogFormat,
    /// The demo to build.
    pub demo: Option<Demo>,
}

/// Files for TLS on the management listeners.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tls {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// CA of client certificates, PEM; with it every client needs one.
    pub client_ca: Option<PathBuf>,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Wish {
    /// Run with these settings.
    Serve(Box<Config>),
    /// Only print this.
    Print(String),
}

/// Adds the flags of `opi serve` to a command.
pub fn augment(command: clap::Command) -> clap::Command {
    Flags::augment_args(command)
}

/// Reads flags, environment and file.
///
/// # Errors
/// One line that names the setting, its value, and the way out.
pub fn read(matches: &clap::ArgMatches) -> Result<Wish, String> {
    let flags = Flags::from_arg_matches(matches).map_err(|e| e.to_string())?;
    let file = flags
        .config
        .as_deref()
        .map(read_file)
        .transpose()?
        .unwrap_or_default();
    let source = |id: &str, in_file: bool| match matches.value_source(id) {
        Some(ValueSource::CommandLine) => "flag",
        Some(ValueSource::EnvVariable) => "environment",
        _ if in_file => "file",
        _ => "default",
    };
    let mut table = String::new();
    let config = merge(&flags, file, &mut |name, value, in_file| {
        let source = source(&name.replace('-', "_"), in_file);
        let _ = writeln!(table, "{:<46} # {source}", format!("{name} = {value}"));
    })?;
    Ok(if flags.print_config {
        Wish::Print(table)
    } else {
        Wish::Serve(Box::new(config))
    })
}

fn read_file(path: &Path) -> Result<Settings, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| format!("config: {shown}: {e}"))?;
    toml::from_str(&text).map_err(|e| format!("config: {shown}: {}", e.to_string().trim_end()))
}

/// Told of each setting: name, value as TOML, whether the file has it.
type Note<'a> = &'a mut dyn FnMut(&str, &str, bool);

fn merge(flags: &Flags, file: Settings, note: Note<'_>) -> Result<Config, String> {
    let own = flags.settings.clone();
    macro_rules! pick {
        ($field:ident, $default:expr) => {{
            let in_file = file.$field.is_some();
            let value = own.$field.or(file.$field).unwrap_or_else(|| $default);
            let name = stringify!($field).replace('_', "-");
            note(&name, &shown(&format!("{value:?}")), in_file);
            value
        }};
    }
    let grpc_addr = pick!(grpc_addr, SocketAddr::from(([127, 0, 0, 1], 50051)));
    let http_addr = pick!(http_addr, SocketAddr::from(([127, 0, 0, 1], 8082)));
    let state_dir = pick!(state_dir, default_state_dir());
    let key_file = pick!(key_file, default_key_file());
    let cores = pick!(cores, String::new());
    let io_engine = pick!(io_engine, IoEngine::Auto);
    let spin_us_max = pick!(spin_us_max, 50);
    let memory_mib_max = pick!(memory_mib_max, 0);
    let platform = pick!(platform, "native".to_owned());
    let legacy_names = pick!(legacy_names, false);
    let none = PathBuf::new;
    let (cert, key) = (pick!(tls_cert, none()), pick!(tls_key, none()));
    let client_ca = pick!(tls_client_ca, none());
    let insecure = pick!(insecure, false);
    let allowed_hosts = pick!(allowed_hosts, String::new());
    let log = pick!(log, "info".to_owned());
    let log_format = pick!(log_format, LogFormat::Auto);
    if platform != "native" {
        return Err(format!(
            "platform: {platform:?} is not built in; use native"
        ));
    }
    let tls = tls(cert, key, client_ca)?;
    let cores = core_list(&cores)?;
    let hosts = allowed_hosts.split(',').map(str::trim);
    let allowed_hosts = hosts.filter(|h| !h.is_empty()).map(str::to_owned).collect();
    let demo = flags.demo;
    Ok(Config {
        grpc_addr,
        http_addr,
        state_dir,
        key_file,
        cores,
        io_engine,
        spin_us_max,
        memory_mib_max,
        platform,
        legacy_names,
        tls,
        insecure,
        allowed_hosts,
        log,
        log_format,
        demo,
    })
}

/// A value as TOML writes it: what Rust prints without quotes is quoted unless it is a number or
/// a truth value.
fn shown(debug: &str) -> String {
    let plain = debug == "true" || debug == "false" || debug.parse::<u64>().is_ok();
    if plain || debug.starts_with('"') {
        debug.to_owned()
    } else {
        format!("{debug:?}").to_lowercase()
    }
}

fn tls(cert: PathBuf, key: PathBuf, client_ca: PathBuf) -> Result<Option<Tls>, String> {
    let given = |path: &PathBuf| !path.as_os_str().is_empty();
    match (given(&cert), given(&key), given(&client_ca)) {
        (true, true, ca) => Ok(Some(Tls {
            cert,
            key,
            client_ca: ca.then_some(client_ca),
        })),
        (false, false, false) => Ok(None),
        (true, false, _) => Err("tls-key: is needed with tls-cert".to_owned()),
        (false, true, _) => Err("tls-cert: is needed with tls-key".to_owned()),
        (false, false, true) => Err("tls-client-ca: needs tls-cert and tls-key as well".to_owned()),
    }
}

/// CPUs as in `0,2-3`.
fn core_list(text: &str) -> Result<Vec<usize>, String> {
    let wrong = |part: &str| format!("cores: {part:?} is not a CPU number or a range such as 2-3");
    let mut cores = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.parse().map_err(|_| wrong(part))?;
        let last: usize = last.parse().map_err(|_| wrong(part))?;
        // The largest number of CPUs that Linux can be built for.
        if first > last || last >= 8192 {
            return Err(wrong(part));
        }
        cores.extend(first..=last);
    }
    let mut unique = cores.clone();
    unique.sort_unstable();
    unique.dedup();
    if unique.len() < cores.len() {
        return Err(format!(
            "cores: {text:?} names a CPU twice; a reactor needs its own"
        ));
    }
    Ok(cores)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn home(variable: &str, below_home: &str) -> PathBuf {
    let set = std::env::var_os(variable)
        .filter(|v| !v.is_empty())
        .map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(below_home);
    set.unwrap_or_else(home)
}

fn default_state_dir() -> PathBuf {
    if is_root() {
        PathBuf::from("/var/lib/opi")
    } else {
        home("XDG_STATE_HOME", ".local/state").join("opi")
    }
}

fn default_key_file() -> PathBuf {
    if is_root() {
        PathBuf::from("/etc/opi/seal.key")
    } else {
        home("XDG_CONFIG_HOME", ".config").join("opi/seal.key")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(arguments: &[&str]) -> Result<Wish, String> {
        let command = augment(clap::Command::new("serve"));
        let all = std::iter::once(&"serve").chain(arguments);
        read(
            &command
                .try_get_matches_from(all)
                .map_err(|e| e.to_string())?,
        )
    }

    fn config(arguments: &[&str]) -> Config {
        match wish(arguments).unwrap() {
            Wish::Serve(config) => *config,
            Wish::Print(text) => panic!("{text}"),
        }
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("opi.toml");
        let text = "grpc-addr = \"127.0.0.1:1\"\nlegacy-names = true\nlog-format = \"json\"\n";
        std::fs::write(&path, text).unwrap();
        let file = path.to_str().unwrap();
        let read = config(&["--config", file, "--grpc-addr", "127.0.0.1:2"]);
        assert_eq!(read.grpc_addr.port(), 2);
        assert_eq!(read.http_addr.port(), 8082);
        assert!(read.legacy_names && read.log_format == LogFormat::Json);
        let Wish::Print(table) = wish(&[
            "--config",
            file,
            "--grpc-addr",
            "127.0.0.1:2",
            "--print-config",
        ])
        .unwrap() else {
            panic!("a table was asked for")
        };
        let source = |name: &str| {
            let line = table.lines().find(|l| l.starts_with(name)).unwrap();
            line.rsplit("# ").next().unwrap().to_owned()
        };
        assert_eq!(
            (&*source("grpc-addr"), &*source("legacy-names")),
            ("flag", "file")
        );
        assert_eq!(source("spin-us-max"), "default");
        assert!(
            toml::from_str::<Settings>(&table.replace("tls-client-ca = \"\"", "")).is_ok(),
            "{table}"
        );
    }

    #[test]
    fn a_key_that_does_not_exist_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("opi.toml");
        std::fs::write(&path, "grpc_adr = \"x\"\n").unwrap();
        let error = wish(&["--config", path.to_str().unwrap()]).unwrap_err();
        assert!(
            error.contains("grpc_adr") && error.contains("opi.toml"),
            "{error}"
        );
    }

    #[test]
    fn core_lists_are_numbers_and_ranges_without_repeats() {
        assert_eq!(core_list("0, 2-4").unwrap(), [0, 2, 3, 4]);
        assert_eq!(core_list("").unwrap(), [0_usize; 0]);
        for wrong in ["x", "3-1", "1,1", "0-9999", "-1"] {
            assert!(
                core_list(wrong).unwrap_err().starts_with("cores: "),
                "{wrong}"
            );
        }
    }

    #[test]
    fn half_of_a_tls_pair_is_refused() {
        assert!(
            wish(&["--tls-cert", "c.pem"])
                .unwrap_err()
                .starts_with("tls-key")
        );
        assert!(
            wish(&["--tls-key", "k.pem"])
                .unwrap_err()
                .starts_with("tls-cert")
        );
        assert!(
            wish(&["--tls-client-ca", "a.pem"])
                .unwrap_err()
                .starts_with("tls-client-ca")
        );
        let both = config(&["--tls-cert", "c.pem", "--tls-key", "k.pem"]);
        assert_eq!(both.tls.unwrap().client_ca, None);
    }
}
