//! The step loop that joins scheduler, KV cache, model and sampler
