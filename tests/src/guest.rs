//! A Linux machine under QEMU that runs the steps it is sent.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::lab;
use crate::net::{Family, Net};
use crate::shell::Output;

/// Shell functions every step can use.
const LIBRARY: &str = include_str!("../guest/lib.sh");

/// How long a guest may take to come up. It takes four seconds; two guests on a loaded machine
/// without hardware virtualisation take a minute.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// How long a step may take unless it says otherwise.
const STEP_LIMIT: Duration = Duration::from_secs(120);

/// How much later than the guest this side gives up: the guest's own time-out comes with what
/// the step printed, ours only with the console.
const GRACE: Duration = Duration::from_secs(20);

/// Lines of the console an error shows.
const CONSOLE_LINES: usize = 60;

/// The kernel's command line: a console, and nothing that costs time at boot.
const KERNEL_WORDS: &str = "console=ttyS0 loglevel=6 panic=-1 rdinit=/init mitigations=off \
    tsc=reliable no_timer_check lpj=5000000 cryptomgr.notests random.trust_cpu=on nokaslr";

/// What differs from the plain guest.
#[derive(Debug, Clone)]
pub struct GuestOptions {
    /// Number on the network, 1 to 99; it decides addresses, host NQN and MAC address.
    pub number: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Further words for QEMU, such as devices.
    pub qemu: Vec<String>,
}

impl Default for GuestOptions {
    fn default() -> Self {
        GuestOptions {
            number: 1,
            memory_mib: 1024,
            cpus: 2,
            qemu: Vec::new(),
        }
    }
}

/// A running guest; it is powered off with this value.
#[derive(Debug)]
pub struct Guest {
    number: u32,
    child: Child,
    commands: ChildStdin,
    answers: Answers,
    folder: TempDir,
    steps: u32,
}

impl Guest {
    /// Boots a guest on the network and waits until it takes commands.
    ///
    /// # Panics
    /// With the console's text when it does not come up.
    #[must_use]
    pub fn boot(net: &Net, options: &GuestOptions) -> Guest {
        let folder = tempfile::Builder::new()
            .prefix("opi-guest-")
            .tempdir()
            .expect("the folder for temporary files is writable");
        let console = folder.path().join("console");
        let mut child = net
            .command(Path::new("qemu-system-x86_64"))
            .args(arguments(options, &net.add_tap(), &console))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(folder.path().join("qemu")).expect("the folder is new"))
            .spawn()
            .expect("`ip netns exec` starts");
        let commands = child.stdin.take().expect("standard input is a pipe");
        let answers = Answers::read(child.stdout.take().expect("standard output is a pipe"));
        let number = options.number;
        let mut guest = Guest {
            number,
            child,
            commands,
            answers,
            folder,
            steps: 0,
        };
        match guest.answers.next(Instant::now() + BOOT_LIMIT) {
            Ok(first) if first.verb == "READY" => guest,
            other => panic!(
                "guest {number} does not come up: {other:?}\n{}",
                guest.console()
            ),
        }
    }

    /// Runs a shell script in the guest, with the functions of `guest/lib.sh` at hand.
    pub fn run(&mut self, script: &str) -> Output {
        self.run_within(STEP_LIMIT, script)
    }

    /// As [`Guest::run`], with a time limit of its own.
    ///
    /// # Panics
    /// With the console's text when the guest does not answer any more.
    pub fn run_within(&mut self, limit: Duration, script: &str) -> Output {
        self.steps += 1;
        let begun = Instant::now();
        let text = format!("{LIBRARY}\n{script}\n");
        let head = format!("RUN {} {} {}\n", self.steps, limit.as_secs(), text.len());
        let sent = self
            .commands
            .write_all(head.as_bytes())
            .and_then(|()| self.commands.write_all(text.as_bytes()))
            .and_then(|()| self.commands.flush());
        let answer = self.answers.next(Instant::now() + limit + GRACE);
        // Shown when a test fails: where the time went.
        let title = script.lines().next().unwrap_or_default();
        println!(
            "guest {}: {:6.1} s  {title}",
            self.number,
            begun.elapsed().as_secs_f64()
        );
        match (sent, answer) {
            (Ok(()), Ok(answer)) if answer.verb == "DONE" && answer.id == self.steps => Output {
                what: format!("guest {}: {script}", self.number),
                status: answer.status,
                text: String::from_utf8_lossy(&answer.output).into_owned(),
            },
            (sent, answer) => panic!(
                "guest {} was lost in this step ({sent:?}, {answer:?}):\n{script}\n{}",
                self.number,
                self.console()
            ),
        }
    }

    /// The host NQN this guest presents.
    #[must_use]
    pub fn host_nqn(&self) -> String {
        let number = self.number;
        format!("nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-{number:012}")
    }

    /// The guest's address.
    #[must_use]
    pub fn address(&self, family: Family) -> String {
        family.guest(self.number)
    }

    /// The end of what the console and QEMU said.
    #[must_use]
    pub fn console(&self) -> String {
        let read = |name: &str| {
            let bytes = fs::read(self.folder.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\r', "")
        };
        let console = read("console");
        let lines: Vec<&str> = console.lines().collect();
        let tail = lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n");
        format!(
            "---- console of guest {} ----\n{tail}\n{}---- end ----",
            self.number,
            read("qemu")
        )
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Nothing in a guest outlives a test, so there is nothing to shut down in order.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("{}", self.console());
        }
    }
}

