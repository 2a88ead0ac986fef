//! The command tree, and the way from a command line to the function that serves it.

use api::comments;
use api::kinds::{self, Kind, Verb};
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, ValueHint, value_parser};
use std::cell::RefCell;
use std::io::Write;
use std::path::PathBuf;

use crate::client::{Client, PAGE_SIZE, Target};
use crate::failure::{Failure, Result};
use crate::output::Format;
use crate::{discovery, flags, pages, verbs, words};
use api::units;

/// The verbs whose next word is a kind of resource.
pub(crate) const RESOURCE_VERBS: [&str; 9] = [
    "create", "get", "list", "update", "delete", "stats", "describe", "reset", "settings",
];

/// One verb: its name, what it does, and examples.
struct Spec {
    name: &'static str,
    about: &'static str,
    examples: &'static str,
    method: Verb,
}

fn specs() -> [Spec; 9] {
    let spec = |name, about, method, examples| Spec {
        name,
        about,
        examples,
        method,
    };
    [
        spec("create", "Create a resource", Verb::Create, CREATE_EXAMPLES),
        spec(
            "get",
            "Show resources by name, or all of a kind",
            Verb::Get,
            GET_EXAMPLES,
        ),
        spec(
            "list",
            "Show all resources of a kind",
            Verb::List,
            LIST_EXAMPLES,
        ),
        spec(
            "update",
            "Change fields of a resource",
            Verb::Update,
            UPDATE_EXAMPLES,
        ),
        spec("delete", "Delete resources", Verb::Delete, DELETE_EXAMPLES),
        spec(
            "stats",
            "Show what a resource counted",
            Verb::Stats,
            STATS_EXAMPLES,
        ),
        spec(
            "describe",
            "Show a resource with its state, its users and the volumes below it",
            Verb::Get,
            DESCRIBE_EXAMPLES,
        ),
        spec(
            "reset",
            "Reset a resource",
            Verb::Custom("reset".to_owned()),
            RESET_EXAMPLES,
        ),
        spec(
            "settings",
            "Show or change what is set of a resource beside its own fields",
            Verb::GetSettings,
            SETTINGS_EXAMPLES,
        ),
    ]
}

const CREATE_EXAMPLES: &str = "\
Examples:
  opi create malloc-volume m0 --size 1GiB
  opi create aio-volume disk0 --filename /var/lib/disk0.img --size 10GiB
  opi create nvme-subsystem s0 --nqn nqn.2024-01.org.example:s0
  opi create nvme-namespace n0 --parent s0 --volume-name-ref mallocVolumes/m0
  opi create nvme-controller c0 --parent s0 --trtype tcp --adrfam ipv4 --traddr 127.0.0.1 \\
      --trsvcid 4420

Without a name the server chooses one.";
const GET_EXAMPLES: &str = "\
Examples:
  opi get malloc-volumes
  opi get malloc-volume m0 -o yaml
  opi get mallocVolumes/m0 nvmeSubsystems/s0/nvmeControllers/c0
  opi get nvme-namespace n0 --parent s0
  opi get all";
const LIST_EXAMPLES: &str = "\
Examples:
  opi list nvme-subsystems
  opi list nvme-namespaces --parent s0 -o wide
  opi list malloc-volumes --watch
  opi list all";
const UPDATE_EXAMPLES: &str = "\
Examples:
  opi update aio-volume disk0 --size 20GiB
  opi update nvme-subsystem s0 --hostnqn nqn.2014-08.org.nvmexpress:uuid:...

Only the fields given by flags change, unless --update-mask says otherwise.";
const DELETE_EXAMPLES: &str = "\
Examples:
  opi delete malloc-volume m0 m1
  opi delete nvme-namespace n0 --parent s0
  opi delete -f everything.yaml";
const STATS_EXAMPLES: &str = "\
Examples:
  opi stats malloc-volume m0
  opi stats nvme-subsystem s0 -o json";
