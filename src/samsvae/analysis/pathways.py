"""Whether masks tell pathways apart: a random forest from mask to annotated pathway."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import pandas as pd

from samsvae.errors import InputError, check_count, check_range, listed
from samsvae.settings.arguments import checked

Annotation: TypeAlias = (
    pd.Series | pd.DataFrame | Mapping[str, str] | Mapping[str, Collection[str]] | str | os.PathLike
)
"""Which pathway each perturbation is in, see `pathway_score`."""
COLUMNS = ["perturbation", "pathway"]


class Shifting(Protocol):
    """What is asked of the model."""

    is_trained: bool

    def mask_probabilities(self) -> pd.DataFrame: ...

    def embeddings(self) -> pd.DataFrame: ...


@checked
def pathway_score(
    model: Shifting,
    annotation: Annotation,
    *,
    n_repeats: int = 10,
    test_share: float = 0.3,
    min_size: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Return how well a random forest names the pathway of a perturbation from its mask.

    The forest (scikit-learn's, with its defaults) is fitted to some annotated perturbations and
    scored on the others, on repeated random splits that keep the shares of the pathways.

    Parameters
    ----------
    model
        A trained model that displaces cells in latent space. For CPA-VAE, whose mask is all ones,
        the mask says nothing.
    annotation
        From perturbation to pathway: a Series (index: perturbations), a DataFrame (columns
        "perturbation" and "pathway", or two columns in that order), a mapping whose values are all
        strings; from pathway to perturbations: a mapping whose values are all lists, or the path of
        a GMT file, see `read_gmt`. A perturbation in several pathways is ambiguous and left out, as
        are those never seen in training; those that the model does not know are ignored.
    n_repeats
        Number of splits.
    test_share
        Share of the perturbations that are scored.
    min_size
        Pathways of fewer perturbations than this are left out.
    seed
        Same seed, same numbers.

    Returns
    -------
    accuracy (mean over the splits) and sd (over the splits) of each predictor, all on the same
    splits: "mask", the forest on the mask (posterior probability > 1/2); "embedding", on the
    posterior means of the embeddings; "permuted", on the mask with permuted pathways: chance;
    "majority", always the largest pathway. In `.attrs` are the numbers of perturbations and
    pathways used (n_perturbations, n_pathways), and of perturbations left out: n_unknown, n_unseen,
    n_ambiguous, and n_small in n_small_pathways small pathways.

    Raises
    ------
    InputError
        If the model is not trained or displaces nothing in latent space (conditional VAE), or the
        annotation cannot be used: it is not of these kinds, or leaves fewer than two pathways, or
        too few perturbations for the splits.

    References
    ----------
    Bereket, Karaletsos, NeurIPS 2023: 70/30 splits, repeated 10 times.

    Examples
    --------
    >>> import samsvae
    >>> screen = samsvae.datasets.simulated_screen(n_perturbations=12, n_combinations=0, n_genes=20)
    >>> model = samsvae.CPAVAE(screen, n_latent=4, n_hidden=8).train(max_steps=5, progress=False)
    >>> pathway = {f"G{i + 1:02d}": "first" if i < 6 else "second" for i in range(12)}
    >>> table = pathway_score(model, pathway, n_repeats=2)
    >>> list(table.index)
    ['mask', 'embedding', 'permuted', 'majority']
    """
    from sklearn.model_selection import StratifiedShuffleSplit  # not with `import samsvae`

    check_count("n_repeats", n_repeats)
    check_range("test_share", test_share, low=0, high=1, open_=True)
    check_count("min_size", min_size, low=2)
    check_count("seed", seed, low=0)
    if not model.is_trained:
        raise InputError("the model is not trained: call train first")
    probabilities = model.mask_probabilities()
    labels, numbers = _labels(_pairs(annotation), probabilities, min_size)
    _check_splits(labels, test_share)
    mask = (probabilities.loc[labels.index] > 0.5).to_numpy()
    embedding = model.embeddings().loc[labels.index].to_numpy()
    pathways, largest = labels.to_numpy(str), labels.value_counts().index[0]
    rng = np.random.default_rng(seed)
    state = int(rng.integers(2**31))  # scikit-learn takes no larger ones
    splits = StratifiedShuffleSplit(n_repeats, test_size=test_share, random_state=state)
    rows = []
    for train, test in splits.split(mask, pathways):
        permuted = rng.permutation(pathways)
        rows.append(
            {
                "mask": _accuracy(mask, pathways, train, test, state),
                "embedding": _accuracy(embedding, pathways, train, test, state),
                "permuted": _accuracy(mask, permuted, train, test, state),
                "majority": float(np.mean(pathways[test] == largest)),
            }
        )
    repeats = pd.DataFrame(rows)
    table = pd.DataFrame({"accuracy": repeats.mean(), "sd": repeats.std()})
    table.attrs |= numbers
    return table.rename_axis("predictor")


