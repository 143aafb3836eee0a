"""Action distributions against enumeration, distrax, scipy and numerical integration."""

import importlib.util
import itertools
import json

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sb3_contrib_values
import scipy.integrate
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy
from slowly import slow_after

from jaxppo.policy.distributions import Beta, DirectionAndSize, Hierarchical, MaskedCategorical, SquashedGaussian

LARGEST_BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))

log_prob = jax.jit(lambda d, a: d.log_prob(a))
sample = jax.jit(lambda d, u: d.sample(u))
log_probabilities = jax.jit(lambda d: d.log_probabilities())
entropy = jax.jit(lambda d: d.entropy())
kl = jax.jit(lambda d, other: d.kl(other))


def categorical(logits, mask) -> MaskedCategorical:
    return MaskedCategorical(jnp.asarray(logits, jnp.float32), jnp.asarray(mask, bool))


@st.composite
def categoricals(draw, n_assets=2, n_actions=5, scale=30.0):
    """Logits of any size up to `scale`, and masks with at least one allowed action per asset."""
    shape = (n_assets, n_actions)
    logits = draw(hypothesis_numpy.arrays(np.float32, shape, elements=st.floats(-scale, scale, width=32)))
    mask = draw(hypothesis_numpy.arrays(bool, shape))
    for row in mask:
        row[draw(st.integers(0, n_actions - 1))] = True
    return categorical(logits, mask)


@settings(max_examples=50, deadline=None)
@given(categoricals(n_actions=4))
def test_the_joint_probabilities_of_the_allowed_actions_sum_to_one(distribution):
    actions = jnp.asarray(list(itertools.product(range(4), repeat=2)), jnp.int32)
    allowed = np.asarray(distribution.mask)[np.arange(2)[None], np.asarray(actions)].all(axis=1)
    batched = jax.tree.map(lambda x: jnp.broadcast_to(x, (16, *x.shape)), distribution)
    probability = np.exp(np.asarray(log_prob(batched, actions), np.float64))
    assert probability[allowed].sum() == pytest.approx(1, abs=1e-5)
    assert np.all(probability[~allowed] == 0)


@settings(max_examples=20, deadline=None)
@given(categoricals(), st.integers(0, 2**31 - 1))
def test_equal_to_distrax_on_the_allowed_actions_and_to_scipy(distribution, seed):
    mask, logits = np.asarray(distribution.mask), np.asarray(distribution.logits)
    joint, total = 0.0, 0.0
    action = [np.random.default_rng(seed).choice(np.flatnonzero(row)) for row in mask]
    for asset in range(2):
        kept = jnp.asarray(logits[asset][mask[asset]])
        joint += float(distrax.Softmax(kept).log_prob(int(mask[asset][: action[asset]].sum())))
        total += scipy.stats.entropy(scipy.special.softmax(logits[asset][mask[asset]].astype(np.float64)))
    assert float(log_prob(distribution, jnp.asarray(action, jnp.int32))) == pytest.approx(joint, rel=1e-5, abs=1e-5)
    assert float(entropy(distribution)) == pytest.approx(total, rel=1e-4, abs=1e-5)


def test_a_masked_action_is_never_sampled_whatever_the_uniform():
    """Uniforms: 0, the largest below 1, every step of the distribution function and its neighbours."""
    rng = np.random.default_rng(0)
    n, n_actions = 4000, 12
    logits = rng.normal(0, 3, (n, 1, n_actions)).astype(np.float32)
    mask = rng.random((n, 1, n_actions)) < 0.5
    mask[np.arange(n), 0, rng.integers(0, n_actions, n)] = True
    distribution = categorical(logits, mask)
    probability = np.where(mask, np.exp(np.asarray(log_probabilities(distribution))), 0)
    steps = np.clip(np.cumsum(probability, axis=-1), 0, LARGEST_BELOW_ONE).astype(np.float32)
    around = np.concatenate([np.nextafter(steps, np.float32(0)), steps, np.nextafter(steps, np.float32(1))], axis=-1)
    uniforms = np.concatenate([around[:, 0], np.zeros((n, 1)), np.full((n, 1), LARGEST_BELOW_ONE)], axis=1)
    uniforms = np.minimum(uniforms, LARGEST_BELOW_ONE).astype(np.float32)
    for u in uniforms.T:
        action = np.asarray(sample(distribution, jnp.asarray(u)[:, None]))[:, 0]
        assert np.all((action >= 0) & (action < n_actions))
        assert mask[np.arange(n), 0, action].all()


