//! `tyndall bench`: what it measures is in `tyndall_bench`.

use crate::failure::Failure;
use crate::machine::available_memory_bytes;
use crate::output::print;
use tyndall_bench::{BenchArgs, Context};
use tyndall_config::Environment;

pub(crate) fn bench(args: &BenchArgs, env: &Environment) -> Result<(), Failure> {
    let command = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let context = Context {
        executable: std::env::current_exe()?,
        env: env.clone(),
        command: command.collect(),
        available_memory_bytes: available_memory_bytes().unwrap_or(0),
    };
    let outcome = tyndall_bench::run(args, &context)?;
    print(&outcome.text)?;
    if outcome.is_failure { Err(Failure::told()) } else { Ok(()) }
}
