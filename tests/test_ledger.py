"""The fidelity ledger says what the tests say."""

import ledger


def test_the_page_is_what_the_tests_say():
    assert ledger.page() == ledger.PAGE.read_text(), "run `python tests/ledger.py`"
