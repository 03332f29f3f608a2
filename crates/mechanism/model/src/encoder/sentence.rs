//! The files that sentence-transformers puts beside a checkpoint: what follows the encoder.
//!
//! `modules.json` lists the modules, each with a directory of its own. Read here are a transformer,
//! then a pooling, then any number of dense layers, then a normalisation; dropout does nothing when
//! a model is used. Without `modules.json` a text's vector is its first token's, normalised, as vLLM
//! does it for these architectures (`default_pooling_type("CLS")` in
//! `vllm/model_executor/models/bert.py`); sentence-transformers itself would take the mean.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde_json::Value;

use super::pooling::Pooling;
use crate::spec::{Fields, MAX_LENGTH, MAX_WIDTH, SpecError, read_json};

const MODULES: &str = "modules.json";
const SETTINGS: &str = "config_sentence_transformers.json";
/// Where a model's own limits stand, by the age and the kind of the model.
const LIMITS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// How hidden states become an embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingSpec {
    /// At least one; the vectors of several are joined.
    pub pooling: Vec<Pooling>,
    /// Layers that follow the pooling.
    pub dense: Vec<DenseSpec>,
    /// The model's embeddings are meant to have length 1. They are not brought to it here.
    pub normalizes: bool,
    /// Numbers of an embedding.
    pub dimension: usize,
    /// Whether and to what an embedding may be shortened.
    pub matryoshka: Matryoshka,
    /// How two embeddings are compared, if the model says so.
    pub similarity: Option<Similarity>,
    /// Texts to put before a text, by their purpose. They are not applied here.
    pub prompts: BTreeMap<String, String>,
    /// Which of the prompts is meant where none is named.
    pub default_prompt_name: Option<String>,
}

/// A dense layer behind the pooling.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseSpec {
    /// Its directory in the checkpoint's.
    pub path: String,
    /// Width of its input.
    pub inputs: usize,
    /// Width of its output.
    pub outputs: usize,
    /// It adds a vector.
    pub bias: bool,
    /// It ends in `tanh`.
    pub tanh: bool,
}

/// Whether the first numbers of an embedding are an embedding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matryoshka {
    /// They are not.
    No,
    /// So many as one likes.
    Any,
    /// Of these lengths.
    Lengths(Vec<u32>),
}

/// How two embeddings are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Similarity {
    /// The cosine of their angle.
    Cosine,
    /// Their dot product.
    Dot,
    /// Their distance, negative.
    Euclidean,
    /// The sum of the distances of their numbers, negative.
    Manhattan,
}

/// Limits on the text, of embeddings and of classifiers alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TextLimits {
    pub(super) max_len: Option<usize>,
    pub(super) lower_case: bool,
}

impl TextLimits {
    pub(super) fn read(dir: &Path) -> Result<TextLimits, SpecError> {
        let mut limits = TextLimits { max_len: None, lower_case: false };
        for name in LIMITS {
            let path = dir.join(name);
            if let Some(json) = read_json(&path)? {
                let fields = Fields::new(&path, &json)?;
                limits.max_len = fields.count("max_seq_length", MAX_LENGTH)?;
                limits.lower_case = fields.flag("do_lower_case", false)?;
                break;
            }
        }
        Ok(limits)
    }
}

/// The activation that a cross encoder's settings name.
pub(super) fn score_activation(dir: &Path) -> Result<Option<String>, SpecError> {
    let path = dir.join(SETTINGS);
    let Some(json) = read_json(&path)? else { return Ok(None) };
    Ok(Fields::new(&path, &json)?.text("activation_fn")?.map(str::to_owned))
}

impl EmbeddingSpec {
    /// What follows an encoder of this width; `config` is the model's own file.
    pub(super) fn read(
        dir: &Path,
        config: &Fields<'_>,
        hidden_size: usize,
    ) -> Result<EmbeddingSpec, SpecError> {
        let mut spec = EmbeddingSpec {
            pooling: vec![Pooling::Cls],
            dense: Vec::new(),
            normalizes: true,
            dimension: hidden_size,
            matryoshka: read_matryoshka(config)?,
            similarity: None,
            prompts: BTreeMap::new(),
            default_prompt_name: None,
        };
        spec.read_settings(dir)?;
        let path = dir.join(MODULES);
        if let Some(json) = read_json(&path)? {
            spec.normalizes = false;
            spec.read_modules(dir, &path, &json, hidden_size)?;
        }
        Ok(spec)
    }

    fn read_settings(&mut self, dir: &Path) -> Result<(), SpecError> {
        let path = dir.join(SETTINGS);
        let Some(json) = read_json(&path)? else { return Ok(()) };
        let fields = Fields::new(&path, &json)?;
        self.similarity = match fields.text("similarity_fn_name")? {
            None => None,
            Some("cosine") => Some(Similarity::Cosine),
            Some("dot" | "dot_product") => Some(Similarity::Dot),
            Some("euclidean") => Some(Similarity::Euclidean),
            Some("manhattan") => Some(Similarity::Manhattan),
            Some(other) => {
                let supported = "cosine, dot, euclidean, manhattan";
                return Err(fields.unsupported("similarity_fn_name", other, supported));
            }
        };
        if let Some(Value::Object(prompts)) = fields.get("prompts") {
            let text = |value: &Value| Some(value.as_str()?.to_owned());
            let prompt = |(name, value): (&String, &Value)| Some((name.clone(), text(value)?));
            self.prompts = prompts.iter().filter_map(prompt).collect();
        }
        self.default_prompt_name = fields.text("default_prompt_name")?.map(str::to_owned);
        Ok(())
    }

