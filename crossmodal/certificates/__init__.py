"""PAC-Bayes: bounds on the risk of networks with random weights, as pure functions in double precision.

`gaussians` measures the divergence of a posterior from its prior. `bounds` and `simclr` turn it and a risk into a
bound. `certificate` adds the uncertainty of a finite number of drawn weights and splits the bound into its parts.

Every bound assumes the following, which no function can check: the prior does not depend on the certified examples; the
examples are independent draws (except `bounds.chi_square` with a dependence); their losses are bounded.
"""
