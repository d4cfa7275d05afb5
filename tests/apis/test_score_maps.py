"""Scores in parts against all of them at once."""

import pytest
import torch
import torch.nn.functional as F

from mmseg_escnet.apis.score_maps import ScoreMaps


@pytest.mark.parametrize('probabilities', [True, False])
@pytest.mark.parametrize('words', [1, 2, 3, 7, 8, 9, 11, 16, 19, 27])
def test_parts_make_no_difference(words, probabilities):
    """The best word of every pixel bit by bit; ties go to the first word, as in an argmax."""
    scores = 5 * torch.randn(words, 12, 17)
    if words > 9:
        scores[9] = scores[1]
    if probabilities:
        scores = scores.softmax(dim=0)
    # a view into something larger, as a crop of the padding is
    view = F.pad(scores, (1, 2, 3, 0))[:, 3:, 1:-2]
    maps = ScoreMaps(view, (50, 41), are_probabilities=probabilities, align_corners=False)
    whole = F.interpolate(view[None], (50, 41), mode='bilinear')[0]
    expected = whole if probabilities else whole.softmax(dim=0)

    best = maps.best()
    assert best.ids.equal(whole.argmax(dim=0))
    torch.testing.assert_close(best.scores, expected.amax(dim=0))
    for word in range(words):
        torch.testing.assert_close(maps.of([word], best.normaliser), expected[word])
    torch.testing.assert_close(maps.of(range(words), best.normaliser), best.scores)


def test_far_apart_logits():
    """Where exponentials would overflow or vanish."""
    scores = torch.tensor([-1e4, 1e4, 0.0])[:, None, None].repeat(4, 1, 1)
    best = ScoreMaps(scores, (2, 2), are_probabilities=False, align_corners=False).best()
    assert (best.ids == 1).all()
    torch.testing.assert_close(best.scores, torch.full((2, 2), 0.25))
