//! `--chat-template`: a file, or the template itself.

use crate::failure::Failure;
use std::path::Path;
use tyndall_text::ChatTemplate;

/// Longer files are no templates.
const MAX_BYTES: u64 = 1 << 20;

/// The source of the template that is given; vLLM tells them apart in the same way.
///
/// # Errors
/// The file cannot be read, or what is in it is no template.
pub(crate) fn source(given: &str) -> Result<String, Failure> {
    let is_inline = ["{{", "{%"].iter().any(|mark| given.contains(mark));
    let source = if is_inline { given.to_owned() } else { read(Path::new(given))? };
    ChatTemplate::new(&source, Vec::new()).check().map_err(|error| {
        Failure::new(format!("the chat template cannot be used: {error}"))
            .with_cure("mend it, or leave --chat-template out to take the model's own")
    })?;
    Ok(source)
}

fn read(path: &Path) -> Result<String, Failure> {
    let unusable = |why: String| {
        Failure::new(format!("the chat template {} cannot be read: {why}", path.display()))
            .with_cure("name a file with a template in Jinja")
    };
    let size = path.metadata().map_err(|error| unusable(error.to_string()))?.len();
    if size > MAX_BYTES {
        return Err(unusable(format!("it has {size} bytes, more than {MAX_BYTES}")));
    }
    std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))
}
