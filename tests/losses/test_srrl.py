"""SRRL: the authors' values, values by hand, and its small parts against PyTorch's conventions."""

import jax.numpy as jnp
import numpy as np
import pytest
from feature_cases import built, evaluate, golden_arrays, network, normal
from flax import nnx
from values import both_precisions, precision, relative_error

from jaxkd.losses.features import StatelessBatchNorm
from jaxkd.losses.srrl import SRRL
from jaxkd.nn.layers import Linear


@both_precisions
def test_the_authors_values(dtype, value_tolerance, gradient_tolerance):
    with precision(dtype):
        golden = golden_arrays("srrl", dtype)

        def classify(embedding):
            return embedding @ golden["classifier_weight"].T + golden["classifier_bias"].reshape(1, -1)

        student = network(golden["student_feature"])
        teacher = network(golden["teacher_feature"], logits=golden["teacher_logits"], classify=classify)
        graph, params, rest = built(SRRL(), student, teacher)
        assert params["projection"]["kernel"].shape == (64, 96)
        params["projection"]["kernel"] = golden["conv_weight"].T
        value, learned, [gradient], _ = evaluate(graph, params, rest, student.outputs, teacher.outputs)
        assert value.dtype == dtype
        assert relative_error(value, golden["loss"]) < value_tolerance
        assert relative_error(gradient, golden["grad_student_feature"]) < gradient_tolerance
        assert relative_error(learned["projection"]["kernel"], golden["grad_conv_weight"].T) < gradient_tolerance
        assert learned.keys() == {"projection", "norm"}
        assert all(np.abs(learned["norm"][part]).max() > 1e-6 for part in ("scale", "bias"))


def test_by_hand():
    # Embeddings 30 and 10 become 1 and −1 in the batch, 1 and 0 behind the ReLU, which the classifier doubles.
    student = network(jnp.array([[30.0], [10.0]]))
    teacher = network(
        jnp.array([[3.0], [0.0]]), logits=jnp.array([[2.0], [1.0]]), classify=lambda embedding: 2 * embedding
    )
    loss = SRRL()
    loss.build(student, teacher, nnx.Rngs(0))
    loss.projection.kernel[...] = jnp.ones((1, 1))
    found = loss(student.outputs, teacher.outputs, None, None, None)
    assert float(found) == pytest.approx((2**2 + 0) / 2 + (0 + 1) / 2, rel=1e-4)


def test_what_cannot_be_compared_is_refused_before_training():
    whole = network(normal(0, 2, 3), classify=lambda embedding: embedding)
    with pytest.raises(ValueError, match=r"SRRL .*Distiller"):
        SRRL().build(whole, None, nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"SRRL .*teacher's classifier.*Outputs"):
        SRRL().build(whole, network(normal(0, 2, 3)), nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"SRRL .*student's feature -1 .*\[4, 4, 3\]"):
        SRRL().build(network(normal(0, 2, 4, 4, 3)), whole, nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"no features at position 2; it has 0: \[3\]"):
        SRRL(position=2).build(whole, whole, nnx.Rngs(0))


def test_projections_start_as_pytorchs_linear_layers_do():
    made = Linear(400, 300, rngs=nnx.Rngs(0))
    for values in (made.kernel[...], made.bias[...]):
        assert 0.99 < 20 * float(jnp.abs(values).max()) <= 1  # within ±1/√400
        assert float(values.std()) == pytest.approx(0.05 / np.sqrt(3), rel=0.1)
    assert Linear(4, 3, bias=False, rngs=nnx.Rngs(0)).bias is None
    zero = made(jnp.zeros((2, 5, 400)))
    assert zero.shape == (2, 5, 300)
    np.testing.assert_array_equal(zero[1, 4], made.bias[...])


def test_batch_norm_of_maps_is_pytorchs_in_training():
    torch = pytest.importorskip("torch")
    maps, ours, theirs = normal(0, 4, 3, 2, 5), StatelessBatchNorm(5), torch.nn.BatchNorm2d(5)
    ours.scale[...], ours.bias[...] = normal(1, 5), normal(2, 5)
    theirs.weight.data, theirs.bias.data = (torch.tensor(np.array(part)) for part in (ours.scale[...], ours.bias[...]))
    expected = theirs(torch.tensor(np.array(maps.transpose(0, 3, 1, 2)))).detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours(maps), expected, atol=1e-5)
