//! Which policies may be named where.

use crate::file::check::object;
use crate::file::fields::{BUILT_IN_POLICIES, BuiltInPolicy, OWN_POLICIES, PolicyKind, in_python};
use crate::file::node::{Node, Value};
use crate::file::problem::{Problem, inside};

pub(super) fn of_deployment(policy: &Node, path: &str, problems: &mut Vec<Problem>) {
    check(policy, path, |kind| kind != PolicyKind::SharedBudget, problems);
}

pub(super) fn of_application(policy: &Node, path: &str, problems: &mut Vec<Problem>) {
    check(policy, path, |kind| kind == PolicyKind::SharedBudget, problems);
}

fn check(
    policy: &Node,
    path: &str,
    fits: impl Fn(PolicyKind) -> bool,
    problems: &mut Vec<Problem>,
) {
    if in_python(policy).is_some() {
        // Whether the application has code in Python is told of the application.
        return;
    }
    let at = policy.get("policy_function").unwrap_or(policy);
    let Some(found) = BuiltInPolicy::of(policy).filter(|found| fits(found.kind)) else {
        // A value that is no path at all has been told.
        if at.text().is_none_or(|text| text.contains(['.', ':'])) {
            let message = match BuiltInPolicy::of(policy) {
                None => "there is no such policy",
                Some(found) if found.kind == PolicyKind::SharedBudget => {
                    "this policy is for an application, not for one deployment"
                }
                Some(_) => "this policy is for one deployment, not for an application",
            };
            let fitting = BUILT_IN_POLICIES
                .iter()
                .filter(|one| fits(one.kind) && one.path.starts_with(OWN_POLICIES))
                .map(|one| one.path);
            let cure = format!("built in are {}", fitting.collect::<Vec<_>>().join(", "));
            let path = inside(path, "policy_function");
            problems.push(Problem::error(at, &path, message).with_cure(cure));
        }
        return;
    };
    if let Some(kwargs) = found.kwargs {
        let path = inside(path, "policy_kwargs");
        let none = policy.beside(Value::Map(Vec::new()));
        let given = policy.get("policy_kwargs").unwrap_or(&none);
        if matches!(given.value, Value::Map(_)) {
            object(kwargs, given, &path, problems);
        }
    }
}

/// Policies in Python are run by the Python of the application's own code: one that has none, such as
/// one of models, has nothing to run them.
pub(super) fn without_code<'a>(
    policies: impl Iterator<Item = (&'a Node, String)>,
    problems: &mut Vec<Problem>,
) {
    for (policy, path) in policies.filter(|(policy, _)| in_python(policy).is_some()) {
        let at = policy.get("policy_function").unwrap_or(policy);
        let message = "a policy in Python is for an application in Python";
        let cure = "write import_path: of one, or name a built-in policy of tyndall.policies";
        let path = inside(&path, "policy_function");
        problems.push(Problem::error(at, &path, message).with_cure(cure));
    }
}
