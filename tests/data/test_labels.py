"""Labels as files hold them: control by several names, missing ones, separators inside names."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import samsvae
from helpers.command_line import Call
from samsvae import InputError, Screen
from samsvae.data.labels import looks_like_control
from samsvae.data.names import NameRegistry

take = Screen.from_anndata


def cells(labels: list[Any], **columns: Any) -> AnnData:
    """Return cells with labels in turn, 20 of each."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"perturbation": pd.Series(labels * 20)})
    for name, values in columns.items():
        obs[name] = values * 20
    obs.index = [f"c{i}" for i in range(len(obs))]
    genes = pd.DataFrame(index=[f"g{i}" for i in range(6)])
    counts = sp.csr_matrix(1 + rng.poisson(3, (len(obs), 6)))
    return AnnData(counts, obs=obs, var=genes)


# Control is a set


@pytest.mark.parametrize(
    ("control", "written"),
    [(["NT-1", "safe_1"], "NT-1"), (["NT*", "safe_1"], "safe_1"), (["NT-?", "safe*"], "control")],
)
def test_several_names_and_patterns_of_control(control: list[str], written: str) -> None:
    screen = take(cells(["NT-1", "safe_1", "A", "A+B"]), control=control)
    assert screen.conditions == (written, "A", "A+B")
    assert screen.is_control.sum() == 40
    assert len(screen.of("safe_1")) == len(screen.of("NT-1")) == 40
    assert len(screen.of("A+safe_1")) == 20


def test_control_as_a_part_vanishes_also_twice() -> None:
    screen = take(cells(["NT+NT", "A+NT", "NT+B", "A+B", "NT"]), control="NT")
    assert screen.conditions == ("NT", "A", "A+B", "B")
    assert screen.is_control.sum() == 40


@pytest.mark.parametrize("dose", ["2+1", "2"])
def test_the_dose_of_a_control_part_vanishes_with_it(dose: str) -> None:
    given = cells(["ctrl", "A+ctrl", "A+B"], dose=["1", dose, "2+3"])
    screen = take(given, control="ctrl", dosage_key="dose")
    assert screen.conditions == ("ctrl", "A@2", "A@2+B@3")


def test_brackets_of_a_pattern_stand_for_themselves() -> None:
    screen = take(cells(["NT[1]", "NT1", "A"]), control=["NT[1]", "N?1"])
    assert screen.conditions == ("NT[1]", "A")


def test_further_controls_are_told_once_with_the_option() -> None:
    with pytest.warns() as told:
        screen = take(cells(["control", "AAVS1", "non-targeting_2", "NT5E"]))
    (one,) = told
    assert "'AAVS1', 'non-targeting_2'" in str(one.message)
    assert "control=['control', 'AAVS1', 'non-targeting_2']" in str(one.message)
    assert "NT5E" not in str(one.message)
    assert one.filename == __file__
    assert len(screen.perturbations) == 3


def test_names_that_control_goes_by() -> None:
    alike = "NT NTC NTC_1 non-targeting nontargeting-12 safe-targeting scramble AAVS1 INTERGENIC"
    alike += " INTERGENIC1_22 negctrl NegCtrl10 neg_ctrl_3 luciferase GFP EGFP LacZ DMSO ctrl"
    assert [name for name in alike.split() if not looks_like_control(name)] == []
    genes = "NT5E NTN1 SCRIB LUC7L NEGR1 GFPT1 CTRL1P SAFB INTS1 CTRB1 ROSA1 WT1"
    assert [name for name in genes.split() if looks_like_control(name)] == []


def test_a_perturbation_cannot_be_called_as_control_is() -> None:
    with pytest.raises(InputError, match="'control' is what control is written as here"):
        take(cells(["control", "NT1", "A"]), control="NT*")


@pytest.mark.parametrize(
    ("labels", "control"),
    [([0, 1, 2], 0), ([0.0, 1.0, 2.0], 0), ([0, 1, 2], 0.0), ([0, 1, 2], "0"), (["0", "1"], 0)],
)
def test_labels_of_any_type_match_control_and_what_is_asked(labels: list, control: Any) -> None:
    screen = take(cells(labels), control=control)
    assert screen.conditions[:2] == ("0", "1")
    assert len(screen.of(1)) == len(screen.of(1.0)) == len(screen.of("1")) == 20


def test_a_control_that_is_not_there_is_looked_for() -> None:
    with pytest.raises(InputError, match=r"'NT' may be control: give control='NT' \(--control"):
        take(cells(["NT", "A", "B"]))


