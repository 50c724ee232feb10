from mobo_mpq.choices import decide, merge


def test_merge_is_transitive() -> None:
    names = ["a", "b", "c", "d", "e"]
    assert merge(names, names, []) == names
    merged = merge(names, names, [("a", "b"), ("c", "d"), ("b", "d")])
    assert len(set(merged[:4])) == 1
    assert merged[4] == "e"


def test_merge_respects_the_groups_that_are_there() -> None:
    merged = merge(["x", "x", "c"], ["a", "b", "c"], [("b", "c")])
    assert len(set(merged)) == 1


def test_a_choice_without_a_partner_is_dropped_and_so_are_those_that_depended_on_it() -> None:
    # a and b share their activation: b has no 4 bits there, so a loses (4, 4), and with it 4-bit weights
    a, b = frozenset({(4, 4), (8, 8)}), frozenset({(8, 8), (2, 8)})
    pairs, decisions = decide(("a", "b"), [a, b], {"weight": ["a", "b"], "activation": ["t", "t"]})
    assert pairs == (frozenset({(8, 8)}), frozenset({(8, 8), (2, 8)}))
    assert [(v.name, v.choices, v.layers) for v in decisions] == [
        ("a.weight", (8,), ("a",)),
        ("a.activation", (8,), ("a", "b")),
        ("b.weight", (2, 8), ("b",)),
    ]
