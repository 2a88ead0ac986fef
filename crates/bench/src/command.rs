//! The command `opi bench`.

use api::units;
use clap::{Args, Command, FromArgMatches as _, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use wire::nvme::Nqn;
use wire::nvme_tcp::Digests;

use crate::Address;
use crate::host::{HostError, Options};
use crate::limit;
use crate::load::{Load, Order, Progress, Report};

const EXAMPLES: &str = "\
Examples:
  opi bench tcp://127.0.0.1:4420/nqn.2024-01.org.example:s0
  opi bench -t tcp -a 127.0.0.1 -s 4420 -n nqn.2024-01.org.example:s0 --rw randwrite --depth 128
  opi bench tcp://127.0.0.1/nqn.2024-01.org.example:s0 --rw randrw --verify --range 1GiB
  opi bench limit tcp://127.0.0.1/nqn.2024-01.org.example:s0 --cpu 1 --responder-cpu 0

The namespace is overwritten by every load that writes. The exit code is 1 if an I/O failed or a
verified block was wrong.";
const LIMIT_EXAMPLES: &str = "\
Examples:
  opi bench limit --cpu 1 --responder-cpu 0
  opi bench limit tcp://127.0.0.1/nqn.2024-01.org.example:s0 --rounds 5 --depth 32

The minimal responder answers messages of the same size with nothing behind it. With a target, the
two are measured in turn, so that what else the machine does falls on both.";

/// Why the command failed.
#[derive(Debug)]
pub struct BenchError {
    message: String,
    usage: bool,
}

impl BenchError {
    fn usage(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            usage: true,
        }
    }

    fn failed(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            usage: false,
        }
    }

    /// 1 for a run that failed, 2 for a command that made no sense.
    pub fn exit_code(&self) -> u8 {
        if self.usage { 2 } else { 1 }
    }
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for BenchError {}

impl From<HostError> for BenchError {
    fn from(error: HostError) -> Self {
        Self {
            usage: matches!(error, HostError::Invalid(_)),
            message: error.to_string(),
        }
    }
}

/// What reads and writes there are.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Pattern {
    /// Sequential reads
    Read,
    /// Sequential writes
    Write,
    /// Sequential reads and writes
    Rw,
    /// Random reads
    Randread,
    /// Random writes
    Randwrite,
    /// Random reads and writes
    Randrw,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs; the form is stable
    Json,
}

#[derive(Args, Clone, Debug)]
struct TargetArgs {
    /// Where the subsystem is: tcp://127.0.0.1:4420/NQN
    #[arg(value_name = "TARGET")]
    target: Option<String>,
    /// Transport; only tcp
    #[arg(short = 't', long, value_name = "TYPE", value_parser = ["tcp"], default_value = "tcp")]
    transport: String,
    /// Address of the subsystem
    #[arg(
        short = 'a',
        long,
        value_name = "ADDR",
        requires = "nqn",
        conflicts_with = "target"
    )]
    traddr: Option<String>,
    /// Port of the subsystem
    #[arg(short = 's', long, value_name = "PORT", default_value_t = 4420)]
    trsvcid: u16,
    /// Name of the subsystem
    #[arg(short = 'n', long, value_name = "NQN", requires = "traddr")]
    nqn: Option<String>,
    /// Name of this host [default: a random one]
    #[arg(short = 'q', long, value_name = "NQN")]
    hostnqn: Option<String>,
    /// Namespace
    #[arg(long, value_name = "NSID", default_value_t = 1)]
    nsid: u32,
    /// Ask for header digests
    #[arg(short = 'g', long)]
    hdr_digest: bool,
    /// Ask for data digests
    #[arg(short = 'G', long)]
    data_digest: bool,
    /// Keep submission queue flow control, which the load does without where it may
    #[arg(long)]
    sq_flow_control: bool,
}

