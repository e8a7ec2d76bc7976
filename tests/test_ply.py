"""PLY files against plyfile, and against themselves: what is written comes back."""

import json

import numpy as np
import plyfile
import pytest

from landscape_hooks.errors import PlyError
from landscape_hooks.export.ply import write_ply
from landscape_hooks.export.ply_reader import read_ply
from landscape_hooks.mesh import colors
from landscape_hooks.mesh.mesh import Mesh
from landscape_hooks.surface.surface import Path, Surface
from tests.landscapes import descent, surface, write_run


@pytest.fixture(params=[False, True], ids=["whole", "holes"])
def made(request):
    return surface(holes=request.param)


def test_plyfile_reads_the_same_losses_coordinates_and_triangles(tmp_path, made):
    written = write_ply(made, tmp_path / "f.ply")
    assert [path.name for path in written] == ["f.ply", "f_path.ply"]
    data = plyfile.PlyData.read(written[0])
    assert not data.text
    assert data.byte_order == "<"
    vertex = data["vertex"].data[: made.loss.size]
    good = made.evaluated & np.isfinite(made.loss)
    np.testing.assert_array_equal(vertex["loss"].reshape(made.shape)[good], made.loss[good])
    np.testing.assert_array_equal(vertex["quality"].reshape(made.shape)[good], made.loss[good].astype("f4"))
    np.testing.assert_allclose(vertex["x"].reshape(made.shape), np.tile(made.alpha[:, None], made.shape[1]), rtol=1e-6)
    np.testing.assert_allclose(vertex["y"].reshape(made.shape), np.tile(made.beta, (made.shape[0], 1)), rtol=1e-6)
    faces = np.stack(data["face"]["vertex_indices"])
    np.testing.assert_array_equal(faces, Mesh.from_surface(made).faces)


def test_z_is_what_the_comment_says(tmp_path):
    made = surface()
    data = plyfile.PlyData.read(write_ply(made, tmp_path / "f.ply")[0])
    formula = next(line for line in data.comments if "z = " in line).split("z = ")[1]
    z = eval(formula, {"log10": np.log10, "loss": made.loss.ravel()})
    np.testing.assert_allclose(data["vertex"]["z"][: made.loss.size], z, atol=1e-5)


def test_there_is_no_nan_and_no_inf_in_a_file(tmp_path):
    path = descent()
    broken = Path(
        **{**path.__dict__, "loss": np.where(path.step == 50, np.nan, path.loss), "epoch": path.epoch * np.nan}
    )
    for file in write_ply(surface(holes=True, paths=(broken,)), tmp_path / "f.ply"):
        data = plyfile.PlyData.read(file)
        for column in data["vertex"].data.dtype.names:
            assert np.isfinite(data["vertex"][column]).all(), column


def same(a: Surface, b: Surface) -> None:
    for name in ("alpha", "beta", "evaluated", "explained_variance_ratio"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(np.where(a.present, a.loss, 0), np.where(b.present, b.loss, 0))
    assert dict(a.attrs) == dict(b.attrs)
    assert len(a.paths) == len(b.paths)
    for one, other in zip(a.paths, b.paths, strict=True):
        assert one.label == other.label
        for name in Path.ARRAYS:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_a_file_of_ours_gives_the_surface_back(tmp_path, made):
    write_ply(made, tmp_path / "f.ply")
    same(read_ply(tmp_path / "f.ply"), made)


def test_what_is_not_finite_along_a_path_comes_back(tmp_path):
    path = descent()
    loss = path.loss.copy()
    loss[[3, 4, 7]] = np.nan, np.inf, -np.inf
    broken = Path(**{**path.__dict__, "loss": loss, "epoch": path.epoch * np.nan})
    made = surface(paths=(broken, descent(7, "adam", -1.0)))
    write_ply(made, tmp_path / "f.ply")
    same(read_ply(tmp_path / "f.ply"), made)


def test_a_run_goes_through_a_file_unchanged(tmp_path):
    run = write_run(tmp_path / "run.zarr", surface(holes=True))
    made = Surface.open(run)
    write_ply(made, tmp_path / "f.ply")
    back = read_ply(tmp_path / "f.ply")
    np.testing.assert_array_equal(np.where(made.present, made.loss, 0), np.where(back.present, back.loss, 0))
    np.testing.assert_array_equal(made.path, back.path)


def test_without_its_sibling_a_file_still_opens(tmp_path):
    write_ply(surface(), tmp_path / "f.ply")[1].unlink()
    assert read_ply(tmp_path / "f.ply").paths == ()


def test_the_comment_is_json_and_names_the_policy(tmp_path):
    data = plyfile.PlyData.read(write_ply(surface(), tmp_path / "f.ply")[0])
    about = json.loads(data.comments[-1].removeprefix("landscape_hooks "))
    assert about["attrs"]["batch_norm"] == "batch"
    assert about["height"]["kind"] == "log10"


def cube(text: bool, quads: bool) -> plyfile.PlyData:
    corners = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype="f4")
    vertex = np.array([tuple(c) for c in corners], dtype=[("x", "f4"), ("y", "f4"), ("z", "f4")])
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    lists = sides if quads else [t for s in sides for t in ((s[0], s[1], s[2]), (s[0], s[2], s[3]))]
    face = np.array([(np.array(corner, dtype="i4"),) for corner in lists], dtype=[("vertex_indices", object)])
    elements = [plyfile.PlyElement.describe(vertex, "vertex"), plyfile.PlyElement.describe(face, "face")]
    return plyfile.PlyData(elements, text=text)


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("quads", [True, False])
def test_a_mesh_of_another_program_opens(tmp_path, text, quads):
    cube(text, quads).write(tmp_path / "cube.ply")
    mesh = read_ply(tmp_path / "cube.ply")
    assert isinstance(mesh, Mesh)
    assert mesh.grid is None
    assert mesh.faces.shape == (12, 3)
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    np.testing.assert_allclose(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2, 6.0)


