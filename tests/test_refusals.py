"""What the capture cannot do, it refuses in one line that names the module and says what to do; no file remains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from frontend_cases import installed, library
from refusal_cases import REFUSALS, Refusal
from torch import nn

from snn2chip import save


def marked(refusal: Refusal) -> object:
    missing = [name for name in {refusal.framework, "snnTorch"} if not installed(name)]
    return pytest.param(
        refusal, id=str(refusal), marks=pytest.mark.skipif(bool(missing), reason=f"{missing} not installed")
    )


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("refusal", [marked(refusal) for refusal in REFUSALS])
def test_refused_in_one_line_that_names_the_module_and_says_what_to_do(refusal: Refusal, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = refusal.build(library(refusal.framework)).train()
    call, dtype = nn.Module.__call__, torch.get_default_dtype()
    with pytest.raises(refusal.error) as raised:
        save(module, tmp_path / "model.pt", refusal.example(), **dict(refusal.options))
    text = str(raised.value)
    assert type(raised.value) is refusal.error
    assert "\n" not in text and len(text) < 400
    assert text.startswith(refusal.names) and refusal.says in text, text
    assert list(tmp_path.iterdir()) == []
    assert nn.Module.__call__ is call and torch.get_default_dtype() is dtype and module.training


def test_the_table_is_long_and_its_names_are_unique() -> None:
    assert len({refusal.name for refusal in REFUSALS}) == len(REFUSALS) >= 40
