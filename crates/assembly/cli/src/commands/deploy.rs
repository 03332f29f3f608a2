//! `tyndall deploy`.

use crate::args::DeployArgs;
use crate::commands::admin::Admin;
use crate::commands::files;
use crate::failure::Failure;
use crate::output::print;
use std::collections::BTreeMap;
use std::path::Path;
use tyndall_config::Environment;

pub(crate) fn deploy(args: &DeployArgs, env: &Environment) -> Result<(), Failure> {
    let path = Path::new(&args.source);
    if !files::is_application_source(path) {
        let source = &args.source;
        let failure = Failure::new(format!("{source:?} is no config file and no program"));
        return Err(failure.with_cure(
            "name a .yaml or .json file, or an executable; a model is written as `model: NAME` in \
             a file",
        ));
    }
    let arguments = arguments(&args.arguments)?;
    let (text, file) = files::read_with(path, &arguments, args.name.as_deref())?;
    let config = file.typed().map_err(|problem| Failure::new(problem.to_string()))?;
    let names: Vec<String> =
        config.applications.iter().map(|application| application.name.to_string()).collect();
    if config.http.has_listener() {
        print("host and port are those of the running server; they are not changed\n")?;
    }
    let admin = Admin::new(&args.admin, env)?;
    admin.carry_out(|client| async move { files::submit(&client, text).await })?;
    print(
        "Sent deploy request successfully.\n\
         * Use `tyndall status` to check the applications' statuses.\n\
         * Use `tyndall config` to see what is deployed.\n",
    )?;
    if !args.wait {
        return Ok(());
    }
    let failed = admin.carry_out_within(None, |client| async move {
        files::wait_until_deployed(&client, &names, print).await
    })?;
    if failed.is_empty() { Ok(()) } else { Err(Failure::from_text(&failed.join("\n"))) }
}

/// `key=value` pairs; values stay texts, and only the first `=` splits.
fn arguments(pairs: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let pair = |pair: &String| match pair.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err(Failure::new(format!(
            "Invalid application argument {pair:?}, must be of the form '<key>=<val>'."
        ))),
    };
    pairs.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_pairs() {
        let parse =
            |pairs: &[&str]| arguments(&pairs.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(parse(&["a=1", "b=x=y"]).unwrap()["b"], "x=y");
        for bad in ["a", "a=", "=1"] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }
}
