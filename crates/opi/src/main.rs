//! The one binary, `opi`: reads the command line and hands it to the program that serves it.

use bench::Address;
use bench::host::Options;
use clap::error::ErrorKind;
use clap::{ArgMatches, Command};
use server::demo;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

const ABOUT: &str = "Software-defined storage behind the OPI Storage interface";
const TOUR: &str = "\
A first look:
  opi serve --demo                              a disk from memory over NVMe/TCP, checked
  opi serve --demo=xpu                          a disk on a remote array; one of two paths is cut
  opi create malloc-volume m0 --size 1GiB
  opi get all
  opi top

The client finds the server by --addr or OPI_ADDR (default 127.0.0.1:50051).
Exit codes: 0 done, 1 failed, 2 the command line makes no sense.";

/// Exit code for a command line that makes no sense.
const USAGE: u8 = 2;

fn command() -> Command {
    // The descriptions come last: the programs' own arguments bring some of their own.
    let serve = server::config::augment(Command::new("serve")).about("Run the service");
    Command::new("opi")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .after_help(TOUR)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand(serve)
        .subcommands(cli::commands())
        .subcommand(bench::command())
}

fn main() -> ExitCode {
    run(std::env::args_os().collect())
}

fn run(args: Vec<OsString>) -> ExitCode {
    let args = match cli::rewrite(args) {
        Ok(args) => args,
        Err(failure) => return fail(failure.exit_code(), &failure),
    };
    let root = command();
    match root.clone().try_get_matches_from(args) {
        Ok(matches) => dispatch(&root, &matches),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                // A reader that went away (`| head`) is no failure.
                let _ = error.print();
                ExitCode::SUCCESS
            }
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                let _ = error.print();
                ExitCode::from(USAGE)
            }
            _ => {
                eprintln!("{}", cli::usage_line(&error));
                ExitCode::from(USAGE)
            }
        },
    }
}

/// The host that the demo works with: that of the load generator.
const DEMO_HOST: demo::Host = demo::Host { check, load };

fn check(address: SocketAddr, nqn: &str) -> Result<demo::Checked, String> {
    let found = bench::check(address, nqn).map_err(|e| e.to_string())?;
    let bench::Checked { mib, seconds } = found;
    Ok(demo::Checked { mib, seconds })
}

/// Half reads, half writes, in a part of the disk that is filled and checked within seconds.
fn load(
    socket: SocketAddr,
    nqn: &str,
    time: Duration,
    hear: demo::Listener<'_>,
) -> Result<demo::Loaded, String> {
    let address = Address::from_parts(&socket.ip().to_string(), socket.port(), nqn)?;
    let load = bench::Load {
        depth: 16,
        read_percent: 50,
        time,
        ramp: Duration::ZERO,
        range_bytes: Some(64 << 20),
        verify: true,
        ..bench::Load::default()
    };
    let mut progress = |p: bench::Progress| {
        hear(demo::Pace {
            measuring: p.stage == "measuring",
            stage: p.stage,
            rate: p.rate,
        });
    };
    let report = load
        .run(&address, 1, &Options::default(), &mut progress)
        .map_err(|e| e.to_string())?;
    let verified = report.verified.clone().unwrap_or_default();
    let mut wrong: Vec<String> = verified.first.iter().map(ToString::to_string).collect();
    wrong.extend(
        report
            .errors
            .iter()
            .map(|(status, n)| format!("{n} times {status}")),
    );
    Ok(demo::Loaded {
        ios: report.total.ios,
        checked: verified.blocks,
        wrong: wrong.join("; "),
        longest: Duration::from_secs_f64(report.total.latency.max_us / 1e6),
    })
}

fn dispatch(root: &Command, matches: &ArgMatches) -> ExitCode {
    match matches.subcommand() {
        Some(("serve", inner)) => server::run::main(inner, DEMO_HOST),
        Some(("bench", inner)) => match bench::run(inner) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(error.exit_code(), &error),
        },
        Some((verb, inner)) => match cli::run(root, verb, inner, &mut std::io::stdout()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => fail(failure.exit_code(), &failure),
        },
        None => ExitCode::from(USAGE),
    }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_command_tree_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn what_the_tour_shows_parses() {
        for line in TOUR.lines().filter_map(|l| l.trim().strip_prefix("opi ")) {
            let line = line.split("   ").next().unwrap_or_default();
            let words = std::iter::once("opi").chain(line.split_whitespace());
            let args = cli::rewrite(words.map(OsString::from).collect()).unwrap();
            command()
                .try_get_matches_from(args)
                .unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }
}
