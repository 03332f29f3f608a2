"""The demo model with room for aider's prompts."""

from checkpoints import demo_with_a_long_context
from checks import work

demo_with_a_long_context(work() / "model", 16384)
