//! `state.db`: what is deployed, its history, what happened and what was used. SQLite, one writer.
//!
//! The file is held exclusively while it is open; the lock goes with the process, however it ends.
//! Each change is one transaction, so that a crash at any instruction leaves the state before or
//! after it.
//!
//! A submission is kept before it is built ([`Store::submit`]), so that a controller that dies while
//! it builds does not lose it: the next one builds it again.

mod history;
mod keys;
mod migrate;
mod wanted;

pub(crate) use history::{MAX_DAYS, Record};
pub use history::{StoredEvent, StoredVersion, Usage};
pub use wanted::StoredApplication;

use rusqlite::{Connection, ErrorCode, params};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tyndall_control::CapacityDirection;
use tyndall_types::protocol::{ApplicationConfig, ApplicationSource, DeploymentConfig};
use tyndall_types::{ApplicationName, DeploymentId, DeploymentName};

const SCHEMA_VERSION: i64 = 3;
/// Versions that are kept of each application.
const MAX_VERSIONS: u64 = 50;
/// How long another process may take to let go of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// Keys of settings.
const CAPACITY: &str = "target_capacity";
const DIRECTION: &str = "target_capacity_direction";
const SHARED: &str = "shared";

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS applications (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        source TEXT NOT NULL,
        version INTEGER,
        submitted TEXT,
        submitted_at_ms INTEGER NOT NULL,
        failure TEXT
    );
    CREATE TABLE IF NOT EXISTS application_versions (
        application TEXT NOT NULL,
        version INTEGER NOT NULL,
        config TEXT NOT NULL,
        deployed_at_ms INTEGER NOT NULL,
        is_proven INTEGER NOT NULL DEFAULT 0,
        note TEXT NOT NULL DEFAULT '',
        PRIMARY KEY (application, version)
    );
    CREATE TABLE IF NOT EXISTS replica_counts (
        application TEXT NOT NULL,
        deployment TEXT NOT NULL,
        target INTEGER NOT NULL,
        PRIMARY KEY (application, deployment)
    );
    CREATE TABLE IF NOT EXISTS application_events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at_ms INTEGER NOT NULL,
        application TEXT NOT NULL,
        deployment TEXT NOT NULL,
        kind TEXT NOT NULL,
        message TEXT NOT NULL
    );
    CREATE TABLE IF NOT EXISTS usage (
        day INTEGER NOT NULL,
        application TEXT NOT NULL,
        deployment TEXT NOT NULL,
        wakes INTEGER NOT NULL DEFAULT 0,
        replica_seconds REAL NOT NULL DEFAULT 0,
        PRIMARY KEY (day, application, deployment)
    );
    CREATE TABLE IF NOT EXISTS key_usage (
        day INTEGER NOT NULL,
        name TEXT NOT NULL,
        requests INTEGER NOT NULL,
        refused INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        PRIMARY KEY (day, name)
    );
    CREATE TABLE IF NOT EXISTS settings (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL
    );
";

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("{path} is in use by another instance; stop that one or choose another --state-dir")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It was written by a newer release.
    #[error("{path} has format {found}, this release reads up to {known}; use the newer release")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest that is understood.
        known: i64,
    },
    /// The directory cannot be made.
    #[error("failed to create {path}; choose another --state-dir")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The disk is full.
    #[error("{path} cannot grow, the disk is full; free some space and try again")]
    Full {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// SQLite failed: the file is broken, or the disk is read-only.
    #[error("failed to use {path}: {source}; move the file away to start afresh")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
}

impl StoreError {
    /// The disk is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}

/// A whole config file.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission<'a> {
    /// What is to be built.
    pub applications: Vec<(&'a ApplicationName, &'a Value)>,
    /// What is not wanted any more.
    pub gone: &'a [ApplicationName],
    /// Percent of all replica counts, and which way it went.
    pub target_capacity: Option<(f64, Option<CapacityDirection>)>,
    /// What the file says of all applications.
    pub shared: &'a Value,
}

/// The open file.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
}