#[derive(Args, Clone, Debug)]
struct LoadArgs {
    /// What to do
    #[arg(long, value_name = "PATTERN", default_value = "randread")]
    rw: Pattern,
    /// Of 100 I/Os of a mixed pattern, how many are reads
    #[arg(long, value_name = "PERCENT", default_value_t = 70)]
    read_percent: u8,
    /// Data of one I/O
    #[arg(short = 'b', long, alias = "bs", value_name = "SIZE", default_value = "4KiB",
          value_parser = block_size)]
    block_size: u64,
    /// I/Os in flight on each connection
    #[arg(short = 'd', long, aliases = ["qd", "iodepth"], value_name = "N", default_value_t = 32)]
    depth: u16,
    /// Connections, each one I/O queue
    #[arg(short = 'c', long, value_name = "N", default_value_t = 1)]
    connections: u16,
    /// Threads, over which the connections are spread
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: u16,
    /// How long to measure
    #[arg(long, alias = "runtime", value_name = "TIME", default_value = "10s",
          value_parser = units::parse_duration)]
    time: Duration,
    /// How long to run before measuring
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::parse_duration)]
    ramp: Duration,
    /// Stop after so many I/Os instead
    #[arg(long, value_name = "N")]
    ios: Option<u64>,
    /// Use only so much of the namespace, from its start
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    range: Option<u64>,
    /// Stamp every block with its address and version first, check all that is read, and read
    /// everything back in the end
    #[arg(long)]
    verify: bool,
    /// Where random numbers start
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Processors to bind the threads to
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cpu: Vec<usize>,
    /// Process of the target, whose processor time is counted
    #[arg(long, value_name = "PID")]
    target_pid: Option<u32>,
    /// How long to wait for an answer
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::parse_duration)]
    timeout: Duration,
    /// How to show the result
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

#[derive(Args, Clone, Debug)]
struct BenchArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(subcommand)]
    other: Option<Other>,
}

#[derive(Clone, Debug, Subcommand)]
enum Other {
    /// Measure the minimal responder, and what part of its rate a target reaches
    #[command(after_help = LIMIT_EXAMPLES)]
    Limit(LimitArgs),
}

#[derive(Args, Clone, Debug)]
struct LimitArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Processor to bind the responder to
    #[arg(long, value_name = "N")]
    responder_cpu: Option<usize>,
    /// Memory the responder answers reads from; by default one answer, which stays in the cache
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size, default_value = "0")]
    memory: u64,
    /// How often to measure each
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: u32,
}

/// The command, for the command line of the program.
pub fn command() -> Command {
    let command = Command::new("bench")
        .about("Put a load on an NVMe/TCP subsystem, and measure or verify it")
        .after_help(EXAMPLES)
        .args_conflicts_with_subcommands(true);
    BenchArgs::augment_args(command)
}

/// Runs the command.
///
/// # Errors
/// The command makes no sense, a connection fails, or what was read was wrong.
pub fn run(matches: &clap::ArgMatches) -> Result<(), BenchError> {
    let args =
        BenchArgs::from_arg_matches(matches).map_err(|e| BenchError::usage(e.to_string()))?;
    match args.other {
        Some(Other::Limit(limit)) => run_limit(&limit),
        None => run_load(&args.target, &args.load),
    }
}

impl TargetArgs {
    fn address(&self) -> Result<Option<Address>, BenchError> {
        let address = match (&self.target, &self.traddr, &self.nqn) {
            (Some(url), ..) => Address::parse(url),
            (None, Some(traddr), Some(nqn)) => Address::from_parts(traddr, self.trsvcid, nqn),
            _ => return Ok(None),
        };
        address.map(Some).map_err(BenchError::usage)
    }

    fn options(&self, load: &LoadArgs) -> Result<Options, BenchError> {
        let parse = |text: &String| {
            Nqn::parse(text).map_err(|e| BenchError::usage(format!("--hostnqn: `{text}`: {e}")))
        };
        Ok(Options {
            hostnqn: self.hostnqn.as_ref().map(parse).transpose()?,
            digests: Digests {
                header: self.hdr_digest,
                data: self.data_digest,
            },
            sq_flow_control: self.sq_flow_control,
            timeout: load.timeout,
            ..Options::default()
        })
    }
}

