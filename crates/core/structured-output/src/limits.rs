//! How large a wish may be, and how much it may cost.
//!
//! Everything here is a bound on work before a request is admitted or within a step, so that one
//! request cannot hold up the others. Fuel is llguidance's unit of work on automata.

use llguidance::api::ParserLimits;

/// Text of a schema or grammar, in bytes.
pub const TEXT_BYTES: usize = 512 << 10;
/// Text of a grammar, in bytes.
pub const GRAMMAR_BYTES: usize = 128 << 10;
/// Objects and arrays inside of each other in a schema.
pub const NESTING: usize = 64;
/// What structural tags may add to [`NESTING`].
pub const TAG_NESTING: usize = 16;
/// Schemas in a schema, each `$ref`'s target once.
pub const SCHEMAS: usize = 10_000;
/// Levels of all targets of `$ref` together, which bounds how deep one can lead into the next.
pub const REFERENCE_LEVELS: usize = 4096;
/// Largest count in a schema, such as `minItems`, and in a repetition.
pub const COUNT: u64 = 100_000;
/// Rules and terminals of a grammar.
pub const RULES: usize = 2048;
/// Brackets inside of each other in a grammar or pattern.
pub const BRACKETS: usize = 64;
/// Triggers of tags in free text.
pub const TRIGGERS: usize = 128;
/// Strings of a choice.
pub const CHOICES: usize = 10_000;
/// Stack for compiling, in bytes; reserved, and in use only as far as a wish needs it.
pub(crate) const STACK_BYTES: usize = 64 << 20;

/// Bounds of llguidance. The worst compilation ends within about a second and the worst step within
/// some tens of milliseconds; usual ones take a hundredth of that.
pub(crate) fn parser_limits() -> ParserLimits {
    ParserLimits {
        // Alternatives that are open at once.
        max_items_in_row: 2000,
        // Fuel of a compilation. The largest schemas in practice need nearly all of it.
        initial_lexer_fuel: 500_000,
        // Fuel of a step, at about 14 for a microsecond.
        step_lexer_fuel: 200_000,
        // Parser items of a step, at about 20 for a microsecond.
        step_max_items: 50_000,
        // States of a sequence, of one or two kilobytes each.
        max_lexer_states: 50_000,
        // Symbols in all productions.
        max_grammar_size: 200_000,
        // It would cost each compilation what a few steps save.
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}
