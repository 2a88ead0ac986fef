//! Reactors at work over both drivers: sockets, files, timers, wake-ups, many actors, the end.
#![allow(clippy::unwrap_used)]

use blk::{FileDone, FileIo, FileOp, FileQueue, Gather, Home, IoBuf, Nanos};
use engine::{Actor, Backend, Cx, Listener, Next, Options, Reactors, Recv, Sent, Stream, now};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Token, result and bytes of each file operation that came back.
type Seen = Vec<(u64, Result<usize, i32>, Vec<u8>)>;

const LONG: Duration = Duration::from_secs(20);

fn both(test: impl Fn(&Reactors)) {
    for backend in [Backend::Uring, Backend::Epoll] {
        let options = Options {
            cores: vec![0],
            backend,
            ..Options::default()
        };
        test(&Reactors::start(&options).expect("both drivers work on a test machine"));
    }
}

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
            cx.reactor().spawn(move || {
                Box::new(Echo {
                    stream,
                    out: Gather::new(),
                })
            });
        }
        Next::Idle(None)
    }
}

struct Echo {
    stream: Stream,
    out: Gather,
}

impl Actor for Echo {
    fn start(&mut self, cx: &mut Cx<'_>) -> Next {
        cx.watch(self.stream.as_fd()).unwrap();
        self.run(cx)
    }
    fn run(&mut self, _: &mut Cx<'_>) -> Next {
        // The first part lands in its own buffer, as payload does.
        let mut direct = IoBuf::alloc(5000);
        let mut buf = [0; 3000];
        match self.stream.recv(Some((&mut direct, 100, 4900)), &mut buf) {
            Recv::Bytes { direct: n, buf: m } => {
                self.out.push_buf(direct.slice(100..100 + n));
                self.out.push_bytes(&buf[..m]);
                let _ = self.stream.send(&mut self.out);
                Next::Busy
            }
            Recv::WouldBlock => match self.stream.send(&mut self.out) {
                Sent::All | Sent::Blocked => Next::Idle(None),
                Sent::Failed(_) => Next::Gone,
            },
            Recv::Closed | Recv::Failed(_) => Next::Gone,
        }
    }
}

fn door(reactors: &Reactors) -> SocketAddr {
    let (tell, told) = channel();
    reactors.all()[0].spawn(move || {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Box::new(Door { listener, tell })
    });
    told.recv_timeout(LONG).unwrap()
}

#[test]
fn many_connections_get_back_what_they_send() {
    both(|reactors| {
        let address = door(reactors);
        std::thread::scope(|scope| {
            for seed in 0..16_u8 {
                scope.spawn(move || {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.set_read_timeout(Some(LONG)).unwrap();
                    let bytes: Vec<u8> = (0..300_000_u32).map(|i| (i as u8) ^ seed).collect();
                    let mut writer = stream.try_clone().unwrap();
                    let sent = bytes.clone();
                    let write = std::thread::spawn(move || writer.write_all(&sent).unwrap());
                    let mut back = vec![0; bytes.len()];
                    stream.read_exact(&mut back).unwrap();
                    write.join().unwrap();
                    assert!(back == bytes);
                });
            }
        });
        let mut last = TcpStream::connect(address).unwrap();
        last.shutdown(Shutdown::Write).unwrap();
        last.set_read_timeout(Some(LONG)).unwrap();
        assert_eq!(
            last.read(&mut [0; 10]).unwrap(),
            0,
            "the actor ends, and so its socket closes"
        );
    });
}

struct Leaver(Listener, Option<Stream>, Sender<SocketAddr>);

impl Actor for Leaver {
    fn start(&mut self, cx: &mut Cx<'_>) -> Next {
        cx.watch(self.0.as_fd()).unwrap();
        self.2.send(self.0.local_addr()).unwrap();
        Next::Busy
    }
    fn run(&mut self, cx: &mut Cx<'_>) -> Next {
        if self.1.is_none() {
            self.1 = self.0.accept().unwrap();
            if let Some(stream) = &self.1 {
                cx.watch(stream.as_fd()).unwrap();
            }
        }
        let Some(stream) = &mut self.1 else {
            return Next::Idle(None);
        };
        match stream.recv(None, &mut [0; 64]) {
            Recv::WouldBlock => Next::Idle(None),
            _ => Next::Gone,
        }
    }
}