impl LoadArgs {
    fn load(&self) -> Result<Load, BenchError> {
        let (order, read_percent) = match self.rw {
            Pattern::Read => (Order::Sequential, 100),
            Pattern::Write => (Order::Sequential, 0),
            Pattern::Rw => (Order::Sequential, self.read_percent),
            Pattern::Randread => (Order::Random, 100),
            Pattern::Randwrite => (Order::Random, 0),
            Pattern::Randrw => (Order::Random, self.read_percent),
        };
        let io_bytes = usize::try_from(self.block_size)
            .map_err(|_| BenchError::usage("--block-size is too large"))?;
        Ok(Load {
            io_bytes,
            depth: self.depth,
            connections: self.connections,
            threads: self.threads,
            order,
            read_percent,
            time: self.time,
            ramp: self.ramp,
            ios: self.ios,
            range_bytes: self.range,
            verify: self.verify,
            seed: self.seed,
            cpus: self.cpu.clone(),
            target_pid: self.target_pid,
        })
    }
}

fn run_load(target: &TargetArgs, args: &LoadArgs) -> Result<(), BenchError> {
    let address = target.address()?.ok_or_else(|| {
        BenchError::usage("say where the load goes: tcp://127.0.0.1:4420/NQN, or -a and -n")
    })?;
    let (load, options) = (args.load()?, target.options(args)?);
    let bar = bar();
    let report = load.run(&address, target.nsid, &options, &mut |p| show(&bar, &p));
    bar.finish_and_clear();
    let report = report?;
    print(&match args.output {
        Output::Text => report.text(),
        Output::Json => json(&report)?,
    })?;
    verdict(&report)
}

fn verdict(report: &Report) -> Result<(), BenchError> {
    if report.is_good() {
        return Ok(());
    }
    let failed: u64 = report.errors.values().sum();
    let wrong = report.verified.as_ref().map_or(0, |v| v.mismatches);
    Err(BenchError::failed(format!(
        "{failed} I/Os failed, {wrong} blocks were wrong"
    )))
}

/// What a comparison found.
#[derive(serde::Serialize)]
struct Comparison {
    schema: &'static str,
    responder: Vec<Report>,
    target: Vec<Report>,
    /// Median of the rates of the responder, in I/Os per second.
    responder_ios_per_second: f64,
    /// The same of the target.
    target_ios_per_second: Option<f64>,
    /// Median over the rounds of the target's rate as a part of the responder's.
    ratio: Option<f64>,
}

fn run_limit(args: &LimitArgs) -> Result<(), BenchError> {
    let (load, options) = (args.load.load()?, args.target.options(&args.load)?);
    let address = args.target.address()?;
    let bar = bar();
    let (mut responder, mut target) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds.max(1) {
        let own = Load {
            target_pid: None,
            ..load.clone()
        };
        responder.push(limit::measure(
            &own,
            &options,
            args.responder_cpu,
            args.memory as usize,
            &mut |p| {
                show(&bar, &p);
            },
        )?);
        std::thread::sleep(limit::PAUSE);
        if let Some(address) = &address {
            let nsid = args.target.nsid;
            let report = load.run(address, nsid, &options, &mut |p| show(&bar, &p))?;
            verdict(&report)?;
            target.push(report);
            std::thread::sleep(limit::PAUSE);
        }
    }
    bar.finish_and_clear();
    let rate = |r: &Report| r.total.ios_per_second;
    let ratios = responder
        .iter()
        .zip(&target)
        .map(|(r, t)| rate(t) / rate(r).max(1.0));
    let comparison = Comparison {
        schema: "opi-bench-limit/1",
        responder_ios_per_second: median(responder.iter().map(rate)).unwrap_or_default(),
        target_ios_per_second: median(target.iter().map(rate)),
        ratio: median(ratios),
        responder,
        target,
    };
    print(&match args.load.output {
        Output::Text => comparison.text(),
        Output::Json => json(&comparison)?,
    })
}

