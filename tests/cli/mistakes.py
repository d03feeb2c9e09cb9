"""What users get wrong on the command line, and the one line that each mistake gets."""

TRAIN = ["train", "config.yaml"]

MISTAKES = {
    "an unknown key": ([*TRAIN, "--set", "training.stepz=3"], "training.stepz: unknown key; did you mean 'steps'?"),
    "two mistakes at once": (
        [*TRAIN, "--set", "training.stepz=3", "--set", "model.width=-4"],
        "model.width: expected at least 1, got -4",
    ),
    "a state that is no square": (
        [*TRAIN, "--set", "model.blocks.0.mixer={kind: mru, heads: 1, state_size: 12}"],
        "model.blocks.0.mixer.state_size: expected heads times a perfect square, got 12 for 1 heads",
    ),
    "heads that do not divide": (
        [*TRAIN, "--set", "model.blocks.0.mixer={kind: attention, heads: 5}"],
        "model.blocks.0.attention: width must be a multiple of heads = 5, got 16",
    ),
    "an empty text": ([*TRAIN, "--text", "empty.txt"], "expected at least two characters in "),
    "one character": ([*TRAIN, "--text", "one.txt"], "expected at least two characters in "),
    "no UTF-8": ([*TRAIN, "--text", "latin.txt"], "latin.txt is not UTF-8: byte 0xe9 at 3"),
    "a sequence longer than the text": (
        [*TRAIN, "--text", "short.txt"],
        "batches: sequence must be shorter than the training text of 9 tokens, got 16",
    ),
    "a missing text": ([*TRAIN, "--text", "none.txt"], "none.txt: No such file or directory"),
    "a missing config": (["train", "none.yaml"], "config none.yaml: No such file or directory"),
    "nothing to do": (["train"], "train: expected a CONFIG file or --resume RUN, got neither"),
    "resuming with other options": (
        ["train", "--resume", "run", "--steps", "9"],
        "--resume: training.steps: the run has 2, got 9; accept with --accept training.steps",
    ),
    "resuming elsewhere": (
        ["train", "--resume", "run", "--out", "x"],
        "expected neither --out nor --dry-run, got --out",
    ),
    "accepting without resuming": ([*TRAIN, "--accept", "training.steps"], "--accept: expected only with --resume"),
    "a missing run": (["generate", "none"], "run: expected a run directory with none/config.yaml: No such file"),
    "a missing run to evaluate": (["evaluate", "none"], "run: expected a run directory with none/config.yaml"),
    "a damaged run": (["generate", "damaged"], "run: damaged/config.yaml is damaged: "),
    "a run without a checkpoint": (["train", "--resume", "young"], "checkpoint in young/checkpoints, got none"),
    "a directory in use": ([*TRAIN, "--text", "beer.txt", "--out", "run"], "new or empty directory, got run"),
    "characters never seen": (["generate", "run", "--prompt", "Ω"], "characters seen in training, got also 'Ω'"),
    "an empty prompt": (["generate", "run", "--prompt", ""], "prompts must hold at least one token each"),
    "no tokens": (["generate", "run", "--tokens", "0"], "--tokens: expected at least 1, got 0"),
    "a negative temperature": (["generate", "run", "--temperature", "-1"], "temperature: expected 0 or more, got -1"),
    "an empty text to evaluate": (["evaluate", "run", "--text", "empty.txt"], "evaluate: expected at least one token"),
    "a window of nothing": (["evaluate", "run", "--window", "-3"], "evaluate: window must be 1 or more, got -3"),
    "too few tokens to check": (["check", "run", "--tokens", "7"], "--tokens: expected at least 8, got 7"),
    "no such checkpoint": (["generate", "run", "--checkpoint", "7"], "checkpoint latest, best or a step of 2, got '7'"),
    "a missing bundle": (["autopsy", "none"], "autopsy: expected a bundle in none: No such file"),
    "no threads": ([*TRAIN, "--threads", "0"], "--threads: expected at least 1, got 0"),
    "no steps": (["demo", "--steps", "0"], "--steps: expected at least 1, got 0"),
}