def test_nor_where_the_accelerator_adds_up_in_another_order(monkeypatch):
    """A tree-shaped sum may differ in its last digit between a masked action and the one before it."""

    def sum_in_a_tree(x: jax.Array, axis: int) -> jax.Array:
        return jax.lax.associative_scan(jnp.add, x, axis=axis % x.ndim)

    monkeypatch.setattr(jnp, "cumsum", sum_in_a_tree)
    rng = np.random.default_rng(1)
    n, n_actions = 2000, 16
    logits, mask = rng.normal(0, 1, (n, 1, n_actions)), rng.random((n, 1, n_actions)) < 0.5
    mask[:, :, 0] = True
    distribution = categorical(logits, mask)
    cumulative = np.asarray(jnp.cumsum(jnp.where(mask, jnp.exp(distribution.log_probabilities()), 0), axis=-1))[:, 0]
    inside = np.minimum(cumulative / cumulative[:, -1:], LARGEST_BELOW_ONE).astype(np.float32)
    for u in np.concatenate([inside, np.nextafter(inside, np.float32(0))], axis=1).T:
        action = np.asarray(distribution.sample(jnp.asarray(u)[:, None]))[:, 0]
        assert mask[np.arange(n), 0, action].all()


def test_the_extreme_uniforms_give_the_first_and_the_last_allowed_action():
    distribution = categorical(np.zeros((1, 6)), [[False, True, False, True, True, False]])
    assert sample(distribution, jnp.zeros(1)).tolist() == [1]
    assert sample(distribution, jnp.asarray([LARGEST_BELOW_ONE])).tolist() == [4]


def test_samples_have_the_probabilities():
    logits, mask = np.array([[0.3, 5.0, -1.0, 0.9], [2.0, 0.0, 0.0, -9.0]]), [[1, 0, 1, 1], [1, 1, 1, 1]]
    n = 200_000
    distribution = jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), categorical(logits, mask))
    drawn = np.asarray(sample(distribution, jax.random.uniform(jax.random.key(0), (n, 2))))
    for asset in range(2):
        weight = np.where(mask[asset], np.exp(logits[asset]), 0)
        expected = n * weight / weight.sum()
        seen = np.bincount(drawn[:, asset], minlength=4)
        kept = expected > 0
        assert np.all(seen[~kept] == 0)
        assert scipy.stats.chisquare(seen[kept], expected[kept]).pvalue > 1e-4
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.01


def test_a_masked_action_has_no_gradient_and_a_single_allowed_action_no_nan():
    mask = jnp.asarray([[True, False, True, True], [False, True, False, False]])
    logits = jnp.asarray([[1.0, 80.0, -2.0, 0.5], [-60.0, -70.0, 80.0, 3.0]])
    action = jnp.asarray([2, 1], jnp.int32)
    for function in (lambda d: d.log_prob(action), lambda d: d.entropy(), lambda d: d.log_prob(action) * d.entropy()):
        value, gradient = jax.value_and_grad(lambda x, f=function: f(MaskedCategorical(x, mask)))(logits)
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))
        assert np.all(np.asarray(gradient)[~np.asarray(mask)] == 0)
        assert np.all(np.asarray(gradient)[1] == 0)
    assert np.any(np.asarray(gradient)[0] != 0)


@settings(max_examples=20, deadline=None)
@given(categoricals(scale=15.0), st.integers(0, 2**31 - 1))
def test_the_divergence_is_that_of_distrax_on_the_allowed_actions_and_never_negative(one, seed):
    logits = np.random.default_rng(seed).normal(0, 3, one.logits.shape).astype(np.float32)
    other, total = categorical(logits, one.mask), 0.0
    for asset, kept in enumerate(np.asarray(one.mask)):
        p, q = (distrax.Softmax(jnp.asarray(np.asarray(d.logits)[asset][kept])) for d in (one, other))
        total += float(p.kl_divergence(q))
    assert float(kl(one, other)) == pytest.approx(total, rel=1e-4, abs=1e-5)
    assert float(kl(one, other)) >= -1e-6
    assert float(kl(one, one)) == 0