def test_broken_files_are_named(tmp_path):
    whole = write_ply(surface(), tmp_path / "f.ply")[0].read_bytes()
    cases = {
        "cut.ply": (whole[: len(whole) * 2 // 3], "breaks off"),
        "text.ply": (b"hello, I am a text file\n", "not a PLY file"),
        "empty.ply": (b"", "not a PLY file"),
        "header.ply": (b"ply\nformat binary_little_endian 1.0\nelement vertex many\nend_header\n", "header"),
        "cloud.ply": (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
                      b"property float z\nend_header\n0 0 0\n", "at least one face"),
        "face.ply": (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
                     b"element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n3 0 0 9\n",
                     "names vertex 9"),
        "nan.ply": (b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
                    b"element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 nan\n0 1 0\n1 0 0\n"
                    b"3 0 1 2\n", "touches a NaN"),
    }  # fmt: skip
    for name, (content, says) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PlyError, match=says):
            read_ply(tmp_path / name)
    with pytest.raises(PlyError, match="no file"):
        read_ply(tmp_path / "absent.ply")
    with pytest.raises(PlyError, match=r"Open f\.ply"):
        read_ply(tmp_path / "f_path.ply")


def test_trimesh_shows_the_same_mesh_in_the_same_colours(tmp_path):
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed")
    made = surface(holes=True)
    files = write_ply(made, tmp_path / "f.ply")
    mesh = trimesh.load(files[0], process=False)
    ours = Mesh.from_surface(made)
    np.testing.assert_array_equal(mesh.faces, ours.faces)
    np.testing.assert_array_equal(mesh.visual.vertex_colors[:, :3], colors.of_mesh(ours))
    assert len(trimesh.load(files[1]).vertices) > len(made.path)


def test_meshio_shows_the_same_mesh_and_the_loss(tmp_path):
    meshio = pytest.importorskip("meshio", reason="meshio is not installed")
    made = surface()
    mesh = meshio.read(write_ply(made, tmp_path / "f.ply")[0])
    np.testing.assert_array_equal(mesh.cells_dict["triangle"], Mesh.from_surface(made).faces)
    np.testing.assert_array_equal(mesh.point_data["loss"][: made.loss.size], made.loss.ravel())


def test_pyvista_shows_the_same_mesh_in_the_same_colours(tmp_path):
    pyvista = pytest.importorskip("pyvista", reason="pyvista is not installed")
    made = surface()
    mesh = pyvista.read(write_ply(made, tmp_path / "f.ply")[0])
    np.testing.assert_array_equal(mesh.faces.reshape(-1, 4)[:, 1:], Mesh.from_surface(made).faces)
    np.testing.assert_array_equal(mesh.point_data["RGB"], colors.of_mesh(Mesh.from_surface(made)))


def test_open3d_shows_the_same_mesh_in_the_same_colours(tmp_path):
    open3d = pytest.importorskip("open3d", reason="open3d is not installed")
    made = surface()
    mesh = open3d.io.read_triangle_mesh(str(write_ply(made, tmp_path / "f.ply")[0]))
    np.testing.assert_array_equal(np.asarray(mesh.triangles), Mesh.from_surface(made).faces)
    expected = colors.of_mesh(Mesh.from_surface(made)) / 255.0
    np.testing.assert_allclose(np.asarray(mesh.vertex_colors), expected, atol=1e-6)
