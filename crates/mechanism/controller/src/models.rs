//! Applications of models that a program asks for one by one, as `serve.run` does. They bring no
//! code: they are built like those of a config file, and belong to none.

use crate::code;
use crate::service::Service;
use crate::submissions::Refusal;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value};
use tyndall_config::file::ApplicationKind;
use tyndall_types::ApplicationName;
use tyndall_types::protocol::ApplicationSource;

/// What the admin API takes where there is no code.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelsSubmission {
    /// An application of a config file, without its name.
    pub(crate) application: Map<String, Value>,
}

impl ModelsSubmission {
    /// None where a body has more, which is code.
    pub(crate) fn of(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

impl Service {
    /// Begins to build an application of models; others are not touched.
    pub(crate) fn deploy_models(
        &mut self,
        name: ApplicationName,
        submission: ModelsSubmission,
    ) -> Result<(), Refusal> {
        let spec = code::spec(&name, submission.application)?;
        if !matches!(spec.kind, ApplicationKind::Models(_)) {
            let why = "an application without code is one of models; write model:, or an import_path \
                       of tyndall.llm:build_openai_app with args";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, why));
        }
        self.check_place(&name, spec.route_prefix.as_deref(), |other| !other.is_models)?;
        self.build_from(ApplicationSource::Imperative, name, spec.submitted, None);
        Ok(())
    }
}
