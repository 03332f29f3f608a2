//! `config.json` to a description of an encoder.

use std::path::Path;

use serde_json::Value;
use tyndall_kernels::Activation;

use super::names::{BERT, DISTILBERT, EncoderNames, ROBERTA};
use super::sentence::{EmbeddingSpec, TextLimits, class_of, score_activation};
use crate::spec::{
    Declared, Fields, MAX_HEADS, MAX_LAYERS, MAX_LENGTH, MAX_VOCAB, MAX_WIDTH, ModelSpec,
    SpecError, divide_heads, read_activation, read_json, tokenizer_limit,
};

/// Everything about an encoder but its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderSpec {
    /// The class that transformers would use, such as `BertModel`.
    pub architecture: &'static str,
    /// Rows of the table of tokens.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Heads of each layer; a divisor of `hidden_size`.
    pub num_heads: usize,
    /// Width between the two projections of a layer's feed-forward part.
    pub intermediate_size: usize,
    /// Between the two.
    pub activation: Activation,
    /// Added to the variance in each norm.
    pub norm_eps: f32,
    /// Rows of the table of token types; 0 where tokens have none.
    pub type_vocab_size: usize,
    /// How a token learns its position.
    pub positions: PositionTable,
    /// Tokens of a text at most, special ones included.
    pub max_len: u32,
    /// Texts are to be turned to lower case before they are tokenized.
    pub lower_case: bool,
    /// What it computes.
    pub kind: EncoderKind,
    pub(super) names: &'static EncoderNames,
    pub(super) head_activation: HeadActivation,
}

/// The table of positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionTable {
    /// Its rows.
    pub rows: usize,
    /// Tokens of this id take the row of the same number, and the first other token takes the next
    /// one. Absent: the first token takes row 0.
    pub padding_id: Option<u32>,
}

impl PositionTable {
    /// The row of the first token.
    pub(super) fn first(&self) -> u32 {
        self.padding_id.map_or(0, |id| id + 1)
    }
}

/// What an encoder computes.
#[derive(Debug, Clone, PartialEq)]
pub enum EncoderKind {
    /// A vector for a text.
    Embed(EmbeddingSpec),
    /// A number for each label of a text or a pair of texts.
    Classify(ClassifierSpec),
}

/// The labels of a classifier and what its numbers mean.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassifierSpec {
    /// Names of the labels, at least one.
    pub labels: Vec<String>,
    /// From logits to the probability of each label, or whatever else the model means by them.
    pub classes: LogitActivation,
    /// From the only logit to the score of a pair: a probability, unless the model says otherwise.
    pub score: LogitActivation,
}

/// From logits to numbers for users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitActivation {
    /// The logits themselves.
    Identity,
    /// Each for itself to a probability.
    Sigmoid,
    /// All together to a distribution.
    Softmax,
}

/// Before the classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadActivation {
    Tanh,
    Relu,
}

/// Models that differ in no more than a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Bert,
    /// RoBERTa and its descendants.
    Roberta,
    DistilBert,
}

impl Line {
    fn names(self) -> &'static EncoderNames {
        match self {
            Line::Bert => &BERT,
            Line::Roberta => &ROBERTA,
            Line::DistilBert => &DISTILBERT,
        }
    }
}

struct Family {
    architecture: &'static str,
    model_type: &'static str,
    line: Line,
    classifies: bool,
}

const fn family(
    architecture: &'static str,
    model_type: &'static str,
    line: Line,
    classifies: bool,
) -> Family {
    Family { architecture, model_type, line, classifies }
}

/// The first of a `model_type` stands in where a config has no `architectures`.
const FAMILIES: &[Family] = &[
    family("BertModel", "bert", Line::Bert, false),
    family("BertForSequenceClassification", "bert", Line::Bert, true),
    family("RobertaModel", "roberta", Line::Roberta, false),
    family("RobertaForMaskedLM", "roberta", Line::Roberta, false),
    family("RobertaForSequenceClassification", "roberta", Line::Roberta, true),
    family("XLMRobertaModel", "xlm-roberta", Line::Roberta, false),
    family("XLMRobertaForSequenceClassification", "xlm-roberta", Line::Roberta, true),
    family("DistilBertModel", "distilbert", Line::DistilBert, false),
    family("DistilBertForSequenceClassification", "distilbert", Line::DistilBert, true),
];

