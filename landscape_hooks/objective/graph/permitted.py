"""Permitted: the operations of torch that a stored graph may call, by name.

In: the name of an ATen operation. Out: whether it is permitted, and the look at its arguments that it needs before it
is called (arguments.py). What is not listed is refused. Every operation that is listed was called with random hostile
arguments in child processes (tests/fuzz/operations.py); those that ended a process are not listed, or have a check.

Not listed are operations that draw numbers (draws are constants of the graph), that read uninitialised memory, that
reach files, storages or other devices, that take places in memory from their arguments without looking at them, and
those of quantized, sparse and nested tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from landscape_hooks.objective.graph import arguments

Check = Callable[[Mapping[str, Any]], None]
"""Looks at the arguments by their names in the operation's schema, and raises for those that it cannot be given."""

# of one number at a time; each also in place (`add_`), where torch has that
_POINTWISE = """
    abs absolute acos acosh add addcdiv addcmul angle arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh
    atan atan2 atanh bitwise_and bitwise_not bitwise_or bitwise_xor ceil celu clamp clamp_max clamp_min clip
    conj_physical copysign cos cosh deg2rad digamma elu eq erf erfc erfinv exp exp2 expm1 float_power floor frac ge gelu
    greater greater_equal gt hardshrink hardsigmoid hardswish hardtanh heaviside hypot i0 igamma igammac ldexp le
    leaky_relu lerp less less_equal lgamma log log10 log1p log2 logical_and logical_not logical_or logical_xor logit lt
    masked_fill mish mul multiply nan_to_num ne neg negative nextafter not_equal polygamma pow rad2deg
    reciprocal relu relu6 round rsqrt selu sgn sigmoid sign silu sin sinc sinh sqrt square sub subtract tan tanh
    threshold true_divide trunc xlogy fill zero
"""
_POINTWISE_ONLY = """
    __and__ __or__ __xor__ complex fix fmax fmin glu imag isclose isfinite isinf isnan isneginf isposinf isreal
    log_sigmoid logaddexp logaddexp2 maximum minimum polar positive prelu real rsub signbit softplus softshrink where
    special_digamma special_entr special_erf special_erfc special_erfcx special_erfinv special_exp2 special_expit
    special_expm1 special_gammainc special_gammaincc special_gammaln special_i0 special_i0e special_i1 special_i1e
    special_log1p special_log_ndtr special_logit special_ndtr special_ndtri special_polygamma special_psi special_round
    special_sinc special_xlog1py special_xlogy special_zeta
"""
_OF_WHOLE_NUMBERS = "div divide floor_divide fmod remainder"  # also in place; the least number by -1 ends a process
_SHIFTS = "bitwise_left_shift bitwise_right_shift __lshift__ __rshift__"
POINTWISE = frozenset(f"{_POINTWISE} {_POINTWISE_ONLY} {_OF_WHOLE_NUMBERS} {_SHIFTS}".split()) - {"glu", "prelu"}
"""Names of the operations of one number at a time: each number of the result is computed from those at its place."""
_REDUCING = """
    all amax amin aminmax any argmax argmin cdist cosine_similarity count_nonzero cummax cummin cumprod cumsum
    cumulative_trapezoid diff dist equal frobenius_norm kthvalue log_softmax _log_softmax logcumsumexp logsumexp max
    mean median min mode msort nanmean nanmedian nanquantile nansum norm nuclear_norm pairwise_distance pdist prod
    quantile renorm _safe_softmax softmax _softmax sort argsort special_log_softmax special_logsumexp special_softmax
    std std_mean sum sum_to_size topk trace trapezoid trapz var var_mean allclose histc
"""
_ALGEBRA = """
    addbmm addmm addmv addr baddbmm bilinear bmm chain_matmul cholesky_inverse cholesky_solve corrcoef cov cross det dot
    einsum ger inner inverse kron linalg_cholesky linalg_cholesky_ex linalg_cond linalg_cross linalg_det linalg_diagonal
    linalg_eig linalg_eigh linalg_eigvals linalg_eigvalsh linalg_householder_product linalg_inv linalg_inv_ex
    linalg_lstsq linalg_lu linalg_matmul linalg_matrix_exp linalg_matrix_norm linalg_matrix_rank
    linalg_multi_dot linalg_norm linalg_pinv linalg_qr linalg_slogdet linalg_solve linalg_solve_ex
    linalg_solve_triangular linalg_svd linalg_svdvals linalg_tensorinv linalg_tensorsolve linalg_vander linalg_vecdot
    linalg_vector_norm linear logdet matmul matrix_exp mm mv outer pinverse slogdet svd tensordot
    triangular_solve vander vdot
"""
_LAYERS = """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d affine_grid_generator avg_pool1d avg_pool2d avg_pool3d channel_shuffle col2im
    constant_pad_nd conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d convolution
    grid_sampler grid_sampler_2d grid_sampler_3d group_norm im2col layer_norm max_pool1d
    max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool2d
    max_unpool3d native_group_norm native_layer_norm pad pad_sequence pixel_shuffle pixel_unshuffle
    reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d rms_norm
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_trilinear3d _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d gru_cell lstm_cell rnn_relu_cell rnn_tanh_cell
"""
_LOSSES = """
    binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss cross_entropy_loss hinge_embedding_loss
    huber_loss kl_div l1_loss margin_ranking_loss mse_loss multi_margin_loss multilabel_margin_loss nll_loss nll_loss2d
    nll_loss_nd poisson_nll_loss smooth_l1_loss soft_margin_loss triplet_margin_loss
"""
LOSSES = frozenset(_LOSSES.split())
"""Names of the operations that are losses."""
_INDEXING = """
    argwhere bucketize cartesian_prod embedding gather index index_add index_add_ index_copy index_copy_
    index_fill index_fill_ index_put index_put_ index_reduce index_reduce_ index_select isin masked_scatter
    masked_scatter_ masked_select meshgrid nonzero nonzero_numpy nonzero_static put put_ scatter scatter_ scatter_add
    scatter_add_ scatter_reduce scatter_reduce_ take take_along_dim tril tril_ tril_indices triu triu_ triu_indices
    unique_consecutive unique_dim unique_dim_consecutive _unique2
"""
_SHAPES = """
    adjoint alias alias_copy as_strided as_strided_copy as_strided_scatter atleast_1d atleast_2d atleast_3d block_diag
    broadcast_tensors broadcast_to cat chunk clone column_stack concat concatenate conj _conj contiguous copy copy_
    detach detach_ detach_copy diag diag_embed diagflat diagonal diagonal_copy diagonal_scatter dsplit dstack expand
    expand_as expand_copy fill_diagonal_ flatten flip fliplr flipud hsplit hstack item is_nonzero lift lift_fresh
    lift_fresh_copy _local_scalar_dense mH mT matrix_H moveaxis movedim narrow narrow_copy _neg_view numel numpy_T
    permute permute_copy ravel repeat reshape reshape_as resolve_conj resolve_neg roll rot90 row_stack select
    select_copy select_scatter _shape_as_tensor size slice slice_copy slice_scatter split split_copy split_with_sizes
    split_with_sizes_copy squeeze squeeze_ squeeze_copy stack swapaxes swapdims sym_numel sym_size sym_storage_offset
    sym_stride t t_copy tensor_split tile to _to_copy transpose transpose_copy type_as unbind unbind_copy unflatten
    unfold unfold_copy unsafe_chunk unsafe_split unsafe_split_with_sizes _unsafe_view unsqueeze unsqueeze_
    unsqueeze_copy view view_as view_as_complex view_as_real view_copy vsplit vstack
    is_complex is_floating_point is_same_size
"""
_MAKING = """
    arange bartlett_window blackman_window eye fft_fftfreq fft_rfftfreq full full_like hamming_window hann_window
    kaiser_window linspace logspace new_full new_ones new_zeros ones ones_like range scalar_tensor zeros zeros_like
"""
_FOURIER = """
    fft_fft fft_fft2 fft_fftn fft_fftshift fft_hfft fft_hfft2 fft_hfftn fft_ifft fft_ifft2 fft_ifftn fft_ifftshift
    fft_ihfft fft_ihfft2 fft_ihfftn fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftn istft stft
"""

