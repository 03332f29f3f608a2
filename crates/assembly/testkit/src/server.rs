//! One `tyndall run` and everything it starts.

use crate::http::{self, Answer, Stream};
use crate::processes::{descendants, is_alive, kill};
use crate::wait::eventually;
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use tempfile::TempDir;
use tyndall_types::protocol::{ApplicationDetails, DeploymentDetails, InstanceDetails};

/// How to start a server.
#[derive(Debug)]
pub struct Builder {
    command: Command,
}

impl Builder {
    /// Adds a flag with its value.
    #[must_use]
    pub fn arg(mut self, flag: &str, value: &str) -> Self {
        self.command.args([flag, value]);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts it on free ports and waits until it is ready.
    ///
    /// # Errors
    /// When it ends before, with what it said.
    pub fn start(self, target: impl AsRef<Path>) -> Result<Server> {
        let mut server = self.launch(target)?;
        let ended = |server: &mut Server| {
            server.child.try_wait().ok().flatten().map(|status| (None, Some(status)))
        };
        let (urls, status) = eventually("the server is ready", || {
            let output = server.output();
            let urls = output.contains("\nready").then(|| (urls_in(&output), None));
            urls.map(|(urls, status)| (Some(urls), status)).or_else(|| ended(&mut server))
        })?;
        ensure!(status.is_none(), "the server ended: {}", server.output());
        let urls = urls.context("no URL was printed")?;
        ensure!(urls.len() >= 2, "two URLs are expected in: {}", server.output());
        (server.url, server.admin) = (urls[0].clone(), urls[1].clone());
        Ok(server)
    }

    /// Starts it on free ports and waits for nothing; it has no URLs.
    ///
    /// # Errors
    /// When the binary cannot be started.
    pub fn launch(self, target: impl AsRef<Path>) -> Result<Server> {
        let Builder { mut command } = self;
        let home = tempfile::tempdir()?;
        let output = home.path().join("output");
        let file = File::create(&output)?;
        command
            .args(["--port", "0", "--admin-port", "0"])
            .arg(target.as_ref())
            .env("XDG_CACHE_HOME", home.path())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = command.spawn().context("failed to start the binary")?;
        Ok(Server { child, output, url: String::new(), admin: String::new(), _home: home })
    }
}

/// The public URL, then the admin URL, as `run` prints them.
fn urls_in(output: &str) -> Vec<String> {
    let mut urls: Vec<String> = Vec::new();
    for word in output.split_whitespace() {
        let hosts = ["http://127.0.0.1:", "http://[::1]:"];
        let Some(host) = hosts.iter().find(|host| word.starts_with(**host)) else { continue };
        let port = word[host.len()..].split(|c: char| !c.is_ascii_digit()).next();
        let url = format!("{host}{}", port.unwrap_or_default());
        if !urls.contains(&url) {
            urls.push(url);
        }
    }
    urls
}

/// A running server. Dropping it kills it and everything it started.
#[derive(Debug)]
pub struct Server {
    child: Child,
    output: PathBuf,
    /// Where clients go, without a trailing slash.
    pub url: String,
    /// Where the admin API is, without a trailing slash.
    pub admin: String,
    _home: TempDir,
}

impl Server {
    /// A server of this binary with small timeouts.
    pub fn builder(binary: impl AsRef<Path>) -> Builder {
        let mut command = Command::new(binary.as_ref());
        command.arg("run").env("NO_COLOR", "1");
        Builder { command }
    }

    /// Everything that it printed so far.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// The foreground process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The processes of one role: `controller`, `proxy` or `replica`.
    #[must_use]
    pub fn pids_of(&self, role: &str) -> Vec<u32> {
        let is_role = |pid: &u32| {
            let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
            arguments.is_ok_and(|a| a.split('\0').skip(1).take(2).eq(["role", role]))
        };
        descendants(self.pid()).into_iter().filter(is_role).collect()
    }

    /// GETs a public path.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub fn get(&self, path: &str) -> Result<Answer> {
        http::whole(http::agent().get(format!("{}{path}", self.url)).call()?)
    }

