"""Tables of the commands, with any names in them and on any output."""

from matrixstate.cli.output import print_table


def test_names_with_brackets_are_printed_as_they_are(capsys):
    print_table(("", "run [/b]"), [("GRU [red]x", "a [/i] :smile:")], title="of [b]")
    out = capsys.readouterr().out
    for name in ("run [/b]", "GRU [red]x", "a [/i] :smile:", "of [b]"):
        assert name in out


def test_a_table_that_goes_to_a_file_is_not_truncated(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    cells = [f"3.4625 ± {i:04d}" for i in range(20)]
    print_table([f"column {i}" for i in range(20)], [cells])
    line = capsys.readouterr().out.splitlines()[3]
    assert all(cell in line for cell in cells)
