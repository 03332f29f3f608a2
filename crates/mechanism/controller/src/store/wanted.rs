//! What is wanted, read once at the start.

use super::{Store, StoreError, from_ms};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tyndall_control::Fallback;
use tyndall_types::protocol::{ApplicationConfig, ApplicationSource};
use tyndall_types::{ApplicationName, DeploymentName};

/// An application as it was left.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredApplication {
    /// Its name.
    pub name: ApplicationName,
    /// By which way it came.
    pub source: ApplicationSource,
    /// What is carried out, its number, and since when.
    pub current: Option<(ApplicationConfig, u64, Duration)>,
    /// The newest version that proved itself.
    pub fallback: Option<Fallback>,
    /// A submission that was not built yet, and when it came.
    pub pending: Option<(Value, Duration)>,
    /// Why the newest submission could not be built, and when it came.
    pub failure: Option<(String, Duration)>,
    /// Numbers of replicas that somebody set after the last deploy.
    pub replica_counts: Vec<(DeploymentName, u32)>,
}

impl Store {
    /// What is wanted, in the order it was first deployed. Entries that this release cannot read
    /// are logged and left out.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn applications(&self) -> Result<Vec<StoredApplication>, StoreError> {
        let rows = self.rows(
            "SELECT a.name, a.source, a.version, v.config, v.deployed_at_ms, a.submitted, \
             a.submitted_at_ms, a.failure FROM applications a LEFT JOIN application_versions v \
             ON v.application = a.name AND v.version = a.version ORDER BY a.position",
            [],
            Row::read,
        )?;
        rows.into_iter().filter_map(|row| self.stored(row).transpose()).collect()
    }

    fn stored(&self, row: Row) -> Result<Option<StoredApplication>, StoreError> {
        let Ok(name) = ApplicationName::new(row.name.as_str()) else {
            tracing::error!(application = row.name, "has an unusable name; deploy it again");
            return Ok(None);
        };
        let current = row.config.and_then(|json| {
            let config = serde_json::from_str(&json).inspect_err(|error| {
                tracing::error!(application = %name, %error, "failed to read; deploy it again");
            });
            Some((config.ok()?, row.version?, from_ms(row.deployed_at_ms?)))
        });
        let submitted_at = from_ms(row.submitted_at_ms);
        let pending =
            row.submitted.and_then(|json| Some((serde_json::from_str(&json).ok()?, submitted_at)));
        let failure = row.failure.map(|reason| (reason, submitted_at));
        if current.is_none() && pending.is_none() && failure.is_none() {
            return Ok(None);
        }
        let source = match row.source.as_str() {
            "declarative" => ApplicationSource::Declarative,
            "imperative" => ApplicationSource::Imperative,
            _ => ApplicationSource::Unknown,
        };
        let fallback = match &current {
            Some((config, version, _)) => self.fallback(&name, *version, config)?,
            None => None,
        };
        let replica_counts = self.replica_counts(&name)?;
        let stored =
            StoredApplication { name, source, current, fallback, pending, failure, replica_counts };
        Ok(Some(stored))
    }

    /// The newest version of an application that proved itself. None where the current version is
    /// the same under a newer number that has not: going back to it once more would help nobody.
    fn fallback(
        &self,
        name: &ApplicationName,
        current: u64,
        config: &ApplicationConfig,
    ) -> Result<Option<Fallback>, StoreError> {
        let proven = self.rows(
            "SELECT version, config FROM application_versions \
             WHERE application = ?1 AND is_proven ORDER BY version DESC LIMIT 1",
            [name.as_str()],
            |row| Ok((row.get::<_, u64>(0)?, row.get::<_, String>(1)?)),
        )?;
        let proven = proven.into_iter().next().and_then(|(version, json)| {
            let config: ApplicationConfig = serde_json::from_str(&json).ok()?;
            Some(Fallback { version, config: Arc::new(config) })
        });
        Ok(proven.filter(|proven| proven.version == current || *proven.config != *config))
    }

    fn replica_counts(
        &self,
        name: &ApplicationName,
    ) -> Result<Vec<(DeploymentName, u32)>, StoreError> {
        let sql = "SELECT deployment, target FROM replica_counts WHERE application = ?1";
        let rows = self.rows(sql, [name.as_str()], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?))
        })?;
        let named = |(name, target)| Some((DeploymentName::new(name).ok()?, target));
        Ok(rows.into_iter().filter_map(named).collect())
    }
}

/// A row of [`Store::applications`].
struct Row {
    name: String,
    source: String,
    version: Option<u64>,
    config: Option<String>,
    deployed_at_ms: Option<i64>,
    submitted: Option<String>,
    submitted_at_ms: i64,
    failure: Option<String>,
}

impl Row {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            name: row.get(0)?,
            source: row.get(1)?,
            version: row.get(2)?,
            config: row.get(3)?,
            deployed_at_ms: row.get(4)?,
            submitted: row.get(5)?,
            submitted_at_ms: row.get(6)?,
            failure: row.get(7)?,
        })
    }
}
