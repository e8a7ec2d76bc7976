"""Arguments: what operations of torch are not told to compute, since they do not look themselves.

In: the arguments of one call by their names in the schema. Out: nothing, or an exception that says what is wrong. Some
operations take indices, lengths and offsets for places in memory without looking; some make as much memory as a number
in a tensor says; a processor stops at the least whole number divided by -1. Tensors without values (torch's `meta`
device, on which shapes are computed) are passed over.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Given = Mapping[str, Any]


def memory() -> int:
    """Bytes of this machine's memory, where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**40


def _fits(elements: int, what: str) -> None:
    if not 0 <= elements * 8 <= memory():
        raise ValueError(f"{what} asks for {elements} numbers")


def _has_values(*tensors: object) -> bool:
    return all(not t.is_meta for t in tensors if isinstance(t, Tensor))


def _range(tensor: Tensor) -> tuple[int, int]:
    """Least and largest of a tensor of whole numbers that is not empty."""
    low, high = torch.aminmax(tensor)
    return int(low), int(high)


def _whole(value: object) -> bool:
    if isinstance(value, Tensor):
        return not (value.is_floating_point() or value.is_complex() or value.dtype is torch.bool)
    return isinstance(value, int) and not isinstance(value, bool)


def division(given: Given) -> None:
    """Of whole numbers by whole numbers: not by 0, and not the least one by -1."""
    above: Any = given.get("self")
    below: Any = given.get("other")
    if not (_whole(above) and _whole(below) and _has_values(above, below)):
        return
    tensors = [torch.as_tensor(value) for value in (above, below)]
    if not all(t.numel() for t in tensors):
        return
    (low, _), (least, most) = map(_range, tensors)
    kind = torch.result_type(above, below)
    if least <= 0 <= most and bool((tensors[1] == 0).any()):
        raise ZeroDivisionError("whole numbers are divided by 0")
    if least <= -1 <= most and kind.is_signed and low <= torch.iinfo(kind).min:
        raise OverflowError("the least whole number is divided by -1")


def shift(given: Given) -> None:
    """By a number of bits that the numbers have."""
    by = given.get("other")
    if not (_whole(given.get("self")) and _whole(by) and _has_values(given["self"], by)):
        return
    bits = torch.as_tensor(by)
    if bits.numel() and not 0 <= _range(bits)[0] <= _range(bits)[1] < 64:
        raise OverflowError("whole numbers are shifted by less than 0 or more than 63 bits")


def no_dropout(given: Given) -> None:
    """Draws are constants of a graph, so that its layers draw none."""
    if given.get("train") is not False and given.get("p") != 0:
        raise ValueError("dropout draws random numbers")


def attention(given: Given) -> None:
    """Without dropout, of tensors with the same kind of numbers."""
    if given.get("dropout_p") not in (None, 0):
        raise ValueError("dropout draws random numbers")


def kernel_of_attention(given: Given) -> None:
    """The kernel by itself, as graphs of older versions of torch have it: it takes shapes and types for right."""
    attention(given)
    three = [t for t in (given.get(name) for name in ("query", "key", "value")) if isinstance(t, Tensor)]
    if len(three) < 3 or any(t.ndim != 4 or not t.is_floating_point() or not t.numel() for t in three):
        raise ValueError("attention is of numbers in four dimensions")
    sides = {(t.shape[0], t.shape[1], t.shape[3]) for t in three}
    if len(sides) > 1 or three[1].shape != three[2].shape or len({t.dtype for t in three}) > 1:
        raise ValueError("queries, keys and values of attention do not fit together")
    if given.get("attn_mask") is not None:
        raise ValueError("a mask for the kernel of attention")


def labels_of_ctc(given: Given) -> None:
    """Labels are classes: torch takes them for places in memory. So are lengths."""
    log_probs, targets = given["log_probs"], given["targets"]
    lengths = [torch.as_tensor(given[k]) for k in ("input_lengths", "target_lengths")]
    if not _has_values(log_probs, targets, *lengths):
        return
    if any(_range(t)[0] < 0 for t in lengths if t.numel()):
        raise IndexError("a length of ctc_loss is negative")
    labels = targets
    if targets.ndim == 2:  # what follows after a target's end may be anything
        most = lengths[1].to(targets.device).reshape(-1, 1)
        labels = targets[(torch.arange(targets.shape[1], device=targets.device) < most).expand(len(targets), -1)]
    classes = log_probs.shape[-1]
    if not 0 <= int(given.get("blank") or 0) < classes:
        raise IndexError(f"the blank of ctc_loss is none of {classes} classes")
    if labels.numel():
        low, high = _range(labels)
        if low < 0 or high >= classes:
            raise IndexError(f"the labels of ctc_loss go from {low} to {high}, and there are {classes} classes")