impl Comparison {
    fn text(&self) -> String {
        let mut text: String = self
            .responder
            .iter()
            .chain(&self.target)
            .map(Report::text)
            .collect();
        text += &format!(
            "responder {} IO/s",
            units::count(self.responder_ios_per_second)
        );
        if let (Some(rate), Some(ratio)) = (self.target_ios_per_second, self.ratio) {
            let (rate, percent) = (units::count(rate), ratio * 100.0);
            text += &format!(", target {rate} IO/s: {percent:.1} % of the minimal responder");
        }
        text + "\n"
    }
}

/// The one in the middle; of two the mean.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => None,
        n if n % 2 == 1 => Some(values[n / 2]),
        n => Some(f64::midpoint(values[n / 2 - 1], values[n / 2])),
    }
}

fn bar() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix:10} {wide_bar} {percent:>3} %  {msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(1000).with_style(style)
}

fn show(bar: &ProgressBar, progress: &Progress) {
    bar.set_prefix(progress.stage);
    bar.set_position((progress.part * 1000.0) as u64);
    bar.set_message(format!("{} IO/s", units::count(progress.rate)));
}

fn json(value: &impl serde::Serialize) -> Result<String, BenchError> {
    let text = serde_json::to_string_pretty(value);
    text.map(|t| t + "\n")
        .map_err(|e| BenchError::failed(format!("JSON: {e}")))
}

/// Writes to the standard output; a reader that went away is no failure.
fn print(text: &str) -> Result<(), BenchError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(BenchError::failed(format!("cannot write the output: {e}")))
        }
        _ => Ok(()),
    }
}

/// The size of a block. Blocks are counted by 1024 everywhere, so `4k` has one meaning here, the
/// one that fio gives it; elsewhere a bare `k` is refused.
fn block_size(text: &str) -> Result<u64, String> {
    let bare = |c: char| matches!(c, 'k' | 'K' | 'm' | 'M');
    match text.strip_suffix(bare) {
        Some(number) => {
            let unit = text[number.len()..].to_ascii_uppercase();
            units::parse_size(&format!("{number}{unit}iB"))
        }
        None => units::parse_size(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<BenchArgs, clap::Error> {
        let matches = command().try_get_matches_from(line.split_whitespace())?;
        BenchArgs::from_arg_matches(&matches)
    }

    #[test]
    fn a_bare_k_counts_by_1024_for_blocks() {
        for (text, bytes) in [
            ("4k", 4096),
            ("128K", 131_072),
            ("1M", 1 << 20),
            ("4KiB", 4096),
        ] {
            assert_eq!(block_size(text), Ok(bytes), "{text}");
        }
        assert!(block_size("4x").is_err() && block_size("k").is_err());
    }

    #[test]
    fn the_lines_of_the_manual_parse() {
        command().debug_assert();
        for text in [EXAMPLES, LIMIT_EXAMPLES] {
            for line in text.lines().filter_map(|l| l.trim().strip_prefix("opi ")) {
                parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
            }
        }
    }

    #[test]
    fn a_load_is_what_was_asked_for() {
        let line = "bench tcp://127.0.0.1/nqn.2024-01.org.example:s --rw randrw --read-percent 30 \
                    -b 8KiB -d 7 -c 3 --time 2s --range 1GiB --verify --cpu 1,2";
        let args = parse(line).unwrap();
        let load = args.load.load().unwrap();
        assert_eq!((load.io_bytes, load.depth, load.connections), (8192, 7, 3));
        assert_eq!((load.order, load.read_percent), (Order::Random, 30));
        assert_eq!((load.range_bytes, load.verify), (Some(1 << 30), true));
        assert_eq!((load.cpus, load.time), (vec![1, 2], Duration::from_secs(2)));
        assert_eq!(args.target.address().unwrap().unwrap().socket.port(), 4420);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([1.0, 2.0].into_iter()), Some(1.5));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn a_load_without_a_target_is_a_mistake_of_usage() {
        let matches = command().try_get_matches_from(["bench"]).unwrap();
        assert_eq!(run(&matches).unwrap_err().exit_code(), 2);
    }
}