    fn read_modules(
        &mut self,
        dir: &Path,
        path: &Path,
        json: &Value,
        hidden_size: usize,
    ) -> Result<(), SpecError> {
        const EXPECTED: &str =
            "a list of modules: Transformer, Pooling, then Dense and Normalize where there are any";
        let invalid = |found: &str| SpecError::Invalid {
            path: path.into(),
            key: "type".into(),
            found: found.into(),
            expected: EXPECTED.into(),
        };
        let modules = json.as_array().ok_or_else(|| invalid("no list"))?;
        // Stages only ever follow each other: encoder, pooling, dense, normalisation.
        let mut stage = 0;
        for module in modules {
            let text = |key: &str| module.get(key).and_then(Value::as_str).unwrap_or_default();
            let kind = class_of(text("type"));
            let (next, after) = match kind {
                "Transformer" if text("path").is_empty() => (0, 0..=0),
                "Pooling" => (1, 0..=0),
                "Dense" => (2, 1..=2),
                "Normalize" => (3, 1..=2),
                "Dropout" => continue,
                _ => return Err(invalid(&format!("'{}' in '{}'", text("type"), text("path")))),
            };
            if !after.contains(&stage) {
                return Err(invalid(&format!("'{kind}' where it does not belong")));
            }
            if !is_inside(text("path")) {
                return Err(invalid(&format!("'{kind}' in '{}'", text("path"))));
            }
            stage = next;
            match next {
                1 => self.read_pooling(&dir.join(text("path")), hidden_size)?,
                2 => self.read_dense(dir, text("path"))?,
                3 => self.normalizes = true,
                _ => {}
            }
        }
        match stage {
            0 => Err(invalid("a list without Pooling")),
            _ => Ok(()),
        }
    }

    fn read_pooling(&mut self, dir: &Path, hidden_size: usize) -> Result<(), SpecError> {
        let path = dir.join("config.json");
        let Some(json) = read_json(&path)? else {
            return Err(SpecError::NoConfig { dir: dir.into() });
        };
        let fields = Fields::new(&path, &json)?;
        for key in ["embedding_dimension", "word_embedding_dimension"] {
            if let Some(width) = fields.count(key, MAX_WIDTH)?
                && width != hidden_size
            {
                let expected = format!("the model's 'hidden_size', {hidden_size}");
                return Err(fields.invalid(key, width, &expected));
            }
        }
        self.pooling = read_pooling_modes(&fields)?;
        self.dimension = self.pooling.len() * hidden_size;
        Ok(())
    }

    fn read_dense(&mut self, root: &Path, module: &str) -> Result<(), SpecError> {
        let dir = root.join(module);
        let path = dir.join("config.json");
        let Some(json) = read_json(&path)? else {
            return Err(SpecError::NoConfig { dir });
        };
        let fields = Fields::new(&path, &json)?;
        let inputs = fields.required_count("in_features", MAX_WIDTH)?;
        if inputs != self.dimension {
            let expected = format!("the width of what it follows, {}", self.dimension);
            return Err(fields.invalid("in_features", inputs, &expected));
        }
        for key in ["module_input_name", "module_output_name"] {
            if let Some(other) = fields.text(key)?.filter(|&name| name != "sentence_embedding") {
                return Err(fields.unsupported(key, other, "sentence_embedding"));
            }
        }
        if fields.flag("use_residual", false)? {
            return Err(fields.unsupported("use_residual", true, "false"));
        }
        let tanh = match fields.text("activation_function")?.map(class_of) {
            None | Some("Tanh") => true,
            Some("Identity") => false,
            Some(other) => {
                return Err(fields.unsupported("activation_function", other, "Tanh, Identity"));
            }
        };
        let outputs = fields.required_count("out_features", MAX_WIDTH)?;
        let bias = fields.flag("bias", true)?;
        self.dense.push(DenseSpec { path: module.to_owned(), inputs, outputs, bias, tanh });
        self.dimension = outputs;
        Ok(())
    }
}

/// The class at the end of a dotted Python path.
pub(super) fn class_of(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// Whether a path leads to nowhere but below the directory that names it.
fn is_inside(path: &str) -> bool {
    Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// The newer name or names, else the older flags; the mean where there is neither.
fn read_pooling_modes(fields: &Fields<'_>) -> Result<Vec<Pooling>, SpecError> {
    let key = "pooling_mode";
    let named = |value: &Value| {
        let pooling = value.as_str().and_then(Pooling::named);
        let supported = "cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken";
        pooling.ok_or_else(|| fields.unsupported(key, value, supported))
    };
    let modes = match fields.get(key) {
        Some(Value::Array(list)) => list.iter().map(named).collect::<Result<Vec<_>, _>>()?,
        Some(value) => vec![named(value)?],
        None => {
            let mut modes = Vec::new();
            for (pooling, flag) in Pooling::FLAGS {
                if fields.flag(flag, false)? {
                    modes.push(pooling);
                }
            }
            modes
        }
    };
    Ok(if modes.is_empty() { vec![Pooling::Mean] } else { modes })
}

/// By the keys that vLLM reads.
fn read_matryoshka(config: &Fields<'_>) -> Result<Matryoshka, SpecError> {
    let key = "matryoshka_dimensions";
    let length = |value: &Value| value.as_u64().and_then(|length| u32::try_from(length).ok());
    let lengths: Option<Vec<u32>> = match config.get(key) {
        None => Some(Vec::new()),
        Some(value) => value.as_array().and_then(|list| list.iter().map(length).collect()),
    };
    let lengths =
        lengths.ok_or_else(|| config.invalid(key, "no such list", "a list of lengths"))?;
    Ok(match config.flag("is_matryoshka", false)? {
        _ if !lengths.is_empty() => Matryoshka::Lengths(lengths),
        true => Matryoshka::Any,
        false => Matryoshka::No,
    })
}