    /// POSTs JSON to a public path.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    /// POSTs anything to a public path, as JSON.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub fn post_bytes(&self, path: &str, body: &[u8]) -> Result<Answer> {
        let request = http::agent().post(format!("{}{path}", self.url));
        http::whole(request.content_type("application/json").send(body)?)
    }

    /// POSTs JSON and reads the answer as a stream of events.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn stream(&self, path: &str, body: &Value) -> Result<Stream> {
        let request = http::agent().post(format!("{}{path}", self.url));
        let request = request.content_type("application/json");
        Ok(http::stream(request.send(body.to_string().as_bytes())?))
    }

    /// GETs a public path and reads the answer as a stream of events.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn stream_get(&self, path: &str) -> Result<Stream> {
        Ok(http::stream(http::agent().get(format!("{}{path}", self.url)).call()?))
    }

    /// POSTs JSON to a public path with a header.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub fn post_with(&self, path: &str, header: (&str, &str), body: &Value) -> Result<Answer> {
        let request = http::agent().post(format!("{}{path}", self.url));
        let request = request.content_type("application/json").header(header.0, header.1);
        http::whole(request.send(body.to_string())?)
    }

    /// Asks for the end on the admin API.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub fn shutdown(&self) -> Result<Answer> {
        http::whole(http::agent().post(format!("{}/api/shutdown", self.admin)).send_empty()?)
    }

    /// GETs a path of the admin API.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub fn admin_get(&self, path: &str) -> Result<Answer> {
        http::whole(http::agent().get(format!("{}{path}", self.admin)).call()?)
    }

    /// POSTs JSON to a path of the admin API.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub fn admin_post(&self, path: &str, body: &Value) -> Result<Answer> {
        let request = http::agent().post(format!("{}{path}", self.admin));
        http::whole(request.content_type("application/json").send(body.to_string())?)
    }

    /// Deploys a config file by Ray's way.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub fn deploy(&self, config: &Value) -> Result<Answer> {
        let request = http::agent().put(format!("{}/api/serve/applications/", self.admin));
        http::whole(request.content_type("application/json").send(config.to_string())?)
    }

    /// What the admin API says of an application.
    ///
    /// # Errors
    /// When it does not answer, or there is none of this name.
    pub fn application(&self, name: &str) -> Result<ApplicationDetails> {
        self.status()?.applications.remove(name).with_context(|| format!("no application {name}"))
    }

    /// What the admin API says of everything.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<InstanceDetails> {
        let url = format!("{}/api/tyndall/applications/", self.admin);
        let answer = http::whole(http::agent().get(url).call()?)?;
        Ok(serde_json::from_str(&answer.text)?)
    }

    /// What the admin API says of the one deployment.
    ///
    /// # Errors
    /// When it does not answer, or there is none.
    pub fn deployment(&self) -> Result<DeploymentDetails> {
        let application = self.status()?.applications.into_values().next().context("none")?;
        application.deployments.into_values().next().context("no deployment")
    }

    /// Waits until so many replicas exist, counted as processes.
    ///
    /// # Errors
    /// When that does not happen.
    pub fn wait_for_replicas(&self, count: usize) -> Result<()> {
        eventually(&format!("{count} replica processes"), || {
            (self.pids_of("replica").len() == count).then_some(())
        })
        .with_context(|| self.output())
    }

    /// The value of a metric whose name and labels start like this; 0 where it is missing.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub fn metric(&self, start: &str) -> Result<f64> {
        let page = self.get("/metrics")?.text;
        let values = page.lines().filter(|line| line.starts_with(start));
        Ok(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Sends a signal to the foreground process.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    /// Waits until the foreground process ended, and checks that nothing of it is left.
    ///
    /// # Errors
    /// When it goes on, or leaves processes behind.
    pub fn wait(&mut self, started: &[u32]) -> Result<ExitStatus> {
        let child = &mut self.child;
        let status = eventually("the server ends", || child.try_wait().ok().flatten())?;
        eventually("every process is gone", || {
            (!started.iter().any(|&pid| is_alive(pid))).then_some(())
        })?;
        Ok(status)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let started = descendants(self.pid());
        if std::thread::panicking() {
            eprintln!("── the server said:\n{}", self.output());
        }
        for pid in started.into_iter().chain([self.child.id()]) {
            kill(pid, Signal::KILL);
        }
        if let Err(error) = self.child.wait() {
            eprintln!("failed to reap the server: {error}");
        }
    }
}
