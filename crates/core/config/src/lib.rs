//! Environment and flags in, resolved configuration out
