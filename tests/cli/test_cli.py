"""The commands: their results, and one clear line for errors."""

import hashlib
import importlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from small import small_config, text_file

from matrixstate.cli.__main__ import main
from matrixstate.cli.commands import COMMANDS
from matrixstate.configs import encode
from matrixstate.mixers import FAMILIES, MIXERS
from matrixstate.ops import OPS
from matrixstate.training import CHOICES, Run, load_model

GROWING = ("attention", "block_recurrent", "forgetting_attention", "mru_attention", "shared_attention")
"""Mixers whose state grows with the sequence, that of block_recurrent up to its window."""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty directory to work in, with beer.txt and config.yaml; the config names no file."""
    monkeypatch.chdir(tmp_path)
    data = encode(small_config(tmp_path), CHOICES)
    del data["data"]["files"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    return tmp_path


@pytest.fixture
def run(workplace, capsys):
    """A trained run."""
    assert main(["train", "config.yaml", "--text", "beer.txt", "--out", "run"]) == 0
    capsys.readouterr()
    return "run"


def output(capsys, *arguments):
    assert main(list(map(str, arguments))) == 0
    return capsys.readouterr().out


def test_train_prints_its_result(workplace, capsys):
    out = output(capsys, "train", "config.yaml", "--text", "beer.txt", "--steps", 5, "--seed", 3, "--threads", 1)
    assert re.search(r"validation: \d\.\d+ nats per token, \d\.\d+ bits per byte", out)
    assert "matrixstate generate runs/small" in out
    config = yaml.safe_load((workplace / "runs" / "small" / "config.yaml").read_text())
    assert (config["training"]["steps"], config["seed"]) == (5, 3)
    assert config["data"]["files"] == [str(workplace / "beer.txt")]
    assert json.loads((workplace / "runs" / "small" / "environment.json").read_text())["threads"] == 1
    again = json.loads(output(capsys, "train", "config.yaml", "--text", "beer.txt", "--steps", 2, "--json"))
    assert again["run"] == "runs/small-2"
    assert again["step"] == 2
    assert again["nats_per_token"] > 0


def test_several_texts_and_overrides(workplace, capsys):
    (workplace / "more.txt").write_text("wine " * 50)
    out = output(
        capsys, "train", "config.yaml", "--text", "beer.txt", "--text", "more.txt", "--set", "training.steps=2",
        "--set", "model.blocks.1.mixer={kind: mru, heads: 1, state_size: 16}", "--set", "data.tokenizer=byte",
        "--out", "two", "--json",
    )  # fmt: skip
    assert json.loads(out)["step"] == 2
    config = yaml.safe_load((workplace / "two" / "config.yaml").read_text())
    assert config["model"]["blocks"][1]["mixer"]["kind"] == "mru"
    assert config["model"]["vocabulary"] == 256


def test_a_dry_run_counts_and_writes_nothing(workplace, capsys):
    plan = json.loads(output(capsys, "train", "config.yaml", "--text", "beer.txt", "--dry-run", "--json"))
    counts = plan["counts"]
    assert 0 < counts["parameters_without_embeddings"] < counts["parameters"]
    assert counts["state_bytes"] > 0
    assert counts["flops_per_token"] > 2 * counts["parameters_without_embeddings"] * 0.8
    assert plan["steps"] == 12
    assert plan["tokens_per_step"] == 64
    assert plan["memory_bytes"] > 16 * counts["parameters"]
    assert plan["seconds"] > 0
    assert plan["tried"]
    less = ("--dry-run", "--json", "--set", "training.recompute=blocks")
    again = json.loads(output(capsys, "train", "config.yaml", "--text", "beer.txt", *less))
    assert 16 * counts["parameters"] < again["memory_bytes"] < plan["memory_bytes"]
    table = output(capsys, "train", "config.yaml", "--text", "beer.txt", "--dry-run")
    for word in (
        "parameters",
        "without embeddings",
        "state per sequence",
        "FLOPs per token",
        "memory",
        "steps",
        "time",
    ):
        assert word in table
    assert not (workplace / "runs").exists()


def test_a_dry_run_of_a_large_preset_allocates_nothing(workplace, capsys):
    out = output(capsys, "train", "config.yaml", "--set", "model=m2rnn-410m", "--dry-run", "--json")
    plan = json.loads(out)
    assert plan["counts"]["parameters"] == 513_497_024
    assert not plan["tried"]


def test_the_command_that_train_suggests_works_without_line_breaks(workplace, capsys):
    (workplace / "lower.txt").write_text("so it goes on " * 40)
    out = output(capsys, "train", "config.yaml", "--text", "lower.txt", "--out", "lower", "--steps", 2)
    arguments = re.search(r"try: matrixstate (.*)", out)[1].split()
    assert len(output(capsys, *arguments, "--tokens", 5).rstrip("\n")) == 6


def test_generate_is_seeded_and_streams_its_prompt(run, capsys):
    first = output(capsys, "generate", run, "--prompt", "10 b", "--tokens", 20, "--seed", 1)
    assert first.startswith("10 b")
    assert len(first.rstrip("\n")) >= 20
    assert output(capsys, "generate", run, "--prompt", "10 b", "--tokens", 20, "--seed", 1) == first
    assert output(capsys, "generate", run, "--prompt", "10 b", "--tokens", 20, "--seed", 2) != first
    greedy = output(capsys, "generate", run, "--prompt", "10 b", "--greedy")
    assert greedy == output(capsys, "generate", run, "--prompt", "10 b", "--temperature", 0, "--seed", 5)


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_skipping_a_damaged_checkpoint_warns(command, run, capsys):
    weights = Path(run, "checkpoints", "step-00000012", "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    for _ in range(2):  # on every call
        assert main([command, run]) == 0
        errors = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
        expected = rf"matrixstate: warning: run: {weights} must have \d+ bytes, got \d+; using step-0000001?\d"
        assert len(errors) == 1
        assert re.fullmatch(expected, errors[0])


@pytest.mark.parametrize("tokenizer", ["character", "byte"])
def test_a_larger_vocabulary_than_the_tokenizers_generates_text(tokenizer, workplace, capsys):
    options = ["--set", "model.vocabulary=3000", "--set", f"data.tokenizer={tokenizer}", "--steps", "1"]
    assert main(["train", "config.yaml", "--text", "beer.txt", "--out", "run", *options]) == 0
    assert len(output(capsys, "generate", "run", "--tokens", 50, "--temperature", 5)) > 50


def test_a_model_that_is_not_finite_is_named_and_its_json_is_json(run, capsys, monkeypatch):
    def diverged(*arguments):
        model = load_model(*arguments)
        torch.nn.init.constant_(next(model.parameters()), torch.nan)
        return model

    for command in ("generate", "evaluate"):
        monkeypatch.setattr(sys.modules[f"matrixstate.cli.{command}"], "load_model", diverged)
    assert main(["generate", run, "--greedy"]) == 1
    expected = "matrixstate: error: generate: expected finite logits, got NaN or infinity: the model has diverged\n"
    assert capsys.readouterr().err == expected
    out = output(capsys, "evaluate", run, "--json")
    assert "NaN" not in out
    assert json.loads(out)["nats_per_token"] is None


def test_generate_takes_several_prompts(run, capsys):
    out = output(capsys, "generate", run, "--prompt", "1", "--prompt", "20 bottles", "--tokens", 9, "--json")
    texts = json.loads(out)["texts"]
    assert [t["prompt"] for t in texts] == ["1", "20 bottles"]
    assert all(len(t["text"]) == 9 for t in texts)
    alone = output(capsys, "generate", run, "--prompt", "20 bottles", "--tokens", 9, "--seed", 1, "--json")
    assert json.loads(alone)["texts"][0]["text"] == texts[1]["text"]
    shown = output(capsys, "generate", run, "--prompt", "1", "--prompt", "20 bottles", "--tokens", 9)
    assert f"20 bottles{texts[1]['text']}" in shown


def test_evaluate_counts_every_byte_of_the_file(run, capsys, tmp_path):
    path = tmp_path / "odd.txt"
    path.write_bytes(b"9 bottles of beer\non the wall")
    loss = json.loads(output(capsys, "evaluate", run, "--text", path, "--window", 8, "--json"))
    assert loss["bytes"] == path.stat().st_size == loss["tokens"] == loss["characters"]
    assert loss["bits_per_byte"] == pytest.approx(
        loss["nats_per_token"] * loss["tokens"] / loss["bytes"] / 0.6931471805599453
    )
    assert sum(part["tokens"] for part in loss["by_position"]) == loss["tokens"] - 1
    carried = json.loads(output(capsys, "evaluate", run, "--text", path, "--window", 8, "--carry", "--json"))
    assert carried["carry"]
    assert carried["nats_per_token"] != loss["nats_per_token"]


def test_evaluate_reads_the_validation_text_by_default(run, capsys):
    loss = json.loads(output(capsys, "evaluate", run, "--json"))
    status = json.loads(Path(run, "status.json").read_text())
    assert loss["nats_per_token"] == pytest.approx(status["nats_per_token"])
    assert loss["window"] == 16
    table = output(capsys, "evaluate", run)
    assert "bits_per_byte" in table
    assert "8-15" in table


def test_list_describes_every_mixer(capsys):
    listed = json.loads(output(capsys, "list", "--width", 64, "--json"))["mixers"]
    assert listed.keys() == MIXERS.keys()
    for kind, about in listed.items():
        assert all(about[key] for key in ("recurrence", "state", "source", "forms")), kind
        assert set(about["forms"]) <= {"parallel", "chunked", "step"}
        assert about["backends"].keys() == {backend.name for backend in OPS.get(about["op"], ())}
        assert (about["state_bytes_per_token"] > 0) == (kind in GROWING)
    assert listed["gated_deltanet"]["state_bytes_per_sequence"] == 4 * (4 * 32 * 32 + 3 * 3 * 4 * 32)
    assert listed["attention"]["state_bytes_per_token"] == 4 * 2 * 64
    text = output(capsys, "list", "--width", 50)
    assert all(f"\n{kind}\n" in f"\n{text}" for kind in MIXERS)
    assert "the default options do not fit width 50" in text
    headings = [line for line in text.splitlines() if line.startswith("== ")]
    assert [line.split()[1] for line in headings] == [f"{family}:" for family in FAMILIES]
    assert {kind for kind, about in listed.items() if about["family"] == "outer"} == FAMILIES["outer"].MIXERS.keys()
    of_cells = json.loads(output(capsys, "list", "--family", "cells", "--json"))["mixers"]
    assert of_cells.keys() == FAMILIES["cells"].MIXERS.keys()
    assert main(["list", "--family", "cell"]) == 1
    expected = f"--family: expected one of {', '.join(FAMILIES)}, got 'cell'; did you mean 'cells'?"
    assert expected in capsys.readouterr().err
    assert main(["list", "--width", "0"]) == 1
    assert "--width: expected at least 1, got 0" in capsys.readouterr().err


def test_info_lists_every_op_with_its_backends(capsys):
    about = json.loads(output(capsys, "info", "--json"))
    available = {"float32 on cpu": "available", "bfloat16 on cpu": "available"}
    assert about["ops"]["matrix_scan"]["reference"] == available
    assert about["ops"].keys() == OPS.keys()
    assert about["backends"]["float32 on cpu"]["attention"] == "sdpa"
    assert about["devices"][0] == "cpu"
    assert "torch" in about["packages"]
    assert "matrix_scan" in output(capsys, "info")


def test_info_has_columns_for_every_device_and_names_what_cannot_run(capsys, monkeypatch):
    module = importlib.import_module("matrixstate.cli.info")
    monkeypatch.setattr(module, "kinds_here", lambda: ["cpu", "cuda"])
    monkeypatch.setattr(module, "describe", lambda device: f"{device} with a name")
    text = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output(capsys, "info").splitlines()]
    assert ["device", "cuda with a name"] in text
    assert any(cells[0] == "attention" and cells[-1] == "sdpa" and len(cells) == 5 for cells in text if cells)
    (refusal,) = [cells for cells in text if cells[:1] == ["onednn"] and "torch.bfloat16 on cuda" in cells[1]]
    assert refusal[2] == "linear"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_comes_from_the_docstrings(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert COMMANDS[command].__doc__.strip().splitlines()[0].split(",")[0][:40] in text
    assert "--json" in text


def test_debug_shows_the_traceback(capsys):
    assert main(["generate", "nowhere", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["trian"], ["train", "--seeed", "3"], ["train", "--seed", "x"], []], ids=str)
def test_arguments_that_do_not_parse_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def command(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "matrixstate.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.slow
def test_ctrl_c_saves_and_prints_how_to_resume(workplace):
    with command("train", "config.yaml", "--text", "beer.txt", "--out", "run", "--steps", "100000") as process:
        deadline = time.monotonic() + 120
        while not (workplace / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    step = int(re.search(r"stopped after step (\d+); resume it with: matrixstate train --resume run", out)[1])
    assert "Traceback" not in err
    status = json.loads((workplace / "run" / "status.json").read_text())
    assert status == {"status": "stopped", "step": step}


@pytest.mark.parametrize("module", ["tyro", "torch"])
def test_ctrl_c_during_startup_gives_one_line(module):
    script = """if True:
        import sys
        class Finder:
            def find_spec(name, path=None, target=None):
                if name == sys.argv[1]:
                    raise KeyboardInterrupt
        sys.meta_path.insert(0, Finder)
        from matrixstate.cli.__main__ import main
        sys.exit(main(["list"]))"""
    done = subprocess.run([sys.executable, "-c", script, module], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (130, "matrixstate: interrupted\n")


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(run):
    with command("generate", run, "--tokens", "3000") as process:
        process.stdout.read(10)
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


def test_resuming_a_finished_run_gives_the_same_result(workplace, capsys):
    text_file(workplace)
    assert main(["train", "config.yaml", "--text", "beer.txt", "--out", "whole", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    again = json.loads(output(capsys, "train", "--resume", "whole", "--json"))
    assert again["step"] == whole["step"] == 12
    assert again["nats_per_token"] == whole["nats_per_token"]


@pytest.mark.slow
def test_the_demo_ends_with_a_table_samples_and_a_figure(workplace, capsys):
    (workplace / "kings.txt").write_text("KING:\nOnce more unto the breach, dear friends.\n\n" * 100)
    out = output(capsys, "demo", "--steps", 2, "--out", "demo", "--text", "kings.txt")
    for name in ("MRU", "M²RNN", "attention (GPT-2)", "control: gated short convolution only", "control: MLP only"):
        assert f"--- {name} writes:\nKING:" in out
    assert "bits per" in out
    assert (workplace / "demo" / "loss.png").read_bytes()[:4] == b"\x89PNG"
    numbers = json.loads(output(capsys, "demo", "--steps", 1, "--out", "demo", "--text", "kings.txt", "--json"))
    assert numbers["figure"] == "demo-2/loss.png"
    parameters = [model["parameters"] for model in numbers["models"]]
    assert max(parameters) / min(parameters) < 1.02
    assert {model["model"] for model in numbers["models"]} == {"mru", "m2rnn", "attention", "conv", "mlp"}


def test_a_changed_config_is_refused_with_its_differences(workplace, capsys):
    assert main(["train", "config.yaml", "--text", "beer.txt", "--out", "run"]) == 0
    capsys.readouterr()
    changed = ["train", "--resume", "run", "--steps", "15", "--set", "training.clip=0.5", "--set", "model.dropout=0.3"]
    assert main(changed) == 1
    assert capsys.readouterr().err.splitlines() == [
        "matrixstate: error: --resume: model.dropout: the run has 0.1, got 0.3; this cannot change in a run",
        "matrixstate: error: --resume: training.steps: the run has 12, got 15; accept with --accept training.steps",
        "matrixstate: error: --resume: training.clip: the run has 1.0, got 0.5; accept with --accept training.clip",
    ]
    assert main([*changed, "--accept", "training.steps", "--accept", "model.dropout", "--accept", "training.clip"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    accepted = ["train", "--resume", "run", "--steps", "15", "--accept", "training.steps", "--json"]
    assert json.loads(output(capsys, *accepted))["step"] == 15
    assert yaml.safe_load((workplace / "run" / "config.yaml").read_text())["training"]["steps"] == 15
    assert yaml.safe_load((workplace / "run" / "config-1.yaml").read_text())["training"]["steps"] == 12


def test_an_edited_config_is_refused_with_its_differences(run, capsys):
    config = Path(run, "config.yaml")
    data = yaml.safe_load(config.read_text())
    data["seed"], data["training"]["learning_rate"] = 7, 0.5
    config.write_text(yaml.safe_dump(data))
    assert main(["train", "--resume", run]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "matrixstate: error: --resume: training.learning_rate: the run has 0.001, got 0.5; "
        "accept with --accept training.learning_rate",
        "matrixstate: error: --resume: seed: the run has 0, got 7; this cannot change in a run",
    ]
    data["seed"] = 0
    config.write_text(yaml.safe_dump(data))
    assert main(["train", "--resume", run, "--accept", "training.learning_rate"]) == 0


def test_a_checkpoint_without_a_config_can_be_resumed(run):
    checkpoint = Path(run, "checkpoints", "step-00000012")
    state, manifest = checkpoint / "state.json", checkpoint / "manifest.json"
    state.write_text('{"step": 12}')
    about = json.loads(manifest.read_text())
    about["state.json"] = {"bytes": 12, "sha256": hashlib.sha256(state.read_bytes()).hexdigest()}
    manifest.write_text(json.dumps(about))
    assert main(["train", "--resume", run]) == 0


def test_a_run_killed_before_its_first_checkpoint_starts_again(run, capsys):
    whole = json.loads(Path(run, "status.json").read_text())
    shutil.rmtree(Path(run, "checkpoints"))
    assert main(["train", "--resume", run, "--json"]) == 0
    captured = capsys.readouterr()
    assert "matrixstate: no checkpoint in run/checkpoints; starting at step 0\n" in captured.err
    assert json.loads(captured.out)["nats_per_token"] == whole["nats_per_token"]
    assert [line["step"] for line in Run.open(Path(run)).metrics() if "loss" in line] == [*range(1, 13)]


def test_a_run_resumes_with_the_threads_it_was_started_with(workplace, capsys):
    assert main(["train", "config.yaml", "--text", "beer.txt", "--out", "run", "--threads", "2"]) == 0
    torch.set_num_threads(1)
    assert main(["train", "--resume", "run"]) == 0
    assert torch.get_num_threads() == 2


def test_autopsy_names_what_went_wrong(workplace, capsys):
    options = ["--set", "training.learning_rate=1e30", "--set", "training.clip=1e30", "--set", "training.warmup=0"]
    assert main(["train", "config.yaml", "--text", "beer.txt", "--out", "run", *options]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    bundle = re.search(r"replay it with: matrixstate autopsy (\S+)$", error)[1]
    found = json.loads(output(capsys, "autopsy", bundle, "--json"))
    assert found["fault"]["float32"]["op"] in found["verdict"]
    shown = output(capsys, "autopsy", bundle)
    assert "float32" in shown
    assert found["verdict"].split(";")[0][:40] in " ".join(shown.split())


def test_check_certifies_a_run_and_a_config(run, capsys):
    found = json.loads(output(capsys, "check", run, "--tokens", 9, "--no-compile", "--json"))
    assert found["passes"]
    assert {row["way"] for row in found["rows"]} >= {"as it is", "step by step", "packed documents"}
    assert "all ways agree" in output(capsys, "check", "config.yaml", "--tokens", 9, "--no-compile")


def test_check_fails_with_the_ways_that_differ(run, capsys, monkeypatch):
    from matrixstate.layers import short_conv

    conv = short_conv.causal_conv
    monkeypatch.setattr(short_conv, "causal_conv", lambda *args, reset, **options: conv(*args, reset=None, **options))
    assert main(["check", run, "--tokens", "9", "--no-compile"]) == 1
    out = capsys.readouterr().out
    assert "these ways differ: packed documents" in out
    assert "FAILS" in out


def test_a_text_continues_from_a_state_file(run, workplace, capsys):
    generate = ["generate", run, "--prompt", "10 b", "--seed", 4]
    whole = output(capsys, *generate, "--tokens", 30)
    first = output(capsys, *generate, "--tokens", 12, "--save-state", "s.safetensors")
    rest = output(capsys, "generate", run, "--tokens", 18, "--load-state", "s.safetensors")
    assert first.removesuffix("\n") + rest == whole
    forks = output(
        capsys,
        "generate",
        run,
        "--load-state",
        "s.safetensors",
        "--prompt",
        "1",
        "--prompt",
        "2",
        "--tokens",
        5,
        "--json",
    )
    assert [t["prompt"] for t in json.loads(forks)["texts"]] == ["1", "2"]
    two = [*generate, "--prompt", "2", "--tokens", 5, "--save-state", "two.safetensors", "--json"]
    assert len(json.loads(output(capsys, *two))["texts"]) == 2
    both = output(capsys, "generate", run, "--load-state", "two.safetensors", "--tokens", 5, "--json")
    assert [len(t["text"]) for t in json.loads(both)["texts"]] == [5, 5]
    assert main(["train", "config.yaml", "--text", "beer.txt", "--out", "other", "--seed", "9"]) == 0
    assert main(["generate", "other", "--load-state", "s.safetensors"]) == 1
    assert re.search(r"state: s.safetensors belongs to the model \w+, got the model \w+", capsys.readouterr().err)


def test_inspect_draws_every_layer_with_a_matrix_state(run, workplace, capsys):
    out = output(capsys, "inspect", run, "--text", "10 bottles of beer")
    assert out.split() == ["run/inspect/layer-0.png", "run/inspect/inspect.json"]
    data = json.loads((workplace / "run" / "inspect" / "inspect.json").read_text())
    assert "".join(data["tokens"]) == "10 bottles of beer"
    shown = json.loads(output(capsys, "inspect", run, "--file", "beer.txt", "--token", 3, "--json"))
    assert shown["dropped"] == 3
    assert len(shown["layers"][0]["rank"]) == 200