_CHECKED: dict[str, Check] = {
    **dict.fromkeys(_OF_WHOLE_NUMBERS.split(), arguments.division),
    **{name + "_": arguments.division for name in _OF_WHOLE_NUMBERS.split()},
    **dict.fromkeys(_SHIFTS.split(), arguments.shift),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), arguments.recurrent),
    **dict.fromkeys(("dropout", "dropout_", "alpha_dropout", "alpha_dropout_", "feature_dropout", "feature_dropout_",
                     "feature_alpha_dropout", "feature_alpha_dropout_"), arguments.no_dropout),
    **dict.fromkeys(("matrix_power", "linalg_matrix_power"), arguments.powers),
    **dict.fromkeys(("mvlgamma", "mvlgamma_", "special_multigammaln"), arguments.sums_of_lgamma),
    **dict.fromkeys(("batch_norm", "native_batch_norm", "instance_norm"), arguments.statistics),
    "scaled_dot_product_attention": arguments.attention,
    "_scaled_dot_product_flash_attention_for_cpu": arguments.kernel_of_attention,
    **dict.fromkeys(("linalg_eig", "linalg_eigvals"), arguments.finite),
    "combinations": arguments.combinations,
    "ctc_loss": arguments.labels_of_ctc,
    "one_hot": arguments.classes,
    "bincount": arguments.counts,
    "repeat_interleave": arguments.repeats,
    "embedding_bag": arguments.bags,
    "searchsorted": arguments.no_sorter,
    "_pack_padded_sequence": arguments.packed,
    "_pad_packed_sequence": arguments.padded,
    "_weight_norm": arguments.weight_norm,
    "convolution_backward": arguments.gradient_of_convolution,
    "avg_pool2d_backward": arguments.gradient_of_pooling,
    "_adaptive_avg_pool2d_backward": arguments.gradient_of_adaptive_pooling,
    "upsample_nearest2d_backward": arguments.gradient_of_upsampling,
    "_grouped_mm": arguments.groups_of_rows,
}  # fmt: skip

