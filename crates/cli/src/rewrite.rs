//! The command line as people type it, brought into the form that the commands have.

use std::ffi::OsString;

use crate::app::{RESOURCE_VERBS, connection_args, filename_arg, output_arg};
use crate::failure::Result;
use crate::{verbs, words};

/// Brings the word after a verb into its one spelling, and takes `kind/name` apart, so that clap
/// finds its command.
///
/// # Errors
/// The word means no kind of resource.
pub fn rewrite(mut args: Vec<OsString>) -> Result<Vec<OsString>> {
    flags_behind_verb(&mut args);
    let is_verb = |arg: &OsString| arg.to_str().is_some_and(|a| RESOURCE_VERBS.contains(&a));
    if !args.get(1).is_some_and(is_verb) {
        return Ok(args);
    }
    let verb = args[1].to_str().unwrap_or_default().to_owned();
    let mut at = 2;
    while let Some(arg) = args.get(at).and_then(|a| a.to_str()) {
        if !arg.starts_with('-') {
            break;
        }
        at += if takes_value(arg) { 2 } else { 1 };
    }
    let Some(word) = args.get(at).and_then(|a| a.to_str()).map(str::to_owned) else {
        return Ok(args);
    };
    let special = match verb.as_str() {
        "get" => word == words::ALL || word == verbs::INVENTORY,
        "list" => word == words::ALL,
        _ => false,
    };
    if special || word == "help" {
        return Ok(args);
    }
    // Settings may be named as well as what they belong to.
    let word = match verb.as_str() {
        "settings" => word.strip_suffix("/settings").unwrap_or(&word),
        _ => &word,
    };
    match words::split_name(word) {
        Some((kind, name)) => {
            args.splice(at..=at, [words::word(kind).into(), name.into()]);
        }
        None => args[at] = words::word(words::resolve(word)?).into(),
    }
    Ok(args)
}

/// Whether a flag of every verb stands here that has its value in the next word.
fn takes_value(flag: &str) -> bool {
    let mut all = connection_args();
    all.extend([output_arg(), filename_arg()]);
    all.iter().any(|a| {
        let long = a.get_long().is_some_and(|l| flag == format!("--{l}"));
        long || a.get_short().is_some_and(|s| flag == format!("-{s}"))
    })
}

/// Moves flags that stand before the verb behind it, as in `opi --addr host:50051 list ...`.
fn flags_behind_verb(args: &mut [OsString]) {
    let word = |at: usize| args.get(at).and_then(|a| a.to_str());
    let mut verb = 1;
    while let Some(flag) = word(verb).filter(|a| a.starts_with('-')) {
        match flag.split_once('=') {
            Some((name, _)) if takes_value(name) => verb += 1,
            None if takes_value(flag) => verb += 2,
            _ => return,
        }
    }
    if verb < args.len() {
        args[1..=verb].rotate_right(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(line: &str) -> Result<String> {
        let args = line.split(' ').map(OsString::from).collect();
        let args: Vec<String> = rewrite(args)?
            .into_iter()
            .map(|a| a.into_string().unwrap())
            .collect();
        Ok(args.join(" "))
    }

    #[test]
    fn resource_words_find_their_command() {
        let cases = [
            ("opi get mallocVolumes", "opi get malloc-volume"),
            (
                "opi get -o json malloc/m0",
                "opi get -o json malloc-volume m0",
            ),
            (
                "opi get --addr x:1 malloc m0",
                "opi get --addr x:1 malloc-volume m0",
            ),
            (
                "opi delete nvmeSubsystems/s",
                "opi delete nvme-subsystem nvmeSubsystems/s",
            ),
            (
                "opi settings nvmeRemoteControllers/r/settings",
                "opi settings nvme-remote-controller nvmeRemoteControllers/r",
            ),
            (
                "opi --addr x:1 get malloc m0",
                "opi get --addr x:1 malloc-volume m0",
            ),
            (
                "opi -o json --addr=x:1 list all",
                "opi list -o json --addr=x:1 all",
            ),
            ("opi --addr", "opi --addr"),
            ("opi --version", "opi --version"),
            ("opi get all", "opi get all"),
            ("opi delete -f a.yaml", "opi delete -f a.yaml"),
            ("opi top malloc", "opi top malloc"),
            ("opi create --help", "opi create --help"),
            ("opi serve x", "opi serve x"),
        ];
        for (given, wanted) in cases {
            assert_eq!(rewritten(given).unwrap(), wanted);
        }
        assert_eq!(rewritten("opi get bananas").unwrap_err().exit_code(), 2);
    }
}
