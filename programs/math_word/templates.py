"""Kinds of word problems by the number of operations that they take.

A template draws names and numbers, computes the answer in a :class:`~programs.math_word.working.\
Working`, and returns the question. Numbers are at least 2 where a plural follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType
from typing import Final

from programs.math_word.working import Working

Template = Callable[[Random, Working], str]

NAMES: Final = (
    *("Amara", "Ben", "Chloe", "Diego", "Elif", "Farid", "Grace", "Hugo", "Ines", "Jonas"),
    *("Keiko", "Liam", "Maya", "Noah", "Olga", "Priya", "Quinn", "Rosa", "Samir", "Tess"),
)
THINGS: Final = (
    *("marbles", "stickers", "shells", "stamps", "beads", "postcards", "coins", "badges"),
    *("buttons", "pebbles", "feathers", "keys"),
)
GOODS: Final = (
    *("pens", "notebooks", "mugs", "candles", "scarves", "lamps", "puzzles", "baskets"),
    *("cushions", "brushes", "plants", "kites"),
)
BAKED: Final = ("rolls", "muffins", "pretzels", "bagels", "tarts", "biscuits")
PLACES: Final = ("school", "library", "museum", "sports club", "theatre", "market")


def gather(rng: Random, work: Working) -> str:
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    has, more = rng.randint(12, 480), rng.randint(12, 480)
    work.plus(f"{things} now", has, more)
    return (
        f"{name} has {has} {things} and is given {more} more. How many {things} does {name} have "
        "now?"
    )


def give_away(rng: Random, work: Working) -> str:
    (name, other), things = rng.sample(NAMES, 2), rng.choice(THINGS)
    gone, left = rng.randint(12, 480), rng.randint(12, 480)
    work.minus(f"{things} left", gone + left, gone)
    return (
        f"{name} collected {gone + left} {things} and gave {gone} of them to {other}. How many "
        f"{things} are left for {name}?"
    )


def packs(rng: Random, work: Working) -> str:
    goods, place = rng.choice(GOODS), rng.choice(PLACES)
    boxes, each = rng.randint(3, 60), rng.randint(6, 48)
    work.times(f"{goods} in all", boxes, each)
    return (
        f"The {place} orders {boxes} boxes of {goods}. Each box holds {each}. How many {goods} "
        "does it get?"
    )


def share(rng: Random, work: Working) -> str:
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    children, each = rng.randint(3, 25), rng.randint(4, 60)
    work.over(f"{things} for each child", children * each, children)
    return (
        f"{name} shares {children * each} {things} equally among {children} children. How many "
        f"{things} does each child get?"
    )


def change(rng: Random, work: Working) -> str:
    name, goods = rng.choice(NAMES), rng.choice(GOODS)
    number, price, back = rng.randint(3, 15), rng.randint(3, 28), rng.randint(2, 60)
    paid = number * price + back
    cost = work.times(f"cost of the {goods} in dollars", number, price)
    work.minus("change in dollars", paid, cost)
    return (
        f"{name} buys {number} {goods} at ${price} each and pays with ${paid}. How many dollars "
        "does the shop give back?"
    )


def more_than(rng: Random, work: Working) -> str:
    (name, other), things = rng.sample(NAMES, 2), rng.choice(THINGS)
    own, more = rng.randint(15, 320), rng.randint(5, 150)
    others = work.plus(f"{things} of {other}", own, more)
    work.plus(f"{things} of both", own, others)
    return (
        f"{name} has {own} {things}. {other} has {more} more than {name}. How many {things} do "
        "they have together?"
    )


def tables(rng: Random, work: Working) -> str:
    place, seats, full_ones = rng.choice(PLACES), rng.randint(5, 12), rng.randint(4, 40)
    guests = full_ones * seats + rng.randint(1, seats - 1)
    full = work.full("tables that are full", guests, seats)
    work.plus("tables, with one for the guests who remain", full, 1)
    return (
        f"At a party of the {place} every table seats {seats} guests, and {guests} guests come. "
        "How many tables are needed so that everyone has a seat?"
    )


def weekly(rng: Random, work: Working) -> str:
    name, weeks = rng.choice(NAMES), rng.randint(3, 20)
    had, earns = rng.randint(15, 400), rng.randint(8, 90)
    earned = work.times("dollars saved in these weeks", weeks, earns)
    work.plus("dollars in all", had, earned)
    return (
        f"{name} has ${had} and puts aside ${earns} every week. How many dollars does {name} have "
        f"after {weeks} weeks?"
    )


def two_goods(rng: Random, work: Working) -> str:
    name, (first, second) = rng.choice(NAMES), rng.sample(GOODS, 2)
    a, b, p, q = rng.randint(3, 14), rng.randint(3, 14), rng.randint(3, 35), rng.randint(3, 35)
    cost = work.times(f"cost of the {first} in dollars", a, p)
    others = work.times(f"cost of the {second} in dollars", b, q)
    work.plus("cost of everything in dollars", cost, others)
    return (
        f"{name} buys {a} {first} at ${p} each and {b} {second} at ${q} each. How many dollars "
        "does everything cost?"
    )


def left_over(rng: Random, work: Working) -> str:
    baked, bag, bags = rng.choice(BAKED), rng.randint(4, 12), rng.randint(6, 50)
    total = bag * bags + rng.randint(1, bag - 1)
    full = work.full("bags that are full", total, bag)
    packed = work.times(f"{baked} in these bags", full, bag)
    work.minus(f"{baked} left over", total, packed)
    return (
        f"A bakery makes {total} {baked} and fills bags of {bag}. Only full bags are sold. How "
        f"many {baked} are left over?"
    )


def machine(rng: Random, work: Working) -> str:
    goods, rate, hours = rng.choice(GOODS), rng.randint(2, 9), rng.randint(2, 8)
    bad = rng.randint(3, 90)
    minutes = work.times("minutes that it runs", hours, 60)
    made = work.times(f"{goods} made", minutes, rate)
    work.minus(f"{goods} without a fault", made, bad)
    return (
        f"A machine makes {rate} {goods} a minute. It runs for {hours} hours, and {bad} of the "
        f"{goods} have a fault. How many {goods} without a fault are there?"
    )


def three_collectors(rng: Random, work: Working) -> str:
    (name, second, third), things = rng.sample(NAMES, 3), rng.choice(THINGS)
    own, factor = rng.randint(12, 90), rng.randint(2, 6)
    fewer = rng.randint(2, own - 2)
    seconds = work.times(f"{things} of {second}", factor, own)
    thirds = work.minus(f"{things} of {third}", own, fewer)
    work.plus(f"{things} of all three", own, seconds, thirds)
    return (
        f"{name} has {own} {things}. {second} has {factor} times as many as {name}, and {third} "
        f"has {fewer} fewer than {name}. How many {things} do the three have in all?"
    )


def average(rng: Random, work: Working) -> str:
    name, mean = rng.choice(NAMES), rng.randint(55, 85)
    first, second, third = (mean + rng.randint(-8, 8) for _ in range(3))
    total = work.times("points needed in four games", 4, mean)
    so_far = work.plus("points in three games", first, second, third)
    work.minus("points needed in the last game", total, so_far)
    return (
        f"{name} scores {first}, {second} and {third} points in three games. How many points does "
        f"{name} need in the fourth game for an average of {mean} points a game?"
    )


def two_goods_change(rng: Random, work: Working) -> str:
    name, (first, second) = rng.choice(NAMES), rng.sample(GOODS, 2)
    a, b, p, q = rng.randint(3, 14), rng.randint(3, 14), rng.randint(3, 35), rng.randint(3, 35)
    had = a * p + b * q + rng.randint(2, 120)
    cost = work.times(f"cost of the {first} in dollars", a, p)
    others = work.times(f"cost of the {second} in dollars", b, q)
    both = work.plus("cost of everything in dollars", cost, others)
    work.minus("dollars left", had, both)
    return (
        f"{name} has ${had} and buys {a} {first} at ${p} each and {b} {second} at ${q} each. How "
        f"many dollars does {name} have left?"
    )


def discount(rng: Random, work: Working) -> str:
    name, goods = rng.choice(NAMES), rng.choice(GOODS)
    number, price = rng.randint(2, 15), 20 * rng.randint(1, 8)
    percent = 5 * rng.randint(1, 12)
    total = work.times("full price in dollars", number, price)
    points = work.times(f"{percent} times the full price", percent, total)
    off = work.over(f"{percent} percent of the full price in dollars", points, 100)
    work.minus("dollars to pay", total, off)
    return (
        f"{name} buys {number} {goods} that cost ${price} each, and gets {percent}% off the whole "
        f"bill. How many dollars does {name} pay?"
    )


def fence(rng: Random, work: Working) -> str:
    place, width, factor = rng.choice(PLACES), rng.randint(6, 45), rng.randint(2, 5)
    price = rng.randint(4, 30)
    length = work.times("length in metres", factor, width)
    half = work.plus("length and width in metres", length, width)
    around = work.times("length of the fence in metres", 2, half)
    work.times("cost in dollars", around, price)
    return (
        f"The garden of the {place} is a rectangle, {width} metres wide and {factor} times as "
        f"long. A fence around it costs ${price} a metre. How many dollars does the fence cost?"
    )


def journey(rng: Random, work: Working) -> str:
    name, first, second = rng.choice(NAMES), rng.randint(40, 110), rng.randint(40, 110)
    hours, more, rest = rng.randint(2, 7), rng.randint(2, 7), rng.randint(12, 300)
    length = first * hours + second * more + rest
    start = work.times("kilometres before the break", hours, first)
    then = work.times("kilometres after the break", more, second)
    driven = work.plus("kilometres in all", start, then)
    work.minus("kilometres still to go", length, driven)
    return (
        f"{name} has a journey of {length} kilometres to make, drives {hours} hours at {first} "
        f"kilometres an hour, takes a break, and drives {more} hours at {second} kilometres an "
        "hour. How many kilometres are still to go?"
    )


def tank(rng: Random, work: Working) -> str:
    filled, leaks = rng.randint(14, 60), rng.randint(2, 12)
    minutes, start, room = rng.randint(5, 45), rng.randint(20, 400), rng.randint(15, 500)
    holds = start + (filled - leaks) * minutes + room
    rate = work.minus("litres gained a minute", filled, leaks)
    gained = work.times("litres gained", minutes, rate)
    inside = work.plus("litres in the tank then", start, gained)
    work.minus("litres that still fit in", holds, inside)
    return (
        f"A tank of {holds} litres holds {start} litres of water. A pipe brings {filled} litres a "
        f"minute, while {leaks} litres a minute leak out. How many more litres fit in after "
        f"{minutes} minutes?"
    )


TEMPLATES: Final[Mapping[int, tuple[Template, ...]]] = MappingProxyType(
    {
        1: (gather, give_away, packs, share),
        2: (change, more_than, tables, weekly),
        3: (two_goods, left_over, machine, three_collectors, average),
        4: (two_goods_change, discount, fence, journey, tank),
    }
)
"""Number of operations → templates that take as many."""
