//! `state.db`: what is deployed, its history, and what happened. SQLite, one writer.
//!
//! The file is held exclusively while it is open; the lock goes with the process, however it ends.

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tyndall_types::DeploymentName;
use tyndall_types::protocol::DeploymentConfig;

const SCHEMA_VERSION: i64 = 1;
/// Events that are kept, over all deployments.
const MAX_EVENTS: i64 = 10_000;
/// Versions that are kept of each deployment.
const MAX_VERSIONS: i64 = 50;
/// How long another process may take to let go of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS deployments (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        version INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS versions (
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        config TEXT NOT NULL,
        deployed_at_ms INTEGER NOT NULL,
        PRIMARY KEY (name, version)
    );
    CREATE TABLE IF NOT EXISTS events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at_ms INTEGER NOT NULL,
        deployment TEXT NOT NULL,
        kind TEXT NOT NULL,
        message TEXT NOT NULL
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
    /// SQLite failed: the file is broken, or the disk is full or read-only.
    #[error("failed to use {path}: {source}; move the file away to start afresh")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
}

/// Something that happened, as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// When, since the Unix epoch, in milliseconds.
    pub at_ms: i64,
    /// To which deployment.
    pub deployment: String,
    /// What kind of event, such as `scaled`.
    pub kind: String,
    /// In words.
    pub message: String,
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

    /// Keeps a configuration as the newest version of its deployment; one that is the newest
    /// already is not kept twice.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`]; nothing is changed then.
    pub fn deploy(&mut self, config: &DeploymentConfig, at: Duration) -> Result<(), StoreError> {
        let json = serde_json::to_string(config).expect("wire types have string keys only");
        let name = config.name.as_str();
        self.change(|change| {
            let newest = "SELECT v.version, v.config, d.version FROM versions v \
                          LEFT JOIN deployments d ON d.name = v.name AND d.version = v.version \
                          WHERE v.name = ?1 ORDER BY v.version DESC LIMIT 1";
            let row = |row: &rusqlite::Row<'_>| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, Option<i64>>(2)?))
            };
            let newest = change.query_row(newest, [name], row).optional()?;
            let version = match newest {
                Some((_, known, Some(_))) if known == json => return Ok(()),
                Some((version, _, _)) => version + 1,
                None => 1,
            };
            change.execute(
                "INSERT INTO versions (name, version, config, deployed_at_ms) \
                 VALUES (?1, ?2, ?3, ?4)",
                params![name, version, json, ms(at)],
            )?;
            change.execute(
                "INSERT INTO deployments (name, version) VALUES (?1, ?2) \
                 ON CONFLICT (name) DO UPDATE SET version = excluded.version",
                params![name, version],
            )?;
            change.execute(
                "DELETE FROM versions WHERE name = ?1 AND version <= ?2",
                params![name, version - MAX_VERSIONS],
            )?;
            Ok(())
        })
    }

    /// Forgets that a deployment is wanted; its versions stay.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`]; nothing is changed then.
    pub fn delete(&mut self, name: &DeploymentName) -> Result<(), StoreError> {
        self.change(|change| {
            change.execute("DELETE FROM deployments WHERE name = ?1", [name.as_str()])?;
            Ok(())
        })
    }

    /// What is wanted, in the order it was first deployed, and when it was last. Entries that this
    /// release cannot read are logged and left out.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn deployments(&self) -> Result<Vec<(DeploymentConfig, Duration)>, StoreError> {
        let rows = self.rows(
            "SELECT v.config, v.deployed_at_ms, v.name FROM deployments d \
             JOIN versions v ON v.name = d.name AND v.version = d.version ORDER BY d.position",
            |row| {
                let (json, at_ms): (String, i64) = (row.get(0)?, row.get(1)?);
                Ok((json, at_ms, row.get::<_, String>(2)?))
            },
        )?;
        let parse = |(json, at_ms, name): (String, i64, String)| {
            let config = serde_json::from_str(&json).inspect_err(|error| {
                tracing::error!(deployment = name, %error, "failed to read; deploy it again");
            });
            let at = Duration::from_millis(u64::try_from(at_ms).unwrap_or_default());
            Some((config.ok()?, at))
        };
        Ok(rows.into_iter().filter_map(parse).collect())
    }

    /// Records an event; the oldest go when there are too many.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn record(
        &mut self,
        at: Duration,
        deployment: &DeploymentName,
        kind: &str,
        message: &str,
    ) -> Result<(), StoreError> {
        self.change(|change| {
            change.execute(
                "INSERT INTO events (at_ms, deployment, kind, message) VALUES (?1, ?2, ?3, ?4)",
                params![ms(at), deployment.as_str(), kind, message],
            )?;
            let newest = change.last_insert_rowid();
            change.execute("DELETE FROM events WHERE id <= ?1", [newest - MAX_EVENTS])?;
            Ok(())
        })
    }

    /// The newest events, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn events(&self, limit: u32) -> Result<Vec<StoredEvent>, StoreError> {
        let sql = format!(
            "SELECT at_ms, deployment, kind, message FROM \
             (SELECT * FROM events ORDER BY id DESC LIMIT {limit}) ORDER BY id"
        );
        self.rows(&sql, |row| {
            Ok(StoredEvent {
                at_ms: row.get(0)?,
                deployment: row.get(1)?,
                kind: row.get(2)?,
                message: row.get(3)?,
            })
        })
    }

    fn rows<T>(
        &self,
        sql: &str,
        row: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_map([], row)?.collect())
            .map_err(|error| failed(&self.path, error))
    }

    fn change(
        &mut self,
        change: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), StoreError> {
        let path = &self.path;
        let run = |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            change(&transaction)?;
            transaction.commit()
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
    if found <= SCHEMA_VERSION {
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    }
    transaction.commit()?;
    Ok(found)
}

fn failed(path: &Path, error: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Locked { path },
        Some(_) | None => StoreError::Sqlite { path, source: error },
    }
}

fn ms(at: Duration) -> i64 {
    i64::try_from(at.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
