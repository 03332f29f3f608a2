//! `GET /v1/models`.

use serde::Serialize;

/// A field that is always null on the wire.
pub(crate) type Null = Option<()>;

/// `GET /v1/models`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// In the order of deployment.
    pub data: Vec<ModelCardView>,
}

/// A model as clients see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelCardView {
    /// The public id.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// Unix seconds of its deployment.
    pub created: u64,
    /// `tyndall`.
    pub owned_by: &'static str,
    /// The public id.
    pub root: String,
    /// The base model of an adapter.
    pub parent: Option<String>,
    /// Known since the model was first loaded.
    pub max_model_len: Option<u32>,
    /// None are managed.
    pub permission: [Null; 0],
}

impl ModelCardView {
    /// A base model.
    #[must_use]
    pub fn base(id: &str, created: u64, max_model_len: Option<u32>) -> Self {
        Self {
            id: id.to_owned(),
            object: "model",
            created,
            owned_by: "tyndall",
            root: id.to_owned(),
            parent: None,
            max_model_len,
            permission: [],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards() {
        assert_eq!(
            serde_json::to_string(&ModelCardView::base("m", 7, Some(2048))).unwrap(),
            r#"{"id":"m","object":"model","created":7,"owned_by":"tyndall","root":"m","parent":null,"max_model_len":2048,"permission":[]}"#
        );
    }
}