def combinations(given: Given) -> None:
    """As many as memory holds: torch looks at every row of a grid with a side for each place."""
    count, places = given["self"].numel(), given.get("r", 2)
    if not 0 <= places <= 64:
        raise ValueError(f"combinations of {places} numbers")
    _fits(count**places * max(1, places), "combinations")


def powers(given: Given) -> None:
    """Of so many factors that they end."""
    if not -(2**31) < given["n"] < 2**31:
        raise ValueError(f"a matrix to the power of {given['n']}")


def finite(given: Given) -> None:
    """Of numbers: some libraries of linear algebra end the process at NaN."""
    matrix = given.get("self", given.get("input"))
    if isinstance(matrix, Tensor) and _has_values(matrix) and not torch.isfinite(matrix).all():
        raise ValueError("the eigenvalues of a matrix with NaN or infinity")


def sums_of_lgamma(given: Given) -> None:
    """Of so many terms that they end."""
    if not 1 <= given["p"] <= 1000:
        raise ValueError(f"mvlgamma of {given['p']} dimensions")


def statistics(given: Given) -> None:
    """One mean and one variance for each channel where those of the batch are not taken; weights likewise."""
    values = given["input"]
    names = ("running_mean", "running_var", "weight", "bias")
    found = [given.get(name) for name in names]
    if values.ndim < 2 or any(t is not None and t.shape != (values.shape[1],) for t in found):
        raise ValueError("a normalisation has statistics or weights of other shapes than its channels")
    own = given.get("training", given.get("use_input_stats"))
    if (found[0] is None) != (found[1] is None) or (not own and found[0] is None):
        raise ValueError("a normalisation has neither statistics nor a batch to take them from")


def classes(given: Given) -> None:
    """As many classes as memory holds."""
    labels = given["self"]
    if _has_values(labels) and labels.numel() and _whole(labels):
        count = given.get("num_classes")
        _fits(labels.numel() * (_range(labels)[1] + 1 if count in (None, -1) else max(int(count or 0), 0)), "one_hot")


def counts(given: Given) -> None:
    """As many bins as memory holds."""
    values, least = given["self"], int(given.get("minlength") or 0)
    if _has_values(values) and _whole(values):
        _fits(max(least, _range(values)[1] + 1 if values.numel() else 0, 0), "bincount")


def repeats(given: Given) -> None:
    """As many repetitions as memory holds."""
    each, rows = given.get("repeats"), given.get("self")
    if isinstance(each, Tensor) and each.numel() and _has_values(each, rows):
        total = int(each.double().sum())
        width = 1
        if isinstance(rows, Tensor) and each.numel() == 1:
            width = rows.numel()
        elif isinstance(rows, Tensor) and given.get("dim") is not None and rows.ndim:
            width = rows.numel() // max(1, rows.shape[given["dim"]])
        _fits(total * max(width, 1), "repeat_interleave")
    elif isinstance(each, int) and isinstance(rows, Tensor):
        _fits(rows.numel() * max(each, 0), "repeat_interleave")


def bags(given: Given) -> None:
    """Indices are rows of the table, and offsets places among the indices, in ascending order."""
    table, indices, offsets = given["weight"], given["indices"], given["offsets"]
    if not _has_values(table, indices, offsets):
        return
    if table.ndim != 2 or indices.ndim != 1 or offsets.ndim != 1:
        raise IndexError("embedding_bag takes a table of two dimensions, and indices and offsets of one")
    if indices.numel() and not 0 <= _range(indices)[0] <= _range(indices)[1] < table.shape[0]:
        raise IndexError(f"an index of embedding_bag is none of {table.shape[0]} rows")
    if not offsets.numel() or int(offsets[0]) != 0 or _range(offsets)[1] > indices.numel():
        raise IndexError("the offsets of embedding_bag are no places among its indices")
    if bool((offsets[1:] < offsets[:-1]).any()):
        raise IndexError("the offsets of embedding_bag do not ascend")
    weights, padding = given.get("per_sample_weights"), given.get("padding_idx")
    if isinstance(weights, Tensor) and weights.shape != indices.shape:
        raise IndexError("embedding_bag has other weights than indices")
    if padding is not None and not -table.shape[0] <= padding < table.shape[0]:
        raise IndexError("the padding of embedding_bag is none of its rows")
    if given.get("mode") not in (None, 0, 1, 2):
        raise ValueError("embedding_bag has the modes 0, 1 and 2")


