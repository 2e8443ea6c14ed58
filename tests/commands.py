"""The command line, called in this process: `python -m snn_functional ...`."""

import pytest

from snn_functional import __main__ as command


def run(*argv):
    return command.main([*map(str, argv)])


def ended(capsys, *argv):
    """What is printed by a call that ends in one line of complaint: that, and the line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        run(*argv)
    out, err = capsys.readouterr()
    assert exit.value.code == 2 and err.count("\n") == 1 and err.startswith("python -m snn_functional"), err
    assert len(err) < 700, err
    return out, err


def refused(capsys, *argv):
    """The one line that a call is refused with, which prints nothing else."""
    out, err = ended(capsys, *argv)
    assert out == "", out
    return err


def used_as_said(out, capsys):
    """The share of right answers that the lines print which say how to use the model."""
    lines = out.partition("to use the model:\n")[2].splitlines()
    exec("\n".join(line.strip() for line in lines if line.startswith("    ")), {})
    return float(capsys.readouterr().out.strip().removeprefix("tensor(").removesuffix(")"))
