//! The way of a request to a replica: the deployments of the route table, their queues, replica
//! choice, retries, and the two links to the controller.
//!
//! A [`Router`] serves the proxy and every process whose deployments call others. Life of a
//! request: 1. [`Deployment::send`] takes a place in the deployment's bounded queue, and the
//! controller is told at once; 2. it gets a permit for a replica that has room, of those that the
//! deployment's own request router ranks first, where it has one; 3. it is sent
//! there; until an answer begins, a lost replica only means another one, and nobody else is sent to
//! one whose connection broke until it answers again; 4. the answer streams
//! through an [`AnswerBody`] that holds the permit, which ends with the last byte or when the body
//! is dropped, or, after a 101, as a [`ReplicaStream`]. A [`Reservation`] is a request up to 3 of
//! which the replica has the head: [`Deployment::reserve`] makes it, and its body comes when there is
//! one. [`Deployment::broadcast`] begins with 3, at every replica.
//!
//! What a router knows of the node is what the
//! [`RouteTable`](tyndall_types::protocol::RouteTable)s said that it read. Without a controller it
//! goes on with that and reconnects. Nothing here polls: requests are woken by route tables and by
//! permits that come free.
#![forbid(unsafe_code)]

mod absence;
mod body;
mod changes;
mod choosing;
mod deployment;
mod links;
mod models;
mod mounts;
mod permit;
mod reserve;
mod router;
mod send;
mod suspicion;
mod table;
mod turns;

#[cfg(test)]
mod tests;

pub use body::{AnswerBody, ReplicaStream};
pub use deployment::{Deployment, Refusal, Waits};
pub use models::Models;
pub use mounts::{Mount, Scope};
pub use reserve::Reservation;
pub use router::Router;
pub use tyndall_routing::{Flow, Prefix};

pub use send::{Answer, Call, SendError, SendErrorKind, TooLate};

/// Header that tells a program where its application is mounted; empty at the root.
pub const HEADER_ROOT_PATH: &str = "x-tyndall-root-path";
