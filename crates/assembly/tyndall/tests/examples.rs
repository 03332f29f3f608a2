//! The examples' own tests, in local testing mode; `replica.rs` has them as processes.

#[expect(dead_code, reason = "its main function")]
#[path = "../examples/search.rs"]
mod search;
