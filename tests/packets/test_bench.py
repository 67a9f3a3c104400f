"""The benchmark's packets do what their figures say they do: established ones are established, new ones are decided. No timing is
judged here; what was measured is printed."""

from pathlib import Path

import pytest
from tests.packets.harness.testrun import TestRun

from bench.bench import Bench
from bench.kernel import compared, counting_run_times, nothing_ns
from bench.packets import established, slow


def test_packets_of_the_benchmark(testrun: TestRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(quick=True, folder=tmp_path)
    with compared() as against:
        found = [*established(bench, testrun, against, 4), *slow(bench, testrun, against, 4)]
        with counting_run_times():
            assert nothing_ns(against, 1000) > 0
    assert len(found) == 8
    assert all(figure.value > 0 for figure in found)
    with capsys.disabled():
        for figure in found:
            print(f"\n  {figure.name}: {figure.value:.0f} {figure.unit}", end="")
