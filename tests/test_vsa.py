"""Hypervectors: the algebra against plain NumPy on unpacked vectors, the clean-up, and factoring as documented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench import capacity
from hypothesis import given
from hypothesis import strategies as st

import nearfield as nf
from nearfield.vsa import MAPB, MAPI
from strategies import seeds
from test_docs import read

ARCHITECTURES = [MAPB, MAPI]
DIM = 10_007  # neither a multiple of 8 nor of anything else

dims = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 1001]))
counts = st.integers(1, 12)
batches = st.sampled_from([(), (1,), (3,), (2, 3)])


@pytest.fixture(params=ARCHITECTURES, ids=lambda kind: kind.__name__)
def space(request):
    return request.param(DIM, seed=1)


def random(space, *shape):
    return space.random(int(np.prod(shape))).reshape(*shape, -1)


def unpack(packed: np.ndarray, dim: int) -> np.ndarray:
    return np.unpackbits(packed, axis=-1)[..., :dim].astype(np.int64)


def with_padding_set(packed: np.ndarray, dim: int) -> np.ndarray:
    return packed | np.packbits(np.arange(packed.shape[-1] * 8) >= dim)


def majority(bits: np.ndarray) -> np.ndarray:
    """The majority over axis -2 of bits that are not packed; ties by the documented rule."""
    ones, n = bits.sum(axis=-2), bits.shape[-2]
    ties = np.roll(ones % 2, 1, axis=-1)
    return np.where(2 * ones == n, ties, 2 * ones > n)


# -- MAP-B against unpacked bits ---------------------------------------------------------------------------------------


@given(dim=dims, seed=seeds, batch=batches, n=counts)
def test_mapb_is_what_numpy_does_with_unpacked_bits(dim, seed, batch, n):
    space = MAPB(dim, seed)
    packed = random(space, *batch, n)
    assert packed.shape == (*batch, n, (dim + 7) // 8)
    assert packed.dtype == np.uint8
    bits = unpack(packed, dim)
    assert np.array_equal(np.packbits(bits.astype(np.uint8), axis=-1), packed)  # the padding of atoms is clear
    first, second = packed[..., 0, :], packed[..., -1, :]
    expected = {
        "bind": (space.bind(first, second), bits[..., 0, :] ^ bits[..., -1, :]),
        "bundle": (space.bundle(packed), majority(bits)),
        "permute": (space.permute(packed, seed % 100 - 50), np.roll(bits, seed % 100 - 50, axis=-1)),
    }
    for name, (found, right) in expected.items():
        assert np.array_equal(found, np.packbits(right.astype(np.uint8), axis=-1)), name
    differing = (bits[..., 0, :] != bits[..., -1, :]).mean(axis=-1)
    assert np.allclose(space.similarity(first, second), 1 - 2 * differing, atol=1e-12)


@given(dim=dims, seed=seeds, n=counts, batch=batches)
def test_mapb_weights_repeat_vectors_and_complements(dim, seed, n, batch):
    space = MAPB(dim, seed)
    packed = space.random(n)
    weights = np.random.default_rng(seed).integers(-3, 4, (*batch, n))
    found = space.bundle(packed, weights)
    bits = unpack(packed, dim)
    for at in np.ndindex(batch):
        signed = np.where(weights[at][:, np.newaxis] < 0, 1 - bits, bits)
        times = np.abs(weights[at])
        margin = 2 * times @ signed - times.sum()
        ties = np.roll(signed[times > 0].sum(axis=0) % 2, 1)
        right = np.where(margin == 0, ties, margin > 0)
        assert np.array_equal(found[at], np.packbits(right.astype(np.uint8)))


@given(dim=dims, seed=seeds, n=counts)
def test_mapb_padding_never_counts(dim, seed, n):
    space = MAPB(dim, seed)
    clean = space.random(n)
    dirty = with_padding_set(clean, dim)
    assert np.array_equal(space.bind(dirty), clean)
    assert np.array_equal(space.bundle(dirty), space.bundle(clean))
    assert np.array_equal(space.permute(dirty, 3), space.permute(clean, 3))
    assert (space.similarity(dirty, clean) == 1).all()


def test_mapb_bundles_more_than_are_unpacked_at_once(monkeypatch):
    space = MAPB(1001, seed=0)
    packed = space.random(60).reshape(3, 20, -1)
    whole = space.bundle(packed)
    monkeypatch.setattr("nearfield.vsa._UNPACKED", 7 * 60)
    assert np.array_equal(space.bundle(packed), whole)
    monkeypatch.setattr("nearfield.vsa._UNPACKED", 1)
    assert np.array_equal(space.bundle(packed), whole)


def test_ties_of_unrelated_bundles_do_not_make_them_alike():
    space = MAPB(DIM, seed=0)
    pairs = space.bundle(space.random(40).reshape(20, 2, -1))
    similar = space.similarity(pairs[:, np.newaxis], pairs)[~np.eye(20, dtype=bool)]
    assert np.abs(similar).max() < 6 / np.sqrt(DIM)


# -- MAP-I against wide integers ---------------------------------------------------------------------------------------


@given(dim=dims, seed=seeds, batch=batches, n=counts)
def test_mapi_is_what_numpy_does_with_wide_integers(dim, seed, batch, n):
    space = MAPI(dim, seed)
    atoms = random(space, *batch, n)
    assert atoms.shape == (*batch, n, dim)
    assert atoms.dtype == np.int8
    assert set(np.unique(atoms)) <= {-1, 1}
    wide = atoms.astype(np.int64)
    weights = np.random.default_rng(seed).integers(-1000, 1000, (*batch, n))
    bundle = space.bundle(atoms)
    assert np.array_equal(bundle, wide.sum(axis=-2))
    assert bundle.dtype == np.int32
    assert np.array_equal(space.bundle(atoms, weights), (weights[..., np.newaxis] * wide).sum(axis=-2))
    assert np.array_equal(space.bind(bundle, atoms[..., 0, :]), wide.sum(axis=-2) * wide[..., 0, :])
    assert space.bind(atoms, atoms).dtype == np.int8
    assert np.array_equal(space.permute(bundle, 3), np.roll(bundle, 3, axis=-1))
    length = np.linalg.norm(bundle, axis=-1) * np.sqrt(dim)
    dot = (bundle * wide[..., 0, :]).sum(axis=-1)
    cosine = np.divide(dot, length, out=np.zeros_like(length), where=length > 0)
    assert np.allclose(space.similarity(bundle, atoms[..., 0, :]), cosine, atol=1e-12)


def test_mapi_refuses_what_would_not_fit():
    space = MAPI(4)
    large, huge = np.full(4, 100, np.int8), np.full(4, 2**30, np.int32)
    with pytest.raises(ValueError, match=r"10000.*int8"):
        space.bind(large, large)
    assert space.bind(large, large.astype(np.int32)).tolist() == [10_000] * 4
    with pytest.raises(ValueError, match="int32"):
        space.bind(huge, huge)
    with pytest.raises(ValueError, match="int32"):
        space.bundle([huge, huge])
    with pytest.raises(ValueError, match=r"vectors.*int32"):
        space.permute(np.full(4, 2**31))
    with pytest.raises(ValueError, match=f"weights.*{2**33}"):
        space.bundle(np.ones((2, 4), np.int8), [2**32, -(2**32)])


# -- both --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(dim=dims, seed=seeds, n=st.integers(-3000, 3000), m=st.integers(-3000, 3000))
def test_algebra(architecture, dim, seed, n, m):
    space = architecture(dim, seed)
    a, b, c = space.random(3)
    assert np.array_equal(space.unbind(space.bind(a, b), b), a)
    assert np.array_equal(space.unbind(space.bind(a, b, c), b, c), a)
    assert np.array_equal(space.bind(a, b), space.bind(b, a))
    assert np.array_equal(space.permute(space.permute(a, n), -n), a)
    assert np.array_equal(space.permute(space.permute(a, n), m), space.permute(a, n + m))
    assert np.array_equal(space.permute(a, dim), a)
    assert np.array_equal(space.permute(space.bind(a, b), n), space.bind(space.permute(a, n), space.permute(b, n)))
    assert np.array_equal(space.bundle([a, b, c, c]), space.bundle([c, b, c, a]))
    assert np.array_equal(space.bundle([a, b, b]), space.bundle([b, c, a], weights=[2, 0, 1]))
    assert np.array_equal(space.bind(c, space.bundle([a, b, c])), space.bundle(space.bind(c, [a, b, c])))
    assert space.similarity(a, a) == pytest.approx(1)


@pytest.mark.parametrize("n", [2, 3, 4, 9, 30])
def test_a_bundle_resembles_its_parts_and_a_product_does_not(space, n):
    parts, others = space.random(n), space.random(50)
    chance = 6 / np.sqrt(DIM)
    bundle, product = space.bundle(parts), space.bind(*parts)
    # The majority of n bits agrees with each of them by sqrt(2 / (pi n)) at least, the sum by sqrt(1 / n).
    assert space.similarity(bundle, parts).min() > np.sqrt(2 / np.pi / n) * 0.9 - chance / 2
    assert np.abs(space.similarity(bundle, others)).max() < chance
    assert np.abs(space.similarity(product, parts)).max() < chance
    assert np.abs(space.similarity(space.permute(parts), parts)).max() < chance


def test_operations_broadcast(space):
    a, b = random(space, 4, 1), random(space, 3)
    bound = space.bind(a, b)
    assert bound.shape[:-1] == (4, 3)
    assert np.array_equal(bound[2, 1], space.bind(a[2, 0], b[1]))
    assert space.similarity(a, b).shape == (4, 3)
    assert space.bundle(bound).shape[:-1] == (4,)
    assert np.array_equal(space.bundle(bound)[3], space.bundle(bound[3]))
    assert space.random(0).shape == space.permute(space.random(0)).shape
    assert space.bundle(bound[:0]).shape[:-1] == (0,)


def test_atoms_come_from_the_seed(space):
    again, other = (type(space)(DIM, seed) for seed in (1, 2))
    atoms = space.random(3)
    assert np.array_equal(atoms, again.random(3))
    assert not np.array_equal(atoms, other.random(3))
    assert not np.array_equal(atoms, space.random(3))
    assert np.array_equal(type(space)(DIM, 1).random(), atoms[0])


def test_arguments_are_not_changed(space):
    atoms = space.random(3)
    atoms.flags.writeable = False
    space.bind(atoms[0])
    space.bind(*atoms)
    space.bundle(atoms, [1, -1, 2])
    space.permute(atoms, 0)
    space.similarity(atoms, atoms)
    assert not np.shares_memory(space.bind(atoms[0]), atoms)


# -- clean-up ----------------------------------------------------------------------------------------------------------


def noisy_copies(space, atoms):
    return space.bundle(np.stack([atoms, *random(space, 8, len(atoms))], axis=1))


def test_clean_up_is_exact(space):
    atoms = space.random(300)
    memory = space.memory(atoms)
    queries = noisy_copies(space, atoms[:40])
    similar = space.similarity(queries[:, np.newaxis], atoms)
    hits = memory.clean_up(queries, k=5)
    assert np.array_equal(hits.ids, np.argsort(-similar.round(12), axis=1, kind="stable")[:, :5])
    assert np.array_equal(hits.ids[:, 0], np.arange(40))
    found = np.take_along_axis(similar, hits.ids, axis=1)
    assert np.allclose(hits.scores, DIM * (1 - found) / 2 if isinstance(space, MAPB) else found, rtol=1e-6)
    assert memory.clean_up(queries[0], filter=[5, 6]).ids[0, 0] in (5, 6)
    assert np.array_equal(memory.clean_up(queries, k=5).ids, memory.index.search(queries, k=5).ids)


def test_names(space):
    atoms = space.random(4)
    memory = space.memory(atoms[:2], names=["red", ("green", 1)])
    assert memory.add(atoms[2]).tolist() == [2]
    memory.add(atoms[3:], names=["red"])
    assert len(memory) == 4
    assert memory.nearest(atoms[0]) == "red"
    assert memory.nearest(atoms).tolist() == ["red", ("green", 1), 2, "red"]
    assert memory.nearest(atoms.reshape(2, 1, 2, -1)).shape == (2, 1, 2)
    assert memory.nearest(atoms[:0]).shape == (0,)
    assert space.memory().nearest(atoms).tolist() == [None] * 4
    assert str(DIM) in repr(memory)


def test_any_index_can_be_the_memory(space, tmp_path):
    atoms = space.random(20)
    space.memory(atoms).index.save(tmp_path / "items")
    memory = space.memory(index=nf.load(tmp_path / "items"))
    assert memory.nearest(noisy_copies(space, atoms)).tolist() == list(range(20))


def test_signs_of_integers_are_found_in_one_bit_each():
    space = MAPI(DIM, seed=0)
    atoms = space.random(20)
    memory = space.memory(atoms, index=nf.Flat(DIM, metric="cosine", codec="sign"))
    assert memory.nearest(noisy_copies(space, atoms)).tolist() == list(range(20))


@pytest.mark.parametrize("architecture", capacity.ARCHITECTURES)
@pytest.mark.parametrize(("dim", "size"), [(512, 10), (512, 20), (1024, 50), (256, 100)])
def test_as_many_symbols_come_back_as_theory_expects(architecture, dim, size):
    shares = [capacity.recovered(architecture, dim, size, 200, bundles=400 // size, seed=seed) for seed in range(5)]
    # Four standard deviations of 2,000 trials, at most.
    assert np.mean(shares) == pytest.approx(capacity.expected(architecture, dim, size, 200), abs=0.045)


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_the_other_architecture_is_refused(space):
    other = MAPB if isinstance(space, MAPI) else MAPI
    own, foreign = space.random(2), other(DIM).random(2)
    memory = space.memory(own)
    calls = [
        lambda: space.bind(own, foreign),
        lambda: space.unbind(own, foreign),
        lambda: space.bundle(foreign),
        lambda: space.permute(foreign),
        lambda: memory.add(foreign),
        lambda: memory.clean_up(foreign),
        lambda: memory.nearest(foreign),
        lambda: space.memory(foreign),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=f"(vectors|queries).*{foreign.dtype}"):
            call()
    with pytest.raises(TypeError, match=r"b: .*"):
        space.similarity(own, foreign)


@pytest.mark.parametrize("dtype", [bool, np.float32, np.uint16, str, object, complex])
def test_wrong_types_are_refused(space, dtype):
    with pytest.raises(TypeError, match="vectors"):
        space.bundle(np.zeros((2, space.random().size)).astype(dtype))


def test_wrong_shapes_are_refused(space):
    atoms = space.random(2)
    for call in (space.bind, space.bundle, space.permute, space.memory):
        with pytest.raises(ValueError, match=f"vectors.*{atoms.shape[1]}.*{DIM}"):
            call(atoms[:, :-1])
        with pytest.raises(ValueError, match="vectors"):
            call(atoms[0, 0])
    with pytest.raises(ValueError, match="single vector"):
        space.bundle(atoms[0])


def test_nothing_cannot_be_bundled_or_bound(space):
    for nothing in ([], space.random(0), random(space, 3, 1)[:, :0]):
        with pytest.raises(ValueError, match="vectors"):
            space.bundle(nothing)
    with pytest.raises(ValueError, match="vectors"):
        space.bind()


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([1], ValueError, r"\(1,\).*2"),
        (3, ValueError, r"\(1,\).*2"),
        ([1, 2, 3], ValueError, "3"),
        ([0.5, 0.5], TypeError, "float64"),
        ([True, False], TypeError, "bool"),
    ],
)
def test_bad_weights_are_refused(space, weights, error, message):
    with pytest.raises(error, match=f"weights.*{message}"):
        space.bundle(space.random(2), weights)


def test_bad_numbers_are_refused(space):
    for dim, error in ((0, ValueError), (-1, ValueError), (2.5, TypeError), ("8", TypeError)):
        with pytest.raises(error, match="dim"):
            type(space)(dim)
    with pytest.raises(ValueError, match="n: -1"):
        space.random(-1)
    with pytest.raises(TypeError, match=r"n: 1\.5"):
        space.permute(space.random(), 1.5)


def test_names_must_fit(space):
    memory = space.memory()
    with pytest.raises(ValueError, match=r"names: 1 given, expected 2"):
        memory.add(space.random(2), ["one"])
    assert len(memory) == 0


# -- factoring, with the function that the documentation shows ---------------------------------------------------------


@pytest.fixture(scope="module")
def factor():
    page = read(Path(__file__).parents[1] / "docs" / "hypervectors.md")
    names = {"np": np, "nf": nf}
    exec(next(block.code for block in page.blocks if "def factor(" in block.code), names)
    return names["factor"]


@pytest.mark.parametrize("seed", range(10))
def test_resonator_recovers_the_factors(factor, seed):
    space = MAPB(4096 + seed, seed)
    codebooks = [space.random(n) for n in (30, 40, 50)]
    chosen = [int(np.random.default_rng(seed).integers(len(codebook))) for codebook in codebooks]
    product = space.bind(*(codebook[i] for codebook, i in zip(codebooks, chosen, strict=True)))
    assert factor(space, product, codebooks) == chosen
