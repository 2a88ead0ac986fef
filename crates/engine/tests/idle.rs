//! Idle means no CPU. Alone in its process, so that no other test's work is counted.
#![allow(clippy::unwrap_used)]

use engine::{Actor, Backend, Cx, Listener, Next, Options, Reactors, Recv, Stream};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

struct Door {
    listener: Listener,
    tell: Sender<SocketAddr>,
}

impl Actor for Door {
    fn start(&mut self, cx: &mut Cx<'_>) -> Next {
        cx.watch(self.listener.as_fd()).unwrap();
        self.tell.send(self.listener.local_addr()).unwrap();
        Next::Busy
    }
    fn run(&mut self, cx: &mut Cx<'_>) -> Next {
        while let Some(stream) = self.listener.accept().unwrap() {
            cx.reactor().spawn(move || Box::new(Quiet(stream)));
        }
        Next::Idle(None)
    }
}

struct Quiet(Stream);

impl Actor for Quiet {
    fn start(&mut self, cx: &mut Cx<'_>) -> Next {
        cx.watch(self.0.as_fd()).unwrap();
        Next::Busy
    }
    fn run(&mut self, _: &mut Cx<'_>) -> Next {
        match self.0.recv(None, &mut [0; 64]) {
            Recv::Bytes { .. } => Next::Busy,
            Recv::WouldBlock => Next::Idle(None),
            Recv::Closed | Recv::Failed(_) => Next::Gone,
        }
    }
}

/// CPU time that this process has used.
fn used() -> Duration {
    let mut ns = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).unwrap();
        ns += stat.split(' ').next().unwrap().parse::<u64>().unwrap();
    }
    Duration::from_nanos(ns)
}

#[test]
fn idle_reactors_with_idle_connections_use_under_one_percent_of_a_core() {
    for backend in [Backend::Uring, Backend::Epoll] {
        let reactors = Reactors::start(&Options {
            backend,
            ..Options::default()
        })
        .unwrap();
        let (tell, told) = channel();
        reactors.all()[0].spawn(move || {
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            Box::new(Door { listener, tell })
        });
        let address = told.recv_timeout(Duration::from_secs(20)).unwrap();
        let idle: Vec<TcpStream> = (0..16)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        // Not a wait for anything: the time that is measured, after the accepts are over.
        std::thread::sleep(Duration::from_millis(300));
        let before = used();
        std::thread::sleep(Duration::from_secs(2));
        let spent = used().saturating_sub(before);
        assert!(
            spent < Duration::from_millis(20),
            "{backend:?}: {spent:?} in two seconds"
        );
        drop(idle);
    }
}