@pytest.mark.parametrize(
    "name",
    [
        *("NTC_Safe", "DMSO_TF", "[('DMSO_TF', 0.0, 'uM')]", "PBS", "WT", "no_guide"),
        *("ctrl_iegfp", "wild-type", "no sgRNA", "Untreated", "sgNT rep 2 non-targeting"),
    ],
)
def test_every_error_for_lack_of_control_names_labels_and_the_option(name: str) -> None:
    given = cells([name, "STAT1", "JAK2"], split=["train"] * 3)
    named = rf"{re.escape(repr(name))} may be control: give control=.*--control"
    if looks_like_control(name):
        with pytest.raises(InputError, match=named) as caught:
            take(given)
        assert "'STAT1'" in str(caught.value)
        return
    with pytest.warns(match=named):
        screen = take(given, split_key="split")
    for question in (samsvae.SAMSVAE, samsvae.differential_expression):
        with pytest.raises(InputError, match=f"no control cells .*'STAT1'.*{named}"):
            question(screen)


def test_labels_without_any_sign_of_control_are_named() -> None:
    named = r"expected 'control'; there are 'A', 'B'; give the label of .*--control"
    with pytest.warns(match=named):
        screen = take(cells(["A", "B"]))
    with pytest.raises(InputError, match=named):
        samsvae.differential_expression(screen)


@pytest.mark.filterwarnings("ignore:no cell is control")
def test_a_part_of_most_labels_is_no_name_of_control() -> None:
    labels = [f"{gene}_ctrl" for gene in ("AHR", "BAK1", "CEBPA", "DUSP9", "ETS2")]
    with pytest.raises(InputError, match="give the label of cells without a perturbation"):
        samsvae.differential_expression(take(cells(labels)))


@pytest.mark.parametrize("control", ["", ("",), ["", "safe"]])
@pytest.mark.parametrize("missing", ["", " ", None, np.nan])
def test_cells_without_a_label_are_control_if_it_is_called_so(control: Any, missing: Any) -> None:
    given = cells(["A", "B"])
    given.obs["perturbation"] = given.obs["perturbation"].astype(object)
    given.obs.iloc[:7, 0] = missing
    with warnings.catch_warnings(action="ignore"):  # of spaces
        screen = take(given, control=control)
    name = "safe" if len(control) == 2 else "control"
    assert screen.conditions == (name, "A", "B")
    assert screen.is_control[:7].all()
    assert screen.is_control.sum() == 7
    assert len(screen.of("")) == len(screen.of(name)) == len(screen.of(" ")) == 7
    again = take(screen.to_anndata(), control=name)
    assert again.conditions == screen.conditions


def test_no_label_as_a_part() -> None:
    given = cells(["", "A+", "+B", "A+B"], batch=["", "x", "x", "x"])
    assert take(given, control="").conditions == ("control", "A", "A+B", "B")
    with pytest.raises(InputError, match="separator"):
        take(cells(["control", "A+", "B"]))
    with pytest.raises(InputError, match=r"obs\['batch'\] lacks the batch of 20 of 80"):
        take(given, control="", batch_key="batch")


def test_a_label_called_control_beside_cells_without_one() -> None:
    with pytest.raises(InputError, match="'control' is what control is written as here"):
        take(cells(["", "control", "A"]), control="")


def test_no_label_is_control_at_the_command_line(tmp_path: Path, call: Call, folder: Path) -> None:
    cells(["", "A", "B"]).write_h5ad("empty.h5ad")
    train = "--n-latent 3 --n-hidden 4 --max-steps 2 --no-progress --no-report"
    assert call(f"train empty.h5ad --control '' --batch-key '' --out empty {train}")[::2] == (0, [])
    assert call("discoveries empty empty.h5ad --n-particles 4 --no-progress")[::2] == (0, [])


@pytest.mark.filterwarnings("ignore:perturbations that look like control")
@pytest.mark.parametrize("control", ["what?", ["what?", "N*"], ["N*", "what?"]])
def test_a_control_named_like_a_pattern_is_that_label(control: Any) -> None:
    present = ["what?", "whats", "N*", "NT", "A+what?", "A"]
    screen = take(cells(present), control=control)
    is_plain = control == "what?"
    assert screen.conditions == (
        ("what?", "A", "N*", "NT", "whats") if is_plain else (control[0], "A", "NT", "whats")
    )
    parser = NameRegistry.restored(screen.registry.header()).parser
    assert parser == screen.registry.parser
    assert [name for name in present if parser.is_control(name)] == (
        ["what?"] if is_plain else ["what?", "N*"]
    )
    without = take(cells(["control", "whats", "A"]), control=["control", "what?"])
    assert len(without.of("whats")) == 40  # nothing is called so: it is a pattern


# Missing labels


