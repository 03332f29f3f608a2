//! Config files of Ray Serve and files of API keys: each is taken or refused with a place and a cure.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tyndall_config::file::ConfigFile;
use tyndall_fuzz::Choices;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let is_keys = choices.below(4) == 0;
    let text = choices.text();
    if is_keys {
        if let Err(error) = tyndall_api_keys::parse(&text) {
            assert!(!error.to_string().is_empty());
        }
        return;
    }
    match ConfigFile::parse(&text) {
        Ok(file) => {
            if let Err(problem) = file.typed() {
                assert!(!problem.to_string().is_empty());
            }
        }
        Err(problem) => assert!(!problem.to_string().is_empty()),
    }
});
