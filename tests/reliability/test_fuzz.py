"""The short form of the fuzzer: the corpus, and some mutants of every reader."""

from tests.reliability.fuzz import FINE, Worker, corpus, fuzz, replay, shares
from tests.reliability.readers import READERS

MUTANTS, SEED = 500, 0


def test_no_input_kills_or_fools_a_reader(tmp_path):
    worker = Worker(str(tmp_path))
    try:
        results = [
            *replay(worker, corpus()),
            *fuzz(worker, shares(MUTANTS, list(READERS)), SEED),
        ]
    finally:
        worker.close()
    assert {result.reader for result in results} == set(READERS)
    bad = [result for result in results if result.outcome not in FINE]
    assert not bad, "\n".join(map(str, bad[:10]))
