//! Model targets to local directories.
//!
//! A target is `demo`, a directory, or a Hugging Face id. [`resolve`] turns it into a directory
//! that holds a whole checkpoint, and downloads what is missing; [`pull`] downloads or refreshes.
//!
//! Invariants:
//!
//! - The cache has the layout that Python tools use, so a model is on disk once for all of them.
//! - A file appears under its final name only when its size and hash are right; `refs/<revision>`
//!   is written last, after every file of the snapshot.
//! - No name that came over the network or from a user can point outside the cache.
//! - The token goes to the endpoint's own origin and nowhere else.
//! - Every call blocks; nothing here needs a runtime.
#![forbid(unsafe_code)]

mod cache;
mod choose;
mod client;
mod demo;
mod download;
mod error;
mod id;
mod options;
mod progress;
mod resolve;
mod verify;

pub use cache::ModelCache;
pub use choose::{Missing, inspect};
pub use download::pull;
pub use error::HubError;
pub use id::{ModelId, Revision};
pub use options::HubOptions;
pub use progress::{Bars, Lines, Progress, Silent, for_terminal};
pub use resolve::{ResolvedModel, TargetKind, resolve};

#[cfg(test)]
mod tests;
