"""What kernels run on: threads and memory."""

from lucid.kernels.runtime.memory import empty, workspace
from lucid.kernels.runtime.threads import get_num_threads, run, run_steps, set_num_threads

__all__ = ["empty", "get_num_threads", "run", "run_steps", "set_num_threads", "workspace"]
