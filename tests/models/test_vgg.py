"""The VGG of one member against torch.nn.Sequential, written out anew."""

import pytest
import torch
from torch import nn

from bnsweep.errors import SpecError
from bnsweep.models import make_model
from bnsweep.names import NAMES, DataFacts
from bnsweep.parameters import complete_parameters, weight_layer_count

LETTERS = {
    "vgg11": "64 M 128 M 256 256 M 512 512 M 512 512 M",
    "vgg13": "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    "vgg19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
}
VGGS = list(LETTERS)


def facts(size, channels=1, classes=10):
    return DataFacts(channels, size, classes, 100, 100)


def make(name, size, channels=1, width=0.0625, dtype=torch.float64, members=1, **parameters):
    parameters = {"model": name, "width": width, **parameters}
    net = make_model(parameters, facts(size, channels), members, dtype=dtype)
    net.initialize(range(members))
    return net


def sequential(name, size, channels, width, norm, activation, pool):
    """The same network, from the letters of the VGG paper's table."""
    layers, inputs, pixels = [], channels, size
    centred = norm == "batch"
    for letter in LETTERS[name].split():
        if letter == "M":
            if pixels > 1:
                layers.append(nn.MaxPool2d(2) if pool == "max" else nn.AvgPool2d(2))
                pixels //= 2
            continue
        outputs = max(1, round(int(letter) * width))
        layers.append(nn.Conv2d(inputs, outputs, 3, padding=1, bias=not centred))
        layers += [nn.BatchNorm2d(outputs)] if centred else []
        layers.append(activation())
        inputs = outputs
    layers.append(nn.Flatten())
    hidden = max(1, round(512 * width))
    inputs *= pixels**2
    for _ in range(2):
        layers.append(nn.Linear(inputs, hidden, bias=not centred))
        layers += [nn.BatchNorm1d(hidden)] if centred else []
        layers.append(activation())
        inputs = hidden
    layers.append(nn.Linear(inputs, 10))
    return nn.Sequential(*layers).double()


def assert_equal(net, reference, x):
    parameters = list(net.parameters())
    theirs = list(reference.parameters())
    assert [p.shape for p in parameters] == [p.shape for p in theirs]
    for seed, (mine, other) in enumerate(zip(parameters, theirs, strict=True)):
        if mine.dim() == 1:
            generator = torch.Generator().manual_seed(seed)
            mine.data = torch.rand(mine.shape, generator=generator, dtype=mine.dtype) + 0.5
        other.data = mine.data.clone()
    out, expected = net(x[None])[0], reference(x)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    out.square().sum().backward()
    expected.square().sum().backward()
    scale = max(other.grad.abs().max().item() for other in theirs)
    for mine, other in zip(parameters, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-8, atol=1e-12 * scale)
    torch.testing.assert_close(net.eval()(x[None])[0], reference.eval()(x), rtol=1e-9, atol=1e-9)


def images(size, channels, batch=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, channels, size, size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3), (64, 3)], ids=str)
def test_vgg11_equals_a_sequential(size, channels, norm):
    net = make("vgg11", size, channels, norm=norm)
    assert_equal(
        net,
        sequential("vgg11", size, channels, 0.0625, norm, nn.ReLU, "max"),
        images(size, channels),
    )


@pytest.mark.parametrize("name", VGGS)
def test_every_depth_equals_a_sequential(name):
    net = make(name, 16, 3, norm="batch", activation="gelu", pool="avg")
    assert_equal(net, sequential(name, 16, 3, 0.0625, "batch", nn.GELU, "avg"), images(16, 3))


@pytest.mark.parametrize("name", VGGS)
def test_layers_are_counted_as_the_plan_counts_them(name):
    net = make(name, 32, width=0.01)
    assert len(net.layers) == weight_layer_count({"model": name}) == int(name[3:])
    assert [layer.index for layer in net.layers] == list(range(1, len(net.layers) + 1))
    assert [layer.kind for layer in net.layers[-4:]] == ["conv", "linear", "linear", "linear"]
    assert net.site_layers == tuple(range(1, len(net.layers)))