def no_sorter(given: Given) -> None:
    """An order that is given is not looked at by torch."""
    if given.get("sorter") is not None:
        raise ValueError("searchsorted takes no sorter here")


def packed(given: Given) -> None:
    """Lengths of sequences: one each, from the longest to the shortest, within the padding."""
    rows, lengths = given["input"], given["lengths"]
    if not _has_values(rows, lengths):
        return
    if rows.ndim < 2 or lengths.ndim != 1 or lengths.dtype is not torch.int64:
        raise IndexError("packed sequences have lengths of one dimension")
    steps, count = rows.shape[:2][:: -1 if given.get("batch_first") else 1]
    if len(lengths) != count or not count or not 1 <= _range(lengths)[0] <= _range(lengths)[1] <= steps:
        raise IndexError(f"the lengths of packed sequences are not within 1 and {steps}")


def padded(given: Given) -> None:
    """Numbers of sequences at each step: positive, never more than before, together as many as there are rows."""
    rows, sizes, length = given["data"], given["batch_sizes"], given.get("total_length")
    if not _has_values(rows, sizes):
        return
    _sizes_of_batches(rows, sizes)
    _fits(max(len(sizes), int(length or 0)) * int(sizes[0]) * max(1, rows[0].numel()), "pad_packed_sequence")


def _sizes_of_batches(rows: Tensor, sizes: Tensor) -> None:
    sound = rows.ndim >= 1 and sizes.ndim == 1 and sizes.dtype is torch.int64 and sizes.numel() > 0
    if not sound or _range(sizes)[0] < 1 or int(sizes.sum()) != len(rows) or bool((sizes[1:] > sizes[:-1]).any()):
        raise IndexError("the sizes of packed sequences are not those of their rows")


def recurrent(given: Given) -> None:
    """Weights of every layer, of the shapes that belong to each other; no dropout."""
    if given.get("train") is not False and given.get("dropout"):
        raise ValueError("dropout draws random numbers")
    layers, ways = int(given["num_layers"]), 1 + bool(given["bidirectional"])
    weights, rows = given["params"], given.get("input", given.get("data"))
    hidden = given["hx"] if isinstance(given["hx"], list | tuple) else [given["hx"]]
    each = (4 if given["has_biases"] else 2) + (len(hidden) == 2 and hidden[0].shape[-1:] != hidden[1].shape[-1:])
    if not 1 <= layers <= 10_000 or len(weights) != layers * ways * each or not 1 <= len(hidden) <= 2:
        raise ValueError(f"a recurrent network of {layers} layers has {len(weights)} weights")
    packed_rows = isinstance(given.get("batch_sizes"), Tensor)
    if rows is None or rows.ndim != (2 if packed_rows else 3) or any(h.ndim != 3 for h in hidden):
        raise ValueError("a recurrent network takes sequences and states of three dimensions")
    if any(h.shape[0] != layers * ways or not h.shape[2] for h in hidden) or not all(rows.shape):
        raise ValueError("the states of a recurrent network are not those of its layers")
    if len({t.dtype for t in (rows, *hidden, *weights)}) > 1:
        raise TypeError("a recurrent network takes numbers of one type")
    if packed_rows and _has_values(rows, given["batch_sizes"]):
        _sizes_of_batches(rows, given["batch_sizes"])
        count = int(given["batch_sizes"][0])
    else:
        count = hidden[0].shape[1] if packed_rows else rows.shape[0 if given.get("batch_first") else 1]
    _shapes_of_layers([*weights], [*hidden], rows.shape[-1], ways, each, count)


def _shapes_of_layers(weights: list[Tensor], hidden: list[Tensor], wide: int, ways: int, each: int, count: int) -> None:
    """Every weight takes what the layer before gives."""
    size = hidden[-1].shape[2]
    if any(h.shape[1] != count for h in hidden):
        raise ValueError("the states of a recurrent network are not those of its sequences")
    for start in range(0, len(weights), each):
        rows = weights[start].shape[0] if weights[start].ndim == 2 else 0
        if not rows or rows % size or rows // size not in (1, 3, 4):
            raise ValueError("the weights of a recurrent network do not fit its states")
        inner = weights[start + 1]
        if inner.ndim != 2 or inner.shape[0] != rows or inner.shape[1] != hidden[0].shape[2]:
            raise ValueError("the weights of a recurrent network do not fit its states")
        if each >= 4 and any(bias.shape != (rows,) for bias in weights[start + 2 : start + 4]):
            raise ValueError("the biases of a recurrent network do not fit its weights")
        taken = wide if start < ways * each else ways * hidden[0].shape[2]
        if weights[start].shape[1] != taken:
            raise ValueError("the weights of a recurrent network do not fit its sequences")