const DESCRIBE_EXAMPLES: &str = "\
Examples:
  opi describe malloc-volume m0
  opi describe nvmeSubsystems/s0";
const RESET_EXAMPLES: &str = "\
Examples:
  opi reset nvme-remote-controller r0";
const SETTINGS_EXAMPLES: &str = "\
Examples:
  opi settings nvme-remote-controller r0
  opi settings nvmeRemoteControllers/r0 --io-policy round-robin
  opi settings nvmeRemoteControllers/r0 --controller-loss-timeout-s -1
  opi settings nvmeRemoteControllers/r0 --update-mask io_timeout_ms

Without a new value they are shown, each with the value in force. A field that --update-mask names
and no flag sets goes back to its default.";
const APPLY_EXAMPLES: &str = "\
Examples:
  opi apply -f everything.yaml
  opi get malloc-volume m0 -o yaml | opi apply -f -

A file holds one or more documents (YAML or JSON), each a resource with its full name, or with a
`kind` and a `name`:

  kind: MallocVolume
  name: m0
  blockSize: 4096
  blocksCount: 262144
  ---
  kind: NvmeNamespace
  parent: s0
  name: n0
  spec:
    volumeNameRef: m0

What does not exist is created, what differs is changed, and fields that the file leaves out stay.
The order does not matter: what others refer to comes first. Secrets are used when a resource is
created, and are not compared afterwards.";
const TOP_EXAMPLES: &str = "\
Examples:
  opi top
  opi top nvme-namespaces --interval 2s
  opi top --once -o json";

const CONNECT_EXAMPLES: &str = "\
Examples:
  opi connect -a 192.0.2.7 -n nqn.2026-01.org.example:array
  opi connect -a 192.0.3.7 -n nqn.2026-01.org.example:array     # a second path
  opi disconnect -n nqn.2026-01.org.example:array
  opi connect -t pcie -a 0000:01:00.0                           # a drive of the server's machine
  opi disconnect 0000:01:00.0";

/// The commands of the client.
pub fn commands() -> Vec<Command> {
    let mut all: Vec<Command> = specs().iter().map(verb_command).collect();
    all.push(apply_command());
    all.push(top_command());
    let connect = connect_command();
    all.extend(discovery::commands(&connect, output_arg()));
    all.push(connect);
    all.push(disconnect_command());
    all.extend(pages::commands());
    all
}

fn verb_command(spec: &Spec) -> Command {
    let served = kinds::all()
        .iter()
        .filter(|k| k.method(&spec.method).is_some());
    let mut command = Command::new(spec.name)
        .about(spec.about)
        .after_help(spec.examples)
        .arg_required_else_help(true)
        .subcommand_required(true)
        .subcommand_value_name("RESOURCE")
        .subcommand_help_heading("Resources")
        .disable_help_subcommand(true)
        .args(connection_args())
        .arg(output_arg())
        .group(tls_group())
        .subcommands(served.map(|kind| kind_command(kind, spec)));
    if spec.name == "delete" {
        command = command
            .subcommand_required(false)
            .args_conflicts_with_subcommands(true)
            .arg(filename_arg().required(false));
    }
    if ["get", "list"].contains(&spec.name) {
        let all = Command::new(words::ALL).about("Everything, with its state");
        command = command.subcommand(all);
    }
    if spec.name == "get" {
        let about = "The machine itself: firmware, processors, memory, PCI devices";
        command = command.subcommand(Command::new(verbs::INVENTORY).about(about));
    }
    command
}

