"""A source distribution has no benchmark suite; where it is missing nothing is tested."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("benchmarks") else ["test_*.py"]
