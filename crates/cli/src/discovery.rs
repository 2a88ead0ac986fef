//! The commands `discover` and `connect-all`. Their flags are those of `connect`.

use clap::{Arg, ArgAction, Command};

/// Flags of `connect` that say which discovery controller to ask, and as whom.
const WHERE: [&str; 6] = [
    "transport",
    "traddr",
    "trsvcid",
    "adrfam",
    "hostnqn",
    "host-traddr",
];
/// Flags of `connect` that what is discovered says instead.
const DISCOVERED: [&str; 2] = ["nqn", "name"];
/// The port for discovery.
const PORT: &str = "8009";

const DISCOVER_EXAMPLES: &str = "\
Examples:
  opi discover -a 192.0.2.7
  opi discover -a 192.0.2.7 -s 4420 -o wide

The server asks, not this machine: an array may be reached from there only.";
const CONNECT_ALL_EXAMPLES: &str = "\
Examples:
  opi connect-all -a 192.0.2.7
  opi connect-all -a 192.0.2.7 -s 4420 --hostnqn nqn.2014-08.org.nvmexpress:uuid:...

Each subsystem becomes one remote controller with a path for each entry that leads to it, as `opi
connect` makes them. What is connected already stays as it is. Referrals are followed.";

/// `discover` and `connect-all`, from `connect`.
pub(crate) fn commands(connect: &Command, output: Arg) -> [Command; 2] {
    let flags = |wanted: fn(&str) -> bool| {
        let all = connect.get_arguments().cloned();
        all.filter(move |arg| wanted(arg.get_id().as_str()) || arg.is_global_set())
            .map(|arg| match arg.get_id().as_str() {
                "traddr" => arg.help("Address or name of the discovery controller"),
                "trsvcid" => arg.default_value(PORT),
                "transport" => arg.value_parser(["tcp"]).help("Transport"),
                _ => arg,
            })
    };
    let referrals = Arg::new("referrals")
        .long("referrals")
        .action(ArgAction::SetTrue)
        .help("Ask the controllers that entries refer to as well");
    let discover = Command::new("discover")
        .about("Show which subsystems an array offers to the server over NVMe/TCP")
        .after_help(DISCOVER_EXAMPLES)
        .args(flags(|id| WHERE.contains(&id)))
        .args([referrals, output]);
    let connect_all = Command::new("connect-all")
        .about("Connect the server to everything that an array offers over NVMe/TCP")
        .after_help(CONNECT_ALL_EXAMPLES)
        .args(flags(|id| !DISCOVERED.contains(&id)));
    [discover, connect_all].map(|command| {
        let tls = connect.get_groups().cloned();
        command.arg_required_else_help(true).groups(tls)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_the_manual_parse() {
        let root = Command::new("opi").subcommands(crate::commands());
        let text = format!("{DISCOVER_EXAMPLES}\n{CONNECT_ALL_EXAMPLES}");
        let mut lines = 0;
        for line in text.lines().filter(|line| line.starts_with("  opi ")) {
            let parsed = root.clone().try_get_matches_from(line.split_whitespace());
            let parsed = parsed.unwrap_or_else(|e| panic!("{line}: {e}"));
            let (_, flags) = parsed.subcommand().unwrap();
            let port = flags.get_one::<i64>("trsvcid");
            assert!(matches!(port, Some(8009 | 4420)), "{line}: {port:?}");
            lines += 1;
        }
        assert_eq!(lines, 4);
    }
}
