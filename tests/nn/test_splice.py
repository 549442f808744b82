"""Altered texts: made of what was there, marked as it was, and learned from by recover."""

import pytest
import torch
from torch import Tensor, nn

import tnkit as tk
from tnkit.errors import OptionError
from tnkit.nn.splice import is_text, spliced

FIRST, LAST = 1, 2


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def batch_of(rows: list[list[int]], *, left: bool = False, pad: int = 0) -> dict[str, Tensor]:
    """Rows filled up; the type of a token is its hundreds."""
    length = max(map(len, rows))
    filled = [[pad] * (length - len(r)) + r if left else r + [pad] * (length - len(r)) for r in rows]
    counts = [[0] * (length - len(r)) + [1] * len(r) if left else [1] * len(r) + [0] * (length - len(r)) for r in rows]
    ids = torch.tensor(filled)
    return {"input_ids": ids, "token_type_ids": ids // 100, "attention_mask": torch.tensor(counts)}


def sentences(count: int, *, marked: bool = True) -> list[list[int]]:
    """Row k counts up from 100 k + 10, so that a token says where it is from."""
    inner = [[100 * k + 10 + i for i in range(4 + k)] for k in range(count)]
    return [[FIRST, *row, LAST] for row in inner] if marked else inner


@pytest.mark.parametrize("left", [False, True])
def test_rows_are_runs_of_rows_between_their_marks(left: bool):
    batch = batch_of(sentences(6), left=left, pad=9)
    kinds = set()
    generator = rng()
    for _ in range(20):
        made = spliced(batch, generator)
        assert list(made) == list(batch)
        assert made["input_ids"].shape == made["attention_mask"].shape == made["token_type_ids"].shape
        assert made["input_ids"].shape[1] <= batch["input_ids"].shape[1]
        assert bool((made["input_ids"][made["attention_mask"] == 0] == 9).all())
        for k, (ids, mask) in enumerate(zip(made["input_ids"], made["attention_mask"].bool(), strict=True)):
            row = ids[mask].tolist()
            assert (row[0], row[-1]) == (FIRST, LAST)
            words = row[1:-1]
            assert words
            breaks = [i for i in range(1, len(words)) if words[i] != words[i - 1] + 1]
            assert len(breaks) <= 1
            assert words[0] // 100 == k
            kinds.add(len(breaks))
            padded = (~mask).nonzero().flatten().tolist()
            assert padded == (list(range(len(padded))) if left else list(range(len(row), len(ids))))
    assert kinds == {0, 1}


def test_what_belongs_to_a_token_goes_with_it():
    batch = batch_of(sentences(5, marked=False))
    made = spliced(batch, rng())
    counts = made["attention_mask"].bool()
    assert torch.equal(made["token_type_ids"][counts], made["input_ids"][counts] // 100)
    assert set(made["input_ids"][counts].tolist()) <= set(batch["input_ids"].flatten().tolist())


def test_a_batch_is_not_changed_and_a_seed_tells_what_comes():
    batch = batch_of(sentences(4))
    before = {name: value.clone() for name, value in batch.items()}
    first, again = spliced(batch, rng()), spliced(batch, rng())
    assert all(torch.equal(batch[name], before[name]) for name in batch)
    assert all(torch.equal(first[name], again[name]) for name in batch)


@pytest.mark.parametrize("rows", [[[5]], [[5], [6, 7]], [[FIRST, LAST], [FIRST, LAST]], [[], [5, 6]]], ids=str)
def test_short_rows(rows: list[list[int]]):
    made = spliced(batch_of(rows), rng())
    assert len(made["input_ids"]) == len(rows)
    assert bool((made["attention_mask"].sum(1)[[bool(r) for r in rows]] > 0).all())


def test_what_is_text():
    batch = batch_of(sentences(3))
    assert is_text(batch)
    assert not is_text({**batch, "labels": torch.zeros(3)})
    assert not is_text({"input_ids": batch["input_ids"]})
    assert not is_text({**batch, "token_type_ids": torch.zeros(3)})
    assert not is_text((batch["input_ids"], batch["attention_mask"]))


class Words(nn.Module):
    """The mean of a table's rows through two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(1000, 24), nn.Linear(24, 48), nn.Linear(48, 24)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weight = attention_mask[:, :, None].float()
        x = (self.table(input_ids) * weight).sum(1) / weight.sum(1).clamp_min(1)
        return self.down(torch.tanh(self.up(x)))


def taught() -> tuple[nn.Module, list[dict[str, Tensor]], nn.Module]:
    torch.manual_seed(0)
    model = Words().eval()
    batches = [batch_of([[FIRST, *torch.randint(3, 1000, (9,)).tolist(), LAST] for _ in range(8)]) for _ in range(4)]
    rules = {"table": None}
    small, _ = tk.nn.compress(model, tk.Budget(params=0.4), batches, rules, sequential=0, measure=False)
    return model, batches, small


@pytest.mark.parametrize(("copies", "asked"), [(0, 4), (2, 1 + 3 * 3), (None, 1 + 3 * 10)])
def test_recover_learns_from_altered_texts(copies: int | None, asked: int):
    """One batch is held out and three are for training; with 31 steps for them each gets nine copies by default."""
    model, batches, small = taught()
    seen: list[int] = []
    handle = model.register_forward_hook(lambda *_: seen.append(1))
    _, report = tk.nn.recover(small, model, batches, match_sweeps=0, max_steps=31, copies=copies)
    handle.remove()
    assert len(seen) == asked
    assert report.error_after <= report.error_before


def test_altered_texts_help_with_others():
    """Another two hundred sentences of the same words."""
    model, batches, small = taught()
    torch.manual_seed(5)
    words = batches[0]["input_ids"][:, 1:-1].flatten()
    other = batch_of([[FIRST, *words[torch.randint(len(words), (9,))].tolist(), LAST] for _ in range(200)])

    def wrong(m: nn.Module) -> float:
        with torch.no_grad():
            return float((m(**other) - model(**other)).square().mean())

    options = {"validation": [other], "match_sweeps": 0, "max_steps": 200}
    plain, more = (tk.nn.recover(small, model, batches[:1], copies=c, **options)[0] for c in (0, 40))
    assert wrong(more) < wrong(plain) < wrong(small)


def test_fewer_than_no_copies():
    model, batches, small = taught()
    with pytest.raises(OptionError, match="copies=-1"):
        tk.nn.recover(small, model, batches, copies=-1)


def test_one_word_in_five_is_any_other():
    batch = batch_of([[FIRST, *range(10, 60), LAST] for _ in range(40)])
    made = spliced(batch, rng(), 10_000)
    words = made["input_ids"][made["attention_mask"].bool()]
    assert 0.15 < float((words >= 60).double().mean()) < 0.25
    assert int(words.max()) < 10_000
    assert bool((made["input_ids"][:, 0] == FIRST).all())
    assert bool((batch["input_ids"] < 60).all())