@pytest.mark.parametrize("text", ["nan", "NaN", "None", "NA", "<NA>", "null", "", " ", None])
@pytest.mark.parametrize("column", ["perturbation", "batch", "split"])
def test_a_missing_label_is_an_error_or_left_out(text: str | None, column: str) -> None:
    given = cells(["control", "A", "B"], batch=["x", "x", "y"], split=["train", "train", "test"])
    given.obs[column] = given.obs[column].astype(object)
    given.obs.iloc[[1, 2, 7], given.obs.columns.get_loc(column)] = text
    keys = {"batch_key": "batch", "split_key": "split"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of spaces
        with pytest.raises(
            InputError, match=rf"obs\['{column}'\] lacks the {column} of 3 of 60 .*drop_unlabelled"
        ):
            take(given, **keys)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        screen = take(given, **keys, drop_unlabelled=True)
    (left_out,) = (str(one.message) for one in told if "spaces" not in str(one.message))
    assert left_out == "3 without a label of 60 cells are left out, 57 are kept"
    assert len(screen) == 57
    assert set(given.obs_names) - set(screen.cells) == {"c1", "c2", "c7"}
    assert screen.perturbations == ("A", "B")
    assert screen.registry.batches == (("x",), ("y",))


def test_control_may_be_called_none() -> None:
    assert take(cells(["None", "A"]), control="None").conditions == ("None", "A")


def test_unlabelled_cells_are_left_out_at_the_command_line(
    tmp_path: Path, call: Call, folder: Path
) -> None:
    cells(["control", "A", "nan"]).write_h5ad("data.h5ad")
    small = "--n-latent 2 --n-hidden 4 --max-steps 2 --no-progress"
    done = call(f"train data.h5ad --out run {small}")
    assert done.code == 2
    assert "lacks the perturbation of 20 of 60 cells" in done.errors[0]
    done = call(f"train data.h5ad --out run --drop-unlabelled {small}")
    assert (done.code, done.errors) == (0, [])
    assert "20 without a label of 60 cells are left out, 40 are kept" in done.notes[0]


def test_several_controls_and_batches_at_the_command_line(call: Call, folder: Path) -> None:
    """As options, in a file of settings, and again when the run is resumed."""
    cells(["NT1", "NT2", "A"], x=["1", "2", "2"], y=["a", "b", "b"]).write_h5ad("data.h5ad")
    keys = "--control NT1 --control NT2 --batch-key x --batch-key y"
    small = "--n-latent 2 --n-hidden 4 --max-steps 2 --no-progress"
    assert call(f"train data.h5ad --out run {keys} {small}").errors == []
    text = (folder / "run" / "config.toml").read_text()
    assert 'control = [\n    "NT1",\n    "NT2",\n]' in text
    assert call(f"train data.h5ad --out run {keys} {small} --resume").errors == []
    (folder / "keys.toml").write_text('control = ["NT1", "NT2"]\nbatch_key = "x"\n')
    assert call(f"train data.h5ad --out other --config keys.toml {small}").errors == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


# Separators


@pytest.mark.parametrize("label", ["(+)-JQ1", "atenolol-(+|-)", "Ca2+", "A++B"])
def test_a_separator_inside_names_is_an_error_with_the_option(label: str) -> None:
    with pytest.raises(InputError, match=r"'\+' stands inside names: .*separator=None"):
        take(cells(["control", "A", "B", label]))
    screen = take(cells(["control", "A", "B", label]), separator=None)
    assert screen.perturbations == tuple(sorted(["A", "B", label]))
    assert len(screen.of(label)) == 20


def test_parts_that_occur_nowhere_else_are_told() -> None:
    with pytest.warns(match="^'tri x\\+di y' is read as combinations .* nowhere else"):
        take(cells(["control", "A", "B", "A+B", "tri x+di y"]))
    take(cells(["control", "A", "B", "A+B", "A+new"]))  # one of its parts is known
    take(cells(["control", "A+B", "C+D", "E+F"]))  # in a screen of pairs none occurs alone


def test_another_separator_is_told() -> None:
    with pytest.warns(match="'A_B' look like combinations joined by '_', .*separator='_'"):
        screen = take(cells(["control", "A", "B", "A_B", "HLA_X"]))
    assert "A_B" in screen.perturbations
    screen = take(cells(["control", "A", "B", "A_B"]), separator="_")
    assert screen.conditions == ("control", "A", "A_B", "B")


def test_a_name_that_holds_the_separator_is_read_back() -> None:
    screen = take(cells(["control", "A+", "B"]), separator=None)
    assert screen.conditions == ("control", "A+", "B")
    assert len(screen.of("A+")) == 20
    with pytest.raises(InputError, match="no perturbation 'A\\+B'"):
        screen.of("A+B")
