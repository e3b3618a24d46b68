"""Models that predict a target: classifiers, regressions, segmentation."""
