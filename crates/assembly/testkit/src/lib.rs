//! Starts a real `tyndall run` with real child processes and speaks to it over real sockets.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use tyndall_testkit::Server;
//! let server = Server::builder("target/debug/tyndall").arg("--idle-timeout", "1").start("demo")?;
//! let answer = server.post("/generate", &serde_json::json!({"prompt": "Hello"}))?;
//! assert_eq!(answer.status, 200);
//! # Ok(()) }
//! ```
//!
//! Waiting is always for a fact, with one generous deadline; no test asserts how long it took.
#![forbid(unsafe_code)]

mod http;
mod processes;
mod server;
mod wait;

pub use http::{Answer, Stream, get};
pub use processes::{descendants, is_alive, kill, resident_bytes};
pub use rustix::process::Signal;
pub use server::{Builder, Server};
pub use wait::{DEADLINE, eventually, pause};
