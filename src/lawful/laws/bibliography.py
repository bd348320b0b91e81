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

EQUIVARIANCE = """\
@article{yang2025equivariance,
  title = {An Equivariance Toolbox for Learning Dynamics},
  author = {Yang, Yongyi and Ziyin, Liu},
  year = {2025},
  eprint = {2512.21447},
  archivePrefix = {arXiv}
}
"""

NEURAL_MECHANICS = """\
@inproceedings{kunin2021neural,
  title = {Neural Mechanics: Symmetry and Broken Conservation Laws in Deep Learning Dynamics},
  author = {Kunin, Daniel and Sagastuy-Brena, Javier and Ganguli, Surya and Yamins, Daniel L. K.
    and Tanaka, Hidenori},
  booktitle = {International Conference on Learning Representations},
  year = {2021},
  eprint = {2012.04728},
  archivePrefix = {arXiv}
}
"""

MIRROR = """\
@inproceedings{ziyin2024symmetry,
  title = {Symmetry Induces Structure and Constraint of Learning},
  author = {Ziyin, Liu},
  booktitle = {International Conference on Machine Learning},
  year = {2024},
  eprint = {2309.16932},
  archivePrefix = {arXiv}
}
"""

SYMMETRY_CLASSES = """\
@article{ziyin2025parameter,
  title = {Parameter Symmetry Potentially Unifies Deep Learning Theory},
  author = {Ziyin, Liu and Xu, Yizhou and Poggio, Tomaso and Chuang, Isaac},
  year = {2025},
  eprint = {2502.05300},
  archivePrefix = {arXiv}
}
"""

SSL_LANDSCAPE = """\
@article{ziyin2022shapes,
  title = {What Shapes the Loss Landscape of Self-Supervised Learning?},
  author = {Ziyin, Liu and Lubana, Ekdeep Singh and Ueda, Masahito and Tanaka, Hidenori},
  year = {2022},
  eprint = {2210.00638},
  archivePrefix = {arXiv}
}
"""

POSTERIOR_COLLAPSE = """\
@inproceedings{wang2022posterior,
  title = {Posterior Collapse of a Linear Latent Variable Model},
  author = {Wang, Zihao and Ziyin, Liu},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2022},
  eprint = {2205.04009},
  archivePrefix = {arXiv}
}
"""

ENTROPIC = """\
@inproceedings{ziyin2025entropic,
  title = {Neural Thermodynamics: Entropic Forces in Deep and Universal Representation Learning},
  author = {Ziyin, Liu and Xu, Yizhou and Chuang, Isaac},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2025},
  eprint = {2505.12387},
  archivePrefix = {arXiv}
}
"""

HEBBIAN = """\
@inproceedings{koplow2026hebbian,
  title = {Ubiquity of Emergent Hebbian Dynamics in Regularized Learning},
  author = {Koplow, David and Poggio, Tomaso and Ziyin, Liu},
  booktitle = {International Conference on Machine Learning},
  year = {2026},
  eprint = {2505.18069},
  archivePrefix = {arXiv}
}
"""

NOISE_SCALE = """\
@article{mccandlish2018empirical,
  title = {An Empirical Model of Large-Batch Training},
  author = {McCandlish, Sam and Kaplan, Jared and Amodei, Dario and {OpenAI Dota Team}},
  year = {2018},
  eprint = {1812.06162},
  archivePrefix = {arXiv}
}
"""

LINEAR_SCALING = """\
@article{goyal2017accurate,
  title = {Accurate, Large Minibatch {SGD}: Training {ImageNet} in 1 Hour},
  author = {Goyal, Priya and others},
  year = {2017},
  eprint = {1706.02677},
  archivePrefix = {arXiv}
}
"""

ROOT_SCALING = """\
@inproceedings{malladi2022sdes,
  title = {On the {SDE}s and Scaling Rules for Adaptive Gradient Algorithms},
  author = {Malladi, Sadhika and Lyu, Kaifeng and Panigrahi, Abhishek and Arora, Sanjeev},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2022},
  eprint = {2205.10287},
  archivePrefix = {arXiv}
}
"""

