"""What speaks against the answers of a trained model: its training, and the cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from samsvae.data.cautions import COMPOSITION, Caution, cautions_of_cells, named
from samsvae.data.names import NameRegistry
from samsvae.data.screen import Screen
from samsvae.errors import InputError
from samsvae.estimators.consistency import consistency
from samsvae.estimators.mechanisms import IN_USE, LatentSpace, movers_of
from samsvae.estimators.trained import TrainedModel
from samsvae.settings.arguments import checked

_OVERFITTED = 1.0
"""Nats per cell that the validation ELBO has fallen from its best."""


class Cautions:
    """Reasons to doubt the answers of a trained model."""

    def __init__(self, model: TrainedModel) -> None:
        self.model, self.metadata = model, model.metadata

    @checked
    def cautions(self, screen: Screen | None = None) -> pd.DataFrame:
        """Return reasons to doubt the answers, the serious ones first.

        Of training: whether it ended, overfitted, or had no validation cells. Of the cells: library
        sizes and compositions that perturbations change, columns of `obs` that the model is not
        told and in which conditions differ from control, few cells, replicates that are not known,
        doublet-like cells, combinations whose parts are not told apart. What cannot be seen in
        counts alone, such as ambient RNA and wrong labels, is in no caution (docs/situations.md).

        Parameters
        ----------
        screen
            The cells; without them only what the model knows is said.

        Returns
        -------
        One row per caution: title, text, is_serious, and conditions, a list of those that it
        concerns, empty where it concerns all. Tables of discoveries have the titles of each
        condition in their column `caution`.

        Examples
        --------
        >>> table = model.cautions(screen)
        >>> list(table.columns)
        ['title', 'text', 'is_serious', 'conditions']
        """
        found = self.found(screen)
        table = pd.DataFrame(found, columns=list(Caution._fields))
        return table.assign(conditions=[list(one.conditions) for one in found])

    def found(self, screen: Screen | None) -> list[Caution]:
        """Return the cautions, the serious ones first."""
        found = [*self._of_training(), *self._of_names()]
        if screen is not None:
            of_cells = cautions_of_cells(self.model.matched(screen))
            found += [*of_cells, *self._of_mechanisms(of_cells), *self._of_members(screen)]
        return sorted(found, key=lambda caution: not caution.is_serious)

    def _of_training(self) -> Iterator[Caution]:
        history = self.model.history
        if "is_best" not in history or history.empty:
            return
        elbo = history.get("valid_elbo", pd.Series(dtype=float))
        if elbo.isna().all():
            yield Caution(
                "No validation cells",
                "Overfitting cannot be detected, what it makes of a perturbation's training cells "
                "may pass for a mechanism, and error rates cannot be learned. Split the screen "
                "with validation cells and train again.",
            )
        is_best = history["is_best"].to_numpy(bool)
        if is_best[-1] and elbo.notna().any():
            yield Caution(
                "Still improving",
                "The last validation ELBO is the best one: training ended before the model had "
                "learned all it could. Train longer (--max-steps).",
            )
        elif is_best.any():
            best = int(np.flatnonzero(is_best)[-1])
            fall = float(elbo.iloc[best] - elbo.iloc[-1])
            if fall > _OVERFITTED:
                yield Caution(
                    "Overfitting",
                    f"The validation ELBO fell by {fall:.1f} nats per cell after step "
                    f"{int(history['step'].iloc[best]):,}, the step that is kept: the model has "
                    "more freedom than the cells can settle. More cells, or a smaller n_latent and "
                    "n_hidden, may do better.",
                    is_serious=False,
                )
        if (
            self.metadata.spread_of_condition is None
            and "lfc" in self.model.module.likelihood.scales
        ):
            yield Caution(
                "Intervals of effects() are narrow",
                "There were too few validation cells to learn how far effects are from the "
                "model's: its intervals hold the uncertainty of masks and embeddings alone.",
            )

    def _of_names(self) -> Iterator[Caution]:
        """Yield what is said of genes without counts, and of conditions apart from control."""
        unexpressed = np.array(self.metadata.registry.genes)[self.metadata.unexpressed]
        if len(unexpressed):
            yield Caution(
                "Unexpressed genes",
                f"{len(unexpressed):,} genes have no count in any training cell: their effects "
                f"are given as 0, but are not known ({named(list(unexpressed))}).",
                is_serious=len(unexpressed) > len(self.metadata.unexpressed) / 2,
            )
        names = self.metadata.conditions[1:]
        apart = tuple(name for name in names if not self.metadata.is_estimable(name))
        if apart:
            verb = "has" if len(apart) == 1 else "have"
            yield Caution(
                "Confounded with batches",
                f"{len(apart):,} of {len(names):,} conditions ({named(apart)}) {verb} no batch in "
                "common with control cells, directly or through other conditions: their effects "
                "may be those of their batches, and have no interval.",
                conditions=apart,
            )

    def _of_mechanisms(self, of_cells: list[Caution]) -> Iterator[Caution]:
        """Yield mechanisms all of whose members change the composition."""
        changed = {n for one in of_cells if one.title == COMPOSITION for n in one.conditions}
        if not changed:
            return
        try:
            table = LatentSpace(self.model).inclusion()
        except InputError:  # a model without masks
            return
        in_use = table[table["probability"] > IN_USE]
        for dimension, rows in in_use.groupby("dimension", sort=False):
            members = [str(name) for name in movers_of(rows)["perturbation"]]
            if changed.issuperset(members):
                yield Caution(
                    "A mechanism of composition",
                    f"All perturbations of mechanism {dimension} ({named(members)}) change genes "
                    "that hold many of the counts: its loadings may be what that makes of the "
                    "shares of all other genes.",
                    conditions=tuple(members),
                )

    def _of_members(self, screen: Screen) -> Iterator[Caution]:
        """Yield perturbations whose cells do not show what others of their mechanism do."""
        table = consistency(self.model, screen)
        table = table[table["inconsistent"].eq(True)]
        if table.empty:
            return
        pairs = [f"{row.perturbation} in {row.dimension}" for row in table.itertuples()]
        names = tuple(dict.fromkeys(map(str, table["perturbation"])))
        yield Caution(
            "Inconsistent members",
            f"{named(pairs)}: the cells do not show what the other perturbations of the mechanism "
            "do, at the size that the model says (inclusion(screen) has the slopes). They may act "
            "through another mechanism that shares the latent dimension.",
            conditions=names,
        )


def titles_of(
    cautions: Sequence[Caution],
    conditions: Sequence[str],
    registry: NameRegistry,
    has_cells: Iterable[bool],
) -> list[str]:
    """Return the titles of cautions of each condition; without cells, of those of its parts."""
    titles = []
    for name, measured in zip(conditions, has_cells, strict=True):
        own = {registry.stored(name), *(() if measured else registry.singles(name))}
        concerned = (one.title for one in cautions if not own.isdisjoint(one.conditions))
        titles.append("; ".join(dict.fromkeys(concerned)))
    return titles
