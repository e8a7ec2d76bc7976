"""Surfaces and paths as tables: CSV, xarray, pandas, and the files of VTK, read back by others."""

import csv

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from landscape_hooks import write_csv, write_heightmap, write_vtu
from landscape_hooks.cli.export import export
from landscape_hooks.errors import SurfaceError
from landscape_hooks.export.ply import z_scale
from landscape_hooks.mesh.mesh import Mesh
from tests.landscapes import descent, surface, write_run


def rows(file):
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("options", [{}, {"holes": True}])
def test_csv_holds_every_number_to_the_bit(options, tmp_path):
    made = surface(**options)
    grid, path = write_csv(made, tmp_path / "a.csv")
    assert (grid.name, path.name) == ("a.csv", "a_path.csv")
    found = rows(grid)
    assert len(found) == made.loss.size
    np.testing.assert_array_equal([float(row["alpha"]) for row in found], np.repeat(made.alpha, len(made.beta)))
    np.testing.assert_array_equal([float(row["beta"]) for row in found], np.tile(made.beta, len(made.alpha)))
    loss = np.array([float(row["loss"]) for row in found]).reshape(made.shape)
    np.testing.assert_array_equal(loss, np.where(made.present, made.loss, np.nan))
    evaluated = np.array([row["evaluated"] == "True" for row in found]).reshape(made.shape)
    np.testing.assert_array_equal(evaluated, made.evaluated)
    found = rows(path)
    for name in ("step", "loss", "plane_loss", "distance", "learning_rate"):
        np.testing.assert_array_equal([float(row[name]) for row in found], getattr(made.paths[0], name), err_msg=name)
    np.testing.assert_array_equal([[float(row["alpha"]), float(row["beta"])] for row in found], made.path)


def test_xarray_has_named_axes_and_what_defines_the_picture(tmp_path):
    pytest.importorskip("xarray")
    made = surface(holes=True)
    found = made.to_xarray()
    assert found.sizes == {"alpha": made.shape[0], "beta": made.shape[1]}
    np.testing.assert_array_equal(found.loss, np.where(made.present, made.loss, np.nan))
    np.testing.assert_array_equal(found.evaluated, made.evaluated)
    assert found.attrs["samples"] == made.attrs["samples"]
    assert found.alpha.attrs["long_name"] == made.attrs["labels"][0]
    nearest = found.loss.sel(alpha=made.alpha[3], beta=made.beta[2])
    assert float(nearest) == made.loss[3, 2]


def test_pandas_has_a_row_a_snapshot_of_every_path():
    pytest.importorskip("pandas")
    made = surface(paths=(descent(12, "sgd"), descent(7, "adam", turn=-1.0)))
    found = made.path_to_pandas()
    assert found.groupby("label").size().to_dict() == {"sgd": 12, "adam": 7}
    second = found[found.run == 1]
    np.testing.assert_array_equal(second.loss, made.paths[1].loss)
    np.testing.assert_array_equal(second[["alpha", "beta"]], made.paths[1].coordinates)
    assert second.snapshot.tolist() == list(range(7))


def read_by_vtk(file):
    """Points, cells (type, point numbers) and point arrays as VTK's own reader gives them."""
    pytest.importorskip("vtk")
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkIOXML import vtkXMLUnstructuredGridReader

    reader = vtkXMLUnstructuredGridReader()
    reader.SetFileName(str(file))
    reader.Update()
    grid = reader.GetOutput()
    data = grid.GetPointData()
    arrays = {data.GetArrayName(n): vtk_to_numpy(data.GetArray(n)) for n in range(data.GetNumberOfArrays())}
    cells = [
        (grid.GetCellType(n), [grid.GetCell(n).GetPointId(k) for k in range(grid.GetCell(n).GetNumberOfPoints())])
        for n in range(grid.GetNumberOfCells())
    ]
    return vtk_to_numpy(grid.GetPoints().GetData()), cells, arrays


def read_by_meshio(file):
    meshio = pytest.importorskip("meshio")
    found = meshio.read(file)
    kinds = {"quad": 9, "line": 3}
    cells = [(kinds[block.type], row.tolist()) for block in found.cells for row in block.data]
    return found.points, cells, found.point_data


