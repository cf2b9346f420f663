"""What every family's edits must keep: run on each registered family's tiny model, and on softmax attention.

An edited layer is held against the same layer token by token in float64 (`edited_layer`).
"""

import copy
import inspect

import pytest
import torch
from devices import DEVICE, closure_tolerance, runnable
from edited_layer import EditedLayer
from oracles import relative
from tiny_models import tiny_model_of

import ssmlens
from ssmlens.adapters.adapter import adapters
from ssmlens.adapters.blocks import find_blocks
from ssmlens.adapters.softmax import SOFTMAX
from ssmlens.edits import Ablate, Add, Apply, KnockOut, Scale, Set, Swap
from ssmlens.errors import UsageError

pytestmark = pytest.mark.device

FAMILIES = {"softmax attention": SOFTMAX} | {
    adapters[path].family: adapters[path] for path in adapters
}
HERE = runnable(FAMILIES)
TOKENS = 7


class Enough(Exception):
    """The layer that is looked at has run."""


def put_out(model, name, edits, ids, **keywords):
    """What the mixer of this name puts out; what comes after it does not run."""
    seen = []

    def stop(module, args, output):
        seen.append(output[0] if isinstance(output, tuple) else output)
        raise Enough

    with ssmlens.editing(model, edits):
        handle = model.get_submodule(name).register_forward_hook(stop)
        try:
            model(ids, **keywords)
        except Enough:
            return seen[0]
        finally:
            handle.remove()


class Subject:
    """A family's tiny model, and the layer of it that is edited."""

    def __init__(self, family):
        adapter = FAMILIES[family]
        self.tolerance = closure_tolerance(adapter)
        torch.manual_seed(0)
        self.model = tiny_model_of(adapter).eval()
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.mul_(not name.endswith("A_log"))  # a slow decay: tokens reach far
                parameter.add_(0.2 * torch.randn_like(parameter) - 1.5 * name.endswith("A_log"))
        self.model.to(DEVICE)
        takes = inspect.signature(self.model.forward).parameters
        self.keywords = {"use_cache": False} if "use_cache" in takes else {}
        block = next(block for block in find_blocks(self.model) if block.sites)
        self.site, self.layer = block.sites[0], block.layer
        self.takes_mask = "attention_mask" in takes and self.site.adapter.masks_padding
        ids = torch.randint(0, 32, (3, TOKENS), device=DEVICE)
        self.ids, self.other = ids[:2], ids[2:]
        self.plain = self.put_out([])
        self.record = self.recorded(self.ids)
        self.exact = EditedLayer(self.site, self.record.call.given)
        self.quantities = self.record.operands.quantities
        self.has_states = self.site.adapter is not SOFTMAX

    def logits(self, ids, edits=(), **keywords):
        with ssmlens.editing(self.model, list(edits)):
            return self.model(ids, **self.keywords, **keywords).logits

    def recorded(self, ids):
        with torch.no_grad(), ssmlens.recording(self.model, self.layer) as rec:
            self.model(ids, **self.keywords)
        return rec[self.layer]

    def put_out(self, edits, ids=None, **keywords):
        """What the edited layer's mixer puts out, without a graph."""
        ids = self.ids if ids is None else ids
        with torch.no_grad():
            return put_out(self.model, self.site.name, edits, ids, **keywords)

    def put_out_alone(self, edits, token):
        """The same of one token without the others, standing where it stands."""
        keywords = {}
        if self.record.call.given.positions is not None:
            keywords = {"position_ids": torch.tensor([[token]], device=DEVICE), **self.keywords}
        return self.put_out(edits, self.ids[:, token : token + 1], **keywords)

    def holds(self, edits, tolerance=1e-5, **changed):
        """The edited layer puts out what the changed oracle does. How much that differs from what it did before."""
        tolerance = max(tolerance, self.tolerance)
        wanted, got = self.exact.put_out(**changed), self.put_out(edits)
        size = max(wanted.norm(), self.plain.norm())
        assert (got - wanted).norm() < tolerance * size, edits
        change = wanted - self.exact.put_out()
        if change.norm() > self.tolerance * size:
            assert relative(got - self.plain, change) < 0.1, edits
        return float(change.norm() / size)

    def changes(self, edits, **changed):
        """`holds`, and the edit does something."""
        assert self.holds(edits, **changed) > 1e-5, edits


