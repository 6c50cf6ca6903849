from slimsweep.records.front import front


def test_no_point_of_the_front_is_beaten_in_both():
    points = [(3, 1), (1, 5), (2, 6), (2, 2), (4, 1)]  # (2, 6) is beaten by (1, 5), (4, 1) by (3, 1)
    assert front(points) == [1, 3, 0]
    assert front(points, higher_is_better=True) == [1, 2]


def test_of_equal_points_the_first_one_counts():
    assert front([(1, 2), (1, 2)]) == [0]
    assert front([]) == []
