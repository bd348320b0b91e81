"""BibTeX of the papers that the laws and their statistics come from."""

FORMATION = """\
@inproceedings{ziyin2025formation,
  title = {Formation of Representations in Neural Networks},
  author = {Ziyin, Liu and Chuang, Isaac and Galanti, Tomer and Poggio, Tomaso},
  booktitle = {International Conference on Learning Representations},
  year = {2025},
  eprint = {2410.03006},
  archivePrefix = {arXiv}
}
"""

CONVERGENCE = """\
@article{boixadsera2025fact,
  title = {The Features at Convergence Theorem: a first-principles alternative to the
    Neural Feature Ansatz for how networks learn representations},
  author = {Boix-Adser{\\`a}, Enric and Mallinar, Neil and Simon, James B. and Belkin, Mikhail},
  year = {2025},
  eprint = {2507.05644},
  archivePrefix = {arXiv}
}
"""

COLLAPSE = """\
@article{papyan2020prevalence,
  title = {Prevalence of neural collapse during the terminal phase of deep learning training},
  author = {Papyan, Vardan and Han, X. Y. and Donoho, David L.},
  journal = {Proceedings of the National Academy of Sciences},
  volume = {117},
  number = {40},
  pages = {24652--24663},
  year = {2020},
  eprint = {2008.08186},
  archivePrefix = {arXiv}
}
"""

FEATURES = """\
@article{radhakrishnan2024mechanism,
  title = {Mechanism for feature learning in neural networks and backpropagation-free machine
    learning models},
  author = {Radhakrishnan, Adityanarayanan and Beaglehole, Daniel and Pandit, Parthe and
    Belkin, Mikhail},
  journal = {Science},
  volume = {383},
  number = {6690},
  pages = {1461--1467},
  year = {2024},
  eprint = {2212.13881},
  archivePrefix = {arXiv}
}
"""

JACKKNIFE = """\
@book{efron1982jackknife,
  title = {The Jackknife, the Bootstrap and Other Resampling Plans},
  author = {Efron, Bradley},
  publisher = {Society for Industrial and Applied Mathematics},
  year = {1982}
}
"""

PERMUTATION = """\
@article{mantel1967detection,
  title = {The detection of disease clustering and a generalized regression approach},
  author = {Mantel, Nathan},
  journal = {Cancer Research},
  volume = {27},
  pages = {209--220},
  year = {1967}
}
"""

RANK_CORRELATION = """\
@article{kendall1938measure,
  title = {A new measure of rank correlation},
  author = {Kendall, Maurice G.},
  journal = {Biometrika},
  volume = {30},
  pages = {81--93},
  year = {1938}
}
"""

BLOCK_BOOTSTRAP = """\
@article{kunsch1989jackknife,
  title = {The jackknife and the bootstrap for general stationary observations},
  author = {K{\\"u}nsch, Hans R.},
  journal = {The Annals of Statistics},
  volume = {17},
  pages = {1217--1241},
  year = {1989}
}
"""
