"""Scores of a bare map or mask: their statistics computed here, as a capture's reader computes them."""

import numpy as np

from ssmlens.scores import diagonal, mask, receptive_field, retrieval, sink
from ssmlens.scores import statistics as of


def mask_ones(attention_mask):
    return mask.mask_ones(of.mask_row_sum(attention_mask))


def memory_length(attention_mask):
    return mask.memory_length(of.mask_row_sum(attention_mask))


def lag_energy(attention_map):
    return diagonal.without_longest(of.energy_by_lag(attention_map))


def diagonal_sharpness(attention_map, first_lag=1, looks_ahead=False):
    ahead = of.energy_by_lag(attention_map.T) if looks_ahead else None
    return diagonal.diagonal_sharpness(of.energy_by_lag(attention_map), first_lag, ahead)


def target_share(attention_map, target):
    on_target = of.target_magnitude(attention_map, target)
    return retrieval.target_share(on_target, of.row_magnitude(attention_map), target)


def reach_of(attention_map):
    return receptive_field.receptive_field(of.reach(attention_map))


def sink_share(attention_map, separator=None):
    separator = np.zeros(len(attention_map), bool) if separator is None else separator
    on_separators = of.separator_magnitude(attention_map, separator)
    magnitude = of.row_magnitude(attention_map)
    return sink.sink(of.first_magnitude(attention_map), on_separators, magnitude)


def separator_share(attention_map, separator):
    on_separators = of.separator_magnitude(attention_map, separator)
    return sink.separator_sink(on_separators, of.row_magnitude(attention_map))