@checked
def read_gmt(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Read gene sets: from the name of each pathway to its perturbations.

    A line of a GMT file is a name, a description and the genes, separated by tabs.

    Parameters
    ----------
    path
        The file, such as MSigDB offers.

    Raises
    ------
    InputError
        If there is no such file, it is not text, a line is not of this form, or a name comes twice.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no file {str(path)!r}: expected a GMT file of pathways")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read as text: {error}; expected a GMT file, unpacked"
        ) from error
    sets: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, *rest = (field.strip() for field in line.split("\t"))
        genes = [gene for gene in rest[1:] if gene]
        if not (name and genes):
            raise InputError(
                f"line {number} of {str(path)!r} has {len(rest) + 1} fields: expected a name, a "
                "description and genes, separated by tabs"
            )
        if name in sets:
            raise InputError(
                f"line {number} of {str(path)!r} names {name!r} again: expected each pathway once"
            )
        sets[name] = genes
    if not sets:
        raise InputError(f"{str(path)!r} is empty: expected a GMT file of pathways")
    return sets


def _pairs(annotation: Annotation) -> pd.DataFrame:
    """Return an annotation of any kind as perturbation and pathway, each pair once."""
    if isinstance(annotation, str | os.PathLike):
        annotation = read_gmt(annotation)
    if isinstance(annotation, pd.DataFrame):
        named = set(COLUMNS) <= set(annotation)
        if not named and annotation.shape[1] != 2:
            raise InputError(
                f"the annotation has the columns {listed(annotation)}: expected 'perturbation' and "
                "'pathway', or two columns in that order"
            )
        pairs = (annotation[COLUMNS] if named else annotation).to_numpy().tolist()
    elif isinstance(annotation, pd.Series):
        pairs = list(annotation.items())
    elif isinstance(annotation, Mapping):
        pairs = _items(annotation)
    else:
        raise InputError(
            f"the annotation is a {type(annotation).__name__}: expected a Series, a DataFrame, a "
            "mapping or the path of a GMT file"
        )
    return pd.DataFrame(pairs, columns=COLUMNS).dropna().astype(str).drop_duplicates()


def _items(annotation: Mapping[str, str] | Mapping[str, Collection[str]]) -> list[tuple[str, str]]:
    """Return perturbation and pathway: the values are pathways if strings, else perturbations."""
    text = {name for name, value in annotation.items() if isinstance(value, str)}
    if len(text) == len(annotation):
        return [(name, str(pathway)) for name, pathway in annotation.items()]
    if text or not all(isinstance(value, Collection) for value in annotation.values()):
        kinds = sorted({type(value).__name__ for value in annotation.values()})
        raise InputError(
            f"the annotation's values are {' and '.join(kinds)}: expected strings, the pathway of "
            "each perturbation, or lists, the perturbations of each pathway"
        )
    return [(member, pathway) for pathway, members in annotation.items() for member in members]


def _labels(
    pairs: pd.DataFrame, probabilities: pd.DataFrame, min_size: int
) -> tuple[pd.Series, dict[str, int]]:
    """Return the pathway of each perturbation that can be used, sorted; and the numbers."""
    known = pairs[pairs["perturbation"].isin(probabilities.index)]
    seen = known[known["perturbation"].isin(probabilities.dropna().index)]
    clear = seen[~seen["perturbation"].duplicated(keep=False)]
    labels = clear.set_index("perturbation")["pathway"].sort_index()
    used = labels[labels.map(labels.value_counts()) >= min_size]
    n_all, n_known, n_seen = (t["perturbation"].nunique() for t in (pairs, known, seen))
    numbers = {
        "n_perturbations": len(used),
        "n_pathways": used.nunique(),
        "n_unknown": n_all - n_known,
        "n_unseen": n_known - n_seen,
        "n_ambiguous": n_seen - len(labels),
        "n_small": len(labels) - len(used),
        "n_small_pathways": labels.nunique() - used.nunique(),
    }
    if used.nunique() < 2:
        raise InputError(
            f"{numbers['n_pathways']} pathways have {min_size} perturbations or more, expected at "
            f"least two: of {n_all} perturbations the model does not know {numbers['n_unknown']} "
            f"(it knows {listed(probabilities.index, 3)}), {numbers['n_unseen']} were not seen in "
            f"training, {numbers['n_ambiguous']} are in several pathways"
        )
    return used, numbers


def _check_splits(labels: pd.Series, test_share: float) -> None:
    n_test = math.ceil(test_share * len(labels))
    if min(n_test, len(labels) - n_test) < labels.nunique():
        raise InputError(
            f"with test_share {test_share:g} {n_test} of {len(labels)} perturbations are scored: "
            f"expected one of each of the {labels.nunique()} pathways at least, on either side; "
            "change test_share, or raise min_size"
        )


def _accuracy(
    features: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, state: int
) -> float:
    """Return the accuracy on test perturbations of a forest fitted to the training ones."""
    from sklearn.ensemble import RandomForestClassifier  # not with `import samsvae`

    forest = RandomForestClassifier(random_state=state).fit(features[train], labels[train])
    return float(forest.score(features[test], labels[test]))