impl EncoderSpec {
    /// Reads `config.json` of a checkpoint directory and the files of sentence-transformers beside
    /// it, and the limit of its `tokenizer_config.json` where there is one.
    ///
    /// # Errors
    /// [`SpecError`] names the file, the key and what would be right.
    pub fn from_dir(dir: &Path) -> Result<EncoderSpec, SpecError> {
        let path = dir.join("config.json");
        let Some(json) = read_json(&path)? else {
            return Err(SpecError::NoConfig { dir: dir.into() });
        };
        let config = Fields::new(&path, &json)?;
        let declared = Declared::read(&config)?;
        let family = find(&declared).ok_or_else(|| {
            let found = declared.name().to_owned();
            match ModelSpec::supports(&declared) {
                true => SpecError::OtherKind { found, does: "writes text" },
                false => SpecError::UnsupportedArchitecture { found },
            }
        })?;
        EncoderSpec::read(dir, &config, family)
    }

    /// The architectures whose embeddings or classes can be served.
    pub fn supported() -> Vec<&'static str> {
        FAMILIES.iter().map(|family| family.architecture).collect()
    }

    /// Whether a config is of one of them.
    pub(crate) fn supports(declared: &Declared<'_>) -> bool {
        find(declared).is_some()
    }

    /// Numbers per text that the model computes: of an embedding, or one for each label.
    pub fn outputs(&self) -> usize {
        match &self.kind {
            EncoderKind::Embed(embedding) => embedding.dimension,
            EncoderKind::Classify(classifier) => classifier.labels.len(),
        }
    }

    /// Width of a head.
    pub(super) fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    fn read(dir: &Path, config: &Fields<'_>, family: &Family) -> Result<EncoderSpec, SpecError> {
        if let Some(quantization) = config.nested("quantization_config")? {
            let method = quantization.text("quant_method")?.unwrap_or("unnamed");
            let supported = "f32, f16 and bf16 weights";
            return Err(config.unsupported("quantization_config", method, supported));
        }
        let limits = TextLimits::read(dir)?;
        let is_distilbert = family.line == Line::DistilBert;
        let keys = if is_distilbert { &DISTILBERT_KEYS } else { &BERT_KEYS };
        let hidden_size = config.required_count(keys.hidden_size, MAX_WIDTH)?;
        let num_heads = config.required_count(keys.num_heads, MAX_HEADS)?;
        divide_heads(config, hidden_size, num_heads)?;
        let positions = read_positions(config, family.line)?;
        // The files' own limits, and what the table has rows for.
        let rows = positions.rows - positions.first() as usize;
        let max_len =
            [limits.max_len, tokenizer_limit(dir)?].into_iter().flatten().fold(rows, usize::min);
        let kind = match family.classifies {
            false => EncoderKind::Embed(EmbeddingSpec::read(dir, config, hidden_size)?),
            true => EncoderKind::Classify(read_classifier(dir, config)?),
        };
        Ok(EncoderSpec {
            architecture: family.architecture,
            vocab_size: config.required_count("vocab_size", MAX_VOCAB)?,
            hidden_size,
            num_layers: config.required_count(keys.num_layers, MAX_LAYERS)?,
            num_heads,
            intermediate_size: config.required_count(keys.intermediate_size, MAX_WIDTH)?,
            activation: read_activation(config, keys.activation, "gelu")?,
            norm_eps: config.positive("layer_norm_eps")?.unwrap_or(1e-12) as f32,
            type_vocab_size: match is_distilbert {
                true => 0,
                false => config.count("type_vocab_size", MAX_VOCAB)?.unwrap_or(2),
            },
            positions,
            max_len: max_len as u32,
            lower_case: limits.lower_case,
            kind,
            names: family.line.names(),
            head_activation: match is_distilbert {
                true => HeadActivation::Relu,
                false => HeadActivation::Tanh,
            },
        })
    }
}