@pytest.fixture(scope="module", params=HERE)
def subject(request):
    return Subject(request.param)


def at(value, axes, tokens=None, heads=None, new=None):
    """`value` with `new(value)` at some tokens and heads."""
    chosen = torch.ones_like(value, dtype=torch.bool)
    for axis, some in (("token", tokens), ("head", heads)):
        if some is not None and axis in axes:
            along = torch.zeros(value.shape[axes.index(axis)], dtype=torch.bool, device=DEVICE)
            along[some] = True
            shape = [-1 if name == axis else 1 for name in axes]
            chosen &= along.reshape(shape)
    return torch.where(chosen, new(value), value)


def axes_of(subject, name):
    _, axes = subject.record.operands.quantity(name)
    if name == "gate":
        return ("prompt", "token", "head", "headdim")
    return tuple("head" if axis == "group" else axis for axis in axes)


def quantities(subject):
    return [name for name in subject.quantities if name != "weights"]


def where_it_can(subject, name):
    """Tokens and heads to choose, of those axes that a quantity has."""
    axes = axes_of(subject, name)
    tokens = {"tokens": "1:4,5"} if "token" in axes else {}
    heads = {"heads": "1:"} if "head" in axes and subject.record.operands.heads > 1 else {}
    return {**tokens, **heads}


def chosen(subject, name, new):
    axes = axes_of(subject, name)
    where = where_it_can(subject, name)
    tokens = [1, 2, 3, 5] if "tokens" in where else None
    heads = slice(1, None) if "heads" in where else None
    return lambda value: at(value, axes, tokens, heads, new)


def identities(subject):
    """Edits that change nothing, of every kind."""
    layer = subject.layer
    operands = [Scale(layer=layer, what=name, factor=1) for name in subject.quantities]
    operands += [Swap(layer=layer, what=n, source=subject.record) for n in quantities(subject)]
    if convolutions_of(subject):
        operands.append(Scale(layer=layer, what="conv", taps=1, tokens="2:", factor=1))
    yield operands
    of_heads = [n for n in quantities(subject) if "head" in axes_of(subject, n)]
    streams = [Add(layer=layer, what=n, vector=0) for n in ("input", "output", "scan_output")]
    streams += [Swap(layer=layer, what=n, source=subject.record) for n in ("input", "output")]
    streams += [
        Scale(layer=layer, what=n, factor=1) for n in ("residual", "input", "scan_output", "block")
    ]
    streams += [Apply(layer=layer, what="output", function=lambda value: value)]
    yield streams
    none = torch.zeros(TOKENS, TOKENS, dtype=torch.bool)
    knocked = [KnockOut(layer=layer, queries=1, keys="2:"), KnockOut(layer=layer, mask=none)]
    yield [*knocked, *(Scale(layer=layer, what=n, factor=1.0, heads=0) for n in of_heads)]
    yield [*knocked, Apply(layer=layer, what="matrix", function=lambda M, queries: M, heads=0)]
    if subject.has_states:
        states = subject.record.states([3])[:, 0]
        yield [
            Set(layer=layer, what="state", tokens=3, value=states),
            Scale(layer=layer, what="state", tokens="2:5", factor=1),
            Set(layer=layer, what="initial_state", value=0),
        ]


@pytest.mark.parametrize("grad", [False, True])
def test_edits_that_change_nothing_change_no_bit(subject, grad):
    with torch.set_grad_enabled(grad):
        plain = subject.model(subject.ids, **subject.keywords).logits
        for edits in ([], *identities(subject)):
            assert torch.equal(subject.logits(subject.ids, edits), plain), edits