def weight_norm(given: Given) -> None:
    """A length for each slice of the weights along a dimension, or one for all."""
    v, g, dim = given["v"], given["g"], int(given.get("dim") or 0)
    if not v.ndim or not -1 <= dim < v.ndim or v.dtype != g.dtype or not v.is_floating_point():
        raise ValueError("weight_norm takes real weights and their lengths")
    if g.numel() != (1 if dim == -1 else v.shape[dim]) or not v.numel():
        raise ValueError(f"weight_norm has {g.numel()} lengths for weights of shape {tuple(v.shape)}")


def groups_of_rows(given: Given) -> None:
    """Ends of groups of rows: in ascending order, within the rows."""
    rows, ends = given["self"], given.get("offs")
    if ends is not None and _has_values(rows, ends) and ends.numel():
        low, high = _range(ends)
        most = rows.shape[-1] if rows.ndim == 2 and given["mat2"].ndim == 2 else rows.shape[0] if rows.ndim == 2 else (
            given["mat2"].shape[-1])  # fmt: skip
        if ends.ndim != 1 or low < 0 or high > most or bool((ends[1:] < ends[:-1]).any()):
            raise IndexError("the groups of grouped_mm are not within its rows")


def gradient_of_convolution(given: Given) -> None:
    """A gradient of the shape that the convolution gives."""
    given = dict(given)
    own = [given["input"], given["weight"]]
    most = len(given["weight"].shape) - 2
    numbers = [given["stride"], given["padding"], given["dilation"], given["output_padding"]]
    if not 1 <= most <= 3 or any(len(part) not in (1, most) or max(map(abs, part)) > 2**20 for part in numbers):
        raise ValueError("a convolution has other numbers than its dimensions")
    if len({t.dtype for t in (*own, given["grad_output"])}) > 1 or not all(t.numel() for t in own):
        raise ValueError("a gradient of a convolution is of another type, or of nothing")
    biased = given.get("bias_sizes")
    if biased is not None and list(biased) != [given["grad_output"].shape[1:2].numel()]:
        raise ValueError("a bias of a convolution has one number for each channel")
    meta = [t.to("meta") for t in own]
    names = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
    _shaped(given, torch.ops.aten.convolution.default(*meta, None, *(given[name] for name in names)))


def gradient_of_pooling(given: Given) -> None:
    """A gradient of the shape that the mean over windows gives."""
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    _shaped(given, torch.ops.aten.avg_pool2d.default(given["self"].to("meta"), *(given[name] for name in names)))


def gradient_of_adaptive_pooling(given: Given) -> None:
    """A gradient with the dimensions of what was pooled."""
    own, gradient = given["self"], given["grad_output"]
    if gradient.ndim != own.ndim or own.ndim not in (3, 4) or own.shape[:-2] != gradient.shape[:-2]:
        raise ValueError("a gradient of pooling has other dimensions than what was pooled")
    _shaped(given, torch.ops.aten._adaptive_avg_pool2d.default(own.to("meta"), list(gradient.shape[-2:])))


def gradient_of_upsampling(given: Given) -> None:
    """A gradient of the shape that upsampling gives."""
    size, gradient = list(given["input_size"]), given["grad_output"]
    _fits(math.prod(size), "a gradient of upsampling")
    if len(size) != 4 or min(size) < 1:
        raise ValueError("a gradient of upsampling has four dimensions")
    own = torch.empty(size, dtype=gradient.dtype, device="meta")
    scales = (given.get("scales_h"), given.get("scales_w"))
    _shaped(given, torch.ops.aten.upsample_nearest2d.default(own, list(given["output_size"]), *scales))


def _shaped(given: Given, like: Tensor) -> None:
    gradient = given["grad_output"]
    if gradient.shape != like.shape or gradient.dtype != like.dtype or not gradient.numel():
        raise ValueError(f"a gradient has the shape {tuple(gradient.shape)} in place of {tuple(like.shape)}")
