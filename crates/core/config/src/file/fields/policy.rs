//! The fields of autoscaling policies, and the policies that are built in.

use crate::file::kind::{COUNT, Field, Kind, Object, POSITIVE};
use crate::file::node::Node;

/// What a policy decides for, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::file) enum PolicyKind {
    OngoingRequests,
    QueueLength,
    Tokens,
    TimeToFirstToken,
    /// Of an application.
    SharedBudget,
}

/// A policy that a file may name.
#[derive(Debug)]
pub(in crate::file) struct BuiltInPolicy {
    /// `module:attribute`.
    pub(in crate::file) path: &'static str,
    pub(in crate::file) kind: PolicyKind,
    /// Absent: arguments are not looked at, as Ray hands none to a policy that is a function.
    pub(in crate::file) kwargs: Option<&'static Object>,
}

impl BuiltInPolicy {
    /// The one that a policy's map names, also with a dot for the colon; Ray's default where it
    /// names none.
    pub(in crate::file) fn of(policy: &Node) -> Option<&'static BuiltInPolicy> {
        let is_named = |text: &str, path: &str| {
            let (module, attribute) = path.split_once(':').unwrap_or_default();
            text == path
                || text.strip_prefix(module).and_then(|rest| rest.strip_prefix('.'))
                    == Some(attribute)
        };
        let text = policy.get("policy_function").map_or(Some(RAY_DEFAULT), Node::text)?;
        BUILT_IN_POLICIES.iter().find(|one| is_named(text, one.path))
    }
}

/// Begins the names of policies that are built in.
pub(in crate::file) const OWN_POLICIES: &str = "tyndall.policies";

/// The path of a policy that the application's code brings, or can import.
pub(in crate::file) fn in_python(policy: &Node) -> Option<&str> {
    let text = policy.get("policy_function")?.text()?;
    let is_own = |text: &str| {
        text.strip_prefix(OWN_POLICIES).is_some_and(|rest| rest.starts_with(['.', ':']))
    };
    let is_path = text.contains(['.', ':']) && !is_own(text);
    (is_path && BuiltInPolicy::of(policy).is_none()).then_some(text)
}

const RAY_DEFAULT: &str = "ray.serve.autoscaling_policy:default_autoscaling_policy";

/// Ray's names come last: messages list ours.
pub(in crate::file) static BUILT_IN_POLICIES: &[BuiltInPolicy] = &[
    policy("tyndall.policies:ongoing_requests", PolicyKind::OngoingRequests, None),
    policy("tyndall.policies:queue_length", PolicyKind::QueueLength, Some(&QUEUE_LENGTH)),
    policy("tyndall.policies:tokens", PolicyKind::Tokens, Some(&TOKENS)),
    policy(
        "tyndall.policies:time_to_first_token",
        PolicyKind::TimeToFirstToken,
        Some(&TIME_TO_FIRST_TOKEN),
    ),
    policy("tyndall.policies:shared_budget", PolicyKind::SharedBudget, Some(&SHARED_BUDGET)),
    policy(RAY_DEFAULT, PolicyKind::OngoingRequests, None),
    policy(
        "ray.serve.autoscaling_policy:replica_queue_length_autoscaling_policy",
        PolicyKind::OngoingRequests,
        None,
    ),
    policy(
        "tyndall.serve.autoscaling_policy:default_autoscaling_policy",
        PolicyKind::OngoingRequests,
        None,
    ),
    policy(
        "tyndall.serve.autoscaling_policy:replica_queue_length_autoscaling_policy",
        PolicyKind::OngoingRequests,
        None,
    ),
];

const fn policy(
    path: &'static str,
    kind: PolicyKind,
    kwargs: Option<&'static Object>,
) -> BuiltInPolicy {
    BuiltInPolicy { path, kind, kwargs }
}

pub(super) static POLICY: Object = Object {
    name: "AutoscalingPolicy",
    is_open: false,
    fields: &[
        Field::new(
            "policy_function",
            Kind::ImportPath,
            "\"ray.serve.autoscaling_policy:default_autoscaling_policy\"",
            "what decides: a built-in policy, or a function or class in Python",
        ),
        Field::new(
            "policy_kwargs",
            Kind::Map,
            "{}",
            "arguments: of a built-in policy as below, of a class in Python those of its `__init__`",
        ),
    ],
};

pub(super) static QUEUE_LENGTH: Object = Object {
    name: "tyndall.policies:queue_length",
    is_open: false,
    fields: &[Field::new(
        "target_queued_requests",
        POSITIVE,
        "",
        "requests that wait, per replica, that it aims at",
    )
    .required()],
};

pub(super) static TOKENS: Object = Object {
    name: "tyndall.policies:tokens",
    is_open: false,
    fields: &[
        Field::new(
            "target_tokens",
            POSITIVE,
            "",
            "tokens, worked on or waiting, per replica that it aims at",
        )
        .required(),
        Field::new(
            "max_kv_use",
            Kind::Number { least: 0.0, most: 1.0, above: true },
            "0.9",
            "share of the KV cache beyond which a replica is full",
        ),
    ],
};

/// Defaults are those of the policy that Ray's docs describe.
pub(super) static TIME_TO_FIRST_TOKEN: Object = Object {
    name: "tyndall.policies:time_to_first_token",
    is_open: false,
    fields: &[
        Field::new("target_s", POSITIVE, "2", "seconds above which a replica is added"),
        Field::new(
            "idle_threshold",
            POSITIVE,
            "1",
            "requests per replica below which one may go while the target is met",
        ),
    ],
};

pub(super) static SHARED_BUDGET: Object = Object {
    name: "tyndall.policies:shared_budget",
    is_open: false,
    fields: &[Field::new(
        "max_total_replicas",
        COUNT,
        "",
        "replicas of all deployments of the application together",
    )
    .required()],
};