#[test]
fn a_peer_that_keeps_sending_learns_that_the_actor_is_gone() {
    both(|reactors| {
        for _ in 0..50 {
            let (tell, told) = channel();
            reactors.all()[0].spawn(move || {
                let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
                Box::new(Leaver(listener, None, tell))
            });
            let address = told.recv_timeout(LONG).unwrap();
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            stream.set_write_timeout(Some(LONG)).unwrap();
            let mut writer = stream.try_clone().unwrap();
            // Ends when the peer is gone: a reset breaks the pipe.
            let write = std::thread::spawn(move || while writer.write(&[1; 100]).is_ok() {});
            let end = stream.read(&mut [0; 10]);
            assert!(end.is_err() || end.is_ok_and(|n| n == 0));
            stream.shutdown(Shutdown::Both).unwrap_or_default();
            write.join().unwrap();
        }
    });
}

#[test]
fn a_port_in_use_is_an_error() {
    let one = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let two = Listener::bind(one.local_addr());
    assert_eq!(two.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
}

struct Disk {
    file: Arc<std::fs::File>,
    home: Option<Box<dyn Home>>,
    queue: Option<Box<dyn FileQueue>>,
    done: Vec<FileDone>,
    steps: Vec<FileIo>,
    tell: Sender<Seen>,
    total: usize,
    seen: Seen,
}

impl Actor for Disk {
    fn start(&mut self, cx: &mut Cx<'_>) -> Next {
        self.queue = Some(cx.open_file(self.file.clone()).unwrap());
        self.home = Some(cx.keep());
        self.total = self.steps.len();
        self.run(cx)
    }
    fn run(&mut self, _: &mut Cx<'_>) -> Next {
        self.queue.as_mut().unwrap().poll(&mut self.done);
        self.seen.extend(
            self.done
                .drain(..)
                .map(|d| (d.token, d.result, d.buf.to_vec())),
        );
        // One at a time: the answers of later steps rest on earlier ones.
        if self.seen.len() == self.total {
            self.tell.send(std::mem::take(&mut self.seen)).unwrap();
            return Next::Gone;
        }
        if self.steps.len() + self.seen.len() == self.total {
            // The later ones go by a queue of the home that was kept.
            if self.seen.len() == self.total / 2 {
                let home = self.home.as_mut().unwrap().keep();
                self.home = Some(home);
                let queue = self.home.as_mut().unwrap().open_file(self.file.clone());
                self.queue = Some(queue.unwrap());
            }
            self.queue.as_mut().unwrap().submit(self.steps.remove(0));
        }
        Next::Idle(None)
    }
}

#[test]
fn file_operations_do_what_they_say() {
    both(|reactors| {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let data: Vec<u8> = (0..1_500_000_u32).map(|i| (i / 7) as u8).collect();
        let step = |token, op, offset, buf| FileIo {
            op,
            offset,
            buf,
            token,
        };
        let punch = FileOp::Punch { len: 8192 };
        let steps = vec![
            step(
                0,
                FileOp::Write { durable: false },
                0,
                IoBuf::from_slice(&data),
            ),
            step(1, FileOp::Read, 4096, IoBuf::alloc(1_400_000)),
            step(
                2,
                FileOp::Write { durable: true },
                1,
                IoBuf::from_slice(b"xyz"),
            ),
            step(3, FileOp::Sync, 0, IoBuf::empty()),
            step(4, punch, 4096, IoBuf::empty()),
            step(5, FileOp::Read, 0, IoBuf::alloc(16_384)),
            step(6, FileOp::Read, 1_499_990, IoBuf::alloc(100)),
            step(7, FileOp::Write { durable: false }, 0, IoBuf::empty()),
        ];
        let (tell, told) = channel();
        let own = file.clone();
        reactors.all()[0].spawn(move || {
            let (done, seen) = (Vec::new(), Vec::new());
            Box::new(Disk {
                file: own,
                home: None,
                queue: None,
                done,
                steps,
                tell,
                total: 0,
                seen,
            })
        });
        let seen = told.recv_timeout(LONG).unwrap();
        assert!(seen.iter().map(|s| s.0).eq(0..8));
        assert_eq!(seen[0].1, Ok(data.len()));
        assert!(seen[1].1 == Ok(1_400_000) && seen[1].2 == data[4096..1_404_096]);
        assert_eq!((seen[2].1, seen[3].1, seen[4].1), (Ok(3), Ok(0), Ok(0)));
        let mut wanted = data[..16_384].to_vec();
        wanted[1..4].copy_from_slice(b"xyz");
        wanted[4096..12_288].fill(0);
        assert!(seen[5].2 == wanted);
        assert_eq!(seen[6].1, Ok(10), "a read past the end is short");
        assert_eq!(seen[7].1, Ok(0));
    });
}

#[test]
fn a_file_error_comes_back_as_its_errno() {
    both(|reactors| {
        let path = tempfile::NamedTempFile::new().unwrap();
        let file = Arc::new(std::fs::File::open(path.path()).unwrap());
        let steps = vec![FileIo {
            op: FileOp::Write { durable: false },
            offset: 0,
            buf: IoBuf::from_slice(b"no"),
            token: 3,
        }];
        let (tell, told) = channel();
        reactors.all()[0].spawn(move || {
            let (done, seen) = (Vec::new(), Vec::new());
            Box::new(Disk {
                file,
                home: None,
                queue: None,
                done,
                steps,
                tell,
                total: 0,
                seen,
            })
        });
        assert_eq!(
            told.recv_timeout(LONG).unwrap()[0].1,
            Err(9),
            "EBADF: opened for reading"
        );
    });
}

struct Clock {
    began: Nanos,
    count: u32,
    tell: Sender<(Nanos, u32)>,
}

impl Actor for Clock {
    fn start(&mut self, cx: &mut Cx<'_>) -> Next {
        self.began = cx.now();
        Next::Idle(Some(self.began + Nanos::from_millis(20)))
    }
    fn run(&mut self, cx: &mut Cx<'_>) -> Next {
        self.count += 1;
        let passed = cx.now().since(self.began);
        if self.count == 5 {
            self.tell.send((passed, self.count)).unwrap();
            return Next::Gone;
        }
        Next::Idle(Some(cx.now() + Nanos::from_millis(20)))
    }
}

#[test]
fn timers_run_an_actor_when_their_time_has_come_and_not_before() {
    both(|reactors| {
        let (tell, told) = channel();
        reactors.all()[0].spawn(move || {
            Box::new(Clock {
                began: Nanos(0),
                count: 0,
                tell,
            })
        });
        let (passed, count) = told.recv_timeout(LONG).unwrap();
        assert_eq!(count, 5);
        assert!(passed >= Nanos::from_millis(100), "{passed:?}");
    });
}

struct Mailbox {
    letters: Arc<Mutex<Vec<u32>>>,
    sum: u32,
    tell: Sender<u32>,
}

impl Actor for Mailbox {
    fn start(&mut self, cx: &mut Cx<'_>) -> Next {
        self.run(cx)
    }
    fn run(&mut self, _: &mut Cx<'_>) -> Next {
        let letters = std::mem::take(&mut *self.letters.lock().unwrap());
        self.sum += letters.into_iter().sum::<u32>();
        if self.sum == 4 * 5050 {
            self.tell.send(self.sum).unwrap();
            return Next::Gone;
        }
        Next::Idle(None)
    }
}

#[test]
fn no_wake_up_from_another_thread_is_lost() {
    both(|reactors| {
        for _ in 0..50 {
            let letters: Arc<Mutex<Vec<u32>>> = Arc::default();
            let (tell, told) = channel();
            let own = letters.clone();
            let reactor = reactors.all()[0].clone();
            let id = reactor.spawn(move || {
                Box::new(Mailbox {
                    letters: own,
                    sum: 0,
                    tell,
                })
            });
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    let (letters, waker) = (letters.clone(), reactor.waker(id));
                    scope.spawn(move || {
                        for number in 1..=100 {
                            letters.lock().unwrap().push(number);
                            waker.wake_by_ref();
                        }
                    });
                }
            });
            assert_eq!(told.recv_timeout(LONG).unwrap(), 4 * 5050);
        }
    });
}

