//! Which replica takes a request, how many may wait, what is retried
