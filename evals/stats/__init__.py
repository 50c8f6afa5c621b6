"""Pure statistics for comparing models: arrays in, numbers out, no I/O.

The question is always whether a difference would be there again with other seeds and other items. One comparison
is an array of paired differences, one row a training seed, one column a test item, and both are samples. `crossed`
resamples both and knows how few seeds three are. Resampling seeds alone holds the truth in about 60 of 100 cases where
it promises 95, so it is not offered. How often `crossed` holds it is measured in tests/bench/results/coverage.md.

    means      one estimate: Wilson, t, items in clusters
    crossing   a difference over seeds and items
    ratios     Fieller
    paired     two models on the same items: lost and gained, McNemar, sign flips, effect sizes
    deciding   Holm, non-inferiority and equivalence, what could have been found
    averages   scores centred on chance
    calibration  whether sureness is deserved: ECE, Brier
    sequences  tasks learnt one after the other
"""

from evals.stats.averages import centred
from evals.stats.calibration import brier, ece, softmax
from evals.stats.crossing import DRAWS, Block, Moments, crossed, moments
from evals.stats.deciding import detectable, detectable_accuracy, detectable_by, equivalence, holm, noninferiority
from evals.stats.means import Mean, Ratio, Spread, by_cluster, cluster_mean, t_mean, wilson
from evals.stats.paired import Changes, changes, cohens_d, cohens_h, mcnemar, odds_ratio, sign_flip
from evals.stats.ratios import crossed_ratio, fieller
from evals.stats.sequences import Continual, continual, normalised

__all__ = [
    "DRAWS",
    "Block",
    "Changes",
    "Continual",
    "Mean",
    "Moments",
    "Ratio",
    "Spread",
    "brier",
    "by_cluster",
    "centred",
    "changes",
    "cluster_mean",
    "cohens_d",
    "cohens_h",
    "continual",
    "crossed",
    "crossed_ratio",
    "detectable",
    "detectable_accuracy",
    "detectable_by",
    "ece",
    "equivalence",
    "fieller",
    "holm",
    "mcnemar",
    "moments",
    "noninferiority",
    "normalised",
    "odds_ratio",
    "sign_flip",
    "softmax",
    "t_mean",
    "wilson",
]
