//! API keys: who may send requests, for which models, and how many.
//!
//! Pure: no file, no clock, no randomness of its own; `now` is an argument, a time since any fixed
//! moment.
//!
//! - [`parse`]: the key file, strictly, with the line of what is wrong.
//! - [`Keyring`]: finds whose key a secret is, in a time that says nothing of the keys.
//! - [`ModelPattern`]: which models a key may use.
//! - [`Meter`]: what is left of a key's limits.
#![forbid(unsafe_code)]

mod bucket;
mod duration;
mod file;
mod key;
mod meter;

pub use bucket::Bucket;
pub use duration::go_duration;
pub use file::{KeyFileError, entry, parse};
pub use key::{Digest, Key, KeyName, KeyNameError, Keyring, Limits, ModelPattern, fresh_secret};
pub use meter::{Meter, Refusal, Window, Windows};
