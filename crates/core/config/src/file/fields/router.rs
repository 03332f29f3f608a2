//! The fields of request routers, and the one that is built in.

use crate::file::kind::{Field, Kind, Object, POSITIVE};
use crate::file::node::Node;

const OF_MODELS: &str = "replicas of models are chosen by the proxy, by power of two choices";
const DEFAULT: &str = "\"ray.serve._private.request_router:PowerOfTwoChoicesRequestRouter\"";

/// Paths of the rule that is built in.
const BUILT_IN: [&str; 3] = [
    "ray.serve._private.request_router.PowerOfTwoChoicesRequestRouter",
    "ray.serve._private.request_router.pow_2_router.PowerOfTwoChoicesRequestRouter",
    "tyndall.serve.request_router.PowerOfTwoChoicesRequestRouter",
];

/// The path of the class of a router's map, where it is one that the application's code brings, or can
/// import.
pub(in crate::file) fn router_in_python(router: &Node) -> Option<&str> {
    let text = router.get("request_router_class")?.text()?;
    (!BUILT_IN.contains(&text.replace(':', ".").as_str())).then_some(text)
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

/// Of a model.
pub(super) static MODEL_ROUTER: Object = Object {
    name: "LLMConfig.deployment_config.request_router_config",
    is_open: false,
    fields: &[
        Field::new("request_router_class", Kind::ImportPath, DEFAULT, "what chooses")
            .ignored(OF_MODELS),
        Field::new("request_router_kwargs", Kind::Map, "{}", "its arguments").ignored(OF_MODELS),
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
