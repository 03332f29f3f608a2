//! CPU kernels and the worker pool: the only crate with unsafe code
