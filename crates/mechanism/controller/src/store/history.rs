//! What was: versions, events, usage.

use super::{Store, StoreError, from_ms, ms};
use rusqlite::{Transaction, params};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tyndall_types::protocol::ApplicationConfig;
use tyndall_types::{ApplicationName, DeploymentId};

/// Events that are kept, over all applications.
pub(super) const MAX_EVENTS: i64 = 10_000;
/// Days of which usage is kept.
pub(crate) const MAX_DAYS: u64 = 400;
pub(super) const DAY_S: u64 = 24 * 3600;

/// A version of an application.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredVersion {
    /// Its number.
    pub version: u64,
    /// What it was.
    pub config: ApplicationConfig,
    /// When it was deployed.
    pub deployed_at: Duration,
    /// Every deployment of it had a replica that took requests.
    pub is_proven: bool,
    /// Where it came from, if not from a submission.
    pub note: String,
}

/// Something that happened, as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredEvent {
    /// Grows with each event.
    pub id: i64,
    /// When, since the Unix epoch, in milliseconds.
    pub at_ms: i64,
    /// To which application.
    pub application: String,
    /// To which of its deployments; empty for all of it.
    pub deployment: String,
    /// What kind of event, such as `scaled`.
    pub kind: String,
    /// In words.
    pub message: String,
}

/// What a deployment took on one day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Days since the Unix epoch.
    pub day: u64,
    /// Whose.
    pub application: String,
    /// Which of it.
    pub deployment: String,
    /// Times that it woke from zero replicas.
    pub wakes: u64,
    /// Seconds of life of replicas that ended on that day.
    pub replica_seconds: f64,
}

/// Something to keep of what happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record {
    /// See [`StoredEvent`].
    Event {
        at: Duration,
        application: String,
        deployment: String,
        kind: &'static str,
        message: String,
    },
    /// Adds to the [`Usage`] of that day.
    Use { at: Duration, id: DeploymentId, wakes: u64, replica_seconds: f64 },
}

impl Store {
    /// The versions of an application that are still known, newest first. Those that this release
    /// cannot read are left out.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn versions(&self, name: &ApplicationName) -> Result<Vec<StoredVersion>, StoreError> {
        let rows = self.rows(
            "SELECT version, config, deployed_at_ms, is_proven, note FROM application_versions \
             WHERE application = ?1 ORDER BY version DESC",
            [name.as_str()],
            |row| {
                let config = serde_json::from_str(&row.get::<_, String>(1)?).ok();
                Ok(config.map(|config| StoredVersion {
                    version: row.get(0).unwrap_or_default(),
                    config,
                    deployed_at: from_ms(row.get(2).unwrap_or_default()),
                    is_proven: row.get(3).unwrap_or_default(),
                    note: row.get(4).unwrap_or_default(),
                }))
            },
        )?;
        Ok(rows.into_iter().flatten().collect())
    }

    /// Keeps what happened, in one transaction; the oldest go when there is too much.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`]; nothing is kept then.
    pub(crate) fn keep(&mut self, records: &[Record]) -> Result<(), StoreError> {
        self.change(|change| {
            let mut newest_day = None;
            let mut newest_event = None;
            for record in records {
                match record {
                    Record::Event { at, application, deployment, kind, message } => {
                        let mut insert = change.prepare_cached(
                            "INSERT INTO application_events \
                             (at_ms, application, deployment, kind, message) \
                             VALUES (?1, ?2, ?3, ?4, ?5)",
                        )?;
                        insert.execute(params![ms(*at), application, deployment, kind, message])?;
                        newest_event = Some(change.last_insert_rowid());
                    }
                    Record::Use { at, id, wakes, replica_seconds } => {
                        let day = at.as_secs() / DAY_S;
                        use_up(change, day, id, *wakes, *replica_seconds)?;
                        newest_day = newest_day.max(Some(day));
                    }
                }
            }
            if let Some(newest) = newest_event {
                let sql = "DELETE FROM application_events WHERE id <= ?1";
                change.execute(sql, [newest - MAX_EVENTS])?;
            }
            if let Some(day) = newest_day {
                // As a bound of the key, or each wake would read the whole table.
                let sql = "DELETE FROM usage WHERE day < ?1";
                change.execute(sql, [day.saturating_sub(MAX_DAYS)])?;
            }
            Ok(())
        })
    }

    /// The newest events, oldest first: those after `after`, of one application where it is named.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn events(
        &self,
        application: Option<&str>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.rows(
            "SELECT id, at_ms, application, deployment, kind, message FROM \
             (SELECT * FROM application_events WHERE id > ?1 AND (?2 IS NULL OR application = ?2) \
              ORDER BY id DESC LIMIT ?3) ORDER BY id",
            params![after, application, limit],
            |row| {
                Ok(StoredEvent {
                    id: row.get(0)?,
                    at_ms: row.get(1)?,
                    application: row.get(2)?,
                    deployment: row.get(3)?,
                    kind: row.get(4)?,
                    message: row.get(5)?,
                })
            },
        )
    }

    /// What deployments took, by day.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn usage(&self) -> Result<Vec<Usage>, StoreError> {
        self.rows(
            "SELECT day, application, deployment, wakes, replica_seconds FROM usage \
             ORDER BY day, application, deployment",
            [],
            |row| {
                Ok(Usage {
                    day: row.get(0)?,
                    application: row.get(1)?,
                    deployment: row.get(2)?,
                    wakes: row.get(3)?,
                    replica_seconds: row.get(4)?,
                })
            },
        )
    }
}

/// Adds to what a deployment took on a day.
fn use_up(
    change: &Transaction<'_>,
    day: u64,
    id: &DeploymentId,
    wakes: u64,
    replica_seconds: f64,
) -> rusqlite::Result<()> {
    let mut add = change.prepare_cached(
        "INSERT INTO usage (day, application, deployment, wakes, replica_seconds) \
         VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (day, application, deployment) \
         DO UPDATE SET wakes = wakes + excluded.wakes, \
         replica_seconds = replica_seconds + excluded.replica_seconds",
    )?;
    let (application, deployment) = (id.application.as_str(), id.deployment.as_str());
    add.execute(params![day, application, deployment, wakes, replica_seconds])?;
    Ok(())
}
