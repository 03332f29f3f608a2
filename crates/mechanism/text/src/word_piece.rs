//! The tokenizer of a BERT model that has only a `vocab.txt`.

use tokenizers::models::bpe::Vocab;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{Model, decoders};

use crate::config::TokenizerConfig;
use crate::load::Inner;
use crate::vocabulary::Vocabulary;

/// The special tokens, where no file names others.
pub(crate) const NAMED: [(&str, &str); 5] = [
    ("unk_token", "[UNK]"),
    ("sep_token", "[SEP]"),
    ("pad_token", "[PAD]"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];

/// One token a line, its id the line's number; of equal ones the last counts, as in transformers.
pub(crate) fn from_vocab(text: &str, config: &TokenizerConfig) -> Result<Inner, String> {
    let number = |line: usize| u32::try_from(line).map_err(|_| "it has too many lines".to_owned());
    let lines = text.lines().enumerate();
    let vocab: Vocab = lines
        .map(|(line, token)| Ok((token.to_owned(), number(line)?)))
        .collect::<Result<_, String>>()?;
    let named = |name: &str| {
        let default = NAMED.iter().find(|(key, _)| *key == name).map(|(_, token)| *token);
        config.named(name).or(default).unwrap_or_default().to_owned()
    };
    let model = WordPiece::builder().vocab(vocab).unk_token(named("unk_token")).build();
    let model = model.map_err(|error| error.to_string())?;
    let id_of = |name: &str| {
        let token = named(name);
        let id = model.token_to_id(&token).ok_or_else(|| format!("it lacks {token:?}"))?;
        Ok::<_, String>((token, id))
    };
    let processing = BertProcessing::new(id_of("sep_token")?, id_of("cls_token")?);
    let normalizer = BertNormalizer::new(
        true,
        config.tokenize_chinese_chars.unwrap_or(true),
        config.strip_accents,
        config.do_lower_case.unwrap_or(true),
    );
    let mut inner = Inner::new(Vocabulary::Library(Box::new(model.into())));
    inner.with_normalizer(Some(normalizer)).map_err(|error| error.to_string())?;
    inner
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_post_processor(Some(processing))
        .with_decoder(Some(decoders::wordpiece::WordPiece::default()));
    Ok(inner)
}
