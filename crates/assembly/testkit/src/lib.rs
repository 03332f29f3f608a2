//! Starts real processes and speaks to them, for end-to-end tests
