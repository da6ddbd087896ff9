//! The binary as a process: commands that end by themselves, and services that run on.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{wait_until, watch, watchdog};

const BINARY: &str = env!("CARGO_BIN_EXE_cxone-data-action");

/// Where programs are looked for.
#[expect(clippy::disallowed_methods, reason = "tests have no settings of their own")]
pub(crate) fn search_path() -> std::ffi::OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

/// A command line of the binary with nothing in its environment but what a test puts there.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tool {
    args: Vec<String>,
    settings: BTreeMap<String, String>,
    input: Vec<u8>,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Everything that was printed.
    pub(crate) fn printed(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl Tool {
    pub(crate) fn new(args: &[&str]) -> Self {
        Self { args: args.iter().map(|arg| (*arg).to_owned()).collect(), ..Self::default() }
    }

    pub(crate) fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args(self, args: &[&str]) -> Self {
        args.iter().fold(self, |tool, arg| tool.arg(*arg))
    }

    pub(crate) fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn input(mut self, input: impl AsRef<[u8]>) -> Self {
        input.as_ref().clone_into(&mut self.input);
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command.args(&self.args).env_clear().envs(&self.settings);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the command to its end.
    pub(crate) async fn run(self) -> Outcome {
        let (process, mut stdin) = Process::spawn(&mut self.command(), "KILL");
        // A command that does not read its input may have closed it.
        let _ = stdin.write_all(&self.input);
        drop(stdin);
        let what = format!("`{}` ended", self.args.join(" "));
        process.ended(&what).await
    }

    /// Starts a command whose output nobody takes.
    pub(crate) fn start_unheard(&self) -> Child {
        let child = self.command().spawn().expect("the binary runs");
        watch(child.id(), "KILL");
        child
    }

    /// Starts a command that runs until it is told to stop, and that the watchdog ends by `signal`.
    pub(crate) fn start(&self, signal: &str) -> Process {
        Process::spawn(&mut self.command(), signal).0
    }
}

/// A running process, ended when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Whether it starts others, and ends them when it is asked to end.
    ends_its_own: bool,
    readers: Vec<thread::JoinHandle<()>>,
    stdout: Lines,
    stderr: Lines,
}

type Lines = Arc<Mutex<Vec<String>>>;

impl Process {
    fn spawn(command: &mut Command, signal: &str) -> (Self, std::process::ChildStdin) {
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        watch(child.id(), signal);
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let readers = vec![
            collect(child.stdout.take().expect("a pipe"), Arc::clone(&stdout)),
            collect(child.stderr.take().expect("a pipe"), Arc::clone(&stderr)),
        ];
        let stdin = child.stdin.take().expect("a pipe");
        (Self { child, ends_its_own: signal == "INT", readers, stdout, stderr }, stdin)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("the process is there");
    }

    /// The lines of stdout so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        read(&self.stdout)
    }

    /// Everything that was printed so far.
    pub(crate) fn printed(&self) -> String {
        [read(&self.stdout), read(&self.stderr)].concat().join("\n")
    }

    /// Those lines of stdout that are JSON objects.
    pub(crate) fn log(&self) -> Vec<Value> {
        self.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The first log line of that kind, waited for.
    pub(crate) async fn logged(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_until(what, async || {
            let line = self.log().into_iter().find(&wanted);
            assert!(line.is_some() || self.exit_status().is_none(), "ended before {what}:\n{}", self.printed());
            line
        })
        .await
    }

    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child")
    }

    /// Waits for the end.
    pub(crate) async fn ended(mut self, what: &str) -> Outcome {
        let status = wait_until(what, async || self.exit_status()).await;
        for reader in std::mem::take(&mut self.readers) {
            // A grandchild may hold the pipe open for longer; what the process itself wrote is read by then.
            wait_until("its output is read", async || reader.is_finished().then_some(())).await;
        }
        Outcome { code: status.code(), stdout: read(&self.stdout).join("\n"), stderr: read(&self.stderr).join("\n") }
    }

    /// Asks for the end and waits for it.
    pub(crate) async fn stop(self, signal: Signal) -> Outcome {
        self.signal(signal);
        self.ended("the process heeds the signal").await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("The process printed:\n{}\n", self.printed());
        }
        if self.ends_its_own && matches!(self.child.try_wait(), Ok(None)) {
            // Were it killed, what it has started would be left behind. If it does not heed this, the watchdog sees to it.
            self.signal(Signal::SIGINT);
            return;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        watchdog::forget(self.child.id());
    }
}

fn collect(pipe: impl Read + Send + 'static, lines: Lines) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(String::from_utf8_lossy(&line).into_owned());
        }
    })
}

fn read(lines: &Lines) -> Vec<String> {
    lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
