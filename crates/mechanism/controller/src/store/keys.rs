//! What API keys used, by day.

use super::history::{DAY_S, MAX_DAYS};
use super::{Store, StoreError, set};
use rusqlite::params;
use std::time::Duration;
use tyndall_types::protocol::{KeyUsage, KeyUsageOfDay, KeyUsageReport};

impl Store {
    /// Adds what keys used to the day of `at`. A batch that was kept before is not added again,
    /// which the same transaction notes.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is kept then.
    pub fn keep_key_usage(
        &mut self,
        proxy: &str,
        report: &KeyUsageReport,
        at: Duration,
    ) -> Result<(), StoreError> {
        let last = format!("key_usage_batch:{proxy}");
        let batch = format!("{}:{}", report.instance, report.batch);
        if self.setting(&last)?.as_ref() == Some(&batch) {
            return Ok(());
        }
        let day = at.as_secs() / DAY_S;
        self.change(|change| {
            let mut add = change.prepare_cached(
                "INSERT INTO key_usage (day, name, requests, refused, prompt_tokens, \
                 cached_tokens, completion_tokens) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
                 ON CONFLICT (day, name) DO UPDATE SET requests = requests + excluded.requests, \
                 refused = refused + excluded.refused, \
                 prompt_tokens = prompt_tokens + excluded.prompt_tokens, \
                 cached_tokens = cached_tokens + excluded.cached_tokens, \
                 completion_tokens = completion_tokens + excluded.completion_tokens",
            )?;
            for key in &report.keys {
                let KeyUsage { name, requests, refused, .. } = key;
                let KeyUsage { prompt_tokens, cached_tokens, completion_tokens, .. } = key;
                add.execute(params![
                    day,
                    name,
                    requests,
                    refused,
                    prompt_tokens,
                    cached_tokens,
                    completion_tokens
                ])?;
            }
            let sql = "DELETE FROM key_usage WHERE day < ?1";
            change.execute(sql, [day.saturating_sub(MAX_DAYS)])?;
            set(change, &last, Some(batch))
        })
    }

    /// What keys used on the day of `now` and those before it, so many together; the oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn key_usage(
        &self,
        num_days: u64,
        now: Duration,
    ) -> Result<Vec<KeyUsageOfDay>, StoreError> {
        let today = now.as_secs() / DAY_S;
        self.rows(
            "SELECT day, name, requests, refused, prompt_tokens, cached_tokens, completion_tokens \
             FROM key_usage WHERE day > ?1 ORDER BY day, name",
            // As signed numbers: fewer days have passed than may be asked for.
            [today as i64 - num_days as i64],
            |row| {
                Ok(KeyUsageOfDay {
                    day: row.get(0)?,
                    usage: KeyUsage {
                        name: row.get(1)?,
                        requests: row.get(2)?,
                        refused: row.get(3)?,
                        prompt_tokens: row.get(4)?,
                        cached_tokens: row.get(5)?,
                        completion_tokens: row.get(6)?,
                    },
                })
            },
        )
    }
}
