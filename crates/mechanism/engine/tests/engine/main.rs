//! The engine from outside: what goes in, what comes out, and that nothing else matters.

mod fake;
mod lifecycle;
mod metamorphic;
