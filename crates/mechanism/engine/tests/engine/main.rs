//! The engine from outside: what goes in, what comes out, and that nothing else matters.

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod encoder;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod metamorphic;
#[cfg(test)]
mod real_model;
