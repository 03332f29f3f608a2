//! What a config says the model is.

use super::{Fields, SpecError};

/// The first of `architectures`, or else the `model_type`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Declared<'a> {
    Class(&'a str),
    Type(&'a str),
}

impl<'a> Declared<'a> {
    pub(crate) fn read(config: &Fields<'a>) -> Result<Declared<'a>, SpecError> {
        let listed = config.get("architectures").and_then(|list| list.get(0));
        match listed.and_then(|name| name.as_str()) {
            Some(name) => Ok(Declared::Class(name)),
            None => {
                let name = config.text("model_type")?;
                Ok(Declared::Type(name.ok_or_else(|| config.missing("architectures"))?))
            }
        }
    }

    /// Whether it is this class, by its own name or by that of its kind.
    pub(crate) fn is(&self, architecture: &str, model_type: &str) -> bool {
        match self {
            Declared::Class(name) => *name == architecture,
            Declared::Type(name) => *name == model_type,
        }
    }

    pub(crate) fn name(&self) -> &'a str {
        match self {
            Declared::Class(name) | Declared::Type(name) => name,
        }
    }
}