NOISE_EQUILIBRIUM = """\
@inproceedings{ziyin2024noise,
  title = {Parameter Symmetry and Noise Equilibrium of Stochastic Gradient Descent},
  author = {Ziyin, Liu and Wang, Mingze and Li, Hongchao and Wu, Lei},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
  eprint = {2402.07193},
  archivePrefix = {arXiv}
}
"""

MARCOTTE = """\
@inproceedings{marcotte2023abide,
  title = {Abide by the Law and Follow the Flow: Conservation Laws for Gradient Flows},
  author = {Marcotte, Sibylle and Gribonval, R{\\'e}mi and Peyr{\\'e}, Gabriel},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023},
  eprint = {2307.00144},
  archivePrefix = {arXiv}
}
"""

EDGE = """\
@inproceedings{cohen2021gradient,
  title = {Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability},
  author = {Cohen, Jeremy and Kaur, Simran and Li, Yuanzhi and Kolter, J. Zico and
    Talwalkar, Ameet},
  booktitle = {International Conference on Learning Representations},
  year = {2021},
  eprint = {2103.00065},
  archivePrefix = {arXiv}
}
@article{cohen2022adaptive,
  title = {Adaptive Gradient Methods at the Edge of Stability},
  author = {Cohen, Jeremy M. and others},
  year = {2022},
  eprint = {2207.14484},
  archivePrefix = {arXiv}
}
"""

BATCH_EDGE = """\
@article{andreyev2024edge,
  title = {Edge of Stochastic Stability: Revisiting the Edge of Stability for {SGD}},
  author = {Andreyev, Arseniy and Beneventano, Pierfrancesco},
  year = {2024},
  eprint = {2412.20553},
  archivePrefix = {arXiv}
}
"""

STABILISATION = """\
@article{damian2022self,
  title = {Self-Stabilization: The Implicit Bias of Gradient Descent at the Edge of Stability},
  author = {Damian, Alex and Nichani, Eshaan and Lee, Jason D.},
  year = {2022},
  eprint = {2209.15594},
  archivePrefix = {arXiv}
}
@article{cohen2024understanding,
  title = {Understanding Optimization in Deep Learning with Central Flows},
  author = {Cohen, Jeremy M. and Damian, Alex and Talwalkar, Ameet and Kolter, J. Zico and
    Lee, Jason D.},
  year = {2024},
  eprint = {2410.24206},
  archivePrefix = {arXiv}
}
"""

PLATONIC = """\
@article{ziyin2025platonic,
  title = {Proof of a perfect platonic representation hypothesis},
  author = {Ziyin, Liu and Chuang, Isaac},
  year = {2025},
  eprint = {2507.01098},
  archivePrefix = {arXiv}
}
"""

DEEP_LINEAR_MODES = """\
@article{saxe2013exact,
  title = {Exact solutions to the nonlinear dynamics of learning in deep linear neural networks},
  author = {Saxe, Andrew M. and McClelland, James L. and Ganguli, Surya},
  year = {2013},
  eprint = {1312.6120},
  archivePrefix = {arXiv}
}
"""

KERNEL_GENERALISATION = """\
@article{simon2021eigenlearning,
  title = {The Eigenlearning Framework: A Conservation Law Perspective on Kernel Regression and
    Wide Neural Networks},
  author = {Simon, James B. and Dickens, Madeline and Karkada, Dhruva and DeWeese, Michael R.},
  year = {2021},
  eprint = {2110.03922},
  archivePrefix = {arXiv}
}
@article{canatar2021spectral,
  title = {Spectral Bias and Task-Model Alignment Explain Generalization in Kernel Regression and
    Infinitely Wide Neural Networks},
  author = {Canatar, Abdulkadir and Bordelon, Blake and Pehlevan, Cengiz},
  year = {2021},
  eprint = {2006.13198},
  archivePrefix = {arXiv}
}
"""

