//! When replicas come and go: Ray's `autoscaling_config`.

use super::resolve::{at_least, check, positive};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use tyndall_types::protocol::{Aggregation, AutoscalingConfig, ScalingPolicy};

/// When replicas come and go, by Ray Serve's names; what is absent has Ray's default.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AutoscalingOptions {
    /// Never fewer; 0 lets the last one go when idle. By default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<u32>,
    /// At the first deploy, from `min_replicas` to `max_replicas`. By default `min_replicas`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_replicas: Option<u32>,
    /// Never more, at least 1. By default 1, and 100 with `num_replicas` auto.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<u32>,
    /// Ongoing and queued requests per replica, above 0. By default 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ongoing_requests: Option<f64>,
    /// Accepted and without effect: counts are pushed at every change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_interval_s: Option<f64>,
    /// The load is taken over so many seconds, above 0. By default 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub look_back_period_s: Option<f64>,
    /// Seconds that more load must last, at least 0. By default 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upscale_delay_s: Option<f64>,
    /// Seconds that less load must last, at least 0. By default 600.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downscale_delay_s: Option<f64>,
    /// Seconds without a request before the last replica goes, at least 0. By default
    /// `downscale_delay_s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downscale_to_zero_delay_s: Option<f64>,
    /// Share of the way up per decision, above 0. By default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upscaling_factor: Option<f64>,
    /// Share of the way down per decision, above 0. By default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downscaling_factor: Option<f64>,
    /// What of the look-back period counts. By default the mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregation_function: Option<Aggregation>,
    /// What is aimed at. By default `target_ongoing_requests`.
    #[serde(skip_serializing_if = "Option::is_none", with = "super::policy")]
    pub policy: Option<ScalingPolicy>,
}

impl AutoscalingOptions {
    /// Every default filled in. `default_max` is 1, and 100 with `num_replicas` auto.
    pub(super) fn resolve(&self, default_max: u32) -> Result<AutoscalingConfig> {
        let min = self.min_replicas.unwrap_or(1);
        let max = self.max_replicas.unwrap_or(default_max);
        check(max > 0, || "max_replicas must be at least 1; set it, or leave it out".to_owned())?;
        check(min <= max, || {
            format!("max_replicas ({max}) is below min_replicas ({min}); raise it to {min} or more")
        })?;
        if let Some(initial) = self.initial_replicas
            && !(min..=max).contains(&initial)
        {
            return Err(Error::options(format!(
                "initial_replicas ({initial}) lies outside min_replicas ({min}) to max_replicas \
                 ({max}); choose one between them"
            )));
        }
        let downscale_delay_s = at_least(0.0, "downscale_delay_s", self.downscale_delay_s, 600.0)?;
        let to_zero = self.downscale_to_zero_delay_s;
        positive("metrics_interval_s", self.metrics_interval_s, 10.0)?;
        Ok(AutoscalingConfig {
            min_replicas: min,
            initial_replicas: self.initial_replicas,
            max_replicas: max,
            target_ongoing_requests: positive(
                "target_ongoing_requests",
                self.target_ongoing_requests,
                2.0,
            )?,
            look_back_period_s: positive("look_back_period_s", self.look_back_period_s, 30.0)?,
            aggregation_function: self.aggregation_function.unwrap_or_default(),
            upscale_delay_s: at_least(0.0, "upscale_delay_s", self.upscale_delay_s, 30.0)?,
            downscale_delay_s,
            downscale_to_zero_delay_s: at_least(
                0.0,
                "downscale_to_zero_delay_s",
                to_zero,
                downscale_delay_s,
            )?,
            upscaling_factor: positive("upscaling_factor", self.upscaling_factor, 1.0)?,
            downscaling_factor: positive("downscaling_factor", self.downscaling_factor, 1.0)?,
            policy: self.policy.unwrap_or_default(),
            python_policy: None,
        })
    }
}
