"""Language models; the same as `tyndall.serve.llm`."""

from tyndall.serve.llm import *  # noqa: F403
from tyndall.serve.llm import __all__ as __all__
