"A small project in a folder of its own, and its champion: `small.py FOLDER`. For who has a clean clone and needs a model."

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import projects

done = projects.run(projects.clone(Path(sys.argv[1])), "run")
if done.code:
    sys.exit(done.err)
