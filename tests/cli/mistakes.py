"""Mistakes on the command line, and the exact error lines that each must give.

PLACE stands for the directory of the test, "..." for text that depends on the machine or a library's version.
"""

from matrixstate.mixers import MIXERS

TRAIN = ["train", "config.yaml"]


def options(*assignments: str) -> list[str]:
    """`train` with options of the config."""
    return [*TRAIN, *(word for assignment in assignments for word in ("--set", assignment))]


MISTAKES = {
    "an unknown key": (
        options("training.stepz=3"),
        ["training.stepz: unknown key; did you mean 'steps'?"],
    ),
    "an unknown section": (
        options("trainning.steps=3"),
        ["trainning: unknown key; did you mean 'training'?"],
    ),
    "an unknown key far from any": (
        options("model.qqqqqq=3"),
        [
            "model.qqqqqq: unknown key; known: blocks, dropout, embedding_scale, learned_positions, logit_cap, norm, tied, "
            "vocabulary, width"
        ],
    ),
    "two mistakes at once": (
        options("training.stepz=3", "model.width=-4"),
        ["model.width: expected at least 1, got -4", "training.stepz: unknown key; did you mean 'steps'?"],
    ),
    "an unknown mixer": (
        options("model.blocks.0.mixer=mrx"),
        ["model.blocks.0.mixer: unknown name 'mrx'; did you mean 'mru'?"],
    ),
    "a mixer without a kind": (
        options("model.blocks.0.mixer={heads: 2}"),
        [f"model.blocks.0.mixer: expected a mapping with a kind, one of {', '.join(MIXERS)}, got {{'heads': 2}}"],
    ),
    "an unknown option of a mixer": (
        options("model.blocks.0.mixer.haeds=2"),
        ["model.blocks.0.mixer.haeds: unknown key; did you mean 'heads'?"],
    ),
    "an unknown preset": (
        options("model=shakespeare-mr"),
        ["model: unknown name 'shakespeare-mr'; did you mean 'shakespeare-mru'?"],
    ),
    "a state that is no square": (
        options("model.blocks.0.mixer={kind: mru, heads: 1, state_size: 12}"),
        ["model.blocks.0.mixer.state_size: expected heads times a perfect square, got 12 for 1 heads"],
    ),
    "an unknown builder": (
        options("model.blocks.0.mixer={kind: mru, builder: qr}"),
        [
            "model.blocks.0.mixer.builder: expected one of reshape_identity, scalar_det, scalar_frobenius, ldu, cayley, matrix_exp, householder, cayley_qr, ldu_newton_schulz, got 'qr'"
        ],
    ),
    "an unknown scan": (
        options("model.blocks.0.mixer={kind: mru, heads: 1, method: fast}"),
        [
            "model.blocks.0.mixer.method: expected one of auto, sequential, hillis_steele, sklansky, brent_kung, chunked, got 'fast'"
        ],
    ),
    "a write that rescales": (
        options("model.blocks.0.mixer={kind: mru, heads: 1, write: true}"),
        ["model.blocks.0.mixer.rescale: expected false where write is true, got true"],
    ),
    "heads that do not divide": (
        options("model.blocks.0.mixer={kind: attention, heads: 5}"),
        ["model.blocks.0.attention: width must be a multiple of heads = 5, got 16"],
    ),
    "head counts that do not divide": (
        options("model.blocks.0.mixer={kind: m2rnn, heads: 8, key_heads: 3}"),
        ["model.blocks.0.mixer.key_heads: expected a divisor of 8, got 3"],
    ),
    "no heads": (
        options("model.blocks.0.mixer={kind: m2rnn, heads: 0}"),
        ["model.blocks.0.mixer.heads: expected at least 1, got 0"],
    ),
    "learned positions without a number": (
        options("model.blocks.0.mixer={kind: attention, positions: learned}"),
        ["model.blocks.0.mixer.max_positions: expected with learned positions and only there, got None"],
    ),
    "an unknown kind of positions": (
        options("model.blocks.0.mixer={kind: attention, positions: sine}"),
        ["model.blocks.0.mixer.positions: expected one of none, learned, rotary, xpos, got 'sine'"],
    ),
    "an unknown activation": (
        options("model.blocks.0.mlp.activation=tanh"),
        [
            "model.blocks.0.mlp.activation: expected one of gelu, relu, swish, glu, bilinear, reglu, geglu, geglu_tanh, swiglu, got 'tanh'"
        ],
    ),
    "text for a number": (
        options("model.width=wide"),
        ["model.width: expected a whole number, got 'wide'"],
    ),
    "a fraction for a count": (
        options("training.steps=2.5"),
        ["training.steps: expected a whole number, got 2.5"],
    ),
    "a number for a choice": (
        options("training.precision=16"),
        ["training.precision: expected one of float32, bfloat16, auto, tf32, got 16"],
    ),
    "a number for a switch": (
        options("model.tied=1"),
        ["model.tied: expected true or false, got 1"],
    ),
    "a list for a mapping": (
        options("training=[1, 2]"),
        ["training: expected a mapping of options, got [1, 2]"],
    ),
    "a mapping for a list": (
        options("model.blocks={mlp: {}}"),
        ["model.blocks: expected a list, got {'mlp': {}}"],
    ),
    "no blocks": (
        options("model.blocks=[]"),
        ["model.blocks: expected at least one block, got none"],
    ),
    "an empty block": (
        options("model.blocks=[{}]"),
        ["model.blocks.0.mixer: expected a mixer or an mlp, got neither"],
    ),
    "a block repeated no times": (
        options("model.blocks.1.repeat=0"),
        ["model.blocks.1.repeat: expected at least 1, got 0"],
    ),
    "no width": (
        options("model.width=null"),
        ["model.width: expected a whole number, got None"],
    ),
    "a vocabulary of one": (
        options("model.vocabulary=1"),
        ["model.vocabulary: expected 2 or more, got 1"],
    ),
    "a vocabulary smaller than the text's": (
        [*options("model.vocabulary=4"), "--text", "beer.txt"],
        ["model.vocabulary: expected at least 26, the tokenizer's, got 4"],
    ),
    "dropout of everything": (
        options("model.dropout=1.0"),
        ["model.dropout: expected a number in [0, 1), got 1.0"],
    ),
    "negative steps": (
        [*TRAIN, "--steps", "-5"],
        ["training.steps: expected at least 1, got -5"],
    ),
    "no batch": (
        options("training.batch=0"),
        ["training.batch: expected at least 1, got 0"],
    ),
    "an accumulation that does not divide": (
        options("training.accumulate=3"),
        ["training.accumulate: expected a divisor of batch = 4, got 3"],
    ),
    "a negative rate": (
        options("training.learning_rate=-0.1"),
        ["training.learning_rate: expected a positive number, got -0.1"],
    ),
    "a rate that is no number": (
        options("training.learning_rate=.nan"),
        ["training.learning_rate: expected a positive number, got nan"],
    ),
    "an infinite rate": (
        options("training.learning_rate=.inf"),
        ["training.learning_rate: expected a positive number, got inf"],
    ),
    "a negative seed": (
        [*TRAIN, "--seed", "-1"],
        ["seed: expected 0 or more, got -1"],
    ),
    "a cap of no number and a negative scale": (
        options("model.logit_cap=.inf", "model.embedding_scale=-1"),
        [
            "model.embedding_scale: expected a positive number, got -1.0",
            "model.logit_cap: expected a positive number, got inf",
        ],
    ),
    "a sequence beyond learned positions": (
        options("model.learned_positions=8"),
        ["training.sequence: expected at most 8, the learned positions, got 16"],
    ),
    "a model larger than memory": (
        [*options("model.width=200000"), "--text", "beer.txt"],
        ["model: expected at most this machine's ... GB for weights and optimizer, got a model that needs 3,840 GB"],
    ),
    "sizes that overflow": (
        options("model.width=100000000000"),
        ["model.blocks.1: expected sizes that a computer can address, got far larger ones"],
    ),
    "a head count that overflows": (
        options("model.blocks.0.mixer={kind: m2rnn, heads: 1000000000000, value_size: 1000000}"),
        ["model.blocks.0: expected sizes that a computer can address, got far larger ones"],
    ),
    "an override without a value": (
        options("training.steps"),
        ["--set training.steps: expected KEY.KEY=VALUE"],
    ),
    "an override of nothing": (
        options("=3"),
        ["--set =3: expected KEY.KEY=VALUE"],
    ),
    "an override beyond a list": (
        options("model.blocks.9.repeat=2"),
        ["--set model.blocks.9.repeat=2: expected an index below 2, got '9'"],
    ),
    "an override below a number": (
        options("training.steps.x=2"),
        ["--set training.steps.x=2: expected a mapping of options with 'x' in it, got 2"],
    ),
    "an override that is no YAML": (
        options("training.steps=["),
        ["--set training.steps=[: not YAML: ..."],
    ),
    "an option given twice": (
        ["train", "twice.yaml"],
        ["config twice.yaml: training: expected one value, got a second in line 3"],
    ),
    "a date that is none": (
        options("training.steps=2024-13-45"),
        ["training.steps: expected a whole number, got '2024-13-45'"],
    ),
    "a number beyond any": (
        options(f"training.learning_rate={10**400}"),
        [f"training.learning_rate: expected a number, got {10**400}"],
    ),
    "a name with a path": (
        options("name=../../up"),
        ["name: expected letters, digits, '-', '_' and '.', got '../../up'"],
    ),
    "a name that hides": (
        options("name=.hidden"),
        ["name: expected letters, digits, '-', '_' and '.', got '.hidden'"],
    ),
    "an empty name": (
        options("name=''"),
        ["name: expected letters, digits, '-', '_' and '.', got ''"],
    ),
    "an unknown source": (
        options("data.source=web"),
        ["data.source: expected one of shakespeare, tiny-shakespeare, tinystories, got 'web'"],
    ),
    "an unknown tokenizer": (
        options("data.tokenizer=words"),
        ["data.tokenizer: expected one of byte, character, bpe, got 'words'; names of plug-ins need --plugin FILE"],
    ),
    "a validation share of everything": (
        options("data.validation=1.0"),
        ["data.validation: expected a share between 0 and 1, got 1.0"],
    ),
    "a config that is missing": (
        ["train", "none.yaml"],
        ["config none.yaml: No such file or directory"],
    ),
    "a config that is a directory": (
        ["train", "run"],
        ["config run: Is a directory"],
    ),
    "a config that is no YAML": (
        ["train", "broken.yaml"],
        ["config broken.yaml: not YAML: ..."],
    ),
    "a config that is a list": (
        ["train", "list.yaml"],
        ["config list.yaml: expected a mapping of options, got list"],
    ),
    "a config that is empty": (
        ["train", "empty.txt"],
        ["config empty.txt: expected a mapping of options, got NoneType"],
    ),
    "a config that is binary": (
        ["train", "binary.bin"],
        ["config binary.bin: not YAML: ..."],
    ),
    "a config that runs code": (
        ["train", "code.yaml"],
        ["config code.yaml: not YAML: ..."],
    ),
    "a text that is missing": (
        [*TRAIN, "--text", "none.txt"],
        ["text: cannot read PLACE/none.txt: No such file or directory"],
    ),
    "a text that is empty": (
        [*TRAIN, "--text", "empty.txt"],
        ["text: expected at least two characters in PLACE/empty.txt, got 0"],
    ),
    "a text of one character": (
        [*TRAIN, "--text", "one.txt"],
        ["text: expected at least two characters in PLACE/one.txt, got 1"],
    ),
    "a text of one character again and again": (
        [*TRAIN, "--text", "same.txt"],
        ["text: expected at least two different characters in PLACE/same.txt, got 'a' alone"],
    ),
    "a text of white space": (
        [*TRAIN, "--text", "blank.txt"],
        ["text: expected more than white space in PLACE/blank.txt"],
    ),
    "a log without steps": (
        ["train", "--resume", "no-steps"],
        ["run: no-steps/metrics.jsonl is damaged: expected a step in every line"],
    ),
    "a tokenizer smaller than the data": (
        ["evaluate", "few-tokens"],
        ["run: few-tokens/data/train.bin must hold the tokenizer's 2 tokens, got 25"],
    ),
    "a text that is no UTF-8": (
        [*TRAIN, "--text", "latin.txt"],
        ["text: PLACE/latin.txt is not UTF-8: byte 0xe9 at 3"],
    ),
    "a folder without text": (
        [*TRAIN, "--text", "folder"],
        ["text: expected files ending in .txt, .md, .text, .tokens in PLACE/folder, got none"],
    ),
    "a link that leads nowhere": (
        [*TRAIN, "--text", "dangling.txt"],
        ["text: cannot read PLACE/dangling.txt: No such file or directory"],
    ),
    "a link that leads to itself": (
        [*TRAIN, "--text", "loop.txt"],
        ["text: cannot read PLACE/loop.txt: Too many levels of symbolic links"],
    ),
    "a text shorter than a sequence": (
        [*TRAIN, "--text", "short.txt"],
        ["batches: sequence must be shorter than the training text of 9 tokens, got 16"],
    ),
    "a directory in use": (
        [*TRAIN, "--text", "beer.txt", "--out", "run"],
        [
            "out: expected a new or empty directory, got run with files in it; resume it with: matrixstate train --resume run"
        ],
    ),
    "an out that is a file": (
        [*TRAIN, "--text", "beer.txt", "--out", "beer.txt"],
        ["out: cannot write beer.txt: Not a directory"],
    ),
    "an out below a file": (
        [*TRAIN, "--text", "beer.txt", "--out", "beer.txt/run"],
        ["out: cannot write beer.txt/run: Not a directory"],
    ),
    "an out that cannot be written": (
        [*TRAIN, "--text", "beer.txt", "--out", "/proc/run"],
        ["out: cannot write /proc/run: No such file or directory"],
    ),
    "no config": (
        ["train"],
        ["train: expected a CONFIG file or --resume RUN, got neither"],
    ),
    "no threads": (
        [*TRAIN, "--threads", "0"],
        ["--threads: expected at least 1, got 0"],
    ),
    "no threads to resume with": (
        ["train", "--resume", "run", "--threads", "0"],
        ["--threads: expected at least 1, got 0"],
    ),
    "resuming to a step before": (
        ["train", "--resume", "run", "--steps", "1", "--accept", "training.steps"],
        ["--resume: training.steps: expected at least the 2 done, got 1"],
    ),
    "resuming with other options": (
        ["train", "--resume", "run", "--steps", "9"],
        ["--resume: training.steps: the run has 2, got 9; accept with --accept training.steps"],
    ),
    "resuming with another model": (
        ["train", "--resume", "run", "--set", "model.width=8"],
        ["--resume: model.width: the run has 16, got 8; this cannot change in a run"],
    ),
    "resuming elsewhere": (
        ["train", "--resume", "run", "--out", "x"],
        ["--resume: expected neither --out nor --dry-run, got --out"],
    ),
    "resuming a plan": (
        ["train", "--resume", "run", "--dry-run"],
        ["--resume: expected neither --out nor --dry-run, got --dry-run"],
    ),
    "resuming nothing": (
        ["train", "--resume", "none"],
        ["run: expected a run directory with none/config.yaml: No such file or directory"],
    ),
    "accepting an unknown option": (
        ["train", "--resume", "run", "--accept", "training.stepz"],
        ["--accept training.stepz: unknown key; did you mean 'training.steps'?"],
    ),
    "accepting what the text is too short for": (
        ["train", "--resume", "run", "--set", "training.sequence=1000000", "--accept", "training.sequence"],
        ["batches: sequence must be shorter than the training text of ... tokens, got 1000000"],
    ),
    "accepting rates of nothing": (
        [
            *("train", "--resume", "run", "--set", "training.rates=[{parameters: x, factor: 1.0}]"),
            *("--accept", "training.rates"),
            *("--accept", "training.rates.0.parameters", "--accept", "training.rates.0.factor"),
        ],
        ["training.rates.0.parameters: expected the name of a parameter, such as ..., or one with * in it, got 'x'"],
    ),
    "planning rates of nothing": (
        [*options("training.rates=[{parameters: x, factor: 1.0}]"), "--text", "beer.txt", "--dry-run"],
        ["training.rates.0.parameters: expected the name of a parameter, such as ..., or one with * in it, got 'x'"],
    ),
    "planning a sequence longer than the text": (
        [*options("training.sequence=1000000"), "--text", "beer.txt", "--dry-run"],
        ["batches: sequence must be shorter than the training text of ... tokens, got 1000000"],
    ),
    "planning a vocabulary smaller than the text's": (
        [*options("model.vocabulary=4"), "--text", "beer.txt", "--dry-run"],
        ["model.vocabulary: expected at least 26, the tokenizer's, got 4"],
    ),
    "accepting without resuming": (
        [*TRAIN, "--accept", "training.steps"],
        ["--accept: expected only with --resume"],
    ),
    "generating from nothing": (
        ["generate", "none"],
        ["run: expected a run directory with none/config.yaml: No such file or directory"],
    ),
    "generating from a file": (
        ["generate", "beer.txt"],
        ["run: expected a run directory with beer.txt/config.yaml: Not a directory"],
    ),
    "a damaged config": (
        ["generate", "damaged"],
        ["run: damaged/config.yaml is damaged: ..."],
    ),
    "a damaged tokenizer": (
        ["generate", "no-tokenizer"],
        ["run: no-tokenizer/data/tokenizer.json is damaged: KeyError: 'kind'"],
    ),
    "characters never seen": (
        ["generate", "run", "--prompt", "Ω"],
        ["tokenizer: expected the 26 characters seen in training, got also 'Ω'"],
    ),
    "a NUL in a prompt": (
        ["generate", "run", "--prompt", "a\u0000b"],
        ["tokenizer: expected the 26 characters seen in training, got also '\\x00'"],
    ),
    "an empty prompt": (
        ["generate", "run", "--prompt", ""],
        ["generate: prompts must hold at least one token each, got an empty one"],
    ),
    "no tokens": (
        ["generate", "run", "--tokens", "0"],
        ["--tokens: expected at least 1, got 0"],
    ),
    "a negative temperature": (
        ["generate", "run", "--temperature", "-1"],
        ["temperature: expected 0 or more, got -1.0"],
    ),
    "a temperature that is no number": (
        ["generate", "run", "--temperature", "nan"],
        ["temperature: expected 0 or more, got nan"],
    ),
    "a temperature that overflows": (
        ["generate", "run", "--temperature", "1e-300"],
        ["temperature: expected 0 or one that keeps logits finite, got 1e-300"],
    ),
    "no best": (
        ["generate", "run", "--top-k", "0"],
        ["top_k: expected at least 1, got 0"],
    ),
    "a share beyond one": (
        ["generate", "run", "--top-p", "1.5"],
        ["top_p: expected a number in (0, 1], got 1.5"],
    ),
    "no such checkpoint": (
        ["generate", "run", "--checkpoint", "7"],
        ["run: expected checkpoint latest, best or a step of 2, got '7'"],
    ),
    "a checkpoint by another name": (
        ["generate", "run", "--checkpoint", "last"],
        ["run: expected checkpoint latest, best or a step of 2, got 'last'"],
    ),
    "a state that is missing": (
        ["generate", "run", "--load-state", "none"],
        ["state: cannot read none: ..."],
    ),
    "a state that is none": (
        ["generate", "run", "--load-state", "beer.txt"],
        ["state: beer.txt is damaged: ..."],
    ),
    "weights for a state": (
        ["generate", "run", "--load-state", "run/checkpoints/step-00000002/model.safetensors"],
        ["state: run/checkpoints/step-00000002/model.safetensors must hold a matrixstate state 1, got None"],
    ),
    "a state that cannot be written": (
        ["generate", "run", "--tokens", "1", "--save-state", "/proc/x"],
        ["state: cannot write /proc/x: ..."],
    ),
    "evaluating nothing": (
        ["evaluate", "none"],
        ["run: expected a run directory with none/config.yaml: No such file or directory"],
    ),
    "an empty text to evaluate": (
        ["evaluate", "run", "--text", "empty.txt"],
        ["evaluate: expected at least one token, got an empty text"],
    ),
    "unknown characters to evaluate": (
        ["evaluate", "run", "--text", "latin-ok.txt"],
        ["tokenizer: expected the 26 characters seen in training, got also 'c', 'é'"],
    ),
    "a window of nothing": (
        ["evaluate", "run", "--window", "-3"],
        ["evaluate: window must be 1 or more, got -3"],
    ),
    "a window of zero": (
        ["evaluate", "run", "--window", "0"],
        ["evaluate: window must be 1 or more, got 0"],
    ),
    "too few tokens to check": (
        ["check", "run", "--tokens", "7"],
        ["--tokens: expected at least 8, got 7"],
    ),
    "checking nothing": (
        ["check", "none"],
        ["config none: No such file or directory"],
    ),
    "checking a run with other options": (
        ["check", "run", "--set", "model.foo=3"],
        ["--set: expected only with a config file, got the run run"],
    ),
    "a text too short to check": (
        ["check", "run", "--tokens", "5000"],
        ["check: expected at least 10000 tokens of validation text, got 311"],
    ),
    "nothing to inspect": (
        ["inspect", "run"],
        ["inspect: expected either --text or --file"],
    ),
    "too much to inspect": (
        ["inspect", "run", "--text", "1", "--file", "beer.txt"],
        ["inspect: expected either --text or --file"],
    ),
    "a text too short to inspect": (
        ["inspect", "run", "--text", "1"],
        ["inspect: expected 2 to 4096 tokens, got 1"],
    ),
    "a token that is not there": (
        ["inspect", "run", "--text", "10 b", "--token", "4"],
        ["inspect: the token must be 0 to 3, got 4"],
    ),
    "an automaton of nothing": (
        ["automaton", "none"],
        ["run: expected a run directory with none/config.yaml: No such file or directory"],
    ),
    "an automaton of a text's run": (
        ["automaton", "run"],
        ["run: expected a run on a task, got one on a text: run"],
    ),
    "a needle in nothing": (
        ["needle", "none"],
        ["run: expected a run directory with none/config.yaml: No such file or directory"],
    ),
    "a needle longer than its haystack": (
        ["needle", "run", "--lengths", "5", "--trials", "0"],
        ["lengths: expected at least 83 tokens each, got (5,)", "trials: expected at least 1, got 0"],
    ),
    "a haystack that is too short": (
        ["needle", "run", "--lengths", "9999"],
        ["needle: expected a text of at least 9999 tokens, got 311"],
    ),
    "a bundle that is missing": (
        ["autopsy", "none"],
        ["autopsy: expected a bundle in none: No such file or directory"],
    ),
    "a bundle that is none": (
        ["autopsy", "run"],
        ["autopsy: expected a bundle in run: No such file or directory"],
    ),
    "no steps between corrections": (
        ["correct", "task", "--every", "0"],
        ["--every: expected at least 1, got 0"],
    ),
    "a correction with too few and too many": (
        ["correct", "task", "--codes", "0", "--sharpness", "nan", "--length", "0", "--sequences", "0"],
        [
            "--codes: expected 1 to 4096, got 0",
            "--sharpness: expected a positive number, got nan",
            "--length: expected at least 1, got 0",
            "--sequences: expected at least 1, got 0",
        ],
    ),
    "more codes than can be found": (
        ["correct", "task", "--codes", "1000000"],
        ["--codes: expected 1 to 4096, got 1000000"],
    ),
    "generating from a task's run": (
        ["generate", "task"],
        ["run: expected a run on a text, got one on a task: task; measure it with: matrixstate track task"],
    ),
    "evaluating a task's run": (
        ["evaluate", "task"],
        ["run: expected a run on a text, got one on a task: task; measure it with: matrixstate track task"],
    ),
    "checking a task's run that has no checkpoint": (
        ["check", "task"],
        ["run: expected a checkpoint in task/checkpoints, got none"],
    ),
    "resuming a run of an older version": (
        ["train", "--resume", "old"],
        ["run: old was written by an older matrixstate; train it again"],
    ),
    "a task beside the data": (
        ["check", "old/config.yaml"],
        ["task: expected under data, as in data: {kind: parity}"],
    ),
    "a seed beyond 64 bits": (
        [*TRAIN, "--seed", "99999999999999999999"],
        ["seed: expected less than 2**63, got 99999999999999999999"],
    ),
    "generating with a seed beyond 64 bits": (
        ["generate", "run", "--seed", "99999999999999999999"],
        ["seed: expected less than 2**63, got 99999999999999999999"],
    ),
    "demonstrating with a seed beyond 64 bits": (
        ["demo", "--seed", "99999999999999999999", "--text", "beer.txt"],
        ["seed: expected less than 2**63, got 99999999999999999999"],
    ),
    "more threads than any machine has": (
        ["generate", "run", "--threads", "1099511627776"],
        ["--threads: expected at most 1024, got 1099511627776"],
    ),
    "a state in no directory": (
        ["generate", "run", "--tokens", "1000000000", "--save-state", "nodir/x"],
        ["state: cannot write nodir/x: No such file or directory"],
    ),
    "a figure in no directory": (
        ["needle", "run", "--trials", "1000000000", "--figure", "nodir/x.png"],
        ["figure: cannot write nodir/x.png: No such file or directory"],
    ),
    "a figure without an ending": (
        ["track", "run", "--figure", "acc"],
        ["figure: expected a name that ends in one of ...png..., got acc"],
    ),
    "a figure that is a directory": (
        ["automaton", "run", "--figure", "folder"],
        ["figure: cannot write folder: Is a directory"],
    ),
    "inspecting into a file": (
        ["inspect", "run", "--text", "10 b", "--out", "beer.txt"],
        ["out: cannot write beer.txt: File exists"],
    ),
    "an out that is here": (
        [*TRAIN, "--text", "beer.txt", "--out", "."],
        [
            "out: expected a new or empty directory, got . with files in it; resume it with: matrixstate train --resume ."
        ],
    ),
    "an out that is everything": (
        [*TRAIN, "--text", "beer.txt", "--out", "/"],
        [
            "out: expected a new or empty directory, got / with files in it; resume it with: matrixstate train --resume /"
        ],
    ),
    "a demonstration below a file": (
        ["demo", "--text", "beer.txt", "--out", "beer.txt/x"],
        ["out: cannot write beer.txt/x: Not a directory"],
    ),
    "no steps to demonstrate": (
        ["demo", "--steps", "0"],
        ["--steps: expected at least 1, got 0"],
    ),
    "a demonstration on nothing": (
        ["demo", "--text", "empty.txt"],
        ["text: expected at least two characters in PLACE/empty.txt, got 0"],
    ),
}