impl Store {
    /// Opens `state.db` in this directory, both made when missing.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Locked`] when another process has it open.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(directory)
            .map_err(|source| StoreError::Directory { path: directory.to_owned(), source })?;
        let path = directory.join("state.db");
        let opened = Connection::open(&path).and_then(|mut connection| {
            let found = prepare(&mut connection)?;
            Ok((connection, found))
        });
        match opened {
            Ok((_, found)) if found > SCHEMA_VERSION => {
                Err(StoreError::Newer { path, found, known: SCHEMA_VERSION })
            }
            Ok((connection, _)) => Ok(Self { connection, path }),
            Err(error) => Err(failed(&path, error)),
        }
    }

    /// Keeps a config file: its applications until they are built.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`]; nothing is changed then.
    pub fn submit(&mut self, submission: &Submission<'_>, at: Duration) -> Result<(), StoreError> {
        self.change(|change| {
            let (capacity, direction) = submission.target_capacity.unzip();
            set(change, CAPACITY, capacity.map(|percent| percent.to_string()))?;
            set(change, DIRECTION, direction.flatten().map(|way| json!(way).to_string()))?;
            set(change, SHARED, Some(submission.shared.to_string()))?;
            for (name, submitted) in &submission.applications {
                change.execute(
                    "INSERT INTO applications (name, source, submitted, submitted_at_ms) \
                     VALUES (?1, ?2, ?3, ?4) ON CONFLICT (name) DO UPDATE SET \
                     source = excluded.source, submitted = excluded.submitted, \
                     submitted_at_ms = excluded.submitted_at_ms, failure = NULL",
                    params![
                        name.as_str(),
                        ApplicationSource::Declarative.as_str(),
                        submitted.to_string(),
                        ms(at)
                    ],
                )?;
            }
            submission.gone.iter().try_for_each(|name| delete(change, name))
        })
    }

    /// Keeps a configuration as the newest version of its application, and returns its number; one
    /// that is the newest already is not kept twice. Nothing is pending then.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`]; nothing is changed then.
    pub fn deploy(
        &mut self,
        config: &ApplicationConfig,
        note: &str,
        at: Duration,
    ) -> Result<u64, StoreError> {
        let json = json(config);
        let name = config.name.as_str();
        self.change(|change| {
            let carried_out = "SELECT v.version FROM applications a JOIN application_versions v \
                               ON v.application = a.name AND v.version = a.version \
                               WHERE a.name = ?1 AND v.config = ?2";
            let same = first_number(change, carried_out, params![name, json])?;
            let newest = "SELECT max(version) FROM application_versions WHERE application = ?1";
            let newest = first_number(change, newest, params![name])?.unwrap_or(0);
            let version = same.unwrap_or(newest + 1);
            if same.is_none() {
                forget_counts(change, config)?;
                let mut insert = change.prepare_cached(
                    "INSERT INTO application_versions \
                     (application, version, config, deployed_at_ms, note) \
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?;
                insert.execute(params![name, version, json, ms(at), note])?;
            }
            let mut insert = change.prepare_cached(
                "INSERT INTO applications (name, source, version, submitted_at_ms) \
                 VALUES (?1, ?2, ?3, ?4) ON CONFLICT (name) DO UPDATE SET \
                 source = excluded.source, version = excluded.version, submitted = NULL, \
                 failure = NULL",
            )?;
            insert.execute(params![name, config.source.as_str(), version, ms(at)])?;
            let mut forget = change.prepare_cached(
                "DELETE FROM application_versions WHERE application = ?1 AND version <= ?2 \
                 AND version NOT IN (SELECT max(version) FROM application_versions \
                                     WHERE application = ?1 AND is_proven)",
            )?;
            forget.execute(params![name, version.saturating_sub(MAX_VERSIONS)])?;
            Ok(version)
        })
    }

    /// The newest submission cannot be built: it is not tried again.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`]; nothing is changed then.
    pub fn give_up(&mut self, name: &ApplicationName, reason: &str) -> Result<(), StoreError> {
        self.change(|change| {
            let sql = "UPDATE applications SET submitted = NULL, failure = ?2 WHERE name = ?1";
            change.execute(sql, [name.as_str(), reason])?;
            Ok(())
        })
    }

    /// Keeps the number of replicas that somebody wants of a deployment; the next change of the
    /// deployment forgets it.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`]; nothing is changed then.
    pub fn scale(&mut self, id: &DeploymentId, target: u32) -> Result<(), StoreError> {
        self.change(|change| {
            change.execute(
                "INSERT OR REPLACE INTO replica_counts (application, deployment, target) \
                 VALUES (?1, ?2, ?3)",
                params![id.application.as_str(), id.deployment.as_str(), target],
            )?;
            Ok(())
        })
    }

    /// Notes that a version proved itself.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`]; nothing is changed then.
    pub fn proven(&mut self, name: &ApplicationName, version: u64) -> Result<(), StoreError> {
        self.change(|change| {
            change.execute(
                "UPDATE application_versions SET is_proven = 1 \
                 WHERE application = ?1 AND version = ?2",
                params![name.as_str(), version],
            )?;
            Ok(())
        })
    }

    /// Forgets that an application is wanted; its versions stay.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`]; nothing is changed then.
    pub fn delete(&mut self, name: &ApplicationName) -> Result<(), StoreError> {
        self.change(|change| delete(change, name))
    }

    /// Goes back to all replicas.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`]; nothing is changed then.
    pub fn drop_target_capacity(&mut self) -> Result<(), StoreError> {
        self.change(|change| {
            [CAPACITY, DIRECTION].iter().try_for_each(|key| set(change, key, None))
        })
    }

    /// Percent of all replica counts, where it was set, and which way it went.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn target_capacity(&self) -> Result<Option<(f64, Option<CapacityDirection>)>, StoreError> {
        let percent = self.setting(CAPACITY)?.and_then(|value| value.parse().ok());
        let direction = self.setting(DIRECTION)?;
        let direction = direction.and_then(|json| serde_json::from_str(&json).ok());
        Ok(percent.map(|percent| (percent, direction)))
    }

    /// What the newest config file says of all its applications.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn shared(&self) -> Result<Value, StoreError> {
        let json = self.setting(SHARED)?;
        let shared = json.and_then(|json| serde_json::from_str(&json).ok());
        Ok(shared.unwrap_or_else(|| json!({})))
    }

    fn setting(&self, key: &str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT value FROM settings WHERE key = ?1";
        Ok(self.rows(sql, [key], |row| row.get(0))?.into_iter().next())
    }

    fn rows<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        row: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_map(params, row)?.collect())
            .map_err(|error| failed(&self.path, error))
    }

    fn change<T>(
        &mut self,
        change: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let path = &self.path;
        let run = |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            let changed = change(&transaction)?;
            transaction.commit()?;
            Ok(changed)
        };
        run(&mut self.connection).map_err(|error| failed(path, error))
    }
}