LAZY = """\
@article{chizat2018lazy,
  title = {On Lazy Training in Differentiable Programming},
  author = {Chizat, Lenaic and Oyallon, Edouard and Bach, Francis},
  year = {2018},
  eprint = {1812.07956},
  archivePrefix = {arXiv}
}
"""

WIDE = """\
@article{jacot2018neural,
  title = {Neural Tangent Kernel: Convergence and Generalization in Neural Networks},
  author = {Jacot, Arthur and Gabriel, Franck and Hongler, Cl{\'e}ment},
  year = {2018},
  eprint = {1806.07572},
  archivePrefix = {arXiv}
}
@article{lee2019wide,
  title = {Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent},
  author = {Lee, Jaehoon and others},
  year = {2019},
  eprint = {1902.06720},
  archivePrefix = {arXiv}
}
"""

DOUBLE_DESCENT = """\
@article{hastie2019surprises,
  title = {Surprises in High-Dimensional Ridgeless Least Squares Interpolation},
  author = {Hastie, Trevor and Montanari, Andrea and Rosset, Saharon and Tibshirani, Ryan J.},
  year = {2019},
  eprint = {1903.08560},
  archivePrefix = {arXiv}
}
"""

CHINCHILLA = """\
@article{hoffmann2022training,
  title = {Training Compute-Optimal Large Language Models},
  author = {Hoffmann, Jordan and Borgeaud, Sebastian and Mensch, Arthur and others},
  year = {2022},
  eprint = {2203.15556},
  archivePrefix = {arXiv}
}
@article{besiroglu2024chinchilla,
  title = {Chinchilla Scaling: A replication attempt},
  author = {Besiroglu, Tamay and Erdil, Ege and Barnett, Matthew and You, Josh},
  year = {2024},
  eprint = {2404.10102},
  archivePrefix = {arXiv}
}
"""

MAXIMAL_UPDATE = """\
@article{yang2022tensor,
  title = {Tensor Programs {V}: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer},
  author = {Yang, Greg and Hu, Edward J. and Babuschkin, Igor and Sidor, Szymon and Liu, Xiaodong
    and Farhi, David and Ryder, Nick and Pachocki, Jakub and Chen, Weizhu and Gao, Jianfeng},
  year = {2022},
  eprint = {2203.03466},
  archivePrefix = {arXiv}
}
"""

GROKKING = """\
@inproceedings{nanda2023progress,
  title = {Progress measures for grokking via mechanistic interpretability},
  author = {Nanda, Neel and Chan, Lawrence and Lieberum, Tom and Smith, Jess and Steinhardt, Jacob},
  booktitle = {International Conference on Learning Representations},
  year = {2023},
  eprint = {2301.05217},
  archivePrefix = {arXiv}
}
@article{kumar2023grokking,
  title = {Grokking as the Transition from Lazy to Rich Training Dynamics},
  author = {Kumar, Tanishq and Bordelon, Blake and Gershman, Samuel J. and Pehlevan, Cengiz},
  year = {2023},
  eprint = {2310.06110},
  archivePrefix = {arXiv}
}
"""

CONNECTIVITY = """\
@inproceedings{ainsworth2023git,
  title = {Git Re-Basin: Merging Models modulo Permutation Symmetries},
  author = {Ainsworth, Samuel K. and Hayase, Jonathan and Srinivasa, Siddhartha},
  booktitle = {International Conference on Learning Representations},
  year = {2023},
  eprint = {2209.04836},
  archivePrefix = {arXiv}
}
"""

DATA_SPECTRA = """\
@article{stringer2019high,
  title = {High-dimensional geometry of population responses in visual cortex},
  author = {Stringer, Carsen and Pachitariu, Marius and Steinmetz, Nicholas and Carandini, Matteo
    and Harris, Kenneth D.},
  journal = {Nature},
  volume = {571},
  pages = {361--365},
  year = {2019}
}
"""
