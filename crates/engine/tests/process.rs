//! What concerns the whole process: its threads, and its end. Each test runs again as a child,
//! where it is alone.
#![allow(clippy::unwrap_used)]

use engine::{Actor, Backend, Cx, Next, Options, Reactors};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::sched_getaffinity;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

const CHILD: &str = "OPI_ENGINE_TEST_CHILD";
const LONG: Duration = Duration::from_secs(20);

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs one test of this file in a process of its own.
fn in_child(test: &str) -> ExitStatus {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--test-threads=1", "--nocapture"]);
    command.env(CHILD, "1");
    command.status().unwrap()
}

fn options(cores: usize, backend: Backend) -> Options {
    Options {
        cores: vec![0; cores],
        backend,
        ..Options::default()
    }
}

struct Panics;

impl Actor for Panics {
    fn start(&mut self, _: &mut Cx<'_>) -> Next {
        panic!("a bug in an actor");
    }
    fn run(&mut self, _: &mut Cx<'_>) -> Next {
        Next::Gone
    }
}

#[test]
fn a_panic_on_a_reactor_ends_the_process() {
    if is_child() {
        let reactors = Reactors::start(&options(1, Backend::Auto)).unwrap();
        reactors.all()[0].spawn(|| Box::new(Panics));
        // Nobody sends: this ends with the process, or fails the test.
        let (_keep, told) = channel::<()>();
        assert_eq!(told.recv_timeout(LONG), Err(RecvTimeoutError::Timeout));
        return;
    }
    let end = in_child("a_panic_on_a_reactor_ends_the_process");
    assert_eq!(end.signal(), Some(libc::SIGABRT), "{end}");
}

/// Names of the threads of this process that reactors have started.
fn ours() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names
        .filter(|name| name.starts_with("reactor-") || name.starts_with("file-worker"))
        .collect()
}

#[test]
fn a_start_that_fails_half_way_leaves_no_thread() {
    if is_child() {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        let before = getrlimit(Resource::Nofile);
        for backend in [Backend::Uring, Backend::Epoll] {
            // Enough for a few reactors, and not for all.
            let limit = Rlimit {
                current: Some(open + 10),
                ..before
            };
            setrlimit(Resource::Nofile, limit).unwrap();
            let started = Reactors::start(&options(50, backend));
            setrlimit(Resource::Nofile, before).unwrap();
            assert!(started.is_err(), "{backend:?}");
            // A thread that was joined may still be listed for a moment.
            let began = Instant::now();
            while !ours().is_empty() {
                assert!(began.elapsed() < LONG, "{backend:?}: {:?}", ours());
                std::thread::yield_now();
            }
        }
        return;
    }
    assert!(in_child("a_start_that_fails_half_way_leaves_no_thread").success());
}

#[test]
fn workers_for_files_are_there_from_the_start_and_are_not_pinned() {
    if is_child() {
        let mine = sched_getaffinity(None).unwrap();
        let _reactors = Reactors::start(&options(1, Backend::Epoll)).unwrap();
        let workers = || {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
            let named = tasks.filter(|task| {
                let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
                name.starts_with("file-worker")
            });
            named.map(|task| task.file_name().to_str().unwrap().parse().unwrap())
        };
        // A thread gives itself its name, a moment after it was started.
        let began = Instant::now();
        while workers().count() < 4 {
            assert!(began.elapsed() < LONG, "{} workers", workers().count());
            std::thread::yield_now();
        }
        for id in workers() {
            let id = rustix::process::Pid::from_raw(id);
            assert_eq!(sched_getaffinity(id).unwrap(), mine);
        }
        return;
    }
    let end = in_child("workers_for_files_are_there_from_the_start_and_are_not_pinned");
    assert!(end.success());
}
