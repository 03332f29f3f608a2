//! What API keys used, as proxies tell.

use serde::{Deserialize, Serialize};

/// What keys used since the batch before, at one proxy process.
///
/// A batch is sent until it was taken, and counted once however often it comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyUsageReport {
    /// Another one for each process.
    pub instance: String,
    /// Counts the batches of a process, from 1 on.
    pub batch: u64,
    /// Every key that was used.
    pub keys: Vec<KeyUsage>,
}

/// What one key used.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeyUsage {
    /// Its name.
    pub name: String,
    /// Requests that were taken.
    pub requests: u64,
    /// Requests that were refused: beyond a limit of the key, or for a model that it may not use.
    pub refused: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Of those, the ones that were found in the prefix cache.
    pub cached_tokens: u64,
    /// Tokens of completions.
    pub completion_tokens: u64,
}

/// What one key used on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyUsageOfDay {
    /// Days since the Unix epoch, in UTC.
    pub day: u64,
    /// What it used.
    #[serde(flatten)]
    pub usage: KeyUsage,
}
