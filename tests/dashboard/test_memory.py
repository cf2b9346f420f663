"""How much memory the dashboard takes a machine, or its share of one, to have."""

import os

import pytest
from ssmlens_dashboard.views.cache import MOST, budget
from ssmlens_dashboard.views.memory import memory

WHOLE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
MIB = 1 << 20


@pytest.fixture
def grouped(tmp_path):
    """grouped(lines, {file: text}): the memory of a process that is in these groups."""

    def found(lines, limits):
        for name, text in limits.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "cgroup").write_text(lines)
        return memory(tmp_path / "cgroup", tmp_path / "groups")

    return found


def test_without_a_group_it_is_the_machines(grouped, tmp_path):
    assert memory(tmp_path / "nothing", tmp_path) == WHOLE
    assert grouped("0::/\n", {"memory.max": "max\n"}) == WHOLE
    assert grouped("", {}) == WHOLE
    assert 0 < memory() <= WHOLE


def test_a_limit_of_a_group_counts_and_of_all_it_lies_in(grouped):
    own = {"a/b/memory.max": f"{64 * MIB}\n", "a/memory.max": "max\n"}
    assert grouped("0::/a/b\n", own) == 64 * MIB
    assert grouped("0::/a/b\n", own | {"a/memory.max": f"{32 * MIB}\n"}) == 32 * MIB
    assert grouped("0::/a\n", own | {"a/memory.max": "max\n"}) == WHOLE, "b is not above it"


def test_a_container_sees_its_own_group_as_the_first(grouped):
    assert grouped("0::/\n", {"memory.max": f"{48 * MIB}\n"}) == 48 * MIB
    assert grouped("0::/docker/0123\n", {"memory.max": f"{48 * MIB}\n"}) == 48 * MIB
    assert grouped("0::/../../other\n", {"memory.max": f"{48 * MIB}\n"}) == 48 * MIB


def test_groups_of_the_first_version(grouped):
    lines = "12:cpu,cpuacct:/x\n5:memory:/jobs/7\n0::/x\n"
    limits = {
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
        "memory/jobs/7/memory.limit_in_bytes": f"{96 * MIB}\n",
        "cpu/x/memory.limit_in_bytes": "1\n",
    }
    assert grouped(lines, limits) == 96 * MIB


@pytest.mark.parametrize("text", ["", "\n", "-1\n", "x", "\x00", "1.5\n"])
def test_what_is_no_number_is_no_limit(grouped, text):
    assert grouped("0::/\nno line of this kind\n:\n", {"memory.max": text}) == WHOLE


@pytest.mark.parametrize(
    ("there", "kept"), [(512 * MIB, 64 * MIB), (4096 * MIB, 512 * MIB), (1 << 40, MOST)]
)
def test_the_cache_has_an_eighth_of_it_and_a_gibibyte_at_most(monkeypatch, there, kept):
    monkeypatch.setattr("ssmlens_dashboard.views.cache.memory", lambda: there)
    assert budget() == kept
