//! State of the releases before.

use rusqlite::{Transaction, params};
use std::sync::Arc;
use tyndall_types::protocol::{ApplicationConfig, ApplicationSource, DeploymentConfig};

/// Format 1 had deployments, each an application of its own. Its tables stay as they are.
pub(super) fn from_1(change: &Transaction<'_>) -> rusqlite::Result<()> {
    let mut statement = change.prepare(
        "SELECT v.config, v.deployed_at_ms, v.version FROM deployments d JOIN versions v \
         ON v.name = d.name AND v.version = d.version ORDER BY d.position",
    )?;
    let rows = statement.query_map([], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
    })?;
    for row in rows {
        let (json, at_ms, version) = row?;
        let Ok(deployment) = serde_json::from_str::<DeploymentConfig>(&json) else {
            tracing::error!("failed to read a deployment of the release before; deploy it again");
            continue;
        };
        let config = ApplicationConfig {
            name: deployment.id.application.clone(),
            route_prefix: Some("/".to_owned()),
            source: ApplicationSource::Imperative,
            external_scaler_enabled: false,
            autoscaling_policy: None,
            submitted: Default::default(),
            deployments: vec![Arc::new(deployment)],
        };
        let name = config.name.as_str();
        change.execute(
            "INSERT INTO application_versions (application, version, config, deployed_at_ms) \
             VALUES (?1, ?2, ?3, ?4)",
            params![name, version, super::json(&config), at_ms],
        )?;
        change.execute(
            "INSERT INTO applications (name, source, version, submitted_at_ms) \
             VALUES (?1, ?2, ?3, ?4)",
            params![name, config.source.as_str(), version, at_ms],
        )?;
    }
    change.execute(
        "INSERT INTO application_events (at_ms, application, deployment, kind, message) \
         SELECT at_ms, deployment, deployment, kind, message FROM events ORDER BY id",
        [],
    )?;
    Ok(())
}