@settings(max_examples=20, deadline=None)
@given(categoricals(), hypothesis_numpy.arrays(np.float32, (2, 5), elements=st.floats(-60, 60, width=32)))
def test_the_divergence_and_its_gradient_are_finite_and_do_not_see_masked_logits(one, logits):
    other = categorical(logits, one.mask)
    spoiled = categorical(np.where(one.mask, logits, 99.0), one.mask)
    assert float(kl(one, other)) == float(kl(one, spoiled))
    value, gradient = kl_and_gradient(other, one)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    assert np.all(np.asarray(gradient)[~np.asarray(one.mask)] == 0)


@jax.jit
def kl_and_gradient(other, one):
    return jax.value_and_grad(lambda logits: one.kl(other.replace(logits=logits)))(other.logits)


def mean_log_ratio(one, other, shape) -> tuple[float, float]:
    """Mean of `log p - log q` over samples of the first, and its standard error."""
    batched, against = (jax.tree.map(lambda x: jnp.broadcast_to(x, (shape[0], *x.shape)), d) for d in (one, other))
    action = sample(batched, jax.random.uniform(jax.random.key(3), shape))
    ratio = np.asarray(log_prob(batched, action) - log_prob(against, action), np.float64)
    return ratio.mean(), ratio.std() / len(ratio) ** 0.5


def test_the_divergence_is_the_mean_log_ratio_of_samples():
    mask = [[1, 0, 1, 1], [1, 1, 1, 1]]
    one = categorical([[0.3, 5.0, -1.0, 0.9], [2.0, 0.0, 0.0, -2.0]], mask)
    other = categorical([[0.8, 5.0, -0.5, 0.0], [1.0, 0.5, 0.0, -1.0]], mask)
    for first, second in ((one, other), (other, one)):
        mean, error = mean_log_ratio(first, second, (100_000, 2))
        assert error < 0.02 * mean
        assert abs(float(kl(first, second)) - mean) < 4 * error


def test_masked_categoricals_are_those_of_sb3_contrib():
    """Values kept in a file (see sb3_contrib_values), which are computed again where sb3-contrib is installed."""
    kept = json.loads(sb3_contrib_values.PATH.read_text(encoding="utf-8"))["values"]
    if importlib.util.find_spec("sb3_contrib"):
        assert sb3_contrib_values.values() == kept
    for case, expected in zip(sb3_contrib_values.cases(), kept, strict=True):
        ours = categorical(case["logits"], case["mask"])
        action = jnp.asarray(case["action"], jnp.int32)
        assert float(log_prob(ours, action)) == pytest.approx(expected["log_prob"], rel=1e-5, abs=1e-5)
        assert float(ours.entropy()) == pytest.approx(expected["entropy"], rel=1e-4, abs=1e-5)
        np.testing.assert_allclose(ours.probabilities(), expected["probabilities"], atol=1e-6)
        assert ours.mode().tolist() == expected["mode"]


def test_a_fully_masked_row_holds():
    """Nothing allowed: the first action, for certain, at no cost to anything else."""
    for one in (
        categorical([[0.5, 9.0, 1.0], [0.3, 0.1, 0.2]], [[0, 0, 0], [1, 1, 0]]),
        DirectionAndSize(jnp.ones((2, 5)), jnp.asarray([[False] * 3, [True, True, False]]), sizes=(1, 2)),
    ):
        rest = one.replace(logits=one.logits[1:], mask=one.mask[1:])
        for action in (jnp.asarray([0, 1]), one.sample(jnp.asarray([0.99, 0.9])), one.mode()):
            assert int(action[0]) == 0
            assert float(one.log_prob(action)) == pytest.approx(float(rest.log_prob(action[1:])), rel=1e-6)
        assert float(one.entropy()) == pytest.approx(float(rest.entropy()), rel=1e-6)
        np.testing.assert_allclose(one.probabilities()[0], [1, 0, 0])
        gradient = jax.grad(lambda x, one=one: one.replace(logits=x).log_prob(one.mode()) + one.entropy())(one.logits)
        assert np.all(np.isfinite(gradient))
        assert np.all(np.asarray(gradient)[0] == 0)