@pytest.mark.everyday(2)
@pytest.mark.parametrize("read", [read_by_vtk, read_by_meshio])
@pytest.mark.parametrize("options", [{}, {"holes": True}])
def test_vtu_is_read_back_with_its_numbers(read, options, tmp_path):
    pytest.importorskip("meshio")
    made = surface(**options)
    files = write_vtu(made, tmp_path / "a.vtu")
    points, cells, arrays = read(files[0])
    assert points.shape == (made.loss.size, 3)
    loss = np.where(made.present, made.loss, np.nan).ravel()
    np.testing.assert_array_equal(arrays["loss"], loss)
    np.testing.assert_array_equal(arrays["evaluated"], made.evaluated.ravel())
    np.testing.assert_array_equal(arrays["loss_stderr"], made.loss_stderr.ravel())
    positive = loss > 0
    np.testing.assert_allclose(10 ** arrays["log10_loss"][positive], loss[positive])
    valid = np.isfinite(loss).reshape(made.shape)
    whole = valid[1:, 1:] & valid[:-1, 1:] & valid[1:, :-1] & valid[:-1, :-1]
    assert len(cells) == whole.sum()
    assert all(kind == 9 and valid.ravel()[corners].all() for kind, corners in cells)  # VTK_QUAD
    area = 0.0
    for _, corners in cells:
        x, y = points[corners, 0], points[corners, 1]
        area += (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2  # positive: all turn the same way
    steps = np.outer(np.diff(made.alpha), np.diff(made.beta))
    assert area == pytest.approx(steps[whole].sum(), rel=1e-5)

    points, cells, arrays = read(files[1])
    snapshots = arrays["snapshot"] >= 0
    np.testing.assert_array_equal(arrays["loss"][snapshots], made.paths[0].loss)
    np.testing.assert_array_equal(arrays["step"][snapshots], made.paths[0].step)
    np.testing.assert_allclose(points[snapshots][:, :2], made.path, rtol=1e-6)
    assert [corners for _, corners in cells] == [[n, n + 1] for n in range(len(points) - 1)]
    mesh = Mesh.from_surface(made)
    shown = np.isfinite(mesh.height_at(made.path))
    heights = (mesh.height_at(made.path) - mesh.height.bounds[0]) * z_scale(mesh)
    np.testing.assert_allclose(points[snapshots][shown, 2], heights[shown], atol=1e-5)


def test_the_command_writes_them(tmp_path):
    pytest.importorskip("meshio")
    run = write_run(tmp_path / "run.zarr", surface())
    done = CliRunner().invoke(export, [str(run), "--csv", str(tmp_path / "b.csv"), "--vtu", str(tmp_path / "b.vtu")])
    assert done.exit_code == 0, done.output
    assert done.output.count("wrote") == 4
    assert {f.name for f in tmp_path.glob("b*")} == {"b.csv", "b_path.csv", "b.vtu", "b_path.vtu"}


def test_what_is_not_installed_is_named(monkeypatch, tmp_path):
    for module, use, extra in (
        ("xarray", surface().to_xarray, "data"),
        ("pandas", surface().path_to_pandas, "data"),
        ("meshio", lambda: write_vtu(surface(), tmp_path / "a.vtu"), "vtk"),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(__import__("sys").modules, module, None)
            with pytest.raises(SurfaceError, match=rf"landscape-hooks\[{extra}\]"):
                use()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("height", ["log10", "linear"])
def test_a_heightmap_holds_the_heights_in_16_bits(height, tmp_path):
    made = surface(26, 11)  # 200 pixels are a whole number of cells
    write_heightmap(made, tmp_path / "h.png", height=height)
    with Image.open(tmp_path / "h.png") as picture:
        levels, about = np.asarray(picture), picture.text
    assert levels.dtype == np.uint16
    low, high = float(about["loss at 0"]), float(about["loss at 65535"])
    assert (low, high) == (made.loss.min(), made.loss.max())
    found = levels[::-1].T[::8, ::20] / 65535  # alpha to the right, beta up
    found = low * (high / low) ** found if height == "log10" else low + (high - low) * found
    np.testing.assert_allclose(found, made.loss, rtol=2e-4 if height == "log10" else 0, atol=1e-4 * made.loss.max())
    assert [float(end) for end in about["alpha"].split()] == [made.alpha[0], made.alpha[-1]]


def test_a_heightmap_does_not_make_up_a_level_for_a_hole(tmp_path):
    with pytest.raises(SurfaceError, match="NaN: 1"):
        write_heightmap(surface(holes=True), tmp_path / "h.png")
    run = write_run(tmp_path / "a.zarr", surface(6, 5))
    done = CliRunner().invoke(export, [str(run), "--heightmap", str(tmp_path / "h.png")], catch_exceptions=False)
    assert done.exit_code == 0
    assert (tmp_path / "h.png").exists()
