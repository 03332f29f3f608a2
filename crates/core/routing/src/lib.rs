//! Which replica takes a request, how many may wait, what is retried.
//!
//! Pure: no clock, no sockets, no randomness of its own. A [`Dispatcher`] holds one deployment's
//! replicas and its queue at one proxy; every call returns what follows from it, so that no
//! request waits while a replica has room for it, and none is counted twice.
//!
//! - [`choose`]: power of two choices on exact in-flight counts.
//! - [`choose_for_model`]: the same where replicas hold different models.
//! - [`Prefix`]: of a prompt, which goes to a replica that had one like it.
//! - [`Dispatcher`]: bounded queue, fair between [`Flow`]s, per-replica cap, counts, and replicas in
//!   the order that somebody else has ranked them in.
//! - [`Pace`]: how long a request that comes now would take.
//! - [`retry`]: which failures may go to another replica.
#![forbid(unsafe_code)]

mod affinity;
mod choice;
mod dispatcher;
mod fair;
mod pace;
mod pool;
mod prefix;
mod retry;

pub use affinity::{Standing, choose_for_model};
pub use choice::choose;
pub use dispatcher::{Admission, Assignment, Decided, Dispatcher, Ticket};
pub use fair::Flow;
pub use pace::{Ahead, Held, Pace};
pub use pool::{Listed, Wish};
pub use prefix::Prefix;
pub use retry::{Failure, MAX_BROKEN_ATTEMPTS, Progress, Retry, retry};