fn kind_command(kind: &'static Kind, spec: &Spec) -> Command {
    let method = kind.method(&spec.method).expect("filtered by the caller");
    let comment = comments::method(&method.descriptor);
    let mut command = Command::new(words::word(kind))
        .about(words::first_sentence(comments::message(&kind.message)).to_owned())
        .long_about(comment.to_owned());
    let name = Arg::new("name").value_name("NAME");
    command = match spec.name {
        "create" => command.arg(name.help("Id of the new resource; the server chooses if absent")),
        "get" => command
            .arg(
                name.num_args(0..)
                    .help("Names or ids; all resources if absent"),
            )
            .args(list_args()),
        "list" => command.args(list_args()),
        "delete" => command
            .arg(name.num_args(1..).required(true).help("Names or ids"))
            .arg(switch("allow-missing").help("Succeed if there is no such resource")),
        "stats" => command.arg(name.num_args(1..).required(true).help("Names or ids")),
        _ => command.arg(name.required(true).help("Name or id")),
    };
    if let Some(parent) = kind.parent() {
        let help = format!("The {} it belongs to, by name or id", words::word(parent));
        command = command.arg(
            Arg::new("parent")
                .long("parent")
                .value_name("NAME")
                .help(help),
        );
    }
    if spec.name == "create" || spec.name == "update" {
        command = command.args(flags::args(kind, &flags::of(&kind.message)));
    }
    if let ("settings", Some(settings)) = (spec.name, &kind.settings) {
        command = command
            .about(words::first_sentence(comments::message(settings)).to_owned())
            .long_about(comments::message(settings).to_owned())
            .args(flags::field_args(&flags::of(settings)));
    }
    if ["update", "settings"].contains(&spec.name) {
        let mask = Arg::new("update-mask")
            .long("update-mask")
            .value_name("FIELDS")
            .value_delimiter(',')
            .help("Fields to change, as in spec.nqn, or `*`; those given by flags if absent");
        command = command.arg(mask);
    }
    if spec.name == "update" {
        let missing = switch("allow-missing").help("Create the resource if it does not exist");
        command = command.arg(missing);
    }
    command
}

fn list_args() -> [Arg; 3] {
    [
        Arg::new("page-size")
            .long("page-size")
            .value_name("N")
            .value_parser(value_parser!(i32))
            .default_value(PAGE_SIZE.to_string())
            .help("Resources asked for at once; all pages are fetched"),
        Arg::new("limit")
            .long("limit")
            .value_name("N")
            .value_parser(value_parser!(usize))
            .help("Show at most so many"),
        switch("watch")
            .short('w')
            .help("Go on and show changes of state until interrupted"),
    ]
}

fn switch(name: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue)
}

pub(crate) fn filename_arg() -> Arg {
    Arg::new("filename")
        .short('f')
        .long("filename")
        .value_name("FILE")
        .value_hint(ValueHint::FilePath)
        .action(ArgAction::Append)
        .help("YAML or JSON file; - is the standard input; may be given more than once")
}

pub(crate) fn output_arg() -> Arg {
    Arg::new("output")
        .short('o')
        .long("output")
        .value_name("FORMAT")
        .global(true)
        .value_parser(value_parser!(Format))
        .help("How to show the result")
}

pub(crate) fn connection_args() -> Vec<Arg> {
    let heading = "Connection";
    let file = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("FILE")
            .value_hint(ValueHint::FilePath)
            .value_parser(value_parser!(PathBuf))
            .env(match name {
                "tls-ca" => "OPI_TLS_CA",
                "tls-cert" => "OPI_TLS_CERT",
                _ => "OPI_TLS_KEY",
            })
            .hide_env(true)
            .help(help)
    };
    let args = [
        Arg::new("addr")
            .long("addr")
            .value_name("HOST:PORT")
            .env("OPI_ADDR")
            .default_value("127.0.0.1:50051")
            .help("Where the server answers gRPC"),
        file(
            "tls-ca",
            "Use TLS, and trust the authorities in this PEM file",
        ),
        file("tls-cert", "PEM file with the client certificate").requires("tls-key"),
        file("tls-key", "PEM file with the key of the client certificate").requires("tls-cert"),
        Arg::new("timeout")
            .long("timeout")
            .value_name("TIME")
            .value_parser(units::parse_duration)
            .default_value("30s")
            .help("How long one call may take"),
    ];
    args.into_iter()
        .map(|a| a.global(true).help_heading(heading))
        .collect()
}

