//! The child processes of this crate's tests: every role, with behaviour chosen by arguments.
//!
//! - `role NAME … --log FILE [--exit CODE] [--stubborn] [--grandchild]`
//! - `role warm … --log FILE [--deaf]`: waits to become another, or hears nothing after it has said that it is prepared
//! - `node DIR LOG`: a whole supervisor in a process of its own
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tyndall_cluster::{NodeDir, Supervisor, SupervisorOptions, process};
use tyndall_transport::{Body, Handler, Listener, ServeOptions, empty, serve};
use tyndall_types::protocol::{Handover, PREPARED};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match args[1].as_str() {
        "role" if args[2] == "warm" => {
            let args = wait(&args);
            runtime.block_on(role(&args));
        }
        "role" => runtime.block_on(role(&args)),
        "node" => runtime.block_on(node(Path::new(&args[2]), &args[3])),
        other => panic!("no such command: {other}"),
    }
}

fn value<'a>(args: &'a [String], name: &str) -> Option<&'a str> {
    args.iter().skip_while(|arg| *arg != name).nth(1).map(String::as_str)
}

fn log(args: &[String], line: &str) {
    let path = value(args, "--log").unwrap();
    let mut file = std::fs::File::options().append(true).create(true).open(path).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// What it is from then on.
fn wait(args: &[String]) -> Vec<String> {
    process::prepare_child(value(args, "--parent-pid").unwrap().parse().unwrap()).unwrap();
    let line = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    // Only the copy is left.
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null").unwrap()).unwrap();
    (&line).write_all(format!("{PREPARED}\n").as_bytes()).unwrap();
    log(args, &format!("warm {}", std::process::id()));
    if args.iter().any(|arg| arg == "--deaf") {
        drop(line);
        log(args, "deaf");
        loop {
            std::thread::park();
        }
    }
    let mut told = String::new();
    BufReader::new(line).read_line(&mut told).unwrap();
    let Ok(handover) = serde_json::from_str::<Handover>(&told) else { std::process::exit(0) };
    log(args, &format!("handed {:?}", handover.env));
    [args[..1].to_vec(), handover.args].concat()
}

#[derive(Clone)]
struct Fine;

impl Handler for Fine {
    async fn handle(
        &self,
        _: http::Request<tyndall_transport::RequestBody>,
    ) -> http::Response<Body> {
        empty(http::StatusCode::OK)
    }
}

#[expect(clippy::zombie_processes, reason = "its end is what the test waits for")]
async fn role(args: &[String]) {
    process::prepare_child(value(args, "--parent-pid").unwrap().parse().unwrap()).unwrap();
    let name = &args[2];
    if let Some(code) = value(args, "--exit") {
        std::process::exit(code.parse().unwrap());
    }
    let mut term = signal(SignalKind::terminate()).unwrap();
    if args.iter().any(|arg| arg == "--grandchild") {
        let sleep = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        log(args, &format!("grandchild {}", sleep.id()));
    }
    if let Some((_, value)) = std::env::vars().find(|(name, _)| name == "TEST_ENV") {
        log(args, &format!("TEST_ENV {value}"));
    }
    log(args, &format!("{name} {}", std::process::id()));
    let is_stubborn = args.iter().any(|arg| arg == "--stubborn");
    let told = async {
        term.recv().await;
        log(args, &format!("{name} told"));
        if is_stubborn {
            std::future::pending::<()>().await;
        }
    };
    if name == "replica" || name == "actor" {
        told.await;
    } else {
        let listener = Listener::all_from_stdin().unwrap().remove(0);
        serve(listener, Fine, ServeOptions::default(), told).await;
    }
    log(args, &format!("{name} ended"));
}

async fn node(base: &Path, log: &str) {
    let dir = NodeDir::create(base).unwrap();
    let extra = vec!["--log".to_owned(), log.to_owned()];
    let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
    let supervisor = Supervisor::start(SupervisorOptions {
        executable: std::env::current_exe().unwrap(),
        env: Default::default(),
        runtime_dir: dir.runtime_dir().clone(),
        state_dir: None,
        public: listen(),
        grpc: None,
        admin: listen(),
        drain: Duration::from_secs(5),
        controller_args: extra.clone(),
        proxy_args: extra,
    });
    supervisor.await.unwrap().run_until_shutdown().await;
}