def test_full_width_has_the_channels_of_the_paper():
    with torch.device("meta"):
        net = make_model({"model": "vgg16"}, facts(32, 3))
    channels = [net.get_parameter(layer.weight).shape[0] for layer in net.layers]
    assert channels == [64, 64, 128, 128, 256, 256, 256, *[512] * 6, 512, 512, 10]


@pytest.mark.parametrize(
    ("size", "left_out"),
    [
        (8, "pooling 4 and 5"),
        (15, "pooling 4 and 5"),
        (16, "pooling 5"),
        (31, "pooling 5"),
        (32, None),
        (64, None),
    ],
    ids=str,
)
def test_a_pooling_that_would_leave_no_pixel_is_left_out_and_said_so(size, left_out):
    notes = make("vgg11", size, width=0.01).notes
    assert (not notes) if left_out is None else f"leaves out {left_out}: " in notes[0]


@pytest.mark.parametrize(("size", "units"), [(63, 512), (64, 2048), (224, 512 * 49)], ids=str)
def test_what_the_last_stage_leaves_is_flattened(size, units):
    with torch.device("meta"):
        net = make_model({"model": "vgg11"}, facts(size, 3))
    assert net.linear1.weight.shape == (512, units)


@pytest.mark.parametrize("size", range(8, 21), ids=str)
def test_every_size_from_8_pixels_works(size):
    assert make("vgg11", size, width=0.01)(images(size, 1)[None]).shape == (1, 6, 10)


def test_smaller_images_are_refused():
    with pytest.raises(SpecError, match="vgg11 needs images of 8 x 8 pixels or more, but found 7 x 7"):
        make("vgg11", 7)


def test_instance_norm_leaves_linear_layers_alone_and_says_so():
    net = make("vgg11", 32, norm="instance")
    assert net.notes == ("instance norm is undefined for linear layers: linear1, linear2 have none",)
    assert net.layers[0].block == ("conv1.weight", "conv1.norm.weight", "conv1.norm.bias")
    assert net.layers[8].block == ("linear1.weight", "linear1.bias")
    assert net(images(32, 1)[None]).isfinite().all()


@pytest.mark.parametrize(("size", "layer"), [(8, "conv5"), (28, "conv7"), (16, "conv7")], ids=str)
def test_instance_norm_on_one_pixel_is_refused_by_layer(size, layer):
    with pytest.raises(SpecError, match=rf"one at layer {layer} .*; use larger images"):
        make("vgg11", size, norm="instance")


def test_groups_of_one_value_are_refused():
    with pytest.raises(
        SpecError, match=r"group needs two values or more .* one at layer conv5 .*set groups lower"
    ):
        make("vgg11", 8, width=0.0625, norm="group", groups=32)
    make("vgg11", 8, width=0.0625, norm="group", groups=2)


@pytest.mark.parametrize(
    ("norm", "biased"),
    [
        (norm, norm not in ("batch", "noisy_batch", "l1", "l2", "linf"))
        for norm in NAMES["norm"]
        if norm != "instance"
    ],
)
def test_a_centring_norm_takes_the_place_of_the_bias(norm, biased):
    net = make("vgg11", 8, norm=norm, groups=2)
    assert [layer.bias is not None for layer in (net.conv1, net.conv8, net.linear2)] == [biased] * 3
    assert net.linear3.bias is not None


def test_complete_parameters_are_understood():
    parameters = complete_parameters({"model": "vgg13", "width": 0.01, "norm": "l1", "norm_eps": 0.25})
    net = make_model(parameters | {"lp_centered": True, "affine": False}, facts(8), 2, dtype=torch.float64)
    assert (net.conv1.norm.p, net.conv1.norm.eps, net.conv1.norm.centered) == (1.0, 0.25, True)
    assert net.conv1.norm.weight is None
