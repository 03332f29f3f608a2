//! How long a model directory's tokenizer takes to load, and how fast it encodes and decodes.
//!
//! `cargo run --release -p tyndall-text --example load_time -- DIR`
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use tyndall_text::{Detokenizer, Tokenizer};

const LOADS: usize = 9;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("give a model directory")?;
    let dir = Path::new(&dir);
    let mut ours = Vec::new();
    let mut library = Vec::new();
    for _ in 0..LOADS {
        ours.push(time(|| Tokenizer::load(dir))?);
        let file = dir.join("tokenizer.json");
        if file.exists() {
            let load = || tokenizers::Tokenizer::from_file(file).map_err(|error| error.to_string());
            library.push(time(load)?);
        }
    }
    let user = std::env::temp_dir().join("tyndall-load-time");
    if let (_, Some(unsaved)) = Tokenizer::load_cached(dir, Some(&user))? {
        unsaved.save()?;
    }
    let load_cached = || time(|| Tokenizer::load_cached(dir, Some(&user)));
    let mut cached = (0..LOADS).map(|_| load_cached()).collect::<Result<Vec<_>, _>>()?;
    let tokenizer = Tokenizer::load(dir)?;
    let text = "The replica wakes, reads its weights and answers the request. ".repeat(200);
    let ids = tokenizer.encode(&text, false)?;
    let encoding = time(|| tokenizer.encode(&text, false))?;
    let mut detokenizer = Detokenizer::new(&tokenizer, &[], true);
    let start = Instant::now();
    let bytes: usize = ids.iter().map(|&id| detokenizer.push(id).len()).sum();
    let decoding = start.elapsed();
    let mut out = std::io::stdout().lock();
    writeln!(out, "vocabulary: {} tokens", tokenizer.vocab_size())?;
    writeln!(out, "load: median {:?} of {LOADS}, first {:?}", median(&mut ours.clone()), ours[0])?;
    writeln!(out, "load from saved tables: median {:?}", median(&mut cached))?;
    if !library.is_empty() {
        writeln!(out, "load by the library's own reader: median {:?}", median(&mut library))?;
    }
    writeln!(out, "encode: {} characters in {encoding:?}", text.len())?;
    writeln!(out, "detokenize: {} tokens, {bytes} bytes in {decoding:?}", ids.len())?;
    Ok(())
}

fn time<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<Duration, E> {
    let start = Instant::now();
    let result = work()?;
    let elapsed = start.elapsed();
    drop(result);
    Ok(elapsed)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
