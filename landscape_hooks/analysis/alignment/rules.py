"""Rules: how the axes of an operation's result follow from those of its arguments.

In: a call of an ATen operation, its arguments by name (a tensor is the list of its axes), the shape of its result. Out:
the axes of the result. A rule holds if reordering the arguments by their axes reorders the result by its axes, and
changes nothing else. Where an operation reads places (convolutions theirs, indices, cumulative sums), its axis is
pinned. `rule_of` gives None for what is not understood.
"""

from __future__ import annotations

from typing import Any

from landscape_hooks.analysis.alignment import shaping
from landscape_hooks.analysis.alignment.axes import UNIT, Axis, Product, Sum, cut, free, pin, pinned, regroup, unify
from landscape_hooks.analysis.alignment.axes import size as size_of
from landscape_hooks.analysis.alignment.calls import Axes, Call, NotUnderstoodError, Rule, Tensor, broadcast
from landscape_hooks.objective.graph.permitted import LOSSES, POINTWISE


# -- one number at a time -----------------------------------------------------------------------------------------
def pointwise(call: Call) -> Tensor:
    """Broadcast: axes that meet are one."""
    return Tensor(broadcast(call.tensors, call.result))


def same(call: Call) -> Any:
    """The first tensor as it is, in another type or place; also of random omissions, which are none in evaluation."""
    return Tensor(call.first)


def uniform(call: Call) -> Tensor:
    """The same number everywhere: any order is as good."""
    return Tensor([free(count) for count in call.result])


# -- many numbers at a time -----------------------------------------------------------------------------------------
def reduction(call: Call) -> Any:
    """A sum, mean, maximum ... over some dimensions, which does not depend on their order."""
    if "other" in call.arguments:
        return pointwise(call)
    axes = call.first
    dims = call.where("dim", len(axes))
    several = isinstance(call.result, list)
    shape = call.result[0] if several else call.result
    if len(shape) == len(axes):
        left = [UNIT if place in dims else axis for place, axis in enumerate(axes)]
    else:
        left = [axis for place, axis in enumerate(axes) if place not in dims]
    return [Tensor(list(left)) for _ in call.result] if several else Tensor(left)


def reduction_with_places(call: Call) -> Any:
    """A reduction that gives places too."""
    if "other" not in call.arguments and "dim" in call.arguments:
        axes = call.first
        pin(*(axes[dim] for dim in call.where("dim", len(axes))))
    return reduction(call)


def places(call: Call) -> Any:
    """Places of the largest or least, which are counted along an axis."""
    axes = call.first
    pin(*(axes[dim] for dim in call.where("dim", len(axes))))
    return reduction(call)


def along(call: Call) -> Any:
    """What goes along a dimension in its order (cumulative sums), and is the same for all others."""
    axes = call.first
    dims = call.where("dims" if "dims" in call.arguments else "dim", len(axes))
    pin(*(axes[dim] for dim in dims))
    return [Tensor(list(axes)) for _ in call.result] if isinstance(call.result, list) else Tensor(axes)


def window(count: int) -> Rule:
    """Pooling and resizing of the last `count` dimensions."""

    def rule(call: Call) -> Any:
        axes = call.first
        pin(*axes[-count:])
        shapes = call.result if isinstance(call.result, list) else [call.result]
        found = [Tensor([*axes[:-count], *map(pinned, shape[-count:])]) for shape in shapes]
        return found if isinstance(call.result, list) else found[0]

    return rule


def padded(call: Call) -> Tensor:
    """Padding: by a constant it is a sum of axes, else it reads places."""
    axes, given = call.first, [int(n) for n in call["pad"]]
    constant = call.get("mode", "constant") == "constant"
    for number, (before, after) in enumerate(zip(given[::2], given[1::2], strict=True)):
        place = len(axes) - 1 - number
        if constant and before >= 0 and after >= 0:
            axes[place] = Sum((*([free(before)] * (before > 0)), axes[place], *([free(after)] * (after > 0))))
        elif before or after:
            pin(axes[place])
            axes[place] = pinned(call.result[place])
    return Tensor(axes)


def normalised_last(call: Call) -> Tensor:
    """Layer norm: statistics over the last dimensions."""
    axes, count = call.first, len(call["normalized_shape"])
    for name in ("weight", "bias"):
        if isinstance(call.get(name), Tensor):
            axes[-count:] = [unify(a, b) for a, b in zip(axes[-count:], call[name].axes, strict=True)]
    return Tensor(axes)


def normalised_channels(call: Call) -> Tensor:
    """Batch norm and instance norm: statistics of each channel."""
    axes = call.first
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(call.get(name), Tensor):
            axes[1] = unify(axes[1], call[name].axes[0])
    return Tensor(axes)


