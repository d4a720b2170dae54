"""A program that sends objects of its own classes both ways; the tests run it in every manner."""

import dataclasses
import enum
import json
import sys

import bigmachine as bm


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    colour: Colour


class TroubleError(Exception):
    def __init__(self, point, *, why):
        super().__init__(f"{point} {why}")
        self.point = point
        self.why = why

    def __reduce__(self):
        return make_trouble, (self.point, self.why)


def make_trouble(point, why):
    return TroubleError(point, why=why)


class Service:
    def __init__(self, origin):
        self.origin = origin

    def move(self, point, by):
        return dataclasses.replace(point, x=by(point.x) + self.origin.x)

    def fail(self, point):
        raise TroubleError(point, why="is out of bounds")

    def where(self):
        main = sys.modules["__main__"]
        return {
            "argv": sys.argv,
            "is_main": Service.__module__ == "__main__" and Service is vars(main).get("Service"),
            "is_driver": bm.is_driver(),
        }


def work(system=None, program="auto"):
    with bm.start(system, program=program) as cluster:
        (machine,) = cluster.start(1, services={"Service": Service(Point(100, Colour.RED))})
        step = 5
        moved = machine.call(Service.move, Point(1, Colour.RED), lambda x: x + step).result(30)
        assert moved == Point(106, Colour.RED), moved
        assert moved.colour is Colour.RED, moved
        try:
            machine.call(Service.fail, moved).result(30)
        except TroubleError as error:
            arrived = (error.point, error.why, bm.is_remote(error))
        assert arrived == (moved, "is out of bounds", True), arrived
        return {**machine.call(Service.where).result(30), "driver": bm.is_driver()}


if __name__ == "__main__":
    print(json.dumps(work()))