def test_the_entropy_bonus_is_relative_to_what_is_allowed():
    free = categorical([[0.3, 5.0, -1.0, 0.9], [2.0, 0.0, 0.0, -2.0]], np.ones((2, 4)))
    assert float(free.entropy_bonus()) == pytest.approx(float(free.entropy()), rel=1e-6)
    undecided = categorical(np.zeros((3, 4)), [[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]])
    assert float(undecided.entropy_bonus()) == pytest.approx(2 * np.log(4), rel=1e-6)
    certain = categorical([[90.0, 0, 0, 0]], [[1, 1, 0, 0]])
    assert float(certain.entropy_bonus()) == pytest.approx(0, abs=1e-6)
    gradient = jax.grad(lambda x: undecided.replace(logits=x).entropy_bonus())(jnp.asarray([[1.0, 2.0, 3.0, 4.0]] * 3))
    assert np.all(np.isfinite(gradient))
    assert np.all(np.asarray(gradient)[~np.asarray(undecided.mask)] == 0)


def test_the_mode_is_the_most_probable_allowed_action():
    distribution = categorical([[1, 9, 3], [0, -1, -2]], [[1, 0, 1], [0, 1, 1]])
    assert distribution.mode().tolist() == [2, 1]


# The squashed Gaussian.

LOW, HIGH = -0.5, 1.0


def gaussian(mean: float, log_std: float) -> SquashedGaussian:
    return SquashedGaussian(*(jnp.asarray([x], jnp.float32) for x in (mean, log_std, LOW, HIGH)))


def density_of_squashed(distribution: SquashedGaussian, weight: np.ndarray) -> np.ndarray:
    """The density that `log_prob` claims at squashed actions `[n]`, unsquashed here in float64."""
    unsquashed = np.arctanh(2 * (weight - LOW) / (HIGH - LOW) - 1)
    batched = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(weight), 1)), distribution)
    return np.exp(np.asarray(log_prob(batched, jnp.asarray(unsquashed, jnp.float32)[:, None]), np.float64))


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -0.5), (0.7, 0.0), (-1.5, -1.2), (0.0, -2.0)])
def test_the_squashed_density_is_the_slope_of_the_distribution_function_and_integrates_to_one(mean, log_std):
    distribution = gaussian(mean, log_std)
    weight = np.linspace(LOW, HIGH, 200_001)[1:-1]
    density = density_of_squashed(distribution, weight)
    assert scipy.integrate.trapezoid(density, weight) == pytest.approx(1, abs=2e-4)

    def below(x: np.ndarray) -> np.ndarray:
        return scipy.stats.norm(mean, np.exp(log_std)).cdf(np.arctanh(2 * (x - LOW) / (HIGH - LOW) - 1))

    inner = np.linspace(LOW, HIGH, 60)[2:-2]
    slope = (below(inner + 1e-6) - below(inner - 1e-6)) / 2e-6
    np.testing.assert_allclose(density_of_squashed(distribution, inner), slope, rtol=1e-3, atol=1e-6)


def test_gaussian_samples_follow_their_distribution_and_stay_inside():
    n = 20_000
    mean, log_std = 0.4, -0.3
    distribution = jax.tree.map(lambda x: jnp.broadcast_to(x, (n, 1)), gaussian(mean, log_std))
    drawn = sample(distribution, jax.random.uniform(jax.random.key(1), (n, 1)))
    assert scipy.stats.kstest(np.asarray(drawn)[:, 0], scipy.stats.norm(mean, np.exp(log_std)).cdf).pvalue > 1e-3
    squashed = np.asarray(distribution.squash(drawn))
    assert squashed.min() >= LOW
    assert squashed.max() <= HIGH
    assert float(gaussian(mean, log_std).entropy()) == pytest.approx(scipy.stats.norm(mean, np.exp(log_std)).entropy())
    assert gaussian(mean, log_std).mode().tolist() == [pytest.approx(mean)]


def test_extreme_actions_and_uniforms_are_finite():
    for mean, log_std in ((0.0, -0.5), (30.0, -3.0), (-30.0, 1.0)):
        for uniform in (0.0, LARGEST_BELOW_ONE):
            distribution = gaussian(mean, log_std)
            action = sample(distribution, jnp.asarray([uniform], jnp.float32))
            value, gradient = jax.value_and_grad(
                lambda m, s, a=action: SquashedGaussian(m, s, LOW, HIGH).log_prob(a), argnums=(0, 1)
            )(distribution.mean, distribution.log_std)
            assert np.isfinite(value)
            assert np.all(np.isfinite(gradient))
            assert LOW <= float(distribution.squash(action)[0]) <= HIGH


