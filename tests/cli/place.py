"""The directory in which the mistakes on the command line are made."""

import os
import shutil
from pathlib import Path

import yaml
from small import small_config

from matrixstate.configs import encode
from matrixstate.training import CHOICES, start, train


def make_place(place: Path) -> None:
    """Fills `place`: a config, good and bad texts and configs, a trained run, and damaged forms of it."""
    config = small_config(place, steps=2)
    data = encode(config, CHOICES)
    del data["data"]["files"]
    (place / "config.yaml").write_text(yaml.safe_dump(data))
    files = {
        "empty.txt": b"",
        "one.txt": b"x",
        "same.txt": b"a" * 900,
        "blank.txt": b" \n" * 400,
        "latin.txt": b"caf\xe9",
        "latin-ok.txt": "café".encode(),
        "short.txt": b"ten chars!",
        "broken.yaml": b"model: [",
        "list.yaml": b"- 1",
        "twice.yaml": b"training: {steps: 2}\nmodel: shakespeare-mru\ntraining: {batch: 4}",
        "binary.bin": bytes(range(256)),
        "code.yaml": b"a: !!python/object/apply:os.system ['true']",
    }
    for name, content in files.items():
        (place / name).write_bytes(content)
    (place / "folder").mkdir()
    for name, key in (("task", "data"), ("old", "task")):
        (place / name).mkdir()
        (place / name / "config.yaml").write_text(f"name: {name}\n{key}: parity\nmodel: shakespeare-mru")
    os.symlink("nowhere", place / "dangling.txt")
    os.symlink("loop.txt", place / "loop.txt")
    train(start(place / "run", config))
    for name in ("damaged", "young", "no-tokenizer", "no-steps", "few-tokens"):
        shutil.copytree(place / "run", place / name)
    (place / "damaged" / "config.yaml").write_text("width: [")
    shutil.rmtree(place / "young" / "checkpoints")
    (place / "no-tokenizer" / "data" / "tokenizer.json").write_text("{}")
    (place / "no-steps" / "metrics.jsonl").write_text('{"a": 1}\n')
    (place / "few-tokens" / "data" / "tokenizer.json").write_text('{"kind": "character", "characters": "ab"}')
