//! The one error that clients see, in the shapes of all dialects.

use serde_json::{Value, json};
use tyndall_structured_output::StructuredOutputError;

/// Why a request is not answered with text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// OpenAI's `type`.
    pub kind: &'static str,
    /// What is wrong, for the client: field, value, what is accepted or what to do.
    pub message: String,
    /// The field at fault.
    pub param: Option<String>,
}

impl ApiError {
    /// The body does not fit the schema: broken JSON or a wrong type.
    pub fn malformed(field: &str, message: impl Into<String>) -> Self {
        let param = if field.is_empty() { "body".to_owned() } else { format!("body.{field}") };
        Self { status: 400, kind: "Bad Request", message: message.into(), param: Some(param) }
    }

    /// A field has the right type and a value that is not accepted.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self {
            status: 400,
            kind: "BadRequestError",
            message: message.into(),
            param: Some(field.to_owned()),
        }
    }

    /// A field that is known and not carried out yet.
    #[must_use]
    pub fn unsupported(field: &str) -> Self {
        Self::invalid(field, format!("{field} is not supported yet; leave it out"))
    }

    /// What several fields ask for leaves nothing to answer with.
    pub fn impossible(message: impl Into<String>) -> Self {
        Self { status: 400, kind: "BadRequestError", message: message.into(), param: None }
    }

    /// What the text must be cannot be held to.
    #[must_use]
    pub fn structure(error: &StructuredOutputError) -> Self {
        Self::invalid("structured_outputs", error.to_string())
    }

    /// No deployment serves the model; names those there are and the one nearest in spelling.
    #[must_use]
    pub fn unknown_model<S: AsRef<str>>(asked: &str, known: &[S]) -> Self {
        let shown: String = asked.chars().take(100).collect();
        let mut message = if known.is_empty() {
            "no model is deployed; deploy one with `tyndall run MODEL`".to_owned()
        } else {
            format!("the model {shown:?} does not exist; this server has {}", listed(known))
        };
        if let Some(nearest) = nearest(&shown, known) {
            message.push_str(&format!("; did you mean {nearest}?"));
        }
        Self { status: 404, kind: "NotFoundError", message, param: Some("model".to_owned()) }
    }

    /// No answer with this id is kept.
    #[must_use]
    pub fn unknown_response(id: &str) -> Self {
        let shown: String = id.chars().take(100).collect();
        let message = format!(
            "the response {shown:?} is not kept here; send its items as input, and store: true to \
             have answers kept"
        );
        let param = Some("response_id".to_owned());
        Self { status: 404, kind: "NotFoundError", message, param }
    }

    /// The request names no model and there are several.
    #[must_use]
    pub fn missing_model<S: AsRef<str>>(known: &[S]) -> Self {
        Self::invalid("model", format!("model is missing; this server has {}", listed(known)))
    }

    /// The request brings no key that is known.
    #[must_use]
    pub fn unauthorized() -> Self {
        let message = "this server wants an API key that it knows; send it as Authorization: \
                       Bearer KEY or as x-api-key: KEY";
        Self { status: 401, kind: "AuthenticationError", message: message.into(), param: None }
    }

    /// The key may not use the model.
    #[must_use]
    pub fn forbidden_model(key: &str, model: &str) -> Self {
        let shown: String = model.chars().take(100).collect();
        let message = format!(
            "the key {key} may not use the model {shown:?}; use another model or another key"
        );
        let param = Some("model".to_owned());
        Self { status: 403, kind: "PermissionDeniedError", message, param }
    }

    /// The caller sent too much; the same request succeeds later.
    pub fn rate_limited(message: impl Into<String>) -> Self {
        Self { status: 429, kind: "RateLimitError", message: message.into(), param: None }
    }

    /// The request body is larger than allowed.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self { status: 413, kind: "RequestTooLargeError", message: message.into(), param: None }
    }

    /// The client did not send its body in time.
    pub fn request_timeout(message: impl Into<String>) -> Self {
        Self { status: 408, kind: "RequestTimeoutError", message: message.into(), param: None }
    }

    /// Nothing can take the request now; the same request may succeed later.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { status: 503, kind: "ServiceUnavailableError", message: message.into(), param: None }
    }

    /// The answer did not begin in time.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self { status: 504, kind: "TimeoutError", message: message.into(), param: None }
    }

    /// What was to answer was lost while it worked, through no fault of the client.
    pub fn replica_lost(message: impl Into<String>) -> Self {
        Self { status: 502, kind: "BadGatewayError", message: message.into(), param: None }
    }

    /// Our fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { status: 500, kind: "InternalServerError", message: message.into(), param: None }
    }

    /// `{"error": {message, type, param, code}}`.
    #[must_use]
    pub fn openai_body(&self) -> Value {
        json!({"error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.status,
        }})
    }

    /// Anthropic's `{"type": "error", "error": {type, message}}`.
    #[must_use]
    pub fn anthropic_body(&self) -> Value {
        let kind = match self.status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        };
        json!({"type": "error", "error": {"type": kind, "message": self.message}})
    }

    /// `/generate`'s `{"error": "…"}`.
    #[must_use]
    pub fn generate_body(&self) -> Value {
        json!({"error": self.message})
    }
}