def test_operands_scaled_set_and_added_to(subject):
    """Each has some effect, if not all of them: a norm over a head undoes a factor, and a decay of 1 has no log."""
    for name in quantities(subject):
        where, layer = where_it_can(subject, name), subject.layer
        edits = {
            Scale(layer=layer, what=name, factor=1.3, **where): lambda v: v * 1.3,
            Set(layer=layer, what=name, value=-0.3, **where): lambda v: torch.full_like(v, -0.3),
            Add(layer=layer, what=name, vector=-0.2, **where): lambda v: v - 0.2,
        }
        effects = []
        for edit, new in edits.items():
            if edit.kind != "scale" and is_one_step_for_all_states(subject, name):
                with pytest.raises(UsageError, match="one step for all its states"):
                    subject.put_out(edit)
            else:
                effects.append(subject.holds(edit, change={name: chosen(subject, name, new)}))
        assert max(effects) > 1e-5, name


def is_one_step_for_all_states(subject, name):
    """Whether this is the log decay of Mamba-1, which is a step times A."""
    axes = subject.record.operands.quantity(name)[1]
    return name == "log_decay" and "state" in axes and "A" in subject.quantities


def test_operands_of_another_prompt(subject):
    source = subject.recorded(subject.other)
    exact = EditedLayer(subject.site, source.call.given)
    effects = {}
    for name in quantities(subject):
        edit = Swap(layer=subject.layer, what=name, source=source, **where_it_can(subject, name))
        new = lambda v, name=name: exact.arrays[name].expand_as(v)  # noqa: E731
        effects[name] = subject.holds(edit, change={name: chosen(subject, name, new)})
    assert effects["x"] > 1e-4


def test_a_function_on_an_operand(subject):
    name = "k" if "k" in subject.quantities else "x"
    if name not in subject.quantities:
        name = "B"
    edit = Apply(layer=subject.layer, what=name, function=lambda v: v.flip(1))
    subject.changes(edit, change={name: lambda v: v.flip(1)})


def edges(tokens=TOKENS, heads=None, of=1, test=lambda i, j: True):
    """Where M [batch head query key] is set to 0."""
    knocked = torch.tensor([[i >= j and test(i, j) for j in range(tokens)] for i in range(tokens)])
    some = torch.tensor([heads is None or h in heads for h in range(of)])
    there = (knocked & some[:, None, None]).to(DEVICE)
    return lambda M: M.masked_fill(there, 0)


def test_edges_knocked_out(subject):
    layer, of = subject.layer, subject.record.operands.heads
    mask = torch.rand(TOKENS, TOKENS) < 0.5
    mask.fill_diagonal_(False)
    one = [of - 1]
    cases = [
        ({"queries": "4:", "keys": "1:3"}, {"test": lambda i, j: i >= 4 and 1 <= j < 3}),
        ({"queries": [2, 6], "keys": "0,5"}, {"test": lambda i, j: i in (2, 6) and j in (0, 5)}),
        (
            {"queries": "2:", "keys": ":3", "heads": one},
            {"test": lambda i, j: i >= 2 and j < 3, "heads": one},
        ),
        ({"lags": "1:"}, {"test": lambda i, j: i > j}),
        ({"lags": "1:", "heads": one}, {"test": lambda i, j: i > j, "heads": one}),
        ({"lags": "1:3", "queries": "2:"}, {"test": lambda i, j: 1 <= i - j < 3 and i >= 2}),
        ({"lags": 1, "queries": 5}, {"test": lambda i, j: (i, j) == (5, 4)}),
        ({"mask": mask}, {"test": lambda i, j: bool(mask[i, j])}),
        (
            {"queries": "-2:", "keys": "-3"},
            {"test": lambda i, j: i >= TOKENS - 2 and j == TOKENS - 3},
        ),
    ]
    for chosen, wanted in cases:
        subject.changes(KnockOut(layer=layer, **chosen), matrix=edges(of=of, **wanted))
    # What a norm makes of nothing at all is rounding.
    subject.changes(KnockOut(layer=layer), matrix=edges(of=of), tolerance=1e-3)


