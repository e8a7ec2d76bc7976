"""Winograd's convolution against the definition, and where it is left out."""

import pytest
import torch
import zarr
from torch import nn

from landscape_hooks.evaluation.plan import Plan
from landscape_hooks.evaluation.plane_loss import PlaneLoss
from landscape_hooks.objective.capture import capture
from landscape_hooks.objective.graph import winograd
from landscape_hooks.objective.graph.winograd import Convolution
from landscape_hooks.objective.objective import Objective
from landscape_hooks.plane.plane import Plane
from landscape_hooks.trajectory.parameters import ParameterLayout


def arguments(size, inputs=24, samples=70, bias=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    given = torch.randn(samples, inputs, size, size, generator=generator)
    weight = torch.randn(32, inputs, 3, 3, generator=generator)
    return (
        given.contiguous(memory_format=torch.channels_last),
        weight,
        torch.randn(32, generator=generator) if bias else None,
    )


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("samples", [1, 64, 70])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_convolution(size, samples, bias):
    given, weight, shift = arguments(size, samples=samples, bias=bias)
    with torch.no_grad():
        found = Convolution()(given, weight, shift, [1, 1], [1, 1])
    exact = nn.functional.conv2d(given.double(), weight.double(), None if shift is None else shift.double(), padding=1)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))


def test_filters_follow_the_weights():
    given, weight, _ = arguments(4)
    convolution = Convolution()
    with torch.no_grad():
        first = convolution(given, weight, None, [1, 1], [1, 1])
        torch.testing.assert_close(convolution(given, weight, None, [1, 1], [1, 1]), first, rtol=0, atol=0)
        for other in (2 * weight, weight.mul_(2)):  # other weights, and the same tensor changed in place
            torch.testing.assert_close(convolution(given, other, None, [1, 1], [1, 1]), 2 * first, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("case", ["derivative", "few channels", "large images", "contiguous", "float64"])
def test_elsewhere_it_is_torch(case, monkeypatch):
    monkeypatch.setattr(winograd, "convolve", None)  # calling it would be an error
    given, weight, bias = arguments(5 if case == "large images" else 4, inputs=3 if case == "few channels" else 24)
    if case == "contiguous":
        given = given.contiguous()
    if case == "float64":
        given, weight, bias = given.double(), weight.double(), bias.double()
    with torch.set_grad_enabled(case == "derivative"):
        found = Convolution()(given, weight, bias, [1, 1], [1, 1])
    torch.testing.assert_close(found, nn.functional.conv2d(given, weight, bias, padding=1))


def test_only_convolutions_of_stride_and_padding_one_qualify():
    def exported(*layers):
        from landscape_hooks.objective.graph.exported import graph_of

        program = torch.export.export(nn.Sequential(*layers).eval(), (torch.randn(2, 16, 4, 4),))
        return graph_of(program, {})[0]

    assert winograd.applies(exported(nn.Conv2d(16, 8, 3, padding=1)))
    for other in ({}, {"padding": 1, "stride": 2}, {"padding": 1, "groups": 2}, {"padding": 1, "dilation": 2}):
        assert not winograd.applies(exported(nn.Conv2d(16, 8, 3, **other)))


def test_a_captured_network_goes_through_it_and_loses_nothing(monkeypatch):
    torch.manual_seed(0)
    block = [nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    tail = [nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1), nn.Flatten(), nn.Linear(64, 3)]
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), *block, *tail)
    data = [(torch.randn(n, 1, 4, 4), torch.randint(0, 3, (n,))) for n in (20, 12)]
    root = zarr.group(zarr.storage.MemoryStore())
    layout, buffers = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
    root.attrs.put({"layout": layout.to_json(), "buffer_layout": buffers.to_json()})
    capture(root, model, criterion=nn.CrossEntropyLoss(), data=data)
    theta = layout.flatten(model).detach()
    plane = Plane(theta, 0.3 * torch.randn(2, len(theta)))
    real, seen = winograd.convolve, set()

    def counted(given, *rest):
        seen.add((len(given), given.shape[-1]))
        return real(given, *rest)

    monkeypatch.setattr(winograd, "convolve", counted)
    for policy in ("batch", "fixed", "recalibrate"):
        loss = PlaneLoss(Objective.load(root), plane, buffers.flatten(model), policy)
        plan = Plan(layout="channels_last", fold=True, fuse=True, winograd=True, chunk=32)
        for point in [(0.0, 0.0), (2.0, -1.0)]:
            assert plan.apply(loss).at(*point).mean == pytest.approx(loss.at(*point).mean, rel=1e-5)
    assert seen == {(20, 4), (20, 2), (12, 4), (12, 2), (32, 4), (32, 2)}
