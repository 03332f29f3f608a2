//! HTTP over Unix and TCP sockets, as every process of a node speaks it.
//!
//! - [`serve`] answers requests on a [`Listener`] until it is told to drain.
//! - [`Client`] sends requests to one socket and keeps its connections; a response that is dropped
//!   before its end closes its connection, which is how cancellation travels.
//! - [`Client::open`] sends the head of a request alone: an [`OpenRequest`] is one that the server has
//!   taken, and that gets its body later, or never.
//! - [`Client::linked`] sends requests that meet over one connection, a link, which
//!   every server of a Unix socket takes.
//! - [`Upgrade`] and [`Upgraded`] are the two ends of a connection that leaves HTTP by a 101.
//! - [`json`], [`read_body`], [`JsonLines`], [`LineSplitter`] and [`line_channel`] are the bodies.
#![forbid(unsafe_code)]

mod body;
mod client;
mod heads;
mod http2;
mod lines;
mod link;
mod passing;
mod polling;
mod server;
mod stall;
mod upgrade;
mod wire;

pub use body::{Body, BodyError, BoxError, RequestBody, empty, full, json, read_body, text};
pub use client::{Client, ClientError, OpenRequest, Opening, Outgoing, ResponseBody, Upgraded};
pub use http2::Peer;
pub use lines::{JsonLines, LineSender, LineSplitter, LinesError, line_channel};
pub use passing::pass_listeners;
pub use polling::polling_runtime;
pub use server::{Handler, Listener, Protocol, ServeOptions, reachable, serve};
pub use upgrade::{ConnectionLife, Upgrade};

#[cfg(test)]
mod tests;