/// The first names of a list that may be long.
fn listed<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN: usize = 20;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let mut list = shown.join(", ");
    if names.len() > SHOWN {
        list.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    list
}

/// The name nearest to `asked`, unless even that one is far.
fn nearest<'a, S: AsRef<str>>(asked: &str, known: &'a [S]) -> Option<&'a str> {
    let asked_lower = asked.to_lowercase();
    let score = |name: &str| {
        let name = name.to_lowercase();
        let tail = name.rsplit('/').next().unwrap_or_default();
        distance(&asked_lower, &name).min(distance(&asked_lower, tail))
    };
    let (best, name) = known.iter().map(|name| (score(name.as_ref()), name.as_ref())).min()?;
    (best <= 2.max(asked.chars().count() / 3)).then_some(name)
}

/// Levenshtein's distance in characters. Inputs are short: ids of at most 128 characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_model_names_what_there_is_and_the_nearest() {
        let known = ["facebook/opt-125m", "demo"];
        let message = |asked| ApiError::unknown_model(asked, &known).message;
        assert_eq!(
            message("opt-125"),
            "the model \"opt-125\" does not exist; this server has facebook/opt-125m, demo; \
             did you mean facebook/opt-125m?"
        );
        assert!(message("DEMO2").ends_with("did you mean demo?"));
        assert!(!message("gpt-4o-mini").contains("did you mean"));
        let many: Vec<String> = (0..25).map(|i| format!("model-number-{i}")).collect();
        let message = ApiError::missing_model(&many).message;
        assert!(message.ends_with("model-number-19 and 5 more"), "{message}");
        assert!(ApiError::unknown_model::<&str>("x", &[]).message.contains("no model is deployed"));
    }

    #[test]
    fn bodies_have_the_shape_of_their_dialect() {
        let error = ApiError::invalid("n", "n must be 1");
        assert_eq!(
            error.openai_body().to_string(),
            r#"{"error":{"message":"n must be 1","type":"BadRequestError","param":"n","code":400}}"#
        );
        assert_eq!(error.generate_body().to_string(), r#"{"error":"n must be 1"}"#);
        assert_eq!(ApiError::malformed("", "x").param.as_deref(), Some("body"));
        let kind = |error: ApiError| error.anthropic_body()["error"]["type"].clone();
        assert_eq!(kind(error), "invalid_request_error");
        assert_eq!(kind(ApiError::missing_model(&["m"])), "invalid_request_error");
        assert_eq!(kind(ApiError::unknown_model("m", &["m"])), "not_found_error");
        assert_eq!(kind(ApiError::too_large("x")), "request_too_large");
        assert_eq!(kind(ApiError::unavailable("x")), "overloaded_error");
        assert_eq!(kind(ApiError::timeout("x")), "api_error");
    }

    #[test]
    fn distances() {
        for (a, b, expected) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3)] {
            assert_eq!(distance(a, b), expected);
            assert_eq!(distance(b, a), expected);
        }
    }
}