def test_a_joint_density_is_the_product_over_assets():
    both = SquashedGaussian(jnp.asarray([0.1, -0.6]), jnp.asarray([-0.5, 0.2]), LOW, HIGH)
    action = jnp.asarray([0.3, -1.1])
    apart = sum(
        float(SquashedGaussian(both.mean[i : i + 1], both.log_std[i : i + 1], LOW, HIGH).log_prob(action[i : i + 1]))
        for i in range(2)
    )
    assert float(both.log_prob(action)) == pytest.approx(apart, rel=1e-6)


gaussians = st.tuples(*(st.tuples(st.floats(-3, 3), st.floats(-2, 1)) for _ in range(2)))


def two_assets(parameters) -> SquashedGaussian:
    mean, log_std = jnp.asarray(parameters, jnp.float32).T
    return SquashedGaussian(mean, log_std, jnp.full(2, LOW), jnp.full(2, HIGH))


@settings(max_examples=30, deadline=None)
@given(gaussians, gaussians)
def test_the_divergence_of_gaussians_is_that_of_distrax(p, q):
    one, other = two_assets(p), two_assets(q)
    theirs = _gaussian_kl(one.mean, jnp.exp(one.log_std), other.mean, jnp.exp(other.log_std))
    assert float(kl(one, other)) == pytest.approx(float(theirs), rel=1e-4, abs=1e-5)
    assert float(kl(one, other)) >= -1e-5
    assert float(kl(one, one)) == pytest.approx(0, abs=1e-6)


@jax.jit
def _gaussian_kl(mean, std, other_mean, other_std):
    one, other = (distrax.MultivariateNormalDiag(*x) for x in ((mean, std), (other_mean, other_std)))
    return one.kl_divergence(other)


def test_the_divergence_of_gaussians_is_the_mean_log_ratio_of_squashed_samples():
    one, other = two_assets([(0.1, -0.5), (-0.6, 0.2)]), two_assets([(0.4, -0.3), (-0.5, -0.1)])
    for first, second in ((one, other), (other, one)):
        mean, error = mean_log_ratio(first, second, (100_000, 2))
        assert error < 0.02 * mean
        assert abs(float(kl(first, second)) - mean) < 4 * error


def test_a_squashed_gaussian_on_its_own_interval_per_asset_integrates_to_one():
    """Density over the interval by quadrature; where the interval is a point, nothing is chosen and nothing counts."""
    box = jnp.asarray([[-0.5, 1.0], [0.1, 0.15], [0.2, 0.2]])
    one = SquashedGaussian(*(jnp.asarray(x) for x in ([0.3, -1.0, 0.7], [-0.4, 0.1, 0.0])), jnp.zeros(3), jnp.zeros(3))
    one = one.restricted(box)
    np.testing.assert_array_equal(jnp.stack([one.low, one.high], axis=-1), box)
    raw = np.linspace(-9, 9, 20_001)
    for asset in range(2):
        own = jax.tree.map(lambda x, i=asset: jnp.broadcast_to(x[i : i + 1], (20_001, 1)), one)
        density = np.exp(np.asarray(log_prob(own, jnp.asarray(raw, jnp.float32)[:, None]), np.float64))
        squashed = np.asarray(own.squash(jnp.asarray(raw, jnp.float32)[:, None])[:, 0], np.float64)
        assert squashed.min() >= box[asset, 0] - 1e-7
        assert squashed.max() <= box[asset, 1] + 1e-7
        x = box[asset, 0] + (box[asset, 1] - box[asset, 0]) * 0.5 * (np.tanh(raw) + 1.0)
        assert np.trapezoid(density, np.asarray(x, np.float64)) == pytest.approx(1.0, abs=1e-3)
    two = jax.tree.map(lambda x: x[:2], one)
    raw = jnp.asarray([0.4, -0.2, 5.0])
    assert float(log_prob(one, raw)) == pytest.approx(float(log_prob(two, raw[:2])), rel=1e-6)
    assert float(one.entropy()) == pytest.approx(float(two.entropy()), rel=1e-6)
    assert float(kl(one, one.replace(mean=one.mean + jnp.asarray([0.0, 0.0, 9.0])))) == 0.0
    assert np.all(np.isfinite(jax.grad(lambda m: one.replace(mean=m).log_prob(raw))(one.mean)))
    assert float(one.squash(one.mode())[2]) == pytest.approx(0.2)
    # Nor does a component without a choice reach a gradient, however far its parameters went.
    for far in (-100.0, 100.0):
        log_std = one.log_std.at[2].set(far)
        gradient = jax.grad(lambda s: one.replace(log_std=s).log_prob(raw) + one.replace(log_std=s).kl(one))(log_std)
        assert np.all(np.isfinite(gradient))
        assert float(gradient[2]) == 0.0
    ends = jax.random.normal(jax.random.key(0), (2, 20_000))
    wide = SquashedGaussian(jnp.zeros(20_000), jnp.zeros(20_000), ends.min(axis=0), ends.max(axis=0))
    for saturated in (-20.0, 20.0):
        inside = wide.squash(jnp.full(20_000, saturated))
        assert bool(jnp.all((inside >= wide.low) & (inside <= wide.high)))