fn tls_group() -> ArgGroup {
    ArgGroup::new("tls")
        .args(["tls-ca", "tls-cert", "tls-key"])
        .multiple(true)
}

fn apply_command() -> Command {
    Command::new("apply")
        .about("Create or change what a file describes")
        .after_help(APPLY_EXAMPLES)
        .arg_required_else_help(true)
        .arg(filename_arg().required(true))
        .args(connection_args())
        .arg(output_arg())
        .group(tls_group())
}

fn top_command() -> Command {
    let interval = Arg::new("interval")
        .long("interval")
        .value_name("TIME")
        .value_parser(units::parse_duration)
        .default_value("1s")
        .help("Time between two looks");
    let once = switch("once").help("Look twice, show the rates in between once, and end");
    let resource = Arg::new("resource")
        .value_name("RESOURCE")
        .help("One kind; all if absent");
    Command::new("top")
        .about("Show live rates and latencies")
        .after_help(TOP_EXAMPLES)
        .args([resource, interval, once])
        .args(connection_args())
        .arg(output_arg())
        .group(tls_group())
}

fn connect_command() -> Command {
    let value = |name: &'static str, short: char, value: &'static str| {
        Arg::new(name).long(name).short(short).value_name(value)
    };
    let count =
        |name: &'static str, short: char| value(name, short, "N").value_parser(value_parser!(i64));
    let args = [
        value("transport", 't', "TYPE")
            .value_parser(["tcp", "pcie"])
            .default_value("tcp")
            .help("What carries it: tcp for an array, pcie for a drive of the server's machine"),
        value("traddr", 'a', "ADDRESS")
            .required(true)
            .help("Address or name of the array, or the PCI address of the drive"),
        count("trsvcid", 's').default_value("4420").help("Its port"),
        value("adrfam", 'f', "FAMILY")
            .value_parser(["ipv4", "ipv6"])
            .help("Which of a name's addresses to use; ipv4 if absent"),
        value("nqn", 'n', "NQN").help("Its subsystem; needed for tcp"),
        value("hostnqn", 'q', "NQN").help("Who to be; the server's own name if absent"),
        value("host-traddr", 'w', "ADDRESS").help("Address to connect from"),
        count("nr-io-queues", 'i').help("I/O queues, at most; one per reactor if absent"),
        count("queue-size", 'Q').help("Commands in flight on each"),
        Arg::new("multipath")
            .long("multipath")
            .value_name("HOW")
            .value_parser(["disable", "failover", "multipath"])
            .default_value("multipath")
            .help("How further paths are used; for the first one only"),
        switch("hdr-digest")
            .short('g')
            .help("Check sums of headers"),
        switch("data-digest").short('G').help("Check sums of data"),
        Arg::new("name")
            .long("name")
            .value_name("ID")
            .help("Id of the remote controller; made from the NQN or the PCI address if absent"),
        Arg::new("wait")
            .long("wait")
            .value_name("TIME")
            .value_parser(units::parse_duration)
            .default_value("10s")
            .help("How long the array may take to be reached"),
    ];
    Command::new("connect")
        .about("Connect the server to a remote array over NVMe/TCP, or to a drive of its machine")
        .after_help(CONNECT_EXAMPLES)
        .arg_required_else_help(true)
        .args(args)
        .args(connection_args())
        .group(tls_group())
}

fn disconnect_command() -> Command {
    let nqn = Arg::new("nqn")
        .long("nqn")
        .short('n')
        .value_name("NQN")
        .conflicts_with("name")
        .required_unless_present("name")
        .help("Every remote controller of this subsystem");
    let name = Arg::new("name")
        .value_name("NAME")
        .help("A remote controller, by name or id, or by the PCI address of its drive");
    Command::new("disconnect")
        .about("Remove a remote controller with all its paths")
        .arg_required_else_help(true)
        .args([name, nqn])
        .args(connection_args())
        .group(tls_group())
}

