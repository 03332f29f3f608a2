//! Whole messages of each family: what they mean, and that no cut changes it.

mod chunking;
mod meaning;
mod support;
mod transcripts;
