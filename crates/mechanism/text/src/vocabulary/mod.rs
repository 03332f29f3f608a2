//! The model half of a tokenizer: from a word to token ids.
//!
//! Everything around it (added tokens, normaliser, pre-tokenizer, post-processor) is the library's.
//! BPE, which is all current language models, is computed here on a [`BpeImage`]: tables in one
//! block of bytes, used as they lie in the cache file. Other kinds, and BPE with rules that the
//! image does not know, are the library's too.

mod bpe;
mod image;
#[cfg(test)]
mod tests;

pub(crate) use image::{BpeFlags, BpeImage, BpeSource, ImageBytes, checksum, signed};

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::{Model, Result, Token};

/// Words to tokens, by tables of our own or by the library.
#[derive(Debug, Clone)]
pub(crate) enum Vocabulary {
    Bpe(BpeImage),
    Library(Box<ModelWrapper>),
}

impl Model for Vocabulary {
    type Trainer = BpeTrainer;

    /// Tokens without their texts and places: nobody here asks for them.
    fn tokenize(&self, sequence: &str) -> Result<Vec<Token>> {
        match self {
            Self::Bpe(image) => Ok(bpe::tokenize(image, sequence)),
            Self::Library(model) => model.tokenize(sequence),
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            Self::Bpe(image) => image.id_of(token.as_bytes()),
            Self::Library(model) => model.token_to_id(token),
        }
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            Self::Bpe(image) => image.token(id).map(str::to_owned),
            Self::Library(model) => model.id_to_token(id),
        }
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        match self {
            Self::Bpe(image) => {
                let ids = 0..image.num_ids();
                ids.filter_map(|id| Some((image.token(id)?.to_owned(), id))).collect()
            }
            Self::Library(model) => model.get_vocab(),
        }
    }

    fn get_vocab_size(&self) -> usize {
        match self {
            Self::Bpe(image) => image.num_tokens() as usize,
            Self::Library(model) => model.get_vocab_size(),
        }
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> Result<Vec<PathBuf>> {
        match self {
            Self::Bpe(_) => Err("this vocabulary is read only".into()),
            Self::Library(model) => model.save(folder, prefix),
        }
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}