/// Runs one of [`commands`]. `root` is the whole program, for its manual and
/// completions; the result goes to `out`.
///
/// # Errors
/// The command failed; the failure says why and with which exit code.
pub fn run(root: &Command, verb: &str, matches: &ArgMatches, out: &mut dyn Write) -> Result<()> {
    if pages::run(root, verb, matches, out)? {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(format!("cannot start: {e}")))?;
    let out = RefCell::new(out);
    runtime.block_on(async {
        let target = target(matches);
        let format = matches.get_one::<Format>("output").copied();
        let cx = verbs::Cx {
            target: &target,
            format,
            out: &out,
        };
        match verb {
            "apply" => verbs::apply(&cx, matches).await,
            "top" => verbs::top(&cx, matches).await,
            "connect" => verbs::connect(&cx, matches).await,
            "connect-all" => verbs::connect_all(&cx, matches).await,
            "discover" => verbs::discover(&cx, matches).await,
            "disconnect" => verbs::disconnect(&cx, matches).await,
            _ => dispatch(&cx, verb, matches).await,
        }
    })
}

async fn dispatch(cx: &verbs::Cx<'_>, verb: &str, matches: &ArgMatches) -> Result<()> {
    let Some((word, inner)) = matches.subcommand() else {
        return verbs::delete_files(cx, matches).await;
    };
    let client = Client::connect(cx.target).await?;
    match word {
        words::ALL => return verbs::all(cx, &client).await,
        verbs::INVENTORY => return verbs::inventory(cx, &client).await,
        _ => {}
    }
    let kind = words::resolve(word)?;
    match verb {
        "create" => verbs::create(cx, &client, kind, inner).await,
        "get" => verbs::get(cx, &client, kind, inner).await,
        "list" => verbs::list(cx, &client, kind, inner).await,
        "update" => verbs::update(cx, &client, kind, inner).await,
        "delete" => verbs::delete(cx, &client, kind, inner).await,
        "stats" => verbs::stats(cx, &client, kind, inner).await,
        "describe" => verbs::describe(cx, &client, kind, inner).await,
        "settings" => verbs::settings(cx, &client, kind, inner).await,
        _ => verbs::custom(cx, &client, kind, verb, inner).await,
    }
}

fn target(matches: &ArgMatches) -> Target {
    // Global arguments are copied down, and those of the innermost command count.
    let inner = matches.subcommand().map_or(matches, |(_, inner)| inner);
    let path = |name: &str| inner.get_one::<PathBuf>(name).cloned();
    Target {
        addr: inner.get_one::<String>("addr").cloned().unwrap_or_default(),
        ca: path("tls-ca"),
        cert: path("tls-cert"),
        key: path("tls-key"),
        timeout: inner.get_one("timeout").copied().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rewrite;
    use std::ffi::OsString;

    fn root() -> Command {
        Command::new("opi").subcommands(commands())
    }

    #[test]
    fn the_command_tree_is_sound() {
        root().debug_assert();
    }

    #[test]
    fn the_lines_of_the_manual_parse() {
        let text: String = specs()
            .iter()
            .map(|s| s.examples.replace("\\\n", " ") + "\n")
            .collect();
        let text = text + APPLY_EXAMPLES + "\n" + TOP_EXAMPLES;
        let mut lines = 0;
        for line in text.lines().filter_map(|l| l.trim().strip_prefix("opi ")) {
            let words = line.split(" | ").next().unwrap().split_whitespace();
            let args = std::iter::once("opi")
                .chain(words)
                .map(OsString::from)
                .collect();
            let args = rewrite(args).unwrap();
            root()
                .try_get_matches_from(args)
                .unwrap_or_else(|e| panic!("{line}: {e}"));
            lines += 1;
        }
        assert!(lines > 20, "{lines}");
    }

    #[test]
    fn a_certificate_needs_its_key() {
        let args = ["opi", "get", "all", "--tls-cert", "c.pem"];
        assert!(root().try_get_matches_from(args).is_err());
    }
}
