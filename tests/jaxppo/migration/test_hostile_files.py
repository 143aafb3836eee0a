"""Files that are no checkpoint, damaged, or meant to do harm: one line each, and nothing is executed or written."""

import contextlib
import io
import json
import pickle
import random
import zipfile

import pytest
from sb3_files import (
    CHECKPOINTS,
    archive_of,
    changed_data,
    changed_file,
    changed_tensors,
    files_of,
    pickled_class,
    serialised,
)

from jaxppo.errors import ConfigError
from jaxppo.migration import load_sb3
from jaxppo.migration.normalisation import read_normalisation

WHOLE = (CHECKPOINTS / "discrete.zip").read_bytes()
BOX, PPO = "gymnasium.spaces.box.Box", "stable_baselines3.common.policies.ActorCriticPolicy"


class Harmful:
    """Its pickle writes a file where it is loaded."""

    def __reduce__(self):
        return exec, ("open('harm', 'w').close()",)


HARM = pickle.dumps(Harmful(), protocol=4)
OLD_HARM = pickle.dumps(Harmful(), protocol=2)


def packed(name, content, **changes):
    """An archive of the checkpoint with one file more, whose entry in the list says something else."""
    buffer = io.BytesIO(WHOLE)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as zipped:
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        zipped.writestr(info, content)
        for key, value in changes.items():
            setattr(zipped.getinfo(name), key, value)
    return buffer.getvalue()


def twice():
    buffer = io.BytesIO(WHOLE)
    with zipfile.ZipFile(buffer, "a") as zipped, pytest.warns(UserWarning, match="Duplicate"):
        zipped.writestr("data", b"{}")
    return buffer.getvalue()


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def without(name):
    return archive_of({file: content for file, content in files_of(WHOLE).items() if file != name})


def text_of(key, **changes):
    return {key: json.loads(files_of(WHOLE)["data"])[key] | changes}


def tensors(change):
    return changed_tensors(WHOLE, "data.pkl", change)


