//! The program under test, as a process inside a private network.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::http::{self, Reply};
use crate::net::Net;
use crate::{lab, shell};

/// How long the server may take until `/readyz` answers. It takes a second; a loaded machine may
/// be slow.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long an orderly end may take.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// What differs from the plain server.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Number in its network: every server there has management ports of its own.
    pub number: u16,
    /// Arguments after `opi serve` and the addresses.
    pub arguments: Vec<String>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
}

/// A running `opi serve`; it is killed and its state removed with this value.
#[derive(Debug)]
pub struct Server<'net> {
    net: &'net Net,
    options: ServerOptions,
    folder: TempDir,
    child: Option<Child>,
}

impl<'net> Server<'net> {
    /// gRPC of the server with number 0, inside the network.
    pub const GRPC: &'static str = "127.0.0.1:50051";
    /// REST of the server with number 0, inside the network.
    pub const HTTP: &'static str = "127.0.0.1:8082";

    fn grpc(&self) -> String {
        format!("127.0.0.1:{}", 50051 + self.options.number)
    }

    fn http(&self) -> String {
        format!("127.0.0.1:{}", 8082 + self.options.number)
    }

    /// Starts a server with an empty state directory and waits until it is ready.
    ///
    /// # Panics
    /// With the server's log when it ends or does not get ready.
    #[must_use]
    pub fn start(net: &'net Net, options: ServerOptions) -> Server<'net> {
        let folder = tempfile::Builder::new()
            .prefix("opi-test-")
            .tempdir()
            .expect("the folder for temporary files is writable");
        let mut server = Server {
            net,
            options,
            folder,
            child: None,
        };
        server.launch();
        server
    }

    /// A file of the server's own temporary folder, for back-ends.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the program again on the same state.
    ///
    /// # Panics
    /// As [`Server::start`] does.
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "the server runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path());
        let log = log.expect("the server's folder is writable");
        let errors = log.try_clone().expect("a file can be cloned");
        let mut command = self.net.command(&lab::opi_binary());
        let (grpc, http) = (self.grpc(), self.http());
        command.args(["serve", "--grpc-addr", &grpc, "--http-addr", &http]);
        for (flag, name) in [("--state-dir", "state"), ("--key-file", "seal.key")] {
            command.arg(flag).arg(self.folder.path().join(name));
        }
        command.args(&self.options.arguments);
        command.envs(
            self.options
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        );
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        self.child = Some(command.spawn().expect("`ip netns exec` starts"));
        let deadline = Instant::now() + START_LIMIT;
        while !self.is_ready() {
            let ended = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                panic!("the server ended with {status}:\n{}", self.log());
            }
            assert!(
                Instant::now() < deadline,
                "the server does not get ready:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether `/readyz` says 200.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.try_request("GET", "/readyz", None)
            .is_ok_and(|reply| reply.status == 200)
    }

    /// Kills the server as a power cut would: no handler of it runs.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child can be killed");
            child.wait().expect("our own child can be waited for");
        }
    }

    /// Kills the server and starts it again on the same state.
    pub fn restart(&mut self) {
        self.kill9();
        self.launch();
    }

    /// Ends the server with SIGTERM and returns whether it ended well.
    ///
    /// # Panics
    /// With the server's log when it does not end.
    pub fn stop(&mut self) -> bool {
        let Some(mut child) = self.child.take() else {
            return true;
        };
        shell::run(Command::new("kill").args(["-TERM", &child.id().to_string()])).ok();
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return status.success();
            }
            assert!(
                Instant::now() < deadline,
                "the server does not end:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What the server logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    /// Sends a REST request to a server that may be gone.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn try_request(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> std::io::Result<Reply> {
        let address: SocketAddr = self.http().parse().expect("an address in digits");
        self.net
            .inside(|| http::request(address, method, path, body))
    }

    /// Sends a REST request.
    ///
    /// # Panics
    /// With the server's log when no answer comes.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        match self.try_request(method, path, body) {
            Ok(reply) => reply,
            Err(e) => panic!("{method} {path}: {e}\n{}", self.log()),
        }
    }

    /// GET.
    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, None)
    }

    /// POST.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.request("POST", path, Some(body))
    }

    /// PATCH.
    #[track_caller]
    pub fn patch(&self, path: &str, body: &Value) -> Reply {
        self.request("PATCH", path, Some(body))
    }

    /// DELETE.
    #[track_caller]
    pub fn delete(&self, path: &str) -> Reply {
        self.request("DELETE", path, None)
    }

    /// Runs the client, `opi`, with these words against this server.
    pub fn opi(&self, words: &[&str]) -> shell::Output {
        let mut command = self.net.command(&lab::opi_binary());
        shell::run(command.args(words).env("OPI_ADDR", self.grpc()))
    }

    /// Runs a Python program of `tests/python` with the foreign clients installed.
    pub fn python(&self, script: &str, words: &[&str]) -> shell::Output {
        let mut command = self.net.command(Path::new(&lab::python()));
        shell::run(command.arg(lab::scripts().join(script)).args(words))
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        self.kill9();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("---- the server's last words ----\n{tail}\n---- end ----");
        }
    }
}
