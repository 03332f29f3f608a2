//! Logits in, token out
