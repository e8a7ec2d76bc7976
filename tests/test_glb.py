"""GLB against the specification's layout, and against an independent reader where there is one."""

import json
import struct

import numpy as np
import pytest

from landscape_hooks.export.glb import SECONDS, write_glb
from landscape_hooks.mesh import colors
from landscape_hooks.mesh.mesh import Mesh
from landscape_hooks.mesh.stage import Stage
from tests.landscapes import descent, surface


def read(path):
    """The JSON and the arrays of a GLB, by the specification's section on its layout."""
    data = path.read_bytes()
    magic, version, size = struct.unpack_from("<4sII", data)
    assert (magic, version, size) == (b"glTF", 2, len(data))
    length, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON"
    document = json.loads(data[20 : 20 + length])
    extent, kind = struct.unpack_from("<I4s", data, 20 + length)
    assert kind == b"BIN\0"
    assert extent % 4 == 0
    binary = data[28 + length : 28 + length + extent]
    arrays = []
    for accessor in document["accessors"]:
        view = document["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0
        dtype = {5126: "<f4", 5125: "<u4", 5121: "u1"}[accessor["componentType"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        part = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        array = np.frombuffer(part, dtype).reshape(-1, width)
        assert len(array) == accessor["count"]
        if "min" in accessor:
            np.testing.assert_array_equal(array.min(axis=0), np.array(accessor["min"], dtype))
        arrays.append(array)
    return document, arrays


def part(document, arrays, name):
    mesh = next(mesh for mesh in document["meshes"] if mesh["name"] == name)["primitives"][0]
    found = {key: arrays[number] for key, number in mesh["attributes"].items()}
    return found, arrays[mesh["indices"]].reshape(-1, 3)


@pytest.mark.parametrize("holes", [False, True])
def test_the_mesh_is_that_of_the_viewer_with_y_upwards(tmp_path, holes):
    made = surface(holes=holes)
    document, arrays = read(write_glb(made, tmp_path / "f.glb"))
    found, faces = part(document, arrays, "surface")
    mesh = Mesh.from_surface(made)
    x, y, z = Stage.of(mesh).place(mesh.vertices).T
    np.testing.assert_allclose(found["POSITION"], np.stack([x, z, -y], axis=1), atol=1e-6)
    np.testing.assert_array_equal(faces, mesh.faces)
    np.testing.assert_allclose(np.linalg.norm(found["NORMAL"], axis=1), 1, atol=1e-5)
    light = (found["COLOR_0"][:, :3] / 255.0) ** (1 / 2.4) * 1.055 - 0.055
    bright = colors.of_mesh(mesh)[:, 1] > 60
    np.testing.assert_allclose(light[bright, 1], colors.of_mesh(mesh)[bright, 1] / 255.0, atol=0.02)


def test_triangles_and_normals_agree_about_the_outside(tmp_path):
    document, arrays = read(write_glb(surface(), tmp_path / "f.glb"))
    for mesh in document["meshes"]:
        found, faces = part(document, arrays, mesh["name"])
        a, b, c = (found["POSITION"][faces[:, k]].astype(float) for k in range(3))
        across = np.cross(b - a, c - a)
        outwards = found["NORMAL"][faces].mean(axis=1)
        area = np.linalg.norm(across, axis=1)
        assert (np.einsum("fk,fk->f", across, outwards)[area > 1e-9] > 0).all(), mesh["name"]


def test_the_marker_of_every_run_goes_down_its_path(tmp_path):
    made = surface(paths=(descent(), descent(9, "adam", -1.0)))
    document, arrays = read(write_glb(made, tmp_path / "f.glb"))
    animation = document["animations"][0]
    assert len(animation["channels"]) == 2
    stage = Stage.of(Mesh.from_surface(made))
    for channel, path in zip(animation["channels"], made.paths, strict=True):
        sampler = animation["samplers"][channel["sampler"]]
        times, places = arrays[sampler["input"]].ravel(), arrays[sampler["output"]]
        assert (np.diff(times) > 0).all()
        assert (times[0], times[-1]) == (0, SECONDS)
        ends = stage.place(np.column_stack([path.coordinates[[0, -1]], [0, 0]]))
        np.testing.assert_allclose(places[[0, -1], 0], ends[:, 0], atol=1e-5)
        np.testing.assert_allclose(places[[0, -1], 2], -ends[:, 1], atol=1e-5)
        assert "marker" in document["nodes"][channel["target"]["node"]]["name"]


def test_trimesh_reads_it(tmp_path):
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed")
    scene = trimesh.load(write_glb(surface(), tmp_path / "f.glb"))
    mesh = scene.geometry["surface"]
    assert len(mesh.faces) == len(Mesh.from_surface(surface()).faces)
    np.testing.assert_allclose(mesh.bounds[:, 1], Stage.of(Mesh.from_surface(surface())).place(
        np.stack(Mesh.from_surface(surface()).bounds))[:, 2], atol=1e-5)  # fmt: skip
    assert {"sgd", "sgd: marker"} <= set(scene.geometry)


def test_a_surface_without_a_path_is_a_scene(tmp_path):
    document, _ = read(write_glb(surface(paths=()), tmp_path / "f.glb"))
    assert "animations" not in document
    assert len(document["meshes"]) == 1
