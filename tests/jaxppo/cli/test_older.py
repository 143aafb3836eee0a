"""The older style of commands: what its flags stand for, and one line where they make no sense."""

import types

import pytest
from folders import ROOT
from tiny_run import TINY, command, write_config

import jaxppo
from jaxppo.cli import parse_training
from jaxppo.errors import ConfigError

BUDGETS = {"minutes": "", "episodes": "", "steps": ""}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty working directory with `prices.csv` and `tiny.yaml`."""
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path)
    return tmp_path


def parsed(*arguments):
    config, name, given = parse_training("train", "trains", arguments, BUDGETS, older=True)
    return config, name, given.output


@pytest.mark.parametrize(
    ("arguments", "kind", "actions"),
    [
        (["--model-type", "ppo"], "mlp", "continuous"),
        (["--model-type=maskable_ppo"], "mlp", "discrete"),
        (["--model-type", "transformer_ppo"], "transformer", "continuous"),
        (["--use-transformer"], "transformer", "continuous"),
        (["--model-type", "ppo", "--use-transformer"], "transformer", "continuous"),
        (["--model-type", "maskable_ppo", "--use-transformer"], "transformer", "discrete"),
        (["--d-model", "32"], "transformer", "continuous"),
        (["--model-type", "ppo", "--policy.kind", "mlp"], "mlp", "continuous"),
    ],
)
def test_model_types(arguments, kind, actions, workplace):
    write_config(workplace, env={"levels": [-0.5, 1.0], "actions": "continuous"})
    config, name, _ = parsed("--config", "tiny.yaml", *arguments)
    assert (config.policy.kind, config.env.actions, name) == (kind, actions, "tiny")


def test_a_whole_command_without_a_config(monkeypatch):
    monkeypatch.chdir(ROOT)
    command = "--model-type transformer_ppo --use-transformer --transformer-layers 3 --d-model 128 --episodes 50"
    config, name, output = parsed(*command.split(), "--minutes", "20", "--output", "mine", "--ppo.clip", "0.1")
    assert (name, output) == ("quickstart", "mine")
    assert (config.policy.kind, config.policy.layers, config.policy.width) == ("transformer", 3, 128)
    assert (config.training.episodes, config.training.minutes, config.training.steps) == (50, 20.0, None)
    assert config.ppo.clip == 0.1


def test_the_default_config_is_found_from_elsewhere(workplace):
    config, name, _ = parsed("--model-type", "ppo")
    assert (config.policy.kind, config.policy.layers, name) == ("mlp", 2, "quickstart")
    assert config.training.steps == 500_000


def test_the_command_trains_what_it_was_asked_for(workplace, monkeypatch):
    trained = {}

    def train(config, **given):
        trained.update(given, kind=config.policy.kind, episodes=config.training.episodes)
        return types.SimpleNamespace(summary=None, signal=None)

    monkeypatch.setattr(jaxppo, "train", train)
    arguments = "--config tiny.yaml --model-type transformer_ppo --episodes 8 --minutes 5 --output run"
    assert command("train", *arguments.split()) == 0
    assert trained == {
        "output": "run",
        "name": "tiny",
        "resume": False,
        "progress": True,
        "kind": "transformer",
        "episodes": 8,
    }


def test_a_run_is_resumed_with_its_own_config(workplace):
    (workplace / "run").mkdir()
    (workplace / "tiny.yaml").rename(workplace / "run" / "config.yaml")
    config, name, _ = parsed("--resume", "--output", "run", "--model-type", "ppo")
    assert (config.seed, config.policy.width, name) == (TINY["seed"], TINY["policy"]["width"], "config")


REFUSED = {
    "a model of no kind": ("--model-type dqn", ["--model-type", "'dqn'", "'maskable_ppo'"]),
    "no model": ("--model-type", ["--model-type", "expected one argument"]),
    "no layers": ("--transformer-layers 0", ["--transformer-layers", "'0'", "[1, 256]"]),
    "too many layers": ("--transformer-layers 257", ["--transformer-layers", "'257'", "[1, 256]"]),
    "half a layer": ("--transformer-layers 1.5", ["--transformer-layers", "'1.5'", "whole number"]),
    "a width in words": ("--d-model wide", ["--d-model", "'wide'", "whole number"]),
    "a negative width": ("--d-model=-8", ["--d-model", "'-8'", "whole number"]),
    "a width without end": (f"--d-model {'9' * 5000}", ["--d-model", "no whole number in [1, 1048576]"]),
    "a width that heads do not divide": ("--d-model 6", ["--d-model 6", "2 * policy.heads = 4"]),
    "layers of a perceptron": ("--model-type ppo --transformer-layers 2", ["--transformer-layers is 2", "perceptron"]),
    "a width of a perceptron": ("--model-type maskable_ppo --d-model 8", ["--d-model is 8", "--use-transformer"]),
    "another kind": ("--model-type ppo --policy.kind linear", ["--policy.kind is linear", "--model-type ppo"]),
    "another width": ("--d-model 8 --policy.width=16", ["--policy.width is 16", "--d-model 8"]),
    "other actions": ("--model-type maskable_ppo --env.actions band", ["--env.actions is band", "maskable_ppo"]),
    "steps and minutes": (
        "--use-transformer --steps 1 --minutes 1",
        ["--steps", "not allowed with argument --minutes"],
    ),
    "no episodes": ("--use-transformer --episodes 0", ["episodes is 0", "whole number in [1,"]),
    "an abbreviation": ("--model ppo", ["unknown option --model"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense(case, workplace, capfd):
    arguments, needles = REFUSED[case]
    assert command("train", "--config", "tiny.yaml", *arguments.split()) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: ")
    assert all(needle in err for needle in needles), err


def test_only_training_accepts_it(workplace):
    with pytest.raises(ConfigError, match="unknown option --model-type"):
        parse_training("walk-forward", "walks", ["--config", "tiny.yaml", "--model-type", "ppo"], BUDGETS)
