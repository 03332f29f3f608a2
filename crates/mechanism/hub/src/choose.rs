//! Which files make a model, of a repository's list and of a directory.

use std::collections::BTreeSet;
use std::path::Path;

const CONFIG: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];
const SAFETENSORS: &str = "model.safetensors";
const SAFETENSORS_INDEX: &str = "model.safetensors.index.json";
const TORCH: &str = "pytorch_model.bin";
const TORCH_INDEX: &str = "pytorch_model.bin.index.json";

/// A part that a model cannot do without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// `config.json`.
    Config,
    /// Weights in a format that is read.
    Weights,
    /// A shard that the index names.
    Shard(String),
    /// A tokenizer in a format that is read.
    Tokenizer,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Config => f.write_str("config.json"),
            Self::Weights => {
                f.write_str("weights (model.safetensors, pytorch_model.bin or shards of either)")
            }
            Self::Shard(name) => write!(f, "{name}, which its index names"),
            Self::Tokenizer => f.write_str("tokenizer.json (or vocab.json with merges.txt)"),
        }
    }
}

/// Chooses of a repository's files those that serving needs; the rest stays on the hub.
///
/// Other formats, copies for other tools (`original/`, `consolidated*`) and everything else in
/// subfolders is left out. Safetensors win over PyTorch files.
pub(crate) fn choose(files: &[String]) -> Result<Vec<String>, Missing> {
    let all: BTreeSet<&str> = files.iter().map(String::as_str).filter(|f| is_safe(f)).collect();
    if !all.contains("config.json") {
        return Err(Missing::Config);
    }
    let mut chosen: Vec<String> =
        CONFIG.iter().filter(|f| all.contains(**f)).map(|f| (*f).to_owned()).collect();
    chosen.extend(
        all.iter()
            .filter(|f| f.starts_with("additional_chat_templates/") && f.ends_with(".jinja"))
            .map(|f| (*f).to_owned()),
    );
    let weights = weights(&all);
    if weights.is_empty() {
        return Err(Missing::Weights);
    }
    chosen.extend(weights);
    if !has_tokenizer(|name| all.contains(name)) {
        return Err(Missing::Tokenizer);
    }
    Ok(chosen)
}

fn weights(all: &BTreeSet<&str>) -> Vec<String> {
    let shards = |prefix: &str, suffix: &str| {
        let is_shard = |f: &&&str| !f.contains('/') && f.starts_with(prefix) && f.ends_with(suffix);
        all.iter().filter(is_shard).map(|f| (*f).to_owned()).collect::<Vec<_>>()
    };
    if all.contains(SAFETENSORS) {
        return vec![SAFETENSORS.to_owned()];
    }
    if all.contains(SAFETENSORS_INDEX) {
        let mut files = shards("model-", ".safetensors");
        if files.is_empty() {
            files = shards("", ".safetensors");
            files.retain(|f| !f.starts_with("consolidated") && !f.starts_with("adapter"));
        }
        files.insert(0, SAFETENSORS_INDEX.to_owned());
        return files;
    }
    if all.contains(TORCH) {
        return vec![TORCH.to_owned()];
    }
    if all.contains(TORCH_INDEX) {
        let mut files = shards("pytorch_model-", ".bin");
        files.insert(0, TORCH_INDEX.to_owned());
        return files;
    }
    Vec::new()
}

/// Names what a model directory lacks; only names are looked at, no weight is read.
///
/// # Errors
/// The first [`Missing`] part.
pub fn inspect(dir: &Path) -> Result<(), Missing> {
    let has = |name: &str| dir.join(name).is_file();
    if !has("config.json") {
        return Err(Missing::Config);
    }
    has_weights(dir)?;
    if has_tokenizer(has) { Ok(()) } else { Err(Missing::Tokenizer) }
}

fn has_tokenizer(has: impl Fn(&str) -> bool) -> bool {
    has("tokenizer.json") || (has("vocab.json") && has("merges.txt"))
}

fn has_weights(dir: &Path) -> Result<(), Missing> {
    let has = |name: &str| dir.join(name).is_file();
    if has(SAFETENSORS) {
        return Ok(());
    }
    if has(SAFETENSORS_INDEX) {
        return has_shards(dir, SAFETENSORS_INDEX);
    }
    if has(TORCH) {
        return Ok(());
    }
    if has(TORCH_INDEX) { has_shards(dir, TORCH_INDEX) } else { Err(Missing::Weights) }
}

