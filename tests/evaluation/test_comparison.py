"""The table of a comparison: what is averaged over what, the gap, the paired test, the three formats."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.evaluation import METRICS, read_scores
from nnunet_crossmod.evaluation.comparison import Roles, compare, gap_closed, paired_p, shown, to_latex, to_markdown

ROLES = Roles("floor", "ceiling", "floor")
METHODS = ["floor", "ours_x", "ceiling"]


def rows(method: str, run: str, dice: dict[str, tuple[float, float]], modality: str = "LGE") -> list[dict[str, object]]:
    return [
        {
            "method": method,
            "run": run,
            "case": case,
            "modality": modality,
            "structure": structure,
            "status": "absent" if np.isnan(value) else "scored" if value else "missed",
            "dice": value,
            "hd95": 100 * (1 - value),
            "assd": 10 * (1 - value),
            "nsd": value,
        }
        for case, values in dice.items()
        for structure, value in zip(("Myo", "LV"), values, strict=True)
    ]


@pytest.fixture
def scores() -> pd.DataFrame:
    cases = [f"p{i}" for i in range(6)]
    generator = np.random.default_rng(0)
    floor = {case: tuple(generator.uniform(0.3, 0.5, 2)) for case in cases}
    ours = {case: (a + 0.2, b + 0.1 * generator.random()) for case, (a, b) in floor.items()}
    ours_again = {case: (a + 0.02, b) for case, (a, b) in ours.items()}
    ours_again["p0"] = (ours["p0"][0] + 0.02, 0.0)
    ceiling = dict.fromkeys(cases, (0.9, 0.95))
    return pd.DataFrame(
        [
            *rows("floor", "seed0", floor),
            *rows("ours_x", "seed0", ours),
            *rows("ours_x", "seed1", ours_again),
            *rows("ceiling", "seed0", ceiling),
        ]
    )


def test_names_stay_text_in_a_file(scores: pd.DataFrame, tmp_path: Path) -> None:
    named = scores[scores["method"] == "floor"].replace({"p0": "0017", "LV": "NA"})
    named.loc[named["case"] == "p1", "dice"] = np.nan
    named.to_csv(tmp_path / "metrics.csv", index=False)
    pd.testing.assert_frame_equal(read_scores(tmp_path / "metrics.csv"), named.reset_index(drop=True))


def test_scans_without_a_score_are_not_paired() -> None:
    def of(method: str, empty: float, shift: float) -> list[dict[str, object]]:
        dice = {f"p{i}": (0.5 + shift + i / 50, 0.6 + shift) for i in range(6)}
        return rows(method, "seed0", {**dice, "empty": (empty, empty)})

    scores = pd.DataFrame([*of("floor", np.nan, 0.0), *of("ours_x", 0.0, 0.2), *of("ceiling", np.nan, 0.4)])
    table = compare(scores, METHODS, ROLES).set_index("method")
    assert table["cases"].tolist() == [7, 7, 7]
    assert table["paired"].tolist() == [6, 6, 6]
    assert table["gap closed"].tolist() == pytest.approx([0, 0.5, 1])
    assert table.loc["ours_x", "p"] == paired_p(np.full(6, 0.2), np.zeros(6))


def test_a_case_is_averaged_over_runs_and_the_table_over_cases(scores: pd.DataFrame) -> None:
    table = compare(scores, METHODS, ROLES).set_index("method")
    mine = scores[scores["method"] == "ours_x"]
    per_case = []
    for case in sorted(set(mine["case"])):
        of = mine[mine["case"] == case]
        per_case.append([of.loc[of["structure"] == s, "dice"].mean() for s in ("Myo", "LV")])
    expected = np.array(per_case)
    assert table.loc["ours_x", "dice Myo"] == pytest.approx(expected[:, 0].mean())
    assert table.loc["ours_x", "dice mean"] == pytest.approx(expected.mean())
    assert table.loc["ours_x", "hd95 mean"] == pytest.approx(100 * (1 - expected.mean()))
    runs = [mine[mine["run"] == run]["dice"].mean() for run in ("seed0", "seed1")]
    assert table.loc["ours_x", "dice mean std"] == pytest.approx(np.std(runs, ddof=1))
    assert np.isnan(table.loc["floor", "dice mean std"])
    assert table["runs"].to_dict() == {"floor": 1, "ours_x": 2, "ceiling": 1}
    assert table.loc["ours_x", "missed"] == 1


def test_the_spread_is_over_seeds_not_over_cases_or_folds() -> None:
    rows = [
        {"modality": "lge", "method": "A", "run": f"seed{seed}_fold{fold}", "seed": seed, "case": case}
        | {"structure": structure, "status": "scored"}
        | dict.fromkeys(METRICS, 0.1 * seed + case + fold)
        for seed in (0, 1, 2)
        for fold in (0, 1)
        for case in (1, 2)
        for structure in ("Myo", "LV")
    ]
    columns = [f"{metric} {structure} std" for metric in METRICS for structure in ("Myo", "LV", "mean")]
    np.testing.assert_allclose(compare(pd.DataFrame(rows), ["A"], Roles())[columns], 0.1)
    assert compare(pd.DataFrame(rows[:8]), ["A"], Roles())[columns].isna().all(axis=None)


def test_the_gap(scores: pd.DataFrame) -> None:
    table = compare(scores, METHODS, ROLES).set_index("method")
    low, ours, high = (table.loc[name, "dice mean"] for name in METHODS)
    assert table["gap closed"].tolist() == pytest.approx([0, (ours - low) / (high - low), 1])
    assert gap_closed(0.2, 0.4, 0.8) == -0.5
    assert np.isnan(gap_closed(0.5, 0.8, 0.8))
    assert np.isnan(gap_closed(0.5, 0.8, 0.7))
    assert compare(scores, METHODS, ROLES, ["T2"])["gap closed"].isna().all()
    assert compare(scores, METHODS, ROLES, ["LGE"])["gap closed"].notna().all()


def test_p_counts_the_signs_of_all_permutations() -> None:
    """Exact two-sided signed-rank test, by listing every assignment of signs."""
    generator = np.random.default_rng(3)
    ours, theirs = generator.random(7) + 0.2, generator.random(7)
    difference = ours - theirs
    ranks = np.abs(difference).argsort().argsort() + 1
    observed = min(ranks[difference > 0].sum(), ranks[difference < 0].sum())
    sums = [
        min(
            sum(r for r, s in zip(ranks, signs, strict=True) if s),
            sum(r for r, s in zip(ranks, signs, strict=True) if not s),
        )
        for signs in itertools.product((0, 1), repeat=7)
    ]
    assert paired_p(ours, theirs) == pytest.approx(np.mean(np.array(sums) <= observed))
    assert paired_p(ours, ours) == 1


def test_tests_are_paired_by_case_whatever_the_order_of_the_rows(scores: pd.DataFrame) -> None:
    table, shuffled = (
        compare(s, METHODS, ROLES).set_index("method") for s in (scores, scores.sample(frac=1, random_state=0))
    )
    assert table.loc["ours_x", "p"] == shuffled.loc["ours_x", "p"]
    assert np.isnan(table.loc["floor", "p"])
    assert table.loc["ceiling", "p"] == pytest.approx(2 / 2**6)


def test_an_absent_structure_enters_no_mean(scores: pd.DataFrame) -> None:
    numbers = ["dice", "hd95", "assd", "nsd"]
    gone = (scores["case"] == "p1") & (scores["structure"] == "LV")
    scores.loc[gone, numbers] = np.nan
    scores.loc[gone, "status"] = "absent"
    table = compare(scores, METHODS, ROLES).set_index("method")
    kept = scores[(scores["method"] == "floor") & (scores["structure"] == "LV")]["dice"]
    assert kept.count() == 5
    assert table.loc["floor", "dice LV"] == pytest.approx(kept.mean())
    assert table.loc["ceiling", "dice mean"] == pytest.approx((5 * 0.925 + 0.9) / 6)


def test_methods_on_other_cases_and_unknown_roles_are_refused(scores: pd.DataFrame) -> None:
    with pytest.raises(CrossmodError, match="different LGE cases"):
        compare(scores[(scores["method"] != "ours_x") | (scores["case"] != "p2")], METHODS, ROLES)
    with pytest.raises(CrossmodError, match=r"--against .best. is not among the rows"):
        compare(scores, METHODS, Roles(against="best"))


def test_modalities_have_tables_of_their_own(scores: pd.DataFrame) -> None:
    third = scores.assign(modality="T2", dice=scores["dice"] / 5)
    table = compare(pd.concat([scores, third]), METHODS, ROLES)
    assert len(table) == 6
    assert shown(table, "LGE")["Dice mean"][2].startswith("0.925")
    assert shown(table, "T2")["Dice mean"][2].startswith("0.185")


def test_formats(scores: pd.DataFrame) -> None:
    text = shown(compare(scores, METHODS, ROLES), "LGE")
    assert text["gap closed"].tolist()[0::2] == ["0 %", "100 %"]
    assert text["Myo"][2] == "0.900"
    assert re.fullmatch(r"0\.\d{3} ± 0\.\d{3}", text["Myo"][1])
    markdown = to_markdown(text).splitlines()
    assert len(markdown) == 2 + 3
    assert len({line.count("|") for line in markdown}) == 1
    latex = to_latex(text, "50 % of A_B")
    assert r"ours\_x" in latex
    assert r"$\pm$" in latex
    assert r"\caption{50 \% of A\_B}" in latex
    assert {line.count(" & ") for line in latex.splitlines() if line.endswith(r"\\")} == {len(text.columns) - 1}


def test_what_says_nothing_has_no_column(scores: pd.DataFrame) -> None:
    one = scores[(scores["method"] == "floor")]
    text = shown(compare(one, ["floor"], Roles("floor", None, "floor")), "LGE")
    assert not {"gap closed", "p"} & set(text.columns)