def test_edges_in_several_knock_outs_go_once(subject):
    layer = subject.layer
    edits = [
        KnockOut(layer=layer, queries="2:", keys="0:2"),
        KnockOut(layer=layer, queries="5:", keys="2:5"),
        KnockOut(layer=layer, lags="1:3"),
    ]
    both = edges(
        of=subject.record.operands.heads,
        test=lambda i, j: (i >= 2 and j < 2) or (i >= 5 and 2 <= j < 5) or 1 <= i - j < 3,
    )
    subject.changes(edits, matrix=both)


def test_a_function_on_rows_of_the_matrix(subject):
    of = subject.record.operands.heads
    edit = Apply(
        layer=subject.layer, what="matrix", function=lambda M, queries: M * 1.5, heads=[of - 1]
    )
    out = KnockOut(layer=subject.layer, queries=4, keys="0:2")
    knocked = edges(of=of, test=lambda i, j: i == 4 and j < 2)

    def scaled(M):
        M = M.clone()
        M[:, of - 1] *= 1.5
        return knocked(M)

    subject.changes([edit, out], matrix=scaled)


def test_states(subject):
    layer = subject.layer
    if not subject.has_states:
        with pytest.raises(UsageError, match="no state"):
            subject.put_out(Set(layer=layer, what="state", tokens=3, value=0))
        return
    torch.manual_seed(1)
    value = torch.randn_like(subject.record.states([0])[:, 0])
    edit = Set(layer=layer, what="state", tokens=3, value=0)
    subject.changes(edit, state={3: torch.zeros_like}, tolerance=1e-3)  # as above, at token 3
    edit = Set(layer=layer, what="state", tokens="2,4", value=value)
    subject.changes(edit, state={t: lambda S: value.double() for t in (2, 4)})
    few = min(2, value.shape[3])
    edits = [
        Scale(layer=layer, what="state", tokens=4, factor=0.5, heads=[0]),
        Add(layer=layer, what="state", tokens="1,4", vector=value),
        Set(layer=layer, what="initial_state", value=value, states=f"0:{few}"),
    ]
    head = (torch.arange(value.shape[1], device=DEVICE) == 0)[:, None, None]
    state = torch.arange(value.shape[3], device=DEVICE) < few
    subject.changes(
        edits,
        state={
            -1: lambda S: torch.where(state, value.double(), S),
            1: lambda S: S + value,
            4: lambda S: torch.where(head, S * 0.5, S) + value,
        },
    )
    last = Set(layer=layer, what="state", tokens=-1, value=0)
    read = subject.holds(last, state={TOKENS - 1: torch.zeros_like}, tolerance=1e-3)
    assert (read > 1e-5) != (subject.record.operands.kind == "normalised decay scan")


def test_recorded_states_are_those_of_the_recurrence(subject):
    if not subject.has_states:
        with pytest.raises(UsageError, match="no state"):
            subject.record.states(0)
        return
    wanted = subject.exact.states()
    assert relative(subject.record.states(range(TOKENS)), wanted) < 1e-5
    assert relative(subject.record.states(-2)[:, 0], wanted[:, -2]) < 1e-5


def test_what_the_scan_puts_out(subject):
    layer = subject.layer
    of, wide = subject.record.operands.x.shape[2:]
    head = (torch.arange(of, device=DEVICE) == of - 1)[:, None]
    last = torch.arange(of * wide, device=DEVICE) == of * wide - 1
    channel = last.unflatten(0, (of, wide))
    subject.changes(Ablate(layer=layer, heads=[of - 1]), scanned=lambda y: y.masked_fill(head, 0))
    subject.changes(Ablate(layer=layer, channels=-1), scanned=lambda y: y.masked_fill(channel, 0))
    edit = Ablate(layer=layer, heads=[of - 1], how="mean", tokens="2:")
    later = (torch.arange(TOKENS, device=DEVICE) >= 2)[:, None, None]
    subject.changes(edit, scanned=lambda y: torch.where(head & later, y.mean((0, 1)), y))
    edit = Ablate(layer=layer, what="scan_output", how="resample")
    subject.changes(edit, scanned=lambda y: y.flip(0))
    edit = Apply(layer=layer, what="scan_output", function=torch.cos)
    subject.changes(edit, scanned=torch.cos)