/// What a family's config calls its sizes.
struct Keys {
    hidden_size: &'static str,
    num_layers: &'static str,
    num_heads: &'static str,
    intermediate_size: &'static str,
    activation: &'static str,
}

const BERT_KEYS: Keys = Keys {
    hidden_size: "hidden_size",
    num_layers: "num_hidden_layers",
    num_heads: "num_attention_heads",
    intermediate_size: "intermediate_size",
    activation: "hidden_act",
};

const DISTILBERT_KEYS: Keys = Keys {
    hidden_size: "dim",
    num_layers: "n_layers",
    num_heads: "n_heads",
    intermediate_size: "hidden_dim",
    activation: "activation",
};

fn find(declared: &Declared<'_>) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| declared.is(family.architecture, family.model_type))
}

fn read_positions(config: &Fields<'_>, line: Line) -> Result<PositionTable, SpecError> {
    if let Some(other) = config.text("position_embedding_type")?.filter(|&kind| kind != "absolute")
    {
        return Err(config.unsupported("position_embedding_type", other, "absolute"));
    }
    if config.flag("is_decoder", false)? {
        return Err(config.unsupported("is_decoder", true, "false"));
    }
    let key = "max_position_embeddings";
    let rows = config.required_count(key, MAX_LENGTH)?;
    let padding_id = match line {
        Line::Roberta => Some(config.token_ids("pad_token_id")?.first().copied().unwrap_or(1)),
        Line::Bert | Line::DistilBert => None,
    };
    let positions = PositionTable { rows, padding_id };
    // The id may be the last of all u32.
    if padding_id.is_some_and(|id| id as usize + 1 >= rows) {
        let expected = "above 'pad_token_id' + 1, behind which the positions begin";
        return Err(config.invalid(key, rows, expected));
    }
    Ok(positions)
}

fn read_classifier(dir: &Path, config: &Fields<'_>) -> Result<ClassifierSpec, SpecError> {
    let labels = read_labels(config)?;
    let usual = match labels.len() {
        1 => LogitActivation::Sigmoid,
        _ => LogitActivation::Softmax,
    };
    let classes = match config.text("problem_type")? {
        Some("regression") => LogitActivation::Identity,
        Some("multi_label_classification") => LogitActivation::Sigmoid,
        _ => usual,
    };
    let nested = config.nested("sentence_transformers")?;
    let nested = nested.as_ref().map(|nested| nested.text("activation_fn")).transpose()?.flatten();
    let key = "sbert_ce_default_activation_function";
    let named = match nested.or(config.text(key)?) {
        Some(name) => Some(name.to_owned()),
        None => score_activation(dir)?,
    };
    let score = match named.as_deref().map(class_of) {
        None => LogitActivation::Sigmoid,
        Some("Identity") => LogitActivation::Identity,
        Some("Sigmoid") => LogitActivation::Sigmoid,
        Some(other) => return Err(config.unsupported("activation_fn", other, "Identity, Sigmoid")),
    };
    Ok(ClassifierSpec { labels, classes, score })
}

/// By `id2label`, else as many as `num_labels` says, else transformers' own two.
fn read_labels(config: &Fields<'_>) -> Result<Vec<String>, SpecError> {
    const MAX_LABELS: usize = 1 << 16;
    let names = config.nested("id2label")?;
    let count = config.get("id2label").and_then(Value::as_object).map_or(0, |names| names.len());
    let count = match count {
        0 => config.count("num_labels", MAX_LABELS)?.unwrap_or(2),
        count => count,
    };
    let name = |index: usize| match names.as_ref().and_then(|names| names.get(&index.to_string())) {
        None => format!("LABEL_{index}"),
        Some(Value::String(name)) => name.clone(),
        Some(other) => other.to_string(),
    };
    Ok((0..count).map(name).collect())
}

#[cfg(test)]
mod tests;
