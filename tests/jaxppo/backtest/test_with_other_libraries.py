"""What backtests return goes into other libraries as it is: quantstats' tear sheet, scikit-learn's validation."""

import numpy as np
import pytest

import jaxppo
from jaxppo.envs import load_market
from jaxppo.statistics import splits


@pytest.fixture(scope="module")
def returns():
    return jaxppo.simulate(jaxppo.rules.buy_and_hold(), load_market("us5_1d"), n_bars=300).returns["returns"]


@pytest.mark.filterwarnings("ignore")
def test_quantstats_draws_its_tear_sheet_of_the_returns(returns, tmp_path):
    quantstats = pytest.importorskip("quantstats")
    quantstats.reports.html(returns, output=str(tmp_path / "tear.html"), title="buy and hold")
    page = (tmp_path / "tear.html").read_text(encoding="utf-8")
    total = np.prod(1.0 + returns.to_numpy()) - 1.0
    assert abs(total) > 0.01
    assert f"<td>Cumulative Return</td><td>{total:.2%}</td>" in page


def test_folds_are_splits_of_scikit_learn(returns):
    """A model of the last five returns: trained on each fold's bars, scored on the bars after its purge."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    selection = pytest.importorskip("sklearn.model_selection")
    values = returns.to_numpy()
    x = np.lib.stride_tricks.sliding_window_view(values, 5)[:-1]
    y = values[5:]
    folds = splits.expanding(len(y), train=100, test=50, purge=5)
    scores = selection.cross_val_score(linear_model.Ridge(), x, y, cv=[(fold.train, fold.test) for fold in folds])
    by_hand = [
        linear_model.Ridge().fit(x[fold.train], y[fold.train]).score(x[fold.test], y[fold.test]) for fold in folds
    ]
    assert len(scores) == len(folds) >= 3
    np.testing.assert_allclose(scores, by_hand, rtol=1e-12)
