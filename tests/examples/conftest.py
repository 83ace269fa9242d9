"""The scripts find `shipped` beside them, as the folder of a script that is run is on the path."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))
