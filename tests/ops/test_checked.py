"""What is no tensor, in every public function: taken as numbers, or refused by name."""

from __future__ import annotations

import pickle
from inspect import Parameter, isfunction, signature, unwrap

import numpy as np
import pytest

import lucid
import lucid.nn.functional as F
from lucid import Tensor
from lucid.ops.checked import checked, public, tensor_names

VALUES = {"array": np.ones((2, 2), np.float32), "list": [[1.0, 2.0], [3.0, 4.0]], "number": 1.5, "none": None}
#: Arguments that are not tensors, for functions that ask for them; others are 1.
OTHERS = {"dims": (1, 0), "normalized_shape": (2,), "sizes": (2,), "shape": (2, 2), "pad": (1, 1)}
OTHERS |= {"running_mean": None, "running_var": None}
PAGES = {"lucid": lucid, "lucid.nn.functional": F}
FUNCTIONS = [(page, name) for page, of in PAGES.items() for name in of.__all__ if isfunction(getattr(of, name))]
NEED_TENSORS = [(page, name) for page, name in FUNCTIONS if tensor_names(unwrap(getattr(PAGES[page], name)))]


def _arguments(function, **given):
    """Keywords for all that have no default: what is given, tensors where those are asked for, and ``OTHERS``."""
    asked = [p for p in signature(function).parameters.values() if p.default is Parameter.empty]
    asked = [p for p in asked if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    tensors = tensor_names(unwrap(function))
    return {p.name: OTHERS.get(p.name, 1) if p.name not in tensors else lucid.ones(2, 2) for p in asked} | given


def test_the_pages_are_found():
    assert len(FUNCTIONS) > 230 and len(NEED_TENSORS) > 115


@pytest.mark.parametrize("what", VALUES)
@pytest.mark.parametrize(("page", "name"), NEED_TENSORS)
def test_what_must_be_a_tensor_is_refused_by_name(page, name, what):
    """Each argument in turn, the others right, by position and by name."""
    function = getattr(PAGES[page], name)
    for parameter in tensor_names(unwrap(function)):
        kind = signature(function).parameters[parameter]
        if kind.default is not Parameter.empty:
            continue
        arguments = _arguments(function, **{parameter: VALUES[what]})
        text = rf"(?i){name}[0-9d]*: the {parameter} must be a Tensor, not {type(VALUES[what]).__name__}; "
        with pytest.raises(TypeError, match=text):
            function(**arguments)
        with pytest.raises(TypeError, match=text):
            function(*arguments.values())


@pytest.mark.parametrize("what", VALUES)
@pytest.mark.parametrize(("page", "name"), [f for f in FUNCTIONS if f not in NEED_TENSORS])
def test_other_functions_give_tensors_or_say_why_not(page, name, what):
    """Never an array, nor an error from further down that speaks of what the user has not written."""
    function = getattr(PAGES[page], name)
    count = sum(
        p.kind is Parameter.POSITIONAL_OR_KEYWORD and p.default is Parameter.empty
        for p in signature(function).parameters.values()
    )
    try:
        out = function(*[VALUES[what]] * count)
    except (AttributeError, KeyError) as error:
        pytest.fail(f"{name}: {type(error).__name__}: {error}")
    except (TypeError, ValueError):
        return
    assert not any(isinstance(one, np.ndarray) for one in (out if isinstance(out, tuple) else (out,)))


def test_methods_look_at_their_further_arguments():
    with pytest.raises(TypeError, match=r"mm: the mat2 must be a Tensor, not list"):
        lucid.ones(2, 2).mm([[1.0, 2.0]])
    with pytest.raises(TypeError, match=r"index_add: the source must be a Tensor, not ndarray"):
        lucid.ones(2).index_add(0, [0], source=np.ones(1))


def test_several_tensors_and_lists_of_them():
    for call in (lucid.broadcast_tensors, lucid.meshgrid, lambda *xs: lucid.einsum("i,i->i", *xs)):
        with pytest.raises(TypeError, match="must be a Tensor, not ndarray"):
            call(lucid.ones(2), np.ones(2))
    for join in (lucid.cat, lucid.stack):
        with pytest.raises(TypeError, match=r"tensors must be a list or tuple of Tensors, not float"):
            join(1.5)


def test_python_says_what_is_missing_or_too_much():
    with pytest.raises(TypeError, match="missing a required argument: 'mat2'"):
        lucid.mm(lucid.ones(2, 2))
    with pytest.raises(TypeError, match="unexpected keyword argument 'c'"):
        lucid.mm(lucid.ones(2, 2), lucid.ones(2, 2), c=1)


def test_arrays_where_numbers_do():
    x = lucid.arange(4).reshape(2, 2)
    assert x.gather(0, np.array([[1, 0]])).tolist() == [[2, 1]]
    assert lucid.masked_select(x, [[True, False], [False, True]]).tolist() == [0, 3]
    assert isinstance(lucid.lerp([0.0], [1.0], 0.5), Tensor) and lucid.addcmul([1.0], [2.0], [3.0]).tolist() == [7]


def test_checked_functions_keep_what_they_are():
    assert checked(test_the_pages_are_found, "f") is test_the_pages_are_found
    assert lucid.swapaxes.__name__ == "swapaxes" and "exchanged" in lucid.swapaxes.__doc__
    assert pickle.loads(pickle.dumps(lucid.reshape)) is lucid.reshape
    assert public("m", ["cat", "Tensor"], {"cat": lucid.cat, "Tensor": Tensor}) == {"cat": lucid.cat}
