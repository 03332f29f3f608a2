//! Who sends a request, as far as it matters.

use crate::access::Holder;
use crate::grant::Grant;
use crate::shared::model_id;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::sync::Arc;
use tyndall_api_keys::{Key, Window, go_duration};
use tyndall_openai::ApiError;
use tyndall_router::{Deployment, Flow};

/// The headers of one limit: of a minute, what is left, when all is there again.
type Names = [HeaderName; 3];

const REQUESTS: Names = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: Names = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// Whose key a request was sent with. By default anybody's, where no key is wanted.
#[derive(Debug, Default)]
pub(crate) struct Caller {
    holder: Option<Arc<Holder>>,
    /// What its limits gave for the request.
    grant: Option<Grant>,
}

impl Caller {
    pub(crate) fn new(holder: Arc<Holder>, grant: Option<Grant>) -> Self {
        Self { holder: Some(holder), grant }
    }

    fn key(&self) -> Option<&Key> {
        self.holder.as_ref().map(|holder| &holder.key)
    }

    /// The name of its key; empty where no key is wanted.
    pub(crate) fn name(&self) -> &str {
        self.key().map_or("", |key| key.name.as_str())
    }

    /// Whether it may use the model of a deployment.
    pub(crate) fn may_use(&self, deployment: &Deployment) -> bool {
        let Some(key) = self.key().filter(|key| key.models.is_some()) else { return true };
        model_id(deployment).is_some_and(|id| key.may_use(&id))
    }

    /// Whether it may use a model, or an application that is a program, of this name.
    pub(crate) fn may_use_named(&self, name: &str) -> bool {
        self.key().is_none_or(|key| key.may_use(name))
    }

    /// It may not use what it asked for.
    pub(crate) fn forbidden(&self, model: &str) -> ApiError {
        // Of what is only looked at, nothing is counted.
        self.grant.iter().for_each(Grant::is_refused);
        ApiError::forbidden_model(self.name(), model)
    }

    /// Whose it is where requests wait.
    pub(crate) fn flow(&self) -> Flow {
        self.grant.as_ref().map(Grant::flow).unwrap_or_default()
    }

    pub(crate) fn into_grant(self) -> Option<Grant> {
        self.grant
    }
}

/// Tells in OpenAI's headers what is left of the limits that a key has.
pub(crate) fn tell_limits(holder: &Holder, headers: &mut HeaderMap) {
    let windows = holder.windows();
    for (names, window) in [(REQUESTS, windows.requests), (TOKENS, windows.tokens)] {
        if let Some(Window { limit, remaining, reset }) = window {
            let [limit_name, remaining_name, reset_name] = names;
            headers.insert(limit_name, limit.into());
            headers.insert(remaining_name, remaining.into());
            let reset = HeaderValue::from_str(&go_duration(reset));
            headers.insert(reset_name, reset.expect("a duration is a header value"));
        }
    }
}