def test_edits_of_several_stages_go_by_stage(subject):
    name = "C" if "C" in subject.quantities else "q"
    edits = [
        Ablate(layer=subject.layer, heads=[0], tokens="3:"),
        KnockOut(layer=subject.layer, queries="5:", keys="0:2"),
        Scale(layer=subject.layer, what=name, factor=1.4, tokens="2:"),
    ]
    of = subject.record.operands.heads
    first = (torch.arange(of, device=DEVICE) == 0)[:, None]
    head = first & (torch.arange(TOKENS, device=DEVICE) >= 3)[:, None, None]
    changed = {
        "matrix": edges(of=of, test=lambda i, j: i >= 5 and j < 2),
        "change": {
            name: lambda v: at(v, axes_of(subject, name), [2, 3, 4, 5, 6], None, lambda v: v * 1.4)
        },
        "scanned": lambda y: y.masked_fill(head, 0),
    }
    subject.changes(edits, **changed)
    subject.changes(edits[::-1], **changed)


def test_what_the_mixer_puts_out_and_gets(subject):
    layer, plain = subject.layer, subject.plain
    vector = torch.randn(plain.shape[2], device=DEVICE)
    assert not subject.put_out(Ablate(layer=layer)).any()
    mean = subject.put_out(Ablate(layer=layer, how="mean", tokens=[2]))
    torch.testing.assert_close(mean[:, 2], plain.mean((0, 1)).expand(2, -1))
    assert torch.equal(mean[:, 3:], plain[:, 3:])
    swapped = subject.put_out(Ablate(layer=layer, how="resample"))
    assert torch.equal(swapped, plain.flip(0))
    steered = subject.put_out(Add(layer=layer, vector=vector, tokens="-2:"))
    assert torch.equal(steered[:, -2:], plain[:, -2:] + vector)
    assert torch.equal(steered[:, :-2], plain[:, :-2])
    other = subject.recorded(subject.other)
    swapped = subject.put_out(Swap(layer=layer, what="output", source=other, tokens="0:4"))
    assert torch.equal(swapped[:, :4], other.call.output[:, :4].expand(2, -1, -1))
    swapped = subject.put_out(Swap(layer=layer, what="input", source=other))
    torch.testing.assert_close(swapped, other.call.output.expand(2, -1, -1), rtol=1e-4, atol=1e-5)


def test_taps_of_the_convolution(subject):
    layer = subject.layer
    if not convolutions_of(subject):
        with pytest.raises(UsageError, match="no convolution"):
            subject.put_out(Scale(layer=layer, what="conv", taps=1, factor=0))
        return
    site = copy.deepcopy(subject.site)
    for convolution in conv1ds(site):
        convolution.weight.data[..., -2] *= 0.5
    changed = EditedLayer(site, subject.record.call.given)
    some = [2, 3, 6]
    chosen = {
        name: lambda v, name=name: at(
            v, axes_of(subject, name), some, None, lambda _: changed.arrays[name]
        )
        for name in quantities(subject)
        if name != "log_decay" or "A" not in subject.quantities
    }
    edit = Scale(layer=layer, what="conv", taps=1, factor=0.5, tokens=some)
    subject.changes(edit, change=chosen)
    head = {name: chosen[name] for name in chosen}
    name = "C" if "C" in head else "q"
    head[name] = lambda v: at(chosen[name](v), axes_of(subject, name), None, [0], lambda v: v * 2)
    subject.changes([edit, Scale(layer=layer, what=name, heads=[0], factor=2.0)], change=head)


def convolutions_of(subject):
    """Those before the scan: a gated convolution is itself what mixes."""
    around = subject.record.operands.surroundings
    return conv1ds(subject.site) if around is not None and around.u is not None else []


