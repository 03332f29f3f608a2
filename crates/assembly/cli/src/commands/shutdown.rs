//! `tyndall shutdown`.

use crate::args::AdminArgs;
use crate::commands::admin::Admin;
use crate::failure::Failure;
use crate::output::print;
use tyndall_config::Environment;

pub(crate) fn shutdown(args: &AdminArgs, env: &Environment) -> Result<(), Failure> {
    let admin = Admin::new(args, env)?;
    admin
        .ask(|client| async move { client.tell(http::Method::POST, "/api/shutdown", &()).await })?;
    print("shutting down: running requests are finished first\n")
}