# The Beta distribution.


def beta(alpha, b, low=0.0, high=1.0) -> Beta:
    return Beta(*(jnp.atleast_1d(jnp.asarray(x, jnp.float32)) for x in (alpha, b, low, high)))


shapes = st.tuples(st.floats(1.01, 60.0), st.floats(1.01, 60.0))


@settings(max_examples=40, deadline=None)
@given(shapes, shapes, st.floats(0.01, 0.99))
def test_beta_is_that_of_scipy(p, q, share):
    """Density, entropy and divergence on an interval; scipy's own formulas, the divergence a mean over quantiles."""
    low, high = -0.3, 0.5
    ours, other = beta(*p, low, high), beta(*q, low, high)
    theirs = scipy.stats.beta(*(float(x[0]) for x in (ours.alpha, ours.beta)), loc=low, scale=high - low)
    raw = jnp.asarray([share], jnp.float32)
    x = float(ours.squash(raw)[0])
    assert x == pytest.approx(low + (high - low) * share, abs=1e-6)
    assert float(log_prob(ours, raw)) == pytest.approx(theirs.logpdf(x), rel=1e-3, abs=2e-3)
    assert float(entropy(ours)) == pytest.approx(theirs.entropy(), rel=1e-3, abs=2e-3)
    assert float(ours.squash(ours.mode())[0]) == pytest.approx(theirs.mean(), abs=1e-5)
    against = scipy.stats.beta(*(float(x[0]) for x in (other.alpha, other.beta)), loc=low, scale=high - low)
    quantiles = theirs.ppf((np.arange(20_000) + 0.5) / 20_000)
    expected = np.mean(theirs.logpdf(quantiles) - against.logpdf(quantiles))
    assert float(kl(ours, other)) == pytest.approx(expected, rel=1e-2, abs=5e-3)
    assert float(kl(ours, ours)) == pytest.approx(0, abs=1e-5)


def test_draws_of_beta_invert_its_distribution_function():
    alpha, b = jnp.asarray([1.1, 2.0, 30.0]), jnp.asarray([5.0, 2.0, 12.0])
    levels = jnp.asarray([0.0, 0.001, 0.3, 0.5, 0.9, 0.999, LARGEST_BELOW_ONE])
    for i in range(3):
        one = beta(jnp.full(7, alpha[i]), jnp.full(7, b[i]), jnp.zeros(7), jnp.ones(7))
        expected = scipy.stats.beta(float(alpha[i]), float(b[i])).ppf(np.asarray(levels, np.float64))
        found = np.asarray(sample(one, levels))
        np.testing.assert_allclose(found[1:-1], expected[1:-1], atol=2e-5)
        assert np.all((found > 0) & (found < 1))
        assert np.all(np.isfinite(jax.vmap(lambda x, one=one: one.log_prob(jnp.full(7, x)))(jnp.asarray(found))))