def conv1ds(site):
    return [m for m in site.module.modules() if isinstance(m, torch.nn.Conv1d)]


def test_no_token_sees_another_without_matrix_and_taps(subject):
    edit = KnockOut(layer=subject.layer, lags="1:", taps=True)
    if not convolutions_of(subject):
        with pytest.raises(UsageError, match="no convolution"):
            subject.put_out(edit)
        return
    whole = subject.put_out(edit)
    for t in (0, 3, TOKENS - 1):
        alone = subject.put_out_alone(edit, t)
        assert relative(whole[:, t : t + 1], alone) < subject.tolerance


def test_a_reset_that_cuts_the_taps_begins_the_prompt_anew(subject):
    if not subject.has_states:
        pytest.skip("has no state")
    if subject.record.operands.kind == "normalised decay scan":
        pytest.skip("what divides a token's sum counts the tokens before it")
    edit = Set(layer=subject.layer, what="state", tokens=3, value=0, cut_taps=True)
    edited = subject.put_out(edit)
    later = EditedLayer(subject.site, subject.record.call.given.map(lambda t: t[:, 4:])).put_out()
    assert relative(edited[:, 4:], later) < subject.tolerance
    assert relative(edited[:, :3], subject.plain[:, :3]) < 1e-6


def edits_of_all_stages(subject, *, from_the_end):
    """Edits at tokens that prompts of two tokens have, too; numbers below 0 count from each prompt's own end."""
    layer, last = subject.layer, "-1" if from_the_end else "1:"
    yield Add(layer=layer, what="x", vector=0.3)  # where a mask hides padding, there too
    yield Scale(layer=layer, what=strength_of(subject), factor=0.6, tokens=1)
    yield KnockOut(layer=layer, queries=last, keys=0)
    yield Apply(layer=layer, what="matrix", function=lambda M, queries: 1.1 * M, heads=[0])
    yield Ablate(layer=layer, what="scan_output", heads=[0], tokens="1")
    yield Scale(layer=layer, what="output", tokens=last, factor=1.5)
    yield Add(layer=layer, what="input", tokens=0, vector=0.1)
    yield Add(layer=layer, what="residual", tokens=1, vector=0.1)
    yield Scale(layer=layer, what="block", tokens=0, factor=0.5)
    if subject.has_states:
        yield Scale(layer=layer, what="state", tokens="-2" if from_the_end else 0, factor=0.5)
        yield Add(layer=layer, what="initial_state", vector=0.1)
    if convolutions_of(subject):
        yield Scale(layer=layer, what="conv", taps=0, tokens=last, factor=0.5)


def strength_of(subject):
    """What weighs a token's write, or its key."""
    return next(name for name in ("delta", "beta", "k", "B") if name in subject.quantities)


