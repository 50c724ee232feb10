from mobo_mpq.problem import Problem
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.strategies.registry import make_strategy
from mobo_mpq.testing.contracts import StrategyContract


class TestMobo(StrategyContract):
    trials = 12  # the model takes over after 6 to 8

    def make(self, problem: Problem, seed: int) -> Strategy:
        return make_strategy("mobo", problem, seed)


class TestMoboWithSensitivities(TestMobo):
    trials = 15  # it begins with more policies
    sensitivity = True


class TestSensitivityFront(StrategyContract):
    sensitivity = True

    def make(self, problem: Problem, seed: int) -> Strategy:
        return make_strategy("sensitivity", problem, seed)


class TestNsga2(StrategyContract):
    trials = 36  # two generations of 16 lie behind the first offspring of the third

    def make(self, problem: Problem, seed: int) -> Strategy:
        return make_strategy("nsga2", problem, seed)


class TestTpe(StrategyContract):
    def make(self, problem: Problem, seed: int) -> Strategy:
        return make_strategy("tpe", problem, seed)


class TestRandom(StrategyContract):
    def make(self, problem: Problem, seed: int) -> Strategy:
        return make_strategy("random", problem, seed)


class TestSobol(StrategyContract):
    def make(self, problem: Problem, seed: int) -> Strategy:
        return make_strategy("sobol", problem, seed)


class TestAmp(StrategyContract):
    sensitivity = True

    def make(self, problem: Problem, seed: int) -> Strategy:
        return make_strategy("amp", problem, seed)


class TestAmpThatSearches(StrategyContract):
    sensitivity = True

    def make(self, problem: Problem, seed: int) -> Strategy:
        return make_strategy("amp", problem, seed, {"search": "interpolation", "drop": 0.02})


class TestAmpWithFewerConversions(StrategyContract):
    sensitivity = True

    def make(self, problem: Problem, seed: int) -> Strategy:
        return make_strategy("amp", problem, seed, {"conversions": "elements"})


class TestHaq(StrategyContract):
    def make(self, problem: Problem, seed: int) -> Strategy:
        return make_strategy("haq", problem, seed, {"warmup": 6, "updates": 0.5})


class TestHaqWithAnAgentForEachBudget(StrategyContract):
    def make(self, problem: Problem, seed: int) -> Strategy:
        return make_strategy("haq", problem, seed, {"agents": "separate", "budgets": 2, "warmup": 3, "updates": 0.5})


class TestHawq(StrategyContract):
    sensitivity = True

    def make(self, problem: Problem, seed: int) -> Strategy:
        return make_strategy("hawq", problem, seed)


class TestOmpq(StrategyContract):
    sensitivity = True

    def make(self, problem: Problem, seed: int) -> Strategy:
        return make_strategy("ompq", problem, seed)