def test_beta_on_intervals_counts_only_where_there_is_a_choice():
    box = jnp.asarray([[-0.5, 1.0], [0.2, 0.2]])
    both = beta([2.0, 3.0], [3.0, 2.0], [0.0, 0.0], [0.0, 0.0]).restricted(box)
    one = beta(2.0, 3.0, -0.5, 1.0)
    raw = jnp.asarray([0.3, 0.9])
    assert float(both.squash(raw)[1]) == pytest.approx(0.2)
    assert float(log_prob(both, raw)) == pytest.approx(float(log_prob(one, raw[:1])), rel=1e-6)
    assert float(both.entropy()) == pytest.approx(float(one.entropy()), rel=1e-6)
    assert float(both.entropy_bonus()) == pytest.approx(float(one.entropy()) - np.log(1.5), rel=1e-5)
    gradient = jax.grad(lambda a: both.replace(alpha=a).log_prob(raw) + both.replace(alpha=a).entropy())(both.alpha)
    assert np.all(np.isfinite(gradient))
    assert float(gradient[1]) == 0.0


SIZES = (1, 2, 1, 2)
N_LEAVES, N_BUCKETS = sum(SIZES), 3


def hierarchical(seed, n_assets=2, share=0.6, sizes=SIZES) -> Hierarchical:
    """Random logits and masks; holding, the first action, is always allowed, and risk off allows nothing else."""
    rng, n_leaves = np.random.default_rng(seed), sum(sizes)
    shapes = ((N_BUCKETS,), (n_assets, len(sizes) + n_leaves), (N_BUCKETS, len(sizes) + n_leaves))
    mask = rng.random((n_assets, N_BUCKETS, n_leaves)) < share
    mask[:, 0], mask[..., 0] = False, True
    return Hierarchical(*(jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes), jnp.asarray(mask), sizes=sizes)


def walked(distribution):
    """Probabilities `{(bucket, action, action): p}`, choice by choice in double precision, as one would explain it."""
    logits = (distribution.bucket, distribution.asset, distribution.shift)
    bucket, asset, shift = (np.asarray(x, np.float64) for x in logits)
    mask, sizes = np.asarray(distribution.mask), distribution.sizes
    starts = np.cumsum([0, *sizes])

    def softmax(logits, allowed):
        chances = np.where(allowed, np.exp(logits), 0.0)
        return chances / chances.sum()

    choice = mask[:, -1, 1:].any()
    buckets = softmax(bucket, [choice] * (len(bucket) - 1) + [True])
    found = {}
    for b, chance in enumerate(buckets):
        each = []
        for i in range(len(mask)):
            logits = asset[i] + shift[b]
            parts = [mask[i, b, starts[d] : starts[d + 1]] for d in range(len(sizes))]
            direction = softmax(logits[: len(sizes)], [part.any() for part in parts])
            table = np.zeros(sum(sizes))
            for d, part in enumerate(parts):
                if part.any():
                    span = slice(starts[d], starts[d + 1])
                    table[span] = direction[d] * softmax(logits[len(sizes) :][span], part)
            each.append(table)
        for leaves in itertools.product(range(sum(sizes)), repeat=len(mask)):
            found[b, *leaves] = chance * np.prod([table[leaf] for table, leaf in zip(each, leaves, strict=True)])
    return found


@pytest.mark.parametrize("seed", slow_after(2, range(6)))
def test_hierarchical_choices_by_enumeration(seed):
    """Joint probability, entropy, divergence, marginals and frequencies against a walk through all 108 actions."""
    one = hierarchical(seed, share=(0.2, 0.6, 1.0)[seed % 3])
    other = hierarchical(seed + 100).restricted(one.mask)
    p, q = walked(one), walked(other)
    actions = jnp.asarray(list(p), jnp.int32)
    exact, against = (np.asarray(list(x.values())) for x in (p, q))
    assert exact.sum() == pytest.approx(1, abs=1e-12)
    batched = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(p), *x.shape)), one)
    np.testing.assert_allclose(np.exp(log_prob(batched, actions)), exact, atol=1e-6)
    possible = exact > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = np.where(possible, -exact * np.log(exact), 0.0)
        divergence = np.where(possible, exact * np.log(exact / against), 0.0)
    assert float(entropy(one)) == pytest.approx(surprise.sum(), rel=1e-4, abs=1e-5)
    assert float(kl(one, other)) == pytest.approx(divergence.sum(), rel=1e-4, abs=1e-5)
    assert float(kl(one, one)) == pytest.approx(0.0, abs=1e-6)

    marginal = np.zeros(one.mask.shape)
    for action, chance in p.items():
        for asset, leaf in enumerate(action[1:]):
            marginal[asset, action[0], leaf] += chance
    np.testing.assert_allclose(one.probabilities(), marginal, atol=1e-6)

    n = 100_000
    drawn = np.asarray(jax.jit(jax.vmap(one.sample))(jax.random.uniform(jax.random.key(seed), (n, 3))))
    frequency = np.zeros((N_BUCKETS, N_LEAVES, N_LEAVES))
    np.add.at(frequency, tuple(drawn.T), 1.0 / n)
    assert np.abs(frequency.ravel() - exact).max() < 5 * (0.25 / n) ** 0.5
    assert frequency.ravel()[~possible].sum() == 0
    best = np.asarray(one.mode())
    chosen = {b: sum(value for key, value in p.items() if key[0] == b) for b in range(N_BUCKETS)}
    assert best[0] == max(chosen, key=chosen.get)
    assert p[tuple(best.tolist())] > 0


