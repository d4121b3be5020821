from server.cli.progress import ProgressLines


def test_lines_are_few_and_tell_beginning_and_end() -> None:
    lines: list[str] = []
    progress = ProgressLines(lines.append)
    for stage, total in (("read", 3), ("embed", 1000), ("index", 1)):
        for done in range(total + 1):
            progress.tell(stage, done, total)
    progress.tell("nothing", 0, 0)
    assert lines[:4] == ["read 0/3", "read 1/3", "read 2/3", "read 3/3"]
    assert lines[4:7] == ["embed 0/1000", "embed 100/1000", "embed 200/1000"]
    assert lines[-4:] == ["embed 1000/1000", "index 0/1", "index 1/1", "nothing 0/0"]