/// A broken index is the loader's to explain; here it only must not hide a missing shard.
fn has_shards(dir: &Path, index: &str) -> Result<(), Missing> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let parsed = std::fs::read(dir.join(index))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Index>(&bytes).ok());
    let Some(parsed) = parsed else { return Ok(()) };
    let shards: BTreeSet<String> = parsed.weight_map.into_values().collect();
    match shards.into_iter().find(|shard| !is_safe(shard) || !dir.join(shard).is_file()) {
        Some(shard) => Err(Missing::Shard(shard)),
        None => Ok(()),
    }
}

/// A relative path without tricks, and short enough for every file system.
fn is_safe(file: &str) -> bool {
    file.len() <= 255
        && !file.contains(['\\', '\0'])
        && file.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[&str], expected: &[&str]) {
        let files: Vec<String> = files.iter().map(|f| (*f).to_owned()).collect();
        assert_eq!(choose(&files).unwrap(), expected);
    }

    #[test]
    fn only_what_serving_needs_is_chosen() {
        check(
            &[
                ".gitattributes",
                "README.md",
                "config.json",
                "consolidated.safetensors",
                "flax_model.msgpack",
                "model.safetensors",
                "onnx/model.onnx",
                "original/consolidated.00.pth",
                "original/tokenizer.json",
                "pytorch_model.bin",
                "tf_model.h5",
                "tokenizer.json",
            ],
            &["config.json", "tokenizer.json", "model.safetensors"],
        );
        check(
            &["config.json", "merges.txt", "vocab.json", "pytorch_model.bin", "flax_model.msgpack"],
            &["config.json", "vocab.json", "merges.txt", "pytorch_model.bin"],
        );
        check(
            &[
                "additional_chat_templates/tool_use.jinja",
                "config.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "pytorch_model-00001-of-00001.bin",
                "tokenizer.json",
            ],
            &[
                "config.json",
                "tokenizer.json",
                "additional_chat_templates/tool_use.jinja",
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
            ],
        );
    }

    #[test]
    fn shards_may_have_other_names_than_usual() {
        check(
            &["a.safetensors", "config.json", "model.safetensors.index.json", "tokenizer.json"],
            &["config.json", "tokenizer.json", "model.safetensors.index.json", "a.safetensors"],
        );
    }

    #[test]
    fn a_repository_without_a_part_is_named() {
        let of = |files: &[&str]| {
            choose(&files.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>()).unwrap_err()
        };
        assert_eq!(of(&["model.gguf"]), Missing::Config);
        assert_eq!(of(&["config.json", "model.gguf", "tokenizer.json"]), Missing::Weights);
        assert_eq!(of(&["config.json", "adapter_model.safetensors"]), Missing::Weights);
        assert_eq!(of(&["config.json", "other.safetensors", "tokenizer.json"]), Missing::Weights);
        assert_eq!(of(&["config.json", "model.safetensors", "vocab.json"]), Missing::Tokenizer);
        assert_eq!(of(&["../config.json"]), Missing::Config);
    }

    #[test]
    fn a_directory_is_inspected_part_by_part() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(inspect(dir.path()), Err(Missing::Config));
        put("config.json", "{}");
        assert_eq!(inspect(dir.path()), Err(Missing::Weights));
        put("other.safetensors", "");
        assert_eq!(inspect(dir.path()), Err(Missing::Weights), "the loader takes no other name");
        put("model.safetensors.index.json", r#"{"weight_map": {"a": "model-1.safetensors"}}"#);
        assert_eq!(inspect(dir.path()), Err(Missing::Shard("model-1.safetensors".into())));
        put("model-1.safetensors", "");
        assert_eq!(inspect(dir.path()), Err(Missing::Tokenizer));
        put("vocab.json", "{}");
        assert_eq!(inspect(dir.path()), Err(Missing::Tokenizer));
        put("merges.txt", "");
        assert_eq!(inspect(dir.path()), Ok(()));
        put("model.safetensors.index.json", r#"{"weight_map": {"a": "../x"}}"#);
        assert_eq!(inspect(dir.path()), Err(Missing::Shard("../x".into())));
    }
}