def test_gradients_of_hierarchical_figures_are_those_of_the_enumerated_ones():
    one, other = hierarchical(0), hierarchical(7)
    other = other.restricted(one.mask)
    actions = jnp.asarray([action for action, chance in walked(one).items() if chance > 0], jnp.int32)
    net = (one.bucket, one.asset, one.shift)

    def enumerated(net, figure):
        now = one.replace(bucket=net[0], asset=net[1], shift=net[2])
        log_p = jax.vmap(now.log_prob)(actions)
        return jnp.sum(jnp.exp(log_p) * (-log_p if figure == "entropy" else log_p - jax.vmap(other.log_prob)(actions)))

    def ours(net, figure):
        now = one.replace(bucket=net[0], asset=net[1], shift=net[2])
        return now.entropy() if figure == "entropy" else now.kl(other)

    for figure in ("entropy", "kl"):
        found, expected = (jax.jit(jax.grad(f), static_argnums=1)(net, figure) for f in (ours, enumerated))
        for x, y in zip(found, expected, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)
        assert max(float(jnp.abs(x).max()) for x in found) > 0.01


@pytest.mark.slow
def test_hierarchical_choices_where_nothing_can_be_chosen_and_where_there_are_no_shorts():
    one = hierarchical(3)
    nothing = one.restricted(jnp.zeros_like(one.mask).at[..., 0].set(True))
    held = jnp.asarray([N_BUCKETS - 1, 0, 0], jnp.int32)
    for uniform in (0.0, 0.5, LARGEST_BELOW_ONE):
        np.testing.assert_array_equal(nothing.sample(jnp.full(3, uniform)), held)
    np.testing.assert_array_equal(nothing.mode(), held)
    assert float(nothing.log_prob(held)) == float(nothing.entropy()) == float(nothing.entropy_bonus()) == 0.0
    gradient = jax.grad(lambda x: nothing.replace(asset=x).log_prob(held) + nothing.replace(asset=x).entropy())(
        one.asset
    )
    assert np.all(np.asarray(gradient) == 0)
    # The bonus prefers no bucket for what there is to choose in it: not even to risk off, where there is nothing.
    even = hierarchical(3, share=1.0)
    pull = jax.grad(lambda x: even.replace(bucket=x).entropy_bonus())(jnp.zeros(N_BUCKETS))
    np.testing.assert_allclose(pull, 0, atol=1e-6)
    longs = hierarchical(5, sizes=(1, 1, 3), share=1.0)
    assert sum(walked(longs).values()) == pytest.approx(1)
    free = longs.replace(bucket=longs.bucket * 0, asset=longs.asset * 0, shift=longs.shift * 0)
    # Even choices, of which the bonus counts each in shares of what it allows.
    assert float(free.entropy()) == pytest.approx(np.log(3) + 2 / 3 * 2 * (np.log(3) + np.log(3) / 3), rel=1e-5)
    one_left = free.restricted(free.mask.at[0, 1, 1:].set(False).at[0, 2, 2:].set(False))
    asset = np.log(2) / np.log(2) * np.log(5)
    rest = np.log(3) + np.log(3) / 3
    assert float(one_left.entropy_bonus()) == pytest.approx(np.log(3) + (rest + rest + asset) / 3, rel=1e-5)