/// Takes the lock and makes the tables; the format that was found.
fn prepare(connection: &mut Connection) -> rusqlite::Result<i64> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Exclusive before WAL: then no shared memory file is needed, and the lock lasts.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "cache_size", -256)?;
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    // A file of this format is not written to before it is known to be readable.
    if found < SCHEMA_VERSION {
        transaction.execute_batch(SCHEMA)?;
        if found == 1 {
            migrate::from_1(&transaction)?;
        }
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    }
    transaction.commit()?;
    Ok(found)
}

fn failed(path: &Path, error: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Locked { path },
        Some(ErrorCode::DiskFull) => StoreError::Full { path, source: error },
        Some(_) | None => StoreError::Sqlite { path, source: error },
    }
}

fn set(
    change: &rusqlite::Transaction<'_>,
    key: &str,
    value: Option<String>,
) -> rusqlite::Result<()> {
    change.execute("DELETE FROM settings WHERE key = ?1", [key])?;
    if let Some(value) = value {
        let sql = "INSERT INTO settings (key, value) VALUES (?1, ?2)";
        change.execute(sql, params![key, value])?;
    }
    Ok(())
}

fn delete(change: &rusqlite::Transaction<'_>, name: &ApplicationName) -> rusqlite::Result<()> {
    change.execute("DELETE FROM applications WHERE name = ?1", [name.as_str()])?;
    change.execute("DELETE FROM replica_counts WHERE application = ?1", [name.as_str()])?;
    Ok(())
}

/// Forgets the numbers that somebody wanted of deployments that change now, as the control core
/// does.
fn forget_counts(
    change: &rusqlite::Transaction<'_>,
    config: &ApplicationConfig,
) -> rusqlite::Result<()> {
    let name = config.name.as_str();
    let counted = "SELECT count(*) FROM replica_counts WHERE application = ?1";
    if first_number(change, counted, [name])? == Some(0) {
        return Ok(());
    }
    let mut statement = change.prepare_cached(
        "SELECT v.config FROM applications a JOIN application_versions v \
         ON v.application = a.name AND v.version = a.version WHERE a.name = ?1",
    )?;
    let before = statement.query_map([name], |row| row.get::<_, String>(0))?.next().transpose()?;
    let before = before.and_then(|json| serde_json::from_str::<ApplicationConfig>(&json).ok());
    let before = before.map(|before| before.deployments).unwrap_or_default();
    let now: BTreeMap<&DeploymentName, &Arc<DeploymentConfig>> =
        config.deployments.iter().map(|one| (&one.id.deployment, one)).collect();
    for changed in before.iter().filter(|one| now.get(&one.id.deployment) != Some(one)) {
        let sql = "DELETE FROM replica_counts WHERE application = ?1 AND deployment = ?2";
        change.execute(sql, [name, changed.id.deployment.as_str()])?;
    }
    Ok(())
}

/// The first column of the first row, where there is one that is not null.
fn first_number(
    change: &rusqlite::Transaction<'_>,
    sql: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<Option<u64>> {
    let mut statement = change.prepare_cached(sql)?;
    let mut rows = statement.query_map(params, |row| row.get::<_, Option<u64>>(0))?;
    Ok(rows.next().transpose()?.flatten())
}

fn json(config: &ApplicationConfig) -> String {
    serde_json::to_string(config).expect("wire types have string keys only")
}

fn from_ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}

fn ms(at: Duration) -> i64 {
    i64::try_from(at.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