def normalised_groups(call: Call) -> Tensor:
    """Group norm: groups, and channels in each, are reordered as such."""
    axes, groups = call.first, int(call["num_groups"])
    axes[1] = Product(tuple(regroup([axes[1]], [groups, size_of(axes[1]) // groups])))
    for name in ("weight", "bias"):
        if isinstance(call.get(name), Tensor):
            axes[1] = unify(axes[1], call[name].axes[0])
    return Tensor(axes)


# -- products ---------------------------------------------------------------------------------------------------
def linear(call: Call) -> Tensor:
    axes, weight = call["input"].axes, call["weight"].axes
    unify(axes[-1], weight[-1])
    out = weight[0] if len(weight) == 2 else UNIT
    if isinstance(call.get("bias"), Tensor) and call["bias"].axes:
        out = unify(out, call["bias"].axes[0])
    return Tensor([*axes[:-1], out] if len(weight) == 2 else axes[:-1])


def matmul(call: Call) -> Tensor:
    one, other = call.tensors[:2]
    return Tensor(_product(one, other))


def _product(one: Tensor, other: Tensor) -> Axes:
    a, b = one.axes, other.axes
    unify(a[-1], b[-2] if len(b) > 1 else b[-1])
    batch = [Tensor(a[:-2]), Tensor(b[:-2])]
    length = max(len(t.axes) for t in batch)
    shape = tuple(
        max((t.shape[place - length] for t in batch if len(t.axes) >= length - place), default=1)
        for place in range(length)
    )
    return [*broadcast(batch, shape), *(a[-2:-1] if len(a) > 1 else []), *(b[-1:] if len(b) > 1 else [])]


def added_product(call: Call) -> Tensor:
    """addmm, addmv, baddbmm: a product and what is added to it."""
    added, one, other = call.tensors[:3]
    found = Tensor(_product(one, other))
    return Tensor(broadcast([found, added], call.result))


def dot(call: Call) -> Tensor:
    one, other = call.tensors[:2]
    unify(one.axes[0], other.axes[0])
    return Tensor([])


def outer(call: Call) -> Tensor:
    one, other = call.tensors[:2]
    return Tensor([one.axes[0], other.axes[0]])


def einsum(call: Call) -> Tensor:
    """Every letter is an axis."""
    equation = str(call["equation"]).replace(" ", "")
    taken, arrow, made = equation.partition("->")
    if not arrow or "." in equation:
        raise NotUnderstoodError
    letters: dict[str, Axis] = {}
    for word, tensor in zip(taken.split(","), call.tensors, strict=True):
        for letter, axis in zip(word, tensor.axes, strict=True):
            if size_of(axis) > 1:
                letters[letter] = unify(letters[letter], axis) if letter in letters else axis
    return Tensor([letters.get(letter, UNIT) for letter in made])


def convolution(call: Call) -> Tensor:
    """Channels are multiplied as in a linear layer; places are read."""
    axes, weight, groups = call["input"].axes, list(call["weight"].axes), int(call.get("groups", 1))
    spatial = len(weight) - 2
    pin(*axes[-spatial:], *weight[2:])
    channels = axes[-spatial - 1]
    transposed = bool(call.get("transposed", False))
    if transposed:  # its weight has the channels that go in first, and those that come out of each group
        weight[:2] = [weight[1], weight[0]]
    if groups == 1:
        unify(channels, weight[1])
        out = weight[0]
    elif transposed:
        parts = regroup([weight[1]], [groups, size_of(channels) // groups])
        unify(channels, Product(tuple(parts)))
        out = Product((parts[0], weight[0]))
    else:
        inside = regroup([channels], [groups, size_of(weight[1])])
        unify(inside[1], weight[1])
        made = regroup([weight[0]], [groups, size_of(weight[0]) // groups])
        out = Product((unify(inside[0], made[0]), made[1]))
    if isinstance(call.get("bias"), Tensor):
        out = unify(out, call["bias"].axes[0])
    return Tensor([*axes[: -spatial - 1], out, *map(pinned, call.result[-spatial:])])


def transposed_convolution(call: Call) -> Tensor:
    return convolution(Call({**call.arguments, "transposed": True}, call.result))


def attention(call: Call) -> Tensor:
    """Scaled dot products: queries and keys share their width, keys and values their places."""
    query, key, value = (call[name].axes for name in ("query", "key", "value"))
    if call.get("enable_gqa") and Tensor(query[:-2]).shape != Tensor(key[:-2]).shape:
        raise NotUnderstoodError
    shape = call.result[:-2]
    batch = broadcast([Tensor(axes[:-2]) for axes in (query, key, value)], shape)
    unify(query[-1], key[-1])
    unify(key[-2], value[-2])
    if call.get("is_causal"):
        pin(query[-2], key[-2])
    mask = call.get("attn_mask")
    if isinstance(mask, Tensor):
        broadcast([Tensor([*batch, query[-2], key[-2]]), mask], (*shape, size_of(query[-2]), size_of(key[-2])))
    return Tensor([*batch, query[-2], value[-1]])


def weight_norm(call: Call) -> Tensor:
    return Tensor(broadcast([call["v"], call["g"]], call.result))


def channelwise(call: Call) -> Tensor:
    """prelu: a slope for each channel, or one."""
    axes, slope = call.first, call["weight"].axes
    if slope and size_of(slope[0]) > 1:
        place = min(1, len(axes) - 1)
        axes[place] = unify(axes[place], slope[0])
    return Tensor(axes)


def gated(call: Call) -> Tensor:
    """glu: one half opens the other."""
    axes = call.first
    dim = int(call.get("dim", -1)) % len(axes)
    half = size_of(axes[dim]) // 2
    axes[dim] = unify(*cut(axes[dim], [half, half]))
    return Tensor(axes)


# -- by name ---------------------------------------------------------------------------------------
def _table() -> dict[str, Rule]:
    return {
        **dict.fromkeys(POINTWISE, pointwise),
        **dict.fromkeys(_words("copy maximum minimum where fill zero masked_fill"), pointwise),
        **dict.fromkeys(
            _words("clone contiguous detach detach_copy alias alias_copy lift lift_fresh lift_fresh_copy to _to_copy "
                   "dropout alpha_dropout feature_dropout feature_alpha_dropout type_as softmax _softmax log_softmax "
                   "_log_softmax _safe_softmax special_softmax special_log_softmax"), same
        ),
        **dict.fromkeys(
            _words("zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full empty empty_like "
                   "new_empty scalar_tensor"), uniform
        ),
        **dict.fromkeys(
            _words("sum mean amax amin var std var_mean std_mean logsumexp special_logsumexp prod all any norm "
                   "linalg_vector_norm nansum nanmean frobenius_norm count_nonzero"), reduction
        ),
        **dict.fromkeys(_words("max min median nanmedian mode"), reduction_with_places),
        **dict.fromkeys(_words("argmax argmin"), places),
        **dict.fromkeys(_words("cumsum cumprod logcumsumexp cummax cummin flip roll sort argsort"), along),
        **{name: window(int(name.removesuffix("_with_indices")[-2])) for name in _words(
            "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices max_pool1d max_pool2d max_pool3d "
            "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
            "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d upsample_linear1d upsample_nearest1d "
            "upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_bicubic2d "
            "upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d")},
        **dict.fromkeys(("pad", "constant_pad_nd"), padded),
        **dict.fromkeys(("layer_norm", "rms_norm"), normalised_last),
        **dict.fromkeys(("batch_norm", "instance_norm"), normalised_channels),
        "group_norm": normalised_groups,
        "linear": linear,
        **dict.fromkeys(_words("matmul mm bmm mv linalg_matmul"), matmul),
        **dict.fromkeys(_words("addmm baddbmm addmv"), added_product),
        **dict.fromkeys(_words("dot vdot"), dot),
        **dict.fromkeys(_words("outer ger"), outer),
        "einsum": einsum,
        **dict.fromkeys(_words("conv1d conv2d conv3d convolution"), convolution),
        **dict.fromkeys(_words("conv_transpose1d conv_transpose2d conv_transpose3d"), transposed_convolution),
        "scaled_dot_product_attention": attention,
        "_weight_norm": weight_norm,
        "prelu": channelwise,
        "glu": gated,
        **dict.fromkeys(
            _words("view reshape _unsafe_view view_copy view_as reshape_as flatten unflatten ravel unsqueeze "
                   "unsqueeze_copy squeeze squeeze_copy atleast_1d"), shaping.reshape
        ),
        **dict.fromkeys(_words("transpose transpose_copy swapaxes swapdims t t_copy mT"), shaping.transpose),
        **dict.fromkeys(_words("permute permute_copy numpy_T"), shaping.permute),
        **dict.fromkeys(_words("movedim moveaxis"), shaping.moved),
        **dict.fromkeys(_words("expand expand_copy expand_as broadcast_to"), shaping.expanded),
        **dict.fromkeys(_words("repeat tile"), shaping.repeated),
        "repeat_interleave": shaping.repeated_entries,
        **dict.fromkeys(_words("cat concat concatenate"), shaping.concatenation),
        "stack": shaping.stack,
        **dict.fromkeys(
            _words("split split_with_sizes chunk tensor_split unbind unsafe_chunk unsafe_split split_copy "
                   "unsafe_split_with_sizes split_with_sizes_copy unbind_copy"), shaping.split
        ),
        **dict.fromkeys(("select", "select_copy"), shaping.select),
        **dict.fromkeys(("slice", "slice_copy", "narrow", "narrow_copy"), shaping.sliced),
        "embedding": shaping.embedding,
        "index_select": shaping.index_select,
        "index": shaping.index,
        **dict.fromkeys(("tril", "triu"), shaping.triangle),
    }  # fmt: skip


def _words(text: str) -> list[str]:
    return text.split()


RULES = _table()

ON_SIZES = frozenset(
    _words(
        "sym_size size numel sym_numel sym_stride stride sym_storage_offset is_floating_point is_complex is_same_size"
    )
)
"""Operations that look at a tensor's size or kind alone."""


def rule_of(op: str) -> Rule | None:
    """The rule of an operation; an operation in place (`add_`) has that of the plain one."""
    name = op.split(".")[1]
    if name in ("squeeze_", "unsqueeze_"):  # they change what their argument is, and not what is in it
        return None
    return RULES.get(name) or RULES.get(name.removesuffix("_"))


def is_loss(op: str) -> bool:
    """Whether an operation is a loss, whose arguments are outputs and targets: they stay in their order."""
    return op.split(".")[1] in LOSSES if op.startswith("aten.") else False
