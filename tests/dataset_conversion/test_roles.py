"""Which modality is source and which is target, where the command line names one role alone."""

from __future__ import annotations

from typing import Any

import pytest

from nnunet_crossmod.dataset_conversion.roles import resolve_roles
from nnunet_crossmod.errors import CrossmodError

HEART = (["bSSFP"], ["LGE"], ["bSSFP", "LGE", "T2"])


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (None, None, (["bSSFP"], ["LGE"])),
        (["LGE"], None, (["LGE"], ["bSSFP", "T2"])),
        (None, ["bSSFP"], (["LGE", "T2"], ["bSSFP"])),
        (None, ["T2"], (["bSSFP"], ["T2"])),
        (["T2"], ["bSSFP"], (["T2"], ["bSSFP"])),
    ],
)
def test_the_role_that_is_not_named_takes_what_is_left(source: Any, target: Any, expected: Any) -> None:
    assert resolve_roles(source, target, *HEART) == expected


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [(["LGE"], ["LGE"], "'LGE' is source and target"), (["bSSFP", "LGE", "T2"], None, "no modality is left")],
)
def test_a_modality_has_one_role(source: Any, target: Any, said: str) -> None:
    with pytest.raises(CrossmodError, match=said):
        resolve_roles(source, target, *HEART)
