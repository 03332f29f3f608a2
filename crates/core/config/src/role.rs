//! What a role's process takes from the environment that it inherits.

use crate::error::ConfigError;
use crate::origin::{Environment, RawSettings, Reader};
use crate::parse;
use crate::resolve::{ApiKeys, LogFormat, log_format};
use std::path::PathBuf;

/// An instruction set for the kernels, by the words of `TYNDALL_ISA`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512, with bf16 weights on the matrix unit.
    Amx,
    /// AVX-512 with BF16 dot products.
    Avx512Bf16,
    /// AVX-512 without them.
    Avx512,
    /// AVX2 with FMA.
    Avx2,
    /// Any machine.
    Portable,
}

impl Isa {
    /// The word of `TYNDALL_ISA`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amx => "amx",
            Self::Avx512Bf16 => "avx512bf16",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }
}

/// Settings of a controller, proxy or replica process beyond its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleConfig {
    /// `TYNDALL_ISA`; absent takes the best that the machine has.
    pub isa: Option<Isa>,
    /// What runs applications in Python; absent is that of the environment.
    pub python: Option<PathBuf>,
    /// Form of the logs.
    pub log_format: LogFormat,
    /// What is logged.
    pub log_filter: String,
    /// Keys of clients beside those of a file.
    pub api_keys: ApiKeys,
}

impl RoleConfig {
    /// Reads and checks what a role needs.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] names the variable.
    pub fn from_env(env: &Environment) -> Result<Self, ConfigError> {
        let raw = RawSettings::default();
        let mut reader = Reader::new(&raw, env);
        Ok(Self {
            isa: isa(env)?,
            python: reader.read_optional("python", |text| Ok(PathBuf::from(text)))?,
            log_format: reader.read("log_format", log_format)?.value,
            log_filter: reader.read("log", |text| Ok(text.to_owned()))?.value,
            api_keys: ApiKeys {
                file: None,
                secrets: reader.read_secret("api_key", parse::api_keys)?,
            },
        })
    }
}

/// `TYNDALL_ISA` is no row of the table: it exists so that tests and benchmarks cover every path.
pub(crate) fn isa(env: &Environment) -> Result<Option<Isa>, ConfigError> {
    let name = "TYNDALL_ISA";
    match env.get(name).map_or("", |text| text.trim()) {
        "" | "auto" => Ok(None),
        "amx" => Ok(Some(Isa::Amx)),
        "avx512bf16" => Ok(Some(Isa::Avx512Bf16)),
        "avx512" => Ok(Some(Isa::Avx512)),
        "avx2" => Ok(Some(Isa::Avx2)),
        "portable" => Ok(Some(Isa::Portable)),
        other => Err(ConfigError::BadValue {
            from: name,
            value: other.to_owned(),
            accepted: "one of auto, amx, avx512bf16, avx512, avx2 and portable".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_reads_its_variables() {
        let env = |pairs: &[(&str, &str)]| -> Environment {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let role = RoleConfig::from_env(&env(&[
            ("TYNDALL_ISA", "avx2"),
            ("TYNDALL_LOG_FORMAT", "json"),
            ("TYNDALL_LOG", "debug"),
        ]))
        .unwrap();
        assert_eq!(role.isa, Some(Isa::Avx2));
        assert_eq!((role.log_format, role.log_filter.as_str()), (LogFormat::Json, "debug"));
        assert_eq!(RoleConfig::from_env(&env(&[])).unwrap().isa, None);
        let error = RoleConfig::from_env(&env(&[("TYNDALL_ISA", "mmx")])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "TYNDALL_ISA is \"mmx\", which is not one of auto, amx, avx512bf16, avx512, avx2 and portable"
        );
    }
}
