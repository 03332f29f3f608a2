//! Cuts checked calls into tasks for the pool.

mod attention;
mod linear;
mod rows;

pub(crate) use attention::{Task, attention};
pub(crate) use linear::{Plan, gated_linear, linear};
pub(crate) use rows::{Elements, activation, add, embed, gate, norm, rope, store_kv};

use crate::pool::Pool;
use crate::table::Kernels;

/// What every driver needs.
#[derive(Clone, Copy)]
pub(crate) struct Machine<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) kernels: &'static Kernels,
}