/// QEMU's command line. Without hardware virtualisation everywhere: the result must not depend
/// on the machine, and a guest's kernel may not run on every kind of it.
fn arguments(options: &GuestOptions, tap: &str, console: &Path) -> Vec<String> {
    let number = options.number;
    let address = |family: Family| format!("{}/{}", family.guest(number), family.prefix());
    let kernel = format!(
        "{KERNEL_WORDS} lab.id={number} lab.ip4={} lab.ip6={}",
        address(Family::V4),
        address(Family::V6)
    );
    let show = |path: PathBuf| path.display().to_string();
    let words = [
        "-nodefaults -no-user-config -display none -no-reboot -machine q35 -cpu max".to_owned(),
        "-accel tcg,thread=multi".to_owned(),
        format!("-smp {} -m {}", options.cpus, options.memory_mib),
        format!("-netdev tap,id=net0,ifname={tap},script=no,downscript=no"),
        format!("-device virtio-net-pci,netdev=net0,romfile=,mac=52:54:00:77:00:{number:02x}"),
        "-chardev stdio,id=steps,signal=off -device virtio-serial-pci".to_owned(),
        "-device virtserialport,chardev=steps,name=lab".to_owned(),
    ];
    let mut arguments: Vec<String> = words
        .iter()
        .flat_map(|line| line.split_whitespace())
        .map(str::to_owned)
        .collect();
    for (flag, value) in [
        ("-serial", format!("file:{}", console.display())),
        ("-kernel", show(lab::file("vmlinuz"))),
        ("-initrd", show(lab::file("initrd.img"))),
        ("-append", kernel),
    ] {
        arguments.push(flag.to_owned());
        arguments.push(value);
    }
    arguments.extend(options.qemu.iter().cloned());
    arguments
}

/// One answer of the guest's first process.
#[derive(Debug)]
struct Answer {
    verb: String,
    id: u32,
    status: i32,
    output: Vec<u8>,
}

/// The guest's side of the command port, read by a thread so that waiting can end.
#[derive(Debug)]
struct Answers {
    received: Receiver<Vec<u8>>,
    bytes: Vec<u8>,
}

impl Answers {
    fn read(mut from: impl Read + Send + 'static) -> Answers {
        let (send, received) = mpsc::channel();
        // Ends with QEMU, which holds the other end of the pipe.
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(n) = from.read(&mut buffer) {
                if n == 0 || send.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Answers {
            received,
            bytes: Vec::new(),
        }
    }

    fn next(&mut self, deadline: Instant) -> Result<Answer, String> {
        loop {
            if let Some(answer) = self.take() {
                return Ok(answer);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.received.recv_timeout(left) {
                Ok(more) => self.bytes.extend(more),
                Err(RecvTimeoutError::Timeout) => return Err("no answer in time".into()),
                Err(RecvTimeoutError::Disconnected) => return Err("QEMU ended".into()),
            }
        }
    }

    /// Takes a complete answer out of what was received, if there is one.
    fn take(&mut self) -> Option<Answer> {
        let end = self.bytes.iter().position(|b| *b == b'\n')?;
        let line = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
        let mut words = line.split_whitespace();
        let verb = words.next()?.to_owned();
        let id = words.next()?.parse().ok()?;
        let status = words.next()?.parse().ok()?;
        let size: usize = words.next()?.parse().ok()?;
        let output = self.bytes.get(end + 1..end + 1 + size)?.to_vec();
        self.bytes.drain(..end + 1 + size);
        Some(Answer {
            verb,
            id,
            status,
            output,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_once_it_is_complete() {
        let (send, received) = mpsc::channel();
        let mut answers = Answers {
            received,
            bytes: b"DONE 7 3 5\nab".to_vec(),
        };
        assert!(answers.take().is_none());
        send.send(b"c\nd".to_vec()).unwrap();
        let answer = answers.next(Instant::now() + STEP_LIMIT).unwrap();
        assert_eq!((answer.id, answer.status), (7, 3));
        assert_eq!(answer.output, b"abc\nd");
        assert!(answers.bytes.is_empty());
    }
}
