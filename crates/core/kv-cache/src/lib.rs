//! The pool of KV blocks and the prefix cache over it.
//!
//! A block holds the keys and values of `block_size` consecutive tokens. It is in one of three
//! states:
//!
//! * **free**: no one uses it, its content means nothing;
//! * **in use**: one or more [`BlockTable`]s hold it (its reference count), it may be hashed;
//! * **cached**: no one holds it, but its content is known by its hash and can be shared again.
//!
//! Life of a block: taken by [`BlockPool::allocate`] or [`BlockPool::grow`] (free blocks first,
//! then the least recently used cached one, whose hash is forgotten) → hashed by
//! [`BlockPool::commit`] once all its tokens are computed → shared by later tables with the same
//! leading tokens → returned by [`BlockPool::shrink`] if it was taken for tokens that did not come,
//! or by [`BlockPool::release`], which makes it cached, or free if it was
//! never hashed.
//!
//! A table cannot be copied and is consumed when it is returned, so no block is returned twice.
//! Only full blocks are hashed, so a block that is still written to is never shared.
#![forbid(unsafe_code)]

mod hash;
mod lru;
mod pool;
mod table;

#[cfg(test)]
mod model_test;

pub use hash::{BlockHash, HashChain};
pub use pool::{BlockPool, OutOfBlocks};
pub use table::BlockTable;
