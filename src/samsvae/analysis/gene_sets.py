"""Gene sets: enrichment in lists of genes, and prediction of pathways from masks."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from typing import Protocol, TypeAlias

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, hypergeom, mannwhitneyu

from samsvae._deprecated import renamed_arguments
from samsvae.errors import InputError, check_unique, listed, unknown
from samsvae.settings.arguments import Count, Natural, Probability, Several, checked
from samsvae.storage.files import expanded

Annotation: TypeAlias = (
    pd.Series | pd.DataFrame | Mapping[str, str] | Mapping[str, Collection[str]] | str | os.PathLike
)
"""The pathway of each perturbation, see `pathway_score`."""
_COLUMNS = ["perturbation", "pathway"]


@renamed_arguments(rate="fdr")
@checked
def enrichment(
    table: pd.DataFrame,
    gene_sets: str | os.PathLike[str] | Mapping[str, Collection[str]],
    *,
    score: str = "estimate",
    fdr: float = 0.05,
    min_size: int = 5,
) -> pd.DataFrame:
    """Return which gene sets are enriched among the genes that a table calls, or ranks high.

    The background is the genes of the table: of a set, only genes that the screen measures count.

    Parameters
    ----------
    table, score
        With a column "gene" and one of signed scores, by which genes are ranked, as
        `samsvae.discoveries` gives. With a column "condition" each is tested on its own.
    gene_sets, min_size
        A GMT file, or genes by the name of their set; sets with fewer measured genes are left out.
    fdr
        Genes with a `q_value` below it are called, if the table has that column.

    Returns
    -------
    One row per condition and set, the smallest p value first: `n_genes` of the set that are
    measured, `n_called` of them, `expected` by chance, `p_hypergeometric` (as many called or more;
    NaN without called genes), `direction` (of the set's scores against the others': +1 or -1),
    `p_rank` (Mann-Whitney, two-sided), and q values of both, Benjamini-Hochberg by condition.

    Raises
    ------
    InputError
        If a column is missing or holds no numbers, a gene occurs twice, or no set has enough
        measured genes.

    Examples
    --------
    >>> genes = [f"g{i}" for i in range(20)]
    >>> scores = [5.0, 4.0, 6.0, 5.5, 4.5] + [0.1 * i for i in range(15)]
    >>> table = pd.DataFrame({"gene": genes, "estimate": scores, "q_value": 0.9})
    >>> table.loc[:4, "q_value"] = 0.01
    >>> sets = enrichment(table, {"first": genes[:5], "others": genes[5:]})
    >>> sets["gene_set"][0], int(sets["n_called"][0]), bool(sets["q_rank"][0] < 0.01)
    ('first', 5, True)
    """
    need_columns(table, "gene", score)
    if not pd.api.types.is_numeric_dtype(table[score]):
        raise InputError(f"the column {score!r} holds {table[score].dtype}: expected numbers")
    sets = gene_sets if isinstance(gene_sets, Mapping) else read_gmt(gene_sets)
    if "condition" not in table.columns:
        return _enriched_sets(table, sets, score, fdr, min_size)
    parts = [
        _enriched_sets(rows, sets, score, fdr, min_size).assign(condition=name)
        for name, rows in table.groupby("condition", observed=True, sort=False)
    ]
    whole = pd.concat(parts, ignore_index=True)
    return whole[["condition", *whole.columns.drop("condition")]]


def _enriched_sets(
    table: pd.DataFrame,
    sets: Mapping[str, Collection[str]],
    score: str,
    fdr: float,
    min_size: int,
) -> pd.DataFrame:
    """Return the sets of one condition."""
    genes = pd.Index(table["gene"].astype(str))
    check_unique(genes, "genes", "expected one row of the table per condition and gene")
    values = table[score].to_numpy(float)
    called = (table.get("q_value", pd.Series(1.0, table.index)) < fdr).to_numpy()
    members = {name: genes.isin([str(gene) for gene in some]) for name, some in sets.items()}
    large = {name: inside for name, inside in members.items() if inside.sum() >= min_size}
    if not large:
        raise InputError(
            f"none of {len(sets)} gene sets has {min_size} of the {len(genes)} genes, such as "
            f"{listed(genes, 3)}: expected sets of the same gene names"
        )
    tests = pd.DataFrame(
        {"gene_set": name, **_tests(inside, called, values)} for name, inside in large.items()
    )
    for name in ("hypergeometric", "rank"):
        tests[f"q_{name}"] = adjusted(tests[f"p_{name}"])
    return tests.sort_values(["p_rank", "p_hypergeometric"], kind="stable", ignore_index=True)


def need_columns(table: pd.DataFrame, *names: str) -> None:
    """Raise unless a table has some columns."""
    for name in names:
        if name not in table.columns:
            raise unknown("column of the table:", name, list(table.columns))


def adjusted(p: pd.Series) -> pd.Series:
    """Return q values by Benjamini and Hochberg; NaN where there is no p value."""
    tested = p.dropna().astype(float)
    return pd.Series(false_discovery_control(tested), tested.index, float).reindex(p.index)


def _tests(inside: np.ndarray, called: np.ndarray, values: np.ndarray) -> dict[str, object]:
    """Return whether genes inside a set are called, and ranked, other than those outside."""
    n, n_called = int(inside.sum()), int((inside & called).sum())
    p_called = np.nan
    if called.any():
        p_called = hypergeom.sf(n_called - 1, len(called), int(called.sum()), n)
    direction, p_rank = 0, np.nan
    own, others = (values[some & np.isfinite(values)] for some in (inside, ~inside))
    if len(own) and len(others):
        test = mannwhitneyu(own, others)
        direction = int(np.sign(test.statistic - len(own) * len(others) / 2))
        p_rank = test.pvalue
    return {
        "n_genes": n,
        "n_called": n_called,
        "expected": n * called.mean(),
        "p_hypergeometric": p_called,
        "direction": direction,
        "p_rank": p_rank,
    }


class ModelWithMasks(Protocol):
    """A model with masks and embeddings, or a stand-in."""

    is_trained: bool

    def mask_probabilities(self) -> pd.DataFrame: ...

    def embeddings(self) -> pd.DataFrame: ...


@checked
def pathway_score(
    model: ModelWithMasks,
    annotation: Annotation,
    *,
    n_repeats: Count = 10,
    test_share: Probability = 0.3,
    min_size: Several = 3,
    seed: Natural = 0,
) -> pd.DataFrame:
    """Return how well a random forest predicts the pathway of a perturbation from its mask.

    The forest (of scikit-learn, with its defaults) is fitted to some annotated perturbations and
    scored on the others, in repeated random splits stratified by pathway.

    Parameters
    ----------
    model
        A trained model that displaces cells in latent space.
    annotation
        From perturbation to pathway: a Series (index: perturbations), a DataFrame (columns
        "perturbation" and "pathway", or two columns in that order), a mapping to strings; from
        pathway to perturbations: a mapping to lists, or the path of a GMT file. Perturbations in
        several pathways or never seen in training are left out.
    n_repeats, test_share
        Number of splits, and the share of the perturbations that are scored in each.
    min_size, seed
        Pathways of fewer perturbations are left out; same seed, same numbers.

    Returns
    -------
    accuracy (mean over the splits) and sd (over the splits) of each predictor: "mask", the forest
    on the mask (posterior probability > 1/2); "embedding", on the posterior means of the
    embeddings; "permuted", on the mask with permuted pathways: chance; "majority", always the
    largest pathway. `.attrs` counts perturbations and pathways used (n_perturbations, n_pathways),
    and perturbations left out: n_unknown, n_unseen, n_ambiguous, and n_small in n_small_pathways.

    Raises
    ------
    InputError
        If the model is not trained or displaces nothing in latent space (conditional VAE), or the
        annotation is not of these kinds, or leaves fewer than two pathways, or too few
        perturbations for the splits.

    References
    ----------
    Bereket, Karaletsos, NeurIPS 2023: 70/30 splits, repeated 10 times.

    Examples
    --------
    >>> screen = samsvae.datasets.simulated_screen(n_perturbations=12, n_combinations=0, n_genes=20)
    >>> model = samsvae.CPAVAE(screen, n_latent=4, n_hidden=8).train(max_steps=5, progress=False)
    >>> pathway = {f"G{i + 1:02d}": "first" if i < 6 else "second" for i in range(12)}
    >>> table = pathway_score(model, pathway, n_repeats=2)
    >>> list(table.index)
    ['mask', 'embedding', 'permuted', 'majority']
    """
    from sklearn.model_selection import StratifiedShuffleSplit  # not with `import samsvae`

    if not model.is_trained:
        raise InputError("the model is not trained: call train first")
    probabilities = model.mask_probabilities()
    labels, numbers = _labels(_pairs(annotation), probabilities, min_size)
    n_test = math.ceil(test_share * len(labels))
    if min(n_test, len(labels) - n_test) < labels.nunique():
        raise InputError(
            f"with test_share {test_share:g} {n_test} of {len(labels)} perturbations are scored: "
            f"expected one of each of the {labels.nunique()} pathways at least, on either side; "
            "change test_share, or raise min_size"
        )
    mask = (probabilities.loc[labels.index] > 0.5).to_numpy()
    embedding = model.embeddings().loc[labels.index].to_numpy()
    pathways, largest = labels.to_numpy(str), labels.value_counts().index[0]
    rng = np.random.default_rng(seed)
    state = int(rng.integers(2**31))  # scikit-learn takes no larger ones
    splits = StratifiedShuffleSplit(n_repeats, test_size=test_share, random_state=state)
    repeats = pd.DataFrame(
        {
            "mask": _accuracy(mask, pathways, train, test, state),
            "embedding": _accuracy(embedding, pathways, train, test, state),
            "permuted": _accuracy(mask, rng.permutation(pathways), train, test, state),
            "majority": float(np.mean(pathways[test] == largest)),
        }
        for train, test in splits.split(mask, pathways)
    )
    table = pd.DataFrame({"accuracy": repeats.mean(), "sd": repeats.std()})
    table.attrs |= numbers
    return table.rename_axis("predictor")


@checked
def read_gmt(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Read gene sets: from the name of each pathway to its perturbations.

    A line of a GMT file, as MSigDB offers them, is a name, a description and the genes, separated
    by tabs; a line of another form, or a name that comes twice, is an error.
    """
    path = expanded(path)
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
        is_named = set(_COLUMNS) <= set(annotation)
        if not is_named and annotation.shape[1] != 2:
            raise InputError(
                f"the annotation has the columns {listed(annotation)}: expected 'perturbation' and "
                "'pathway', or two columns in that order"
            )
        pairs = (annotation[_COLUMNS] if is_named else annotation).to_numpy().tolist()
    elif isinstance(annotation, pd.Series) or all(isinstance(v, str) for v in annotation.values()):
        pairs = list(annotation.items())
    elif all(isinstance(v, Collection) and not isinstance(v, str) for v in annotation.values()):
        pairs = [(one, pathway) for pathway, some in annotation.items() for one in some]
    else:
        kinds = sorted({type(value).__name__ for value in annotation.values()})
        raise InputError(
            f"the annotation's values are {' and '.join(kinds)}: expected strings, the pathway of "
            "each perturbation, or lists, the perturbations of each pathway"
        )
    return pd.DataFrame(pairs, columns=_COLUMNS).dropna().astype(str).drop_duplicates()


def _labels(
    pairs: pd.DataFrame, probabilities: pd.DataFrame, min_size: int
) -> tuple[pd.Series, dict[str, int]]:
    """Return the pathway of each perturbation that can be used, and counts of the others."""
    in_model = pairs[pairs["perturbation"].isin(probabilities.index)]
    seen = in_model[in_model["perturbation"].isin(probabilities.dropna().index)]
    unambiguous = seen[~seen["perturbation"].duplicated(keep=False)]
    labels = unambiguous.set_index("perturbation")["pathway"].sort_index()
    used = labels[labels.map(labels.value_counts()) >= min_size]
    n_all, n_known, n_seen = (t["perturbation"].nunique() for t in (pairs, in_model, seen))
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


def _accuracy(
    features: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, state: int
) -> float:
    """Return the accuracy on test perturbations of a forest fitted to the training ones."""
    from sklearn.ensemble import RandomForestClassifier  # not with `import samsvae`

    forest = RandomForestClassifier(random_state=state).fit(features[train], labels[train])
    return float(forest.score(features[test], labels[test]))
