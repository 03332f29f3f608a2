"""`@serve.deployment`, `options` and `bind`."""

import functools

import pytest

from tyndall import serve
from tyndall.serve import Application, Deployment
from tyndall.serve.config import BackpressureConfig


@serve.deployment
class Model:
    def __init__(self, *args, **kwargs):
        self.made_from = args, kwargs


@serve.deployment(name="named", num_replicas=2, user_config={"a": 1})
class Named:
    def reconfigure(self, config):
        self.config = config


@serve.deployment
def function():
    return 1


def test_it_is_made_with_and_without_options():
    assert (Model.name, Named.name, function.name) == ("Model", "named", "function")
    assert Named.func_or_class.__name__ == "Named"
    assert Named.user_configured_option_names == {"name", "num_replicas", "user_config"}
    assert Model.user_configured_option_names == set()
    assert repr(Named) == "Deployment(name=named)"


def test_what_was_not_set_has_rays_defaults():
    assert Model.num_replicas == 1
    assert Model.max_ongoing_requests == 5
    assert Model.max_queued_requests == -1
    assert Model.user_config is None
    assert Model.backpressure_config == BackpressureConfig(status_code=503, retry_after_s=None)
    assert Model.ray_actor_options == {"num_cpus": 1}
    assert Model.options(ray_actor_options={"num_gpus": 1}).ray_actor_options == {"num_cpus": 1, "num_gpus": 1}
    assert Model.logging_config is None
    assert (Model.init_args, Model.init_kwargs) == ((), {})


def test_a_lambda_has_a_name_that_can_be_used():
    assert serve.deployment(lambda: 1).name == "lambda"


@pytest.mark.parametrize("target", [3, "name", None, functools.partial(print), Model])
def test_other_targets_are_refused(target):
    with pytest.raises(TypeError, match="must be called on a class or function"):
        serve.deployment()(target)


def test_a_target_that_is_not_callable_is_refused_without_parentheses_too():
    with pytest.raises(TypeError, match="must be called on a class or function"):
        serve.deployment(3)
    with pytest.raises(TypeError, match="options are given by name"):
        serve.deployment(print, print)


def test_it_is_not_constructed_called_or_subclassed():
    with pytest.raises(RuntimeError, match=r"@serve.deployment.*\.bind\(\)"):
        Deployment("a")
    with pytest.raises(RuntimeError, match=r"\.bind\(\)"):
        Model()
    with pytest.raises(RuntimeError, match=r"\.bind\(\)"):
        function()
    with pytest.raises(RuntimeError, match=r"subclassed"):

        class Sub(Model):
            pass


def test_options_make_a_copy():
    other = Named.options(name="other", num_replicas=3)
    assert (Named.name, Named.num_replicas) == ("named", 2)
    assert (other.name, other.num_replicas, other.user_config) == ("other", 3, {"a": 1})
    assert other.func_or_class is Named.func_or_class
    assert Named.options(user_config=None).user_config is None


def test_options_are_checked_as_the_decorator_checks():
    with pytest.raises(ValueError, match="num_replicas is expected to larger than 0"):
        Model.options(num_replicas=0)
    with pytest.raises(ValueError, match="has been removed"):
        Model.options(version="2")
    with pytest.raises(TypeError, match="foo"):
        Model.options(foo=1)
    with pytest.raises(ValueError, match="max_replicas_per_node is not allowed"):
        Model.options(max_replicas_per_node=1).options(placement_group_bundles=[{"CPU": 1}])


def test_a_number_after_autoscaling_is_warned_of(warned):
    scaled = Model.options(autoscaling_config={"max_replicas": 4})
    assert scaled.options(num_replicas=3)._options["autoscaling_config"].max_replicas == 4
    assert ["num_replicas=3" in line and "autoscaling_config=None" in line for line in warned()] == [True]
    fixed = scaled.options(num_replicas=3, autoscaling_config=None)
    assert fixed._options["autoscaling_config"] is None
    assert len(warned()) == 1


def test_auto_keeps_what_the_code_said_of_autoscaling():
    scaled = Model.options(autoscaling_config={"max_replicas": 4}).options(num_replicas="auto")
    made = scaled._options["autoscaling_config"]
    assert (made.max_replicas, made.user_set()) == (4, {"max_replicas": 4})


def test_equality_is_of_all_that_can_be_read():
    assert Model == Model.options()
    assert Model != Model.options(max_ongoing_requests=6)
    assert Model != Model.options(health_check_period_s=3)
    assert Model != "Model"
    with pytest.raises(TypeError, match="unhashable"):
        hash(Model)


def test_bind_makes_an_application():
    app = Model.bind(1, two=2)
    assert isinstance(app, Application)
    assert (app._bound.init_args, app._bound.init_kwargs) == ((1,), {"two": 2})
    assert (Model.init_args, Model.init_kwargs) == ((), {})
    assert app != Model.bind(1, two=2), "each is a deployment of its own"


def test_bind_of_a_function_takes_nothing():
    assert isinstance(function.bind(), Application)
    with pytest.raises(ValueError, match="takes no arguments"):
        function.bind(1)


def test_an_application_is_not_made_of_anything_else():
    with pytest.raises(TypeError, match="`bind`"):
        Application(Model.func_or_class)


def test_arguments_of_another_binding_can_be_given():
    assert Model.options(_init_args=(1,), _init_kwargs={"a": 2}).init_kwargs == {"a": 2}
