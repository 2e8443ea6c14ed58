"""The command line, called in this process: `python -m snn_functional ...`."""

import pytest

from snn_functional import __main__ as command


def run(*argv):
    return command.main([*map(str, argv)])


def refused(capsys, *argv):
    """The one line that a call is refused with, which prints nothing else."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        run(*argv)
    out, err = capsys.readouterr()
    assert exit.value.code == 2 and out == "" and err.count("\n") == 1, (out, err)
    assert err.startswith("python -m snn_functional"), err
    return err