LENGTHS = (2, TOKENS, 4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_of_a_padded_batch_are_edited_as_if_alone(subject, side):
    if side == "left" and not subject.takes_mask:
        pytest.skip("takes no attention mask")
    torch.manual_seed(2)
    ids = torch.randint(0, 32, (3, TOKENS), device=DEVICE)
    mask, wholes = torch.zeros_like(ids), []
    for row, length in enumerate(LENGTHS):
        whole = slice(TOKENS - length, TOKENS) if side == "left" else slice(length)
        mask[row, whole] = 1
        wholes.append(whole)
    keywords = {"attention_mask": mask} if subject.takes_mask else {}
    edits = list(edits_of_all_stages(subject, from_the_end=subject.takes_mask))
    with torch.no_grad():
        plain, padded = (subject.logits(ids, some, **keywords) for some in ([], edits))
        for row, whole in list(enumerate(wholes))[::2]:
            alone = ids[row : row + 1, whole]
            assert relative(padded[row, whole], plain[row, whole]) > 1e-3
            assert relative(padded[row, whole], subject.logits(alone, edits)[0]) < subject.tolerance


def test_a_single_token(subject):
    with torch.no_grad():
        ids = subject.ids[:1, :1]
        edits = [
            Scale(layer=subject.layer, what=strength_of(subject), factor=0.5),
            KnockOut(layer=subject.layer, lags="1:"),
            KnockOut(layer=subject.layer, queries=0, keys=0, heads=0),
        ]
        assert subject.logits(ids, edits).isfinite().all()
        everything = subject.put_out(KnockOut(layer=subject.layer), ids)
        nothing = subject.put_out(Set(layer=subject.layer, what="x", value=0), ids)
        if "D" not in subject.quantities:
            assert (everything - nothing).abs().max() < 1e-3


def test_edits_under_autocast(subject):
    edits = [
        Scale(layer=subject.layer, what=strength_of(subject), factor=0.3),
        KnockOut(layer=subject.layer, lags="1:", heads=0),
    ]
    with torch.no_grad():
        exact = subject.logits(subject.ids, edits)
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            if DEVICE == "cuda" and refuses(lambda: subject.logits(subject.ids)):
                pytest.skip("its kernels do not run under autocast")
            plain = subject.logits(subject.ids)
            same = [Scale(layer=subject.layer, what=n, factor=1) for n in subject.quantities]
            assert torch.equal(subject.logits(subject.ids, same), plain)
            got = subject.logits(subject.ids, edits)
    assert got.dtype == plain.dtype
    assert relative(got.float(), exact) < 0.2
    assert relative(got.float(), exact) < relative(plain.float(), exact)


def test_gradients_are_those_of_finite_differences(subject):
    """Through what is edited, in float64, of what the layer puts out."""
    model, name, layer = copy.deepcopy(subject.model).double(), strength_of(subject), subject.layer
    torch.manual_seed(3)
    towards = torch.randn_like(subject.plain, dtype=torch.double)

    def loss(factor, vector):
        edits = [
            Scale(layer=layer, what=name, tokens="1:5", factor=factor),
            KnockOut(layer=layer, queries="4:", keys="0:3"),
            Apply(layer=layer, what="matrix", function=lambda M, queries: M * factor, heads=0),
            Add(layer=layer, what="scan_output", tokens="2:", vector=vector),
        ]
        if subject.has_states:
            edits.append(Scale(layer=layer, what="state", tokens=2, factor=factor))
        if "log_decay" in subject.quantities:
            edits.append(Scale(layer=layer, what="log_decay", tokens="3:", factor=factor))
        edited = put_out(model, subject.site.name, edits, subject.ids, **subject.keywords)
        return (edited * towards).sum()

    factor = torch.tensor(0.8, dtype=torch.double, device=DEVICE, requires_grad=True)
    vector = torch.zeros(subject.record.operands.x.shape[3]).to(towards).requires_grad_()
    if DEVICE == "cuda" and refuses(
        lambda: model(subject.ids, **subject.keywords).logits.sum().backward()
    ):
        pytest.skip("its kernels take no float64")
    loss(factor, vector).backward()
    step, along = 1e-5, torch.ones_like(vector)
    with torch.no_grad():
        for got, moved in (
            (factor.grad, lambda by: loss(factor + by, vector)),
            (vector.grad.sum(), lambda by: loss(factor, vector + by * along)),
        ):
            wanted = (moved(step) - moved(-step)) / (2 * step)
            assert abs(wanted) > 1e-3
            assert abs(got - wanted) < 1e-4 * max(1, abs(wanted))


def refuses(call):
    """Whether a kernel of the unedited model refuses the call."""
    try:
        call()
    except Exception:  # a kernel's refusal has a class of its own in every package
        return True
    return False


def test_gradients_of_what_follows_reach_an_edit_and_all_weights(subject):
    factor = torch.tensor(0.8, device=DEVICE, requires_grad=True)
    edit = Scale(layer=subject.layer, what=strength_of(subject), factor=factor)
    subject.logits(subject.ids, [edit]).square().mean().backward()
    gradients = [p.grad for p in subject.model.parameters() if p.grad is not None]
    subject.model.zero_grad()
    assert factor.grad.isfinite()
    assert factor.grad != 0
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
