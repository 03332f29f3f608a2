//! The fields of request routers, and the one that is built in.

use crate::file::kind::{Field, Kind, Object, POSITIVE};
use crate::file::node::Node;

const OF_MODELS: &str = "replicas of models are chosen by the proxy, by power of two choices";
const ALWAYS_BOUNDED: &str = "what is remembered is bounded at any time";
const DEFAULT: &str = "\"ray.serve._private.request_router:PowerOfTwoChoicesRequestRouter\"";

/// Paths of the rule that is built in.
const BUILT_IN: [&str; 3] = [
    "ray.serve._private.request_router.PowerOfTwoChoicesRequestRouter",
    "ray.serve._private.request_router.pow_2_router.PowerOfTwoChoicesRequestRouter",
    "tyndall.serve.request_router.PowerOfTwoChoicesRequestRouter",
];

/// Paths of the rule for prompts, which the proxy carries out.
const PREFIX_CACHE: [&str; 2] = [
    "ray.serve.llm.request_router.PrefixCacheAffinityRouter",
    "tyndall.serve.llm.request_router.PrefixCacheAffinityRouter",
];

/// What a router's map names.
pub(in crate::file) enum Named<'a> {
    /// The rule that is built in.
    BuiltIn,
    /// The rule for prompts.
    PrefixCache,
    /// The path of a class that the application's code brings, or can import.
    Python(&'a str),
}

/// Nothing is the rule that is built in.
pub(in crate::file) fn named(router: &Node) -> Named<'_> {
    let Some(text) = router.get("request_router_class").and_then(Node::text) else {
        return Named::BuiltIn;
    };
    match text.replace(':', ".").as_str() {
        path if BUILT_IN.contains(&path) => Named::BuiltIn,
        path if PREFIX_CACHE.contains(&path) => Named::PrefixCache,
        _ => Named::Python(text),
    }
}

pub(super) static ROUTER: Object = Object {
    name: "RequestRouterConfig",
    is_open: false,
    fields: &[
        Field::new(
            "request_router_class",
            Kind::ImportPath,
            DEFAULT,
            "what chooses: the rule that is built in, or a class in Python",
        ),
        Field::new("request_router_kwargs", Kind::Map, "{}", "arguments of its `initialize_state`"),
        Field::new(
            "request_routing_stats_period_s",
            POSITIVE,
            "10",
            "seconds between two calls of a replica's `record_routing_stats`",
        ),
        Field::new(
            "request_routing_stats_timeout_s",
            POSITIVE,
            "30",
            "seconds that such a call may take",
        ),
        Field::new(
            "initial_backoff_s",
            POSITIVE,
            "0.025",
            "seconds until it is asked again whose ranks have no free replica; at once the first time",
        ),
        Field::new("backoff_multiplier", POSITIVE, "2", "how much longer each pause is"),
        Field::new("max_backoff_s", POSITIVE, "0.5", "seconds of the longest pause"),
    ],
};

/// Of the rule for prompts, as Ray's class has them.
pub(in crate::file) static PREFIX_KWARGS: Object = Object {
    name: "PrefixCacheAffinityRouter",
    is_open: false,
    fields: &[
        Field::new(
            "imbalanced_threshold",
            Kind::Number { least: 0.0, most: f64::MAX, above: false },
            "null",
            "requests by which replicas may differ; beyond it only their load counts",
        )
        .nullable(),
        Field::new(
            "match_rate_threshold",
            Kind::Number { least: 0.0, most: 1.0, above: false },
            "0.1",
            "share of a prompt that a replica must have had; below it the prompt goes to one that \
             has had the least text",
        ),
        Field::new(
            "eviction_threshold_chars",
            Kind::Whole(1, 1 << 30),
            "400000",
            "how much text is remembered of each replica, in bytes; what was used last is kept",
        ),
        Field::new("do_eviction", Kind::Bool, "false", "whether anything is forgotten")
            .ignored(ALWAYS_BOUNDED),
        Field::new("eviction_target_chars", Kind::Whole(1, 1 << 30), "360000", "what is left then")
            .ignored(ALWAYS_BOUNDED),
        Field::new("eviction_interval_secs", POSITIVE, "10", "how often it is looked at")
            .ignored(ALWAYS_BOUNDED),
    ],
};

/// Of a model.
pub(super) static MODEL_ROUTER: Object = Object {
    name: "LLMConfig.deployment_config.request_router_config",
    is_open: false,
    fields: &[
        Field::new(
            "request_router_class",
            Kind::ImportPath,
            DEFAULT,
            "what chooses: the rule that is built in, or \
             `ray.serve.llm.request_router:PrefixCacheAffinityRouter`",
        ),
        Field::new(
            "request_router_kwargs",
            Kind::Object(&PREFIX_KWARGS),
            "{}",
            "of the rule for prompts",
        ),
        Field::new("request_routing_stats_period_s", POSITIVE, "10", "seconds between figures")
            .ignored(OF_MODELS),
        Field::new("request_routing_stats_timeout_s", POSITIVE, "30", "seconds to tell them")
            .ignored(OF_MODELS),
        Field::new("initial_backoff_s", POSITIVE, "0.025", "seconds of the first pause")
            .ignored(OF_MODELS),
        Field::new("backoff_multiplier", POSITIVE, "2", "how much longer each pause is")
            .ignored(OF_MODELS),
        Field::new("max_backoff_s", POSITIVE, "0.5", "seconds of the longest pause")
            .ignored(OF_MODELS),
    ],
};
