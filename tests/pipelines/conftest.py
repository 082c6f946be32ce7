"The main job, run once a session for the tests of the pipeline and of the pages that it leaves."

from pathlib import Path

import projects
import pytest


@pytest.fixture(scope="session")
def main_job(tmp_path_factory) -> projects.Run:
    "A fresh clone after `stockml run`."
    return projects.pair(tmp_path_factory.getbasetemp() / "projects")[0]


@pytest.fixture(scope="session")
def project(main_job) -> Path:
    "Its folder. Read it; to change it, copy it first."
    assert main_job.code == 0, main_job.err
    return main_job.folder
