"""PAC-Bayes: bounds on the risk of networks whose weights are drawn, as pure functions in double precision.

`gaussians` measures how far a posterior went from its prior, `bounds` and `simclr` turn that and a risk into a bound,
`certificate` adds what a finite number of drawn weights leaves unknown, and says where the bound's mass comes from.

What every bound rests on, and no function can check: the prior does not depend on the examples that are certified;
the examples are independent draws (but for `bounds.chi_square` with a dependence); their losses are bounded.
"""