FILES = {
    "empty": (lambda: b"", ["not a zip file"]),
    "text": (lambda: b"hello", ["not a zip file"]),
    "the first half": (lambda: WHOLE[: len(WHOLE) // 2], ["not a zip file"]),
    "the second half": (lambda: WHOLE[len(WHOLE) // 2 :], ["damaged"]),
    "a flipped bit": (lambda: flipped(WHOLE, 2000), ["is damaged"]),
    "another archive": (lambda: archive_of({"readme.txt": b"hello"}), ["has no data and policy.pth"]),
    "no weights": (lambda: without("policy.pth"), ["has no data and policy.pth"]),
    "a bomb": (lambda: packed("bomb", bytes(2**24)), ["bomb unpacks to 16777216 bytes", "more than 100 times"]),
    "a size that is too large": (lambda: packed("a", b"a", file_size=2**40), ["a unpacks to 1099511627776 bytes"]),
    "a size that is not true": (
        lambda: archive_of(files_of(WHOLE) | {"policy.pth": packed("a", b"a", file_size=2**31)}),
        ["policy.pth: a unpacks to 2147483648"],
    ),
    "a path above": (lambda: packed("../harm", b"a"), ["names a file outside of itself: ../harm"]),
    "a path of another system": (lambda: packed("a\\..\\..\\harm", b"a"), ["outside of itself"]),
    "a path from the root": (lambda: packed("/harm", b"a"), ["names a file outside of itself: /harm"]),
    "a file twice": (twice, ["holds two files named data"]),
    "a secret": (lambda: packed("policy.pth.x", b"a", compress_type=99), ["packed by method 99"]),
    "data that is no JSON": (lambda: changed_file(WHOLE, "data", lambda _: b"{"), ["data is no JSON"]),
    "data that is a list": (lambda: changed_file(WHOLE, "data", lambda _: b"[]"), ["data is no mapping"]),
    "data that is nested": (lambda: changed_file(WHOLE, "data", lambda _: b"[" * 10**5), ["data is no JSON"]),
    "data that is no text": (lambda: changed_file(WHOLE, "data", lambda _: b"\xff\xfe\xfa"), ["data is no JSON"]),
    "code in a space": (
        lambda: changed_data(WHOLE, observation_space=serialised(BOX, HARM)),
        ["observation_space", "names builtins.exec", "nothing was executed"],
    ),
    "old code in a space": (
        lambda: changed_data(WHOLE, action_space=serialised(BOX, OLD_HARM)), ["action_space", "names __builtin__.exec"]
    ),
    "code in the class": (
        lambda: changed_data(WHOLE, policy_class=serialised("abc.ABCMeta", HARM)),
        ["policy_class is a class of your own"],
    ),
    "code in the weights": (lambda: tensors(lambda _: HARM), ["policy.pth", "names builtins.exec"]),
    "weights that call themselves": (
        lambda: tensors(lambda data: data.replace(b"torch\nFloatStorage", b"os\nsystem")), ["names os.system"]
    ),
    "weights of another place": (
        lambda: tensors(lambda data: data.replace(b"X\x01\x00\x00\x000q", b"X\x04\x00\x00\x00../0q", 1)),
        ["has no file archive/data/../0"],
    ),
    "weights in half": (lambda: tensors(lambda data: data[:300]), ["is a damaged pickle"]),
    "weights that are missing": (lambda: changed_tensors(WHOLE, "data/0", lambda _: b""), ["damaged tensor"]),
    "weights that are not numbers": (
        lambda: changed_tensors(WHOLE, "data/0", lambda data: b"\xff" * len(data)), ["not finite"]
    ),
    "weights of an older torch": (
        lambda: changed_file(WHOLE, "policy.pth", lambda _: b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."),
        ["policy.pth: not a zip file"],
    ),
    "a pickle of marks alone": (lambda: tensors(lambda _: b"\x80\x02" + b"(" * 300_000), ["damaged pickle"]),
    "tuples in tuples as a key": (
        lambda: tensors(lambda _: b"\x80\x02})" + b"\x85" * 150_000 + b"Ns."), ["neither text nor a number"]
    ),
    "a number without end": (
        lambda: tensors(lambda _: b"\x80\x02\x8b" + (10**6).to_bytes(4, "little") + b"\x7f" * 10**6 + b"."), ["larger"]
    ),
    "a text without end": (lambda: tensors(lambda _: b"\x80\x04\x8d" + b"\xff" * 7 + b"\x0fa."), ["damaged pickle"]),
    "an instruction of old": (lambda: tensors(lambda _: b"(lp0\n."), ["with the instruction LIST"]),
    "no tensors": (lambda: tensors(lambda _: b"\x80\x02]."), ["holds no dictionary of tensors"]),
    "other layers": (
        lambda: tensors(lambda data: data.replace(b"mlp_extractor.policy_net.0.", b"features_extractor.cnn.0.w.")),
        ["holds features_extractor.cnn.0.w.weight", "MlpPolicy can be imported"],
    ),
    "a layer less": (
        lambda: tensors(lambda data: data.replace(b"policy_net.2.bias", b"policy_net.9.bias")),
        ["has no mlp_extractor.policy_net.2.bias"],
    ),
    "other observations": (
        lambda: changed_data(WHOLE, observation_space=text_of("action_space")["action_space"]),
        ["mlp_extractor.policy_net.0 has weights (7, 5)", "for 4 inputs"],
    ),
    "other actions": (
        lambda: changed_data(WHOLE, action_space=text_of("observation_space")["observation_space"]),
        ["action_net has 4 outputs", "Discrete [5] needs 5"],
    ),
    "no space": (lambda: changed_data(WHOLE, action_space=None), ["action_space is missing", "MultiBinary"]),
    "a dictionary of observations": (
        lambda: changed_data(WHOLE, observation_space=serialised("gymnasium.spaces.dict.Dict", b"")),
        ["observation_space is gymnasium.spaces.dict.Dict", "Box, Discrete, MultiDiscrete, MultiBinary"],
    ),
    "a space that is none": (
        lambda: changed_data(WHOLE, action_space=serialised(BOX, pickled_class("numpy.dtype"))), ["it is no space"]
    ),
    "a space in half": (
        lambda: changed_data(WHOLE, **text_of("action_space", **{":serialized:": "gAWV"})), ["action_space", "damaged"]
    ),
    "a space that is no text": (
        lambda: changed_data(WHOLE, **text_of("action_space", **{":serialized:": 3})), ["action_space is damaged"]
    ),
    "a policy of images": (
        lambda: changed_data(
            WHOLE, policy_class=serialised("abc.ABCMeta", pickled_class(PPO.replace("CriticPolicy", "CriticCnnPolicy")))
        ),
        ["policy_class is stable_baselines3.common.policies.ActorCriticCnnPolicy", "can be imported"],
    ),
    "a recurrent policy": (
        lambda: changed_data(
            WHOLE, policy_class=serialised("abc.ABCMeta", pickled_class("sb3_contrib.common.recurrent.policies.Lstm"))
        ),
        ["policy_class is sb3_contrib.common.recurrent.policies.Lstm"],
    ),
    "no policy": (lambda: changed_data(WHOLE, policy_class=None), ["policy_class is missing"]),
    "another activation": (
        lambda: changed_data(WHOLE, policy_kwargs={"activation_fn": "<class 'torch.nn.modules.activation.PReLU'>"}),
        ["activation_fn is <class 'torch.nn.modules.activation.PReLU'>", "LeakyReLU"],
    ),
    "an activation of your own": (
        lambda: changed_data(WHOLE, policy_kwargs={"activation_fn": "<class '__main__.ReLU'>"}), ["__main__.ReLU"]
    ),
    "another extractor": (
        lambda: changed_data(WHOLE, policy_kwargs={"features_extractor_class": "<class 'mine.Extractor'>"}),
        ["features_extractor_class is <class 'mine.Extractor'>", "FlattenExtractor"],
    ),
    "options that are none": (lambda: changed_data(WHOLE, policy_kwargs=3), ["policy_kwargs is no mapping"]),
}  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory, where harm would be done."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(read, path):
    with pytest.raises(ConfigError) as caught:
        read(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    return line


@pytest.mark.parametrize("case", FILES)
def test_checkpoints(case, place):
    make, needles = FILES[case]
    (place / "model.zip").write_bytes(make())
    line = refused(load_sb3, "model.zip")
    assert all(needle in line for needle in needles), line
    assert [path.name for path in place.iterdir()] == ["model.zip"]
    assert not (place.parent / "harm").exists()


@pytest.mark.parametrize(
    ("path", "needle"), [("nowhere", "no such file"), (".", "is not a file"), ("x" * 300, "File name too long")]
)
def test_paths(path, needle, place):
    assert needle in refused(load_sb3, path)


def test_a_pickle_would_have_done_harm(place):
    pickle.loads(HARM)
    assert (place / "harm").exists()


NORMALISATIONS = {
    "code": (HARM, ["names builtins.exec"]),
    "text": (b"hello", ["damaged pickle"]),
    "something else": (pickle.dumps([1.0]), ["holds no VecNormalize"]),
    "in half": ((CHECKPOINTS / "squashed.pkl").read_bytes()[:900], ["damaged pickle"]),
    "of several observations": (
        (CHECKPOINTS / "squashed.pkl").read_bytes().replace(b"\x8c\x07obs_rms", b"\x8c\x07OBS_rms"),
        ["several observations by name"],
    ),
    "without a clip": (
        (CHECKPOINTS / "squashed.pkl").read_bytes().replace(b"\x8c\x08clip_obs", b"\x8c\x08CLIP_obs"), ["clip_obs"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NORMALISATIONS)
def test_normalisations(case, place):
    data, needles = NORMALISATIONS[case]
    (place / "normalise.pkl").write_bytes(data)
    line = refused(read_normalisation, "normalise.pkl")
    assert all(needle in line for needle in needles), line
    assert [path.name for path in place.iterdir()] == ["normalise.pkl"]


def damaged(draws, data):
    """Data with a few bytes changed, added or lost."""
    changed = bytearray(data)
    for _ in range(draws.choice([1, 2, 5])):
        at, kind = draws.randrange(len(changed)), draws.randrange(3)
        if kind == 0:
            changed[at] = draws.randrange(256)
        elif kind == 1:
            changed[at:at] = draws.randbytes(4)
        else:
            del changed[at : at + 3]
    return bytes(changed)


@pytest.mark.parametrize("part", ["archive", "policy.pth", "data", "data.pkl"])
def test_damage_is_refused_or_without_effect(part, place):
    draws = random.Random(part)
    for _ in range(60):
        if part == "archive":
            data = damaged(draws, WHOLE)
        elif part == "data.pkl":
            data = tensors(lambda content: damaged(draws, content))
        else:
            data = changed_file(WHOLE, part, lambda content: damaged(draws, content))
        (place / "model.zip").write_bytes(data)
        with contextlib.suppress(ConfigError):
            assert load_sb3("model.zip").name == "model"
