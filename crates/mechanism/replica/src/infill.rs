//! Prompts of models that learnt to fill a gap between two texts.

use crate::ready::Ready;
use tyndall_openai::ApiError;

/// The tokens that families put before the text, after it, and where the gap's text begins; from
/// their model cards.
const FAMILIES: [[&str; 3]; 5] = [
    // Qwen2.5-Coder, CodeGemma
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    // StarCoder
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    // DeepSeek-Coder
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    // Code Llama
    ["▁<PRE>", "▁<SUF>", "▁<MID>"],
    // Granite
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
];

/// The prompt for the text between `text` and `suffix`.
///
/// # Errors
/// The model has no tokens for that.
pub(crate) fn infill(ready: &Ready, text: &str, suffix: &str) -> Result<Vec<u32>, ApiError> {
    let ids = |family: &[&str; 3]| {
        let mut ids = [0; 3];
        for (id, token) in ids.iter_mut().zip(family) {
            *id = ready.tokenizer.token_id(token)?;
        }
        Some(ids)
    };
    let Some([before, after, middle]) = FAMILIES.iter().find_map(ids) else {
        return Err(ApiError::invalid(
            "suffix",
            "suffix needs a model that learnt to fill gaps, and this one has no tokens for that; \
             leave it out",
        ));
    };
    let mut prompt: Vec<u32> = ready.tokenizer.bos_token_id().into_iter().collect();
    // A tokenizer that puts no BOS before a text wants none here either.
    if !ready.encode("a", true)?.starts_with(&prompt) {
        prompt.clear();
    }
    prompt.push(before);
    prompt.extend(ready.encode(text, false)?);
    prompt.push(after);
    prompt.extend(ready.encode(suffix, false)?);
    prompt.push(middle);
    Ok(prompt)
}
