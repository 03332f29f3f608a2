//! How a command fails: one line of cause, one of cure, an exit code.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use tyndall_bench::BenchError;
use tyndall_config::ConfigError;
use tyndall_hub::HubError;
use tyndall_model::{PlanError, SpecError};
use tyndall_transport::ClientError;
use tyndall_types::with_causes;

const ERROR: u8 = 1;
const USAGE: u8 = 2;

/// A command's end that is no success.
#[derive(Debug)]
pub(crate) struct Failure {
    cause: String,
    cure: Option<String>,
    code: u8,
}

impl Failure {
    pub(crate) fn new(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), cure: None, code: ERROR }
    }

    pub(crate) fn with_cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    /// Says before the cause what it is about.
    pub(crate) fn with_context(mut self, context: &str) -> Self {
        self.cause = format!("{context}: {}", self.cause);
        self
    }

    /// From a message that may end in `; what to do`.
    pub(crate) fn from_text(text: &str) -> Self {
        match text.split_once("; ") {
            // What has lines of its own, such as a traceback, is told as it is.
            Some((cause, cure)) if !text.contains('\n') => Self::new(cause).with_cure(cure),
            _ => Self::new(text),
        }
    }

    /// From an error whose message may end in `; what to do`.
    pub(crate) fn of(error: &dyn Error) -> Self {
        let mut failure = Self::from_text(&error.to_string());
        failure.cause = with_causes(failure.cause, error);
        failure
    }

    /// A failure that was told already: only the exit code remains.
    pub(crate) fn told() -> Self {
        Self::new("")
    }

    /// Says it where the program that started this one reads.
    pub(crate) fn tell_owner(self) -> Result<ExitCode, Self> {
        let cure = self.cure.iter().map(|cure| format!("help: {cure}\n")).collect::<String>();
        let said = format!("error: {}\n{cure}", self.cause);
        drop(std::io::stdout().lock().write_all(said.as_bytes()));
        Ok(ExitCode::from(self.code))
    }

    pub(crate) fn report(&self) -> ExitCode {
        if self.cause.is_empty() {
            return ExitCode::from(self.code);
        }
        let mut stderr = std::io::stderr().lock();
        // With standard error closed, the exit code is all that can be said.
        drop(writeln!(stderr, "error: {}", self.cause));
        if let Some(cure) = &self.cure {
            drop(writeln!(stderr, "help: {cure}"));
        }
        ExitCode::from(self.code)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let cure = error.cure().map(str::to_owned);
        Self { cause: error.to_string(), cure, code: USAGE }
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        let cure = error.cure();
        Self { cause: with_causes(error.to_string(), &error), cure, code: ERROR }
    }
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        let cure = error.cure().map(str::to_owned);
        Self { cause: error.to_string(), cure, code: ERROR }
    }
}

impl From<SpecError> for Failure {
    fn from(error: SpecError) -> Self {
        Self::of(&error)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        Self::of(&error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Status { status, body, .. } => {
                Self::from_text(&refusal(status.as_u16(), &body))
            }
            error => Self::of(&error),
        }
    }
}

/// What the server says of a request that it refused; its words are `cause; cure`.
fn refusal(status: u16, body: &str) -> String {
    match body.trim() {
        "" => format!("the server answered {status}"),
        said if status < 500 => said.to_owned(),
        said => format!("the server answered {status}: {said}"),
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::of(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_and_cure_are_told_apart() {
        #[derive(Debug, thiserror::Error)]
        #[error("the pot is empty; brew some tea")]
        struct Outer(#[source] std::io::Error);
        let failure = Failure::of(&Outer(std::io::Error::other("no leaves")));
        assert_eq!(failure.cause, "the pot is empty: no leaves");
        assert_eq!(failure.cure.as_deref(), Some("brew some tea"));
    }

    #[test]
    fn refusals_are_told() {
        assert_eq!(refusal(404, "no m; there is n\n"), "no m; there is n");
        assert_eq!(refusal(500, ""), "the server answered 500");
        assert_eq!(refusal(500, "oops"), "the server answered 500: oops");
    }
}
