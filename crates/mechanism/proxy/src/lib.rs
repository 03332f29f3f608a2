//! The HTTP edge: admission, queueing, replica choice, retries
