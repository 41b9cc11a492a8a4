"""Figures and reports of studies: the paper's Figs. 2 and 3, a calibration figure, one HTML page."""