_PLAIN = (
    *(_POINTWISE, _POINTWISE_ONLY, _REDUCING, _ALGEBRA, _LAYERS, _LOSSES, _INDEXING, _SHAPES, _MAKING, _FOURIER),
    " ".join(name + "_" for name in _POINTWISE.split() if hasattr(torch.ops.aten, name + "_")),
)
PERMITTED: dict[str, Check | None] = dict.fromkeys(" ".join(_PLAIN).split()) | _CHECKED
"""Names of ATen operations -> the look at their arguments, None where torch's own is enough."""

EMPTY = {"empty": "zeros", "empty_like": "zeros_like", "new_empty": "new_zeros"}
"""Operations that read uninitialised memory -> what is called in their place: a model writes to it before it reads."""

_REACHING = ("Storage", "Generator", "Stream", "QScheme", "Dimname")
"""Kinds of arguments that are no plain data."""


def permitted(name: str, overload: torch._ops.OpOverload) -> bool:
    """Whether the operation is on the list, and this form of it takes plain data and returns its result."""
    schema = overload._schema
    takes = [str(argument.type) for argument in schema.arguments]
    # without a tensor it is TorchScript's own (texts, dictionaries, seeds), where 1 % 0 ends the process
    script = not any("Tensor" in kind for kind in (*takes, *(str(r.type) for r in schema.returns)))
    script |= overload._overloadname.startswith("prim_")  # `to` of an empty tensor to no device ends the process
    reaching = any(kind in taken for taken in takes for kind in _REACHING)
    written = any(argument.is_out for argument in schema.arguments)  # into an argument
    return (name in PERMITTED or name in EMPTY) and not (script or reaching or written)


_NAMED = {"ScalarType": torch.dtype, "Layout": torch.layout, "MemoryFormat": torch.memory_format}
"""Kinds of arguments that are names; torch takes numbers for them too, and some numbers end the process."""


def check_kinds(op: str, args: Sequence[object], kwargs: Mapping[str, object], device: object) -> None:
    """Arguments that are to be the name of a type, a layout, a memory format or a device are one, and no number.

    Raises
    ------
    TypeError
        one of them is something else.
    """
    if not op.startswith("aten."):
        return
    _, name, form = op.split(".")
    for place, argument in enumerate(getattr(getattr(torch.ops.aten, name), form)._schema.arguments):
        kind = str(argument.real_type).removesuffix("?").removeprefix("Optional[").removesuffix("]")
        if kind not in _NAMED and kind != "Device":
            continue
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        sound = value is device if kind == "Device" else isinstance(value, _NAMED[kind])
        if value is not None and not sound:
            raise TypeError(f"{op} has {value!r} for its argument {argument.name}")