struct DropTeller(Sender<()>);

impl Actor for DropTeller {
    fn start(&mut self, _: &mut Cx<'_>) -> Next {
        Next::Idle(None)
    }
    fn run(&mut self, _: &mut Cx<'_>) -> Next {
        Next::Idle(None)
    }
}

impl Drop for DropTeller {
    fn drop(&mut self) {
        self.0.send(()).unwrap();
    }
}

#[test]
fn the_last_handle_ends_the_threads_and_their_actors() {
    for backend in [Backend::Uring, Backend::Epoll] {
        let options = Options {
            backend,
            ..Options::default()
        };
        let reactors = Reactors::start(&options).unwrap();
        let (tell, told) = channel();
        for reactor in reactors.all() {
            let tell = tell.clone();
            reactor.spawn(move || Box::new(DropTeller(tell)));
        }
        let count = reactors.all().len();
        drop(reactors);
        assert_eq!(told.try_iter().count(), count);
    }
}

#[test]
fn a_cpu_that_is_not_there_is_named() {
    let options = Options {
        cores: vec![1000],
        ..Options::default()
    };
    let error = Reactors::start(&options)
        .err()
        .expect("CPU 1000 does not exist here");
    assert!(error.to_string().contains("CPU 1000"), "{error}");
    assert!(now() > Nanos(0));
}
