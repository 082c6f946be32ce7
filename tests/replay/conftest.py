"""A small replay, begun once, and what befell its copies.

Six stocks from June 2003 on, with a check every second day and one retraining, on the ninth session. The command, the service, the
spider, DVC and the gate are the real ones. The stories run side by side, each on a copy of the replay as it was after four days.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import projects
import pytest
from lives import BEGUN, SET, Place, alone, cut_off, full, killed, shaken, worse


@pytest.fixture(scope="session")
def begun(tmp_path_factory) -> Place:
    "A replay after its first four days. Read it; to go on with it, copy it."
    base = tmp_path_factory.mktemp("replays")
    place = Place(projects.clone(base / "project"), base / "begun")
    place.run(*(part for change in SET for part in ("--set", change)), to=BEGUN)
    return place


@pytest.fixture(scope="session")
def copy(begun) -> Callable[[str], Place]:
    "`copy(name)`: the begun replay, moved."
    def copied(name: str) -> Place:
        return Place(begun.project, projects.copy(begun.folder, begun.folder.with_name(name)))

    return copied


@pytest.fixture(scope="session")
def stories(copy) -> Iterator[dict[str, Future]]:
    "All of them, under way: the long ones first."
    told = (killed, alone, worse, shaken, full, cut_off)
    places = [copy(story.__name__) for story in told]
    pool = ThreadPoolExecutor(2)
    yield {story.__name__: pool.submit(story, place) for story, place in zip(told, places, strict=True)}
    pool.shutdown(cancel_futures=True)


@pytest.fixture
def lived(stories) -> Callable[[str], Place]:
    "`lived(story)`: the replay after it."
    return lambda name: stories[name].result()
