"""Questions to a trained model, from effects to responders.

Each command checks its output files, opens run and screen, asks, prints and writes. Packages that
it needs are imported when it runs: help is fast without them.
"""

from __future__ import annotations

from pathlib import Path

from samsvae.cli.console import (
    NOTHING,
    Condition,
    Conditions,
    DataPath,
    FilePath,
    Keys,
    RunPath,
    check_output,
    check_outputs,
    console,
    given,
    opened,
    say,
    say_cautions,
    write_rows,
)
from samsvae.settings import questions
from samsvae.settings.fields import Settings, settings_of
from samsvae.settings.screen import ScreenSettings

_NONE_IN_USE = (
    "no latent dimension is in use: no perturbation shifts one with probability above 1/2"
)


def _options(*sources: type) -> Settings:
    return Settings(*sources, questions.OutputSettings, questions.DeviceSettings)


EffectOptions = given(_options(questions.EffectSettings))


def effects(
    run: RunPath,
    /,
    *conditions: Conditions,
    out: Path | None = None,
    settings: EffectOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Predict the effects of conditions on each gene, with their uncertainty.

    Prints the genes that change most, or writes all of them. Conditions need not have been seen in
    training; "@" gives a dose: "drugA@0.5".

    Parameters
    ----------
    out
        File to write: .csv (one row per condition and gene) or .h5ad (conditions x genes).
    """
    from samsvae.cli.tables import effect_table, tidy
    from samsvae.storage.tables import write_csv, write_h5ad

    if out is not None:
        check_output(out, (".csv", ".h5ad"), settings)
    model, _ = opened(run, settings)
    adata = model.effects(
        list(conditions) or None, **settings_of(questions.EffectSettings, settings)
    )
    if out is None:
        for name in adata.obs_names:
            console.print(effect_table(adata[name]))
    else:
        if out.suffix == ".h5ad":
            write_h5ad(out, adata)
        else:
            write_csv(out, tidy(adata))
        say(f"written to {out}")
    say_cautions(model)


SimulationOptions = given(_options(questions.SimulationSettings))


def simulate(
    run: RunPath,
    /,
    *conditions: Conditions,
    out: Path,
    cells: Path | None = None,
    settings: SimulationOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Simulate counts of cells under conditions.

    Parameters
    ----------
    conditions
        Such as KLF1, or "KLF1+CEBPA".
    out
        File to write, .h5ad.
    cells
        A screen: simulate what its cells would have shown under the conditions.
    """
    from samsvae.storage.tables import write_h5ad

    check_output(out, (".h5ad",), settings)
    model, screen = opened(run, settings, cells)
    chosen = settings_of(questions.SimulationSettings, settings)
    adata = model.simulate(list(conditions), cells=screen, **chosen)
    write_h5ad(out, adata)
    say(f"{adata.n_obs:,} cells written to {out}")
    say_cautions(model, screen)


CombinationOptions = given(_options(questions.CombinationSettings))


def combinations(
    run: RunPath,
    data: Path | None = None,
    /,
    *conditions: Conditions,
    out: Path,
    settings: CombinationOptions = NOTHING,  # type: ignore[valid-type]
    keys: Keys = NOTHING,
) -> None:
    """Compare the effects of combinations with the sum of the effects of their parts.

    The table is written part by part: all pairs of hundreds of perturbations fit in memory.

    Parameters
    ----------
    data
        A screen with whose cells predictions are compared; read with the keys of the run.
    conditions
        Such as "KLF1+CEBPA"; by default all pairs.
    out
        File to write, .csv or .parquet, one row per combination and gene.
    """
    from samsvae.analysis.combinations import combinations

    check_outputs(settings, out)
    model, screen = opened(run, settings, data, keys)
    chosen = settings_of(questions.CombinationSettings, settings)
    write_rows(out, combinations(model, screen, list(conditions) or None, **chosen))
    say_cautions(model, screen)


DiscoveryOptions = given(_options(questions.DiscoverySettings, questions.ErrorRateSettings))


def discoveries(
    run: RunPath,
    data: DataPath,
    /,
    *conditions: Conditions,
    out: Path | None = None,
    settings: DiscoveryOptions = NOTHING,  # type: ignore[valid-type]
    keys: Keys = NOTHING,
) -> None:
    """List the genes that each condition changes, with error rates.

    Combines the model and the cells: see docs/discoveries.md. Prints the number of discoveries per
    condition and the most certain genes; --out writes the table.

    Parameters
    ----------
    out
        File to write, one row per condition and gene: .csv, .parquet, or .h5ad (conditions x genes,
        with a layer per number, see samsvae.export.as_anndata).
    """
    from samsvae.analysis.discoveries import discoveries
    from samsvae.cli.tables import discovery_table, error_rates

    fdr = questions.ErrorRateSettings.among(settings).fdr
    check_outputs(settings, out, h5ad=True)
    model, screen = opened(run, settings, data, keys)
    chosen = settings_of(questions.DiscoverySettings, settings)
    table = discoveries(model, screen, list(conditions) or None, **chosen)
    console.print(discovery_table(table))
    say(error_rates(table))
    write_rows(out, [table[table["q_value"] <= fdr]], n_total=len(table))
    say_cautions(model, screen)


ContrastOptions = given(_options(questions.ContrastSettings, questions.ErrorRateSettings))


def contrast(
    run: RunPath,
    data: DataPath,
    condition: Condition,
    against: Condition,
    /,
    *,
    out: Path | None = None,
    settings: ContrastOptions = NOTHING,  # type: ignore[valid-type]
    keys: Keys = NOTHING,
) -> None:
    """List the genes on which two conditions have different effects, with error rates.

    The effect of the first minus that of the second, from the model and the cells together. Prints
    the most certain genes; --out writes the table.

    Parameters
    ----------
    out
        File to write, one row per gene: .csv, .parquet, or .h5ad.
    """
    from samsvae.analysis.contrasts import contrast
    from samsvae.cli.tables import contrast_table, error_rates

    fdr = questions.ErrorRateSettings.among(settings).fdr
    check_outputs(settings, out, h5ad=True)
    model, screen = opened(run, settings, data, keys)
    chosen = settings_of(questions.ContrastSettings, settings)
    table = contrast(model, screen, condition, against, **chosen)
    console.print(contrast_table(table))
    say(error_rates(table))
    write_rows(out, [table[table["q_value"] <= fdr]], n_total=len(table))
    say_cautions(model, screen)


RegulatorOptions = given(_options(questions.DiscoverySettings, questions.RegulatorSettings))


def regulators(
    run: RunPath,
    data: DataPath,
    /,
    *genes: str,
    out: Path | None = None,
    settings: RegulatorOptions = NOTHING,  # type: ignore[valid-type]
    keys: Keys = NOTHING,
) -> None:
    """List the conditions that change a gene, by local false sign rate.

    The same table as of samsvae discoveries, gene by gene. Prints the most certain conditions;
    --out writes the table.

    Parameters
    ----------
    genes
        Their names.
    out
        File to write, one row per gene and condition: .csv, .parquet, or .h5ad
        (conditions x genes).
    """
    from samsvae.analysis.discoveries import discoveries, regulators
    from samsvae.cli.tables import regulator_table
    from samsvae.errors import InputError, unknown

    if not genes:
        raise InputError("no gene is named: expected one or more, such as STAT1, after the data")
    lfsr = questions.RegulatorSettings.among(settings).lfsr
    check_outputs(settings, out, h5ad=True)
    model, screen = opened(run, settings, data, keys)
    for gene in genes:
        if gene not in model.registry.genes:  # before minutes of work
            raise unknown("gene", gene, model.registry.genes)
    table = discoveries(model, screen, **settings_of(questions.DiscoverySettings, settings))
    parts = {gene: regulators(table, gene, lfsr=lfsr) for gene in genes}
    for gene, rows in parts.items():
        console.print(regulator_table(rows, gene))
    write_rows(out, list(parts.values()))
    say_cautions(model, screen)


MechanismOptions = given(_options(questions.MechanismSettings))


def mechanisms(
    run: RunPath,
    /,
    *,
    out: Path | None = None,
    settings: MechanismOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """List the latent dimensions in use, with the perturbations and genes of each.

    Needs no data; see docs/mechanisms.md. Prints the largest shifts and the first genes of each;
    --out writes all of them.

    Parameters
    ----------
    out
        File to write, .csv or .parquet, one row per dimension in use.
    """
    from samsvae.cli.tables import mechanism_table
    from samsvae.export.tables import with_texts

    check_outputs(settings, out)
    model, _ = opened(run, settings)
    table = model.mechanisms(**settings_of(questions.MechanismSettings, settings))
    if len(table):
        console.print(mechanism_table(table))
    else:
        say(_NONE_IN_USE)
    write_rows(out, [with_texts(table).reset_index()])
    say_cautions(model)


SgrnaOptions = given(Settings(questions.SgrnaSettings, questions.OutputSettings))
ScreenKeys = given(Settings(ScreenSettings))


def sgrnas(
    data: FilePath,
    /,
    *conditions: str,
    out: Path | None = None,
    by_condition: Path | None = None,
    settings: SgrnaOptions = NOTHING,  # type: ignore[valid-type]
    keys: ScreenKeys = NOTHING,  # type: ignore[valid-type]
) -> None:
    """Test whether the sgRNAs of each condition agree: which have no effect, or another one.

    From the cells alone, without a model; --sgrna-key names the column of sgRNAs. Prints those that
    are flagged; --out writes all of them.

    Parameters
    ----------
    conditions
        By default all conditions of the data.
    out
        File to write, .csv or .parquet, one row per condition and sgRNA.
    by_condition
        File to write, .csv or .parquet, one row per condition: a test of all its sgRNAs.
    """
    from samsvae.analysis.sgrnas import sgrnas
    from samsvae.cli.tables import sgrna_table
    from samsvae.data.screen import Screen

    check_outputs(settings, out, by_condition)
    screen = Screen.open(data, **keys)
    chosen = settings_of(questions.SgrnaSettings, settings)
    tables = sgrnas(screen, list(conditions) or None, **chosen)
    flagged = tables.sgrnas[tables.sgrnas["flag"] != ""]
    say(f"{len(flagged):,} of {len(tables.sgrnas):,} sgRNAs are flagged")
    if len(flagged):
        console.print(sgrna_table(flagged))
    write_rows(out, [tables.sgrnas])
    write_rows(by_condition, [tables.conditions])


ProgramOptions = given(_options(questions.ProgramSettings))


def programs(
    run: RunPath,
    /,
    *,
    gene_sets: Path | None = None,
    out: Path | None = None,
    enrichment: Path | None = None,
    settings: ProgramOptions = NOTHING,  # type: ignore[valid-type]
) -> None:
    """List the gene programs through which perturbations act.

    For each latent dimension in use: the perturbations that shift it, and the genes that it
    changes. Needs no data. Prints an overview; --out writes the loading of each gene.

    Parameters
    ----------
    gene_sets
        A GMT file of gene sets that are tested for enrichment in the programs.
    out
        File to write, one row per dimension and gene: .csv, .parquet, or .h5ad (dimensions x genes,
        with the perturbations that shift each dimension in obs).
    enrichment
        File to write, .csv or .parquet, one row per dimension and gene set; needs --gene-sets.
    """
    from samsvae.analysis.gene_sets import enrichment as enriched
    from samsvae.cli.tables import program_table
    from samsvae.errors import InputError

    if enrichment is not None and gene_sets is None:
        raise InputError("--enrichment is given without gene sets: expected --gene-sets too")
    check_outputs(settings, out, h5ad=True)
    check_outputs(settings, enrichment)
    model, _ = opened(run, settings)
    table = model.programs(**settings_of(questions.ProgramSettings, settings))
    mechanisms = model.mechanisms()
    if not len(table):
        say(_NONE_IN_USE)
    else:
        console.print(program_table(table, mechanisms))
    write_rows(out, [table], obs=mechanisms)
    if gene_sets is not None and len(table):
        by_dimension = table.rename(columns={"dimension": "condition"})
        sets = enriched(by_dimension, gene_sets, score="loading")
        sets = sets.rename(columns={"condition": "dimension"})
        n_enriched = int((sets["q_rank"] < 0.05).sum())
        say(f"{n_enriched:,} of {len(sets):,} pairs of dimension and gene set at q_rank < 0.05")
        write_rows(enrichment, [sets])
    say_cautions(model)


ResponderOptions = given(_options(questions.ResponderSettings))


def responders(
    run: RunPath,
    data: DataPath,
    /,
    *,
    out: Path | None = None,
    rates: Path | None = None,
    settings: ResponderOptions = NOTHING,  # type: ignore[valid-type]
    keys: Keys = NOTHING,
) -> None:
    """List the cells that respond to their perturbations, and the response rate of each sgRNA.

    For a model that was trained with --learn-responders; by sgRNA with --sgrna-key. Prints the
    share of cells that respond; --out writes the table of cells.

    Parameters
    ----------
    out
        File to write, one row per cell and perturbation that it received: .csv, .parquet, or .h5ad
        (cells x perturbations, with the probability of cells with one perturbation in obs).
    rates
        File to write, .csv or .parquet, one row per perturbation and sgRNA.
    """
    from samsvae.cli.tables import rate_table

    check_outputs(settings, out, h5ad=True)
    check_outputs(settings, rates)
    model, screen = opened(run, settings, data, keys)
    answer = model.responders(screen, **settings_of(questions.ResponderSettings, settings))
    console.print(rate_table(answer.rates))
    write_rows(out, [answer.cells])
    write_rows(rates, [answer.rates])
    say_cautions(model, screen)
