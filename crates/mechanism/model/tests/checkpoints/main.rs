//! Whole checkpoints of every family: against the reference, against themselves, and broken.

mod bad_input;
mod common;
mod determinism;
mod encoder;
mod golden;
mod quantized;
