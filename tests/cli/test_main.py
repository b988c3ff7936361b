"""The words of the command line."""

from __future__ import annotations

import pytest

from lucid.cli.main import main, parser


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "required: COMMAND"),
        ("train", "required: task"),
        ("train chess", "invalid choice: 'chess'"),
        ("train digits --epochs 0", "--epochs: '0' is not a whole number from 1 up"),
        ("train digits --epochs many", "'many' is not a whole number"),
        ("train digits --epochs -3", "--epochs"),
        ("train digits --lr 0", "'0' is not a number above 0"),
        ("train digits --lr nan", "'nan' is not a number above 0"),
        ("train digits --lr inf", "'inf' is not a number above 0"),
        ("train digits --batch-size 1.5", "'1.5' is not a whole number"),
        ("train digits --seed -1", "--seed"),
        ("train digits --threads 0", "'0' is not a whole number from 1 up"),
        ("train digits --fast", "unrecognized arguments: --fast"),
        ("predict", "required: checkpoint"),
    ],
)
def test_wrong_use_is_one_line_and_status_two(line: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(line.split())
    printed = capsys.readouterr().err
    assert left.value.code == 2
    assert complaint in printed and "--help" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("line", ["--help", "train --help", "predict --help", "export --help"])
def test_help_has_examples_that_parse(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(line.split())
    assert left.value.code == 0
    _, _, examples = capsys.readouterr().out.partition("examples:\n")
    shown = [row.strip().split("   ")[0] for row in examples.splitlines()]
    assert shown
    for example in shown:
        words = example.split()
        assert words[0] == "lucid"
        parser().parse_args(words[1:])


def test_help_names_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for default in ("15 for digits, 30 for vowels", "(default: 0.003)", "64 for digits, 16 for vowels", "runs/TASK"):
        assert default in printed
