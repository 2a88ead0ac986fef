//! Completions, manual pages, and errors of usage in one line.

use clap::{Arg, ArgMatches, Command, ValueHint, value_parser};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};
use crate::output;

/// The commands of this module.
pub(crate) fn commands() -> [Command; 2] {
    let shell = Arg::new("shell")
        .value_name("SHELL")
        .required(true)
        .value_parser(value_parser!(clap_complete::Shell))
        .help("The shell to write for");
    let dir = Arg::new("dir")
        .value_name("DIR")
        .value_hint(ValueHint::DirPath)
        .value_parser(value_parser!(PathBuf))
        .help("Write a page for every command into this directory");
    [
        Command::new("completion")
            .about("Write a completion script for a shell")
            .after_help("Examples:\n  source <(opi completion bash)")
            .arg(shell),
        Command::new("man")
            .about("Write the manual page")
            .after_help("Examples:\n  opi man | man -l -\n  opi man /usr/local/share/man/man1")
            .arg(dir),
    ]
}

/// Serves the commands of this module; false if `verb` is none of them.
///
/// # Errors
/// Something cannot be written.
pub(crate) fn run(
    root: &Command,
    verb: &str,
    matches: &ArgMatches,
    out: &mut dyn Write,
) -> Result<bool> {
    match verb {
        "completion" => completion(root, matches, out)?,
        "man" => match matches.get_one::<PathBuf>("dir") {
            Some(dir) => pages(root, dir)?,
            None => page(root, out)?,
        },
        _ => return Ok(false),
    }
    Ok(true)
}

fn completion(root: &Command, matches: &ArgMatches, out: &mut dyn Write) -> Result<()> {
    let Some(shell) = matches.get_one::<clap_complete::Shell>("shell") else {
        return Ok(());
    };
    let mut script = Vec::new();
    clap_complete::generate(*shell, &mut root.clone(), root.get_name(), &mut script);
    output::print(out, &String::from_utf8_lossy(&script))
}

fn page(root: &Command, out: &mut dyn Write) -> Result<()> {
    let mut text = Vec::new();
    let written = clap_mangen::Man::new(root.clone()).render(&mut text);
    written.map_err(|e| Failure::new(format!("cannot write the manual page: {e}")))?;
    output::print(out, &String::from_utf8_lossy(&text))
}

fn pages(root: &Command, dir: &Path) -> Result<()> {
    let failed = |e| Failure::new(format!("cannot write to {}: {e}", dir.display()));
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(root.clone(), dir).map_err(failed)
}

/// What clap says about a wrong command line, as one line.
pub fn usage_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let mut parts: Vec<String> = Vec::new();
    let mut new_part = true;
    for line in text.lines().map(str::trim) {
        if line.starts_with("Usage:") || line.starts_with("For more information") {
            break;
        }
        match (line.is_empty(), parts.last_mut()) {
            (true, _) => new_part = true,
            (false, Some(part)) if !new_part => {
                let gap = if part.ends_with(':') || part.ends_with(',') {
                    " "
                } else {
                    ", "
                };
                part.push_str(gap);
                part.push_str(line);
            }
            (false, _) => {
                parts.push(line.strip_prefix("tip: ").unwrap_or(line).to_owned());
                new_part = false;
            }
        }
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Command {
        Command::new("opi").subcommands(crate::commands())
    }

    fn line(args: &[&str]) -> String {
        usage_line(&root().try_get_matches_from(args).unwrap_err())
    }

    #[test]
    fn errors_of_usage_are_one_line() {
        let text = line(&["opi", "create", "malloc-volume", "--blok-size", "1"]);
        assert!(
            text.starts_with("error: unexpected argument '--blok-size' found; "),
            "{text}"
        );
        assert!(
            text.contains("'--block-size'") && !text.contains('\n'),
            "{text}"
        );
        let text = line(&["opi", "describe", "malloc-volume"]);
        assert!(text.contains("<NAME>") && !text.contains('\n'), "{text}");
        let text = line(&["opi", "create", "malloc-volume", "--size", "10G"]);
        assert!(text.contains("10GiB"), "{text}");
    }

    #[test]
    fn every_shell_gets_a_script_and_every_command_a_page() {
        use clap::ValueEnum as _;
        for shell in clap_complete::Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut root(), "opi", &mut script);
            assert!(
                String::from_utf8(script).unwrap().contains("malloc-volume"),
                "{shell}"
            );
        }
        let dir = tempfile::tempdir().unwrap();
        pages(&root(), dir.path()).unwrap();
        assert!(dir.path().join("opi-create-malloc-volume.1").exists());
    }
}
