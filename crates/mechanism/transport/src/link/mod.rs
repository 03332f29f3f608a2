//! Links: many requests at a time on one connection, so that one write carries several of them.
//!
//! A client asks for one by `GET /` with `upgrade: tyndall-link`, and the server answers 101. From then on
//! both sides write frames: the length of the payload (4 bytes, big-endian), the [`Kind`] (1), the
//! number of the request (8), and the payload. Heads are those of HTTP/1.1, as text.
//!
//! | from the client | payload |
//! |---|---|
//! | `Request` | head and whole body |
//! | `Cancel` | none: nobody waits for the answer any more |
//! | `Credit` | 4 bytes: so much more of the answer's body may come |
//!
//! | from the server | payload |
//! |---|---|
//! | `Whole` | head and whole body of an answer |
//! | `Head`, `Data`…, `End` | an answer in pieces; `End` has its trailers, or nothing |
//! | `Fail` | why the answer ends too early |
//! | `Refused` | none: the request was not begun |
//! | `Leave` | none, of no request: no more of them; what was sent is answered |
//!
//! At most [`WINDOW`] bytes of an answer's `Data` are under way without `Credit`, so that an answer that
//! nobody reads holds up no other. Either side that has left ends the connection when all is
//! answered, the client first: so no request meets a closed connection.

mod client;
mod driver;
mod frame;
mod head;
mod server;
#[cfg(test)]
mod tests;
mod worker;

pub(crate) use client::{Link, LinkedBody, Unanswered};
pub(crate) use frame::fits;
pub(crate) use server::serve;

/// What the `upgrade` header says.
pub(crate) const PROTOCOL: &str = "tyndall-link";

/// Bytes of an answer's body that may be under way.
const WINDOW: usize = 64 << 10;
