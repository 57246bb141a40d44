"""The paper's tables, figures and sensitivities for one preset, into one folder."""
