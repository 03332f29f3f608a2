//! `tyndall controller-health`.

use crate::args::HealthArgs;
use crate::commands::admin::Admin;
use crate::commands::yaml;
use crate::failure::Failure;
use crate::output::print;
use serde_json::Value;
use tyndall_config::Environment;

const PATH: &str = "/api/tyndall/controller-health";

pub(crate) fn health(args: &HealthArgs, env: &Environment) -> Result<(), Failure> {
    let admin = Admin::new(&args.admin, env)?;
    let metrics: Value = admin.ask(|client| async move { client.get(PATH).await })?;
    print(&if args.json { format!("{metrics:#}\n") } else { yaml::document(&metrics) })
}
